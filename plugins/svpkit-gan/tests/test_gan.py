"""The generator as svpkit uses it: it draws by seeds, learns, is kept, and walks in a recipe."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from svpkit import ImageSpec, discover, draws, run
from svpkit.testing import parametrize_with_checks, toys

from svpkit_gan import gan

CLASSES = ("disc", "ring", "bar")
SPEC = ImageSpec(1, 16, CLASSES)
SEEDS = draws.seeds(1, "test", index=range(60))
LABELS = torch.arange(60) % 3


def build(seed=0, **options):
    with draws.seeded(seed, "build"):
        net = gan(SPEC, **{"width": 8, "latent": 16, **options})
    # as trained ones do, it draws grain
    for level in net.generator.levels:
        torch.nn.init.constant_(level.grain.strength, 0.1)
    return net


@parametrize_with_checks("gan")
def test_it_keeps_the_promises(check):
    check()


def test_an_image_depends_on_its_label_and_seed_alone():
    net, before = build(), torch.random.get_rng_state()
    whole = net.sample(LABELS, SEEDS)
    assert whole.shape == (60, 1, 16, 16) and whole.dtype == torch.float32
    assert whole.min() >= -1 and whole.max() <= 1 and not whole.requires_grad
    some = [31, 5, 6]
    torch.testing.assert_close(net.sample(LABELS[some], SEEDS[some]), whole[some])
    assert (net.sample(LABELS, SEEDS + 1) - whole).abs().mean(dim=(1, 2, 3)).min() > 1e-3
    assert (net.sample(LABELS.roll(1), SEEDS) - whole).abs().mean(dim=(1, 2, 3)).min() > 1e-3
    assert torch.equal(before, torch.random.get_rng_state())


def test_truncation_draws_towards_the_mean_style_of_the_class():
    net = build()
    for level in net.generator.levels:
        torch.nn.init.zeros_(level.grain.strength)
    spread = [
        float(net.sample(torch.zeros(60, dtype=torch.int64), SEEDS, truncation=t).std(dim=0).mean())
        for t in (0.0, 0.5, 1.0)
    ]
    assert spread[0] < 1e-5 < spread[1] < spread[2]
    mean = net.sample(torch.tensor([0, 1]), SEEDS[:2], truncation=0.0)
    assert (mean[0] - mean[1]).abs().mean() > 1e-3


def test_it_measures_the_level_and_spread_of_its_images():
    net, particles = build(), toys.particles(dict.fromkeys(CLASSES, 40), 0, SPEC)
    net.prepare(particles)
    x = particles.images(range(120)).astype(float) / 127.5 - 1
    assert float(net.centre) == pytest.approx(x.mean(), abs=1e-6)
    assert float(net.scale) == pytest.approx(x.std(), abs=1e-6)


def train(net, particles, steps, batch=32, lr=8e-3):
    """Train as the host does, without its schedule; return the average of the last half."""
    net.prepare(particles)
    pixels = torch.from_numpy(particles.images(range(len(particles)))) / 127.5 - 1
    labels = torch.from_numpy(np.asarray(particles.labels))
    parts = net.parts()
    optimizers = {n: torch.optim.Adam(groups, lr) for n, groups in parts.items()}
    order, mean = draws.epochs(len(labels), batch, 0), {}
    for step in range(steps):
        at = torch.from_numpy(order(step))
        seeds = draws.seeds(0, "fit", index=step * batch + np.arange(batch))
        for part, optimizer in optimizers.items():
            net.zero_grad()
            net(pixels[at], labels[at], seeds, part=part).backward()
            optimizer.step()
        for name, value in net.state_dict().items():
            mean[name] = torch.lerp(mean[name], value, 0.02) if step else value.clone()
    net.load_state_dict(mean)
    return net


def test_it_learns_which_shape_is_which():
    particles = toys.particles(dict.fromkeys(CLASSES, 60), 0, SPEC)
    net = train(build(), particles, 200)
    fresh = toys.particles(dict.fromkeys(CLASSES, 200), 1, SPEC)
    images = fresh.images(range(600)).astype(np.float32) / 127.5 - 1
    real = np.stack([images[fresh.labels == k].mean(axis=0) for k in range(3)])
    drawn = np.stack(
        [net.sample(torch.full((60,), k), SEEDS).mean(dim=0).numpy() for k in range(3)]
    )
    apart = np.abs(drawn[:, None] - real[None]).mean(axis=(2, 3, 4))
    assert apart.argmin(axis=1).tolist() == [0, 1, 2], apart
    assert (apart.diagonal() < 0.9 * np.sort(apart, axis=1)[:, 1]).all(), apart


def test_saved_and_loaded_it_draws_the_same(tmp_path):
    net, path = build(), tmp_path / "model.safetensors"
    net.centre.fill_(0.3)
    net.scale.fill_(0.1)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    other = build(seed=1)
    assert not torch.equal(other.sample(LABELS, SEEDS), net.sample(LABELS, SEEDS))
    other.load_state_dict(load_file(path))
    assert torch.equal(other.sample(LABELS, SEEDS), net.sample(LABELS, SEEDS))


@pytest.mark.slow
def test_it_walks_in_a_recipe(place):
    registry = discover(files=[place / "blocks.py"])
    run(place / "toy.toml", runs=place / "runs", store=place / "store", registry=registry)
    (folder,) = (place / "store").glob("generator-*")
    rows = [r for r in json.loads((folder / "history.json").read_text()) if "losses" in r]
    assert list(rows[-1]["losses"]) == ["discriminator", "generator"]
    results = json.loads((place / "runs" / "toy" / "results.json").read_text())
    assert results["test"]["macro_auprc"]["value"] > 0
    page = (place / "runs" / "toy" / "report.html").read_text()
    assert "training loss" in page


def launch(folder, processes):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else []), "-m", "svpkit"]
    store = folder / f"store-{processes}"
    places = [
        "--store",
        str(store),
        "--runs",
        str(folder / f"runs-{processes}"),
    ]
    done = subprocess.run(
        [*start, "--plugin", "blocks.py", "run", "toy.toml", *places],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (model,), (drawn,) = store.glob("generator-*"), store.glob("synthetic-*")
    pixels = np.concatenate([np.load(p) for p in sorted(drawn.glob("part-*.npy"))])
    history = json.loads((model / "history.json").read_text())
    return [row["losses"] for row in history if "losses" in row], pixels


@pytest.mark.slow
def test_two_processes_end_where_one_does(place):
    (one, drawn_one), (two, drawn_two) = (launch(place, n) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    apart = np.abs(drawn_one.astype(int) - drawn_two)
    assert len(apart) == 60 and (apart <= 1).mean() > 0.999
