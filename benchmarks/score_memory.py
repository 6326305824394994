"""Peak anonymous memory of the score stage: a small set repeated to n images of 64 x 64.

    uv run python benchmarks/score_memory.py [n ...]        # default: 50000 500000

The classifier is the small one of the quickstart, untrained: what it says is not looked at.
"""

import csv
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from ingest_memory import SIDE, Repeated, watch

from svpkit import checkpoint
from svpkit.classify.score import score
from svpkit.particles.ingest import import_set
from svpkit.particles.split import split
from svpkit.plugins import Plugin, Use, discover

RESULTS = Path(__file__).parent / "results" / "score_memory.csv"
OPTIONS = {"model": "resnet10t", "width": 16, "stem": "half"}


def prepare(folder, n):
    """Write a set of n images, a split with nearly all of them as test, and a model folder."""
    from svpkit.hookspecs import ImageSpec

    reader = Plugin("reader", "repeated", Repeated(), "benchmark", "", "built-in")
    import_set(folder / "data", Use(reader, {"n": n}), None, size=SIDE)
    (folder / "split").mkdir()
    groups = [f"run{i}" for i in range(2, 20)]
    rules = {"seed": 0, "group": "group", "val": 0.5, "test": {"group": groups}, "train": None}
    split(folder / "split", rules, folder / "data")
    classifier = discover().use("classifier", "timm", OPTIONS, "classifier.plugin")
    model = classifier(ImageSpec(1, SIDE, ("a", "b", "c")))
    (folder / "model").mkdir()
    checkpoint.save_tensors(folder / "model" / "model.safetensors", model.state_dict())
    config = {"format": 1, "classifier": classifier.describe(), "strategies": []}
    config["spec"] = {"channels": 1, "size": SIDE, "classes": ["a", "b", "c"]}
    config |= {"prior": {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, "prevalence": None}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return classifier


def measure(n):
    """Return seconds and peak RssAnon in MB of scoring n images."""
    folder = Path(tempfile.mkdtemp())
    try:
        classifier = prepare(folder, n)
        peak, stop = [0.0], threading.Event()
        thread = threading.Thread(target=watch, args=(peak, stop))
        (folder / "score").mkdir()
        thread.start()
        started = time.perf_counter()
        params = {"classifier": classifier, "strategies": (), "prevalence": None}
        score(folder / "score", params, folder / "model", folder / "split")
        seconds = time.perf_counter() - started
        stop.set()
        thread.join()
        return seconds, peak[0]
    finally:
        shutil.rmtree(folder)


def main():
    """Measure each n, each in its own turn, and write the table."""
    asked = [int(a) for a in sys.argv[1:]] or [50_000, 500_000]
    rows = [["n", "seconds", "peak_rss_anon_mb"]]
    for n in asked:
        seconds, peak = measure(n)
        rows.append([n, f"{seconds:.0f}", f"{peak:.0f}"])
        print(*rows[-1], flush=True)
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
