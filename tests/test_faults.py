"""Real faults: signals, flipped bits, full disks, runs that meet, broken numbers, no memory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killer import Forks
from test_fit import IMAGES, LABELS, loss, network, plan, task, train, weights
from toy import write_folder

from svpkit import checkpoint, devices, draws
from svpkit.errors import SvpkitError
from svpkit.fit import Task, fit
from svpkit.refusals import refused
from svpkit.signals import SAME
from svpkit.store import Store, damaged, stage


@pytest.fixture(scope="module")
def forks():
    found = Forks()
    yield found
    found.close()


def wait_for(condition, seconds=60):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.01)


def said_in(path):
    return path.read_text() if path.exists() else ""


# Signals.


def checkpoints(folder):
    return sorted((folder / "out").glob("checkpoint-*"))


@pytest.fixture(scope="module")
def unbroken(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert forks.run("small_fit", folder) == 0
    return folder


SMALL = """
name = "small"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 40, ring = 35, bar = 35 }
test = { reader = "folder", path = "test" }
[classifier]
options = { model = "resnet10t", width = 16, stem = "half" }
train = { images = 160, batch = 16, lr = 1e-3, validations = 1 }
[evaluate]
replicates = 100
"""
RUN = ["run", "small.toml"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder / "data", {"disc": 60, "ring": 50, "bar": 50})
    write_folder(folder / "test", {"disc": 10, "ring": 10, "bar": 10}, seed=1)
    return folder


@pytest.fixture
def toy(data, tmp_path):
    for name in ("data", "test"):
        (tmp_path / name).symlink_to(data / name)
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


def complaints(folder):
    return [line for line in (folder / "err").read_text().splitlines() if line]


def told(forks, folder, number, steps):
    """Begin a run, tell it to end once it is so many steps on; returns its exit code."""
    args = {"argv": [*RUN, "-o", "classifier.train.images=3200"]}
    pid = forks.start("command", folder, args=args, err="err")
    reached = f".partial/classifier-*/checkpoint-{steps:09d}"
    wait_for(lambda: list((folder / "store").glob(reached)))
    os.kill(pid, number)
    return forks.wait(pid)


@pytest.mark.slow
def test_a_signal_ends_a_run_with_a_checkpoint_at_the_very_step(forks, toy):
    # 200 steps, a checkpoint every twentieth
    for number, code, steps in ((signal.SIGTERM, 143, 20), (signal.SIGINT, 130, 60)):
        assert told(forks, toy, number, steps) == code, (toy / "err").read_text()
        *_, heard, last = complaints(toy)
        assert last == "svpkit: interrupted; the same command goes on from where it was"
        assert "a checkpoint is written first" in heard
        *_, kept = sorted((toy / "store").glob(".partial/classifier-*/checkpoint-*"))
        _, extra = checkpoint._read(kept)
        assert steps <= extra["step"] < 200 and kept.name.endswith(str(extra["step"]))
        assert all(damaged(p) == [] for p in (toy / "store").glob("*-*"))
    args = {"argv": [*RUN, "-o", "classifier.train.images=3200"]}
    assert forks.run("command", toy, args=args, err="err") == 0, complaints(toy)
    assert forks.run("command", toy, args={"argv": [*args["argv"], "--store", "other"]}) == 0
    one, two = (next(toy.glob(f"{s}/classifier-*/model.safetensors")) for s in ("store", "other"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_told_to_end_goes_on_to_the_same_bytes(forks, unbroken, tmp_path, number):
    order = {"args": {"seconds": 0.2}, "err": "err"}
    pid = forks.start("small_fit", tmp_path, **order)
    wait_for(lambda: len(checkpoints(tmp_path)) == 2)
    os.kill(pid, number)
    assert forks.wait(pid) == 1  # no command line here that makes an exit code of it
    said = (tmp_path / "err").read_text()
    assert "a checkpoint is written first" in said and re.search("KeyboardInterrupt|SIGTERM", said)
    assert len(checkpoints(tmp_path)) == 2
    assert forks.run("small_fit", tmp_path) == 0
    for name in ("weights.safetensors", "history.json"):
        assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes()


def test_a_second_signal_ends_at_once(forks, tmp_path):
    pid = forks.start("small_fit", tmp_path, args={"seconds": 60}, err="err")
    wait_for(lambda: (tmp_path / "out").parent.exists() and asleep(pid))
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: "told again" in (tmp_path / "err").read_text())
    os.kill(pid, signal.SIGTERM)  # the same one, from a scheduler
    time.sleep(2 * SAME)
    assert asleep(pid)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == 1 and time.monotonic() - started < 50
    assert checkpoints(tmp_path) == []


def asleep(pid):
    # in the step that takes a minute
    return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()


def test_a_stage_told_to_end_leaves_the_store_usable(forks, tmp_path):
    pid = forks.start("slow_stage", tmp_path)
    wait_for((tmp_path / "begun").exists)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == -signal.SIGTERM
    (tmp_path / "go").touch()
    assert forks.run("slow_stage", tmp_path, said="said") == 0
    assert (tmp_path / "said").read_text().endswith("whole\n")


# Flipped bits.


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def some_checkpoints(folder, capsys):
    tensors = {"model": {"w": torch.arange(3.0)}, "optimizer.main": {"0.step": torch.ones(1)}}
    for step in (3, 4):
        checkpoint.save(folder, step, tensors, {"step": step})
    capsys.readouterr()
    return folder / "checkpoint-000000004"


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path, capsys):
    newest = some_checkpoints(tmp_path, capsys)
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 7 if path.suffix == ".json" else 37):
            flip(path, bit)
            found = checkpoint.load(tmp_path)
            assert found is not None and found[1] == {"step": 3}, (path.name, bit)
            path.write_bytes(whole)
        said = set(capsys.readouterr().err.splitlines())
        line = "checkpoint-000000004 is damaged, going on from checkpoint-000000003"
        assert said == {line}
    assert checkpoint.load(tmp_path)[1] == {"step": 4} and capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["empty", "shorter", "gone"])
def test_a_file_of_a_checkpoint_that_is_lost_is_found(tmp_path, capsys, how):
    newest = some_checkpoints(tmp_path, capsys)
    path = newest / "model.safetensors"
    content = {"empty": b"", "shorter": path.read_bytes()[:-1]}
    path.unlink() if how == "gone" else path.write_bytes(content[how])
    assert checkpoint.load(tmp_path)[1] == {"step": 3}
    flip(tmp_path / "checkpoint-000000003" / "state.json", 0)
    capsys.readouterr()
    assert checkpoint.load(tmp_path) is None
    names = "checkpoint-000000004 and checkpoint-000000003"
    assert capsys.readouterr().err == f"{names} are damaged, starting again\n"


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path, capsys):
    newest = some_checkpoints(tmp_path, capsys)
    said = json.loads((newest / "state.json").read_text()) | {"format": 2}
    said["digest"] = checkpoint._digest(said)
    (newest / "state.json").write_text(json.dumps(said))
    with pytest.raises(SvpkitError, match=r"000000004: written by a newer svpkit \(format 2"):
        checkpoint.load(tmp_path)


def test_a_training_goes_on_from_before_a_damaged_checkpoint(tmp_path, capsys):
    asked = plan(images=400)
    whole, _ = train(tmp_path / "a", asked)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", asked, task(loss=stopping(12)))
    flip(tmp_path / "b" / "checkpoint-000000010" / "model.safetensors", 8000)
    again, _ = train(tmp_path / "b", asked)
    assert torch.equal(weights(whole), weights(again))
    assert "000000010 is damaged, going on from checkpoint-000000008" in capsys.readouterr().err


def stopping(step):
    calls = []

    def stops(*args, **more):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return loss(*args, **more)

    return stops


@stage(revision=1)
def numbers(out, params):
    checkpoint.save_tensors(out / "numbers.safetensors", {"x": torch.arange(64.0)})


@stage(revision=1)
def total(out, params, found):
    from safetensors.torch import load_file

    (out / "total.txt").write_text(str(load_file(found / "numbers.safetensors")["x"].sum()))


def test_a_damaged_input_is_named_where_it_cannot_be_read(tmp_path):
    store = Store(tmp_path)
    made = store.get(numbers, {})
    flip(made.path / "numbers.safetensors", 3)
    with pytest.raises(SvpkitError, match=r"numbers.safetensors: damaged.*--fresh numbers makes"):
        store.get(total, {}, made)
    again = Store(tmp_path, fresh=("numbers",))
    assert again.get(total, {}, again.get(numbers, {})).made


def spoil(path, how):
    content = path.read_bytes()
    if how == "flipped":
        flip(path, 8 * (2 * len(content) // 3) + 1)
    else:
        path.write_bytes(content[: len(content) // 2])
    return content


@pytest.fixture(scope="module")
def finished(forks, data, tmp_path_factory):
    """A small run that is done."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("data", "test"):
        (folder / name).symlink_to(data / name)
    (folder / "small.toml").write_text(SMALL)
    assert forks.run("command", folder, args={"argv": RUN}, err="err") == 0, complaints(folder)
    return folder


FEW = [
    ("evidence-*/evidence.json", "flipped"),
    ("score-*/worst.npy", "shorter"),
    ("split-*/split.json", "shorter"),
    ("classifier-*/model.safetensors", "flipped"),
    ("ingest-*/part-00000.npy", "flipped"),
]
SPOILT = [
    pytest.param(f"{each}-*/*.{kind}", how, marks=pytest.mark.slow)
    for each in ("ingest", "split", "classifier", "score", "evidence", "reference")
    for kind in ("json", "parquet", "safetensors", "npy")
    for how in ("flipped", "shorter")
]


@pytest.mark.parametrize(("pattern", "how"), [*FEW, *SPOILT])
def test_a_damaged_artifact_is_one_line_where_a_run_reads_it(forks, finished, pattern, how):
    for path in sorted((finished / "store").glob(pattern)):
        if path.name == "artifact.json":
            continue
        whole = spoil(path, how)
        code = forks.run("command", finished, args={"argv": RUN}, err="err")
        path.write_bytes(whole)
        said = complaints(finished)
        named = len(said) == 1 and path.parent.name in said[0]
        assert code == 2 and named, (path, code, said)
    assert forks.run("command", finished, args={"argv": RUN}, err="err") == 0, complaints(finished)


def test_nothing_trains_on_a_damaged_picture(forks, finished):
    # the part of the data, which the classifier reads by way of the split
    said = json.loads(next((finished / "store").glob("split-*/split.json")).read_text())
    path = finished / "store" / said["data"] / "part-00000.npy"
    before = {p.name for p in (finished / "store").glob("*-*")}
    whole = spoil(path, "flipped")
    more = {"argv": [*RUN, "-o", "classifier.train.images=176"]}
    code = forks.run("command", finished, args=more, err="err")
    path.write_bytes(whole)
    assert code == 2 and len(complaints(finished)) == 1, complaints(finished)
    assert "part-00000.npy: damaged" in complaints(finished)[0]
    assert "(--fresh ingest makes it again)" in complaints(finished)[0]
    assert {p.name for p in (finished / "store").glob("*-*")} == before
    assert forks.run("command", finished, args={"argv": RUN}, err="err") == 0, complaints(finished)


@pytest.mark.parametrize("how", ["flipped", "shorter"])
def test_a_damaged_model_is_one_line_where_it_is_put_to_work(forks, finished, how):
    argv = ["predict", "small", "test/disc", "--out", "counted"]
    model = finished / "runs" / "small" / "model"
    weights = [model / f"{name}.safetensors" for name in ("model", "reference")]
    more = [model / name for name in ("config.json", "reference.json", "val.parquet")]
    for path in weights + (more if how == "shorter" else []):
        whole = spoil(path, how)
        code = forks.run("command", finished, args={"argv": argv}, err="err")
        path.write_bytes(whole)
        said = complaints(finished)
        assert code == 2 and len(said) == 1 and "runs/small/model" in said[0], (path, said)
        assert not (finished / "counted").exists()


@pytest.mark.slow
def test_a_damaged_generator_is_one_line_where_it_draws(forks, tmp_path):
    from test_resume import SHORT, place

    folder = place(tmp_path / "toy")
    assert forks.run("command", folder, args={"argv": SHORT}, err="err") == 0, complaints(folder)
    argv = ["generate", "toy", "--class", "ring", "-n", "2", "--out", "drawn"]
    made = next(
        each
        for each in (folder / "store").glob("generator-*")
        if json.loads((each / "config.json").read_text())["spec"]["classes"] == ["ring"]
    )
    # the record says what the other files must be; what is told apart there is left to verify
    for path in sorted(p for p in made.iterdir() if p.name != "artifact.json"):
        for how in ("flipped", "shorter"):
            whole = spoil(path, how)
            code = forks.run("command", folder, args={"argv": argv}, err="err")
            path.write_bytes(whole)
            said = "".join(complaints(folder)[-1:])
            assert code == 2 and made.name in said, (path, how, complaints(folder))
            assert "Traceback" not in "".join(complaints(folder))
            assert not (folder / "drawn").exists()
    assert forks.run("command", folder, args={"argv": argv}, err="err") == 0, complaints(folder)


# A run's folder, written again.


def passed(finished):
    return [x for x in (finished / "points").read_text().splitlines() if "runs/small" in x]


def killed_while_written(forks, finished, points):
    from svpkit.verify import FAILED, verify

    run, gone = finished / "runs" / "small", 0
    for point in points:
        order = {"args": {"argv": RUN}, "err": "err"}
        assert forks.run("command", finished, kill=point, **order) == -signal.SIGKILL, point
        if (run / "results.json").exists():
            wrong = [check for check in verify(run, finished / "store") if check.state == FAILED]
            assert wrong == [], (point, wrong)
        else:
            gone += 1
            argv = ["predict", "small", "test/disc", "--out", "counted"]
            assert forks.run("command", finished, args={"argv": argv}, err="err") == 2
            assert "unknown 'small'" in complaints(finished)[0]
        assert forks.run("command", finished, **order) == 0, complaints(finished)
        assert [check for check in verify(run, finished / "store") if check.state == FAILED] == []
    return gone


def again(forks, finished):
    order = {"args": {"argv": RUN}, "err": "err", "log": "points"}
    assert forks.run("command", finished, **order) == 0, complaints(finished)
    return passed(finished)


@pytest.mark.slow
def test_a_run_killed_while_its_folder_is_written_again_is_not_finished(forks, finished):
    points = again(forks, finished)
    some = [
        "before unlink runs/small/results.json #1",
        "after copyfile runs/small/predictions.parquet #1",
        "before replace runs/small/results.json #1",
    ]
    assert set(some) <= set(points)
    assert killed_while_written(forks, finished, some) == 2


@pytest.mark.slow
def test_a_run_killed_at_every_write_of_its_folder_is_finished_or_not(forks, finished):
    points = again(forks, finished)
    assert len(points) > 40
    kinds = {point.rsplit(" ", 1)[0]: point for point in points}
    assert killed_while_written(forks, finished, list(kinds.values())[::3]) > 5


# No room.


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_one_line_and_exit_code_2(forks, toy):
    order = {"args": {"argv": RUN}, "err": "err"}
    for limit in (2_000, 100_000):
        assert forks.run("command", toy, limit=limit, **order) == 2
        said = complaints(toy)
        assert len(said) == 1 and "no room to write (" in said[0], said
        assert all(damaged(p) == [] for p in (toy / "store").glob("*-*"))
    assert forks.run("command", toy, **order) == 0, (toy / "err").read_text()


@pytest.fixture
def mounted(tmp_path):
    """A file system of its own, of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_command_completes_with_room(forks, toy, mounted):
    order = {"args": {"argv": [*RUN, "--store", str(mounted)]}, "err": "err"}
    assert forks.run("command", toy, **order) == 2
    said = complaints(toy)
    assert len(said) == 1 and "no room to write (No space left on device)" in said[0], said
    assert all(damaged(p) == [] for p in mounted.glob("*-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(mounted)], check=True)
    assert forks.run("command", toy, **order) == 0, (toy / "err").read_text()


def test_a_read_only_store_is_one_line(forks, toy, mounted):
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    order = {"args": {"argv": [*RUN, "--store", str(mounted)]}, "err": "err"}
    assert forks.run("command", toy, **order) == 2
    said = complaints(toy)
    assert len(said) == 1 and "(Read-only file system)" in said[0], said


def test_half_a_checkpoint_takes_no_room_on_a_full_disk(mounted):
    tensors = {"model": {"w": torch.zeros(100_000)}}
    checkpoint.save(mounted, 1, tensors, {"step": 1})
    checkpoint.save(mounted, 2, tensors, {"step": 2})
    with pytest.raises(Exception, match="No space left") as caught:
        checkpoint.save(mounted, 3, tensors, {"step": 3})
    assert "no room to write" in (refused(caught.value, mounted) or "")
    assert sorted(p.name[-1] for p in mounted.iterdir()) == ["1", "2"]
    assert checkpoint.load(mounted)[1] == {"step": 2}


# Runs that meet, and what killed ones leave.


def test_of_two_runs_one_makes_and_one_waits(forks, tmp_path):
    first = forks.start("slow_stage", tmp_path, said="one", err="err-one")
    wait_for((tmp_path / "begun").exists)
    second = forks.start("slow_stage", tmp_path, said="two", err="err-two")
    wait_for(lambda: "waiting" in said_in(tmp_path / "err-two"))
    (tmp_path / "go").touch()
    assert forks.wait(first) == 0 and forks.wait(second) == 0
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() != ""
    assert re.match("waiting for another run: it makes slow-", (tmp_path / "err-two").read_text())
    assert (tmp_path / "err-one").read_text() == "" and (tmp_path / "begun").read_text() == "x"


def test_the_lock_and_the_leftovers_of_a_killed_run_do_not_stand_in_the_way(forks, tmp_path):
    first = forks.start("slow_stage", tmp_path)
    wait_for((tmp_path / "begun").exists)
    second = forks.start("slow_stage", tmp_path, said="two")
    os.kill(first, signal.SIGKILL)
    assert forks.wait(first) == -signal.SIGKILL
    wait_for(lambda: (tmp_path / "begun").read_text() == "xx")
    (tmp_path / "go").touch()
    assert forks.wait(second) == 0 and (tmp_path / "two").read_text().endswith("whole\n")


def test_leftovers_go_and_others_work_under_way_stays(tmp_path):
    partial = tmp_path / ".partial"
    other = partial / "numbers-0123456789abcdef"
    name = Store(tmp_path).name(numbers, {}).name
    for left in (
        other / "checkpoint-000000001",
        partial / f"{name}.old",
        partial / name / ".x.tmp",
    ):
        left.mkdir(parents=True)
    assert Store(tmp_path).get(numbers, {}).made
    assert sorted(p.name for p in partial.iterdir()) == sorted([other.name, f"{name}.lock"])
    assert (other / "checkpoint-000000001").is_dir()
    # a checkpoint that a killed run had half written
    (tmp_path / "out" / ".checkpoint-000000007.tmp").mkdir(parents=True)
    checkpoint.save(tmp_path / "out", 8, {"model": {"w": torch.zeros(1)}}, {})
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["checkpoint-000000008"]


def test_an_artifact_that_lacks_its_name_alone_is_not_made_again(tmp_path):
    store = Store(tmp_path)
    made = store.get(numbers, {})
    before = (made.path / "artifact.json").read_text()
    made.path.replace(tmp_path / ".partial" / made.name)
    assert (Store(tmp_path).get(numbers, {}).path / "artifact.json").read_text() == before
    # one that is not whole is
    made.path.replace(tmp_path / ".partial" / made.name)
    flip(tmp_path / ".partial" / made.name / "numbers.safetensors", 900)
    assert damaged(Store(tmp_path).get(numbers, {}).path) == []


@stage(revision=1)
def several(out, params):
    for i in range(3):
        (out / f"{i}.txt").write_text("whole")


def test_a_removal_killed_anywhere_leaves_an_artifact_whole_or_none(forks, tmp_path):
    order = {"args": {"argv": ["store", "gc", "--yes"]}, "err": "err"}
    root = tmp_path / "store"
    (tmp_path / "runs").mkdir()
    made = Store(root).get(several, {})
    assert forks.run("command", tmp_path, log="points", **order) == 0, complaints(tmp_path)
    points = (tmp_path / "points").read_text().splitlines()
    points = [p for p in points if made.name in p and not p.startswith("half")]
    assert len([p for p in points if " unlink " in p]) >= 8 and not made.path.exists()
    for point in points:
        Store(root).get(several, {})
        assert forks.run("command", tmp_path, kill=point, **order) == -signal.SIGKILL, point
        assert not made.path.exists() or damaged(made.path) == [], point
        assert Store(root).get(several, {}).made and damaged(made.path) == []
    assert forks.run("command", tmp_path, **order) == 0, complaints(tmp_path)
    assert not made.path.exists() and not any(p.is_dir() for p in (root / ".partial").iterdir())


# Numbers that are none.


def breaking(how, step):
    calls = []

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, given):
            return given * how if len(calls) == step else given

    def broken(model, images, labels, seeds, part):
        calls.append(1)
        found = loss(model, images, labels, seeds, part)
        if how is None:
            return found * (float("inf") if len(calls) == step else 1.0)
        return Breaks.apply(found)

    return broken


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (float("nan"), "the gradient is not finite"),
        (float("inf"), "the gradient is not finite"),
        (None, "the loss is inf"),
    ],
)
def test_what_is_no_number_is_named_with_its_step_and_never_kept(tmp_path, how, said, clip):
    validated = []

    def validate(model):
        validated.append(bool(torch.isfinite(weights(model)).all()))
        return {"macro_auprc": 0.5}

    # 500 steps: a note every fifth, a checkpoint every fiftieth
    asked = plan(images=10_000, clip=clip)
    broken = task(loss=breaking(how, 253), validate=validate, validations=100)
    with pytest.raises(SvpkitError, match=rf"{said} at step 253 \(5,060 images\)") as caught:
        train(tmp_path, asked, broken)
    assert str(caught.value).endswith("try a smaller train.lr") and all(validated)
    tensors, extra = checkpoint.load(tmp_path)
    assert extra["step"] == 250
    for group in tensors.values():
        assert all(torch.isfinite(v).all() for v in group.values())
    # mended, the same command goes on from there
    mended, _ = train(tmp_path, asked, task(validate=None))
    assert torch.isfinite(weights(mended)).all()


@pytest.mark.slow
def test_after_a_loss_that_broke_another_rate_starts_clean(forks, toy):
    bad = {"argv": [*RUN, "-o", "classifier.train.lr=1e30"]}
    assert forks.run("command", toy, args=bad, err="err") == 2
    said = complaints(toy)
    assert len(said) == 1 and re.search("the (loss|gradient) is .* at step", said[0]), said
    good = {"argv": [*RUN, "-o", "classifier.train.lr=1e-3"]}
    assert forks.run("command", toy, args=good, err="err") == 0, (toy / "err").read_text()
    assert "damaged" not in (toy / "err").read_text()


# No memory.


class Short(torch.nn.Module):
    """A network that has room for so many images only; it tells what it was shown."""

    def __init__(self, room, norm=False):
        super().__init__()
        with draws.seeded(0, "short"):
            layer = torch.nn.BatchNorm1d(64, affine=False) if norm else torch.nn.Identity()
            self.net = torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.Linear(64, 2))
        self.room, self.sizes = room, []

    def forward(self, images):
        found = self.net(images)
        if self.training:
            self.sizes.append(len(images))
            if len(images) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return found


def short(out, room, *, norm=False, **changes):
    asked = plan(images=400, schedule="constant", **changes)
    return fit(Short(room, norm), asked, task(validate=None), out=out, seed=1)


def losses(history):
    return [row["loss"] for row in history]


@pytest.mark.parametrize(("room", "pieces"), [(10, 2), (9, 4), (1, 20)])
def test_without_room_a_batch_goes_on_in_pieces_to_the_same_losses(tmp_path, capsys, room, pieces):
    whole, history = short(tmp_path / "a", 20)
    found, split = short(tmp_path / "b", room)
    np.testing.assert_allclose(losses(split), losses(history), atol=1e-6)
    torch.testing.assert_close(weights(found), weights(whole), atol=1e-5, rtol=0)
    assert [row["pieces"] for row in split] == [pieces] * 20 and "pieces" not in history[0]
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == (f"training: out of memory on cpu: batches of 20 go on in {pieces} pieces")
    assert len(said) == len(set(said))


def test_an_attempt_without_room_leaves_no_trace(tmp_path):
    # pieces from the start, as a resumed training has them, against those found by an attempt
    found, history = short(tmp_path / "a", 10, norm=True)
    first = {"step": 0, "history": [], "best": None, "best_images": 0, "worse": 0, "pieces": 2}
    model = Short(10, norm=True)
    tensors = {"model": model.state_dict(), "ema": model.state_dict(), "optimizer.main": {}}
    checkpoint.save(tmp_path / "b", 0, tensors, {**first, "pending": [], "scaler": None})
    again, history_again = short(tmp_path / "b", 10, norm=True)
    assert torch.equal(weights(found), weights(again)) and history == history_again
    assert (found.sizes, again.sizes) == ([], [])  # the average's own
    batches = [m for n, m in found.named_buffers() if n.endswith("num_batches_tracked")]
    assert [int(b) for b in batches] == [40]


def test_no_room_for_a_single_image_is_one_line(tmp_path):
    with pytest.raises(SvpkitError, match=r"out of memory on cpu with 20 images.*train\.batch"):
        short(tmp_path, 0)


def test_no_room_elsewhere_is_one_line(tmp_path):
    def validate(model):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(SvpkitError, match="out of memory on cpu"):
        train(tmp_path, the_task=task(validate=validate))


@pytest.mark.gpu
def test_a_gpu_that_is_full_goes_on_in_pieces(tmp_path, capsys):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    wide = torch.nn.Sequential(
        torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, padding=1)
    )

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.end = wide, torch.nn.Linear(64, 2)

        def forward(self, images):
            big = torch.nn.functional.interpolate(images, scale_factor=64.0)
            return self.end(self.wide(big).mean((2, 3)))

    free, _ = torch.cuda.mem_get_info(devices.device())
    # fills all of it but 3 GB: a batch of 20 images of 512 x 512 in 64 channels needs more
    held = torch.empty(max(free - 3 * 2**30, 0), dtype=torch.uint8, device=devices.device())
    _, history = fit(Wide(), plan(images=80), task(validate=None), out=tmp_path, seed=1)
    del held
    assert history[-1]["pieces"] >= 2 and np.isfinite(losses(history)).all()
    assert "out of memory on cuda" in capsys.readouterr().err


# Workers.


def test_what_fetching_raises_surfaces(tmp_path):
    def fetch(index):
        if fetch.calls == 5:
            raise SvpkitError("part-00003.npy: cannot be read")
        fetch.calls += 1
        return IMAGES[index], LABELS[index]

    fetch.calls = 0
    asked = Task(task().order, fetch, loss)
    with pytest.raises(SvpkitError, match=r"part-00003\.npy: cannot be read"):
        fit(network(), plan(), asked, out=tmp_path, seed=1)


PARENT = """
import sys
from pathlib import Path
import test_faults, test_bench
from svpkit import bench, spawned
from svpkit.measured import Places
from svpkit.plugins import discover
if __name__ == "__main__":
    here = Path(sys.argv[1])
    spawned._in_process = test_faults.lingers
    path = test_bench.write_suite(here, test_bench.TRIAL_OF_FOUR.replace("[0, 1, 2, 3]", "[0]"))
    places = Places(here / "runs", here / "store", here / "out")
    found = bench.open_bench(path, discover(builtin_only=True), places)
    bench.run(found, workers=2, only="200", say=print)
"""


def lingers(to, task, files, builtin_only, threads):
    """A cell's process that says where it is and works for minutes."""
    from svpkit import spawned

    spawned._bind()
    place = Path(task.places.out)
    place.mkdir(exist_ok=True)
    (place / f"pid-{task.cell.arm}").write_text(str(os.getpid()))
    try:
        time.sleep(300)
    finally:
        (place / f"ended-{task.cell.arm}").touch()


def suite_of_workers(folder):
    program = folder / "program.py"
    program.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    said = (folder / "said").open("w")
    process = subprocess.Popen(
        [sys.executable, program, folder],
        env=env,
        stdout=said,
        stderr=said,
        # a shell that runs the tests in the background has ctrl-c ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said.close()
    wait_for(lambda: len(pids(folder)) == 2)
    return process


def pids(folder):
    written = [(p.name, p.read_text()) for p in (folder / "out").glob("pid-*")]
    return {name.removeprefix("pid-"): int(text) for name, text in written if text}


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_in_order_with_their_parent(tmp_path, number):
    process = suite_of_workers(tmp_path)
    workers = pids(tmp_path)
    process.send_signal(number)
    process.wait(60)
    wait_for(lambda: all(gone(pid) for pid in workers.values()))
    if number != signal.SIGTERM:  # which nobody handles in this little program
        assert len(list((tmp_path / "out").glob("ended-*"))) == 2


@pytest.mark.slow
def test_a_killed_worker_is_a_failed_cell_and_the_suite_goes_on(tmp_path):
    process = suite_of_workers(tmp_path)
    first = pids(tmp_path)
    for pid in first.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(pids(tmp_path)) == 3)
    [third] = set(pids(tmp_path).values()) - set(first.values())
    os.kill(third, signal.SIGKILL)
    assert process.wait(60) == 0, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert said.count("failed: the process died (exit code -9)") == 3
