"""Strategies together: checked against each other, applied in the listed order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor

from svpkit.classify import conflicts, losses
from svpkit.classify.context import Context, Priors
from svpkit.classify.sampling import Weights, at, within
from svpkit.errors import SvpkitError, unknown
from svpkit.fit import Augment
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import Use


@dataclass(frozen=True)
class Prepared:
    """What a classifier is trained on.

    `weights` float64 (N,), a function of the progress that gives them, or None say how often each
    particle of `train` is seen; `loss` takes logits, labels and, if it asks for it, `progress`;
    `mix` takes images, soft labels, both of the partners, and seeds; `prior` (K,) is the class mass
    that training sees after resampling, drawn particles and the loss. What changes over the run
    counts as it is at the end.
    """

    train: ParticleSet
    weights: Weights | None
    loss: Any
    mix: Any
    prior: np.ndarray


@dataclass(frozen=True)
class Balance:
    """The strategies of one arm, by name, in the listed order."""

    strategies: tuple[tuple[str, Any], ...] = ()

    def having(self, method: str) -> list[tuple[str, Any]]:
        """Return the strategies, by name, that have one of the contract's methods."""
        return [(name, s) for name, s in self.strategies if callable(getattr(s, method, None))]

    def draws(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return how many particles to draw of each class: none where no strategy asks."""
        return {c: n for _, s in self.having("draws") for c, n in s.draws(counts).items()}

    def prepare(self, train: ParticleSet, context: Context) -> Prepared:
        """Return the training set, its weights, the loss, and the prior that they teach."""
        for _, strategy in self.having("particles"):
            train = strategy.particles(train, context)
        labels, weights = train.labels, None
        for _, strategy in self.having("sampler"):
            weights = _known(strategy.sampler(labels))
        for _, strategy in self.having("factors"):
            weights = within(weights, strategy.factors(train), labels)
        # what changes over the run is counted as it is at the end, when the rate is lowest
        counts = seen(labels, context.classes, None if weights is None else at(weights, 1.0))
        loss: Any = losses.cross_entropy(counts)
        mix: Any = None
        for _, strategy in self.having("loss"):
            loss = strategy.loss(counts)
        for _, strategy in self.having("mix"):
            mix = strategy.mix(counts)
        prior = getattr(loss, "prior", losses.shares(counts))
        return Prepared(train, weights, loss, mix, prior)

    @property
    def settles(self) -> float:
        """The share of the run, 0 .. 1, from which on weights are what the strategies aim at."""
        return max((getattr(s, "settles", 0.0) for _, s in self.strategies), default=0.0)

    @property
    def cosine(self) -> float | None:
        """The scale of the normalised last layer that a strategy asks for, or None."""
        return next((s.cosine for _, s in self.strategies if getattr(s, "cosine", None)), None)

    @property
    def augment(self) -> Augment | None:
        """The augmentations one after the other, or None."""
        steps = [strategy.augment for _, strategy in self.having("augment")]

        def augment(images: Tensor, labels: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
            for step in steps:
                images, labels = step(images, labels, seeds)
            return images, labels

        return augment if steps else None

    def adjust(self, logits: np.ndarray, priors: Priors) -> np.ndarray:
        """Return logits (N, K) moved by the strategy that does so, if any."""
        for _, strategy in self.having("adjust"):
            logits = strategy.adjust(logits, priors)
        return logits


def compose(uses: Sequence[Use]) -> Balance:
    """Build the strategies; raises SvpkitError where two of them would get in each other's way."""
    balance = Balance(tuple((use.plugin.name, use()) for use in uses))
    conflicts.check(balance.strategies)
    return balance


def seen(
    labels: np.ndarray, classes: Sequence[str], weights: np.ndarray | None
) -> dict[str, float]:
    """Return how many of N particles seen are of each class, on average, in class order."""
    n = np.bincount(labels, weights, minlength=len(classes)).astype(np.float64)
    return dict(zip(classes, (n * (len(labels) / n.sum())).tolist(), strict=True))


def deployment(prevalence: Mapping[str, float] | None, classes: Sequence[str]) -> np.ndarray | None:
    """Return the prevalence as shares (K,); raises SvpkitError where a class is not above 0."""
    if prevalence is None:
        return None
    for name in prevalence:
        if name not in classes:
            raise unknown("evaluate.prevalence", name, classes)
    for name in classes:
        if not 0 < prevalence.get(name, 0) < float("inf"):
            given = prevalence.get(name, "nothing")
            raise SvpkitError(f"evaluate.prevalence.{name}: given {given}, above 0 is needed")
    return losses.shares({name: prevalence[name] for name in classes})


def _known(weights: Any) -> Weights:
    return cast(Weights, weights) if callable(weights) else np.asarray(weights, dtype=np.float64)
