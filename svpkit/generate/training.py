"""What the stages that train a generator share: the fit, what it leaves, and loading that again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from svpkit import checkpoint, devices, draws
from svpkit.disk import write_json
from svpkit.errors import SvpkitError
from svpkit.fit import Task, fit
from svpkit.hookspecs import ImageSpec
from svpkit.options import check_options, options_of
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import Use
from svpkit.safe import load_tensors, read_json

WEIGHTS = "model.safetensors"


def train_module(
    model: nn.Module,
    train: ParticleSet,
    out: Path,
    params: Mapping[str, Any],
    *,
    look: Callable[[nn.Module], dict[str, Any]] | None = None,
    choose: bool = False,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Return a generator trained by `params["train"]`, and its history.

    `params` as for the stage `generator`. `look(model)` judges it on the way; where `choose` is
    true and the plan has patience, the weights of the lowest KID are kept.
    """
    plan, seed, labels = params["train"], params["seed"], train.labels
    if hasattr(model, "prepare"):
        model.prepare(train)  # type: ignore[operator]
    task = Task(
        order=draws.epochs(len(train), plan.batch, seed),
        fetch=lambda at: (train.images(at), labels[at]),
        validate=look,
        validations=max(plan.looks, 1),
        select="kid",
        lowest=True,
        choose=choose and plan.patience > 0,
        patience=plan.patience if choose else 0,
        label=f"generator {' '.join(train.classes)}",
    )
    return fit(model, plan, task, out=out, seed=seed, precision=params["precision"])


def save_generator(
    out: Path,
    model: Any,
    use: Use,
    spec: ImageSpec,
    train: ParticleSet,
    history: list[Any],
    **more: Any,
) -> None:
    """Write model.safetensors, config.json (with `more`) and history.json."""
    state = model.state_dict() if hasattr(model, "state_dict") else model.state()
    checkpoint.save_tensors(out / WEIGHTS, {k: torch.as_tensor(v) for k, v in state.items()})
    config = {
        **use.describe(),
        "spec": {"channels": spec.channels, "size": spec.size, "classes": list(spec.classes)},
        "numbers": sum(int(np.prod(v.shape)) for v in state.values()),
        "images": train.counts,
        "digest": train.digest,
        **more,
    }
    write_json(out / "config.json", config)
    write_json(out / "history.json", history)


def load_generator(folder: Path, use: Use) -> Any:
    """Return the trained generator of a folder that `generator` wrote, ready to sample."""
    try:
        config, tensors = read_json(folder / "config.json"), load_tensors(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise SvpkitError(f"{folder}: no trained generator here ({error})") from None
    said = config["spec"]
    with draws.seeded(0, "load"):
        model = use(ImageSpec(said["channels"], said["size"], tuple(said["classes"])))
    if not isinstance(model, nn.Module):
        model.load_state({name: tensor.numpy() for name, tensor in tensors.items()})
        return model
    model.load_state_dict(tensors)
    device = devices.device()
    model = model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if hasattr(model, "fold"):
        model.fold()  # type: ignore[operator]
    return model


def check_sample_options(
    use: Use, spec: ImageSpec, sample: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the options of `sample` with defaults; raises SvpkitError naming `where`.key."""
    with draws.seeded(0, "check"):
        model = use(spec)
    checked = check_options(options_of(model.sample), sample, where)
    if hasattr(model, "check_sample"):
        model.check_sample(checked, where)
    return checked
