"""Samplers: pure functions `(denoise, x, grid, noise) -> x` from the noisiest level to an image.

`denoise(x, i)` returns the image expected behind x at level i of the grid; `noise(i)` returns
standard normal numbers of x's shape for step i. The last step is the last denoised image.
"""

import math
from collections.abc import Callable

from torch import Tensor

from svpkit.generate import schedules
from svpkit.generate.schedules import Grid

Denoise = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]
Sampler = Callable[[Denoise, Tensor, Grid, Noise], Tensor]


def ancestral(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise) -> Tensor:
    """Draw each level from its posterior given the one before (Ho et al. 2020, equation 7).

    With all T levels this is the sampler of the paper; a subset of them takes larger steps.
    """
    alpha, sigma = grid.alpha.tolist(), grid.sigma.tolist()
    for i in range(len(grid) - 1):
        shrink = alpha[i] / alpha[i + 1]
        variance = sigma[i] ** 2 - (shrink * sigma[i + 1]) ** 2
        keep = shrink * (sigma[i + 1] / sigma[i]) ** 2
        pull = alpha[i + 1] * variance / sigma[i] ** 2
        spread = math.sqrt(variance) * sigma[i + 1] / sigma[i]
        x = keep * x + pull * denoise(x, i) + spread * noise(i)
    return denoise(x, len(grid) - 1)


def dpmpp2m(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise) -> Tensor:
    """Solve the probability-flow ODE by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)."""
    alpha, sigma = grid.alpha.tolist(), grid.sigma.tolist()
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    before = None
    for i in range(len(grid) - 1):
        image, step = denoise(x, i), lam[i + 1] - lam[i]
        ahead = image
        if before is not None:
            ahead = image + (image - before) * (step / (2 * (lam[i] - lam[i - 1])))
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-step) * ahead
        before = image
    return denoise(x, len(grid) - 1)


# Each sampler with the grid that suits it: an ODE solver wants equal steps in lambda, the posterior
# of the paper equal steps in t.
SAMPLERS: dict[str, tuple[Sampler, Callable[[Tensor, int], Grid]]] = {
    "ancestral": (ancestral, schedules.uniform_time),
    "dpmpp2m": (dpmpp2m, schedules.uniform_lambda),
}
