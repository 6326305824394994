"""Pre-training: a generator learns from other particles before the few that it is for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from svpkit import draws, ranks
from svpkit.errors import SvpkitError
from svpkit.generate.training import WEIGHTS, save_generator, train_module
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split
from svpkit.safe import load_tensors
from svpkit.store import stage

ANY = "any"


@stage(revision=1, everywhere=True, resumes=True)
def pretrain(out: Path, params: Mapping[str, Any], source: Path) -> None:
    """Train a generator on many particles as if they were one class; writes as `generator` does.

    `params`: generator (a plugin with its options), on (classes, or None for all), train (a plan),
    seed, precision. `source` is a split, whose training images are taken, or a set of particles.
    Raises SvpkitError for a generator that is no `nn.Module` and for classes without images.
    """
    particles = source_images(source, params["on"])
    spec = ImageSpec(particles.shape[0], particles.shape[1], (ANY,))
    with draws.seeded(params["seed"], "pretrain"):
        model = params["generator"](spec)
    if not isinstance(model, nn.Module):
        name = params["generator"].plugin.name
        raise SvpkitError(f"generator.pretrain: '{name}' has no weights to train beforehand")
    model, history = train_module(model, particles, out, params)
    ranks.on_main(lambda: save_generator(out, model, params["generator"], spec, particles, history))


def source_images(source: Path, classes: tuple[str, ...] | None) -> ParticleSet:
    """Return the particles to learn from, all under one label."""
    split = (source / "split.json").is_file()
    particles = Split.open(source).train() if split else ParticleSet.open(source)
    for name in classes or ():
        if not particles.counts.get(name):
            raise SvpkitError(f"generator.pretrain.on: '{name}' has no training images")
    if classes:
        wanted = particles.table["label"].isin(classes).to_numpy()
        particles = particles.take(np.flatnonzero(wanted))
    table = particles.table.assign(label=ANY)
    return replace(particles, table=table, classes=(ANY,))


def adopt(model: nn.Module, folder: Path) -> float:
    """Load what a pre-trained folder and the model share; return the share of parameters.

    Tensors agree by name and shape: what belongs to classes alone stays as it was.
    """
    tensors = load_tensors(folder / WEIGHTS)
    own = model.state_dict()
    shared = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(own | shared)
    names = {name for name, _ in model.named_parameters()}
    count = sum(own[n].numel() for n in names & shared.keys())
    return count / max(sum(own[n].numel() for n in names), 1)
