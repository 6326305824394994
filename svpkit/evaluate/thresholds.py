"""Thresholds for a required precision, chosen on validation particles: what is below is rejected.

A class is named where it has the highest probability and that reaches its threshold; what is named
nothing is rejected. Thresholds are the lowest of a few looked at for which the precision is above
what is required by a one-sided bound of confidence 0.9, exact (Clopper and Pearson, Biometrika 26,
1934, p. 404) and divided by Bonferroni over the thresholds looked at: how many these are, and how
many particles each is to keep, depends on the number of particles, never on which of them were
named rightly. Where that many would part particles of one and the same score, all of them are kept.

Without a prevalence the place of a threshold depends on scores alone. What lies above it is a plain
sample of what lies there at work, and where a tie is kept at 1, the highest score there is, so is
the tie: the bound is exact. Of a lower tie it is known that it was large enough, which may move its
mix with what lies above: in simulations of 2 to 200 tied scores of any precision a bound of level
0.1 failed in 0.096 of draws at most, before Bonferroni. With a prevalence each class's scores alone
place its threshold. A tie is counted as no more than was to be kept, which a recall at work never
falls below more often than the bound says, and the other classes' particles know nothing of it:
exact, ties or none.

What is promised: of validation sets drawn from the particles at work, at most one in ten leads to a
threshold at which the class has less than its required precision. It is promised of each class for
itself, and where particles are independent and look as those at work do; groups (runs, vials) make
it rougher. It takes val for particles that the classifier never met, whereas in a run val chose
among its checkpoints too, and temperatures of strategies such as tau: that makes val look a little
better than work, and the promise break more often than stated. Without a prevalence the mix at work
is that of the validation set. With one, recall and every other class's false-positive rate have
bounds of their own, at a level divided over them too: that keeps the promise more often than it
says, and takes more particles. 2,000 proteins, none of them misnamed, show a rate below 0.2 % only,
which at 1000:1 promises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from svpkit.errors import SvpkitError, unknown
from svpkit.evaluate import metrics

CONFIDENCE = 0.9
"""How sure a promise is, one-sided, for each class."""

REJECTED = "rejected"
"""The bin of particles that reach no threshold."""

STEP = 2**-0.25
"""Each threshold looked at keeps this share of what the one before kept."""


def required(asked: float | Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Return the precision required of each class that has one, from a number or a table.

    Raises SvpkitError for a class that is unknown or is called as the bin is.
    """
    if REJECTED in classes:
        raise SvpkitError(
            f"evaluate.precision: a class is called '{REJECTED}', as the bin of what reaches no "
            "threshold is: give it another name"
        )
    if not isinstance(asked, Mapping):
        return dict.fromkeys(classes, float(asked))
    for name in asked:
        if name not in classes:
            raise unknown("evaluate.precision", name, classes)
    return {name: float(asked[name]) for name in classes if name in asked}


def choose(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    asked: Mapping[str, float],
    prevalence: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Choose the threshold of each class in `asked` on validation particles.

    labels int (N,), scores (N, K), asked {class: precision above 0, below 1}. Returns {class:
    {"required", "threshold", "shown", "needs"}}: `threshold` in [0, 1] or None where the precision
    cannot be promised, `shown` the lower bound there (else the best one found, None where there are
    too few particles to look), `needs` {class: n} the validation particles that it would take at
    least, none of them misnamed, empty where their number is not what is short. Raises SvpkitError
    where shapes do not fit or a class has no particle.
    """
    metrics.check(labels, scores, classes)
    metrics.check_present(labels, classes)
    shares = None
    if prevalence is not None:
        n = np.bincount(labels, minlength=len(classes))
        shares = metrics.class_weights(n, classes, prevalence) * n / n.sum()
    return {
        name: _choose(labels, scores, classes, classes.index(name), wanted, shares)
        for name, wanted in asked.items()
    }


def limits(chosen: Mapping[str, float | None], classes: Sequence[str]) -> np.ndarray:
    """Return the threshold of each class (K,) from those chosen {class: number or None}.

    0 where no precision is required, inf where none can be promised: all of it is rejected.
    """
    each = [chosen.get(name, 0.0) for name in classes]
    return np.array([np.inf if threshold is None else threshold for threshold in each])


def assign(scores: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return the class named for each particle, int (N,), K where it is rejected.

    scores (N, K), limit (K,) as from `limits`.
    """
    best = scores.argmax(1)
    # in double, where single-precision scores and thresholds are what they were
    reached = scores.max(1).astype(np.float64) >= limit[best]
    return np.where(reached, best, limit.size)


def precision_bound(
    column: np.ndarray, k: int, n: np.ndarray, shares: np.ndarray | None, level: float
) -> float:
    """Lower bound of the precision of class k that fails with a probability of `level` at most.

    column (K,) counts the particles named k by true class, n (K,) all of them. Without `shares` the
    hits are binomial among the named; with the shares (K,) of the classes at work it is made of the
    bounds of recall and of every false-positive rate, each at level / K.
    """
    if shares is None:
        return _low(column[k], column.sum(), level)
    each, other = level / n.size, np.arange(n.size) != k
    right = shares[k] * _low(column[k], n[k], each)
    wrong = sum(
        share * _high(hits, of, each)
        for share, hits, of in zip(shares[other], column[other], n[other], strict=True)
    )
    return float(right / (right + wrong)) if right else 0.0


def _low(hits: float, n: float, level: float) -> float:
    return float(stats.beta.ppf(level, hits, n - hits + 1)) if hits else 0.0


def _high(hits: float, n: float, level: float) -> float:
    return float(stats.beta.ppf(1 - level, hits + 1, n - hits)) if hits < n else 1.0


def _choose(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    k: int,
    wanted: float,
    shares: np.ndarray | None,
) -> dict[str, Any]:
    n = np.bincount(labels, minlength=len(classes))
    label, score = labels[named := scores.argmax(1) == k], scores[named, k]
    # Ranks are those of the named where the named are one binomial; where each class is its own,
    # those of this class alone, so that a threshold knows nothing of the other classes' particles.
    ranked = np.sort(score if shares is None else score[label == k])[::-1]
    most = ranked.size if shares is None else int(n[k])

    def flawless(rank: int, level: float) -> float:
        return precision_bound(rank * np.eye(n.size)[k], k, n, shares, level)

    ranks = _ranks(most, flawless, wanted)
    found: dict[str, Any] = {"required": wanted, "threshold": None, "shown": None, "needs": {}}
    if not ranks:
        return found | {"needs": _needs(classes, k, wanted, n, shares)}
    for rank in ranks:
        threshold = _keeping(ranked, rank)
        column = np.bincount(label[score.astype(np.float64) >= threshold], minlength=n.size)
        if shares is not None:
            column[k] = min(column[k], rank)  # the rest of a tie is kept and not counted
        shown = precision_bound(column, k, n, shares, (1 - CONFIDENCE) / len(ranks))
        if shown >= wanted:
            return found | {"threshold": threshold, "shown": shown}
        found["shown"] = max(shown, found["shown"] or 0.0)
    return found


def _ranks(most: int, flawless: Callable[[int, float], float], wanted: float) -> list[int]:
    """Return how many each threshold to look at keeps, the lowest threshold first.

    As many as could each hold, were nothing above them misnamed, at their part of the level.
    """
    ranks: list[int] = []
    while (rank := int(most * STEP ** len(ranks))) > 0:
        if flawless(rank, (1 - CONFIDENCE) / (len(ranks) + 1)) < wanted:
            break
        ranks.append(rank)
    return ranks


def _keeping(ranked: np.ndarray, rank: int) -> float:
    # the lowest threshold that keeps `rank` of the scores, which fall, and those tied to the last
    if rank >= ranked.size:
        return 0.0
    if ranked[rank - 1] == ranked[rank]:
        return float(ranked[rank])
    return float(np.nextafter(ranked[rank], np.inf, dtype=ranked.dtype))


def _needs(
    classes: Sequence[str], k: int, wanted: float, n: np.ndarray, shares: np.ndarray | None
) -> dict[str, int]:
    """Return the particles that one threshold would take: {class: n}, to two digits if many."""
    level = 1 - CONFIDENCE
    if shares is None:
        return {classes[k]: int(np.ceil(np.log(level) / np.log(wanted)))}
    enough, other = n.astype(float), np.arange(n.size) != k
    none = np.zeros(n.size)
    while precision_bound(none + enough[k] * ~other, k, enough, shares, level) < wanted:
        weighs = [
            share * _high(0, of, level / n.size) if there else 0.0
            for share, of, there in zip(shares, enough, other, strict=True)
        ]
        enough[int(np.argmax(weighs))] *= 1.05
    return {
        name: _two_digits(many)
        for name, many, have in zip(classes, enough, n, strict=True)
        if many > have
    }


def _two_digits(many: float) -> int:
    unit = 10 ** max(len(str(int(many))) - 2, 0)
    return int(np.ceil(many / unit)) * unit
