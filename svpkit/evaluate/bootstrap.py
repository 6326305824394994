"""Resampling without resorting: replicates of every metric of every arm from counts of cells.

The confusion table depends on a particle by its class and prediction, the average precision of a
class by its block of that ranking. Particles that share all of these, over all classes and arms,
are exchangeable: a stratified bootstrap replicate is one multinomial over such joint cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from svpkit.evaluate.blocks import Blocks, cut
from svpkit.evaluate.metrics import ratio

CHUNK = 250
"""Replicates made at once, at most; each chunk has its own random stream."""

CHUNK_COUNTS = 20_000_000
"""Counts held at once, at most."""

LARGE_CELL = 16
"""From this size on one binomial draw is cheaper than drawing a cell's particles singly."""


@dataclass(frozen=True)
class Replicates:
    """What R replicates gave one arm.

    `point` (V, K) is the exact average precision under each of V class weightings. `confusion`
    (R, K, K) counts particles, `auprc` (V, R, K) belongs to the weightings, `curves` holds one
    (R, points) array of precision a class.
    """

    point: np.ndarray
    confusion: np.ndarray
    auprc: np.ndarray
    curves: list[np.ndarray]


@dataclass(frozen=True)
class Units:
    """What is resampled: joint cells of particles, or whole groups.

    `size` (M,) is how many exchangeable members a unit has, `stratum` (M,) what it is drawn
    within; particles `member` (P,) stand for their unit `unit` (P,).
    """

    size: np.ndarray
    stratum: np.ndarray
    member: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Arm:
    """One arm ready for resampling.

    A sparse table sums units (M,) to the class and block of each ranking, (K * B, M), and to the
    confusion, (K * K, M); `shift` (V, K) is what steps miss of the exact average precision.
    """

    blocks: list[Blocks]
    tables: list[sparse.csr_array]
    confusion: sparse.csr_array
    shift: np.ndarray


def particle_cells(labels: np.ndarray, keys: Sequence[np.ndarray]) -> Units:
    """Joint cells of exchangeable particles: same class (N,) and same value in every key (N,)."""
    cell = labels.astype(np.int64)
    for key in keys:
        cell = pd.factorize(cell * (int(key.max()) + 1) + key)[0].astype(np.int64)
    first = np.unique(cell, return_index=True)[1]
    return Units(np.bincount(cell), labels[first], first, np.arange(first.size))


def whole_groups(labels: np.ndarray, groups: np.ndarray) -> Units:
    """Groups (N,) as units, drawn within strata of groups that hold the same set of classes.

    A stratum of one group would never vary: such groups share a stratum, a single such group
    joins the largest.
    """
    unit = pd.factorize(groups)[0]
    holds = np.zeros((unit.max() + 1, int(labels.max()) + 1), bool)
    holds[unit, labels] = True
    stratum = np.unique(holds, axis=0, return_inverse=True)[1].reshape(-1)
    n = np.bincount(stratum)
    alone = n[stratum] == 1
    stratum[alone] = n.size if alone.sum() > 1 else n.argmax()
    return Units(np.ones(len(holds), np.int64), stratum, np.arange(labels.size), unit)


def draw(rng: np.random.Generator, units: Units, replicates: int) -> np.ndarray:
    """Times each unit's members are drawn, (M, R): one multinomial a stratum and replicate."""
    counts = np.zeros((replicates, units.size.size), np.int32)
    for stratum in np.unique(units.stratum):
        chosen = np.flatnonzero(units.stratum == stratum)
        large = chosen[units.size[chosen] >= LARGE_CELL]
        small = chosen[units.size[chosen] < LARGE_CELL]
        owner = np.repeat(np.arange(small.size, dtype=np.int32), units.size[small])
        n = units.size[chosen].sum()
        drawn = rng.multinomial(n, np.append(units.size[large], owner.size) / n, replicates)
        counts[:, large] = drawn[:, :-1]
        for row, rest in zip(counts, drawn[:, -1], strict=True):
            if rest:
                hit = owner[rng.integers(owner.size, size=rest, dtype=np.uint32)]
                row[small] = np.bincount(hit, minlength=small.size)
    return np.ascontiguousarray(counts.T)


def step_auprc(
    counts: np.ndarray, k: int, weight: np.ndarray, blocks: Blocks
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision (R,) of class k from particles by class and step, (K, S, R), weight (K,).

    Also recall and precision at the end of each step, (S, R). NaN where no positive was drawn.
    """
    pos = weight[k] * counts[k]
    neg = np.tensordot(np.delete(weight, k), np.delete(counts, k, axis=0), 1)
    hits, false = pos.cumsum(0), neg.cumsum(0)
    at_hits = hits - pos + blocks.pos_part[:, None] * pos
    at_false = false - neg + blocks.neg_part[:, None] * neg
    area = np.einsum("sr,sr->r", pos, ratio(at_hits, at_hits + at_false, 0.0))
    recall, precision = ratio(hits, hits[-1], np.nan), ratio(hits, hits + false, 1.0)
    return ratio(area, hits[-1], np.nan), recall, precision


def bootstrap(
    labels: np.ndarray,
    arms: Sequence[np.ndarray],
    *,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    levels: Sequence[Sequence[np.ndarray]] | None = None,
    replicates: int = 2000,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> list[Replicates]:
    """Stratified bootstrap of every arm on the same resampled particles.

    labels int (N,), each arm scores (N, K). Particles are drawn within their class, so each class
    keeps its n; with `groups` (N,) whole groups are drawn instead. `weights` (V, K) are class
    weightings for which AUPRC is wanted (default: one of ones), `levels[arm][k]` the recalls at
    which precision curves are read. `tolerance` is the share of an average precision's variance
    that blocks may lose, 0 for none. The same seed gives the same replicates.
    """
    n_classes = arms[0].shape[1]
    weights = np.ones((1, n_classes)) if weights is None else weights
    cuts = [
        [cut(labels, k, scores[:, k], weights, tolerance) for k in range(n_classes)]
        for scores in arms
    ]
    predicted = [scores.argmax(1) for scores in arms]
    if groups is None:
        blocks = [ranked.block for arm in cuts for ranked in arm]
        units = particle_cells(labels, [*predicted, *blocks])
    else:
        units = whole_groups(labels, groups)
    each = zip(predicted, cuts, strict=True)
    ready = [_arm(labels, guess, blocks, units, weights) for guess, blocks in each]
    levels = levels or [[] for _ in arms]
    parts = []
    for times in _chunks(units, replicates, seed):
        parts.append(
            [_replicate(*pair, weights, times) for pair in zip(ready, levels, strict=True)]
        )
    return [_joined([part[i] for part in parts]) for i in range(len(arms))]


def _chunks(units: Units, replicates: int, seed: int) -> Iterator[np.ndarray]:
    chunk = int(np.clip(CHUNK_COUNTS // units.size.size, 8, CHUNK))
    for number, start in enumerate(range(0, replicates, chunk)):
        key = np.random.SeedSequence(seed, spawn_key=(number,))
        rng = np.random.Generator(np.random.Philox(key))
        yield draw(rng, units, min(chunk, replicates - start))


def _arm(
    labels: np.ndarray,
    predicted: np.ndarray,
    cuts: list[Blocks],
    units: Units,
    weights: np.ndarray,
) -> Arm:
    n_classes, label = len(cuts), labels[units.member].astype(np.int64)

    def table(key: np.ndarray, n: int) -> sparse.csr_array:
        at = (label * n + key[units.member], units.unit)
        ones = np.ones(label.size, np.int32)
        return sparse.csr_array((ones, at), shape=(n_classes * n, units.size.size))

    shift = np.zeros(weights.shape)
    for v, weight in enumerate(weights):
        for k, blocks in enumerate(cuts):
            steps = step_auprc(blocks.size[..., None], k, weight, blocks)[0][0]
            shift[v, k] = blocks.exact[v] - steps
    tables = [table(blocks.block, int(blocks.parent[-1]) + 1) for blocks in cuts]
    return Arm(cuts, tables, table(predicted, n_classes), shift)


def _replicate(
    arm: Arm, levels: Sequence[np.ndarray], weights: np.ndarray, times: np.ndarray
) -> Replicates:
    n_classes, n = weights.shape[1], times.shape[1]
    auprc, curves = np.empty((len(weights), n, n_classes)), []
    for k, (blocks, table) in enumerate(zip(arm.blocks, arm.tables, strict=True)):
        counts = blocks.spread((table @ times).reshape(n_classes, -1, n))
        for v, weight in enumerate(weights):
            area, recall, precision = step_auprc(counts, k, weight, blocks)
            auprc[v, :, k] = area + arm.shift[v, k]
            if len(levels) and v == 0:
                rows = zip(recall.T, precision.T, strict=True)
                curves.append(np.array([np.interp(levels[k], r, p) for r, p in rows]))
    table = (arm.confusion @ times).reshape(n_classes, n_classes, n)
    point = np.stack([blocks.exact for blocks in arm.blocks], axis=1)
    return Replicates(point, np.moveaxis(table, 2, 0), auprc, curves)


def _joined(parts: list[Replicates]) -> Replicates:
    return Replicates(
        parts[0].point,
        np.concatenate([part.confusion for part in parts]),
        np.concatenate([part.auprc for part in parts], axis=1),
        [np.concatenate(curve) for curve in zip(*(part.curves for part in parts), strict=True)],
    )
