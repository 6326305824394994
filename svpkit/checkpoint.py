"""Checkpoints of a training: safetensors and JSON in one folder, renamed into place when whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from svpkit.store import file_digest, write_json

Groups = dict[str, dict[str, Tensor]]


def save(out: Path, step: int, groups: Groups, extra: dict[str, Any]) -> None:
    """Write `out/checkpoint-<step>/` and remove all but the one before it."""
    target = out / f"checkpoint-{step:09d}"
    temporary = out / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    digests = {}
    for name, tensors in groups.items():
        path = temporary / f"{name}.safetensors"
        save_tensors(path, tensors)
        digests[name] = file_digest(path)
    write_json(temporary / "state.json", {"digests": digests, "extra": extra})
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    for old in sorted(out.glob("checkpoint-*"))[:-2]:
        shutil.rmtree(old)


def load(out: Path) -> tuple[Groups, dict[str, Any]] | None:
    """Return the newest checkpoint whose digests agree, or None."""
    for folder in sorted(out.glob("checkpoint-*"), reverse=True):
        try:
            state = json.loads((folder / "state.json").read_text())
            groups = {}
            for name, digest in state["digests"].items():
                path = folder / f"{name}.safetensors"
                if file_digest(path) != digest:
                    raise ValueError(f"{path} is damaged")
                groups[name] = load_file(path)
            return groups, state["extra"]
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    return None


def clear(out: Path) -> None:
    """Remove every checkpoint of a finished training."""
    for folder in [*out.glob("checkpoint-*"), *out.glob(".checkpoint-*.tmp")]:
        shutil.rmtree(folder)


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
