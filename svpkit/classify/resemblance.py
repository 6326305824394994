"""How much two groups of particles resemble each other, the class mix allowed for."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

NEIGHBOURS = 5
_DIMS = 16
_FOLDS = 5
_FARTHEST = 10.0  # in sigmas: particles beyond would rule means and fits
_RIDGE = 10.0  # on whitened coordinates: keeps a few particles from being told apart by heart
Z = 2.33
"""Of one-sided 99 % limits: several effects are looked at, and one may fire by chance."""


def whitening(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (F,) and a basis (F, D) that makes features (N, F) uncorrelated, sigma 1.

    D is at most 16, and a tenth of N: directions of less weight are noise with few particles.
    """
    mean = features.mean(0, dtype=np.float64)
    centred = features - mean
    value, vector = np.linalg.eigh(centred.T @ centred / len(centred))
    dims = max(1, min(_DIMS, len(features) // 10))
    value, vector = value[::-1][:dims], vector[:, ::-1][:, :dims]
    there = value > 1e-9 * max(value[0], 1e-30)
    return mean, vector[:, there] / np.sqrt(value[there])


def mix(
    labels: np.ndarray,
    named: np.ndarray,
    known: np.ndarray,
    found: np.ndarray,
    there: np.ndarray,
    k: int,
) -> np.ndarray:
    """Return the shares of k classes that explain an input best, were its classes as known: (k,).

    labels, named int (N,) and points (N, D) are of known particles, found int (M,) and points
    (M, D) of the input's; named and found are k for what was rejected. Non-negative least squares
    on the shares of names (the adjusted count, Forman 2008) and, since names alone cannot part
    classes that are confused, the mean of the points; even shares where nothing fits.
    """
    there_mean = np.clip(there, -_FARTHEST, _FARTHEST).mean(0)
    columns = np.zeros((k + 1 + len(there_mean), k))
    for c in np.unique(labels):
        own = labels == c
        shares = np.bincount(named[own], minlength=k + 1) / own.sum()
        columns[:, c] = np.concatenate([shares, known[own].clip(-_FARTHEST, _FARTHEST).mean(0)])
    seen = np.bincount(found, minlength=k + 1) / len(found)
    shares = nnls(columns, np.concatenate([seen, there_mean]))[0]
    return shares / shares.sum() if shares.sum() > 0 else np.full(k, 1 / k)


def weights(labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the weight of each particle (N,), of mean 1, that gives classes these shares (K,)."""
    n = np.bincount(labels, minlength=len(shares))
    # a trace of every class stays: thresholds of a class that seems absent are still needed
    each = (np.maximum(shares, 1e-4) / np.maximum(n, 1))[labels]
    return each * len(labels) / each.sum()


def size(weight: np.ndarray) -> float:
    """Return how many particles of equal weight these are worth (Kish 1965)."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def quantiles(values: np.ndarray, weight: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """Return weighted quantiles of values (N,): (len(at),)."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(weight[order])
    place = np.searchsorted(upto, np.asarray(at) * upto[-1] * (1 - 1e-12))
    return values[order][np.minimum(place, len(values) - 1)]


def strange(
    apart: np.ndarray,
    named: np.ndarray,
    weight: np.ndarray,
    apart_there: np.ndarray,
    named_there: np.ndarray,
) -> np.ndarray:
    """Return bool (M,): farther than the 95th weighted percentile of those (N,) named alike.

    The unweighted percentile counts where it is the higher: the weighted one may hang on a few. A
    class that fewer than 2 NEIGHBOURS are named is held to the percentiles of all.
    """
    limit = np.full(len(apart_there), _high(apart, weight))
    for k in np.unique(named_there):
        own = named == k
        if own.sum() >= 2 * NEIGHBOURS:
            limit[named_there == k] = _high(apart[own], weight[own])
    return apart_there > limit


def _high(apart: np.ndarray, weight: np.ndarray) -> float:
    even = np.ones(len(weight))
    return max(float(quantiles(apart, w, [0.95])[0]) for w in (weight, even))


def lower_share(hits: int, n: int) -> float:
    """Return Wilson's (1927) lower one-sided 99 % limit of a share; 0 where n is 0."""
    if not n:
        return 0.0
    share, z2 = hits / n, Z**2 / n
    half = Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return float((share + z2 / 2 - half) / (1 + z2))


def two_sample(known: np.ndarray, weight: np.ndarray, there: np.ndarray) -> tuple[float, float]:
    """Return the AUC of telling points (M, D) from weighted known ones (N, D), and its lower limit.

    Logistic regression out of fold, both sides of equal weight; a point's fold is its position's.
    The limit is one-sided, 99 % (Hanley & McNeil 1982), for as many particles as `weight` is worth.
    """
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([known, there])
    y = np.repeat([0, 1], [len(known), len(there)])
    x = np.clip(x, -_FARTHEST, _FARTHEST)
    w = np.concatenate([weight / weight.sum(), np.full(len(there), 1 / len(there))])
    fold = np.concatenate([np.arange(len(known)), np.arange(len(there))]) % _FOLDS
    told = np.empty(len(x))
    for f in range(_FOLDS):
        rest = fold != f
        model = LogisticRegression(C=1 / _RIDGE, max_iter=300)
        model.fit(x[rest], y[rest], w[rest] * 2 * min(len(there), size(weight)))
        told[~rest] = model.decision_function(x[~rest])
    found = auc(told[len(known) :], told[: len(known)], weight)
    return found, found - Z * _auc_error(found, len(there), size(weight))


def auc(high: np.ndarray, low: np.ndarray, weight: np.ndarray) -> float:
    """Return the chance that one of `high` (M,) exceeds one of `low` (N,) of these weights (N,)."""
    order = np.argsort(low, kind="stable")
    upto = np.concatenate([[0], np.cumsum(weight[order])])
    below = upto[np.searchsorted(low[order], high, side="left")]
    tied = upto[np.searchsorted(low[order], high, side="right")]
    return float(((below + tied) / 2).mean() / upto[-1])


def _auc_error(auc: float, m: float, n: float) -> float:
    a = min(max(auc, 0.5), 1 - 1 / (2 * max(m, n)))
    one, two = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (m - 1) * (one - a * a) + (n - 1) * (two - a * a)
    return float(np.sqrt(spread / (m * n)))
