"""Samplers and schedules against closed forms: Gaussian images, whose ideal denoiser is linear."""

import math

import numpy as np
import pytest
import torch

from svpkit.generate import samplers, schedules

T = 500
SIDE, PIXEL_SD, LEVEL, LEVEL_SD = 64, 0.15, 0.40, 0.05


def gaussian_images():
    """Modes of an image-like set: distinct variances, how many modes have them, DC first."""
    f = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :]
    square = (f[0] ** 2 + f[1] ** 2).ravel()
    power = np.zeros_like(square)
    power[square > 0] = square[square > 0] ** -2  # amplitude falls as 1 / f^2
    power *= PIXEL_SD**2 * SIDE**2 / power.sum()
    power[0] = (SIDE * LEVEL_SD) ** 2
    # to 4 %: a hundred distinct modes do for 4,095
    values, n = np.unique(np.exp((np.log(power[1:]) * 25).round() / 25), return_counts=True)
    variance = torch.tensor(np.concatenate([power[:1], values]))
    return variance, torch.tensor(np.concatenate([[1], n]))


def outcome(sampler, grid, start_mean, start_variance):
    """Return exact mean and variance of a sampler's output in each mode, and the truth."""
    variance, n = gaussian_images()
    mean = torch.zeros_like(variance)
    mean[0] = LEVEL * SIDE
    alpha, sigma = grid.alpha, grid.sigma
    # row 0 follows the mean, row 1 the start's deviation, the others one step's noise each
    rows = len(grid) + 1

    def denoise(x, i):
        gain = alpha[i] * variance / (alpha[i] ** 2 * variance + sigma[i] ** 2)
        about = torch.zeros_like(x)
        about[0] = mean
        return about + gain * (x - alpha[i] * about)

    def noise(i):
        pulse = torch.zeros(rows, len(variance), dtype=torch.float64)
        pulse[i + 2 if i + 2 < rows else 1] = 1
        return pulse

    x = torch.zeros(rows, len(variance), dtype=torch.float64)
    x[0] = start_mean * mean
    x[1] = start_variance(variance).sqrt()
    out = sampler(denoise, x, grid, noise)
    return out[0], out[1:].square().sum(dim=0), mean, variance, n


def w2(found, *, shape=True):
    mean, variance, true_mean, true_variance, n = found
    square = (mean - true_mean) ** 2 + (variance.sqrt() - true_variance.sqrt()) ** 2
    square = (square * n)[1:] if shape else square * n
    return float(square.sum().div(SIDE**2).sqrt())


def bias(found):
    return float((found[0] - found[2])[0] / SIDE)


def starts(grid):
    alpha, sigma = float(grid.alpha[0]), float(grid.sigma[0])
    noise = 0.0, torch.ones_like
    matched = alpha, lambda v: alpha**2 * v + sigma**2
    return noise, matched


@pytest.mark.parametrize(
    ("name", "grid_of", "steps", "shape", "off"),
    [
        ("ancestral", schedules.uniform_time, 500, 0.0034, -0.025),
        ("dpmpp2m", schedules.uniform_time, 10, 0.0169, -0.10),
        ("dpmpp2m", schedules.uniform_time, 25, 0.0079, -0.10),
        ("dpmpp2m", schedules.uniform_lambda, 10, 0.0037, -0.10),
        ("dpmpp2m", schedules.uniform_lambda, 15, 0.0033, -0.10),
        ("dpmpp2m", schedules.uniform_lambda, 25, 0.0034, -0.10),
    ],
)
def test_gaussian_images_are_solved(name, grid_of, steps, shape, off):
    sampler = samplers.SAMPLERS[name][0]
    grid = grid_of(schedules.linear(T), steps)
    noise, matched = starts(grid)
    plain, better = outcome(sampler, grid, *noise), outcome(sampler, grid, *matched)
    assert w2(better) == pytest.approx(shape, rel=0.25)
    assert bias(plain) == pytest.approx(off, abs=0.012)
    assert abs(bias(better)) < 1e-3
    assert w2(better, shape=False) < w2(plain, shape=False)


def test_the_time_grid_matters_more_than_the_solver():
    table = schedules.linear(T)
    grids = [of(table, 10) for of in (schedules.uniform_time, schedules.uniform_lambda)]
    slow, fast = (w2(outcome(samplers.dpmpp2m, g, *starts(g)[1])) for g in grids)
    assert slow > 2 * fast


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_schedules_fall_and_keep_the_variance(name):
    table = schedules.SCHEDULES[name](T)
    alpha, sigma = schedules.levels(table)
    assert torch.all(table.diff() < 0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    torch.testing.assert_close((alpha / sigma).log(), table)


def test_linear_schedule_is_the_papers():
    alpha, _ = schedules.levels(schedules.linear(T))
    betas = np.linspace(1e-4, 0.02, T)
    np.testing.assert_allclose(alpha.numpy() ** 2, np.cumprod(1 - betas), rtol=1e-12)
    assert float(alpha[-1] ** 2) == pytest.approx(0.00635, abs=5e-5)


def test_grids():
    table = schedules.linear(T)
    every = schedules.uniform_time(table, T)
    assert torch.equal(every.time, torch.arange(T - 1, -1, -1, dtype=torch.float64))
    even = schedules.uniform_lambda(table, 25)
    step = (even.alpha / even.sigma).log().diff()
    torch.testing.assert_close(step, step[:1].expand(24))
    assert (float(even.time[0]), float(even.time[-1])) == (T - 1, 0)
    np.testing.assert_allclose(schedules.times(table, table).numpy(), np.arange(T), atol=1e-9)


def test_ancestral_step_is_the_posterior():
    # by Bayes: p(x_s | x_t, x_0) from p(x_t | x_s) p(x_s | x_0), precisions adding up
    table = schedules.linear(10)
    grid = schedules.uniform_time(table, 10)
    a, s = grid.alpha.tolist(), grid.sigma.tolist()
    ratio = a[0] / a[1]
    added = s[0] ** 2 - ratio**2 * s[1] ** 2
    precision = ratio**2 / added + 1 / s[1] ** 2
    x, x0, z = 0.7, -0.2, 1.3
    mean = (ratio * x / added + a[1] * x0 / s[1] ** 2) / precision
    seen = []

    def denoise(x, i):
        seen.append(float(x))
        return torch.tensor(x0, dtype=torch.float64)

    samplers.ancestral(denoise, torch.tensor(x, dtype=torch.float64), grid, lambda i: z)
    assert seen[1] == pytest.approx(mean + z / math.sqrt(precision), rel=1e-9)


def test_two_point_images_keep_their_shares():
    # images that are -1 or +1 with 30 and 70 %: the exact denoiser is a tanh, and not linear
    table = schedules.linear(T)
    grid = schedules.uniform_lambda(table, 25)
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = float(grid.alpha[0]) * 0.4 + math.sqrt(1 - (0.4 * float(grid.alpha[0])) ** 2) * x
    prior = 0.5 * math.log(0.7 / 0.3)

    def denoise(x, i):
        return torch.tanh(x * grid.alpha[i] / grid.sigma[i] ** 2 + prior)

    out = samplers.dpmpp2m(denoise, x, grid, lambda i: torch.zeros_like(x))
    assert float((out.abs() - 1).abs().max()) < 0.05
    assert float((out > 0).double().mean()) == pytest.approx(0.7, abs=0.03)
