"""Which drawn images are training images again, turned, moved and changed in light or not."""

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from svpkit import draws
from svpkit.generate.diffusion import spaced, turn, turned
from svpkit.generate.nearest import Near, nearest
from svpkit.generate.references import shifted
from svpkit.generate.resample import share, wilson
from svpkit.particles.describe import background

# Planted copies, and images whose noise is measured, at most.
PLANTED = 512
# By how much the contrast of planted copies changes, at most.
CONTRAST = 0.15
# The width in pixels of the border that noise is measured on.
FRAME = 3
# Pairs that are kept to look at.
WORST = 16
FEWEST = 8
# Which symmetry takes each of the eight back.
BACK = (0, 3, 2, 1, 4, 5, 6, 7)


def copy_rate(drawn: np.ndarray, train: np.ndarray) -> float | None:
    """Return the share of drawn images that are copies: None below two training images.

    Images uint8 (N, C, H, W). A copy is at most a third as far from its nearest training image as
    from the next one, as `nearest` measures it (Yoon et al. 2023), or the same as any. The test
    misses copies, most of all of faint particles: `copy_recall` says how many, so that the rate is
    a lower bound.
    """
    if len(train) < 2 or not len(drawn):
        return None
    return float(nearest(drawn, train).copied().mean())


def copy_interval(near: Near) -> dict[str, float]:
    """Return the copy rate with Wilson's 95 % interval."""
    copied = near.copied()
    low, high = wilson(int(copied.sum()), len(copied))
    return {"value": float(copied.mean()), "low": low, "high": high}


def memorised(
    drawn: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    units: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> dict[str, float] | None:
    """Return how much of the drawn images is memorised: 0 nothing, 1 all, with a 95 % interval.

    Images uint8 (., C, S, S), n training and m held-out ones; `units`, int64 (n,) and (m,), which
    of those belong together. Of images that know neither, a share e = n / (n + m) is nearer to a
    training image; of these a share s: (s - e) / (1 - e), below 0 by chance. The interval draws
    again what owns the drawn images, the units of the real ones nearest to them, and is the wider
    the more n exceeds m. None below eight images a side.
    """
    n, m = len(train), len(val)
    if min(n, m) < FEWEST or not len(drawn):
        return None
    # all at once: the more images there are, the likelier is the nearest missed, on either side
    near = nearest(drawn, np.concatenate([train, val]))
    ours = near.index.numpy() < n
    even = (near.distance[:, 0] == near.distance[:, 1]).numpy() & (ours[:, 0] != ours[:, 1])
    closer = np.where(even, 0.5, ours[:, 0])
    every = np.concatenate([units[0], units[1] + 1 + int(units[0].max())])
    owner = every[near.index[:, 0].numpy()]
    found = share(closer, np.ones(len(closer)), owner, draws.rng(seed, "memorised"))
    return {key: 1 - (1 - value) * (n + m) / m for key, value in found.items()}


def worst_pairs(
    near: Near, drawn: np.ndarray, train: np.ndarray, most: int = WORST
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the drawn images most like copies, each with its nearest training image.

    Rows {"drawn", "train" (positions), "ratio", "distance" (grey levels), "turn"}, lowest ratio
    first, and pictures uint8 (n, 2, C, H, W), the training image turned as the drawn one is.
    """
    worst = np.argsort(near.ratio, kind="stable")[:most]
    rows, pictures = [], np.empty((len(worst), 2, *drawn.shape[1:]), np.uint8)
    for k, i in enumerate(worst):
        j, way = int(near.index[i, 0]), int(near.turn[i, 0])
        pictures[k, 0] = drawn[i]
        pictures[k, 1] = turned(torch.from_numpy(train[j]), BACK[way]).numpy()
        found = {"ratio": float(near.ratio[i]), "distance": float(near.distance[i, 0])}
        rows.append({"drawn": int(i), "train": j, **found, "turn": way})
    return rows, pictures


def copy_recall(train: np.ndarray, seed: int) -> float | None:
    """Return the share of planted copies that `copy_rate` finds: None below two training images.

    At most 512 of the training images uint8 (N, C, S, S) are planted: each turned or mirrored,
    moved by up to a sixteenth of the side along both axes, its contrast changed by up to 15 %, and
    with as much fresh white noise as the camera left in them (`pixel_noise`).
    """
    if len(train) < 2:
        return None
    some, rng = train[spaced(len(train), PLANTED)], draws.rng(seed, "planted copies")
    most = round(some.shape[-1] / 16)
    by = torch.from_numpy(rng.integers(-most, most + 1, (len(some), 2)))
    which = torch.from_numpy(rng.integers(0, 8, len(some)))
    moved = shifted(turn(torch.from_numpy(some), which), by).numpy()
    level = background(moved)[:, :, None, None]
    much = rng.uniform(1 - CONTRAST, 1 + CONTRAST, (len(some), 1, 1, 1))
    noise = pixel_noise(some) * rng.standard_normal(some.shape, dtype=np.float32)
    planted = level + much * (moved - level) + noise
    return copy_rate(np.clip(np.rint(planted), 0, 255).astype(np.uint8), train)


def pixel_noise(images: np.ndarray) -> float:
    """Return the standard deviation of the camera's noise, in grey levels.

    Images uint8 (N, C, H, W). The median over images of 1.4826 times the median absolute value that
    a Gaussian of 2 pixels leaves on the three-pixel frame of a crop, inside any padding; a
    particle at the edge of some of the crops does not move it.
    """
    if not len(images):
        return 0.0
    levels = background(images)
    each = [_frame_noise(x, level) for x, level in zip(images, levels, strict=True)]
    return float(np.median(each))


def _frame_noise(image: np.ndarray, level: np.ndarray) -> float:
    inside = (image != level[:, None, None]).any(axis=0)
    if not inside.any():
        return 0.0
    crop = image[:, inside.any(axis=1)][:, :, inside.any(axis=0)].astype(float)
    rest = crop - ndimage.gaussian_filter(crop, (0, 2, 2), mode="nearest")
    middle = (slice(None), *(slice(FRAME, max(n - FRAME, FRAME)) for n in crop.shape[1:]))
    rest[middle] = np.nan
    return 1.4826 * float(np.nanmedian(np.abs(rest)))
