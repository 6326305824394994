"""One process and two: the same draws, and scores that agree, by the command that users run."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from toy import RECIPE, write_folder

from svpkit import ranks
from svpkit.particles.particleset import ParticleSet


def test_alone_a_process_is_main_and_has_all_the_work():
    assert ranks.main() and ranks.size() == 1 and not ranks.many()
    assert ranks.agree({"a": 1}) == {"a": 1} and ranks.mine([1, 2, 3]) == [1, 2, 3]


# No selection: a drawn image that differs by one grey level may be chosen or not.
ASKED = (
    *("-o", "classifier.options.norm='group'"),
    *("-o", "generator.pretrain={on='train', images=320}"),
    *("-o", "balance.synthetic.gates={background_shift_sd=99}"),
    *("-o", "generator.train.looks=2", "-o", "generator.train.patience=2"),
)


def launch(folder, processes):
    """Run the toy recipe, with group norm, in a store of its own."""
    command = [sys.executable, "-m", "svpkit"]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run"]
        command = [*launcher, "--nproc_per_node", str(processes), "-m", "svpkit"]
    places = ["--store", f"store-{processes}", "--runs", f"runs-{processes}"]
    done = subprocess.run(
        [*command, "run", "toy.toml", *ASKED, *places],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    store, run = folder / f"store-{processes}", folder / f"runs-{processes}" / "toy"
    assert json.loads((run / "run.json").read_text())["processes"] == processes
    return run, [ParticleSet.open(d) for d in sorted(store.glob("synthetic-*"))], store


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    write_folder(tmp_path / "data", {"disc": 140, "ring": 55, "bar": 55})
    write_folder(tmp_path / "test", {"disc": 60, "ring": 30, "bar": 30}, seed=1)
    (tmp_path / "toy.toml").write_text(RECIPE)
    (one, drawn_one, store_one), (two, drawn_two, store_two) = (launch(tmp_path, n) for n in (1, 2))
    for a, b in zip(*(sorted(s.glob("generator-*")) for s in (store_one, store_two)), strict=True):
        rows = [json.loads((p / "history.json").read_text()) for p in (a, b)]
        kids = [[r["val"]["kid"] for r in each if "val" in r] for each in rows]
        assert kids[0] == pytest.approx(kids[1], rel=0.02)
        losses = [[r["loss"] for r in each if "loss" in r] for each in rows]
        np.testing.assert_allclose(*losses, atol=1e-4)
    for a, b in zip(drawn_one, drawn_two, strict=True):
        apart = np.abs(a.images().astype(int) - b.images())
        assert (apart <= 1).mean() >= 0.999
    tables = [pd.read_parquet(run / "predictions.parquet") for run in (one, two)]
    columns = [c for c in tables[0] if c.startswith("p_")]
    np.testing.assert_allclose(*(t[columns].to_numpy() for t in tables), atol=0.02)
    scores = [json.loads((run / "results.json").read_text())["test"] for run in (one, two)]
    for metric in ("macro_auprc", "macro_recall"):
        assert scores[0][metric]["value"] == pytest.approx(scores[1][metric]["value"], abs=0.02)
