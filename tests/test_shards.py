"""One suite by several processes at once: shares of its cells, each cell taken by one alone."""

import csv
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from test_bench import RECIPE
from toy import write_folder

from svpkit import bench
from svpkit.cli import cli
from svpkit.held import Held

SUITE = """
recipe = "small.toml"
seeds = [0, 1]
baseline = "none"
[arms.none]
balance.strategies = ["none"]
[arms.copies]
balance.strategies = ["synthetic"]
[arms.greedy]
data.val = { disc = 900 }
[grid]
"data.train" = [{ ring = 8, bar = 8 }, { ring = 10, bar = 10 }]
"""


def tasks(*digests):
    return [SimpleNamespace(cell=SimpleNamespace(digest=d)) for d in digests]


def test_shards_are_all_cells_and_none_twice():
    cells = tuple(SimpleNamespace(name=f"c{k}", digest=f"{k}") for k in range(11))
    suite = SimpleNamespace(cells=cells, rows={"4": {"error": "x"}, "5": {}}, path="suite.toml")
    shards = [bench.todo(suite, again=True, shard=(i, 4)) for i in (1, 2, 3, 4)]
    found = sorted(int(cell.digest) for shard in shards for cell in shard)
    assert found == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [cell.name for cell in shards[1]] == ["c1", "c9"]
    # a share that holds none of what was asked for is no mistake, as long as another does
    assert bench.todo(suite, only="c10", shard=(1, 4)) == []


@pytest.mark.parametrize("given", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(given):
    done = CliRunner().invoke(cli, ["bench", "suite.toml", "--shard", given])
    assert done.exit_code == 2 and f"{given}: I/N is wanted, as in 1/4" in done.output


def test_a_cell_is_taken_by_one_and_free_again_when_let_go(tmp_path):
    rows = {}

    def held():
        return Held(tmp_path / ".partial", lambda: rows, lambda task, row: row is None)

    first, second, third = held(), held(), held()
    a, b = tasks("a", "b")
    taking = first.take([a, b])
    assert next(taking) is a
    assert list(second.take([a, b])) == [b] and second.others == 1
    assert list(taking) == [] and first.others == 1
    # let go without a row, as by one that was killed: another may take it
    first.release(a)
    assert list(third.take([a, b])) == [a] and third.others == 1
    third.release(a)
    rows["a"] = {}
    assert list(held().take([a])) == []


@pytest.mark.slow
def test_two_at_once_run_each_cell_once_and_what_fails_is_a_row(tmp_path):
    write_folder(tmp_path / "data", {"disc": 60, "ring": 45, "bar": 45})
    write_folder(tmp_path / "test", {"disc": 20, "ring": 10, "bar": 10}, seed=1)
    (tmp_path / "small.toml").write_text(RECIPE)
    (tmp_path / "both.toml").write_text(SUITE)
    command = [sys.executable, "-m", "svpkit", "bench", "both.toml"]
    both = [
        subprocess.Popen(
            [*command, *more],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for more in ([], ["--workers", "2"])
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    names = [n for text in said for n in re.findall(r"^\[\d+/\d+\] (.+?): ", text, re.M)]
    assert len(names) == len(set(names)) == 12
    with (tmp_path / "bench" / "both" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["digest"] for row in rows}) == 12
    assert {row["arm"] for row in rows if row["error"]} == {"greedy"}
