"""Seconds of training, drawing and inference by one process and by several of this machine.

    uv run python benchmarks/scaling.py [--processes 1 2] [--rounds 3] [--tiny]

Writes results/scaling.csv, a row a part of the work and number of processes. In each round all
numbers of processes come in turn, so that what else the machine does falls on all alike; seconds
are medians over the rounds, `times` the median over the rounds of the first number's seconds over
this one's. The total work is the same for all: the batch is shared out, not grown. On CPUs the
cores are shared out too: one process has them all.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scaling.csv"
CLASSES = ("protein", "silicone_oil", "air_bubble")
LIGHT = {"model": "resnet10t", "width": 32, "stem": "half"}
LEAN = {"architecture": "lean", "width": 32}
SIZE = 32
# Images that each part works on, after as many to warm up as `WARM` of them.
WORK = {"classifier": 25_600, "generator": 3_200, "drawing": 400, "inference": 50_000}
TINY = {"classifier": 256, "generator": 64, "drawing": 100, "inference": 2_000}
BATCHES = {"classifier": 128, "generator": 32}
WARM = 0.1


def main():
    """Measure, print and write the table; or, in a launch, be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="next to no work: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        return work(asked.worker, TINY if asked.tiny else WORK)
    found = [{n: measured(n, asked.tiny) for n in asked.processes} for _ in range(asked.rounds)]
    rows = [row(found, part, n) for part in WORK for n in asked.processes]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for each in rows:
        print(each)


def measured(processes, tiny):
    """Return what the main one of so many processes has measured."""
    from svpkit.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        more = ["--tiny"] if tiny else []
        code = launch(processes, [sys.executable, __file__, "--worker", folder, *more])
        if code:
            sys.exit(code)
        return json.loads((Path(folder) / "found.json").read_text())


def row(found, part, n):
    """Return one line of the table."""
    first = next(iter(found[0]))
    seconds = median(each[n]["seconds"][part] for each in found)
    times = [each[first]["seconds"][part] / each[n]["seconds"][part] for each in found]
    one = found[0][n]
    return {
        "part": part,
        "processes": n,
        "threads": one["threads"],
        "device": one["device"],
        "images": one["images"][part],
        "rounds": len(found),
        "seconds": round(seconds, 3),
        "images_per_second": round(one["images"][part] / seconds, 1),
        "times": round(median(times), 2),
        "times_low": round(min(times), 2),
        "times_high": round(max(times), 2),
    }


def work(folder, images):
    """Measure every part as one of the processes; the main one writes what it found."""
    import torch

    from svpkit import devices, ranks

    seconds = {part: PARTS[part](folder / part, images[part]) for part in images}
    if ranks.main():
        said = {"device": devices.describe()["name"], "threads": torch.get_num_threads()}
        said |= {"seconds": seconds, "images": images}
        (folder / "found.json").write_text(json.dumps(said))


def clock(job):
    """Return the seconds between all being there and all being done."""
    import torch

    from svpkit import ranks

    ranks.wait()
    started = time.perf_counter()
    job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    ranks.wait()
    return time.perf_counter() - started


def model_of(kind, name, options):
    """Return a new network of a plugin."""
    from svpkit import draws
    from svpkit.hookspecs import ImageSpec
    from svpkit.plugins import discover

    use = discover(builtin_only=True).use(kind, name, options, f"{kind}.plugin")
    with draws.seeded(0, "scaling"):
        return use, use(ImageSpec(1, SIZE, CLASSES))


def train(kind, folder, images):
    """Return the seconds of training on so many images, once it has warmed up."""
    from svpkit import draws
    from svpkit.classify.losses import cross_entropy
    from svpkit.fit import Plan, Task, fit

    name, options = ("timm", LIGHT) if kind == "classifier" else ("ddpm", LEAN)
    _, model = model_of(kind, name, options)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2_000, 1, SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(2_000) % 3
    criterion = cross_entropy(dict.fromkeys(CLASSES, 1))
    batch = BATCHES[kind]

    def loss(net, x, y, seeds, part="main"):
        return criterion(net(x), y) if kind == "classifier" else net(x, y, seeds)

    def run(n, out):
        plan = Plan(n, batch, 1e-3, optimizer="adamw", ema=0.999)
        order = draws.epochs(len(labels), batch, 0)
        task = Task(order, lambda at: (pixels[at], labels[at]), loss=loss, label=kind)
        fit(model, plan, task, out=out, seed=0, precision="auto")

    run(max(batch, int(WARM * images)), folder / "warm")
    return clock(lambda: run(images, folder / "timed"))


def draw(folder, images):
    """Return the seconds of drawing so many images, 25 steps each."""
    from svpkit import devices
    from svpkit.generate.drawing import CHUNK, draw_chunks

    _, model = model_of("generator", "ddpm", LEAN)
    model = model.to(devices.device()).eval()
    params = {"seed": 0, "sample": {"steps": 25}}
    draw_chunks(folder / "warm", model, {CLASSES[0]: CHUNK}, params)
    return clock(lambda: draw_chunks(folder / "timed", model, {CLASSES[0]: images}, params))


def infer(folder, images):
    """Return the seconds of classifying so many images."""
    from svpkit import devices
    from svpkit.classify.balance import compose
    from svpkit.classify.context import Priors
    from svpkit.classify.model import Model
    from svpkit.classify.score import shared_logits
    from svpkit.hookspecs import ImageSpec
    from svpkit.particles.particleset import ParticleSet

    _, network = model_of("classifier", "timm", LIGHT)
    network = network.to(devices.device()).eval()
    even = Priors(np.full(3, 1 / 3), None)
    model = Model(network, ImageSpec(1, SIZE, CLASSES), compose(()), even, {})
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 1, SIZE, SIZE), dtype=np.uint8)
    particles = ParticleSet.from_arrays(pixels, [CLASSES[i % 3] for i in range(images)], CLASSES)
    shared_logits(model, particles.take(np.arange(max(256, int(WARM * images)))))
    return clock(lambda: shared_logits(model, particles))


PARTS = {
    "classifier": lambda folder, n: train("classifier", folder, n),
    "generator": lambda folder, n: train("generator", folder, n),
    "drawing": draw,
    "inference": infer,
}

if __name__ == "__main__":
    # before torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
