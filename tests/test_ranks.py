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


ASKED = (
    *("-o", "classifier.options.norm='group'"),
    *("-o", "generator.pretrain={on='train', images=320}"),
    *("-o", "balance.synthetic.gates={background_shift_sd=99}"),
    *("-o", "generator.select={by='density', keep=0.5}"),
    *("-o", "generator.train.looks=2", "-o", "generator.train.patience=2"),
)


def walk(folder, processes):
    """Run the toy recipe, with group norm, in a store of its own."""
    places = ["--store", f"store-{processes}", "--runs", f"runs-{processes}"]
    command = [sys.executable, "-m", "svpkit", "run", "toy.toml", *ASKED, *places]
    done = subprocess.run(
        [*command, "--processes", str(processes)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    store, run = folder / f"store-{processes}", folder / f"runs-{processes}" / "toy"
    assert json.loads((run / "run.json").read_text())["processes"] == processes
    return run, store


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The toy recipe by one process and by two: run folders and stores."""
    folder = tmp_path_factory.mktemp("ranks")
    write_folder(folder / "data", {"disc": 140, "ring": 55, "bar": 55})
    write_folder(folder / "test", {"disc": 60, "ring": 30, "bar": 30}, seed=1)
    (folder / "toy.toml").write_text(RECIPE)
    return [walk(folder, n) for n in (1, 2)]


def beside(both, pattern):
    """The same artifacts of both stores."""
    one, two = (sorted(store.glob(pattern)) for _, store in both)
    assert [p.name for p in one] == [p.name for p in two] and one
    return zip(one, two, strict=True)


def read(paths, name):
    return [json.loads((path / name).read_text()) for path in paths]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(both):
    pairs = [p for kind in ("pretrain", "generator") for p in beside(both, f"{kind}-*")]
    for pair in pairs + [p for p in beside(both, "classifier-*")]:
        rows = read(pair, "history.json")
        losses = [[r["loss"] for r in each if "loss" in r] for each in rows]
        np.testing.assert_allclose(*losses, atol=1e-4)
        kids = [[r["val"]["kid"] for r in each if "kid" in r.get("val", {})] for each in rows]
        assert kids[0] == pytest.approx(kids[1], abs=1e-3)
    # what is measured by is the same to the bit
    for pair in beside(both, "extractor-*"):
        assert len({d["digest"] for d in read(pair, "extractor.json")}) == 1


@pytest.mark.slow
def test_two_processes_draw_and_choose_what_one_does(both):
    for kind in ("synthetic", "selected"):
        for pair in beside(both, f"{kind}-*"):
            a, b = (ParticleSet.open(folder) for folder in pair)
            numbers = [[json.loads(x)["i"] for x in s.table["lineage"]] for s in (a, b)]
            assert numbers[0] == numbers[1]
            # weights that differ by rounding may put a pixel on the other side of a half
            apart = np.abs(a.images().astype(int) - b.images())
            assert apart.max() <= 1 and (apart == 0).mean() >= 0.999


@pytest.mark.slow
def test_two_processes_score_what_one_does(both):
    runs = [run for run, _ in both]
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    columns = [c for c in tables[0] if c.startswith("p_")]
    np.testing.assert_allclose(*(t[columns].to_numpy() for t in tables), atol=1e-4)
    scores = read(runs, "results.json")
    for metric in ("macro_auprc", "macro_recall", "macro_precision", "macro_f1"):
        one, two = (found["test"][metric]["value"] for found in scores)
        assert one == pytest.approx(two, abs=1e-4)
    for name, row in scores[0]["fidelity"].items():
        other = scores[1]["fidelity"][name]
        assert row["kid_gap"]["value"] == pytest.approx(other["kid_gap"]["value"], abs=1e-3)
        assert row["copy_rate"] == other["copy_rate"] and row["verdict"] == other["verdict"]
