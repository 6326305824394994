"""Strategies that change images, or what a model says: augmentation, drawn ones, priors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from svpkit.classify import prevalence
from svpkit.classify.context import Context, Priors
from svpkit.classify.sampling import Weights
from svpkit.errors import SvpkitError, unknown
from svpkit.particles.particleset import ParticleSet, concat

# Strategies are built whenever a recipe is checked, so torch waits until one is put to work.
if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Nothing:
    """Particles as they are, cross-entropy as it is: what the others are measured against."""


@dataclass(frozen=True)
class Augment:
    """Random flips, quarter turns, shifts and brightness: what does not change a particle's class.

    `shift` is the largest shift as a share of the side, rounded to whole pixels; what comes into
    view is the background (median of the border), the mirrored image, or black. `flips` may be
    "horizontal" alone. `brightness` is the largest change of the grey level, as a share of the
    whole range. Four of 32 pixels, black and horizontal are the usual crop and flip of CIFAR.
    """

    flips: bool | Literal["horizontal"] = True
    turns: bool = True
    shift: float = 0.0625
    fill: Literal["background", "reflect", "black"] = "background"
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
class RandAugment:
    """`operations` changes at random, each of up to `magnitude` (RandAugment, Cubuk et al. 2020).

    The changes suit grey particles, whose size and sign of contrast mean something and which have
    no way up: see `svpkit.classify.randaugment`.
    """

    operations: int = 2
    magnitude: float = 0.3

    def augment(
        self, images: "Tensor", labels: "Tensor", seeds: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Return images in [-1, 1] (B, C, H, H) changed by seeds int64 (B,), and labels."""
        from svpkit.classify.randaugment import changed

        return changed(images, seeds, self.operations, self.magnitude), labels


@dataclass(frozen=True)
class PriorCorrection:
    """Move logits from the prior that training saw to the one where the model is used.

    logits + tau * log(there / train), exact for tau = 1 where only the class shares differ
    (Saerens, Latinne & Decaestecker 2002; logit adjustment, Menon et al. 2021). `prevalence` says
    where `there` comes from: "stated", or estimated from the logits themselves, all of one call
    together, without their labels: "em" (Saerens et al. 2002), "bbse" (Lipton et al. 2018).
    """

    tau: float = 1.0
    prevalence: Literal["stated", "em", "bbse"] = "stated"

    @property
    def wants_prevalence(self) -> bool:
        """True when the mix at work has to be stated."""
        return self.prevalence == "stated"

    def adjust(self, logits: np.ndarray, priors: Priors) -> np.ndarray:
        """Return logits (N, K) adjusted; raises SvpkitError where what it needs is not given."""
        if not len(logits):
            return logits
        there = self._there(logits, priors)
        # a class that training never saw keeps a finite logit
        ratio = np.maximum(there, 1e-12) / np.maximum(priors.train, 1e-12)
        return logits + (self.tau * np.log(ratio)).astype(logits.dtype)

    def _there(self, logits: np.ndarray, priors: Priors) -> np.ndarray:
        if self.prevalence == "em":
            return prevalence.at_least(prevalence.em(logits, priors.train), len(logits))
        if self.prevalence == "bbse":
            if priors.confusion is None:
                raise SvpkitError(
                    "balance.prior_correction.prevalence: 'bbse' needs what the classifier says of "
                    "val, and this one has no record of it (no val, or an older classifier)"
                )
            return prevalence.at_least(prevalence.bbse(logits, priors.confusion), len(logits))
        if priors.deployment is None:
            raise SvpkitError("evaluate.prevalence: missing; strategy 'prior_correction' needs it")
        return priors.deployment


@dataclass(frozen=True)
class Synthetic:
    """Add drawn particles to the real ones.

    `to`: "largest" fills each class up to the largest; a mapping fills the classes that it names up
    to those counts; a number draws that share of the real particles, for every class but the
    largest. `at_most` limits the particles drawn for a class; `gates` are the limits of fidelity
    that the host holds them to. A drawn particle is seen `weight` times as often as a real one
    (Ye-Bin et al. 2023 weigh them down), and not at all in the last `real_last` of the run
    (SYNAuG, the same, trains on real data last). Where another strategy samples, the shares of the
    classes stay its own; else they move with both, as the prior that is noted does.
    """

    to: Literal["largest"] | dict[str, int] | float = "largest"
    at_most: int | None = None
    gates: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    real_last: float = 0.0

    @property
    def settles(self) -> float:
        """The share of the run from which real particles alone are seen; 0 where never."""
        return 1 - self.real_last if self.real_last else 0.0

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

    def factors(self, train: ParticleSet) -> Weights | None:
        """Return what multiplies each particle's weight, over the run; None where nothing does."""
        drawn = (train.table["origin"] == "synthetic").to_numpy()
        if (self.weight == 1 and not self.real_last) or not drawn.any():
            return None
        first = np.where(drawn, self.weight, 1.0)
        last = np.where(drawn, 0.0, 1.0)
        if not self.real_last:
            return first
        return lambda progress: first if progress < 1 - self.real_last else last
