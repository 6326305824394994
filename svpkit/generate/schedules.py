"""Noise schedules and grids of noise levels: image x_t = alpha_t * x_0 + sigma_t * noise.

A schedule is the table of lambda_t = log(alpha_t / sigma_t), float64 (T,), falling with t; alpha
and sigma follow from it since alpha^2 + sigma^2 = 1. The last lambda may be -inf: pure noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# How much denser the levels of `karras` are near the image (Karras et al. 2022, table 1).
RHO = 7


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
    return _of_share(torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2)


def sigmoid(timesteps: int) -> Tensor:
    """Return lambda of the sigmoid schedule, tau 1, from -3 to 3 (Jabri et al. 2022, section 3)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    curve = torch.sigmoid(6 * t - 3)
    return _of_share((curve[-1] - curve) / (curve[-1] - curve[0]))


# ln of the highest sigma that EDM draws from, for data of unit variance (Karras et al. 2022,
# table 1: 80 for a sigma_data of 0.5).
EDM_RANGE = math.log(80 / 0.5)

SCHEDULES = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}


def zero_terminal(table: Tensor) -> Tensor:
    """Return lambda with alpha moved and stretched so that its last level is 0, pure noise.

    The first level stays (Lin et al. 2023, algorithm 1); lambda of the last one is -inf.
    """
    alpha, _ = levels(table)
    return _half_log_snr(((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2)


def levels(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Return (alpha, sigma) at lambda: both of its shape."""
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()


def times(table: Tensor, lam: Tensor) -> Tensor:
    """Return the positions in a schedule's table where it reaches lambda, interpolated.

    Before a last level of pure noise, where lambda has no end, alpha / sigma is interpolated.
    """
    after = torch.searchsorted(-table, -lam.contiguous()).clamp(1, len(table) - 1)
    above, below = table[after - 1], table[after]
    share = (above - lam) / (above - below)
    share = torch.where(below == -math.inf, -torch.expm1(lam - above), share)
    return after - 1 + share.clamp(0, 1)


def uniform_lambda(table: Tensor, steps: int) -> Grid:
    """Return `steps` levels equally far apart in lambda (Lu et al. 2022, section 3.3)."""
    return _between(table, steps, lambda a, b, n: torch.linspace(a, b, n, dtype=torch.float64))


def uniform_time(table: Tensor, steps: int) -> Grid:
    """Return `steps` whole levels equally far apart in t; all of them when steps = T."""
    time = torch.linspace(len(table) - 1, 0, steps, dtype=torch.float64).round()
    return Grid(time, *levels(table[time.long()]))


def karras(table: Tensor, steps: int) -> Grid:
    """Return `steps` levels of sigma / alpha as EDM's (Karras et al. 2022, equation 5), rho 7."""

    def spread(first: float, last: float, n: int) -> Tensor:
        ends = math.exp(-first / RHO), math.exp(-last / RHO)
        return -RHO * torch.linspace(*ends, n, dtype=torch.float64).log()

    return _between(table, steps, spread)


GRIDS: dict[str, Callable[[Tensor, int], Grid]] = {
    "lambda": uniform_lambda,
    "time": uniform_time,
    "karras": karras,
}


def _between(table: Tensor, steps: int, spread: Callable[[float, float, int], Tensor]) -> Grid:
    # a last level of pure noise is infinitely far away: the other levels are spread without it
    far = int(table[-1] == -math.inf)
    noisiest = float(table[0 if far and steps == 2 else -1 - far])
    lam = spread(noisiest, float(table[0]), steps - far)
    lam = torch.cat([table[len(table) - far :].double(), lam])
    return Grid(times(table, lam), *levels(lam))


def _of_share(f: Tensor) -> Tensor:
    # lambda of alpha^2 (T + 1,) from 1 to 0, no beta above 0.999
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return _half_log_snr(torch.cumprod(1 - betas, 0))


def _half_log_snr(alpha_squared: Tensor) -> Tensor:
    return 0.5 * (alpha_squared.log() - torch.log1p(-alpha_squared))
