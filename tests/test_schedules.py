"""Noise schedules and grids of levels against the papers' formulas."""

import math

import numpy as np
import pytest
import torch

from svpkit.generate import schedules

T = 500


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


def test_sigmoid_schedule_is_the_papers():
    alpha, _ = schedules.levels(schedules.sigmoid(T))
    t = np.arange(1, T + 1) / T
    ends = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    share = (ends[1] - 1 / (1 + np.exp(3 - 6 * t))) / (ends[1] - ends[0])
    # but for the last betas, which are cut at 0.999
    np.testing.assert_allclose(alpha.numpy()[:-1] ** 2, share[:-1], rtol=1e-9)
    assert 0 < float(alpha[-1] ** 2) == pytest.approx(1e-3 * share[-2], rel=1e-9)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_zero_terminal_ends_in_pure_noise(name):
    table = schedules.SCHEDULES[name](T)
    ended = schedules.zero_terminal(table)
    before, after = schedules.levels(table)[0], schedules.levels(ended)[0]
    assert float(after[-1]) == 0 and float(ended[-1]) == -math.inf
    assert torch.all(ended.diff() < 0)
    # a straight line through the old values that leaves the first where it was
    line = np.polyfit(before.numpy(), after.numpy(), 1)
    np.testing.assert_allclose(np.polyval(line, before.numpy()), after.numpy(), atol=1e-9)
    torch.testing.assert_close(after[0], before[0])
    at = schedules.times(ended, torch.linspace(float(ended[-2]) - 5, float(ended[0]), 999).double())
    assert torch.all(at.diff() < 0) and float(at[0]) < T - 1
    assert float(schedules.times(ended, ended[-1:])) == T - 1


@pytest.mark.parametrize("grid", sorted(schedules.GRIDS))
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_grids_go_from_the_last_level_to_the_first(grid, ended, steps):
    table = schedules.linear(20)
    table = schedules.zero_terminal(table) if ended else table
    found = schedules.GRIDS[grid](table, steps)
    assert len(found) == len(found.time) == len(found.alpha) == len(found.sigma) == steps
    assert bool(torch.isfinite(torch.stack([found.time, found.alpha, found.sigma])).all())
    assert float(found.time[0]) == pytest.approx(19, abs=1e-9)
    assert (float(found.alpha[0]) == 0) == ended
    if steps > 1:
        assert float(found.time[-1]) == pytest.approx(0, abs=1e-9)
        assert torch.all(found.time.diff() < 0)


def test_karras_grid_is_edms():
    # equation 5 of Karras et al. 2022 in sigma / alpha
    table = schedules.linear(T)
    grid = schedules.karras(table, 12)
    most, least = (float(torch.exp(-table[k])) for k in (-1, 0))
    i = np.arange(12) / 11
    sigma = (most ** (1 / 7) + i * (least ** (1 / 7) - most ** (1 / 7))) ** 7
    np.testing.assert_allclose((grid.sigma / grid.alpha).numpy(), sigma, rtol=1e-9)


def test_grids():
    table = schedules.linear(T)
    every = schedules.uniform_time(table, T)
    assert torch.equal(every.time, torch.arange(T - 1, -1, -1, dtype=torch.float64))
    even = schedules.uniform_lambda(table, 25)
    step = (even.alpha / even.sigma).log().diff()
    torch.testing.assert_close(step, step[:1].expand(24))
    assert (float(even.time[0]), float(even.time[-1])) == (T - 1, 0)
    np.testing.assert_allclose(schedules.times(table, table).numpy(), np.arange(T), atol=1e-9)
