"""Peak anonymous memory of ingest: a small set repeated to n images of 64 x 64.

    python benchmarks/ingest_memory.py [n ...]        # default: 50000 500000

RssAnon of /proc/self/status (Linux), sampled every 50 ms; mapped pages of the images do not count.
"""

import csv
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from svpkit.particles.ingest import import_set
from svpkit.plugins import Plugin, Use

RESULTS = Path(__file__).parent / "results" / "ingest_memory.csv"
SIDE, SMALL = 64, 2_000


class Repeated:
    """A reader of n noisy images in 20 groups; only a few thousand differ by more than a pixel."""

    def read(self, path, *, n: int):
        """Yield n images and rows."""
        rng = np.random.Generator(np.random.Philox(0))
        small = rng.integers(0, 256, (SMALL, SIDE, SIDE), dtype=np.uint8)
        for i in range(n):
            image = small[i % SMALL].copy()
            image[0, :4] = np.frombuffer(np.uint32(i).tobytes(), np.uint8)
            row = {"id": f"repeated/{i:07d}.png", "label": "abc"[i % 3], "group": f"run{i % 20}"}
            yield image, row | {"source": f"frame{i // 50}", "um_per_px": 0.5, "ecd_um": 5.0}


def anonymous_mb():
    """Return RssAnon in MB."""
    status = Path("/proc/self/status").read_text()
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("RssAnon")) / 1024


def watch(peak, stop):
    """Keep the highest RssAnon in peak[0] until told to stop."""
    while not stop.wait(0.05):
        peak[0] = max(peak[0], anonymous_mb())


def measure(n):
    """Return seconds and peak RssAnon in MB of reading n images."""
    plugin = Plugin("reader", "repeated", Repeated(), "benchmark", "", "built-in")
    peak, stop = [0.0], threading.Event()
    thread = threading.Thread(target=watch, args=(peak, stop))
    folder = Path(tempfile.mkdtemp())
    thread.start()
    start = time.perf_counter()
    try:
        found = len(import_set(folder / "set", Use(plugin, {"n": n}), None, size=SIDE))
    finally:
        stop.set()
        thread.join()
        shutil.rmtree(folder)
    assert found == n
    return time.perf_counter() - start, peak[0]


def main():
    """Measure, print and write the table."""
    rows = []
    for n in [int(text) for text in sys.argv[1:]] or [50_000, 500_000]:
        seconds, peak = measure(n)
        rows.append({"n": n, "seconds": round(seconds, 1), "peak_rss_anon_mb": round(peak)})
        print(rows[-1])
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
