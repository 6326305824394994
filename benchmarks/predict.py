"""`svpkit predict` from end to end: a real FlowCam run repeated to n particles, read and counted.

    python benchmarks/predict.py RUN [--data DATA] [n ...]        # default: 50000 500000

RUN is the folder of a finished run of recipes/flowcam.toml. The export's list is repeated with new
ids over the same collages and masks, so that every tile is cut, decoded and named anew. Writes
results/predict.csv: seconds of reading, naming and counting (with the tables and the page), and the
peak of anonymous memory (RssAnon). The report is SIMULATED in nothing but its size.
"""

import argparse
import csv
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from ingest_memory import watch

import svpkit.looked as looked
import svpkit.predict as module
from svpkit.plugins import discover

RESULTS = Path(__file__).parent / "results" / "predict.csv"
RUN = "flowcam_protists/raw/7-Pygsuia-SF-SW-sulfate-day5-sample3-replicate3A-08April2024"


def repeated(source, folder, n):
    """Write an export of n particles: the lines of the run's list again and again."""
    folder.mkdir()
    for path in source.glob("*"):
        if path.suffix in (".tif", ".ctx") or path.name.endswith("_run_summary.txt"):
            shutil.copyfile(path, folder / path.name)
    listing = next(source.glob("*.lst"))
    lines = listing.read_text().splitlines()
    head = lines[: 2 + int(lines[1].split("|")[1])]
    rows = [line.split("|", 1)[1] for line in lines[len(head) :]]
    with (folder / listing.name).open("w") as file:
        file.write("\n".join(head) + "\n")
        for i in range(n):
            file.write(f"{i + 1}|{rows[i % len(rows)]}\n")


def measure(run, source, n):
    """Return the row of one export of n particles."""
    registry, spent = discover(), {}

    def timed(name, call):
        def wrapper(*args, **more):
            started = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

        return wrapper

    folder = Path(tempfile.mkdtemp())
    peak, stop = [0.0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, stop))
    kept = looked.import_set, module.name_all
    try:
        repeated(source, folder / "export", n)
        looked.import_set = timed("reading", looked.import_set)
        module.name_all = timed("naming", module.name_all)
        use = registry.use("reader", "flowcam", {}, "reader")
        watcher.start()
        started = time.perf_counter()
        ask = module.Ask(to_label=100)
        page = module.predict(
            run, registry, [module.Source(use, folder / "export")], folder / "out", ask
        )
        whole = time.perf_counter() - started
    finally:
        looked.import_set, module.name_all = kept
        stop.set()
        watcher.join()
        shutil.rmtree(folder)
    return {
        "particles": page.inputs[0]["particles"],
        "seconds": round(whole),
        "reading_s": round(spent["reading"]),
        "naming_s": round(spent["naming"]),
        "rest_s": round(whole - spent["reading"] - spent["naming"]),
        "particles_per_s": round(n / whole),
        "peak_rss_anon_mb": round(peak[0]),
    }


def main():
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("SVPKIT_REAL_DATA", "data"))
    parser.add_argument("n", type=int, nargs="*")
    asked = parser.parse_args()
    rows = [measure(asked.run, asked.data / RUN, n) for n in asked.n or (50_000, 500_000)]
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
