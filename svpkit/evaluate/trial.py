"""Arms of a trial against one another: paired over real subsets, corrected, none picked on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from svpkit.evaluate.intervals import LEVEL, TAILS

Scores = Mapping[str, np.ndarray]


FEW_SUBSETS = 5
"""With fewer real subsets, tests of all pairs tell hardly any arms apart: no letters."""


def overlap(folds: int) -> float:
    """Return by what the standard error over k folds grows, as their training sets overlap.

    sqrt(1 + k / (k - 1)): Nadeau & Bengio, Machine Learning 52, 2003, p. 239, eq. 10.
    """
    return float(np.sqrt(1 + folds / (folds - 1))) if folds > 1 else 1.0


def t_interval(values: np.ndarray, widen: float = 1.0) -> dict[str, Any]:
    """Return mean, t interval and two-sided p against 0 of values (S,); NaN are left out.

    `widen` multiplies the standard error (see `overlap`).

    Keys value, low, high, p and n. Of paired differences this is the paired t test (Student,
    Biometrika 6, 1908, p. 1). One value has no interval; equal ones have one without width.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    n = int(values.size)
    if n < 2:
        value = float(values[0]) if n else None
        return {"value": value, "low": None, "high": None, "p": None, "n": n}
    mean, error = float(values.mean()), float(widen * values.std(ddof=1) / np.sqrt(n))
    half = error * float(stats.t.ppf(TAILS[1], n - 1))
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return {"value": mean, "low": mean - half, "high": mean + half, "p": p, "n": n}


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for being several, in the order given; None stays out of the count.

    Holm, Scand. J. Stat. 6, 1979, p. 65: the k-th smallest of m is multiplied by m - k + 1, and
    none is below a smaller one's.
    """
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted, highest = list(p), 0.0
    for k, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - k) * value))
        adjusted[i] = highest
    return adjusted


def share_of_gap(part: np.ndarray, gap: np.ndarray, widen: float = 1.0) -> dict[str, float] | None:
    """Return mean(part) / mean(gap) with Fieller's interval; part and gap (S,), paired.

    Fieller, J. R. Stat. Soc. B 16, 1954, p. 175. The interval is bounded exactly where the gap's
    own t interval excludes zero; None where it does not, and where the gap is negative.
    """
    both = np.stack([part, gap])[:, np.isfinite(part) & np.isfinite(gap)]
    n = both.shape[1]
    if n < 2:
        return None
    (x, y), covariance = both.mean(1), np.cov(both) / n * widen**2
    xx, xy, yy = covariance[[0, 0, 1], [0, 1, 1]] * stats.t.ppf(TAILS[1], n - 1) ** 2
    a, b, c = y * y - yy, x * y - xy, x * x - xx
    if y <= 0 or a <= 0:
        return None
    root = np.sqrt(max(b * b - a * c, 0.0))
    return {"value": float(x / y), "low": float((b - root) / a), "high": float((b + root) / a)}


def letters(scores: Scores, widen: float = 1.0) -> dict[str, str]:
    """Return letters by arm: arms that share one cannot be told apart; best mean first.

    Paired t tests of every pair, Holm over all pairs; each letter is a largest set of arms of which
    no two are told apart (compact letter display, Piepho, J. Comput. Graph. Stat. 13, 2004,
    p. 456). Scores (S,) by arm, aligned, NaN where missing; a pair that cannot be tested is not
    told apart.
    """
    arms = sorted(scores, key=lambda arm: -_mean(scores[arm]))
    pairs = list(combinations(arms, 2))
    p = holm([t_interval(scores[a] - scores[b], widen)["p"] for a, b in pairs])
    near: dict[str, set[str]] = {arm: set() for arm in arms}
    for (a, b), value in zip(pairs, p, strict=True):
        if value is None or value > 1 - LEVEL:
            near[a].add(b)
            near[b].add(a)
    sets = _largest(set(), set(arms), set(), near)
    sets.sort(key=lambda found: sorted(map(arms.index, found)))
    return {
        arm: "".join(_letter(i) for i, found in enumerate(sets) if arm in found) for arm in arms
    }


def mean_ranks(settings: Sequence[Scores]) -> dict[str, dict[str, Any]]:
    """Return each arm's mean rank over settings and subsets, 1 the best, ties sharing theirs.

    Only subsets that every arm of a setting has count. Keys value and n, low and high the smallest
    and largest rank of any.
    """
    ranks: dict[str, list[float]] = {}
    for scores in settings:
        table = np.stack(list(scores.values())) if scores else np.empty((0, 0))
        table = table[:, np.isfinite(table).all(0)]
        for arm, row in zip(scores, stats.rankdata(-table, axis=0), strict=True):
            ranks.setdefault(arm, []).extend(row.tolist())
    return {
        arm: {"value": float(np.mean(r)), "low": min(r), "high": max(r), "n": len(r)}
        for arm, r in ranks.items()
        if r
    }


def pick(val: Scores, candidates: Sequence[str]) -> str | None:
    """Return the candidate of the highest mean validation score (S,), the first of equals.

    Only arms that have every subset stand for election; None where there is none.
    """
    whole = [arm for arm in candidates if np.isfinite(val[arm]).all()]
    return max(whole, key=lambda arm: _mean(val[arm]), default=None)


def settle(
    test: Scores,
    val: Scores,
    *,
    baseline: str | None = None,
    oracle: str | None = None,
    beside: Sequence[str] = (),
    drawing: Sequence[str] = (),
    widen: float = 1.0,
) -> dict[str, Any]:
    """Return what one setting of a trial says, ready for JSON.

    `test` and `val` are scores (S,) by arm, aligned over real subsets, NaN where missing; `widen`
    as in `t_interval`. Keys: picked (the best arm on val; neither the oracle nor arms that stand
    `beside`), picked_drawn (the same of those in `drawing`), gap (oracle minus baseline) and arms:
    {name: test and val with t intervals, minus (that arm minus the baseline, with p and p_holm),
    share of the gap closed, letters from five subsets on}. None where there is nothing to say.
    """
    out = {oracle, *beside}
    there = {arm: s for arm, s in test.items() if np.isfinite(s).any()}
    subsets = min((int(np.isfinite(s).sum()) for s in there.values()), default=0)
    told = letters(there, widen) if subsets >= FEW_SUBSETS else {}
    base = test.get(baseline) if baseline else None
    top = test.get(oracle) if oracle else None
    gap = None if top is None or base is None else top - base
    others = [arm for arm in test if arm != baseline and base is not None]
    minus = {arm: t_interval(test[arm] - base, widen) for arm in others}
    free = [arm for arm in test if arm not in out]
    for arm, p in zip(others, holm([minus[arm]["p"] for arm in others]), strict=True):
        minus[arm]["p_holm"] = p
    return {
        "picked": pick(val, free),
        "picked_drawn": pick(val, [arm for arm in free if arm in drawing]),
        "gap": None if gap is None else t_interval(gap, widen),
        "arms": {
            arm: {
                "test": _within(t_interval(test[arm], widen)),
                "val": _within(t_interval(val[arm], widen)),
                "minus": minus.get(arm),
                "share": _share(test[arm], base, gap, widen)
                if arm in others and arm != oracle
                else None,
                "letters": told.get(arm, ""),
            }
            for arm in test
        },
    }


def _within(found: dict[str, Any]) -> dict[str, Any]:
    # scores lie in 0 .. 1, which a t interval of two or three does not know
    if found["low"] is None:
        return found
    return found | {"low": max(found["low"], 0.0), "high": min(found["high"], 1.0)}


def _share(
    scores: np.ndarray, base: np.ndarray | None, gap: np.ndarray | None, widen: float
) -> dict[str, float] | None:
    return None if base is None or gap is None else share_of_gap(scores - base, gap, widen)


def _largest(
    chosen: set[str], open_: set[str], shut: set[str], near: Mapping[str, set[str]]
) -> list[set[str]]:
    # maximal cliques, Bron & Kerbosch, Commun. ACM 16, 1973, p. 575, with a pivot
    if not open_ and not shut:
        return [chosen] if chosen else []
    found, pivot = [], max(open_ | shut, key=lambda arm: (len(near[arm] & open_), arm))
    for arm in sorted(open_ - near[pivot]):
        found += _largest(chosen | {arm}, open_ & near[arm], shut & near[arm], near)
        open_, shut = open_ - {arm}, shut | {arm}
    return found


def _letter(i: int) -> str:
    return chr(ord("a") + i % 26) + str(i // 26 or "")


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else -np.inf
