"""Which drawn images are training images again, turned, mirrored or not."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from svpkit import draws
from svpkit.generate.diffusion import spaced, turned
from svpkit.generate.extractor import smooth
from svpkit.particles.describe import background
from svpkit.particles.particleset import batches

RATIO = 1 / 3
BLOCK = 512
# Planted copies, and images whose noise is measured, at most.
PLANTED = 512
# The width in pixels of the border that noise is measured on.
FRAME = 3


def copy_rate(drawn: np.ndarray, train: np.ndarray) -> float | None:
    """Return the share of drawn images that are copies: None below two training images.

    Images uint8 (N, C, H, W). A copy is at most a third as far from its nearest training image as
    from the next one, as `nearest_two` measures it (Yoon et al. 2023). The test misses copies, most
    of all of faint particles: `copy_recall` says how many, so that the rate is a lower bound.
    """
    if len(train) < 2 or not len(drawn):
        return None
    near = nearest_two(drawn, train)
    return float((near[:, 0] <= RATIO * near[:, 1]).double().mean())


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


def nearest_two(drawn: np.ndarray, train: np.ndarray) -> Tensor:
    """Return the distances (N, 2) to the nearest and next training image, in grey levels.

    The distance is the least Euclidean one over the eight symmetries of the square, between images
    blurred by one pixel, against noise, and without level and slope, as the background's differ
    from picture to picture of one particle. No array holds more than 512 x 512 pairs.
    """
    return torch.cat([_nearest(drawn[at], train) for at in batches(len(drawn), BLOCK)])


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


def _nearest(some: np.ndarray, train: np.ndarray) -> Tensor:
    images = comparable(some)
    views = [turned(images, g).flatten(1) for g in range(8)]
    best = torch.full((len(images), 2), torch.inf)
    for at in batches(len(train), BLOCK):
        others = comparable(train[at]).flatten(1)
        distance = torch.stack([_squared(v, others) for v in views]).amin(dim=0)
        best = torch.cat([best, distance], dim=1).topk(2, dim=1, largest=False).values
    return best.sqrt()


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
