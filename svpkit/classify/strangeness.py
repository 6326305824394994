"""How strange a particle is to a classifier: three scores, higher = stranger."""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import logsumexp

SCORES = ("energy", "knn", "vim")
"""The scores, the simplest first."""

BANK = 5_000
"""Training particles that `knn` compares with, at most."""

DIMS = 64
"""Dimensions that `knn` compares in, at most."""

_BLOCK = 1024
Arrays = dict[str, np.ndarray]


def fit(name: str, features: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Arrays:
    """Return the arrays of one score, fitted to training particles; for `energy` there are none.

    features (N, F), logits (N, K), labels int (N,). At most BANK particles are used, chosen by
    `spread`, so that a common class does not crowd out the rare ones.
    """
    rows = spread(labels, BANK)
    if name == "knn":
        return _fit_knn(features[rows].astype(np.float64), labels[rows])
    if name == "vim":
        return _fit_vim(features[rows].astype(np.float64), logits[rows].astype(np.float64))
    return {}


def score(
    name: str, fitted: Mapping[str, np.ndarray], features: np.ndarray, logits: np.ndarray
) -> np.ndarray:
    """Return the strangeness of each particle: float32 (N,); +inf where the network said NaN.

    A particle's score does not depend on how many others are scored with it, nor on their order:
    all is calculated in double and rounded.
    """
    if name == "energy":
        found = energy(logits)
    elif name == "knn":
        found = knn(fitted, features)
    else:
        found = vim(fitted, features, logits)
    return np.where(np.isfinite(found), found, np.inf).astype(np.float32)


def energy(logits: np.ndarray) -> np.ndarray:
    """Return -logsumexp of logits (N, K): float64 (N,) (Liu et al. 2020, eq. 4, T = 1)."""
    if not len(logits):
        return np.zeros(0)
    return -np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def knn(fitted: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return the distance to the k-th nearest of the bank: (N,), 0 to 2 (Sun et al. 2022).

    features (N, F) are scaled to length 1. The bank is held in its first DIMS principal directions;
    the distance is that to the bank so projected, what stands outside the directions included, and
    so exact where F <= DIMS.
    """
    basis, bank, k = _double(fitted["basis"]), _double(fitted["bank"]), int(fitted["k"][0])
    squares, found = (bank**2).sum(1), np.empty(len(features))
    for rows, block in _blocks(features):
        far = squares - 2 * (_unit(block) @ basis) @ bank.T
        found[rows] = np.sqrt(np.maximum(np.partition(far, k - 1, axis=1)[:, k - 1] + 1, 0))
    return found


def vim(fitted: Mapping[str, np.ndarray], features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the virtual logit minus logsumexp of the others: (N,) (Wang et al. 2022, eq. 5-6).

    The virtual logit is alpha times the length of the features' part outside the principal space.
    """
    found = energy(logits)
    origin, rest, alpha = (_double(fitted[name]) for name in ("origin", "rest", "alpha"))
    for rows, block in _blocks(features):
        found[rows] += alpha * np.linalg.norm((block - origin) @ rest, axis=1)
    return found


def spread(labels: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` positions, sorted: as even over classes (N,) as they allow.

    A class smaller than its even part is taken whole; of a larger one, positions at equal steps.
    """
    names, n = np.unique(labels, return_counts=True)
    left, rows = most, []
    for done, c in enumerate(np.argsort(n, kind="stable")):
        take = min(int(n[c]), left // (len(names) - done))
        there = np.flatnonzero(labels == names[c])
        rows.append(there[np.linspace(0, n[c] - 1, take).round().astype(int)])
        left -= take
    return np.sort(np.concatenate([np.zeros(0, int), *rows]))


def principal(features: np.ndarray, about: np.ndarray) -> np.ndarray:
    """Return the principal directions of features (N, F) about a point (F,): (F, F), best first."""
    centred = features - about
    return np.linalg.eigh(centred.T @ centred / max(len(features), 1))[1][:, ::-1]


def _fit_knn(features: np.ndarray, labels: np.ndarray) -> Arrays:
    unit = _unit(features)
    basis = principal(unit, np.zeros(unit.shape[1]))[:, :DIMS]
    # the paper takes k = 10 of 13,000 and 50 of 50,000: a rare class must hold k neighbours itself
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    k = max(1, min(len(unit) // 500, smallest // 4, 10))
    return {
        "basis": np.ascontiguousarray(basis, np.float32),
        "bank": np.ascontiguousarray(unit @ basis, np.float32),
        "k": np.array([k], np.int64),
    }


def _fit_vim(features: np.ndarray, logits: np.ndarray) -> Arrays:
    origin = _origin(features, logits)
    width = features.shape[1]
    # the paper's sizes: 1000 of 2048 and 512 of 768; half of narrower ones
    kept = 1000 if width >= 2048 else 512 if width >= 768 else max(width // 2, 1)
    rest = principal(features, origin)[:, kept:]
    outside = np.linalg.norm((features - origin) @ rest, axis=1).sum()
    alpha = abs(logits.max(1).sum()) / outside if outside > 0 else 0.0
    arrays = {"origin": origin, "rest": np.ascontiguousarray(rest), "alpha": np.array([alpha])}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _origin(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    # the paper's -(W^T)^+ b, where all logits are 0; W and b are found by least squares, so that
    # any classifier that hands out features and logits will do
    mean, level = features.mean(0), logits.mean(0)
    centred = features - mean
    weight = np.linalg.pinv(centred.T @ centred, rcond=1e-10, hermitian=True) @ (
        centred.T @ (logits - level)
    )
    return -np.linalg.pinv(weight.T) @ (level - mean @ weight)


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1.0)


def _blocks(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    # in double: what a matrix product adds, and so its last bit, hangs on the number of rows
    for start in range(0, len(features), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(features)))
        yield rows, _double(features[rows])


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)
