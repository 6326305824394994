"""The stages that train a generator and draw particles with it, and what draws for the commands."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from svpkit import checkpoint, devices, draws, ranks
from svpkit.errors import SvpkitError
from svpkit.fit import Task, fit
from svpkit.generate.drawing import assemble, draw_chunks, record
from svpkit.generate.drawing import draw as draw
from svpkit.generate.drawing import seeds_of as seeds_of
from svpkit.hookspecs import ImageSpec
from svpkit.options import check_options, options_of
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split
from svpkit.plugins import Use
from svpkit.store import file_digest, stage, write_json

WEIGHTS = "model.safetensors"


@stage(revision=1, everywhere=True, resumes=True)
def generator(out: Path, params: Mapping[str, Any], split: Path) -> None:
    """Train a generator on the real training images of `classes` and write its weights.

    `params`: generator (a plugin with its options), classes, train (a plan), seed, precision.
    Writes model.safetensors, config.json and history.json. Raises SvpkitError for a class that the
    split does not know or has no training images of.
    """
    train = training_images(Split.open(split), params["classes"])
    use, seed = params["generator"], params["seed"]
    spec = ImageSpec(train.shape[0], train.shape[1], train.classes)
    with draws.seeded(seed, "generator", *spec.classes):
        model = use(spec)
    history: list[dict[str, Any]] = []
    if isinstance(model, nn.Module):
        model, history = _trained(model, train, out, params)
    elif ranks.main():
        model.fit(train, seed)
    ranks.on_main(lambda: _save(out, model, use, spec, train, history))


@stage(revision=1, everywhere=True, resumes=True)
def synthetic(out: Path, params: Mapping[str, Any], generator: Path, split: Path) -> None:
    """Draw as many particles of each class as the strategy asks for; writes a ParticleSet.

    `params`: generator (a plugin with its options), classes, sample (options of its `sample`),
    seed, rule (a strategy with `draws(counts) -> {class: n}`). Image i of a class is a function of
    (model, label, seed, i). Writes synthetic.json beside the set: images and seconds.
    """
    train = Split.open(split).train()
    asked = params["rule"]().draws(train.counts)
    counts = {name: int(asked.get(name, 0)) for name in params["classes"]}
    model = load_generator(generator, params["generator"])
    seconds = draw_chunks(out / "chunks", model, counts, params)
    ranks.wait()
    if ranks.main():
        digest = file_digest(generator / WEIGHTS)
        assemble(out, counts, digest, params, train)
        write_json(out / "synthetic.json", record(counts, digest, seconds))
    ranks.wait()


def training_images(split: Split, classes: list[str]) -> ParticleSet:
    """Return the real training images of these classes, in this label order."""
    train = split.train()
    parts = {name: train.of(name) for name in classes}
    for name, found in parts.items():
        if not len(found):
            raise SvpkitError(f"generator.classes: '{name}' has no training images")
    wanted = np.flatnonzero(train.table["label"].isin(classes).to_numpy())
    return train.take(wanted).with_classes(classes)


def load_generator(folder: Path, use: Use) -> Any:
    """Return the trained generator of a folder that `generator` wrote, ready to sample."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{folder}: no trained generator here ({error})") from None
    said = config["spec"]
    with draws.seeded(0, "load"):
        model = use(ImageSpec(said["channels"], said["size"], tuple(said["classes"])))
    if not isinstance(model, nn.Module):
        model.load_state({name: tensor.numpy() for name, tensor in tensors.items()})
        return model
    model.load_state_dict(tensors)
    device = devices.device()
    return model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


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


def _trained(
    model: nn.Module, train: ParticleSet, out: Path, params: Mapping[str, Any]
) -> tuple[nn.Module, list[dict[str, Any]]]:
    plan, seed, labels = params["train"], params["seed"], train.labels
    if hasattr(model, "prepare"):
        model.prepare(train)  # type: ignore[operator]
    task = Task(
        order=draws.epochs(len(train), plan.batch, seed),
        fetch=lambda at: (train.images(at), labels[at]),
        label=f"generator {' '.join(train.classes)}",
    )
    return fit(model, plan, task, out=out, seed=seed, precision=params["precision"])


def _save(
    out: Path, model: Any, use: Use, spec: ImageSpec, train: ParticleSet, history: list[Any]
) -> None:
    state = model.state_dict() if hasattr(model, "state_dict") else model.state()
    checkpoint.save_tensors(out / WEIGHTS, {k: torch.as_tensor(v) for k, v in state.items()})
    config = {
        **use.describe(),
        "spec": {"channels": spec.channels, "size": spec.size, "classes": list(spec.classes)},
        "numbers": sum(int(np.prod(v.shape)) for v in state.values()),
        "images": train.counts,
        "digest": train.digest,
    }
    write_json(out / "config.json", config)
    write_json(out / "history.json", history)
    checkpoint.clear(out)
