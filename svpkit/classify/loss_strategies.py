"""Strategies that set the loss: class weights, focal, margins, logit adjustment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

# Strategies are built whenever a recipe is checked, so torch waits until one is put to work.
if TYPE_CHECKING:
    from svpkit.classify.losses import Adjusted, Deferred, Focal

Counts = Mapping[str, float]


@dataclass(frozen=True)
class ClassWeights:
    """Weigh each particle's loss by its class c.

    `rule` "power": n_c ** -power; "effective": (1 - beta) / (1 - beta ** n_c) (Cui et al. 2019).
    All weigh alike up to the share `after` of the run (deferred re-weighting, Cao et al. 2019).
    """

    power: float = 1.0
    rule: Literal["power", "effective"] = "power"
    beta: float = 0.9999
    after: float = 0.0

    @property
    def settles(self) -> float:
        """The share of the run from which the weights act."""
        return self.after

    def loss(self, counts: Counts) -> Any:
        """Return the weighted cross-entropy for these counts."""
        from svpkit.classify import losses

        if self.rule == "power":
            then = losses.inverse_frequency(counts, self.power)
        else:
            then = losses.effective_number(counts, self.beta)
        if not self.after:
            return then
        return losses.Deferred(losses.cross_entropy(counts), then, self.after)


@dataclass(frozen=True)
class FocalLoss:
    """Give the particles that are told well already less weight: (1 - p)^gamma (Lin et al. 2017).

    With a `beta` class-balanced by the effective number of particles (Cui et al. 2019).
    """

    gamma: float = 2.0
    beta: float | None = None

    def loss(self, counts: Counts) -> "Focal":
        """Return the focal loss for these counts."""
        from svpkit.classify.losses import focal

        return focal(counts, self.gamma, self.beta)


@dataclass(frozen=True)
class Ldam:
    """Larger margins for rarer classes, then class-balanced weights: LDAM-DRW (Cao et al. 2019).

    The network's last layer becomes a normalised one, whose logits are `cosine` times cosines, as
    in the paper. The margin belongs to one class: soft labels are not taken.
    """

    margin: float = 0.5
    cosine: float = 30.0
    after: float = 0.8
    beta: float = 0.9999
    soft: ClassVar[bool] = False

    @property
    def settles(self) -> float:
        """The share of the run from which the re-weighting acts."""
        return self.after

    def loss(self, counts: Counts) -> "Deferred":
        """Return the loss for these counts; it depends on the progress of the run."""
        from svpkit.classify.losses import ldam

        return ldam(counts, self.margin, self.cosine, self.beta, self.after)


@dataclass(frozen=True)
class LogitAdjustment:
    """Add tau * log(share) to the logits in training alone (Menon et al. 2021).

    With tau = 1 this is the balanced softmax (Ren et al. 2020): the model learns an even prior.
    """

    tau: float = 1.0

    def loss(self, counts: Counts) -> "Adjusted":
        """Return the adjusted cross-entropy for these counts."""
        from svpkit.classify.losses import logit_adjusted

        return logit_adjusted(counts, self.tau)
