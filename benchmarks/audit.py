"""Planted label errors found again by `svpkit audit`, on simulated particles of 32 x 32 pixels.

    uv run python benchmarks/audit.py           # writes results/audit.csv

Of 2,000 proteins, 300 oil droplets and 300 air bubbles, 1, 3 or 5 % carry a wrong label: half are
the roundest proteins, called silicone oil; half are oil droplets drawn by chance, called protein.
Five folds, the quickstart's classifier, 20,000 images seen a fold. Found is a planted error that is
flagged; counted over train and val. Intervals are Wilson's, at 95 %.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import binomtest

import svpkit
from svpkit import draws
from svpkit.audit import Asked, audit
from svpkit.particles.describe import describe
from svpkit.particles.ingest import import_set
from svpkit.plugins import discover

RESULTS = Path(__file__).parent / "results" / "audit.csv"
COUNTS = {"protein": 2_000, "silicone_oil": 300, "air_bubble": 300}
FLIPS, SEEDS, IMAGES = (0.01, 0.03, 0.05), (0, 1), 20_000
ROUND, OIL = "protein", "silicone_oil"
HEAD = ["flips", "seed", "planted", "flagged", "found"]
HEAD += ["precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"]


def particles(folder, seed, registry):
    """Return the simulated particles of a seed."""
    options = COUNTS | {"pixels": 32, "binning": 2, "seed": seed}
    reader = registry.use("reader", "simulated", options, "reader")
    return import_set(folder, reader, None, size=32)


def plant(found, share, seed):
    """Return the labels with the roundest proteins called oil and as many oil called protein."""
    true = found.table["label"].astype(str).to_numpy(object)
    n = round(share * len(true) / 2)
    shape = describe(found.images())
    # by how round the outline is, and, where two are as round, by the axes of their ellipse
    order = np.lexsort((-shape["aspect"].fillna(0), -shape["circularity"].fillna(0)))
    roundest = order[true[order] == ROUND][:n]
    oil = draws.rng(seed, "plant").permutation(np.flatnonzero(true == OIL))[:n]
    said = true.copy()
    said[roundest], said[oil] = OIL, ROUND
    return said, {*roundest.tolist(), *oil.tolist()}


def write(folder, found, labels):
    """Write class folders; the file's name is the particle's position."""
    for i, (image, label) in enumerate(zip(found.images(), labels, strict=True)):
        path = folder / label / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)


def recipe(folder, seed):
    """Return the recipe of the audited run; the run itself is short, the folds are not."""
    train = {"images": 2_000, "batch": 128, "lr": 4e-3}
    options = {"model": "resnet10t", "width": 16, "stem": "half"}
    return {
        "name": folder.name,
        "seed": seed,
        "data": {"reader": "folder", "path": str(folder), "size": 32, "val": 0.1, "test": 0.1},
        "balance": {"strategies": ["augment"]},
        "classifier": {"plugin": "timm", "options": options, "train": train},
        "evaluate": {"replicates": 100},
    }


def measure(place, found, share, seed, registry):
    """Return one row of the table."""
    labels, planted = plant(found, share, seed)
    folder = place / f"flips-{share}-{seed}"
    write(folder, found, labels)
    runs, store = place / "runs", place / "store"
    run = svpkit.run(recipe(folder, seed), runs=runs, store=store, registry=registry)
    looked = audit(Asked(run.folder, images=IMAGES), registry)
    own = looked.flagged[looked.flagged["set"] != "test"]
    flagged = {int(Path(name).stem) for name in own["id"]}
    tested = {int(Path(name).stem) for name in run.predictions["id"]}
    there = planted - tested
    hits = len(flagged & there)
    return [share, seed, len(there), len(flagged), hits, *rate(hits, flagged), *rate(hits, there)]


def rate(hits, of):
    """Return a share and its interval; empty where there is nothing to share."""
    if not of:
        return ["", "", ""]
    around = binomtest(hits, len(of)).proportion_ci(method="wilson")
    return [f"{x:.3f}" for x in (hits / len(of), around.low, around.high)]


def main():
    """Measure each share of planted errors and each seed, and write the table."""
    registry, rows = discover(builtin_only=True), [HEAD]
    with tempfile.TemporaryDirectory() as root:
        for seed in SEEDS:
            found = particles(Path(root) / f"set-{seed}", seed, registry)
            for share in FLIPS:
                rows.append(measure(Path(root), found, share, seed, registry))
                print(*rows[-1], flush=True)
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
