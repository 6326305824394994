"""Intervals: percentiles of replicates, and what holds where events are too few for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from svpkit.evaluate import metrics

LEVEL = 0.95
"""Coverage that every interval aims at."""

TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def interval(value: ArrayLike, draws: np.ndarray) -> dict[str, float | None]:
    """Percentile interval of replicates (R,) beside the point value; NaN replicates are left out.

    Keys value, low, high; None where there is nothing to say.
    """
    point, draws = float(np.asarray(value)), draws[np.isfinite(draws)]
    if draws.size < 2 or np.isnan(point):
        return {"value": None if np.isnan(point) else point, "low": None, "high": None}
    low, high = np.quantile(draws, TAILS)
    return {"value": point, "low": float(low), "high": float(high)}


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a proportion (JASA 22, 1927, p. 209); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    limits = stats.binomtest(int(hits), int(n)).proportion_ci(LEVEL, "wilson")
    return float(limits.low), float(limits.high)


def weighted_poisson(counts: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Limits of a weighted sum of Poisson counts, the gamma method.

    counts and weight (C,). Fay and Feuer, Stat. Med. 16, 1997, p. 791: the upper limit holds at
    zero counts, where it is set by the largest weight.
    """
    total = float(weight @ counts)
    variance, most = float(weight**2 @ counts), float(weight.max(initial=0.0))
    low, high = 0.0, total
    if total > 0:
        low = variance / (2 * total) * float(stats.chi2.ppf(TAILS[0], 2 * total**2 / variance))
    if most > 0:
        up, spread = total + most, variance + most**2
        high = spread / (2 * up) * float(stats.chi2.ppf(TAILS[1], 2 * up**2 / spread))
    return low, high


def precision_at(column: np.ndarray, k: int, n: int, weight: np.ndarray) -> tuple[float, float]:
    """Limits of a precision under class weights, trustworthy with few or no false positives.

    column (K,) counts the particles predicted as class k by true class, n is the size of class k,
    weight (K,). The ratio of false (weighted Poisson) to true (Wilson) by MOVER, Donner and Zou,
    Stat. Methods Med. Res. 21, 2012, p. 347.
    """
    low, high = weighted_poisson(np.delete(column, k), np.delete(weight, k))
    false = float(np.delete(weight, k) @ np.delete(column, k))
    true = float(weight[k] * column[k])
    true_low, true_high = (weight[k] * n * limit for limit in wilson(column[k], n))
    if true == 0:
        return 0.0, float(metrics.ratio(true_high, true_high + low, 0.0))
    most = _odds(false, high, true, true_low)
    least = _odds(false, low, true, true_high)
    return 1 / (1 + most), 1 / (1 + least)


def _odds(above: float, above_limit: float, below: float, below_limit: float) -> float:
    # The root of MOVER's quadratic that moves from above / below towards the limits given.
    cross = above * below
    top = above_limit * (2 * above - above_limit)
    bottom = below_limit * (2 * below - below_limit)
    root = np.sqrt(max(cross**2 - top * bottom, 0.0))
    if above_limit > above:
        return float((cross + root) / bottom)
    return float(metrics.ratio(top, cross + root, 0.0))


def difference(value: ArrayLike, draws: np.ndarray) -> dict[str, float | None]:
    """Paired difference of two arms from replicates (R,) of the difference.

    Keys value, low, high, share (of replicates with the sign of the value) and p (two-sided,
    never below 2 / (R + 1)).
    """
    found = interval(value, draws)
    draws = draws[np.isfinite(draws)]
    if found["low"] is None:
        return found | {"share": None, "p": None}
    tail = 1 + min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    share = (np.sign(draws) == np.sign(value)).mean()
    return found | {"share": float(share), "p": min(1.0, 2 * tail / (draws.size + 1))}
