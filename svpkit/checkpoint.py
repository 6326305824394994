"""Checkpoints of a training: safetensors and JSON in one folder, renamed into place when whole."""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from svpkit import ranks
from svpkit.disk import file_digest, put, settle, write_json
from svpkit.errors import SvpkitError
from svpkit.safe import load_tensors, read_json

FORMAT = 1

Groups = dict[str, dict[str, Tensor]]


def save(out: Path, step: int, groups: Groups, extra: dict[str, Any]) -> None:
    """Write `out/checkpoint-<step>/` and remove all but the one before it.

    On disk for good before it has its name: a kill or a power cut at any point leaves this one or
    the one before it whole. `extra` is plain JSON.
    """
    sweep(out)
    target = out / f"checkpoint-{step:09d}"
    temporary = out / f".{target.name}.tmp"
    temporary.mkdir(parents=True)
    try:
        _write(temporary, groups, extra)
    except BaseException:
        # where the disk is full, half a checkpoint must not take the room of what comes next
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        _remove(target)
    put(temporary, target)
    earlier = [folder for folder in _all(out) if folder.name < target.name]
    for folder in _all(out):
        # a later one is of a training that did not go on from it: it is damaged
        if folder not in (target, *earlier[-1:]):
            _remove(folder)


def load(out: Path) -> tuple[Groups, dict[str, Any]] | None:
    """Return the newest checkpoint whose digests agree, or None; damaged ones are told of.

    Raises SvpkitError for one that a newer svpkit wrote.
    """
    damaged: list[str] = []
    for folder in reversed(_all(out)):
        try:
            found = _read(folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            damaged.append(folder.name)
            continue
        _tell(damaged, f"going on from {folder.name}")
        return found
    _tell(damaged, "starting again")
    return None


def clear(out: Path) -> None:
    """Remove every checkpoint of a finished training, the newest last."""
    for folder in _all(out):
        _remove(folder)
    sweep(out)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors; those that share memory are written apart."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)


def flatten(state: dict[int, dict[str, Any]]) -> dict[str, Tensor]:
    """Return an optimizer's state as flat tensors: "3.exp_avg"."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def unflatten(tensors: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Return the state that `flatten` was given."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return state


def _all(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoint-*"))


def _write(folder: Path, groups: Groups, extra: dict[str, Any]) -> None:
    digests = {}
    for name, tensors in groups.items():
        path = folder / f"{name}.safetensors"
        save_tensors(path, tensors)
        digests[name] = file_digest(path)
    # as it will be read: JSON's keys are text
    said = {"format": FORMAT, "digests": digests, "extra": json.loads(json.dumps(extra))}
    write_json(folder / "state.json", {**said, "digest": _digest(said)})
    settle(folder)


def _read(folder: Path) -> tuple[Groups, dict[str, Any]]:
    said = read_json(folder / "state.json")
    if _digest(said) != said["digest"]:
        raise ValueError(f"{folder} is damaged")
    if said["format"] > FORMAT:
        raise SvpkitError(
            f"{folder}: written by a newer svpkit (format {said['format']}, this one reads "
            f"{FORMAT}): use that one, or remove the folder to train from the one before"
        )
    return {n: _group(folder, n, d) for n, d in said["digests"].items()}, said["extra"]


def _group(folder: Path, name: str, digest: str) -> dict[str, Tensor]:
    path = folder / f"{name}.safetensors"
    if file_digest(path) != digest:
        raise ValueError(f"{path} is damaged")
    return load_tensors(path)


def _digest(said: dict[str, Any]) -> str:
    own = json.dumps({k: v for k, v in said.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(own.encode()).hexdigest()


def _remove(folder: Path) -> None:
    # in one rename: what is half removed is no checkpoint
    aside = folder.with_name(f".{folder.name}.old")
    folder.replace(aside)
    shutil.rmtree(aside)


def sweep(out: Path) -> None:
    """Remove what killed runs left in the making; the caller holds the artifact's lock."""
    for left in out.glob(".checkpoint-*"):
        shutil.rmtree(left)


def _tell(damaged: Sequence[str], then: str) -> None:
    if damaged and ranks.main():
        names = " and ".join(damaged)
        said = f"{names} {'is' if len(damaged) == 1 else 'are'} damaged, {then}"
        print(said, file=sys.stderr, flush=True)
