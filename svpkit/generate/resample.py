"""Intervals from rows drawn again, those that belong together as one."""

import numpy as np
from scipy import stats

from svpkit.particles.particleset import ParticleSet

REPLICATES = 200
LEVEL = 0.95
# With fewer groups than this, neither halves nor new draws of whole groups say anything.
FEW_GROUPS = 5
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def again(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return how often each row is in each of 200 replicates: float64 (200, N).

    As many units, int64 (N,), as there are come back in each, drawn with replacement.
    """
    codes = np.unique(units, return_inverse=True)[1]
    n = int(codes.max()) + 1
    return rng.multinomial(n, np.full(n, 1 / n), size=REPLICATES)[:, codes].astype(float)


def share(
    total: np.ndarray, count: np.ndarray, units: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """Return sum(total) / sum(count) with the 95 % interval of units drawn again; all (N,).

    A proportion that no replicate moves (none or all) has Wilson's interval at one try a unit.
    """
    value = float(total.sum() / count.sum())
    weight = again(units, rng)
    each = (weight @ total) / np.maximum(weight @ count, 1e-12)
    low, high = np.quantile(each[weight @ count > 0], TAILS)
    if low == high and value in (0.0, 1.0):
        n = len(np.unique(units))
        low, high = wilson(round(value * n), n)
    return {"value": value, "low": float(low), "high": float(high)}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a proportion (JASA 22, 1927, p. 209)."""
    limits = stats.binomtest(hits, n).proportion_ci(LEVEL, "wilson")
    return float(limits.low), float(limits.high)


def units_of(particles: ParticleSet) -> np.ndarray:
    """Return which particles belong together: int64 (N,), equal within a unit.

    Of a group, or, with under five groups, of a picture in a group; in a class with under five
    units each stands alone.
    """
    group, source = (particles.table[c].astype(str).to_numpy(object) for c in ("group", "source"))
    named = group != ""
    if len(set(group[named])) < FEW_GROUPS:
        group, named = group + "\x1f" + source, named & (source != "")
    codes = np.unique(group, return_inverse=True)[1]
    codes[~named] = len(codes) + np.flatnonzero(~named)
    few = [k for k in set(particles.labels) if len(set(codes[particles.labels == k])) < FEW_GROUPS]
    alone = np.isin(particles.labels, few)
    codes[alone] = len(codes) + np.flatnonzero(alone)
    return codes
