"""Losses of classifiers, each with the class prior that a model trained with it has learnt.

All take labels int64 (B,), or soft ones float (B, K) where a loss says so: a soft label costs what
its classes cost, in proportion (Zhang et al. 2018).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Counts = Mapping[str, float]


def shares(counts: Counts) -> np.ndarray:
    """Return counts as shares that sum to 1, in their order: float64 (K,)."""
    n = np.array(list(counts.values()), dtype=np.float64)
    return n / max(n.sum(), 1e-300)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy, each particle weighted by its class; `prior` (K,) is what it teaches.

    The weights (K,) are scaled so that they average 1 over the training set, and the loss is the
    plain mean over the batch: dividing by the batch's own weights would make a batch's gradient
    depend on which rare particles happen to share it.
    """

    weights: np.ndarray | None
    prior: np.ndarray

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss () of logits (B, K) and labels, int64 (B,) or soft (B, K)."""
        if labels.dim() == 2:
            return _mean(-functional.log_softmax(logits.float(), 1), labels, self.weights)
        each = functional.cross_entropy(logits.float(), labels, reduction="none")
        if self.weights is None:
            return each.mean()
        weights = torch.as_tensor(self.weights, dtype=each.dtype, device=each.device)
        return (each * weights[labels]).mean()


@dataclass(frozen=True)
class Focal:
    """(1 - p)^gamma times the weighted cross-entropy, in its softmax form (Lin et al. 2017, eq. 4).

    `prior` is that of the weights: focusing flattens the probabilities but not the class mass.
    """

    gamma: float
    weights: np.ndarray | None
    prior: np.ndarray

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss () of logits (B, K) and labels, int64 (B,) or soft (B, K)."""
        log_p = functional.log_softmax(logits.float(), 1)
        # the power's gradient is without bound at 0 for gamma < 1
        missed = (-torch.expm1(log_p)).clamp(min=1e-7)
        return _mean(-log_p * missed**self.gamma, labels, self.weights)


@dataclass(frozen=True)
class Adjusted:
    """Cross-entropy of logits + offset (K,), the offset serving training alone."""

    offset: np.ndarray
    prior: np.ndarray

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss () of logits (B, K) and labels, int64 (B,) or soft (B, K)."""
        offset = torch.as_tensor(self.offset, dtype=torch.float32, device=logits.device)
        return _mean(-functional.log_softmax(logits.float() + offset, 1), labels, None)


@dataclass(frozen=True)
class Margin:
    """Cross-entropy once the logit of the true class is lowered by its margin (K,): hard labels.

    LDAM (Cao et al. 2019) with the margins in the units of the logits.
    """

    margins: np.ndarray
    weights: np.ndarray | None
    prior: np.ndarray

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss () of logits (B, K) and labels int64 (B,)."""
        margins = torch.as_tensor(self.margins, dtype=torch.float32, device=logits.device)
        own = functional.one_hot(labels, logits.shape[1]).to(torch.float32)
        lowered = logits.float() - margins * own
        return _mean(-functional.log_softmax(lowered, 1), labels, self.weights)


@dataclass(frozen=True)
class Deferred:
    """One loss up to a share of the run, another from there on: deferred re-weighting.

    `prior` is that of the later one (Cao et al. 2019, algorithm 1).
    """

    first: CrossEntropy | Focal | Margin
    then: CrossEntropy | Focal | Margin
    after: float

    @property
    def prior(self) -> np.ndarray:
        """The class mass (K,) that the last part of the run teaches."""
        return self.then.prior

    def __call__(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Return the mean loss () at this share of the run, in 0 .. 1."""
        return (self.first if progress < self.after else self.then)(logits, labels)


def cross_entropy(counts: Counts) -> CrossEntropy:
    """Return the plain cross-entropy of a training set with these counts."""
    return CrossEntropy(None, shares(counts))


def inverse_frequency(counts: Counts, power: float) -> CrossEntropy:
    """Return the cross-entropy with class weights n_c ** -power; a class without any gets 0.

    The prior becomes proportional to n_c ** (1 - power): even at 1, the counts' own at 0.
    """
    share = shares(counts)
    weights = np.where(share > 0, np.maximum(share, 1e-300) ** -power, 0.0)
    weights /= (weights * share).sum()
    return CrossEntropy(weights, weights * share)


def effective(counts: Counts, beta: float) -> np.ndarray:
    """Return weights (K,) in proportion to (1 - beta) / (1 - beta ** n_c), mean 1 over particles.

    The inverse of the effective number of particles (Cui et al. 2019); a class
    without any gets 0. All alike at beta = 0, inverse frequency as beta nears 1.
    """
    n, share = np.array(list(counts.values()), dtype=np.float64), shares(counts)
    # 1 - beta^n without losing digits where beta is close to 1
    number = -np.expm1(np.maximum(n, 1e-300) * np.log(beta)) if beta > 0 else np.ones_like(n)
    weights = np.where(n > 0, (1 - beta) / number, 0.0)
    return weights / (weights * share).sum()


def effective_number(counts: Counts, beta: float) -> CrossEntropy:
    """Return the cross-entropy with the weights of `effective`."""
    weights = effective(counts, beta)
    return CrossEntropy(weights, weights * shares(counts))


def focal(counts: Counts, gamma: float, beta: float | None = None) -> Focal:
    """Return the focal loss; with a beta, class-balanced by `effective` (Cui et al. 2019)."""
    if beta is None:
        return Focal(gamma, None, shares(counts))
    weights = effective(counts, beta)
    return Focal(gamma, weights, weights * shares(counts))


def ldam(counts: Counts, most: float, scale: float, beta: float, after: float) -> Deferred:
    """Return LDAM with deferred re-weighting (Cao et al. 2019, algorithm 1).

    Margins go as n_c ** -1/4, the largest being `most` in cosines; logits are `scale` times
    cosines. From `after` of the run on, the weights of `effective` act. The margin is no prior:
    what is learnt is the class mass of the weights.
    """
    n = np.array(list(counts.values()), dtype=np.float64)
    fewest = n[n > 0].min()
    margins = np.where(n > 0, most * (fewest / np.maximum(n, fewest)) ** 0.25, 0.0) * scale
    weights = effective(counts, beta)
    then = Margin(margins, weights, weights * shares(counts))
    return Deferred(Margin(margins, None, shares(counts)), then, after)


def logit_adjusted(counts: Counts, tau: float) -> Adjusted:
    """Return the cross-entropy of logits + tau * log(share) (Menon et al. 2021, eq. 10).

    The logits then speak for a prior in proportion to share ** (1 - tau): even at tau = 1, which
    is the balanced softmax (Ren et al. 2020).
    """
    share = shares(counts)
    # a class without any particle stays finite, and out of the prior
    offset = tau * np.log(np.maximum(share, 1e-12))
    mass = np.where(share > 0, np.maximum(share, 1e-300) ** (1 - tau), 0.0)
    return Adjusted(offset, mass / mass.sum())


def _mean(each: Tensor, labels: Tensor, weights: np.ndarray | None) -> Tensor:
    # each (B, K) is what every label would cost
    if weights is not None:
        each = each * torch.as_tensor(weights, dtype=each.dtype, device=each.device)
    if labels.dim() == 2:
        return (each * labels).sum(1).mean()
    return each.gather(1, labels[:, None]).mean()
