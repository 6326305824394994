"""Which particles are exchangeable: a ranking cut into blocks whose counts give average precision.

Average precision depends only on how many particles of each class fall in each gap of a ranking.
At 500,000 particles most gaps differ by less than anything could measure: gaps are taken together
in steps where the ranking is deep, and steps joined to blocks as long as the first-order variance
of the average precision stays.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from svpkit.evaluate.metrics import ranking, ratio, step_sum

MOST_STEPS = 1000
"""Up to this many gaps each is a step of its own."""

STEP = 0.01
"""Beyond, a step spans this much of the logarithm of the rank."""


@dataclass(frozen=True)
class Blocks:
    """A ranking of one class, cut into steps (gaps, or few of them) and these joined to blocks.

    Within a block particles of one class are exchangeable, so replicates count blocks; average
    precision is summed over the steps. `block` (N,) is the block of each particle, `parent` (S,)
    that of each step, `size` (K, S) the particles of each class in a step. `pos_part` and
    `neg_part` (S,) are the parts of a step's positives and negatives at or above its average
    positive: 1 in a single gap. `exact` (V,) is the average precision under each weighting.
    """

    block: np.ndarray
    parent: np.ndarray
    size: np.ndarray
    pos_part: np.ndarray
    neg_part: np.ndarray
    exact: np.ndarray

    def spread(self, counts: np.ndarray) -> np.ndarray:
        """Share counts by block (K, B, R) out to the steps in proportion, (K, S, R)."""
        whole = np.stack([np.bincount(self.parent, size) for size in self.size])
        return counts[:, self.parent] * ratio(self.size, whole[:, self.parent], 0.0)[..., None]


def influence(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """First-order influence on average precision of a positive and a negative in each gap, (2, G).

    With d the positives (G,) of a gap, P, F, T = P + F the cumulated positives, negatives, all, and
    p = P / T: a positive in gap t moves AP by p_t - AP + sum_{u>=t} d_u F_u / T_u^2, a negative by
    -sum_{u>=t} d_u P_u / T_u^2, in units of 1 / (all positives).
    """
    hits, false = positives.cumsum(), negatives.cumsum()
    total = np.maximum(hits + false, 1e-300)
    moved = np.stack([positives * false, -positives * hits]) / total**2
    influences = moved[:, ::-1].cumsum(1)[:, ::-1]
    influences[0] += hits / total - step_sum(positives, negatives)
    return influences


def join(energy: np.ndarray, value: np.ndarray, start: np.ndarray, tolerance: float) -> np.ndarray:
    """Block of each step (S,), such that values averaged in blocks keep 1 - tolerance of variance.

    energy and value (L, G) of gaps, the energies scaled so that each row's share of the variance
    is energy @ value^2; start (S,) is the first gap of each step. All steps begin as one block;
    the block that loses most is cut, where that helps most.
    """
    edges = np.append(start, value.shape[-1])
    powers = (energy, energy * value, energy * value**2)
    sums = [np.pad(power.cumsum(-1), ((0, 0), (1, 0)))[:, edges] for power in powers]

    def lost(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        n, first, second = (part[:, b] - part[:, a] for part in sums)
        return np.maximum(second - ratio(first**2, n, 0.0), 0.0).sum(0)

    def block(a: int, b: int) -> tuple[float, int, int]:
        return -float(lost(np.array([a]), np.array([b]))[0]), a, b

    queue, cuts = [block(0, start.size)], []
    while queue and -sum(item[0] for item in queue) > tolerance:
        _, a, b = heapq.heappop(queue)
        if b - a > 1:
            middle = np.arange(a + 1, b)
            at = int(middle[np.argmin(lost(np.array([a]), middle) + lost(middle, np.array([b])))])
            cuts.append(at)
            heapq.heappush(queue, block(a, at))
            heapq.heappush(queue, block(at, b))
    return np.searchsorted(np.sort(cuts), np.arange(start.size), side="right")


def cut(labels: np.ndarray, k: int, score: np.ndarray, weights: np.ndarray, tol: float) -> Blocks:
    """Cut the ranking of class k by score (N,) into blocks that serve every weighting (V, K).

    With `tol` 0 every gap is its own block and replicates are exact.
    """
    # sorted first: looking up scores in their order is many times faster
    order = np.argsort(score)
    gap = np.empty(score.size, np.int32)
    gap[order] = ranking(labels[order] == k, score[order]).gap
    n_gaps = int(gap.max()) + 1
    cell = labels.astype(np.int64) * n_gaps + gap
    size = np.bincount(cell, minlength=weights.shape[1] * n_gaps).reshape(-1, n_gaps).astype(float)
    step = _steps(size.sum(0), tol)
    start = np.searchsorted(step, np.arange(step[-1] + 1))
    parent = _parents(size, k, weights, start, tol) if tol > 0 else step
    return Blocks(
        parent[step[gap]].astype(np.int32),
        parent,
        np.add.reduceat(size, start, axis=1),
        *_parts(size, k, step, start),
        np.array([step_sum(*_split(size, k, weight)) for weight in weights]),
    )


def _steps(size: np.ndarray, tol: float) -> np.ndarray:
    if tol == 0 or size.size <= MOST_STEPS:
        return np.arange(size.size)
    depth = np.log(size.cumsum()) / STEP
    return np.unique(depth.astype(np.int64), return_inverse=True)[1]


def _parents(
    size: np.ndarray, k: int, weights: np.ndarray, start: np.ndarray, tol: float
) -> np.ndarray:
    energies, values = [], []
    for weight in weights:
        value, energy = influence(*_split(size, k, weight)), np.stack(_split(size, k, weight**2))
        value -= ratio((energy * value).sum(1), energy.sum(1), 0.0)[:, None]
        energies.append(ratio(energy, (energy * value**2).sum(), 0.0))
        values.append(value)
    return join(np.concatenate(energies), np.concatenate(values), start, tol)


def _split(size: np.ndarray, k: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mass = weight[:, None] * size
    return mass[k], np.delete(mass, k, axis=0).sum(0)


def _parts(
    size: np.ndarray, k: int, step: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    pos, parts = size[k], []
    for part in _split(size, k, np.ones(len(size))):
        running = part.cumsum()
        inside = running - (running - part)[start][step]
        weighed = np.bincount(step, pos * inside)
        whole = np.bincount(step, pos) * np.bincount(step, part)
        parts.append(ratio(weighed, whole, 1.0))
    return parts[0], parts[1]
