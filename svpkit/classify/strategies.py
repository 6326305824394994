"""How imbalance is met: weights, resampling, augmentation, drawn particles, prior correction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from svpkit.errors import SvpkitError, unknown
from svpkit.particles.particleset import ParticleSet, concat

# Strategies are built whenever a recipe is checked, so torch waits until one is put to work.
if TYPE_CHECKING:
    from torch import Tensor

    from svpkit.classify.losses import CrossEntropy


@dataclass(frozen=True)
class Context:
    """What a strategy may know beside the training set."""

    classes: tuple[str, ...]
    seed: int = 0
    prevalence: Mapping[str, float] | None = None
    drawn: ParticleSet | None = None


@dataclass(frozen=True)
class Priors:
    """Class shares (K,) that sum to 1: as training saw them, and where the model will be used."""

    train: np.ndarray
    deployment: np.ndarray | None = None


@dataclass(frozen=True)
class Nothing:
    """Particles as they are, cross-entropy as it is: what the others are measured against."""


@dataclass(frozen=True)
class ClassWeights:
    """Weigh each particle's loss by n_c ** -power of its class c."""

    power: float = 1.0

    def loss(self, counts: Mapping[str, float]) -> "CrossEntropy":
        """Return the weighted cross-entropy for these counts."""
        from svpkit.classify.losses import inverse_frequency

        return inverse_frequency(counts, self.power)


@dataclass(frozen=True)
class Oversample:
    """Draw training particles with replacement, each with weight n_c ** -power of its class c."""

    power: float = 1.0

    def sampler(self, labels: np.ndarray) -> np.ndarray:
        """Return the weights float64 (N,) of particles with labels int64 (N,)."""
        n = np.bincount(labels)
        return np.maximum(n, 1)[labels] ** -float(self.power)


@dataclass(frozen=True)
class Augment:
    """Random flips, quarter turns, shifts and brightness: what does not change a particle's class.

    `shift` is the largest shift as a share of the side, rounded to whole pixels; what comes into
    view is the background (median of the border) or the mirrored image. `brightness` is the largest
    change of the grey level, as a share of the whole range.
    """

    flips: bool = True
    turns: bool = True
    shift: float = 0.0625
    fill: Literal["background", "reflect"] = "background"
    brightness: float = 0.0

    def augment(
        self, images: "Tensor", labels: "Tensor", seeds: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Return images in [-1, 1] (B, C, H, H) moved by what seeds int64 (B,) say, and labels."""
        from svpkit.classify.augment import pixel_map, shift_brightness

        moved = pixel_map(
            images, seeds, self.flips, self.turns, round(self.shift * images.shape[-1]), self.fill
        )
        if self.brightness:
            moved = shift_brightness(moved, seeds, 2 * self.brightness)
        return moved, labels


@dataclass(frozen=True)
class PriorCorrection:
    """Move logits from the prior that training saw to the one where the model is used.

    logits + tau * log(deployment / train), exact for tau = 1 where only the class shares differ
    (Saerens, Latinne & Decaestecker 2002; logit adjustment, Menon et al. 2021).
    """

    tau: float = 1.0

    def adjust(self, logits: np.ndarray, priors: Priors) -> np.ndarray:
        """Return logits (N, K) adjusted; raises SvpkitError where no prevalence is given."""
        if priors.deployment is None:
            raise SvpkitError("evaluate.prevalence: missing; strategy 'prior_correction' needs it")
        # a class that training never saw keeps a finite logit
        ratio = np.maximum(priors.deployment, 1e-12) / np.maximum(priors.train, 1e-12)
        return logits + (self.tau * np.log(ratio)).astype(logits.dtype)


@dataclass(frozen=True)
class Synthetic:
    """Add drawn particles to the real ones.

    `to`: "largest" fills each class up to the largest; a mapping fills the classes that it names up
    to those counts; a number draws that share of the real particles, for every class but the
    largest. `at_most` limits the particles drawn for a class; `gates` are the limits of fidelity
    that the host holds them to.
    """

    to: Literal["largest"] | dict[str, int] | float = "largest"
    at_most: int | None = None
    gates: Mapping[str, float] = field(default_factory=dict)

    def draws(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return how many particles to draw of each class, from the real counts of all classes."""
        wanted = self._wanted(counts)
        if self.at_most is not None:
            wanted = {name: min(n, self.at_most) for name, n in wanted.items()}
        return {name: n for name, n in wanted.items() if n > 0}

    def _wanted(self, counts: Mapping[str, int]) -> dict[str, int]:
        largest = max(counts.values())
        if isinstance(self.to, dict):
            for name in self.to:
                if name not in counts:
                    raise unknown("balance.synthetic.to", name, counts)
            return {name: total - counts[name] for name, total in self.to.items()}
        if self.to == "largest":
            return {name: largest - n for name, n in counts.items()}
        return {name: round(self.to * n) for name, n in counts.items() if n < largest}

    def particles(self, train: ParticleSet, context: Context) -> ParticleSet:
        """Return the training set with the drawn particles after the real ones."""
        if context.drawn is None:
            if self.draws(train.counts):
                raise SvpkitError("balance.synthetic: no drawn particles are at hand to add")
            return train
        return concat([train, context.drawn]).with_classes(context.classes)
