import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from svpkit import SvpkitError, events
from svpkit.fit import Plan, Task, fit
from svpkit.store import Store, stage


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(x.flatten(1))


@stage(revision=1)
def data(out, params):
    (out / "numbers.txt").write_text("1 2 3")


@stage(revision=1, everywhere=True, resumes=True)
def classifier(out, params, before):
    images = np.arange(64, dtype=np.uint8).reshape(16, 1, 2, 2)
    labels = np.arange(16) % 2
    task = Task(
        order=lambda step: np.arange(4) + 4 * (step % 4),
        fetch=lambda positions: (images[positions], labels[positions]),
        loss=lambda model, x, y, seeds, part: nn.functional.cross_entropy(model(x), y),
        validate=lambda model: {"macro_auprc": 0.5},
        validations=2,
        label="classifier",
    )
    plan = Plan(images=32, batch=4, lr=1e-3)
    fit(Line(), plan, task, out=out, seed=0, precision="fp32")


def work(folder, name="run"):
    store = Store(folder / "store")
    with events.heard(events.Log(folder / "runs" / events.LOG), run=name):
        made = store.get(data, {}, label="the data")
        store.get(classifier, {}, made, label="classifier: own")
        events.tell(events.NOTE, said="all is well")
    return events.read(folder / "runs" / events.LOG)


def test_events_come_in_order_with_what_was_trained(tmp_path):
    torch.manual_seed(0)
    found = work(tmp_path)
    kinds = [line["event"] for line in found if line["event"] != "training"]
    begun, ended = ["stage started", "stage ended"], ["note", "run ended"]
    assert kinds == ["run started", *begun, *begun, *ended]
    times = [line["time"] for line in found]
    assert times == sorted(times) and all(t.endswith("Z") for t in times)
    rows = [line for line in found if line["event"] == "training"]
    assert [r["images"] for r in rows if "loss" in r] == list(range(4, 33, 4))
    assert [r["images"] for r in rows if "val" in r] == [16, 32]
    assert {r["label"] for r in rows} == {"classifier: own"}
    assert all(r["lr"] > 0 for r in rows if "loss" in r and r["images"] < 32)
    assert found[-1]["outcome"] == "done" and found[-1]["seconds"] >= 0
    assert found[1]["artifact"] == found[2]["artifact"] and found[2]["seconds"] >= 0


def test_a_second_run_is_appended_and_says_what_was_there_already(tmp_path):
    first = work(tmp_path)
    both = work(tmp_path, "again")
    assert both[: len(first)] == first
    more = [line["event"] for line in both[len(first) :]]
    assert more == ["run started", "stage cached", "stage cached", "note", "run ended"]


def test_the_end_says_why_it_came(tmp_path):
    def ends(error):
        with pytest.raises(type(error)), events.heard(events.Log(tmp_path / "e"), run="r"):
            raise error
        return events.read(tmp_path / "e")[-1]

    failed = ends(SvpkitError("no room\nat all"))
    assert (failed["outcome"], failed["why"]) == ("failed", r"no room\nat all")
    assert ends(KeyboardInterrupt())["outcome"] == "interrupted"


def test_warnings_are_told_and_shown_as_ever(tmp_path):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with events.heard(events.Log(tmp_path / "e"), run="r"):
            warnings.warn("the lamp is\nold", UserWarning, stacklevel=1)
    assert [str(each.message) for each in shown] == ["the lamp is\nold"]
    told = [line for line in events.read(tmp_path / "e") if line["event"] == "warning"]
    assert [(t["kind"], t["said"]) for t in told] == [("UserWarning", "the lamp is old")]


def test_nobody_listens_and_nothing_happens():
    events.tell(events.NOTE, said="to nobody")


def test_numbers_that_are_none_become_null(tmp_path):
    log = events.Log(tmp_path / "e")
    log({"loss": float("nan"), "val": {"a": [float("inf"), 1.0]}})
    assert json.loads((tmp_path / "e").read_text()) == {"loss": None, "val": {"a": [None, 1.0]}}


ENDLESS = """
import sys, pathlib
from svpkit import events
with events.heard(events.Log(pathlib.Path(sys.argv[1])), run="killed"):
    i = 0
    while True:
        i += 1
        events.tell("note", i=i, said="x" * 500)
"""


def test_a_killed_run_leaves_whole_lines_and_the_next_is_appended(tmp_path):
    path = tmp_path / "events.jsonl"
    child = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
    while not path.is_file() or path.stat().st_size < 50_000:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -9
    found = events.read(path)
    assert found[0]["event"] == "run started"
    assert [line["i"] for line in found[1:]] == list(range(1, len(found)))
    # the half line that a power cut leaves
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with events.heard(events.Log(path), run="next"):
        pass
    after = events.read(path)
    assert after[: len(found) - 1] == found[:-1]
    assert [line["event"] for line in after[len(found) - 1 :]] == ["run started", "run ended"]


def test_a_log_on_a_full_disk_ends_no_run():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError):
        full.write(b"x")
    log = events.Log.__new__(events.Log)
    from pathlib import Path

    log.path, log._torn = Path("/dev/full"), False
    log({"event": "note"})
