"""What strategies are told: the training set's surroundings, and the class shares that matter."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from svpkit.particles.particleset import ParticleSet


@dataclass(frozen=True)
class Context:
    """What a strategy may know beside the training set."""

    classes: tuple[str, ...]
    seed: int = 0
    prevalence: Mapping[str, float] | None = None
    drawn: ParticleSet | None = None


@dataclass(frozen=True)
class Priors:
    """Class shares (K,) that sum to 1: as training saw them, and where the model will be used.

    `confusion` (K, K) sums the probabilities that val particles of each class (rows) are given
    before any adjustment; None where there is no val.
    """

    train: np.ndarray
    deployment: np.ndarray | None = None
    confusion: np.ndarray | None = None
