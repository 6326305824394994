"""The generator made of diffusers' parts: loss, samplers, drawing in chunks, and its export."""

import json
import math
import socket

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from safetensors.torch import load_file

from svpkit import draws
from svpkit.checkpoint import save_tensors
from svpkit.errors import SvpkitError
from svpkit.fit import Plan, Task, fit
from svpkit.generate import drawing, samplers, schedules
from svpkit.generate.diffusion import turn
from svpkit.generate.training import check_sample_options
from svpkit.hookspecs import ImageSpec
from svpkit.plugins import discover

ONE, TWO = ImageSpec(1, 16, ("disc",)), ImageSpec(1, 16, ("disc", "bar"))
SMALL = {"channels": [8, 16], "layers": 1, "attention": 1, "groups": 4, "timesteps": 100}
KINDS = ["epsilon", "sample", "v_prediction"]


def use(**options):
    registry = discover(builtin_only=True, strict=True)
    given = {**SMALL, **options}
    return registry.use("generator", "diffusers_unet", given, "generator.plugin")


def model(spec=ONE, **options):
    with draws.seeded(0, "test"):
        return use(**options)(spec).eval()


def batch(n, first=0):
    seeds = draws.seeds(0, "test", index=range(first, first + n))
    return draws.uniform(seeds, (1, 16, 16), "image") * 2 - 1, torch.arange(n) % 2, seeds


def levels(schedule="linear", timesteps=100):
    """Return alpha and sigma of every timestep from the papers' formulas, float64 (T,)."""
    betas = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)
    if schedule != "linear":
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    square = torch.cumprod(1 - betas, 0)
    return square.sqrt(), (1 - square).sqrt()


def expected(found, x, alpha, sigma, prediction):
    """Return the image and the noise that a prediction stands for."""
    if prediction == "epsilon":
        return (x - sigma * found) / alpha, found
    if prediction == "sample":
        return found, (x - alpha * found) / sigma
    return alpha * x - sigma * found, sigma * x + alpha * found


class Ideal(torch.nn.Module):
    """Stands in for the U-Net: knows images whose pixels are normal, all alike."""

    class_embedding = None

    def __init__(self, mean, sd, schedule="linear", timesteps=1000, prediction="epsilon"):
        super().__init__()
        self.mean, self.sd, self.prediction = mean, sd, prediction
        self.alpha, self.sigma = (v.float() for v in levels(schedule, timesteps))

    def forward(self, x, time, labels, return_dict):
        a, s = (v[time].view(-1, 1, 1, 1) for v in (self.alpha, self.sigma))
        image = self.mean + a * self.sd**2 / (a**2 * self.sd**2 + s**2) * (x - a * self.mean)
        noise = (x - a * image) / s
        v = a * noise - s * image
        return ({"epsilon": noise, "sample": image, "v_prediction": v}[self.prediction],)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", KINDS)
def test_loss_is_the_papers(prediction, schedule):
    net = model(TWO, prediction=prediction, schedule=schedule)
    images, labels, seeds = batch(6)
    time = draws.integers(seeds, (), 100, "level")
    noise = draws.normal(seeds, (1, 16, 16), "noise")
    x = turn(images, draws.integers(seeds, (), 8, "turn"))
    a, s = (v[time].float()[:, None, None, None] for v in levels(schedule))
    with torch.no_grad():
        found = net.network(a * x + s * noise, time, labels).sample
        target = {"epsilon": noise, "sample": x, "v_prediction": a * noise - s * x}[prediction]
        ours = net(images, labels, seeds)
    torch.testing.assert_close(ours, F.mse_loss(found, target), rtol=1e-5, atol=1e-6)


def test_loss_follows_the_seeds_and_trains():
    net = model().train()
    images, labels, seeds = batch(4)
    loss = net(images, labels, seeds)
    assert torch.equal(loss, net(images, labels, seeds))
    assert not torch.equal(loss, net(images, labels, seeds + 1))
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    straight = model(augment=False)
    halves = [straight(images[k : k + 2], labels[k : k + 2], seeds[k : k + 2]) for k in (0, 2)]
    torch.testing.assert_close(straight(images, labels, seeds), sum(halves) / 2)


def test_labels_matter_when_there_are_several():
    net, (_, _, seeds) = model(TWO), batch(2)
    one, other = (net.sample(torch.full((2,), k), seeds, steps=2) for k in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("prediction", KINDS)
def test_ddpm_is_the_ancestral_sampler(prediction):
    net, (_, labels, seeds) = model(timesteps=20, prediction=prediction), batch(3)
    alpha, sigma = (v.tolist() for v in levels(timesteps=20))
    own = [
        torch.Generator().manual_seed(s) for s in draws.bits(seeds, 1, "steps").flatten().tolist()
    ]
    x = draws.normal(seeds, (1, 16, 16), "start")
    for t in reversed(range(20)):
        with torch.no_grad():
            found = net.network(x, torch.full((3,), t)).sample
        image = expected(found, x, alpha[t], sigma[t], prediction)[0].clamp(-1, 1)
        if t == 0:
            x = image
            break
        # Ho et al. 2020, equations 6 and 7
        beta = 1 - (alpha[t] / alpha[t - 1]) ** 2
        mean = alpha[t - 1] * beta / sigma[t] ** 2 * image
        mean = mean + math.sqrt(1 - beta) * (sigma[t - 1] / sigma[t]) ** 2 * x
        noise = torch.cat([torch.randn(1, 1, 16, 16, generator=g) for g in own])
        x = mean + math.sqrt(beta) * sigma[t - 1] / sigma[t] * noise
    ours = net.sample(labels, seeds, scheduler="ddpm", steps=20)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp2m", "unipc"])
def test_solvers_follow_the_flow_of_normal_images(scheduler, schedule, prediction):
    # the flow keeps each pixel's place in its distribution, from q(x_T) to q(x_0)
    net = model(timesteps=1000, schedule=schedule, prediction=prediction)
    net.network = Ideal(0.3, 0.1, schedule, prediction=prediction)
    _, labels, seeds = batch(3)
    a, s = (float(v[-1]) for v in levels(schedule, 1000))
    z = (draws.normal(seeds, (1, 16, 16), "start") - a * 0.3) / math.sqrt(a**2 * 0.01 + s**2)
    steps = 500 if scheduler == "ddim" else 100  # of first order
    found = net.sample(labels, seeds, scheduler=scheduler, steps=steps)
    torch.testing.assert_close(found, 0.3 + 0.1 * z, rtol=0, atol=0.012)


def test_dpmpp2m_is_our_own_solver():
    net = model(timesteps=1000)
    table = schedules.linear(1000)
    grid = schedules.uniform_lambda(table, 15)

    class Linear(torch.nn.Module):
        class_embedding = None

        def forward(self, x, time, labels, return_dict):
            return (0.9 * x,)

    net.network, (_, labels, seeds) = Linear(), batch(2)

    def denoise(x, i):
        return ((x - grid.sigma[i] * 0.9 * x) / grid.alpha[i]).clamp(-1, 1)

    x = draws.normal(seeds, (1, 16, 16), "start").double()
    ours = samplers.dpmpp2m(denoise, x, grid, lambda i: None)
    found = net.sample(labels, seeds, steps=15)
    torch.testing.assert_close(found.double(), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpmpp2m", "unipc"])
def test_an_image_belongs_to_its_seed(scheduler):
    net, sample = model(TWO).to(memory_format=torch.channels_last), {"scheduler": scheduler}
    labels = np.arange(10) % 2
    seeds = drawing.seeds_of(0, "disc", np.arange(10))
    every = drawing.draw(net, labels, seeds, {**sample, "steps": 5}, chunk=4)
    first = drawing.draw(net, labels[:6], seeds[:6], {**sample, "steps": 5}, chunk=4)
    assert np.array_equal(every[:6], first)
    other = drawing.draw(net, labels, seeds, {**sample, "steps": 5}, chunk=10)
    assert (np.abs(every.astype(int) - other) <= 1).mean() > 0.999
    assert len(np.unique(every.reshape(10, -1), axis=0)) == 10


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpmpp2m", "unipc"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_any_number_of_steps_draws(scheduler, schedule, steps):
    net, (_, labels, seeds) = model(schedule=schedule), batch(1)
    found = net.sample(labels, seeds, scheduler=scheduler, steps=steps)
    assert found.shape == (1, 1, 16, 16)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": [8, 8, 8, 8, 8, 8]}, "divides by 32, data.size is 16"),
        ({"groups": 16}, "16 groups do not divide the 8 of channels"),
        ({"attention": 3}, "given 3, there are 2 resolutions"),
    ],
)
def test_what_does_not_fit_is_refused(options, says):
    with pytest.raises(SvpkitError, match=says):
        use(**options)(ONE)


def test_odd_options_are_refused():
    with pytest.raises(SvpkitError, match="generator.options.channels"):
        use(channels=[12])
    with pytest.raises(SvpkitError, match="generator.options.channels"):
        use(channels=[])
    with pytest.raises(SvpkitError, match="nearest|did you mean|epsilon"):
        use(prediction="eps")


def test_steps_that_do_not_fit_are_refused():
    net, (_, labels, seeds) = model(), batch(1)
    with pytest.raises(SvpkitError, match="steps: given 101, at most the 100"):
        net.sample(labels, seeds, steps=101)
    with pytest.raises(SvpkitError, match="ddim needs a divisor of the 100"):
        check_sample_options(use(), ONE, {"scheduler": "ddim", "steps": 30}, "sample")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_export_opens_as_a_pipeline(prediction, tmp_path, offline):
    from diffusers import DDPMPipeline

    net = model(prediction=prediction).to(memory_format=torch.channels_last)
    out = tmp_path / "exported"
    net.export(out)
    assert json.loads((out / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert [p.suffix for p in (out / "unet").iterdir() if p.suffix != ".json"] == [".safetensors"]
    pipeline = DDPMPipeline.from_pretrained(out, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    x, _, seeds = batch(2)
    solver = net.solver("ddpm")
    for scheduler in (solver, pipeline.scheduler):
        scheduler.set_timesteps(10)
    with torch.no_grad():
        ours, theirs = net.network(x, 59).sample, pipeline.unet(x, 59).sample
        torch.testing.assert_close(ours, theirs)
        steps = [
            scheduler.step(found, 59, x, generator=torch.Generator().manual_seed(1)).prev_sample
            for scheduler, found in ((solver, ours), (pipeline.scheduler, theirs))
        ]
    torch.testing.assert_close(*steps)
    drawn = pipeline(batch_size=2, num_inference_steps=10, output_type="np").images
    assert drawn.shape == (2, 16, 16, 1) and np.isfinite(drawn).all()


def test_the_pipeline_draws_what_we_draw(tmp_path, monkeypatch, offline):
    from diffusers import DDPMPipeline
    from diffusers.pipelines.ddpm import pipeline_ddpm

    net, (_, labels, seeds) = model(), batch(2)
    net.export(tmp_path / "exported")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "exported", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    start = draws.normal(seeds, (1, 16, 16), "start")
    monkeypatch.setattr(pipeline_ddpm, "randn_tensor", lambda *a, **k: start)
    each = draws.bits(seeds, 1, "steps").flatten().tolist()
    own = [torch.Generator().manual_seed(s) for s in each]
    theirs = pipeline(2, own, num_inference_steps=25, output_type="pt").images
    ours = net.sample(labels, seeds, scheduler="ddpm", steps=25)
    torch.testing.assert_close(ours / 2 + 0.5, theirs, rtol=0, atol=1e-5)


def test_export_refuses_what_it_cannot_keep(tmp_path):
    with pytest.raises(SvpkitError, match="per_class"):
        model(TWO).export(tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(SvpkitError, match="exists already"):
        model().export(tmp_path / "full")


def test_it_learns_in_the_training_loop_and_reloads(tmp_path):
    pixels, _ = toy.images({"disc": 60})
    net, plan = model(), Plan(960, 16, 3e-3, ema=0.9)
    task = Task(
        order=draws.epochs(60, 16, 0),
        fetch=lambda at: (pixels[at], np.zeros(16, np.int64)),
        label="toy",
    )
    net, history = fit(net, plan, task, out=tmp_path, seed=0, precision="fp32")
    losses = [row["loss"] for row in history]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    save_tensors(tmp_path / "model.safetensors", net.state_dict())
    again = model()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    again.to(memory_format=torch.channels_last)
    seeds = drawing.seeds_of(0, "disc", np.arange(4))
    images = [
        drawing.draw(each.eval(), np.zeros(4, np.int64), seeds, {"steps": 4}, chunk=4)
        for each in (net.to(memory_format=torch.channels_last), again)
    ]
    assert np.array_equal(*images)
