"""Which drawn images are training images again, turned, mirrored or not."""

import numpy as np
import torch
from torch import Tensor

from svpkit.generate.diffusion import turned
from svpkit.particles.particleset import batches

RATIO = 1 / 3
BLOCK = 512


def copy_rate(drawn: np.ndarray, train: np.ndarray) -> float | None:
    """Return the share of drawn images that are copies: None below two training images.

    Images uint8 (N, C, H, W). A copy is at most a third as far from its nearest training image as
    from the next one, in pixels and under flips and quarter turns (Yoon et al. 2023).
    """
    if len(train) < 2 or not len(drawn):
        return None
    near = nearest_two(drawn, train)
    return float((near[:, 0] <= RATIO * near[:, 1]).double().mean())


def nearest_two(drawn: np.ndarray, train: np.ndarray) -> Tensor:
    """Return the distances (N, 2) to the nearest and next training image, in grey levels.

    The distance is the least Euclidean one over the eight symmetries of the square; no array holds
    more than 512 x 512 pairs.
    """
    return torch.cat([_nearest(drawn[at], train) for at in batches(len(drawn), BLOCK)])


def _nearest(some: np.ndarray, train: np.ndarray) -> Tensor:
    images = _centred(some)
    views = [turned(images, g).flatten(1) for g in range(8)]
    best = torch.full((len(images), 2), torch.inf)
    for at in batches(len(train), BLOCK):
        others = _centred(train[at]).flatten(1)
        distance = torch.stack([_squared(v, others) for v in views]).amin(dim=0)
        best = torch.cat([best, distance], dim=1).topk(2, dim=1, largest=False).values
    return best.sqrt()


def _centred(images: np.ndarray) -> Tensor:
    # small numbers keep the squared distances exact enough in float32
    return torch.from_numpy(images).float() - 127.5


def _squared(a: Tensor, b: Tensor) -> Tensor:
    square = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    return square.clamp(min=0)
