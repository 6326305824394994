"""Strategies that mix each image with the one before it in the batch: mixup, CutMix, ReMix.

A partner is the sample before it in the whole batch, so that nothing depends on how many processes
share the batch. Labels are soft, float (B, K). Images without a partner in them keep the prior that
training saw: mixing moves it for no image that is used later.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincinv

if TYPE_CHECKING:
    from torch import Tensor

Mix = Callable[["Tensor", "Tensor", "Tensor", "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
QUANTILES = 4096


@dataclass(frozen=True)
class Mixup:
    """lam * image + (1 - lam) * partner, labels alike, lam from Beta(alpha, alpha), by image.

    Zhang, Cisse, Dauphin & Lopez-Paz 2018.
    """

    alpha: float = 1.0

    def mix(self, counts: Mapping[str, float]) -> Mix:
        """Return `mix(images, labels, partners, partner_labels, seeds) -> (images, labels)`."""
        alpha = self.alpha

        def mixed(
            x: "Tensor", y: "Tensor", px: "Tensor", py: "Tensor", seeds: "Tensor"
        ) -> "tuple[Tensor, Tensor]":
            lam = beta(seeds, alpha)
            return _blend(x, px, lam), _blend(y, py, lam)

        return mixed


@dataclass(frozen=True)
class Remix:
    """Mixup whose labels favour the rarer class (Chou et al. 2020).

    Where one class has `kappa` times the particles of the other, and the rarer has a part of more
    than 1 - `tau` in the image, the label is the rarer class's alone.
    """

    alpha: float = 1.0
    kappa: float = 3.0
    tau: float = 0.5

    def mix(self, counts: Mapping[str, float]) -> Mix:
        """Return `mix(images, labels, partners, partner_labels, seeds) -> (images, labels)`."""
        n, alpha, kappa, tau = list(counts.values()), self.alpha, self.kappa, self.tau

        def mixed(
            x: "Tensor", y: "Tensor", px: "Tensor", py: "Tensor", seeds: "Tensor"
        ) -> "tuple[Tensor, Tensor]":
            lam = beta(seeds, alpha)
            of = y.new_tensor(n)
            own, other = y @ of, py @ of
            mine = lam.masked_fill((own >= kappa * other) & (lam < tau), 0.0)
            mine = mine.masked_fill((kappa * own <= other) & (1 - lam < tau), 1.0)
            return _blend(x, px, lam), _blend(y, py, mine)

        return mixed


@dataclass(frozen=True)
class CutMix:
    """A rectangle of the partner pasted in, labels by area (Yun et al. 2019, eq. 1 and 2).

    Its share of the image comes from Beta(alpha, alpha), its centre from anywhere; what lies
    outside the image is lost, and the label follows the area that is left.
    """

    alpha: float = 1.0

    def mix(self, counts: Mapping[str, float]) -> Mix:
        """Return `mix(images, labels, partners, partner_labels, seeds) -> (images, labels)`."""
        alpha = self.alpha

        def mixed(
            x: "Tensor", y: "Tensor", px: "Tensor", py: "Tensor", seeds: "Tensor"
        ) -> "tuple[Tensor, Tensor]":
            inside = _rectangles(seeds, alpha, x.shape[-2], x.shape[-1])
            lam = 1 - inside.float().mean((1, 2))
            return px.where(inside[:, None], x), _blend(y, py, lam)

        return mixed


def beta(seeds: "Tensor", alpha: float) -> "Tensor":
    """Return float32 (B,) from Beta(alpha, alpha): one of 4096 equally likely values a seed."""
    import torch

    from svpkit import draws

    at = draws.integers(seeds, (), QUANTILES, "mix")
    return torch.from_numpy(_quantiles(alpha)).to(seeds.device)[at]


@lru_cache(maxsize=8)
def _quantiles(alpha: float) -> np.ndarray:
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return betaincinv(alpha, alpha, middle).astype(np.float32)


def _blend(one: "Tensor", other: "Tensor", share: "Tensor") -> "Tensor":
    share = share.view(-1, *[1] * (one.dim() - 1)).to(one.dtype)
    return share * one + (1 - share) * other


def _rectangles(seeds: "Tensor", alpha: float, height: int, width: int) -> "Tensor":
    # bool (B, height, width): true inside
    import torch

    from svpkit import draws

    side = (1 - beta(seeds, alpha)).sqrt()
    centre = draws.uniform(seeds, (2,), "cutmix")
    lines = []
    for k, n in enumerate((height, width)):
        middle, half = (centre[:, k] * n).long(), (side * n).long() // 2
        place = torch.arange(n, device=seeds.device)[None]
        lines.append((place >= (middle - half)[:, None]) & (place < (middle + half)[:, None]))
    return lines[0][:, :, None] & lines[1][:, None, :]
