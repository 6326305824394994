"""Class counts within strata of size, and replicates of them: validation x particles x Poisson."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from svpkit.evaluate import metrics, quantify
from svpkit.evaluate.tally import STRATA, Reference, Tally

ROUGH = 1e-7
"""Change of a share at which a replicate of `em` has settled; replicates differ by far more."""


def estimate(reference: Reference, tally: Tally, method: str) -> np.ndarray:
    """Counts by class in each stratum, (STRATA, K + 1), unknown last; 'acc' may fall below 0."""
    if method == "cc":
        return tally.counts
    if method == "pcc":
        return np.column_stack([tally.sums, tally.counts[:, -1]])
    if method == "acc":
        return quantify.unmixed(tally.counts, reference.rates)
    found = np.zeros_like(tally.counts)
    for b in np.flatnonzero(tally.counts.any(1)).tolist():
        prior, flagged = reference.calibrated[reference.stratum(b)].prior, reference.rates[b, :, -1]
        held = tally.weight[b] > 0
        weight = tally.weight[b, held]
        found[b] = _em(tally.p[held], tally.counts[b], weight, prior, flagged)
    return found


def _em(
    p: np.ndarray,
    counts: np.ndarray,
    weight: np.ndarray,
    prior: np.ndarray,
    flagged: np.ndarray,
    tolerance: float = quantify.TOLERANCE,
) -> np.ndarray:
    # Saerens among what is named; the share `flagged` of each class is then given back
    share = quantify.em(p, prior, weight, tolerance)
    by_class = share * metrics.ratio(weight.sum(-1)[..., None], 1 - flagged, 0.0)
    foreign = counts[..., -1] - (by_class * flagged).sum(-1)
    return np.concatenate([by_class, foreign[..., None]], -1)


@dataclass(frozen=True)
class Drawn:
    """Replicates of the counts in each stratum, all (STRATA, R, K + 1): limits come from them.

    `low` and `high` differ where counts are small: an exact lower limit counts the event that was
    nearly a false positive, an exact upper one the event that was nearly seen (Clopper & Pearson
    1934). `unseen` is what one more particle by name would add.
    """

    low: np.ndarray
    high: np.ndarray
    unseen: np.ndarray
    one: np.ndarray

    def over(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Low and high replicates (R, K + 1) summed over strata `own`, bool (STRATA,).

        One more particle is added to the sum where it weighs most (Fay & Feuer 1997).
        """
        unseen = np.maximum(self.unseen[own].max(0, initial=0.0), 1.0)
        return self.low[own].sum(0), self.high[own].sum(0) + self.one * unseen


def draw(
    reference: Reference, tally: Tally, method: str, name: str, replicates: int, seed: int
) -> Drawn:
    """Draw replicates of the estimate; `name` is of the run, and keys the random numbers.

    Particles by name: Gamma(n), which with one more gives Garwood's limits exactly. Validation: the
    Bayesian bootstrap (Rubin 1981), Dirichlet of the shrunk tables, keyed by stratum alone, so
    that a run and its blank share the draws.
    """
    rng = _rng(seed, name)
    k = tally.counts.shape[1]
    low, high, unseen = np.zeros((3, STRATA, replicates, k))
    for b in np.flatnonzero(tally.counts.any(1)).tolist():
        counts = rng.standard_gamma(tally.counts[b], (replicates, k))
        if method == "acc":
            low[b], high[b], unseen[b] = _acc(reference, b, counts, seed)
        elif method == "em":
            low[b], unseen[b] = _em_draws(reference, tally, b, counts, rng, seed)
            high[b] = low[b]
        else:
            low[b], unseen[b] = counts, 1.0
            if method == "pcc":
                low[b, :, :-1] = _weighted(rng, tally.sums[b], tally.squares[b], replicates)
            high[b] = low[b]
    return Drawn(low, high, unseen, rng.standard_exponential((replicates, k)))


def _rng(seed: int, *role: str | int) -> np.random.Generator:
    key = [seed, *(zlib.crc32(str(part).encode()) for part in role)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _weighted(
    rng: np.random.Generator, sums: np.ndarray, squares: np.ndarray, n: int
) -> np.ndarray:
    # a gamma of the mean and variance of a weighted sum of Poisson counts
    scale = metrics.ratio(squares, sums, 0.0)
    return scale * rng.standard_gamma(metrics.ratio(sums**2, squares, 0.0), (n, sums.size))


def _acc(
    reference: Reference, b: int, counts: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (len(counts), *reference.shrunk.shape[1:])
    drawn = _rng(seed, "validation", reference.stratum(b)).standard_gamma(
        reference.shrunk[b] * reference.worth[:, None], shape
    )
    drawn = drawn / drawn.sum(-1, keepdims=True)
    base = quantify.unmixed(counts, drawn)
    one = _rng(seed, "validation", "one more").standard_exponential((2, *base.shape))
    recall = np.append(np.diagonal(drawn, axis1=1, axis2=2), np.ones((len(base), 1)), 1)
    n = reference.n * reference.worth
    each = np.append(np.maximum(base[:, :-1], 0) / n, np.zeros((len(base), 1)), 1)
    recall = np.maximum(recall, 1e-3)
    low = base - one[0] * _largest_other(each) / recall
    return low, base + one[1] * each, 1 / recall


def _largest_other(values: np.ndarray) -> np.ndarray:
    # the largest of the other columns, in each column of (R, K)
    order = np.argsort(values, 1)
    top, next_ = (np.take_along_axis(values, order[:, [-i]], 1) for i in (1, 2))
    return np.where(np.arange(values.shape[1]) == order[:, [-1]], next_, top)


def _em_draws(
    reference: Reference,
    tally: Tally,
    b: int,
    counts: np.ndarray,
    rng: np.random.Generator,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    n, k = len(counts), counts.shape[1] - 1
    own = _rng(seed, "validation", reference.stratum(b))
    prior = reference.calibrated[reference.stratum(b)].again(own, n, reference.worth)
    kept = own.standard_gamma(reference.shrunk[b] * reference.worth[:, None], (n, k, k + 1))
    flagged = kept[..., -1] / kept.sum(-1)
    held = tally.weight[b] > 0
    weight = rng.standard_gamma(tally.weight[b, held], (n, held.sum()))
    found = _em(tally.p[held], counts, weight, prior, flagged, ROUGH)
    return found, np.append(1 / np.maximum(1 - flagged, 1e-3), np.ones((n, 1)), 1)
