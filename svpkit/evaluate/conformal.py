"""Class-conditional conformal sets: which classes a particle may be, at a stated error of each.

Split conformal prediction by class (Mondrian; Vovk, Gammerman and Shafer, Algorithmic Learning in
a Random World, 2005) with the score 1 - p_k (Sadinle, Lei and Wasserman, JASA 114, 2019). Of the
particles of each class at least 1 - alpha have that class in their set, on average over validation
sets, where they are exchangeable with the validation particles of that class: whatever the mix of
classes. Validation that chose a calibrator or a checkpoint is not quite exchangeable any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics
from svpkit.evaluate.intervals import wilson


def least(alpha: float) -> int:
    """Return the validation particles below which a class is in every set: 1 / alpha - 1."""
    return math.ceil(1 / _checked(alpha) - 1 - 1e-9)


def quantiles(labels: np.ndarray, p: np.ndarray, alpha: float) -> np.ndarray:
    """Return the largest score 1 - p_k at which class k is still in the set, (K,).

    labels int (N,), p (N, K), alpha above 0, below 1. It is the ceil((n + 1) (1 - alpha))-th
    smallest score of the n particles of the class; inf, and so in every set, where n is below
    `least`. Raises SvpkitError where shapes do not fit.
    """
    _checked(alpha)
    metrics.check(labels, p, [str(k) for k in range(p.shape[-1])])
    score = 1 - np.asarray(p, dtype=np.float64)
    found = np.full(p.shape[1], np.inf)
    for k in range(found.size):
        own = np.sort(score[labels == k, k])
        # 1 - alpha is inexact: what should be a whole number must not be taken for a little more
        rank = math.ceil((own.size + 1) * (1 - alpha) - 1e-9)
        if rank <= own.size:
            found[k] = own[rank - 1]
    return found


def sets(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return whether each class is in each particle's set, bool (N, K), from p (N, K) and q (K,).

    A set may hold several classes, or none: then the particle is unlike all of them.
    """
    return 1 - np.asarray(p, dtype=np.float64) <= q


def coverage(labels: np.ndarray, members: np.ndarray, classes: Sequence[str]) -> list[dict]:
    """Count how often sets bool (N, K) hold the true class, a row a class and one for "all".

    labels int (N,). Keys: name, n, covered, low and high (Wilson, 95 %), size (mean number of
    classes), single and empty (shares); None where there is no particle.
    """
    rows = [(name, labels == k) for k, name in enumerate(classes)]
    rows += [("all", np.ones(labels.size, bool))]
    return [{"name": name} | _row(labels[of], members[of]) for name, of in rows]


def _row(labels: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    if not labels.size:
        empty: dict[str, Any] = dict.fromkeys(("covered", "low", "high", "size", "single", "empty"))
        return {"n": 0} | empty
    held, size = members[np.arange(labels.size), labels], members.sum(1)
    low, high = wilson(int(held.sum()), labels.size)
    shares = {"single": float((size == 1).mean()), "empty": float((size == 0).mean())}
    covered = {"covered": float(held.mean()), "low": low, "high": high}
    return {"n": labels.size} | covered | {"size": float(size.mean())} | shares


def _checked(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise SvpkitError(f"conformal alpha: {alpha} given, a number above 0, below 1 is needed")
    return alpha
