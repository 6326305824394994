"""Differentiable augmentation: what the discriminator sees images through, each by its seed.

Drawn and real images alike are changed in ways through which gradients pass (Zhao et al. 2020), so
that a discriminator of few images cannot learn them by heart.
"""

from collections.abc import Sequence

import torch
from svpkit import draws
from torch import Tensor

# A shift of at most this share of the side; the side of what is cut out; levels and contrasts in
# units of the images' own spread.
SHIFT, CUT, LEVEL, CONTRAST = 1 / 8, 1 / 2, 0.3, 0.3


def turn(x: Tensor, seeds: Tensor, stream: str) -> Tensor:
    """Return each image in one of its eight flips and quarter turns."""
    bits = draws.integers(seeds, (3,), 2, f"{stream} turn").bool()
    vertical, horizontal, across = (bits[:, k, None, None, None] for k in range(3))
    x = torch.where(vertical, x.flip(2), x)
    x = torch.where(horizontal, x.flip(3), x)
    return torch.where(across, x.transpose(2, 3), x)


def shift(x: Tensor, seeds: Tensor, stream: str) -> Tensor:
    """Return each image moved by up to an eighth of its side; the border is mirrored."""
    n, side = len(x), x.shape[-1]
    most = max(int(side * SHIFT), 1)
    by = draws.integers(seeds, (2,), 2 * most + 1, f"{stream} shift") - most
    index = torch.arange(side, device=x.device) + by[:, :, None]
    index = side - 1 - (side - 1 - index.abs()).abs()
    rows = index[:, 0, None, :, None].expand(n, x.shape[1], side, side)
    columns = index[:, 1, None, None, :].expand(n, x.shape[1], side, side)
    return x.gather(2, rows).gather(3, columns)


def cutout(x: Tensor, seeds: Tensor, stream: str) -> Tensor:
    """Return each image with a square of half its side, anywhere, at the mean level 0."""
    side = x.shape[-1]
    middle = draws.uniform(seeds, (2, 1), f"{stream} cutout") * side
    near = (torch.arange(side, device=x.device) + 0.5 - middle).abs() < side * CUT / 2
    hidden = near[:, 0, :, None] & near[:, 1, None, :]
    return x * ~hidden[:, None]


def light(x: Tensor, seeds: Tensor, stream: str) -> Tensor:
    """Return each image brighter or darker, and with more or less contrast."""
    by = draws.uniform(seeds, (2, 1, 1, 1), f"{stream} light") * 2 - 1
    return x * (1 + CONTRAST * by[:, 1]) + LEVEL * by[:, 0]


KINDS = {"turn": turn, "shift": shift, "cutout": cutout, "light": light}


def augmented(x: Tensor, seeds: Tensor, names: Sequence[str], stream: str) -> Tensor:
    """Return images (B, C, S, S), changed in these ways, one after another; same shape."""
    for name in names:
        x = KINDS[name](x, seeds, stream)
    return x
