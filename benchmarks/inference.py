"""Naming particles on a CPU: a model of svpkit beside the plain loop, on a set on disk.

    python benchmarks/inference.py [--particles 20000] [--models resnet18,resnet50] [--full]

Writes results/inference.csv, a row a network. The plain loop is PyTorch's own: evaluation mode, no
gradients, float32 as made, batches of 64. Both read the same set, a small one repeated, turn by
turn (A B B A ...) over a fifth of the particles each time; rates are medians, the ratio is that of
the pairs, by the clock and by core seconds, which a busy machine disturbs less. --full names
500,000 particles besides; without it the minutes are worked out from the rate. The networks are
not trained: their norms have seen the images, and their last layer is fitted to brightness.
"""

import argparse
import csv
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from ingest_memory import SIDE, SMALL, watch

from svpkit.classify.balance import compose
from svpkit.classify.context import Priors
from svpkit.classify.model import Model, softmax
from svpkit.classify.networks import build
from svpkit.fit import to_float
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet, batches
from svpkit.particles.writer import Writer

RESULTS = Path(__file__).parent / "results" / "inference.csv"
CLASSES = ("protein", "oil", "bubble")
WANTED, BATCH, ROUNDS = 500_000, 64, 5


def main():
    """Measure each network and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--models", default="resnet18,resnet50")
    parser.add_argument("--stem", default="standard", help="standard, half or small")
    parser.add_argument("--full", action="store_true", help="name 500,000 particles as well")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        particles = repeated(Path(folder) / "set", WANTED if asked.full else asked.particles)
        for name in asked.models.split(","):
            rows.append(measure(name, asked, particles))
            print(rows[-1], flush=True)
    with asked.out.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def repeated(folder, n):
    """Write a set of n particles, blurred discs on noise, and open it."""
    rng = np.random.Generator(np.random.Philox(0))
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    radius, dark = rng.uniform(3, 20, (SMALL, 1, 1)), rng.uniform(-90, 60, (SMALL, 1, 1))
    disc = dark / (1 + np.exp(np.hypot(x, y) - radius))
    images = (160 + disc + rng.normal(0, 6, disc.shape)).clip(0, 255).astype(np.uint8)[:, None]
    with Writer(folder, CLASSES, 1, SIDE) as writer:
        for block in batches(n, SMALL):
            rows = [{"id": f"repeated/{i:07d}"} for i in range(block.start, block.stop)]
            writer.add(images[: len(rows)], rows)
    return ParticleSet.open(folder)


def measure(name, asked, particles):
    """Return the row of one network."""
    network = untrained(name, asked.stem, particles.images(slice(0, 256)))
    plain, model = network, opened(name, asked.stem, network)
    part = particles.take(np.arange(min(asked.particles // ROUNDS, len(particles))))
    model.logits(part.take(np.arange(128)))
    peak, stop = [0.0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, stop))
    watcher.start()
    try:
        found = paired(lambda: loop(plain, part), lambda: model.logits(part))
        seconds = timed(lambda: model.logits(particles))[0][0] if asked.full else None
    finally:
        stop.set()
        watcher.join()
    rates = {name: np.median(len(part) / found[name][:, 0]) for name in ("plain", "ours")}
    ratio, of_cores = np.median(found["plain"] / found["ours"], 0)
    ours = rates["ours"]
    reading = timed(lambda: read(part))[0][0] / len(part)
    told, said = softmax(found["plain said"]), softmax(found["ours said"])
    return {
        "model": name,
        "stem": asked.stem,
        "plain_per_s": round(float(rates["plain"]), 1),
        "ours_per_s": round(float(ours), 1),
        "ratio": round(float(ratio), 2),
        "ratio_of_core_seconds": round(float(of_cores), 2),
        "particles": len(particles) if asked.full else len(part),
        "minutes_500k": round(float(seconds or WANTED / ours) / 60, 1),
        "full": asked.full,
        "reading_share": round(float(reading * ours), 4),
        "peak_rss_anon_mb": round(peak[0]),
        "max_p_difference": f"{np.abs(told - said).max():.1e}",
        "other_argmax": int((told.argmax(1) != said.argmax(1)).sum()),
    }


def untrained(name, stem, images):
    """Return a network in evaluation mode, its norms made for the images, its last layer fitted.

    The classes are thirds of the images by their mean: that the probabilities are neither all alike
    nor far more precise than those of a trained network.
    """
    torch.manual_seed(0)
    spec = ImageSpec(1, SIDE, CLASSES)
    network = build(spec, name, pretrained=False, stem=stem, dropout=0.0, **RESNET)
    x = to_float(torch.from_numpy(images))
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                # the last norm of a block starts at 0, which would leave most of it unseen
                if not norm.weight.any():
                    norm.weight.uniform_(0.2, 0.4)
                norm.momentum = None
        network.train()(x)
        features = network.eval().features(x)
        rank = images.mean((1, 2, 3)).argsort().argsort()
        wanted = torch.eye(3)[torch.from_numpy(3 * rank // len(rank))] * 6 - 2
        centre, scale = features.mean(0), features.std()
        z = (features - centre) / scale
        inside = z @ z.T + len(z) * torch.eye(len(z))
        weight = z.T @ torch.linalg.solve(inside, wanted) / scale
        network.head.weight.copy_(weight.T)
        network.head.bias.copy_(-centre @ weight)
    return network


RESNET = {"width": None, "layers": (), "norm": "batch"}


def opened(name, stem, network):
    """Return a model of svpkit with a copy of this network."""
    spec = ImageSpec(1, SIDE, CLASSES)
    mine = build(spec, name, pretrained=False, stem=stem, dropout=0.0, **RESNET)
    mine.load_state_dict(network.state_dict())
    mine = mine.eval().to(memory_format=torch.channels_last)
    return Model(mine, spec, compose(()), Priors(np.full(3, 1 / 3), None, None), {})


def paired(plain, ours):
    """Return seconds (ROUNDS, 2) of both, in an order that turns round, and what they said."""
    found = {"plain": [], "ours": []}
    for i in range(ROUNDS):
        for name, call in [("plain", plain), ("ours", ours)][:: -1 if i % 2 else 1]:
            seconds, found[f"{name} said"] = timed(call)
            found[name].append(seconds)
    return found | {name: np.array(found[name]) for name in ("plain", "ours")}


def timed(call):
    """Return the seconds that a call takes, by the clock and of the cores, and what it returns."""
    started, worked = time.perf_counter(), time.process_time()
    said = call()
    return np.array([time.perf_counter() - started, time.process_time() - worked]), said


@torch.no_grad()
def loop(network, particles):
    """Return logits (N, K): the plain loop."""
    blocks = batches(len(particles), BATCH)
    said = [network(to_float(torch.from_numpy(particles.images(block)))) for block in blocks]
    return torch.cat(said).numpy()


def read(particles):
    """Read every image, and make it float."""
    for block in batches(len(particles), BATCH):
        to_float(torch.from_numpy(particles.images(block)))


if __name__ == "__main__":
    main()
