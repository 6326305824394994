"""Samplers against closed forms: Gaussian images, whose ideal denoiser is linear."""

import math

import numpy as np
import pytest
import torch

from svpkit.generate import samplers, schedules

T = 500
NAMES = sorted(samplers.SAMPLERS)
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


# W2 of the shape at 25 steps: what each sampler leaves on its worst and best grids
LEFT = {
    ("ancestral", "lambda"): 0.022,
    ("ancestral", "time"): 0.019,
    ("ancestral", "karras"): 0.020,
    ("ddim", "lambda"): 0.012,
    ("ddim", "time"): 0.012,
    ("ddim", "karras"): 0.011,
    ("dpmpp2m", "lambda"): 0.003,
    ("dpmpp2m", "time"): 0.009,
    ("dpmpp2m", "karras"): 0.003,
    ("unipc", "lambda"): 0.003,
    ("unipc", "time"): 0.009,
    ("unipc", "karras"): 0.003,
}


@pytest.mark.parametrize(("name", "grid"), [(n, g) for n in NAMES for g in sorted(schedules.GRIDS)])
def test_every_sampler_solves_gaussian_images_on_every_grid(name, grid):
    sampler = samplers.SAMPLERS[name][0]
    at = schedules.GRIDS[grid](schedules.linear(T), 25)
    plain, better = (outcome(sampler, at, *start) for start in starts(at))
    assert w2(better) < LEFT[name, grid]
    assert abs(bias(better)) < 1e-3
    assert bias(plain) == pytest.approx(-0.025 if name == "ancestral" else -0.095, abs=0.012)
    # more steps: nearer, down to what the last level itself leaves
    many = schedules.GRIDS[grid](schedules.linear(T), 100)
    assert w2(outcome(sampler, many, *starts(many)[1])) < max(0.5 * LEFT[name, grid], 0.0028)
    # from pure noise there is no background to lose, whatever the start
    ended = schedules.GRIDS[grid](schedules.zero_terminal(schedules.linear(T)), 25)
    found = outcome(sampler, ended, *starts(ended)[0])
    assert abs(bias(found)) < 1e-9
    assert w2(found) < 3 * LEFT[name, grid]


def along_the_ode(grid, start, variance):
    """The probability-flow ODE of Gaussian modes of mean 0, solved in closed form."""
    a, s = grid.alpha[[0, -1]], grid.sigma[[0, -1]]
    spread = (a[:, None] ** 2 * variance + s[:, None] ** 2).sqrt()
    last = start * spread[1] / spread[0]
    return last * a[1] * variance / spread[1] ** 2


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp2m", 2), ("unipc", 2)])
def test_ode_solvers_reach_the_closed_form(name, order):
    variance = torch.logspace(-4, 2, 40, dtype=torch.float64)
    table, missed = schedules.linear(T), []
    for steps in (50, 100, 200, 800):
        grid = schedules.uniform_lambda(table, steps)
        a, s = grid.alpha, grid.sigma

        def denoise(x, i, a=a, s=s):
            return x * a[i] * variance / (a[i] ** 2 * variance + s[i] ** 2)

        found = samplers.SAMPLERS[name][0](denoise, torch.ones_like(variance), grid, None)
        truth = along_the_ode(grid, 1.0, variance)
        missed.append(float((found / truth - 1).abs().max()))
    assert missed[-1] < 0.03 / 10 ** (2 * (order - 1))
    rates = [math.log2(one / two) for one, two in zip(missed[:2], missed[1:3], strict=True)]
    assert min(rates) > order - 0.2


def test_ode_solvers_agree():
    grid = schedules.uniform_lambda(schedules.linear(T), 200)
    start = torch.linspace(-2, 2, 21, dtype=torch.float64)
    found = [ours(name, grid, start) for name in ("ddim", "dpmpp2m", "unipc")]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0.02)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=1e-3)


def test_unipc_is_nearer_than_its_predictor():
    def missed(name):
        grid = schedules.uniform_lambda(schedules.linear(T), 20)
        variance = torch.full((1,), 0.04, dtype=torch.float64)

        def denoise(x, i):
            a, s = grid.alpha[i], grid.sigma[i]
            return x * a * variance / (a**2 * variance + s**2)

        found = samplers.SAMPLERS[name][0](denoise, torch.ones_like(variance), grid, None)
        return abs(float(found / along_the_ode(grid, 1.0, variance) - 1))

    assert missed("unipc") < missed("dpmpp2m") < missed("ddim")


@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpmpp2m", "unipc"])
def test_each_level_is_one_call(name):
    grid, asked = schedules.uniform_lambda(schedules.linear(T), 9), []

    def denoise(x, i):
        asked.append(i)
        return 0.5 * x

    samplers.SAMPLERS[name][0](denoise, torch.ones(2), grid, lambda i: torch.zeros(2))
    assert asked == list(range(9))


def test_the_time_grid_matters_more_than_the_solver():
    table = schedules.linear(T)
    grids = [of(table, 10) for of in (schedules.uniform_time, schedules.uniform_lambda)]
    slow, fast = (w2(outcome(samplers.dpmpp2m, g, *starts(g)[1])) for g in grids)
    assert slow > 2 * fast


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


@pytest.mark.parametrize(("name", "near"), [("ddim", 0.05), ("dpmpp2m", 0.05), ("unipc", 0.05)])
def test_two_point_images_keep_their_shares(name, near):
    # images that are -1 or +1 with 30 and 70 %: the exact denoiser is a tanh, and not linear
    table = schedules.linear(T)
    grid = schedules.uniform_lambda(table, 25)
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = float(grid.alpha[0]) * 0.4 + math.sqrt(1 - (0.4 * float(grid.alpha[0])) ** 2) * x
    prior = 0.5 * math.log(0.7 / 0.3)

    def denoise(x, i):
        return torch.tanh(x * grid.alpha[i] / grid.sigma[i] ** 2 + prior)

    out = samplers.SAMPLERS[name][0](denoise, x, grid, lambda i: torch.zeros_like(x))
    assert float((out.abs() - 1).abs().max()) < near
    assert float((out > 0).double().mean()) == pytest.approx(0.7, abs=0.03)


def known(a, s):
    """A denoiser that is not linear: images are -1 or +1 with equal shares."""
    return lambda x, i: torch.tanh(x * a[i] / s[i] ** 2)


def stepped(scheduler, start, a, s, times):
    """Let a scheduler of diffusers walk over `times` with the same denoiser, told as noise."""
    x = start
    for i, time in enumerate(times):
        noise = (x - a[i] * known(a, s)(x, i)) / s[i]
        x = scheduler.step(noise, time, x, return_dict=False)[0]
    return x


def ours(name, grid, start):
    return samplers.SAMPLERS[name][0](
        known(grid.alpha, grid.sigma), start, grid, lambda i: torch.zeros_like(start)
    )


LINEAR = {
    "num_train_timesteps": T,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_schedule_and_step_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(**LINEAR, clip_sample=False)
    grid = schedules.uniform_time(schedules.linear(T), T)
    rng = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(T, 1, 8, generator=rng) for _ in range(2))
    time = grid.time.long()
    expected = grid.alpha[:, None, None] * x + grid.sigma[:, None, None] * noise
    found = theirs.add_noise(x, noise, time)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    # theirs are rounded to 32 bits, which the differences of a step near the image blow up
    theirs.alphas_cumprod = torch.cumprod(1 - theirs.betas.double(), 0)
    theirs.one = theirs.one.double()
    theirs.set_timesteps(T)
    assert theirs.timesteps.tolist() == time.tolist()
    for i in (0, 100, 250, 498):
        state, image = x[i].double(), torch.tanh(noise[i].double())
        told = (state - grid.alpha[i] * image) / grid.sigma[i]
        drawn = torch.Generator().manual_seed(7)
        one = theirs.step(told, int(time[i]), state, generator=drawn).prev_sample
        z = torch.randn(1, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        pair = schedules.Grid(*(v[i : i + 2] for v in (grid.time, grid.alpha, grid.sigma)))
        seen = []

        def denoise(y, k, image=image, seen=seen):
            seen.append(y)
            return image

        samplers.ancestral(denoise, state, pair, lambda k, z=z: z)
        torch.testing.assert_close(one, seen[1], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["ddim", "dpmpp2m", "unipc"])
def test_solvers_are_those_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    grid = schedules.uniform_time(schedules.linear(T), 20)
    times = grid.time.long()
    if name == "ddim":
        theirs = diffusers.DDIMScheduler(**LINEAR, clip_sample=False, set_alpha_to_one=True)
    elif name == "dpmpp2m":
        theirs = diffusers.DPMSolverMultistepScheduler(
            **LINEAR, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
        )
    else:
        theirs = diffusers.UniPCMultistepScheduler(
            **LINEAR, solver_order=2, solver_type="bh2", final_sigmas_type="zero"
        )
    theirs.set_timesteps(20)
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(8, 1, 8, generator=rng, dtype=torch.float64)
    if name != "ddim":
        on(theirs, times, grid)
    found = stepped(theirs, start, grid.alpha, grid.sigma, times)
    torch.testing.assert_close(found, ours(name, grid, start), atol=1e-5, rtol=0)


def on(scheduler, times, grid):
    """Put a scheduler of diffusers on our levels: theirs are spaced by rules of its own."""
    sigma = (grid.sigma / grid.alpha).tolist()
    scheduler.timesteps = times
    scheduler.sigmas = torch.tensor([*sigma, 0.0], dtype=torch.float64)
