"""How far probabilities are from the truth: calibration errors and Brier score with intervals.

A binned calibration error is positive even where probabilities are perfect, and replicates of it
more so: its interval is the basic one, v - (replicate - v), which takes that excess off, and
reaches down to 0 where labels drawn from p itself would give such a value. It never excludes the
value shown.
"""

from __future__ import annotations

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics
from svpkit.evaluate.intervals import TAILS, interval, wilson

BINS = 15
UNITS = 5000
"""More particles than this are resampled as so many blocks, drawn at random."""

DRAWS = 100
"""Label sets drawn from p itself, to see what perfect probabilities would show."""

CHUNK = 100
ERRORS = ("ece", "ece_mass", "ece_class")


def measures(
    labels: np.ndarray,
    p: np.ndarray,
    *,
    seed: int,
    replicates: int = 2000,
    groups: np.ndarray | None = None,
) -> dict[str, dict[str, float | None]]:
    """Measure calibration: {"ece", "ece_mass", "ece_class", "brier"}, each with a 95 % interval.

    labels int (N,), p (N, K). `ece` is the expected calibration error of the top class in 15 bins
    of equal width (Guo et al., ICML 2017), `ece_mass` in bins of equally many particles,
    `ece_class` the mean over classes of that of p_k in bins of equal width (Kull et al., NeurIPS
    2019), `brier` the mean of sum_k (p_k - y_k)^2, from 0 to 2. Keys of each: value, low, high and
    if_calibrated, the mean for labels drawn from p. With `groups` (N,), where there are two at
    least, whole groups are resampled. Raises SvpkitError where shapes do not fit.
    """
    metrics.check(labels, p, [str(k) for k in range(p.shape[-1])])
    if not labels.size:
        raise SvpkitError("calibration: no labelled particle is given, at least one is needed")
    p = np.asarray(p, dtype=np.float64)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 0xECE])))
    cells = _cells(p)
    sums = _sums(labels, p, cells, _units(labels.size, groups, rng))
    chance = _measured(_by_chance(p, cells, rng))
    value = _measured(sums.sum(0))
    draws = _measured(_resampled(sums, replicates, rng))
    found = {name: _error(value[name], draws[name], chance[name]) for name in ERRORS}
    return found | {
        "brier": interval(value["brier"], draws["brier"])
        | {"if_calibrated": float((p * (1 - p)).sum(1).mean())}
    }


def reliability(labels: np.ndarray, p: np.ndarray, k: int | None = None) -> list[dict[str, float]]:
    """Return the points of a reliability curve, rising, in bins of equally many particles.

    labels int (N,), p (N, K); of class k, or of the top class. Keys of a point: p (mean of the
    bin), share (of particles that are of the class), low and high (Wilson, 95 %), n.
    """
    column = p.argmax(1) if k is None else np.full(labels.size, k)
    score = np.asarray(p, dtype=np.float64)[np.arange(labels.size), column]
    hit, cell = labels == column, _mass(score)
    points = []
    for n in range(BINS):
        if (of := cell == n).any():
            low, high = wilson(int(hit[of].sum()), int(of.sum()))
            shown = {"p": float(score[of].mean()), "share": float(hit[of].mean())}
            points.append(shown | {"low": low, "high": high, "n": int(of.sum())})
    return points


def _width(score: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(np.linspace(0, 1, BINS + 1), score, "right"), BINS) - 1


def _mass(score: np.ndarray) -> np.ndarray:
    # the particles of one and the same score stay together
    edges = np.sort(score)[np.arange(1, BINS) * score.size // BINS]
    return np.searchsorted(edges, score, "right")


def _cells(p: np.ndarray) -> list[np.ndarray]:
    """Return the bin (N,) of each particle, by top class (width, mass) and by each class."""
    top = p.max(1)
    return [_width(top), _mass(top), *(_width(column) for column in p.T)]


def _by_chance(p: np.ndarray, cells: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return what `_sums` gives in all for labels drawn from p, (DRAWS, BINS (K + 2) + 2).

    Without the squares. Only counts of labels change from draw to draw: half a million particles
    take seconds.
    """
    n, n_classes = p.shape
    below, top, row = p.cumsum(1)[:, :-1].T.copy(), p.argmax(1), np.arange(n)
    scores, own = [p.max(1)] * 2 + [*p.T], np.stack(cells[2:])
    expected = [np.bincount(cell, of, BINS) for cell, of in zip(cells, scores, strict=True)]
    drawn = np.zeros((DRAWS, BINS * (n_classes + 2) + 2))
    for counts in drawn:
        label = (below < rng.random(n)).sum(0)
        hit = label == top
        counts[:BINS] = np.bincount(cells[0][hit], minlength=BINS)
        counts[BINS : 2 * BINS] = np.bincount(cells[1][hit], minlength=BINS)
        cell = label * BINS + own[label, row]
        counts[2 * BINS : -2] = np.bincount(cell, minlength=BINS * n_classes)
    drawn[:, :-2] = np.concatenate(expected) - drawn[:, :-2]
    drawn[:, -1] = n
    return drawn


def _sums(
    labels: np.ndarray, p: np.ndarray, cells: list[np.ndarray], unit: np.ndarray
) -> np.ndarray:
    """Return what every measure is made of, summed over each unit (N,): (U, BINS (K + 2) + 2).

    Per bin the sum of p - y, then the sum of squares and the number of particles.
    """
    n, truth = int(unit.max()) + 1, np.eye(p.shape[1])[labels]
    gap, top = p - truth, p.max(1) - (p.argmax(1) == labels)
    parts = [
        np.bincount(unit * BINS + cell, of, n * BINS).reshape(n, BINS)
        for cell, of in zip(cells, [top, top, *gap.T], strict=True)
    ]
    ends = [np.bincount(unit, (gap**2).sum(1), n), np.bincount(unit, minlength=n)]
    return np.concatenate([*parts, *(end[:, None] for end in ends)], axis=1)


def _measured(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return each measure (...,) from sums (..., BINS (K + 2) + 2)."""
    n = sums[..., -1]
    bins = np.abs(sums[..., :-2]).reshape(*sums.shape[:-1], -1, BINS).sum(-1) / n[..., None]
    each = {"ece": bins[..., 0], "ece_mass": bins[..., 1], "ece_class": bins[..., 2:].mean(-1)}
    return each | {"brier": sums[..., -2] / n}


def _units(n: int, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    if groups is not None and np.unique(groups).size > 1:
        return np.unique(groups, return_inverse=True)[1].reshape(-1)
    return np.arange(n) if n <= UNITS else rng.permutation(n) % UNITS


def _resampled(sums: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    n, made = len(sums), []
    for start in range(0, replicates, CHUNK):
        many = min(CHUNK, replicates - start)
        made.append(rng.multinomial(n, np.full(n, 1 / n), size=many).astype(float) @ sums)
    return np.concatenate(made)


def _error(value: np.ndarray, draws: np.ndarray, chance: np.ndarray) -> dict[str, float | None]:
    low, high = 2 * value - np.quantile(draws, TAILS[::-1])
    low = 0.0 if value <= np.quantile(chance, TAILS[1]) else max(low, 0.0)
    return {
        "value": float(value),
        "low": float(min(low, value)),
        "high": float(max(high, value)),
        "if_calibrated": float(chance.mean()),
    }
