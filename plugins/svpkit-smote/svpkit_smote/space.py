"""The space in which particles are neighbours: principal components of images, or their pixels."""

import numpy as np
from svpkit import ParticleSet, draws

# Images that the components are found from, as even over the classes as they allow: a rare class
# has a voice, and a matrix of this side is what has to be decomposed.
FOUND_FROM = 1_500
BLOCK = 1024


def points(train: ParticleSet, share: float | None, seed: int) -> np.ndarray:
    """Return a place for each particle: its principal components float64 (N, D).

    The components hold `share` of the variance among up to FOUND_FROM images (Pearson 1901; by the
    eigenvectors of their products). Without a share, the pixels themselves, float32 (N, C S S).
    """
    if share is None:
        # in one array from the start: it is the largest thing there is
        pixels = np.empty((len(train), int(np.prod(train.shape))), np.float32)
        for rows in _blocks(len(train)):
            pixels[rows] = train.images(rows).reshape(-1, pixels.shape[1])
        return pixels
    mean, basis = components(train, share, seed)
    found = np.empty((len(train), basis.shape[1]))
    for rows in _blocks(len(train)):
        flat = train.images(rows).reshape(-1, len(mean)).astype(np.float32)
        found[rows] = (flat - mean) @ basis
    return found


def components(train: ParticleSet, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean image (P,) and the principal directions (P, D), both float32."""
    labels, rng = train.labels, draws.rng(seed, "smote", "components")
    names = np.unique(labels)
    part = -(-FOUND_FROM // len(names))
    some = [rng.permutation(np.flatnonzero(labels == name))[:part] for name in names]
    flat = train.images(np.sort(np.concatenate(some))).reshape(-1, int(np.prod(train.shape)))
    mean = flat.mean(0, dtype=np.float64).astype(np.float32)
    centred = flat - mean
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    kept = values > 1e-7 * max(values[0], 1e-30)
    total = np.cumsum(values) / max(values.sum(), 1e-30)
    n = min(int(np.searchsorted(total, share - 1e-9)) + 1, max(int(kept.sum()), 1))
    length = np.sqrt(np.maximum(values[:n], 1e-30))
    return mean, (centred.T @ (vectors[:, :n] / length)).astype(np.float32)


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
