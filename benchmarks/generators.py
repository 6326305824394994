"""Quality per CPU minute of generators: KID after equal processor time, cell by cell, resumable.

    uv run python benchmarks/generators.py [--suite FILE] [--work DIR] [--workers N] [--only TEXT]

All particles are SIMULATED; `simulated:` pre-training is close to an oracle (NEAR ORACLE).
Intervals are over drawn and held-out images: the scatter of seeds comes on top.

Writes results/generators.csv (a row a cell) and results/generators_curve.csv (KID along the way).
Every cell sees as many images as its network takes in so many processor minutes on one thread, by
the rates in the suite: other load on the machine changes nothing. What a cell took indeed is in its
row (cpu_s, images_per_cpu_s); looks on the way are not counted.
"""

import argparse
import csv
import os
import tempfile
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from svpkit import draws
from svpkit.fit import Plan, Task, fit
from svpkit.generate.copies import copy_rate
from svpkit.generate.distances import compare, kid
from svpkit.generate.drawing import draw
from svpkit.generate.extractor import extractor, features, load_extractor
from svpkit.generate.gap import gap
from svpkit.generate.pretrain import adopt
from svpkit.generate.training import save_generator
from svpkit.hookspecs import ImageSpec
from svpkit.particles.describe import background
from svpkit.particles.ingest import ingest
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split, split
from svpkit.plugins import discover
from svpkit.store import Store

HERE = Path(__file__).parent
RESULTS, CURVE = HERE / "results" / "generators.csv", HERE / "results" / "generators_curve.csv"
OIL, ANY = "silicone_oil", "any"
LOOKS, LOOK_AT, STEPS = 4, 64, 25
KEYS = ("generator", "pretrain", "n", "seed", "minutes")
COLUMNS = (
    *KEYS,
    *("parameters", "images", "images_per_cpu_s", "cpu_s", "pretrain_cpu_s", "draw_cpu_s"),
    *("kid", "kid_floor", "kid_gap", "kid_gap_low", "kid_gap_high"),
    *("background_shift_sd", "copy_rate", "extractor", "error"),
)


def main():
    """Run the cells that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", type=Path, default=HERE / "generators.toml")
    parser.add_argument("--work", type=Path, default=Path("store"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    suite = tomllib.loads(asked.suite.read_text())
    prepare(suite, Store(asked.work))
    curve = asked.results.with_name(f"{asked.results.stem}_curve.csv")
    done = {tuple(row[k] for k in KEYS) for row in read(asked.results) if not row["error"]}
    todo = [
        c for c in cells(suite) if name_of(c) not in done and asked.only in " ".join(name_of(c))
    ]
    print(f"{len(todo)} cells to run, {len(done)} done", flush=True)
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        for each in as_completed([pool.submit(attempt, suite, asked.work, c) for c in todo]):
            row, looks = each.result()
            append(asked.results, COLUMNS, [row])
            append(curve, (*KEYS, "cpu_s", "images", "kid"), looks)
            print(row, flush=True)


def cells(suite):
    """Return every cell once, in order: {generator, pretrain, n, seed, minutes}."""
    found = {}
    for block in suite["cells"]:
        minutes = block.get("minutes", suite["minutes"])
        axes = (block["seeds"], block["n"], block["generators"], block["pretrain"])
        for seed, n, generator, pretrain in product(*axes):
            values = (generator, pretrain, n, seed, minutes)
            found[values] = dict(zip(KEYS, values, strict=True))
    return list(found.values())


def name_of(cell):
    """Return what tells a cell from others, as text."""
    return tuple(str(cell[k]) for k in KEYS)


def attempt(suite, work, cell):
    """Run a cell; one that fails is a row with its error."""
    torch.set_num_threads(1)
    try:
        return run(suite, Store(work), cell)
    except Exception as error:  # noqa: BLE001 - shown in the table, the others go on
        return {**cell, "error": f"{type(error).__name__}: {error}"[:200]}, []


def prepare(suite, store):
    """Return the extractor's folder and the held-out images, made once for all cells."""
    n, held = suite["extractor"], suite["held_out"]
    data = simulated(
        suite, store, 100, "mfi-like", dict.fromkeys(("protein", OIL, "air_bubble"), n + held)
    )
    val = {"protein": held, OIL: held, "air_bubble": held}
    rules = {"seed": 0, "group": "group", "train": None, "val": val, "test": None}
    parted = store.get(split, rules, data, label="split")
    seeing = store.get(extractor, {"seed": 0}, parted, label="extractor")
    return seeing, Split.open(parted.path).val().of(OIL).images()


def simulated(suite, store, seed, instrument, counts):
    """Return the artifact of simulated particles."""
    size, binning = suite["size"], suite["binning"] if instrument == "mfi-like" else 1
    options = {"instrument": instrument, "pixels": size, "binning": binning, "seed": seed, **counts}
    reader = discover(builtin_only=True).use("reader", "simulated", options, "data.reader")
    params = {"reader": reader, "path": None, "size": size, "channels": 1, "classes": None}
    return store.get(ingest, params, label="ingest")


def run(suite, store, cell):
    """Return the row of a cell and its looks."""
    seeing, held = prepare(suite, store)
    asked, seed = suite["generators"][cell["generator"]], 1000 + cell["seed"]
    use = discover(builtin_only=True).use(
        "generator", asked["plugin"], asked.get("options", {}), "g"
    )
    oil = simulated(suite, store, seed, "mfi-like", {OIL: max(200, cell["n"])})
    train = ParticleSet.open(oil.path).take(np.arange(cell["n"]))
    eye = load_extractor(seeing.path)
    seen = features(eye, held)
    row = dict(cell)
    budget = round(60 * cell["minutes"] * asked["images_per_s"])
    with tempfile.TemporaryDirectory() as place, draws.seeded(seed, "cell"):
        model = use(ImageSpec(1, suite["size"], (OIL,)))
        row["parameters"] = sum(p.numel() for p in model.parameters())
        if cell["pretrain"] != "none":
            budget //= 2
            row["pretrain_cpu_s"] = before(suite, store, cell, use, Path(place), budget, seed)
            adopt(model, Path(place))

        def look(current):
            images = draw(
                current, np.zeros(LOOK_AT, int), seeds_of(seed, LOOK_AT), {"steps": STEPS}
            )
            return {"kid": kid(features(eye, images), seen[:LOOK_AT])}

        model, told = trained(suite, model, train, budget, seed, Path(place) / "fit", look)
    row |= {k: told[k] for k in ("images", "images_per_cpu_s", "cpu_s")}
    looks = [{**cell, **each} for each in told["looks"]]
    row |= judged(suite, model, train, eye, held, seen, seed)
    return row | {"extractor": seeing.key, "error": ""}, looks


def before(suite, store, cell, use, folder, budget, seed):
    """Pre-train and write the weights; return the processor seconds."""
    on, n = cell["pretrain"], suite["abundant"]
    simulates = on.startswith("simulated:")
    name, profile = (OIL, on.split(":")[1]) if simulates else (on, "mfi-like")
    # other bodies than those of the cell: number i of a seed is the same one under every profile
    source = ParticleSet.open(simulated(suite, store, seed + 5000, profile, {name: n}).path)
    source = source.with_classes((name,))
    model = use(ImageSpec(1, suite["size"], (ANY,)))
    model, told = trained(suite, model, source, budget, seed, folder / "before", None)
    save_generator(folder, model, use, ImageSpec(1, suite["size"], (ANY,)), source, [])
    return told["cpu_s"]


def trained(suite, model, train, budget, seed, out, look):
    """Return the model after `budget` images, and what it took."""
    out.mkdir()
    if hasattr(model, "prepare"):
        model.prepare(train)
    labels, plan = train.labels, Plan(images=budget, **suite["train"])
    clock, looks = {"spent": 0.0, "start": time.process_time()}, []

    def watch(current):
        began = time.process_time()
        looks.append({"cpu_s": round(began - clock["start"] - clock["spent"], 1), **look(current)})
        clock["spent"] += time.process_time() - began
        looks[-1]["images"] = round(plan.images * len(looks) / LOOKS)
        return {}

    task = Task(
        order=draws.epochs(len(train), plan.batch, seed),
        fetch=lambda at: (train.images(at), labels[at]),
        validate=watch if look else None,
        validations=LOOKS,
        label=" ".join(train.classes),
    )
    model, _ = fit(model, plan, task, out=out, seed=seed, precision="fp32")
    spent = time.process_time() - clock["start"] - clock["spent"]
    told = {"images": plan.images, "cpu_s": round(spent, 1), "looks": looks}
    return model, told | {"images_per_cpu_s": round(plan.images / spent, 1)}


def judged(suite, model, train, eye, held, seen, seed):
    """Return how near the drawn images are to the held-out ones."""
    if hasattr(model, "fold"):
        model.fold()
    n = suite["draws"]
    began = time.process_time()
    images = draw(model, np.zeros(n, int), seeds_of(seed + 1, n), {"steps": STEPS})
    spent = time.process_time() - began
    ours, alone = features(eye, images), np.arange(len(held))
    size = min(n, len(held)) // 2
    found, floor = compare("kid", ours, seen, size, 0), compare("kid", seen, None, size, 0)
    low, high = gap(ours, seen, alone, 0)
    levels = [background(x).mean(axis=1) for x in (images, held)]
    shift = (levels[0].mean() - levels[1].mean()) / max(levels[1].std(), 0.5)
    return {
        "draw_cpu_s": round(spent, 1),
        "kid": round(found["value"], 5),
        "kid_floor": round(floor["value"], 5),
        "kid_gap": round(found["value"] - floor["value"], 5),
        "kid_gap_low": round(low, 5),
        "kid_gap_high": round(high, 5),
        "background_shift_sd": round(float(shift), 3),
        "copy_rate": copy_rate(images, train.images()),
    }


def seeds_of(seed, n):
    """Return the seeds of n drawn images."""
    return draws.seeds(seed, "benchmark", index=range(n))


def read(path):
    """Return the rows of a table, none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path, columns, rows):
    """Add rows to a table."""
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
