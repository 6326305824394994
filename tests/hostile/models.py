"""Runs of strangers that `svpkit predict` is asked to open."""

import json
import os
import struct
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load, save

from hostile.case import CHILDREN, Case
from hostile.pictures import folders, good
from svpkit.hookspecs import ImageSpec
from svpkit.plugins import discover

OPTIONS = {"model": "resnet10t", "width": 16, "stem": "half"}
CONFIG = {
    "format": 1,
    "classifier": {"plugin": "timm", "options": OPTIONS},
    "strategies": [],
    "prevalence": None,
    "spec": {"channels": 1, "size": 16, "classes": ["a", "b"]},
    "prior": {"a": 0.5, "b": 0.5},
}


@cache
def _weights() -> bytes:
    # in a process of its own, as all that computes here
    with TemporaryDirectory() as place:
        child = CHILDREN.Process(target=_write_weights, args=(Path(place) / "w",))
        child.start()
        child.join()
        return (Path(place) / "w").read_bytes()


def _write_weights(path: Path) -> None:
    from safetensors.torch import save

    use = discover(builtin_only=True).use("classifier", "timm", OPTIONS, "classifier")
    network = use(ImageSpec(1, 16, ("a", "b")))
    path.write_bytes(save({k: v.contiguous() for k, v in network.state_dict().items()}))


def _run(folder: Path, change: Callable[[Path], object]) -> list[str]:
    folders(folder, good)
    model = folder / "run" / "model"
    model.mkdir(parents=True)
    (folder / "run" / "results.json").write_text("{}")
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "model.safetensors").write_bytes(_weights())
    change(model)
    return ["predict", "run", "data", "--out", "out/p"]


def _config(model: Path, **change: object) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | change))


def _file(model: Path, name: str, raw: bytes | str) -> None:
    (model / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())


def _header(model: Path, said: object, data: bytes = b"") -> None:
    head = (said if isinstance(said, str) else json.dumps(said)).encode()
    _file(model, "model.safetensors", struct.pack("<Q", len(head)) + head + data)


def _tensor(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def _other(model: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensors = load(_weights())
    name = next(k for k, v in tensors.items() if v.ndim == 4)
    (model / "model.safetensors").write_bytes(save(tensors | {name: change(tensors[name])}))


def _pipe(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)


_PICKLE = b"cos\nmkdir\n(S'guard/owned'\ntR."
_SPEC = {"channels": 1, "size": 16, "classes": ["a", "b"]}
_LOST = "these weights do not fit"
_DEEP = "[" * 100_000 + "]" * 100_000
_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "model without a reference": (lambda model: None, "not here"),
    "config of no byte": (partial(_file, name="config.json", raw=""), "no classifier here"),
    "config of a list": (partial(_file, name="config.json", raw="[]"), "no classifier here"),
    "config too deep": (partial(_file, name="config.json", raw=_DEEP), "no classifier here"),
    "config of noise": (partial(_file, name="config.json", raw=b"\xff" * 99), "no classifier here"),
    "config that is a pipe": (partial(_pipe, name="config.json"), "not a regular file"),
    "config of another format": (partial(_config, format=99), "format 99"),
    "config without a spec": (partial(_config, spec=None), "no classifier here"),
    "config of 10**9 px": (partial(_config, spec=_SPEC | {"size": 10**9}), "px"),
    "config of 10**9 channels": (partial(_config, spec=_SPEC | {"channels": 10**9}), "channels"),
    "config whose classes are text": (partial(_config, spec=_SPEC | {"classes": "ab"}), "classes"),
    "config of one class twice": (partial(_config, spec=_SPEC | {"classes": ["a"] * 2}), "classes"),
    "config of other classes": (partial(_config, prior={"c": 1}), "cannot be opened"),
    "config of Python": (
        partial(_config, classifier={"plugin": "os.system", "options": {}}),
        "os.system",
    ),
    "config whose plugin is a number": (partial(_config, classifier=7), "cannot be opened"),
    "config of 10**9 features": (
        partial(_config, classifier={"plugin": "timm", "options": OPTIONS | {"width": 10**9}}),
        "",
    ),
    "weights that are a pickle": (
        partial(_file, name="model.safetensors", raw=_PICKLE),
        _LOST,
    ),
    "weights of no byte": (partial(_file, name="model.safetensors", raw=b""), _LOST),
    "weights that are a pipe": (partial(_pipe, name="model.safetensors"), "not a regular file"),
    "weights with a header of 2**60": (
        partial(_file, name="model.safetensors", raw=struct.pack("<Q", 2**60) + bytes(99)),
        _LOST,
    ),
    "weights with a header of 17 MB": (partial(_header, said="{}" + " " * 17 * 2**20), _LOST),
    "weights with a header too deep": (partial(_header, said='{"a":' + _DEEP + "}"), _LOST),
    "weights of 20,000 tensors": (
        partial(_header, said={f"t{i}": _tensor(0, 0, [0]) for i in range(20_000)}),
        "20,000 tensors",
    ),
    "weights that overlap": (
        partial(_header, said={"a": _tensor(0, 8, [2]), "b": _tensor(4, 8, [1])}, data=bytes(8)),
        _LOST,
    ),
    "weights of a terabyte": (partial(_header, said={"a": _tensor(0, 2**40, [2**38])}), _LOST),
    "weights of a shape below 0": (
        partial(_header, said={"a": _tensor(0, 4, [-1, -1])}, data=bytes(4)),
        _LOST,
    ),
    "weights with a name twice": (
        partial(_header, said='{"a":{},"a":{}}'),
        "twice",
    ),
    "weights of another kind": (partial(_header, said={"a": _tensor(0, 4, [1], "X9")}), _LOST),
    "weights of another shape": (partial(_other, change=lambda t: t[:1]), "has the shape"),
    "weights of whole numbers": (partial(_other, change=lambda t: t.astype(np.int32)), "holds I32"),
    "weights cut short": (
        lambda model: os.truncate(model / "model.safetensors", 5000),
        _LOST,
    ),
    "thresholds of a list": (partial(_file, name="thresholds.json", raw="[]"), "cannot be read"),
    "reference too deep": (partial(_file, name="reference.json", raw=_DEEP), "cannot be read"),
    "reference of numbers": (partial(_file, name="reference.json", raw="{}"), "reference|not here"),
}


def _noise(model: Path) -> None:
    _file(model, "reference.json", '{"format": 1}')
    _file(model, "reference.safetensors", np.random.default_rng(0).bytes(500))


def cases() -> list[Case]:
    """Return the runs as cases."""
    every = _CASES | {"reference of noise": (_noise, "cannot be read")}
    return [
        Case(f"run: {name}", partial(_run, change=change), refused=said or ".")
        for name, (change, said) in every.items()
    ]
