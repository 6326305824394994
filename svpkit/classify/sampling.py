"""Strategies that choose which particles are seen, and how often: weights over the particles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svpkit import draws
from svpkit.classify.context import Context
from svpkit.particles.particleset import ParticleSet

# Weights float64 (N,) as they are, or as a function of the share of the run that is done.
Weights = np.ndarray | Callable[[float], np.ndarray]


@dataclass(frozen=True)
class Oversample:
    """Draw training particles with replacement, each with weight n_c ** -power of its class c."""

    power: float = 1.0

    def sampler(self, labels: np.ndarray) -> np.ndarray:
        """Return the weights float64 (N,) of particles with labels int64 (N,)."""
        n = np.bincount(labels)
        return np.maximum(n, 1)[labels] ** -float(self.power)


@dataclass(frozen=True)
class Undersample:
    """Keep a random subset of the larger classes: `ratio` times the smallest at most.

    The subset belongs to the seed and stays for the whole run, as in random undersampling
    (Japkowicz & Stephen 2002): what it leaves out is never seen. Strategies listed before it have
    had their turn: drawn particles are thinned out too if `synthetic` comes first.
    """

    ratio: float = 1.0

    def particles(self, train: ParticleSet, context: Context) -> ParticleSet:
        """Return the subset, its particles in the order they had."""
        labels, rng = train.labels, draws.rng(context.seed, "undersample")
        n = np.bincount(labels, minlength=1)
        most = int(self.ratio * n[n > 0].min()) if len(labels) else 0
        rows = (rng.permutation(np.flatnonzero(labels == k))[:most] for k in range(len(n)))
        return train.take(np.sort(np.concatenate([np.empty(0, np.int64), *rows])))


@dataclass(frozen=True)
class Progressive:
    """Go from particles as they are to even classes over the run (Kang et al. 2020, eq. 2).

    At the share t of the run class c has the share (1 - t) n_c / N + t / K among those seen, with
    t the progress itself where the paper counts epochs. What is learnt is taken to be the end's.
    """

    settles: ClassVar[float] = 1.0

    def sampler(self, labels: np.ndarray) -> Callable[[float], np.ndarray]:
        """Return a function of the progress in 0 .. 1 that gives the weights float64 (N,)."""
        n = np.bincount(labels).astype(np.float64)
        even = 1 / (np.maximum(n, 1) * np.count_nonzero(n))

        def weights(progress: float) -> np.ndarray:
            return ((1 - progress) / n.sum() + progress * even)[labels]

        return weights


def at(weights: Weights, progress: float) -> np.ndarray:
    """Return the weights float64 (N,) at a share of the run, in 0 .. 1."""
    return np.asarray(weights(progress) if callable(weights) else weights, dtype=np.float64)


def within(sampler: Weights | None, factors: Weights | None, labels: np.ndarray) -> Weights | None:
    """Return what a sampler weighs by times factors; None stands for particles as they are.

    The shares of the classes are the sampler's: factors move weight between the particles of a
    class (labels (N,)) alone. Without a sampler the shares move with the factors.
    """
    if sampler is None or factors is None:
        return factors if sampler is None else sampler

    def weights(progress: float) -> np.ndarray:
        asked = at(sampler, progress)
        moved = asked * at(factors, progress)
        wanted, there = np.bincount(labels, asked), np.bincount(labels, moved)
        return moved * (wanted / np.where(there > 0, there, 1))[labels]

    return weights if callable(sampler) or callable(factors) else weights(0.0)
