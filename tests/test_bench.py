"""Suites at work: rows that grow, cells that fail or die, winners opened once, the leaderboard."""

import csv
import json
import multiprocessing
import re

import dying
import numpy as np
import pytest
from scipy import stats
from test_suite import write as write_suite
from toy import write_folder

from svpkit import bench, ledger, suite
from svpkit.board import board
from svpkit.cli import cli
from svpkit.errors import SvpkitError
from svpkit.measured import Places
from svpkit.plugins import discover
from svpkit.report.trial import board_tables, render, write_board

RECIPE = """
name = "small"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 30, ring = 30, bar = 30 }
test = { reader = "folder", path = "test" }
[generator]
plugin = "copy"
classes = ["ring", "bar"]
train = { looks = 0 }
[classifier]
options = { model = "resnet10t", width = 16, stem = "half" }
train = { images = 256, batch = 32, lr = 2e-3, validations = 1 }
[evaluate]
replicates = 100
prevalence = { disc = 100, ring = 1, bar = 1 }
[[baselines]]
name = "other"
"""
DIES = """
import os
from svpkit import hookimpl

class Dies:
    def sampler(self, labels):
        os._exit(7)

@hookimpl
def register_strategies(register):
    register("dies", lambda: Dies())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_folder(folder / "data", {"disc": 60, "ring": 45, "bar": 45})
    write_folder(folder / "test", {"disc": 20, "ring": 10, "bar": 10}, seed=1)
    (folder / "small.toml").write_text(RECIPE)
    (folder / "dies.py").write_text(DIES)
    return folder


@pytest.fixture
def call(place, monkeypatch):
    """Run `svpkit bench` in the place; returns what it printed."""
    from click.testing import CliRunner

    def run(*args, plugins=()):
        monkeypatch.chdir(place)
        before = [part for each in plugins for part in ("--plugin", each)]
        done = CliRunner().invoke(cli, [*before, "bench", *map(str, args)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


TRIAL = """
recipe = "small.toml"
baseline = "none"
[arms.none]
balance.strategies = ["none"]
[arms.copies]
balance.strategies = ["synthetic"]
[arms.greedy]
data.val = { disc = 900 }
[grid]
"data.train" = [{ ring = 8, bar = 8 }]
"""


def test_a_suite_grows_its_results_cell_by_cell_and_goes_on(place, call):
    (place / "trial.toml").write_text(TRIAL)
    planned = call("trial.toml", "--plan")
    assert "3 cells to run" in planned and "3 x classifier" in planned
    assert not (place / "bench").exists()
    call("trial.toml", "--only", "none")
    path = place / "bench" / "trial" / "results.csv"
    assert [row["arm"] for row in rows(path)] == ["none"]
    out = call("trial.toml")
    assert "2/2" in out and "failed: " in out and "SIMULATED" not in out
    none, copies, greedy = rows(path)
    assert greedy["arm"] == "greedy" and "data.val.disc" in greedy["error"]
    assert greedy["test.macro_auprc"] == "" and copies["error"] == ""
    name = next(p for p in (place / "runs").glob("trial-copies*"))
    results = json.loads((name / "results.json").read_text())
    found = results["test"]["macro_auprc"]
    for key, end in (("", "value"), (".low", "low"), (".high", "high")):
        assert float(copies[f"test.macro_auprc{key}"]) == pytest.approx(found[end], rel=1e-5)
    ring = results["val"]["per_class"]["ring"]["auprc"]["value"]
    assert float(copies["val.auprc.ring"]) == pytest.approx(ring, rel=1e-5)
    assert float(copies["fidelity.copy_rate.ring"]) > 0 and none["fidelity.copy_rate.ring"] == ""
    assert none["data.train"] == "8" and none["images_seen"] == "256"
    assert float(none["peak_rss_mb"]) > 50 and float(copies["seconds"]) > 0
    assert "test.at_prevalence.macro_auprc" in none and len(none["digest"]) == 16
    minus = float(copies["test.macro_auprc"]) - float(none["test.macro_auprc"])
    assert float(copies["test.minus"]) == pytest.approx(minus, abs=1e-5)
    assert float(copies["test.minus.low"]) <= minus <= float(copies["test.minus.high"])
    assert none["test.minus"] == "" and "1 differences to none paired" in out
    assert "greedy" in (place / "bench" / "trial" / "report.html").read_text()


def test_what_is_there_is_not_run_again_and_what_failed_only_when_asked(place, call):
    path = place / "bench" / "trial" / "results.csv"
    before = path.read_bytes()
    assert "/" not in re.findall(r"^\[.*\]", call("trial.toml"), re.MULTILINE)
    assert path.read_bytes() == before
    assert "[1/1] trial-greedy" in call("trial.toml", "--again")
    assert len(rows(path)) == 3
    with pytest.raises(SvpkitError, match="--only x9: no cell's name holds it"):
        call("trial.toml", "--only", "x9")


def test_differences_are_taken_from_the_store_where_runs_are_gone(place, call):
    path = place / "bench" / "trial" / "results.csv"
    copies = rows(path)[1]
    bare = {k: v for k, v in copies.items() if v and not k.startswith("test.minus")}
    ledger.put(path, bare, place / "lock")
    call("trial.toml", "--runs", "none-here", "--store", "none-here")
    assert "test.minus" not in rows(path)[1]
    call("trial.toml", "--runs", "none-here")
    assert rows(path)[1] == copies


def test_a_process_that_dies_is_a_row_and_takes_no_other_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("svpkit.spawned._in_process", dying.process)
    path = write_suite(tmp_path, TRIAL_OF_FOUR.replace("[0, 1, 2, 3]", "[0]"))
    places = Places(tmp_path / "runs", tmp_path / "store", tmp_path / "out")
    found = bench.open_bench(path, discover(builtin_only=True), places)
    said = []
    bench.run(found, workers=2, only="200", say=said.append)
    kept = {row["arm"]: row for row in found.rows.values()}
    assert kept["none"]["test.macro_auprc"] == "0.5" and "error" not in kept["none"]
    for arm in ("drawn", "oracle"):
        assert kept[arm]["error"] == "the process died (exit code 7)"
    assert len(said) == 3 and sum("failed: " in line for line in said) == 2


@pytest.mark.slow
def test_cells_run_side_by_side_and_a_dead_one_is_a_row(place, call):
    (place / "trial.toml").write_text(TRIAL)
    # `none` is in the store by now, so that its process has little to do
    text = TRIAL.replace("[arms.copies]", "[arms.dead]").replace('"synthetic"', '"dies"')
    (place / "dead.toml").write_text(text.split("[arms.greedy]")[0] + text[text.index("[grid]") :])
    call("dead.toml", "--workers", 2, plugins=["dies.py"])
    found = {row["arm"]: row for row in rows(place / "bench" / "dead" / "results.csv")}
    assert found["dead"]["error"] == "the process died (exit code 7)"
    assert found["none"]["error"] == "" and float(found["none"]["test.macro_auprc"]) > 0


SEARCH = """
recipe = "small.toml"
select = "val.macro_auprc"
set = { classifier.train.batch = 16 }
[grid]
classifier.train.lr = [1e-6, 3e-3, 1e-5]
"""


def test_a_grid_search_opens_its_winner_on_test_and_no_other(place, call):
    (place / "search.toml").write_text(SEARCH)
    args = ("search.toml", "--store", "other", "--runs", "searched")
    call(*args, "--only", "0.003")
    (row,) = rows(place / "bench" / "search" / "results.csv")
    assert "test.macro_auprc" not in row and float(row["val.macro_auprc"]) > 0
    assert not list((place / "other").glob("score-*"))
    out = call(*args)
    found = rows(place / "bench" / "search" / "results.csv")
    best = max(found, key=lambda row: float(row["val.macro_auprc"]))
    assert len(list((place / "other").glob("score-*"))) == 1
    for row in found:
        won = row["digest"] == best["digest"]
        assert (row["test.macro_auprc"] != "") == won
        assert row["configurations"] == ("3" if won else "")
        assert row["images_seen"] == "256"
    (run,) = (place / "searched").glob("*/results.json")
    val = json.loads(run.read_text())["val"]["macro_auprc"]
    assert float(best["val.macro_auprc"]) == pytest.approx(val["value"], rel=1e-5)
    assert "report: " in out
    page = (place / "bench" / "search" / "report.html").read_text()
    assert "Winners of the grid search" in page and "classifier.train.lr = 0.003" in page


def made_up(folder, text, scores):
    """A suite whose rows are made up: scores(cell) -> (val, test) or None."""
    path = write_suite(folder, text)
    places = Places(folder / "runs", folder / "store", folder / "out")
    found = bench.open_bench(path, discover(builtin_only=True), places)
    for cell in found.cells:
        said = scores(cell)
        row = found.task(cell, opens=True).row("" if said else "it broke")
        if said:
            row |= {"val.macro_auprc": said[0], "test.macro_auprc": said[1]}
            row |= {"images_seen": 5000, "seconds": 12.5, "peak_rss_mb": 300}
        found.put(row)
    return found


TRIAL_OF_FOUR = """
recipe = "base.toml"
seeds = [0, 1, 2, 3]
baseline = "none"
oracle = "oracle"
[arms.none]
balance.strategies = ["none"]
[arms.drawn]
balance.strategies = ["synthetic"]
[arms.oracle]
balance.strategies = ["synthetic"]
generator.plugin = "simulated"
[grid]
"data.train" = [{ silicone_oil = 200 }, { silicone_oil = 50 }]
"""
GAIN = {"none": 0.0, "drawn": 0.04, "oracle": 0.08}


def simulated_scores(cell):
    rng = np.random.default_rng([cell.seed, len(cell.arm)])
    test = 0.7 + 0.05 * cell.seed + GAIN[cell.arm] * 50 / int(cell.value("data.train"))
    return test - 0.01, test + rng.normal(0, 0.002)


def test_the_leaderboard_is_paired_by_subset(tmp_path):
    found = made_up(tmp_path, TRIAL_OF_FOUR, simulated_scores)
    said = board(found)
    assert [s.title for s in said.settings] == ["data.train 50", "data.train 200"]
    few = said.settings[0].said
    cells = {(c.arm, c.seed): simulated_scores(c)[1] for c in found.cells if "50" in c.at.values()}
    a, b = (np.array([cells[arm, seed] for seed in range(4)]) for arm in ("drawn", "none"))
    assert few["arms"]["drawn"]["minus"]["p"] == pytest.approx(
        stats.ttest_rel(a, b).pvalue, rel=1e-2
    )
    assert few["picked"] == "drawn" and few["arms"]["drawn"]["share"]["value"] == pytest.approx(
        0.5, abs=0.05
    )
    assert said.overall and said.ranks["oracle"]["value"] == 1 and said.ranks["none"]["n"] == 8
    assert not said.uneven and "Not on equal terms" not in render(said)
    assert said.costs["drawn"]["seconds"] == 12.5 and said.simulated and said.done == 24
    page = write_board(tmp_path / "report.html", said).read_text()
    assert page.count("data:image/svg+xml") == 2 and "SIMULATED" in page
    assert "of the gap to the oracle" in page and "http" not in page.replace("http-equiv", "")
    assert len(board_tables(said)) == 3
    assert render(said) == page


def test_a_board_tells_of_what_is_missing(tmp_path):
    def scores(cell):
        return None if cell.arm == "drawn" and cell.seed else simulated_scores(cell)

    found = made_up(tmp_path, TRIAL_OF_FOUR, scores)
    extra = {"digest": "0123456789abcdef", "arm": "old", "suite": "trial", "seed": 0, "error": ""}
    found.put(extra)
    said = board(found)
    assert len(said.failed) == 6 and said.others == 1
    assert said.settings[0].said["picked"] == "none"
    assert said.settings[0].said["arms"]["drawn"]["minus"]["p"] is None
    assert "it broke" in render(said) and board_tables(said)


def test_a_board_of_nothing_yet_is_a_page(tmp_path):
    path = write_suite(tmp_path, TRIAL_OF_FOUR)
    places = Places(tmp_path, tmp_path, tmp_path / "out")
    said = board(bench.open_bench(path, discover(builtin_only=True), places))
    assert "0 of 24 cells done" in render(said) and board_tables(said) == []


def test_winners_are_the_best_mean_over_seeds_within_what_per_names(tmp_path):
    text = TRIAL_OF_FOUR.replace('oracle = "oracle"', 'select = "val.macro_auprc"\nper = ["arm"]')
    path = write_suite(tmp_path, text)
    asked = suite.load(path)
    every = suite.cells(asked, path)

    def row(cell):
        bad = cell.arm == "none" and cell.value("data.train") == "200" and cell.seed == 3
        value = {} if bad else {"val.macro_auprc": f"{0.9 if '200' in cell.at.values() else 0.5}"}
        return {"digest": cell.digest, **value}

    all_rows = {cell.digest: row(cell) for cell in every}
    won = bench.winners(asked, every, all_rows)
    picked = {(c.arm, c.value("data.train")) for c in every if c.digest in won}
    assert picked == {("none", "50"), ("drawn", "200"), ("oracle", "200")}
    assert len(won) == 12 and set(won.values()) == {2}
    left = next(c for c in every if c.arm == "drawn")
    missing = {d: r for d, r in all_rows.items() if d != left.digest}
    won = bench.winners(asked, every, missing)
    assert {c.arm for c in every if c.digest in won} == {"none", "oracle"}


def _put_rows(barrier, place, name):
    places = Places(place / name, place / f"store-{name}", place / "out")
    written = bench.Bench(None, place / f"{name}.toml", (), places, None)
    barrier.wait()
    for i in range(60):
        written.put({"suite": name, "arm": "a", "seed": i, "digest": f"{name}-{i}", "error": ""})


def test_two_suites_with_one_out_lose_no_row_of_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    both = [
        context.Process(target=_put_rows, args=(barrier, tmp_path, name)) for name in ("one", "two")
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    found = ledger.read(tmp_path / "out" / "results.csv")
    assert set(found) == {f"{name}-{i}" for name in ("one", "two") for i in range(60)}


def test_results_are_replaced_by_digest_and_read_back(tmp_path):
    path, lock = tmp_path / "out" / "results.csv", tmp_path / "lock"
    first = {"suite": "s", "arm": "a", "n": 1, "seed": 0, "digest": "x", "error": "broke, twice"}
    ledger.put(path, first, lock)
    more = {"val.b": 0.123456789, "test.a": 0.5, "val.c": float("nan")}
    ledger.put(path, {**first, "digest": "y", "error": "", **more}, lock)
    ledger.put(path, {**first, "error": ""}, lock)
    found = ledger.read(path)
    assert list(found) == ["x", "y"] and "error" not in found["x"]
    assert found["y"]["val.b"] == "0.123457" and "val.c" not in found["y"]
    head = path.read_text().splitlines()[0].split(",")
    assert head[:5] == ["suite", "arm", "n", "seed", "test.a"] and head[-1] == "error"
    assert np.isnan(ledger.number(found["x"], "val.b"))
    path.write_text("no,results\n1,2\n")
    with pytest.raises(SvpkitError, match="no results of a suite here"):
        ledger.read(path)
