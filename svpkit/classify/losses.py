"""Losses of classifiers, each with the class prior that a model trained with it has learnt."""

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
        """Return the mean loss () of logits (B, K) and labels int64 (B,)."""
        each = functional.cross_entropy(logits.float(), labels, reduction="none")
        if self.weights is None:
            return each.mean()
        weights = torch.as_tensor(self.weights, dtype=each.dtype, device=each.device)
        return (each * weights[labels]).mean()


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
