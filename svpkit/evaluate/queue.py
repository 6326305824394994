"""What to label next: uncertain and rare particles first, no two of them much alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError

POOL = 20
"""Candidates looked at for each particle asked for."""

SURE = 0.05
"""What a particle without any doubt is worth, beside 1 for one that is wholly uncertain."""

LEAST_SHARE = 1e-3
"""No class counts as rarer: a class that is hardly there at all would drown the others."""

DIMENSIONS = 32
ROWS = 16384
"""Rows of features read at once."""


def to_label(
    p: np.ndarray,
    features: np.ndarray,
    n: int,
    *,
    classes: Sequence[str],
    unknown: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, list[str]]:
    """Choose n particles to label, best first, with the reason for each.

    p (N, K) calibrated, features (N, F) (may be memory-mapped), unknown bool (N,), rejected as
    none of the classes. A particle is worth (SURE + 1 - margin between its two best classes) times
    its mean inverse class share, sum_k p_k / share_k / K, where the shares are those of p; what is
    unknown is wholly uncertain and a class of its own. Of the POOL n worthiest each next one has
    the most worth times distance to what is chosen (standardised features, up to the median
    distance in the pool; Sener and Savarese, ICLR 2018, without the worth). Returns positions
    (min(n, N),) and reasons such as "uncertain: oil .52 / protein .45". Raises SvpkitError where
    shapes do not fit.
    """
    unknown = np.zeros(len(p), bool) if unknown is None else np.asarray(unknown, bool)
    _check(p, features, n, classes, unknown)
    n = min(n, len(p))
    if n == 0:
        return np.empty(0, np.int64), []
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 0x1ABE1])))
    share = np.append(p[~unknown].sum(0, dtype=float), unknown.sum()) / len(p)
    worth = _worth(p, unknown, share)
    placed = _placed(features, rng)
    # Ties are broken by chance, not by place in the export.
    order = rng.permutation(len(p))
    crowded = worth[order] / (1 + _before(placed[order], worth[order]))
    pool = order[np.argsort(-crowded, kind="stable")[: POOL * n]]
    chosen = pool[_spread(placed[pool].astype(np.float64), worth[pool], n, rng)]
    return chosen, [_reason(p[at], bool(unknown[at]), share, classes) for at in chosen]


def _check(
    p: np.ndarray, features: np.ndarray, n: int, classes: Sequence[str], unknown: np.ndarray
) -> None:
    if p.ndim != 2 or p.shape[1] != len(classes) or p.shape[1] < 2:
        raise SvpkitError(
            f"to-label: p of shape {p.shape} does not fit {len(classes)} classes, two are needed"
        )
    if features.ndim != 2 or not len(features) == len(p) == len(unknown):
        raise SvpkitError(
            f"to-label: features of shape {features.shape} and {len(unknown)} marks of unknown "
            f"do not fit {len(p)} particles"
        )
    if n < 0:
        raise SvpkitError(f"to-label: {n} given, 0 or more is needed")


def _worth(p: np.ndarray, unknown: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return what labelling each particle is worth, (N,); share (K + 1), of unknown at the end."""
    weight = 1 / np.maximum(share, LEAST_SHARE) / p.shape[1]
    second, first = np.partition(p, -2, axis=1)[:, -2:].T
    known = (SURE + 1 - (first - second)) * (p @ weight[:-1])
    return np.where(unknown, (SURE + 1) * weight[-1], known)


def _placed(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return standardised features in random directions, at right angles: (N, D), float32.

    D is F, so that distances are what they were, or DIMENSIONS of many more.
    """
    starts = range(0, len(features), ROWS)
    mean, square = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for at in starts:
        mean += features[at : at + ROWS].sum(0, dtype=float) / len(features)
    if not np.isfinite(mean).all():
        raise SvpkitError("to-label: features hold NaN or infinity")
    for at in starts:
        square += ((features[at : at + ROWS] - mean) ** 2).sum(0) / len(features)
    sd = np.sqrt(square)
    wide = min(len(mean), DIMENSIONS)
    turn = np.linalg.qr(rng.normal(size=(len(mean), wide)))[0] / np.where(sd > 0, sd, 1.0)[:, None]
    placed = [((features[at : at + ROWS] - mean) @ turn).astype(np.float32) for at in starts]
    return np.concatenate(placed)


def _before(placed: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Return how many worthier particles share the cell of each, (N,).

    Cells of half a standard deviation in four directions: a thousand pictures of one stuck
    particle fill one cell and not the pool.
    """
    corner = np.floor(placed[:, :4] / 0.5).astype(np.int64)
    cell = np.unique(corner, axis=0, return_inverse=True)[1].reshape(-1)
    best_first = np.argsort(-worth, kind="stable")
    before = np.empty(len(cell), np.int64)
    before[best_first] = pd.Series(cell[best_first]).groupby(cell[best_first]).cumcount()
    return before


def _spread(placed: np.ndarray, worth: np.ndarray, n: int, rng: np.random.Generator) -> list[int]:
    """Return n places of the pool, greedily the most worth times distance to those before."""
    one, other = rng.integers(len(worth), size=(2, 1000))
    apart = np.linalg.norm(placed[one] - placed[other], axis=1)
    scale = float(np.median(apart[one != other])) if (one != other).any() else 0.0
    near, left = np.ones(len(worth)), worth.copy()
    chosen: list[int] = []
    for _ in range(n):
        best = int(np.argmax(left * near))
        if left[best] * near[best] == 0:
            best = int(np.argmax(left))  # only copies of what is chosen are left
        chosen.append(best)
        left[best] = 0
        reach = np.linalg.norm(placed - placed[best], axis=1)
        near = np.minimum(near, reach / (scale or 1.0))
    return chosen


def _reason(p: np.ndarray, unknown: bool, share: np.ndarray, classes: Sequence[str]) -> str:
    second, first = (int(k) for k in np.argsort(p, kind="stable")[-2:])
    best = f"{classes[first]} {_short(p[first])}"
    if unknown:
        return f"unknown: nearest {best}"
    if p[first] - p[second] < 0.5:
        return f"uncertain: {best} / {classes[second]} {_short(p[second])}"
    if share[first] < 0.5 / len(classes):
        return f"rare: {best}, {100 * share[first]:.2g} % of the particles"
    return f"different: {best}, unlike those above"


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")
