"""Samplers: pure functions `(denoise, x, grid, noise) -> x` from the noisiest level to an image.

`denoise(x, i)` returns the image expected behind x at level i of the grid; `noise(i)` returns
standard normal numbers of x's shape for step i. The last step is the last denoised image.
"""

import math
from collections.abc import Callable

from torch import Tensor

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


def ddim(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise) -> Tensor:
    """Keep the noise found and turn it down (Song et al. 2021, equation 12, eta 0)."""
    alpha, sigma = grid.alpha.tolist(), grid.sigma.tolist()
    for i in range(len(grid) - 1):
        image = denoise(x, i)
        x = alpha[i + 1] * image + sigma[i + 1] / sigma[i] * (x - alpha[i] * image)
    return denoise(x, len(grid) - 1)


def dpmpp2m(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise) -> Tensor:
    """Solve the probability-flow ODE by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)."""
    lam, before = _lambda(grid), None
    for i in range(len(grid) - 1):
        image = denoise(x, i)
        x = _held(x, _ahead(image, before, lam, i), grid, lam, i)
        before = image
    return denoise(x, len(grid) - 1)


def unipc(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise) -> Tensor:
    """Solve the same ODE by UniPC-2 with B2 (Zhao et al. 2023, algorithm 1, data prediction).

    The image found at the end of a step corrects it and starts the next: no extra network calls.
    """
    lam, before = _lambda(grid), None
    image = denoise(x, 0)
    for i in range(len(grid) - 1):
        # with B2 the predictor of order 2 is the step of DPM-Solver++(2M)
        found = denoise(_held(x, _ahead(image, before, lam, i), grid, lam, i), i + 1)
        old, new = _shares(lam, i)
        ahead = image + new * (found - image)
        ahead = ahead if before is None else ahead + old * (before - image)
        x = _held(x, ahead, grid, lam, i)
        before, image = image, found
    return image


# Each sampler with the grid that suits it: an ODE solver wants equal steps in lambda, the posterior
# of the paper equal steps in t.
SAMPLERS: dict[str, tuple[Sampler, str]] = {
    "ancestral": (ancestral, "time"),
    "ddim": (ddim, "lambda"),
    "dpmpp2m": (dpmpp2m, "lambda"),
    "unipc": (unipc, "lambda"),
}


def _lambda(grid: Grid) -> list[float]:
    pairs = zip(grid.alpha.tolist(), grid.sigma.tolist(), strict=True)
    return [math.log(a / s) if a else -math.inf for a, s in pairs]


def _held(x: Tensor, image: Tensor, grid: Grid, lam: list[float], i: int) -> Tensor:
    # x at level i + 1 if the image found were this one all the way from level i
    keep = float(grid.sigma[i + 1]) / float(grid.sigma[i])
    return keep * x - float(grid.alpha[i + 1]) * math.expm1(lam[i] - lam[i + 1]) * image


def _ahead(image: Tensor, before: Tensor | None, lam: list[float], i: int) -> Tensor:
    # the image expected half a step on, on a line through the last two
    if before is None:
        return image
    return image + (image - before) * ((lam[i + 1] - lam[i]) / (2 * (lam[i] - lam[i - 1])))


def _shares(lam: list[float], i: int) -> tuple[float, float]:
    # weights of the changes to the image before and to the one at the end of the step: the rho of
    # equation 8 for B2, divided by the images' distances in steps
    if i == 0:
        return 0.0, 0.5
    step = lam[i + 1] - lam[i]
    back = (lam[i - 1] - lam[i]) / step
    first = -1 / step - 1 / math.expm1(-step)
    second = -2 * first / step - 1 / math.expm1(-step)
    old = (first - second) / (1 - back)
    return old / back, first - old
