"""Seconds and peak anonymous memory of each stage at 20 k, 200 k and 2 M particles.

    python benchmarks/big.py [--pixels 16] [--work DIR] [--stages ingest,split,...] [n ...]

Each stage runs in a process of its own, on a store in DIR (default: a temporary folder) that is
kept where DIR is named: a second run makes nothing again and only adds what is missing. Memory is
RssAnon of /proc/self/status (Linux), sampled every 20 ms: mapped pages of the images do not count.
`base` is what the imports alone take. This file is the plugin of the reader `noise` as well.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from svpkit import hookimpl
from svpkit.disk import folder_size
from svpkit.particles.ingest import ingest
from svpkit.particles.split import split
from svpkit.plugins import discover
from svpkit.store import Store

RESULTS = Path(__file__).parent / "results" / "big.csv"
COLUMNS = ("pixels", "n", "stage", "seconds", "base_mb", "peak_mb", "bytes_a_particle", "disk_mb")
STAGES = ("ingest", "split", "classifier", "inference", "score", "evidence")
CLASSES = ("common", "rare", "rarest")
OPTIONS = {"model": "resnet10t", "width": 8, "stem": "half"}
TRAINED = 512


class Noise:
    """A reader of n noise images in 40 runs of 1 % and 0.1 % rare ones; no two are near copies."""

    def sniff(self, path):
        """Know no file."""
        return False

    def read(self, path, *, n: int = 1000, pixels: int = 16):
        """Yield n images and rows."""
        for start in range(0, n, 4096):
            rng = np.random.Generator(np.random.Philox(key=start))
            block = rng.integers(0, 256, (min(4096, n - start), pixels, pixels), dtype=np.uint8)
            for i, image in enumerate(block, start):
                rare = 2 if i % 1000 == 7 else int(i % 100 == 3)
                row = {"id": f"noise/{i:09d}.png", "label": CLASSES[rare], "um_per_px": 0.5}
                run = i * 40 // n
                yield image, row | {"group": f"run{run:02d}", "source": f"frame{i // 50:07d}"}


@hookimpl
def register_readers(register):
    """Register the reader `noise`."""
    register("noise", Noise())


def anonymous_mb():
    """Return RssAnon in MB."""
    status = Path("/proc/self/status").read_text()
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("RssAnon")) / 1024


def artifacts(store, n, pixels, upto):
    """Make the artifacts up to a stage; return that stage's own, made last."""
    known = discover(files=(Path(__file__),))
    reader = known.use("reader", "noise", {"n": n, "pixels": pixels}, "data.reader")
    params = {"reader": reader, "path": None, "size": pixels, "channels": 1}
    data = store.get(ingest, params | {"classes": None})
    if upto == "ingest":
        return data
    rules = {"seed": 0, "group": "group", "val": 0.1, "test": 0.45, "train": None, "min_val": 1}
    divided = store.get(split, rules, data)
    return divided if upto == "split" else learned(store, known, data, divided, upto)


def learned(store, known, data, divided, upto):
    """Make the artifacts that need a network up to a stage; return that stage's own."""
    from svpkit.classify.score import score
    from svpkit.classify.stage import classifier
    from svpkit.evaluate.evidence import evidence
    from svpkit.plans import Plan

    use = known.use("classifier", "timm", OPTIONS, "classifier.plugin")
    asked = {"classifier": use, "strategies": (), "prevalence": None}
    plan = Plan(images=TRAINED, batch=32, lr=1e-3)
    training = asked | {"train": plan, "validations": 0, "seed": 0, "precision": "fp32"}
    trained = store.get(classifier, training, divided)
    if upto == "inference":
        return infer(trained, data, use)
    if upto == "classifier":
        return trained
    scored = store.get(score, asked, trained, divided)
    told = {"arms": ["own"], "prevalence": None, "replicates": 200}
    return scored if upto == "score" else store.get(evidence, told, scored)


def infer(trained, data, use):
    """Name every particle of the set in blocks and count the names; nothing is kept."""
    from svpkit.classify.model import Model
    from svpkit.particles.particleset import ParticleSet

    model, particles = Model.load(trained.path, use), ParticleSet.open(data.path)
    counts = np.zeros(len(CLASSES), int)
    for _, logits, _ in model.outputs(particles):
        counts += np.bincount(logits.argmax(1), minlength=len(CLASSES))
    assert counts.sum() == len(particles)


def child(folder, n, pixels, stage):
    """Make one stage's artifact and print what it took; those before it are there already."""
    if stage not in STAGES[:2]:
        # so that the base holds them
        import svpkit.classify.score
        import svpkit.classify.stage
        import svpkit.evaluate.evidence  # noqa: F401
    store = Store(folder)
    base, peak, stop = anonymous_mb(), [0.0], threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.perf_counter()
    made = artifacts(store, n, pixels, stage)
    seconds = time.perf_counter() - started
    stop.set()
    thread.join()
    disk = folder_size(made.path) / 2**20 if made else 0
    print(json.dumps({"seconds": seconds, "base": base, "peak": peak[0], "disk": disk}))


def measure(folder, n, pixels, stage):
    """Return the row of one stage, run in a process of its own."""
    asked = ["--child", stage, "--work", str(folder), "--pixels", str(pixels), str(n)]
    done = subprocess.run(
        [sys.executable, __file__, *asked], stdout=subprocess.PIPE, text=True, check=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    slope = (said["peak"] - said["base"]) * 2**20 / n
    told = (round(said["seconds"], 1), round(said["base"]), round(said["peak"]), round(slope))
    return dict(zip(COLUMNS, (pixels, n, stage, *told, round(said["disk"], 1)), strict=True))


def keep(row):
    """Put a row into the table, in place of the one of the same pixels, n and stage."""
    rows = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    named = {tuple(str(r[c]) for c in COLUMNS[:3]): r for r in [*rows, row]}
    order = sorted(named.values(), key=lambda r: (int(r["pixels"]), STAGES.index(r["stage"])))
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(order)


def main():
    """Measure what is asked, print it and keep it."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("n", nargs="*", type=int, default=[20_000, 200_000, 2_000_000])
    asked.add_argument("--pixels", type=int, default=16)
    asked.add_argument("--work", type=Path)
    asked.add_argument("--stages", default=",".join(STAGES))
    asked.add_argument("--child", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.child:
        return child(given.work, given.n[0], given.pixels, given.child)
    for n in given.n:
        folder = given.work or Path(tempfile.mkdtemp())
        try:
            for stage in given.stages.split(","):
                keep(row := measure(folder, n, given.pixels, stage))
                print(*row.values(), flush=True)
        finally:
            if not given.work:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
