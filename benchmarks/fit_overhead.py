"""The share of a training step spent outside the network: gathering, moving, augmenting, averaging.

    uv run python benchmarks/fit_overhead.py [--seconds 20] [--threads 1]

Blocks of the real training loop (particles memory-mapped from disk, prefetch, augmentation, moving
average) alternate in one process with blocks of the bare network (forward, backward, clipping,
optimizer) on one batch that already lies on the device. The share is given twice: of the time on
the clock, which other work on the machine disturbs, and of the processor time of all threads, which
it hardly does. Medians over the blocks.
"""

import argparse
import copy
import csv
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from svpkit import devices
from svpkit.classify.losses import cross_entropy
from svpkit.classify.stage import order
from svpkit.classify.strategies import Augment
from svpkit.fit import Plan, Task, fit
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import discover

CLASSES = ("protein", "silicone_oil", "air_bubble")
N = 5_000
STEPS = 5  # in a block
LIGHT = {"model": "resnet10t", "width": 16, "stem": "half"}
LEAN = {"architecture": "lean", "width": 32}
CASES = [
    ("classifier", "timm", LIGHT, 32, 128),
    ("classifier", "timm", LIGHT, 64, 128),
    ("classifier", "timm", {"model": "resnet18", "stem": "standard"}, 64, 64),
    ("generator", "ddpm", LEAN, 32, 16),
    ("generator", "ddpm", LEAN, 64, 16),
]


class Enough(Exception):
    """The clock has seen what it needs."""


@dataclass
class Clock:
    """Stands in the loop as an augmentation, and times the real blocks and its own bare ones."""

    bare: object
    seconds: float
    augment: object
    real: list = field(default_factory=list)
    network: list = field(default_factory=list)
    calls: int = 0
    started: object = None
    began: object = None

    def __call__(self, images, labels, seeds):
        """Time a block now and then; always augment."""
        if self.calls % STEPS == 0:
            if self.calls:
                self.real.append(now() - self.started)
            self.network.append(self._bare(images, labels, seeds))
            self.began = now() if self.began is None else self.began
            if (now() - self.began)[0] > self.seconds and len(self.real) > 3:
                raise Enough
            self.started = now()
        self.calls += 1
        return self.augment(images, labels, seeds)

    def _bare(self, *batch):
        start = now()
        for _ in range(STEPS):
            self.bare(*batch)
        return now() - start


def now():
    """Return clock and processor seconds when the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def bare_step(model, loss, plan):
    """Return a step of the network alone: forward, backward, clipping, optimizer."""
    twin = copy.deepcopy(model).to(devices.device()).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(twin.parameters(), plan.lr, weight_decay=plan.weight_decay)

    def step(images, labels, seeds):
        optimizer.zero_grad(set_to_none=True)
        loss(twin, images, labels, seeds).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), plan.clip)
        optimizer.step()

    return step


def measure(case, registry, folder, seconds):
    """Return the milliseconds of a real step and of the network alone, by both clocks."""
    kind, name, options, size, batch = case
    particles = ParticleSet.open(folder / f"{size}")
    labels = particles.labels
    model = registry.use(kind, name, options, f"{kind}.plugin")(ImageSpec(1, size, CLASSES))
    # longer than any benchmark
    plan = Plan(10**9, batch, 1e-3, optimizer="adamw", weight_decay=0.01, clip=1.0, ema=0.999)
    criterion = cross_entropy(particles.counts)
    if kind == "classifier":
        augment, loss = Augment().augment, lambda m, x, y, s, part="main": criterion(m(x), y)
    else:
        augment, loss = lambda x, y, s: (x, y), lambda m, x, y, s, part="main": m(x, y, s)
    clock = Clock(bare_step(model, loss, plan), seconds, augment)
    task = Task(
        order(N, batch, 0),
        lambda at: (particles.images(at), labels[at]),
        loss=loss,
        augment=clock,
        label=f"{kind} {size}",
    )
    try:
        fit(model, plan, task, out=folder / "out", seed=0, precision="fp32")
    except Enough:
        pass
    return [np.median(times[1:], axis=0) / STEPS * 1e3 for times in (clock.real, clock.network)]


def main():
    """Measure every case, print a table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    registry, rows = discover(builtin_only=True), []
    with tempfile.TemporaryDirectory() as place:
        rng = np.random.default_rng(0)
        for size in (32, 64):
            images = rng.integers(0, 256, (N, 1, size, size), dtype=np.uint8)
            names = [CLASSES[i % 3] for i in range(N)]
            ParticleSet.from_arrays(images, names, CLASSES).save(Path(place) / f"{size}")
        for case in CASES:
            step, network = measure(case, registry, Path(place), asked.seconds)
            rows.append(row(case, step, network, asked.threads))
    report(rows)


def row(case, step, network, threads):
    """Return one line of the table."""
    kind, name, options, size, batch = case
    return {
        "model": f"{kind} {options.get('model', name)} {options.get('width', '')}".strip(),
        "size": size,
        "batch": batch,
        "device": str(devices.device()),
        "threads": threads,
        "ms_step": round(float(step[0]), 1),
        "ms_step_cpu": round(float(step[1]), 1),
        "outside_percent": round(100 * float(1 - network[0] / step[0]), 1),
        "outside_percent_cpu": round(100 * float(1 - network[1] / step[1]), 1),
    }


def report(rows):
    """Print the rows and write benchmarks/results/fit_overhead.csv."""
    table = Table(*rows[0])
    for each in rows:
        table.add_row(*map(str, each.values()))
    Console(width=130).print(table)
    out = Path(__file__).parent / "results" / "fit_overhead.csv"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
