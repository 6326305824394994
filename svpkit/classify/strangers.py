"""Pictures of no class: training images harmed until no class may claim them."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from svpkit.particles.describe import background

Grey = np.ndarray


def strangers(images: np.ndarray, seeds: np.ndarray, harm: str | None = None) -> np.ndarray:
    """Return images uint8 (N, C, S, S) harmed, one by one: each of (image, seed) alone.

    images uint8 (N, C, S, S), seeds int64 (N,). The seed draws one of HARMS unless `harm` names it:
    `inverted` (dark becomes bright about the background), `shuffled` (quadrants change places),
    `stretched` (3 times in one direction), `tiled` (four small copies), `crossed` (laid over a copy
    of itself turned and moved), `speckled` (its change from background, in random signs), `fibre`
    (a thin curved line through a background of its own noise), `shard` (an opaque sharp-edged
    polygon on the same).
    """
    names = tuple(HARMS)
    found = np.empty_like(images)
    level = background(images)
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        rng = np.random.Generator(np.random.Philox(key=int(seed) & (2**64 - 1)))
        drawn = names[int(rng.integers(len(names)))]
        change = image.astype(np.float64) - level[i][:, None, None]
        harmed = HARMS[harm or drawn](change, rng) + level[i][:, None, None]
        found[i] = np.clip(np.rint(harmed), 0, 255).astype(np.uint8)
    return found


def sources(labels: np.ndarray, n: int) -> np.ndarray:
    """Return n positions of training images to harm, as many of each class (N,) as can be.

    A rare class's images come more than once, each time for another seed: strangers resemble the
    rare as well as the common, and it is the counts of the rare that they spoil.
    """
    names = np.unique(labels)
    parts = [np.flatnonzero(labels == name) for name in names]
    shares = [len(part) for part in np.array_split(np.arange(n), len(names))]
    rows = [
        part[np.linspace(0, len(part) - 1, share).round().astype(int)]
        for part, share in zip(parts, shares, strict=True)
    ]
    return np.concatenate(rows)


def _inverted(change: Grey, rng: np.random.Generator) -> Grey:
    return -change


def _shuffled(change: Grey, rng: np.random.Generator) -> Grey:
    half = change.shape[1] // 2
    # moved by half, the corners of the picture meet in its middle
    turned = np.rot90(change, int(rng.integers(1, 4)), axes=(1, 2))
    moved = np.roll(turned, (half, half), axis=(1, 2))
    return np.concatenate([moved[:, :half], change[:, half:]], axis=1)


def _stretched(change: Grey, rng: np.random.Generator) -> Grey:
    factors = np.array([3.0, 1.0])[:: int(rng.choice([-1, 1]))]
    middle = (change.shape[1] - 1) / 2
    offset = middle - middle / factors
    return np.stack(
        [ndimage.affine_transform(c, 1 / factors, offset, order=1, mode="nearest") for c in change]
    )


def _tiled(change: Grey, rng: np.random.Generator) -> Grey:
    even = change[:, : change.shape[1] // 2 * 2, : change.shape[2] // 2 * 2]
    small = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    rows = [np.concatenate([small, small[:, ::-1]], axis=2) for _ in range(2)]
    out = np.zeros_like(change)
    both = np.concatenate(rows, axis=1)
    out[:, : both.shape[1], : both.shape[2]] = both
    return out


def _crossed(change: Grey, rng: np.random.Generator) -> Grey:
    turned = np.rot90(change, int(rng.integers(1, 4)), axes=(1, 2))
    by = rng.choice([-1, 1], 2) * rng.integers(1, max(2, change.shape[1] // 4), 2)
    other = np.roll(turned, tuple(int(b) for b in by), axis=(1, 2))
    return np.where(np.abs(other) > np.abs(change), other, change)


def _speckled(change: Grey, rng: np.random.Generator) -> Grey:
    return change * rng.choice([-1.0, 1.0], change.shape[1:])


def _fibre(change: Grey, rng: np.random.Generator) -> Grey:
    size = change.shape[1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-2, 2) / size
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    width = rng.uniform(0.5, 1.2)
    line = np.exp(-0.5 * ((across - bend * along**2) / width) ** 2)
    peak = np.percentile(np.abs(change), 98) * rng.choice([-1, 1])
    return _quiet(change, rng) + peak * line


def _shard(change: Grey, rng: np.random.Generator) -> Grey:
    size = change.shape[1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2 + rng.uniform(-0.1, 0.1, (2, 1, 1)) * size
    turns = np.sort(rng.uniform(0, 2 * np.pi, 5))
    reach = rng.uniform(0.08, 0.3, 5) * size
    sides = [r - (x * np.cos(t) + y * np.sin(t)) for t, r in zip(turns, reach, strict=True)]
    inside = (np.min(sides, axis=0) > 0) & (np.hypot(x, y) < 0.35 * size)
    quiet = _quiet(change, rng)
    return np.where(inside, quiet - rng.uniform(60, 120), quiet)


def _quiet(change: Grey, rng: np.random.Generator) -> Grey:
    """Return a background of the picture's own quieter pixels, shuffled."""
    quiet = change[np.abs(change) <= np.median(np.abs(change))]
    return rng.choice(quiet, change.shape)


HARMS: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "inverted": _inverted,
    "shuffled": _shuffled,
    "stretched": _stretched,
    "tiled": _tiled,
    "crossed": _crossed,
    "speckled": _speckled,
    "fibre": _fibre,
    "shard": _shard,
}
"""What may be done to an image, by name."""
