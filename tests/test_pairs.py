"""Arms paired on the test particles of a subset: as one run has it, and never in the way."""

import json

import numpy as np
import pandas as pd
import pytest
from test_suite import write as write_suite

from svpkit import bench, ledger, pairs
from svpkit.board import board
from svpkit.evaluate.evidence import evidence
from svpkit.evaluate.metrics import class_auprc
from svpkit.measured import Places
from svpkit.plugins import discover
from svpkit.report.numbers import bounds
from svpkit.report.trial import board_tables, render

ARMS = {"none": '["none"]', "drawn": '["synthetic"]', "weighted": '["class_weights"]'}
CLASSES = ("protein", "silicone_oil")
NOISE = {"none": 1.2, "drawn": 0.9, "weighted": 1.1}


def text(seeds, arms=tuple(ARMS), more=""):
    tables = "".join(f"[arms.{arm}]\nbalance.strategies = {ARMS[arm]}\n" for arm in arms)
    head = f'recipe = "base.toml"\nbaseline = "none"\nseeds = {list(seeds)}\n{more}'
    return f"{head}set = {{ evaluate.replicates = 200 }}\n{tables}"


def scored(cell, part="test"):
    """Predictions of a cell: arms of one seed see the same particles."""
    rng = np.random.default_rng([cell.seed, part == "val"])
    labels = np.repeat([0, 1], (300, 60))
    shared = rng.normal(size=labels.size) + 1.5 * labels
    own = np.random.default_rng([cell.seed, len(cell.arm)]).normal(size=labels.size)
    p = (1 / (1 + np.exp(-(shared + NOISE[cell.arm] * own)))).astype(np.float32)
    names = np.array(CLASSES)[labels]
    columns = {"id": [f"{cell.seed}-{i}" for i in range(labels.size)], "label": names, "group": ""}
    return pd.DataFrame({**columns, "ecd_um": 3.0, "p_protein": 1 - p, "p_silicone_oil": p})


def row(found, cell, **more):
    frame = scored(cell)
    labels = (frame["label"] == "silicone_oil").to_numpy(int)
    value = class_auprc(labels, frame[["p_protein", "p_silicone_oil"]].to_numpy()).mean()
    figures = {"test.macro_auprc": float(value), "val.macro_auprc": float(value)}
    return found.task(cell, opens=True).row() | figures | more


def made(folder, asked, *, order=1):
    """A suite whose cells have rows and predictions."""
    folder.mkdir(exist_ok=True)
    path = write_suite(folder, asked)
    places = Places(folder / "runs", folder / "store", folder / "out")
    found = bench.open_bench(path, discover(builtin_only=True), places)
    for cell in found.cells[::order]:
        found.put(row(found, cell))
        run = places.runs / cell.name
        run.mkdir(parents=True)
        scored(cell).to_parquet(run / "predictions.parquet")
    return found


def columns(found):
    """The differences of every cell that has one, as the file spells them."""
    rows = {(c.arm, c.seed): found.rows[c.digest] for c in found.cells}
    keys = ("test.minus", "test.minus.low", "test.minus.high")
    return {at: tuple(r[k] for k in keys) for at, r in rows.items() if keys[0] in r}


def test_differences_are_those_of_one_run_with_both_arms(tmp_path):
    found = made(tmp_path, text([0, 1]))
    assert pairs.add(found) == 4
    said = columns(found)
    assert set(said) == {(arm, seed) for arm in ("drawn", "weighted") for seed in (0, 1)}
    cells = {(c.arm, c.seed): c for c in found.cells}
    for (arm, seed), values in said.items():
        folders = [tmp_path / f"{name}-{seed}" for name in (arm, "none")]
        for name, folder in zip((arm, "none"), folders, strict=True):
            folder.mkdir(exist_ok=True)
            for part in ("test", "val"):
                scored(cells[name, seed], part).to_parquet(folder / f"{part}.parquet")
        params = {"arms": [arm, "none"], "prevalence": None, "replicates": 200}
        evidence(tmp_path, params, *folders)
        (one,) = json.loads((tmp_path / "evidence.json").read_text())["differences"]
        expected = [one["macro_auprc"][key] for key in ("value", "low", "high")]
        assert values == tuple(map(ledger.spelt, expected))
    assert float(said["drawn", 0][1]) < float(said["drawn", 0][0]) < float(said["drawn", 0][2])


def test_the_order_of_arms_seeds_and_rows_does_not_matter(tmp_path):
    one = made(tmp_path / "one", text([0, 1]))
    other = made(tmp_path / "other", text([1, 0], tuple(ARMS)[::-1]), order=-1)
    assert pairs.add(one) == pairs.add(other) == 4
    assert columns(one) == columns(other)
    fewer = made(tmp_path / "fewer", text([1], ("none", "drawn")))
    assert pairs.add(fewer) == 1 and columns(fewer)["drawn", 1] == columns(one)["drawn", 1]


def test_what_is_there_stays_and_what_is_not_at_hand_is_no_error(tmp_path):
    found = made(tmp_path, text([0]))
    cells = {c.arm: c for c in found.cells}
    lost = found.places.runs / cells["weighted"].name / "predictions.parquet"
    lost.unlink()
    bench.run(found)
    before = found.results.read_bytes()
    assert set(columns(found)) == {("drawn", 0)}
    kept = found.places.runs / cells["drawn"].name / "predictions.parquet"
    hidden = kept.rename(tmp_path / "hidden")
    assert pairs.add(found) == 0 and found.results.read_bytes() == before
    # a row made again has lost its columns, a baseline made again has made them untrue
    found.put(row(found, cells["drawn"]))
    assert pairs.add(found) == 0 and not columns(found)
    hidden.rename(kept)
    assert pairs.add(found) == 1 and found.results.read_bytes() == before
    found.put(row(found, cells["none"], **{"test.macro_auprc": 0.5}))
    assert pairs.add(found) == 0 and not columns(found)


@pytest.mark.parametrize("column", ["id", "p_protein", "group"])
def test_arms_that_saw_other_particles_are_not_paired(tmp_path, column):
    found = made(tmp_path, text([0], ("none", "drawn")))
    path = found.places.runs / found.cells[1].name / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame = frame.assign(id="x") if column == "id" else frame.drop(columns=column)
    frame.to_parquet(path)
    (found.places.runs / found.cells[0].name / "predictions.parquet").write_bytes(
        path.read_bytes() if column == "group" else b"not a table"
    )
    assert pairs.add(found) == 0 and not columns(found)


def test_of_a_grid_search_only_opened_winners_are_paired(tmp_path):
    more = 'select = "val.macro_auprc"\nper = ["arm"]\n'
    grid = '[grid]\n"classifier.train.lr" = [1e-3, 1e-4]\n'
    found = made(tmp_path, text([0], ("none", "drawn"), more) + grid)
    won = [found.cells[0], found.cells[3]]
    for cell in found.cells:
        shut = {k: v for k, v in row(found, cell).items() if not k.startswith("test.")}
        found.put(row(found, cell) if cell in won else shut)
    assert pairs.add(found) == 1
    assert "test.minus" in found.rows[won[1].digest] and len(columns(found)) == 1
    assert board(found).settings[0].lone("drawn")


def test_one_subset_has_the_interval_of_its_particles_in_the_report(tmp_path):
    found = made(tmp_path, text([0]))
    assert "over test particles" not in render(board(found))
    pairs.add(found)
    said = board(found)
    page, one = render(said), said.settings[0].lone("drawn")
    assert one and page.count("over test particles, one real subset") == 3
    assert "Secondary" not in page
    title = board_tables(said)[0].caption
    assert bounds(one) in page and "over test particles, one real subset" in str(title)


def test_several_subsets_have_theirs_below_as_secondary(tmp_path):
    found = made(tmp_path, text([0, 1, 2]))
    pairs.add(found)
    said = board(found)
    page = render(said)
    assert page.count("Secondary: minus baseline within each real subset") == 1
    assert "one real subset" not in page.split("</header>")[0]
    table = page[page.index('<table class="within">') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 3 and table.count('<span class="ci">') == 6
    assert [f"seed {seed}" in table for seed in (0, 1, 2)] == [True] * 3
    assert page.index("minus baseline</th>") < page.index("Secondary")
