"""Noise schedules and grids of noise levels: image x_t = alpha_t * x_0 + sigma_t * noise.

A schedule is the table of lambda_t = log(alpha_t / sigma_t), float64 (T,), falling with t; alpha
and sigma follow from it since alpha^2 + sigma^2 = 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The S noise levels that a sampler visits, noisiest first.

    `time` is the position in the schedule's table, in [0, T - 1] and not always whole; all float64
    (S,).
    """

    time: Tensor
    alpha: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        return len(self.time)


def linear(timesteps: int) -> Tensor:
    """Return lambda of betas 1e-4 .. 0.02 in equal steps (Ho et al. 2020, section 4).

    The end points are those of T = 1000 whatever T is: with T = 500 the last level still holds 8 %
    of the image's amplitude.
    """
    betas = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)
    return _half_log_snr(torch.cumprod(1 - betas, 0))


def cosine(timesteps: int) -> Tensor:
    """Return lambda of the squared-cosine schedule (Nichol & Dhariwal 2021, equation 17)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return _half_log_snr(torch.cumprod(1 - betas, 0))


SCHEDULES = {"linear": linear, "cosine": cosine}


def levels(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Return (alpha, sigma) at lambda: both of its shape."""
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()


def times(table: Tensor, lam: Tensor) -> Tensor:
    """Return the positions in a schedule's table where it reaches lambda, interpolated."""
    after = torch.searchsorted(-table, -lam.contiguous()).clamp(1, len(table) - 1)
    share = (table[after - 1] - lam) / (table[after - 1] - table[after])
    return after - 1 + share.clamp(0, 1)


def uniform_lambda(table: Tensor, steps: int) -> Grid:
    """Return `steps` levels equally far apart in lambda (Lu et al. 2022, section 3.3)."""
    lam = torch.linspace(float(table[-1]), float(table[0]), steps, dtype=torch.float64)
    return Grid(times(table, lam), *levels(lam))


def uniform_time(table: Tensor, steps: int) -> Grid:
    """Return `steps` whole levels equally far apart in t; all of them when steps = T."""
    time = torch.linspace(len(table) - 1, 0, steps, dtype=torch.float64).round()
    return Grid(time, *levels(table[time.long()]))


def _half_log_snr(alpha_squared: Tensor) -> Tensor:
    return 0.5 * (alpha_squared.log() - torch.log1p(-alpha_squared))
