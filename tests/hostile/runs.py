"""Run folders and stores of strangers, whose records are read by all that puts runs to work."""

import json
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from hostile import models
from hostile.case import CHILDREN, Case
from svpkit.plugins import discover

EXPORT = "export run --to timm --out out/x"
PIPELINE = "export run --to diffusers --class a --out out/x"
DRAW = "generate run --class a -n 2 --out out/x"
CRATE = "crate run --out out/x"
AUDIT = "audit run --out out/x"
COMPARE = "compare run other"
READ_RUN = {
    "export": EXPORT,
    "pipeline": PIPELINE,
    "draw": DRAW,
    "crate": CRATE,
    "audit": AUDIT,
    "compare": COMPARE,
}
LIST, CLEAR = "store ls --store store --runs .", "store gc --store store --runs . --yes"
LOG = "log --store store --verify"

OPTIONS = {"channels": [8, 16], "layers": 1, "attention": 0, "groups": 4, "timesteps": 10}
GENERATOR = {
    "plugin": "diffusers_unet",
    "options": OPTIONS,
    "spec": {"channels": 1, "size": 16, "classes": ["a"]},
}
RUN = {
    "svpkit": "0",
    "seed": 0,
    "recipe": {"name": "r", "generator": {"sample": {"steps": 2}}},
    "artifacts": {"split": {"name": "split-0", "key": "0"}},
    "generators": {"a": {"artifact": "generator-0", "classes": ["a"]}},
    "data": {"test": "0"},
    "files": {},
    "store": "../store",
}
SPLIT = {"classes": ["a", "b"], "data": "set-0", "test": None, "sets": {}}
RECORD = {
    "stage": "split",
    "key": "0",
    "revision": 1,
    "params": {},
    "inputs": [],
    "code": "",
    "seconds": 1.0,
    "files": {},
}
DEEP = "[" * 100_000 + "]" * 100_000
# What any reader of JSON refuses, by what is said.
BROKEN: dict[str, tuple[bytes, str]] = {
    "of no byte": (b"", "cannot be read"),
    "of noise": (b"\xff\xfe\x00" * 99, "cannot be read"),
    "of a list": (b"[]", "a list, a dict is wanted"),
    "of null": (b"null", "a dict is wanted"),
    "of a number": (b"1e999", "a dict is wanted"),
    "too deep": (b'{"a": ' + DEEP.encode() + b"}", "nested too deeply"),
    "with NaN": (b'{"artifacts": {}, "seed": NaN}', "NaN is no number"),
    "with half a surrogate": (b'{"artifacts": {}, "x": "\\ud800"}', "surrogates"),
    "with a number of a megabyte": (b'{"seed": ' + b"9" * 2**20 + b"}", "cannot be read"),
    "cut short": (json.dumps(RUN).encode()[:99], "cannot be read"),
}
# Values of another type in run.json, by the command that takes them.
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "artifacts of a list": ({"artifacts": []}, "artifacts: a table is wanted"),
    "artifacts of null": ({"artifacts": None}, "artifacts: a table is wanted"),
    "an artifact of text": ({"artifacts": {"split": "x"}}, "artifacts.split: "),
    "an artifact elsewhere": ({"artifacts": {"split": {"name": "../x"}}}, "name of a folder"),
    "an artifact of a number": ({"artifacts": {"split": {"name": 7}}}, "a text is wanted"),
    "generators of a list": ({"generators": [1]}, "generators: a table is wanted"),
    "a generator elsewhere": (
        {"generators": {"a": {"artifact": "/etc", "classes": ["a"]}}},
        "name of a folder",
    ),
    "classes of text": (
        {"generators": {"a": {"artifact": "generator-0", "classes": "a"}}},
        "classes: a list is wanted",
    ),
    "data of a list": ({"data": ["x"]}, "data: a table is wanted"),
    "files of numbers": ({"files": {"results.json": 7}}, "a text is wanted"),
    "a recipe of text": ({"recipe": "r"}, "recipe: a table is wanted"),
    "a recipe of 99 tables": ({"recipe": json.loads('{"a":' * 99 + "1" + "}" * 99)}, "32 deep"),
    "a recipe with escapes": ({"recipe": {"name": "\x1b[2J"}}, "control character"),
    "a store of a number": ({"store": 7}, "store: a text is wanted"),
    "versions of text": ({"versions": "1"}, "versions: a table is wanted"),
    "a seed of text": ({"seed": "7"}, "seed: "),
}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


@cache
def _drawing() -> bytes:
    with TemporaryDirectory() as place:
        child = CHILDREN.Process(target=_write_drawing, args=(Path(place) / "w",))
        child.start()
        child.join()
        return (Path(place) / "w").read_bytes()


def _write_drawing(path: Path) -> None:
    from safetensors.torch import save

    from svpkit.hookspecs import ImageSpec

    use = discover(builtin_only=True).use("generator", "diffusers_unet", OPTIONS, "generator")
    network = use(ImageSpec(1, 16, ("a",)))
    path.write_bytes(save({k: v.contiguous() for k, v in network.state_dict().items()}))


def _built(folder: Path, command: str, change: Callable[[Path], object]) -> list[str]:
    from svpkit.particles.particleset import ParticleSet

    model, store = folder / "run" / "model", folder / "store"
    _write(model.parent / "run.json", RUN)
    _write(model.parent / "results.json", {})
    _write(model / "config.json", models.CONFIG)
    _write(model / "model.safetensors", models._weights())
    _write(folder / "other" / "run.json", RUN)
    _write(folder / "other" / "results.json", {})
    for name in ("run", "other"):
        rows = {"id": ["x"], "label": ["a"], "label_code": [0], "p_a": [0.9], "p_b": [0.1]}
        pd.DataFrame(rows).to_parquet(folder / name / "predictions.parquet")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 1, 16, 16), dtype=np.uint8)
    ParticleSet.from_arrays(pixels, ["a", "b"] * 4, ("a", "b")).save(store / "set-0")
    _write(store / "split-0" / "split.json", SPLIT)
    _write(store / "split-0" / "artifact.json", RECORD)
    for name in ("train", "val"):
        np.save(store / "split-0" / f"{name}.npy", np.arange(8))
    _write(store / "generator-0" / "config.json", GENERATOR)
    _write(store / "generator-0" / "model.safetensors", _drawing())
    change(folder)
    return command.split()


def _put(folder: Path, name: str, value: object) -> None:
    _write(folder / name, value)


def _pipe(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def _huge(folder: Path, name: str) -> None:
    _write(folder / name, b"{}")
    os.truncate(folder / name, 2**40)


def _link(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder / "guard" / "secret.png")


def _bad(file: str, command: str, said: str = "") -> dict[str, Any]:
    """Return a case for each way in which a file is broken."""
    found = {
        f"{file} {name}": (command, partial(_put, name=file, value=raw), said or reason)
        for name, (raw, reason) in BROKEN.items()
    }
    found[f"{file} of a terabyte"] = (command, partial(_huge, name=file), said or "more than")
    found[f"{file} that is a pipe"] = (command, partial(_pipe, name=file), "not a regular file")
    return found


def _given(file: str, base: dict[str, Any], change: dict[str, Any]) -> Callable[[Path], None]:
    return partial(_put, name=file, value=base | change)


def _others() -> dict[str, tuple[str, Callable[[Path], object], str]]:
    config, split, drawing = (
        "run/model/config.json",
        "store/split-0/split.json",
        "store/generator-0",
    )
    named, record = f"{drawing}/config.json", "store/split-0/artifact.json"
    spec = GENERATOR["spec"]
    return {
        "a list in intake": (EXPORT, _given(config, models.CONFIG, {"intake": []}), "intake: "),
        "digests of a list": (EXPORT, _given(config, models.CONFIG, {"digests": []}), "digests: "),
        "a prior of text": (EXPORT, _given(config, models.CONFIG, {"prior": "ab"}), "exported"),
        "strategies of numbers": (EXPORT, _given(config, models.CONFIG, {"strategies": [7]}), "."),
        "a split of text": (EXPORT, _given(split, SPLIT, {"data": 7}), "data: a text is wanted"),
        "classes of a split that are text": (
            AUDIT,
            _given(split, SPLIT, {"classes": "ab"}),
            "classes: a list is wanted",
        ),
        "a split of a set above": (
            AUDIT,
            _given(split, SPLIT, {"data": "../other"}),
            "name of a folder",
        ),
        "a split without sets": (
            AUDIT,
            partial(_put, name=split, value={"classes": [], "data": "set-0"}),
            "sets: missing|sets: field required",
        ),
        "a split elsewhere": (AUDIT, _given(split, SPLIT, {"data": "nowhere"}), "no particle set"),
        "a split too deep": (AUDIT, partial(_put, name=split, value=DEEP.encode()), "."),
        "a split of a list": (AUDIT, partial(_put, name=split, value=[]), "a list, a dict"),
        "a calibrator of text": (
            EXPORT,
            partial(_put, name="run/model/reference.json", value={"calibrator": "x"}),
            "exported",
        ),
        "no calibrator": (EXPORT, partial(_put, name="run/model/reference.json", value={}), "."),
        "thresholds of text": (
            EXPORT,
            partial(_put, name="run/model/thresholds.json", value={"thresholds": {"a": "0.5"}}),
            "a number is wanted",
        ),
        "validation of noise": (
            EXPORT,
            partial(_put, name="run/model/val.parquet", value=b"PAR1" + bytes(99)),
            "exported",
        ),
        "a card that is a link": (
            EXPORT,
            partial(_link, name="run/model/README.md"),
            "a link out of the folder",
        ),
        "results that are a link": (
            CRATE,
            partial(_link, name="run/results.json"),
            "a link out of the folder",
        ),
        "results of another digest": (
            CRATE,
            _given("run/run.json", RUN, {"files": {"results.json": "0"}}),
            "changed since",
        ),
        "a store with a long name": (
            CRATE,
            _given("run/run.json", RUN, {"store": "x" * 5000}),
            "too long",
        ),
        "a generator of a list": (DRAW, _given(named, GENERATOR, {"options": []}), "options: "),
        "a generator of Python": (DRAW, _given(named, GENERATOR, {"plugin": "os"}), "unknown 'os'"),
        "a generator of 10**9 px": (
            PIPELINE,
            _given(named, GENERATOR, {"spec": spec | {"size": 10**9}}),
            "spec.size",
        ),
        "a generator of no class": (
            DRAW,
            _given(named, GENERATOR, {"spec": spec | {"classes": []}}),
            "spec.classes",
        ),
        "a generator of other layers": (
            PIPELINE,
            _given(named, GENERATOR, {"options": OPTIONS | {"channels": [8, 32]}}),
            "no trained generator here",
        ),
        "steps of text": (
            DRAW,
            _given("run/run.json", RUN, {"recipe": {"generator": {"sample": {"steps": "x"}}}}),
            "sample.steps",
        ),
        "a sample of a list": (
            DRAW,
            _given("run/run.json", RUN, {"recipe": {"generator": {"sample": [1]}}}),
            "names no generator",
        ),
        "a generator made elsewhere": (
            DRAW,
            _given(f"{drawing}/artifact.json", RECORD, {"inputs": ["../.."]}),
            "damaged",
        ),
        "predictions without ids": (
            COMPARE,
            lambda folder: pd.DataFrame({"x": [1]}).to_parquet(
                folder / "run" / "predictions.parquet"
            ),
            "cannot be compared",
        ),
        "predictions of noise": (
            COMPARE,
            partial(_put, name="run/predictions.parquet", value=bytes(99)),
            "no predictions",
        ),
        "seconds of text": (LIST, _given(record, RECORD, {"seconds": "x"}), "seconds: "),
        "names of text": (
            CLEAR,
            partial(_put, name="run/artifacts.json", value={"artifacts": "split-0"}),
            "a list is wanted",
        ),
        "audits of a list": (
            CLEAR,
            partial(_put, name="run/audit-artifacts.json", value={"folders": []}),
            "folders: a table is wanted",
        ),
        "a log of noise": (LOG, partial(_put, name="store/audit.jsonl", value=b"\xff" * 99), ""),
        "a log of one line of 3 MB": (
            "log --store store",
            partial(_put, name="store/audit.jsonl", value=b"[" * 3 * 2**20),
            "",
        ),
        "a log with escapes": (
            "log --store store",
            partial(_put, name="store/audit.jsonl", value={"n": [1], "event": "\x1b[2J"}),
            "",
        ),
    }


def cases() -> list[Case]:
    """Return the runs and stores as cases."""
    every: dict[str, tuple[str, Callable[[Path], object], str]] = {}
    for i, (name, command) in enumerate(READ_RUN.items()):
        # all of them read it alike: one is tried with everything, the others with a part
        bad = list(_bad("run/run.json", command).items())[i % 3 :: 3 if i else 1]
        every |= {f"{name}, {k}": v for k, v in bad}
    for i, (name, (change, said)) in enumerate(SHAPES.items()):
        # each of them by one of the commands, in turn: they all read it alike
        command = list(READ_RUN.values())[i % len(READ_RUN)]
        every[f"run.json with {name}"] = command, _given("run/run.json", RUN, change), said
    every |= _bad("run/model/config.json", EXPORT)
    every |= _bad("store/generator-0/config.json", DRAW)
    every |= _bad("run/model/thresholds.json", EXPORT)
    every |= _bad("store/split-0/artifact.json", LIST)
    every |= _bad("run/artifacts.json", CLEAR)
    # what nobody opens need not be whole; that of a run is looked for, and then copied
    every |= {
        "results.json of noise": (CRATE, partial(_put, name="run/results.json", value=b"\xff"), ""),
        "results.json that is a pipe": (
            CRATE,
            partial(_pipe, name="run/results.json"),
            "no run 'run'",
        ),
        **_others(),
    }
    return [
        Case(f"run folder: {name}", partial(_built, command=command, change=change), refused=said)
        for name, (command, change, said) in every.items()
    ]
