"""Plugins tried in other processes: a fresh one, and two that train one model together.

As a program it is one of those processes: it reads jobs.json in the folder that it is given.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from svpkit import ranks
from svpkit.launch import environment, free_port
from svpkit.plugins import Registry, discover
from svpkit.testing.common import Given, difference, live, same
from svpkit.testing.learning import Looks, learn, toys
from svpkit.testing.states import flat
from svpkit.testing.subject import Failed, NotAsked, Subject, expect, trial_of

# Plain descent, so that sums taken in another order stay as small as they are: Adam divides by
# gradients that may be next to nothing.
STEPS = Looks(images=48, batch=8, lr=1e-2, schedule="constant", warmup=0, optimizer="sgd")
TOLERANCE = 1e-4
PATIENCE = 300
NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass
class Away:
    """What a plugin gave in other processes, by job and process, or what went wrong there."""

    found: dict[tuple[str, int], Given]
    wrong: str = ""

    def get(self, job: str, rank: int) -> Given:
        """Return what it gave; raises Failed with what went wrong instead."""
        if (job, rank) not in self.found:
            raise Failed(f"in another process: {self.wrong or 'it ended without a word'}")
        return self.found[job, rank]


def check_fresh_process(subject: Subject) -> None:
    """A fresh process, where Python hashes text otherwise, gives the same within 1e-5."""
    # sums may be taken in another order where memory lies otherwise
    same(subject.once("live", live), away(subject).get("live", 0), "fresh_process", 1e-5)


def check_two_processes(subject: Subject) -> None:
    """Trained a few steps on two processes, both come to what one process comes to."""
    if not _shared(subject):
        raise NotAsked("an object trains on one process")
    model, found = subject.build(), away(subject)
    first, second = (found.get("steps", rank) for rank in (0, 1))
    # batch norm sees the half of a batch that its process has, and the main one's averages are kept
    normed = any(isinstance(m, NORMS) for m in model.modules())
    local = {name for name, _ in model.named_buffers()} if normed else set()
    for name, value in first.items():
        if name not in local:
            _near(value, second[name], f"the two processes' {name} differ")
    for name, value in ({} if normed else steps(subject)).items():
        _near(value, first[name], f"{name} differs from that of one process")


def away(subject: Subject) -> Away:
    """Return what a plugin gives in other processes, started once for it and all its fellows."""
    if "away" not in subject.kept:
        others = [s for s in subject.kept.get("fellows", ()) if "away" not in s.kept]
        group = [subject, *(s for s in others if s is not subject)]
        for each, found in zip(group, _launch(group), strict=True):
            # one that the processes did not come to is sent again when it is asked for
            if each is subject or found.found or found.wrong:
                each.kept["away"] = found
    return subject.kept["away"]


def steps(subject: Subject) -> Given:
    """Train a module a few steps by the shared fit, or an object by itself: its state."""
    model, train = subject.build(), toys(subject, 20)
    if not isinstance(model, nn.Module):
        model.fit(train, subject.seed)
    else:
        model, _ = learn(subject, model, train, STEPS)
    return flat(model)


def main(folder: Path) -> None:
    """Do the jobs of a folder, as one of its processes."""
    told = json.loads((folder / "jobs.json").read_text())
    torch.set_num_threads(told["threads"])
    registry = discover(files=[Path(path) for path in told["files"]])
    for k, one in enumerate(told["subjects"]):
        try:
            _work(_subject(registry, one), one["jobs"], folder / f"{k}")
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            (folder / f"{k}.wrong").write_text(said[:300])
            raise


def _work(subject: Subject, jobs: list[str], path: Path) -> None:
    for job in jobs:
        if ranks.main() or job == "steps":
            found = {"live": live, "steps": steps}[job](subject)
            arrays = {name: np.array(value, order="C") for name, value in found.items()}
            save_file(arrays, f"{path}.{job}.{ranks.rank()}")


def _subject(registry: Registry, one: dict[str, Any]) -> Subject:
    plugin = registry.get(one["kind"], one["name"])
    given = {n: one[n] for n in ("options", "sample", "images")}
    example = one["example"] and Path(one["example"])
    trial = trial_of(plugin, **given, example=(lambda _: example) if example else None)
    return replace(Subject.of(plugin, trial), seed=one["seed"])


def _near(a: np.ndarray, b: np.ndarray, said: str) -> None:
    apart = difference(a, b)
    limit = TOLERANCE * max(1.0, float(np.abs(a).max(initial=0)) if a.dtype.kind == "f" else 1.0)
    expect(apart <= limit, f"two_processes: {said} by {apart:.3g}, {limit:.3g} allowed")


def _launch(group: Sequence[Subject]) -> list[Away]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = [_told(subject, folder / f"{k}-example") for k, subject in enumerate(group)]
        files = sorted({s.plugin.origin for s in group if s.plugin.origin.endswith(".py")})
        job = {"files": files, "subjects": told, "threads": torch.get_num_threads()}
        (folder / "jobs.json").write_text(json.dumps(job, default=str))
        wrong = _run(folder, 2 if any(_shared(s) for s in group) else 1)
        found = [_read(folder, str(k)) for k in range(len(group))]
    found[0].wrong = found[0].wrong or wrong
    return found


def _read(folder: Path, k: str) -> Away:
    wrong = folder / f"{k}.wrong"
    files = [file.name.split(".") for file in folder.glob(f"{k}.*.[01]")]
    arrays = {(job, int(rank)): load_file(folder / f"{k}.{job}.{rank}") for _, job, rank in files}
    return Away(arrays, wrong.read_text() if wrong.exists() else "")


def _shared(subject: Subject) -> bool:
    # an object trains itself, on the main process alone
    trains = subject.plugin.kind in ("generator", "classifier")
    return trains and isinstance(subject.build(), nn.Module)


def _told(subject: Subject, folder: Path) -> dict[str, Any]:
    trial, example = subject.trial, None
    if trial.example and subject.plugin.kind == "reader":
        folder.mkdir()
        example = str(trial.example(folder))
    return {
        **{"kind": subject.plugin.kind, "name": subject.plugin.name, "seed": subject.seed},
        **{"options": dict(trial.options), "sample": dict(trial.sample), "images": trial.images},
        **{"example": example, "jobs": ["live", "steps"] if _shared(subject) else ["live"]},
    }


def _run(folder: Path, processes: int) -> str:
    # the last line of the first process that failed, or nothing
    # -P: no module that lies in the working folder
    command = [sys.executable, "-P", "-m", "svpkit.testing.processes", str(folder)]
    port = free_port()
    started, texts = [], [folder / f"{rank}.txt" for rank in range(processes)]
    for rank, text in enumerate(texts):
        # a GPU would be shared by both
        own = {"PYTHONHASHSEED": "4321", "CUDA_VISIBLE_DEVICES": ""}
        env = os.environ | own | environment(rank, processes, port)
        with text.open("w") as out:
            started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
    try:
        codes = [process.wait(PATIENCE) for process in started]
    except subprocess.TimeoutExpired:
        return f"it was not done after {PATIENCE} s"
    finally:
        for process in started:
            process.kill()
            process.wait()
    lost = [text.read_text().strip() for text, code in zip(texts, codes, strict=True) if code]
    return next((said.splitlines()[-1][:300] for said in lost if said), "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
