"""Which particles stay together, and a share or a count of them drawn without parting any."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# With fewer groups than this, holding whole ones out leaves too few to learn from.
FEW_GROUPS = 5
# Random orders tried where groups are few enough for the order to matter.
_TRIES, _FEW_UNITS = 16, 2_000


def units_of(groups: np.ndarray, sources: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Return which particles must not be parted: int64 (N,), equal within a unit.

    A unit is a group; with under five groups, an image source in a group. A particle that names
    neither stands alone. Units that share an identical picture are one, or the picture would
    stand in two sets.
    """
    codes, named = pd.factorize(groups)[0], groups != ""
    if 0 < n_groups(groups) < FEW_GROUPS:
        place, found = pd.factorize(sources)
        codes, named = codes * len(found) + place, named & (sources != "")
    codes[~named] = codes.max(initial=0) + 1 + np.arange((~named).sum())
    return _joined(codes, digests)


def deal(
    labels: np.ndarray, units: np.ndarray, folds: int, random: Callable[[int], np.random.Generator]
) -> np.ndarray:
    """Return the fold of each particle, 0 .. folds - 1: int64 (N,); `random(i)` draws fold i.

    Particles of one unit share a fold; each class is dealt as evenly as units allow.
    """
    dealt, rest = np.full(len(labels), folds - 1), np.arange(len(labels))
    for i in range(folds - 1):
        n = np.bincount(labels[rest], minlength=labels.max(initial=0) + 1)
        target = np.round(n / (folds - i)).astype(int).tolist()
        own = np.unique(units[rest], return_inverse=True)[1]
        mask = choose(labels[rest], own, target, random(i))
        dealt[rest[mask]] = i
        rest = rest[~mask]
    return dealt


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which values (N,) are among those known (M,): bool (N,), in little memory."""
    if not len(known):
        return np.zeros(len(values), bool)
    known = np.sort(known)
    at = np.searchsorted(known, values)
    at[at == len(known)] = 0
    return known[at] == values


def n_groups(groups: np.ndarray) -> int:
    """Return the number of named groups."""
    return len(set(pd.unique(groups)) - {""})


def choose(
    labels: np.ndarray,
    units: np.ndarray,
    target: Sequence[int],
    rng: np.random.Generator,
    *,
    exact: bool = False,
) -> np.ndarray:
    """Return a mask of whole units with close to `target` particles of each class: bool (N,).

    Units are tried in random order and taken where that brings the classes nearer to their targets
    (relative to the size of each class). With `exact` no class falls short while units that hold it
    are left; it may then get more than asked.
    """
    members = _members(labels, units, len(target))
    tries = _TRIES if len(members) <= _FEW_UNITS else 1
    wanted = np.asarray(target)
    weight = 1 / np.maximum(members.sum(0), 1)
    best = min(
        (_greedy(members, wanted, weight, rng.permutation(len(members))) for _ in range(tries)),
        key=lambda found: found[0],
    )[1]
    if exact:
        _fill(members, wanted, best, rng.permutation(len(members)))
    elif not best.any() and wanted.any() and len(members):
        # every unit is more than twice the share: one is still better than none
        best[np.abs(wanted - members).dot(weight).argmin()] = True
    return best[units]


def _joined(codes: np.ndarray, digests: np.ndarray) -> np.ndarray:
    # sorted: a table of all digests would take four times the room
    ordered = np.sort(digests)
    twice = among(digests, ordered[1:][ordered[1:] == ordered[:-1]])
    pictures = pd.factorize(digests[twice])[0]
    n = int(codes.max()) + 1 if len(codes) else 0
    edges = (np.ones(len(pictures)), (codes[twice], pictures + n))
    total = n + int(pictures.max(initial=-1)) + 1
    joined = connected_components(coo_array(edges, shape=(total, total)), directed=False)[1]
    there = np.bincount(joined[codes], minlength=1) > 0
    return (np.cumsum(there) - 1)[joined[codes]]


def _members(labels: np.ndarray, units: np.ndarray, classes: int) -> np.ndarray:
    n = int(units.max()) + 1 if len(units) else 0
    found = np.bincount(units * classes + labels, minlength=n * classes)
    return found.reshape(n, classes)


def _greedy(
    members: np.ndarray, target: np.ndarray, weight: np.ndarray, order: np.ndarray
) -> tuple[float, np.ndarray]:
    chosen, got = np.zeros(len(members), bool), np.zeros_like(target)
    # One particle alone, as most are, needs a comparison only: half a million take a second.
    single = np.where(members.sum(1) == 1, members.argmax(1), -1).tolist()
    missing = (target - got).tolist()
    for unit in order.tolist():
        kind = single[unit]
        if kind >= 0:
            take = missing[kind] > 0
        else:
            before, after = np.asarray(missing), np.asarray(missing) - members[unit]
            take = np.abs(after).dot(weight) < np.abs(before).dot(weight)
        if take:
            chosen[unit] = True
            if kind >= 0:
                missing[kind] -= 1
            else:
                missing = (np.asarray(missing) - members[unit]).tolist()
    return float(np.abs(missing).dot(weight)), chosen


def _fill(members: np.ndarray, target: np.ndarray, chosen: np.ndarray, order: np.ndarray) -> None:
    missing = target - members[chosen].sum(0)
    for unit in order[~chosen[order]]:
        if (missing <= 0).all():
            return
        if (members[unit][missing > 0] > 0).any():
            chosen[unit] = True
            missing -= members[unit]
