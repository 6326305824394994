"""Killed at any point and started again, a run ends with the same bytes as one never killed."""

import json
import random
import re

import pytest
from killer import Forks
from toy import RECIPE, write_folder

from svpkit import checkpoint
from svpkit.store import damaged

KILLED = -9
# What a stage or a run took is no part of what it made.
TIMED = re.compile("second|took")
# Nor when a run was made; openings of the test set by runs that were killed are counted too, and
# digests of what holds seconds differ with them, those of artifacts too.
OF_A_RUN = {"started", "ended", "test_openings", "audit", "results", "files"}


@pytest.fixture(scope="module")
def forks():
    found = Forks()
    yield found
    found.close()


def same(folder):
    """The bytes of all files of a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def fit_left(folder):
    """Weights, history and the last checkpoint: model, EMA, the best, optimizer, progress."""
    last = sorted((folder / "out").glob("checkpoint-*"))[-1]
    ends = {n: (folder / n).read_bytes() for n in ("weights.safetensors", "history.json")}
    return last.name, same(last), ends


@pytest.fixture(scope="module")
def unbroken(forks, tmp_path_factory):
    """A small training never killed: the points that it passes, and what it leaves."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert forks.run("small_fit", folder, log="points", err="err") == 0, (
        folder / "err"
    ).read_text()
    kinds = {"model.safetensors", "ema.safetensors", "best.safetensors", "state.json"}
    left = fit_left(folder)
    assert left[0] == "checkpoint-000000005"
    assert set(left[1]) == {*kinds, "optimizer.main.safetensors"}
    return (folder / "points").read_text().splitlines(), left


# Of a training: within a step, the first and a later checkpoint half written, unsynced, on both
# sides of its rename, pruning, validation, and the very end.
NAMED = [
    "before step  #1",
    "after step  #4",
    "half save_file out/.checkpoint-000000001.tmp/model.safetensors #1",
    "half save_file out/.checkpoint-000000004.tmp/optimizer.main.safetensors #1",
    "half fsync out/.checkpoint-000000003.tmp/.state.json.tmp #1",
    "before replace out/.checkpoint-000000003.tmp/state.json #1",
    "before replace out/checkpoint-000000002 #1",
    "after replace out/checkpoint-000000002 #1",
    "after replace out/.checkpoint-000000001.old #1",
    "before rmdir out/.checkpoint-000000002.old #1",
    "before validate  #1",
    "after validate  #2",
    "before replace history.json #1",
]


def kill_and_go_on(forks, folder, point, left):
    assert forks.run("small_fit", folder, kill=point) == KILLED, point
    for whole in (folder / "out").glob("checkpoint-*"):
        checkpoint._read(whole)  # raises for one that is not whole
    assert forks.run("small_fit", folder, err="err") == 0, (folder / "err").read_text()
    said = r"(training: going on from a checkpoint at \d+ images\n)?"
    assert re.fullmatch(said, (folder / "err").read_text())
    assert fit_left(folder) == left, point
    assert not list((folder / "out").glob(".*")), point


@pytest.mark.parametrize("point", NAMED)
def test_a_training_killed_at_a_point_ends_as_one_never_killed(forks, unbroken, tmp_path, point):
    points, left = unbroken
    assert point in points
    kill_and_go_on(forks, tmp_path, point, left)


@pytest.mark.slow
def test_a_training_killed_at_every_point_ends_as_one_never_killed(forks, unbroken, tmp_path):
    points, left = unbroken
    assert len(points) > 200
    for k, point in enumerate(points):
        (tmp_path / str(k)).mkdir()
        kill_and_go_on(forks, tmp_path / str(k), point, left)


SHORT = [
    *("run", "toy.toml", "-o", "generator.train.images=64", "-o", "classifier.train.images=160"),
    *("-o", "evaluate.replicates=100", "-o", "balance.synthetic.at_most=10"),
    *("-o", "generator.sample.steps=2", "-o", "classifier.train.validations=2"),
]


def walk_left(folder):
    """What a run leaves in the store and in its folder, without the seconds that it took."""
    found = {}
    for top in [*(folder / "store").glob("*-*"), folder / "runs" / "toy"]:
        for name, content in same(top).items():
            if name.endswith(".json"):
                content = untimed(json.loads(content))
                if name == "run.json":
                    assert content.keys() >= OF_A_RUN
                    content = {k: v for k, v in content.items() if k not in OF_A_RUN}
                    made = content["artifacts"].items()
                    content["artifacts"] = {n: a | {"content": None} for n, a in made}
            if name not in ("artifact.json", "report.html", "model/README.md", "events.jsonl"):
                found[f"{top.name}/{name}"] = content
    return found


def untimed(value):
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not TIMED.search(k)}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def place(folder):
    folder.mkdir()
    write_folder(folder / "data", {"disc": 90, "ring": 50, "bar": 50})
    write_folder(folder / "test", {"disc": 20, "ring": 10, "bar": 10}, seed=1)
    (folder / "toy.toml").write_text(RECIPE)
    return folder


def sampled(points, n):
    """Points in their order: some of each kind of write, in each stage."""
    kinds = {}
    for point in points:
        kind = re.sub(r"[0-9a-f]{16}|\d+", "", point)
        kinds.setdefault(kind, []).append(point)
    rng = random.Random(0)
    chosen = {rng.choice(some) for some in kinds.values()}
    chosen = set(rng.sample(sorted(chosen), min(n, len(chosen))))
    return [p for p in points if p in chosen]


@pytest.mark.slow
def test_a_walk_killed_again_and_again_ends_as_one_never_killed(forks, tmp_path):
    whole, broken = place(tmp_path / "whole"), place(tmp_path / "broken")
    order = {"args": {"argv": SHORT}, "err": "err"}
    assert forks.run("command", whole, log="points", **order) == 0, (whole / "err").read_text()
    points = (whole / "points").read_text().splitlines()
    killed = 0
    for point in sampled(points, 60):
        code = forks.run("command", broken, kill=point, **order)
        # what is made already is not made again: then the point does not come
        assert code in (KILLED, 0), (point, (broken / "err").read_text())
        killed += code == KILLED
        for artifact in (broken / "store").glob("*-*"):
            assert damaged(artifact) == [], (point, artifact.name)
    assert forks.run("command", broken, **order) == 0, (broken / "err").read_text()
    ends, left = walk_left(whole), walk_left(broken)
    assert set(ends) == set(left)
    apart = {name: (ends[name], left[name]) for name in ends if ends[name] != left[name]}
    assert apart == {}
    assert killed > 30
    assert not list((broken / "store" / ".partial").glob("*-*[!k]"))
