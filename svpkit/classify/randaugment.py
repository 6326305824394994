"""Changes at random, suited to grey particles: what none of them does is alter size or sign.

Per image by its seed: a mirror, a quarter turn, a shift by whole pixels, a small rotation, blur,
noise, brightness and contrast. At magnitude 1 the largest are: a shift of 1/8 of the side, 15
degrees, a 3 x 3 binomial blur, noise of 0.05, 0.1 of the grey range, contrast by 0.7 or 1.3.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from svpkit import draws
from svpkit.classify.augment import background, pixel_map

Change = Callable[[Tensor, Tensor, float], Tensor]


def changed(images: Tensor, seeds: Tensor, operations: int, magnitude: float) -> Tensor:
    """Return images in [-1, 1] (B, C, S, S) after some changes each, in a random order.

    After RandAugment (Cubuk et al. 2020): every change is as likely, with replacement; here
    strengths are drawn up to the magnitude, in 0 .. 1. An image depends on its own seed alone.
    """
    done = images.clone()
    for turn in draws.bits(seeds, operations, "randaugment").unbind(1):
        which = draws.integers(turn, (), len(CHANGES), "randaugment which")
        for k, change in enumerate(CHANGES):
            rows = (which == k).nonzero()[:, 0]
            if len(rows):
                done[rows] = change(done[rows], turn[rows], magnitude)
    return done.clamp_(-1, 1)


def mirror(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images mirrored, or not, in either axis."""
    return pixel_map(x, seeds, True, False, 0, "background")


def quarter(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images turned by 0, 90, 180 or 270 degrees."""
    return pixel_map(x, seeds, False, True, 0, "background")


def shift(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images shifted by whole pixels, background coming into view."""
    return pixel_map(x, seeds, False, False, round(magnitude * x.shape[-1] / 8), "background")


def rotate(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images rotated about their centre (bilinear), borders continued."""
    angle = _either(seeds, "rotate") * (magnitude * math.pi / 12)
    row = torch.stack([angle.cos(), -angle.sin(), torch.zeros_like(angle)], 1)
    other = torch.stack([angle.sin(), angle.cos(), torch.zeros_like(angle)], 1)
    grid = functional.affine_grid(torch.stack([row, other], 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def blur(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images mixed with their 3 x 3 binomial means."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    smooth = functional.conv2d(padded, kernel, groups=x.shape[1])
    return torch.lerp(x, smooth, _wide(draws.uniform(seeds, (), "blur")) * magnitude)


def noise(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images with white noise added."""
    much = _wide(draws.uniform(seeds, (), "noise much")) * (0.05 * 2 * magnitude)
    return x + much * draws.normal(seeds, x.shape[1:], "noise")


def brightness(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images raised or lowered in grey."""
    return x + _wide(_either(seeds, "brightness")) * (0.1 * 2 * magnitude)


def contrast(x: Tensor, seeds: Tensor, magnitude: float) -> Tensor:
    """Return images with the distance to their background stretched or shrunk."""
    middle = background(x)[:, :, None, None]
    return middle + (x - middle) * (1 + _wide(_either(seeds, "contrast")) * (0.3 * magnitude))


CHANGES: tuple[Change, ...] = (
    mirror,
    quarter,
    shift,
    rotate,
    blur,
    noise,
    brightness,
    contrast,
)


def _either(seeds: Tensor, stream: str) -> Tensor:
    return 2 * draws.uniform(seeds, (), f"randaugment {stream}") - 1


def _wide(value: Tensor) -> Tensor:
    return value[:, None, None, None]
