"""One suite by several processes at once: shares of its cells, each cell taken by one alone."""

import csv
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from test_bench import RECIPE
from test_verify import RECIPE as MINI
from toy import write_folder

from svpkit import bench, events
from svpkit.cli import cli
from svpkit.held import Held
from svpkit.verify import OK, verify

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


@pytest.fixture
def started(tmp_path):
    """Start a run of `mini.toml` as a process of its own; its stderr goes to a file."""
    write_folder(tmp_path / "data", {"disc": 40, "ring": 30})
    write_folder(tmp_path / "test", {"disc": 30, "ring": 20}, seed=1)
    (tmp_path / "mini.toml").write_text(MINI.split("[[baselines]]")[0])
    begun = []

    def start(*more):
        err = tmp_path / f"err-{len(begun)}"
        with err.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "svpkit", "run", "mini.toml", *more],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        begun.append(process)
        return process, err

    yield start
    for process in begun:
        process.kill()
        process.wait()


def until(true, process):
    while not true():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [True, False])
def test_runs_of_one_name_take_turns_and_a_dead_one_is_not_waited_for(tmp_path, started, dies):
    run = tmp_path / "runs" / "mini"
    first, _ = started()
    until((run / events.LOG).is_file, first)
    # stopped, so that it is not over before the other waits
    first.send_signal(signal.SIGSTOP)
    second, err = started("-o", "seed=1")
    until(err.read_text, second)
    told = f"process {first.pid} on {platform.node()} holds runs/mini"
    assert err.read_text() == f"waiting for another run of this name: {told}\n"
    first.send_signal(signal.SIGKILL if dies else signal.SIGCONT)
    assert [first.wait(), second.wait()] == [-9 if dies else 0, 0]
    said = [each["event"] for each in events.read(run / events.LOG)]
    ends = [each for each in said if each in (events.RUN_STARTED, events.RUN_ENDED)]
    one = [events.RUN_STARTED, events.RUN_ENDED]
    assert ends == [*one[: 1 if dies else 2], *one]
    assert json.loads((run / "results.json").read_text())["seed"] == 1
    assert {check.state for check in verify(run, tmp_path / "store")} == {OK}
    assert not list(run.parent.glob(".partial/*.holder"))
