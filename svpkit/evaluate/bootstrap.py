"""Resampling without resorting: replicates of every metric of every arm from counts of cells.

The confusion table depends on a particle by its class and prediction, the average precision of a
class by its block of that ranking. Particles that share all of these, over all classes and arms,
are exchangeable: a stratified bootstrap replicate is one multinomial over such joint cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import sparse

from svpkit.evaluate.blocks import Blocks, cut
from svpkit.evaluate.metrics import ratio
from svpkit.evaluate.multinomial import Cells

CHUNK = 256
"""Replicates made at once, at most; each chunk has its own random stream."""

CHUNK_COUNTS = 8_000_000
"""Counts held at once, at most."""

LEAST_CHUNK = 16
"""Replicates made at once, at least."""


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
    within, rising; particles `member` (P,) stand for their unit `unit` (P,).
    """

    size: np.ndarray
    stratum: np.ndarray
    member: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Arm:
    """One arm ready for resampling.

    `own` (J, M), where there is one, sums joint units to the arm's own cells. A sparse table sums
    these to the class and block of each ranking, (K * B, J), and to the confusion, (K * K, J);
    `shift` (V, K) is what steps miss of the exact average precision.
    """

    blocks: list[Blocks]
    own: sparse.csr_array | None
    tables: list[sparse.csr_array]
    confusion: sparse.csr_array
    shift: np.ndarray


def particle_cells(labels: np.ndarray, keys: Sequence[np.ndarray]) -> Units:
    """Joint cells of exchangeable particles: same class (N,) and same value in every key (N,)."""
    cell, first = _cells(labels, keys)
    return Units(np.bincount(cell), labels[first], first, np.arange(first.size))


def _cells(labels: np.ndarray, keys: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    # each particle's cell (N,) and the first of each cell (M,), cells in order of their class
    cell = labels.astype(np.int64)
    for key in keys:
        cell = pd.factorize(cell * (int(key.max()) + 1) + key)[0].astype(np.int64)
    first = np.unique(cell, return_index=True)[1]
    order = np.argsort(labels[first], kind="stable")
    return np.argsort(order)[cell], first[order]


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
    order = np.argsort(stratum, kind="stable")
    unit = np.argsort(order)[unit]
    return Units(np.ones(order.size, np.int64), stratum[order], np.arange(labels.size), unit)


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
    joint = groups is None and len(arms) > 1
    ready = [_arm(labels, guess, blocks, units, weights, joint) for guess, blocks in each]
    levels = levels or [[] for _ in arms]
    parts = []
    for times in _chunks(units, replicates, seed):
        parts.append(
            [_replicate(*pair, weights, times) for pair in zip(ready, levels, strict=True)]
        )
    return [_joined([part[i] for part in parts]) for i in range(len(arms))]


def _chunks(units: Units, replicates: int, seed: int) -> Iterator[np.ndarray]:
    # times each unit's members are drawn, (M, R): one multinomial a stratum and replicate
    edges = [*np.flatnonzero(np.diff(units.stratum, prepend=-1)), units.size.size]
    parts = [slice(*ends) for ends in pairwise(edges)]
    cells = [Cells.of(units.size[part]) for part in parts]
    chunk = int(np.clip(CHUNK_COUNTS // units.size.size, LEAST_CHUNK, CHUNK))
    for number, start in enumerate(range(0, replicates, chunk)):
        key = np.random.SeedSequence(seed, spawn_key=(number,))
        rng = np.random.Generator(np.random.Philox(key))
        counts = np.empty((units.size.size, min(chunk, replicates - start)), np.int32)
        for part, own in zip(parts, cells, strict=True):
            own.draw(rng, counts[part])
        yield counts


def _arm(
    labels: np.ndarray,
    predicted: np.ndarray,
    cuts: list[Blocks],
    units: Units,
    weights: np.ndarray,
    joint: bool,
) -> Arm:
    n_classes, own = len(cuts), None
    if joint:
        member = units.member
        keys = [predicted[member], *(blocks.block[member] for blocks in cuts)]
        cell, first = _cells(labels[member], keys)
        own = _sums(cell, units.unit, (first.size, units.size.size))
        units = Units(np.bincount(cell), labels[member[first]], member[first], cell[first])

    def table(key: np.ndarray, n: int) -> sparse.csr_array:
        at = labels[units.member].astype(np.int64) * n + key[units.member]
        return _sums(at, units.unit, (n_classes * n, units.size.size))

    shift = np.zeros(weights.shape)
    for v, weight in enumerate(weights):
        for k, blocks in enumerate(cuts):
            steps = step_auprc(blocks.size[..., None], k, weight, blocks)[0][0]
            shift[v, k] = blocks.exact[v] - steps
    tables = [table(blocks.block, int(blocks.parent[-1]) + 1) for blocks in cuts]
    return Arm(cuts, own, tables, table(predicted, n_classes), shift)


def _sums(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(row.size, np.int32), (row, column)), shape=shape)


def _replicate(
    arm: Arm, levels: Sequence[np.ndarray], weights: np.ndarray, times: np.ndarray
) -> Replicates:
    n_classes, n = weights.shape[1], times.shape[1]
    times = times if arm.own is None else arm.own @ times
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
