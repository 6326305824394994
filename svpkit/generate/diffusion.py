"""Denoising diffusion: the loss that teaches a network to see through noise, and how it draws."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.fit import to_float
from svpkit.generate import schedules
from svpkit.generate.samplers import SAMPLERS
from svpkit.particles.particleset import ParticleSet

# The lowest spatial frequencies, a side, whose spread over images the matched start reproduces.
LOW = 4
# Statistics are taken on at most so many images a class.
LOOK_AT = 4096
# ln(sigma) of the levels that EDM trains on, for data of unit variance (Karras et al. 2022,
# table 1, whose sigma_data is 0.5).
LOGNORMAL = (-1.2 - float(np.log(0.5)), 1.2)

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


class Diffusion(nn.Module):
    """A network, a noise schedule and the statistics of its training images.

    The schedule stays out of the weights; `centre`, `scale`, `mean` and `spread` are
    measured on the training images by `prepare` and saved with them.
    """

    lam: Tensor
    centre: Tensor
    scale: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, int, int],
        classes: int,
        *,
        table: Tensor,
        prediction: str = "noise",
        levels: str = "uniform",
        loss: str = "l1",
        standardise: bool = False,
        augment: bool = True,
    ) -> None:
        super().__init__()
        channels, low = shape[0], min(LOW, shape[1])
        self.network, self.shape, self.low = network, shape, low
        self.prediction, self.levels, self.loss = prediction, levels, LOSSES[loss]
        self.standardise, self.augment = standardise, augment
        self.register_buffer("lam", table.float(), persistent=False)
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mean", torch.zeros(classes, *shape))
        self.register_buffer("spread", torch.zeros(classes, channels * low**2, channels * low**2))

    def prepare(self, particles: ParticleSet) -> None:
        """Measure the training images, once, before training: level, contrast, mean, spread."""
        sets = [particles.of(name) for name in particles.classes]
        seen = [to_float(torch.from_numpy(s.images(spaced(len(s), LOOK_AT)))) for s in sets]
        if self.standardise:
            every = torch.cat(seen)
            self.centre.copy_(every.mean(dim=(0, 2, 3))[:, None, None])
            self.scale.copy_((every - self.centre).square().mean().sqrt().clamp(min=1e-3))
        for k, images in enumerate(seen):
            x = (images - self.centre) / self.scale
            x = torch.cat([turned(x, g) for g in range(8)]) if self.augment else x
            self.mean[k] = x.mean(dim=0)
            low = self._low(x - self.mean[k])
            value, vector = torch.linalg.eigh(low.T @ low / len(low))
            self.spread[k] = vector * value.clamp(min=0).sqrt()

    def forward(
        self, images: Tensor, labels: Tensor, seeds: Tensor, *, part: str = "main"
    ) -> Tensor:
        """Return the loss () of images in [-1, 1]; level, noise and turn belong to `seeds` (B,)."""
        x = (images - self.centre) / self.scale
        if self.augment:
            x = turn(x, draws.integers(seeds, (), 8, "turn"))
        time, lam = self._levels(seeds)
        alpha, sigma = (v[:, None, None, None] for v in schedules.levels(lam))
        noise = draws.normal(seeds, self.shape, "noise")
        noisy = alpha * x + sigma * noise
        found = self.network(noisy, time, labels).float()
        target = noise if self.prediction == "noise" else alpha * noise - sigma * x
        return self.loss(found, target)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        sampler: Annotated[
            Literal["dpmpp2m", "ancestral"], "dpmpp2m: few steps; ancestral: as the paper"
        ] = "dpmpp2m",
        steps: Annotated[int, Ge(1), "network calls an image"] = 25,
        start: Annotated[
            Literal["matched", "noise"],
            "first image: as the last training step left it, or pure noise",
        ] = "matched",
    ) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1] for labels (B,); image i depends on seeds[i]."""
        self.check_sample({"steps": steps}, "sample")
        solve, grid_of = SAMPLERS[sampler]
        grid = grid_of(self.lam.cpu().double(), steps)

        def denoise(x: Tensor, i: int) -> Tensor:
            alpha, sigma = float(grid.alpha[i]), float(grid.sigma[i])
            time = torch.full((len(x),), float(grid.time[i]), device=x.device)
            found = self.network(x, time, labels).float()
            if self.prediction == "noise":
                return (x - sigma * found) / alpha
            return alpha * x - sigma * found

        def noise(i: int) -> Tensor:
            return draws.normal(seeds, self.shape, f"step {i}")

        x = self._start(labels, seeds, float(grid.alpha[0]), float(grid.sigma[0]), start)
        x = solve(denoise, x.to(memory_format=torch.channels_last), grid, noise)
        return (x * self.scale + self.centre).clamp(-1, 1)

    def check_sample(self, sample: Mapping[str, Any], where: str) -> None:
        """Raise SvpkitError for options of `sample` that do not fit this model."""
        if sample["steps"] > len(self.lam):
            raise SvpkitError(
                f"{where}.steps: given {sample['steps']}, at most the {len(self.lam)} timesteps"
            )

    def _levels(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        # the times and lambdas (B,) to train on
        if self.levels == "uniform":
            time = draws.integers(seeds, (), len(self.lam), "level")
            return time, self.lam[time]
        mean, sd = LOGNORMAL
        lam = -(mean + sd * draws.normal(seeds, (), "level"))
        lam = torch.minimum(torch.maximum(lam, self.lam[-1]), self.lam[0])
        return schedules.times(self.lam, lam), lam

    def _start(
        self, labels: Tensor, seeds: Tensor, alpha: float, sigma: float, start: str
    ) -> Tensor:
        # q(x_T) is normal but for sqrt(abar_T) of the image: its mean and its slow parts, such as
        # the background's level, still show, and samplers never find them again if left out.
        noise = draws.normal(seeds, self.shape, "start")
        if start == "noise":
            return noise
        z = draws.normal(seeds, (self.spread.shape[-1],), "background")
        slow = torch.einsum("bij,bj->bi", self.spread[labels], z)
        slow = slow.view(len(z), self.shape[0], self.low, self.low)
        basis = self._basis()
        slow = torch.einsum("ih,bcij,jw->bchw", basis, slow, basis)
        return alpha * (self.mean[labels] + slow) + sigma * noise

    def _low(self, x: Tensor) -> Tensor:
        basis = self._basis()
        return torch.einsum("ih,bchw,jw->bcij", basis, x, basis).flatten(1)

    def _basis(self) -> Tensor:
        # the lowest rows of the orthonormal cosine transform (DCT-II), (LOW, H)
        side = self.shape[1]
        k = torch.arange(self.low, device=self.mean.device, dtype=torch.float32)[:, None]
        at = torch.arange(side, device=self.mean.device, dtype=torch.float32) + 0.5
        basis = torch.cos(torch.pi / side * at * k) * (2 / side) ** 0.5
        return torch.where(k == 0, basis / 2**0.5, basis)


def turned(x: Tensor, g: int) -> Tensor:
    """Return images (..., H, W) under symmetry g of the square: quarter turns 0-3, mirrored 4-7."""
    x = torch.rot90(x, g % 4, dims=(-2, -1))
    return x.flip(-1) if g >= 4 else x


def turn(x: Tensor, which: Tensor) -> Tensor:
    """Return each image (B, C, H, W) under its own symmetry, int64 (B,) in [0, 8)."""
    every = torch.stack([turned(x, g) for g in range(8)])
    return every[which, torch.arange(len(x), device=x.device)]


def spaced(n: int, most: int) -> np.ndarray:
    """Return at most `most` positions spread evenly over n."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
