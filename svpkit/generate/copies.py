"""Which drawn images are training images again, turned, mirrored or not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from svpkit import draws
from svpkit.generate.diffusion import spaced, turned
from svpkit.generate.extractor import smooth
from svpkit.generate.resample import share, wilson
from svpkit.particles.describe import background
from svpkit.particles.particleset import batches

RATIO = 1 / 3
BLOCK = 512
# Planted copies, and images whose noise is measured, at most.
PLANTED = 512
# The width in pixels of the border that noise is measured on.
FRAME = 3
# Pairs that are kept to look at.
WORST = 16
FEWEST = 8
# Which symmetry takes each of the eight back.
BACK = (0, 3, 2, 1, 4, 5, 6, 7)


@dataclass(frozen=True)
class Near:
    """The nearest and the next of some images, for each of n others: (n, 2) each.

    `distance` in grey levels; `index` positions, -1 where there is no next; `turn` the symmetry of
    the square (`diffusion.turned`) under which the image lies nearest.
    """

    distance: Tensor
    index: Tensor
    turn: Tensor

    @property
    def ratio(self) -> np.ndarray:
        """Distance to the nearest over distance to the next: (n,); 0 / 0 counts as 1."""
        near, after = self.distance.double().numpy().T
        return np.divide(near, after, out=np.ones(len(near)), where=after > 0)

    def copied(self) -> np.ndarray:
        """Return which of the images pass for copies: bool (n,)."""
        return (self.distance[:, 0] <= RATIO * self.distance[:, 1]).numpy()


def copy_rate(drawn: np.ndarray, train: np.ndarray) -> float | None:
    """Return the share of drawn images that are copies: None below two training images.

    Images uint8 (N, C, H, W). A copy is at most a third as far from its nearest training image as
    from the next one, as `nearest_two` measures it (Yoon et al. 2023). The test misses copies, most
    of all of faint particles: `copy_recall` says how many, so that the rate is a lower bound.
    """
    if len(train) < 2 or not len(drawn):
        return None
    return float(nearest(drawn, train).copied().mean())


def copy_interval(near: Near) -> dict[str, float]:
    """Return the copy rate with Wilson's 95 % interval."""
    copied = near.copied()
    low, high = wilson(int(copied.sum()), len(copied))
    return {"value": float(copied.mean()), "low": low, "high": high}


def nearer_to_train(
    drawn: np.ndarray, train: np.ndarray, val: np.ndarray, units: np.ndarray, seed: int
) -> dict[str, float] | None:
    """Return the share of drawn images nearer to a training than to a held-out image.

    0.5 is expected if nothing is memorised. As many training as held-out images, taken at random,
    are looked at; images uint8 (., C, H, W). The 95 % interval draws again what owns the drawn
    images: the real images nearest to them, held-out ones by unit, int64 (len(val),). None below
    eight images a side.
    """
    m = min(len(train), len(val))
    if m < FEWEST or not len(drawn):
        return None
    rng = draws.rng(seed, "nearer to train")
    some, held = (np.sort(rng.permutation(len(x))[:m]) for x in (train, val))
    near = [nearest(drawn, x) for x in (train[some], val[held])]
    ours, theirs = (x.distance[:, 0].double().numpy() for x in near)
    closer = (ours < theirs) + 0.5 * (ours == theirs)
    after = int(units.max()) + 1 + near[0].index[:, 0].numpy()
    owner = np.where(ours < theirs, after, units[held][near[1].index[:, 0].numpy()])
    return share(closer, np.ones(len(drawn)), owner, rng)


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
        j, turn = int(near.index[i, 0]), int(near.turn[i, 0])
        pictures[k, 0] = drawn[i]
        pictures[k, 1] = turned(torch.from_numpy(train[j]), BACK[turn]).numpy()
        found = {"ratio": float(near.ratio[i]), "distance": float(near.distance[i, 0])}
        rows.append({"drawn": int(i), "train": j, **found, "turn": turn})
    return rows, pictures


def copy_recall(train: np.ndarray, seed: int) -> float | None:
    """Return the share of planted copies that `copy_rate` finds: None below two training images.

    At most 512 of the training images uint8 (N, C, H, W) are planted, each with as much fresh
    white noise as the camera left in them (`pixel_noise`). A memorised particle that changed in
    more than noise and lighting is found less often.
    """
    planted = train[spaced(len(train), PLANTED)] if len(train) else train
    noise = draws.rng(seed, "planted copies").standard_normal(planted.shape, dtype=np.float32)
    noisy = np.clip(np.rint(planted + pixel_noise(planted) * noise), 0, 255).astype(np.uint8)
    return copy_rate(noisy, train)


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


def nearest(drawn: np.ndarray, train: np.ndarray) -> Near:
    """Return the nearest and next training image of each drawn one.

    The distance is the least Euclidean one over the eight symmetries of the square, between images
    blurred by one pixel, against noise, and without level and slope, as the background's differ
    from picture to picture of one particle. No array holds more than 8 x 512 x 512 pairs.
    """
    found = [_nearest(drawn[at], train) for at in batches(len(drawn), BLOCK)]
    return Near(*(torch.cat(each) for each in zip(*found, strict=True)))


def nearest_two(drawn: np.ndarray, train: np.ndarray) -> Tensor:
    """Return the distances (N, 2) to the nearest and next training image, in grey levels."""
    return nearest(drawn, train).distance


def comparable(images: np.ndarray) -> Tensor:
    """Return images (N, C, H, W) in grey levels, blurred by a pixel and less their best plane."""
    x = smooth(torch.from_numpy(images).float() - 127.5)
    x = x - x.mean(dim=(2, 3), keepdim=True)
    for dim in (2, 3):
        slope = torch.linspace(-1, 1, x.shape[dim])
        slope = slope[:, None] if dim == 2 else slope
        much = (x * slope).mean(dim=(2, 3), keepdim=True) / slope.square().mean()
        x = x - much * slope
    return x


def _nearest(some: np.ndarray, train: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    images = comparable(some)
    views = [turned(images, g).flatten(1) for g in range(8)]
    best = torch.full((len(images), 2), torch.inf)
    index = torch.full((len(images), 2), -1)
    turn = torch.zeros((len(images), 2), dtype=torch.int64)
    for at in batches(len(train), BLOCK):
        others = comparable(train[at]).flatten(1)
        distance, way = torch.stack([_squared(v, others) for v in views]).min(dim=0)
        here = torch.arange(at.start, at.stop).expand(len(images), -1)
        best, keep = torch.cat([best, distance], dim=1).topk(2, dim=1, largest=False)
        index = torch.cat([index, here], dim=1).gather(1, keep)
        turn = torch.cat([turn, way], dim=1).gather(1, keep)
    return best.sqrt(), index, turn


def _squared(a: Tensor, b: Tensor) -> Tensor:
    square = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    return square.clamp(min=0)


def _frame_noise(image: np.ndarray, level: np.ndarray) -> float:
    inside = (image != level[:, None, None]).any(axis=0)
    if not inside.any():
        return 0.0
    crop = image[:, inside.any(axis=1)][:, :, inside.any(axis=0)].astype(float)
    rest = crop - ndimage.gaussian_filter(crop, (0, 2, 2), mode="nearest")
    middle = (slice(None), *(slice(FRAME, max(n - FRAME, FRAME)) for n in crop.shape[1:]))
    rest[middle] = np.nan
    return 1.4826 * float(np.nanmedian(np.abs(rest)))
