"""The matched start: images as unfocused as the last noise level leaves them, to draw from.

q(x_T) is normal but for alpha_T of the image: its mean and its slow parts, such as the background's
level, still show, and samplers never find them again if left out.
"""

import torch
from torch import Tensor

# The lowest spatial frequencies, a side, whose spread over images the matched start reproduces.
LOW = 4


def measure(x: Tensor, low: int) -> tuple[Tensor, Tensor]:
    """Return the mean (C, H, W) of images (N, C, H, W) and a root of their slow parts' covariance.

    The root is (C * low^2, C * low^2), over the `low` lowest frequencies a side.
    """
    mean = x.mean(dim=0)
    basis = _basis(low, x)
    slow = torch.einsum("ih,bchw,jw->bcij", basis, x - mean, basis).flatten(1)
    value, vector = torch.linalg.eigh(slow.T @ slow / len(slow))
    return mean, vector * value.clamp(min=0).sqrt()


def slow(mean: Tensor, root: Tensor, z: Tensor) -> Tensor:
    """Return images (B, C, H, W) of such means (B, C, H, W) and roots (B, n, n), for normal z.

    z is (B, n), one standard normal number a slow part.
    """
    channels = mean.shape[1]
    low = round((z.shape[1] / channels) ** 0.5)
    basis = _basis(low, mean)
    parts = torch.einsum("bij,bj->bi", root, z).view(len(z), channels, low, low)
    return mean + torch.einsum("ih,bcij,jw->bchw", basis, parts, basis)


def _basis(low: int, like: Tensor) -> Tensor:
    # the lowest rows of the orthonormal cosine transform (DCT-II), (low, H)
    side = like.shape[-1]
    k = torch.arange(low, device=like.device, dtype=torch.float32)[:, None]
    at = torch.arange(side, device=like.device, dtype=torch.float32) + 0.5
    basis = torch.cos(torch.pi / side * at * k) * (2 / side) ** 0.5
    return torch.where(k == 0, basis / 2**0.5, basis)
