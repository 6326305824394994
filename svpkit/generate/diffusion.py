"""Denoising diffusion: the loss that teaches a network to see through noise, and how it draws."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.fit import to_float
from svpkit.generate import objective, schedules, unet
from svpkit.generate.samplers import SAMPLERS
from svpkit.generate.start import LOW, measure, slow
from svpkit.particles.particleset import ParticleSet

# Statistics are taken on at most so many images a class.
LOOK_AT = 4096

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


class Diffusion(nn.Module):
    """A network, a noise schedule and the statistics of its training images.

    The schedule stays out of the weights; `centre`, `scale`, `mean` and `spread` are
    measured on the training images by `prepare` and saved with them. With `label_dropout` the
    network knows one label more than there are classes, the last one, which says nothing.
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
        loss: str = "auto",
        min_snr: float = 0.0,
        label_dropout: float = 0.0,
        augment: bool = True,
    ) -> None:
        super().__init__()
        channels, low = shape[0], min(LOW, shape[1])
        self.network, self.shape, self.classes, self.low = network, shape, classes, low
        self.prediction, self.min_snr, self.augment = prediction, min_snr, augment
        self.label_dropout = label_dropout
        self.edm = prediction == "edm"
        self.loss = LOSSES[("l2" if self.edm or min_snr else "l1") if loss == "auto" else loss]
        self.register_buffer("lam", table.float(), persistent=False)
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mean", torch.zeros(classes, *shape))
        self.register_buffer("spread", torch.zeros(classes, channels * low**2, channels * low**2))

    def prepare(self, particles: ParticleSet) -> None:
        """Measure the training images, once, before training: level, contrast, mean, spread."""
        sets = [particles.of(name) for name in particles.classes]
        seen = [to_float(torch.from_numpy(s.images(spaced(len(s), LOOK_AT)))) for s in sets]
        if self.edm:
            every = torch.cat(seen)
            self.centre.copy_(every.mean(dim=(0, 2, 3))[:, None, None])
            self.scale.copy_((every - self.centre).square().mean().sqrt().clamp(min=1e-3))
        for k, images in enumerate(seen):
            x = (images - self.centre) / self.scale
            x = torch.cat([turned(x, g) for g in range(8)]) if self.augment else x
            self.mean[k], self.spread[k] = measure(x, self.low)

    def fold(self) -> None:
        """Fold weight standardisation into the weights: equal images, sooner; not for training."""
        unet.fold(self.network)

    def forward(
        self, images: Tensor, labels: Tensor, seeds: Tensor, *, part: str = "main"
    ) -> Tensor:
        """Return the loss () of images in [-1, 1].

        Level, noise, turn and whether the label is told belong to `seeds` (B,).
        """
        x = (images - self.centre) / self.scale
        if self.augment:
            x = turn(x, draws.integers(seeds, (), 8, "turn"))
        if self.label_dropout:
            unsaid = draws.uniform(seeds, (), "label") < self.label_dropout
            labels = torch.where(unsaid, self.classes, labels)
        time, lam = self._levels(seeds)
        alpha, sigma = (v[:, None, None, None] for v in schedules.levels(lam))
        noise = draws.normal(seeds, self.shape, "noise")
        found = self.network(alpha * x + sigma * noise, time, labels).float()
        target = objective.target(self.prediction, x, noise, alpha, sigma)
        if not self.min_snr:
            return self.loss(found, target)
        each = self.loss(found, target, reduction="none").mean(dim=(1, 2, 3))
        return (objective.min_snr(self.prediction, lam, self.min_snr) * each).mean()

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        sampler: Annotated[
            Literal["dpmpp2m", "unipc", "ddim", "ancestral"],
            "dpmpp2m, unipc: few steps; ddim: more; ancestral: the paper's, without its clipping",
        ] = "dpmpp2m",
        steps: Annotated[int, Ge(1), "network calls an image"] = 25,
        grid: Annotated[
            Literal["auto", "lambda", "time", "karras"],
            "steps equal in lambda or in time, or as EDM's; auto: time for ancestral, else lambda",
        ] = "auto",
        start: Annotated[
            Literal["matched", "noise"],
            "first image: as the last training step left it, or pure noise",
        ] = "matched",
        guidance: Annotated[
            float, Ge(0), Le(100), "pull to the label, at two network calls a step; 1: none"
        ] = 1.0,
    ) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1] for labels (B,); image i depends on seeds[i].

        `guidance` is Ho & Salimans 2022's, 1 + w in their terms, on the denoised image.
        """
        self.check_sample({"steps": steps, "guidance": guidance}, "sample")
        solve, own = SAMPLERS[sampler]
        at = schedules.GRIDS[own if grid == "auto" else grid](self.lam.cpu().double(), steps)

        def denoise(x: Tensor, i: int) -> Tensor:
            level = float(at.time[i]), float(at.alpha[i]), float(at.sigma[i])
            image = self._image(x, labels, *level)
            if guidance == 1:
                return image
            free = self._image(x, torch.full_like(labels, self.classes), *level)
            return free + guidance * (image - free)

        def noise(i: int) -> Tensor:
            return draws.normal(seeds, self.shape, f"step {i}")

        x = self._start(labels, seeds, float(at.alpha[0]), float(at.sigma[0]), start)
        x = solve(denoise, x.to(memory_format=torch.channels_last), at, noise)
        return (x * self.scale + self.centre).clamp(-1, 1)

    def check_sample(self, sample: Mapping[str, Any], where: str) -> None:
        """Raise SvpkitError for options of `sample` that do not fit this model."""
        if sample["steps"] > len(self.lam):
            raise SvpkitError(
                f"{where}.steps: given {sample['steps']}, at most the {len(self.lam)} timesteps"
            )
        # not when it is built: pre-training knows one class whatever comes after
        if self.label_dropout and len(self.mean) < 2:
            raise SvpkitError(
                f"generator.options.label_dropout: given {self.label_dropout}, but this model has "
                "one class and takes no label; train one model of all (per_class = false)"
            )
        if sample["guidance"] != 1 and not self.label_dropout:
            raise SvpkitError(
                f"{where}.guidance: given {sample['guidance']}, only 1 without training with "
                "generator.options.label_dropout above 0"
            )

    def _levels(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        # the times and lambdas (B,) to train on
        if self.edm:
            lam = objective.lognormal(self.lam, draws.normal(seeds, (), "level"))
            return schedules.times(self.lam, lam), lam
        time = draws.integers(seeds, (), len(self.lam), "level")
        return time, self.lam[time]

    def _image(self, x: Tensor, labels: Tensor, time: float, alpha: float, sigma: float) -> Tensor:
        times = torch.full((len(x),), time, device=x.device)
        found = self.network(x, times, labels).float()
        return objective.image(self.prediction, x, found, alpha, sigma)

    def _start(
        self, labels: Tensor, seeds: Tensor, alpha: float, sigma: float, start: str
    ) -> Tensor:
        noise = draws.normal(seeds, self.shape, "start")
        if start == "noise":
            return noise
        z = draws.normal(seeds, (self.spread.shape[-1],), "background")
        return alpha * slow(self.mean[labels], self.spread[labels], z) + sigma * noise


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
