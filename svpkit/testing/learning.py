"""The toy trainings of the checks: by the shared fit for a module, by its own for an object."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from svpkit import draws
from svpkit.fit import Plan, Task, fit, to_float
from svpkit.generate.training import train_module
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.testing.subject import Subject
from svpkit.testing.toys import particles

IMAGES = {"generator": 4800, "classifier": 1920}
EACH = 100


@dataclass(frozen=True)
class Looks(Plan):
    """A plan that looks at nothing on the way."""

    looks: int = 0
    patience: int = 0


def toys(subject: Subject, each: int = EACH, seed: int = 0) -> ParticleSet:
    """Return toy particles of the subject's spec, so many of each class."""
    return particles(dict.fromkeys(subject.spec.classes, each), seed, subject.spec)


def batch(
    subject: Subject, n: int = 6, spec: ImageSpec | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return n toy images float32 in [-1, 1], their labels, classes in turn, and their seeds."""
    spec = spec or subject.spec
    found = particles(dict.fromkeys(spec.classes, n), 1, spec)
    k = len(spec.classes)
    rows = np.array([i % k * n + i // k for i in range(n)])
    images, labels = found.images(rows), found.labels[rows]
    seeds = draws.seeds(subject.seed, "kit", "batch", index=np.arange(n))
    return to_float(torch.from_numpy(images)), torch.from_numpy(labels), seeds


def trained(subject: Subject) -> tuple[Any, list[float]]:
    """Return a generator or classifier after its toy training, in evaluation mode, and its losses.

    An object trains itself and tells no losses.
    """
    model, train = subject.build(), toys(subject)
    if not isinstance(model, nn.Module):
        model.fit(train, subject.seed)
        return model, []
    images = subject.trial.images or IMAGES[subject.plugin.kind]
    plan = Looks(images, 32, 2e-3 if subject.plugin.kind == "classifier" else 1e-3)
    model, history = learn(subject, model, train, plan)
    return model.eval(), [row["loss"] for row in history if "loss" in row]


def learn(
    subject: Subject, model: nn.Module, train: ParticleSet, plan: Looks
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train a generator or classifier by the shared fit; returns it with its history."""
    with tempfile.TemporaryDirectory() as folder:
        if subject.plugin.kind == "generator":
            params = {"train": plan, "seed": subject.seed, "precision": "fp32"}
            return train_module(model, train, Path(folder), params)
        task = _naming(train, plan, subject.seed)
        return fit(model, plan, task, out=Path(folder), seed=subject.seed, precision="fp32")


def _naming(train: ParticleSet, plan: Plan, seed: int) -> Task:
    labels = train.labels

    def loss(
        model: Callable[..., Tensor], x: Tensor, y: Tensor, seeds: Tensor, part: str
    ) -> Tensor:
        return cross_entropy(model(x), y)

    return Task(
        order=draws.epochs(len(train), plan.batch, seed),
        fetch=lambda at: (train.images(at), labels[at]),
        loss=loss,
        label="toy training",
    )
