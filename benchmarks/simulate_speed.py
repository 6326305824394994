"""Print and write how many images a second the simulator draws, by class and size.

    python benchmarks/simulate_speed.py [IMAGES]

The last rows are the exact road, for comparison: clusters by the split-step method.
"""

import csv
import sys
import time
from pathlib import Path

import numpy as np

from svpkit.default_plugins.simulated import SimulatedReader, register_particle_types
from svpkit.simulate.instruments import INSTRUMENTS
from svpkit.simulate.optics import Optics

OUT = Path(__file__).parent / "results" / "simulate_speed.csv"


def clocked(work):
    """Return what `work` returns, the seconds it took and those that processors spent on it."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = work()
    return answer, time.perf_counter() - wall, time.process_time() - processor


def reader_row(kinds, name, pixels, binning, count):
    """Return the row of one class and size."""

    def draw(n):
        options = {"pixels": pixels, "binning": binning, name: n}
        return sum(1 for _ in SimulatedReader().read(None, particle_types=kinds, **options))

    draw(64)  # tables
    n, wall, processor = clocked(lambda: draw(count))
    return name, pixels, "fast", n, round(n / wall), round(n / processor)


def exact_row(count=2):
    """Return the row of a stack of 16 slices followed exactly."""
    optics = Optics(INSTRUMENTS["mfi-like"], 64, 1)
    side = len(optics.object_axis)
    stack = np.exp(0.02j * np.random.default_rng(0).random((count, 16, side, side)))
    fields, wall, processor = clocked(lambda: optics.slices(stack, 0.5, exact=True))
    return (
        "protein",
        64,
        "split-step",
        len(fields),
        round(count / wall, 2),
        round(count / processor, 2),
    )


def main():
    """Time every class at both sizes, and the exact road."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    kinds = {}
    register_particle_types(kinds.__setitem__)
    header = ("class", "pixels", "road", "images", "images_per_s", "images_per_processor_s")
    rows = [reader_row(kinds, name, *size, count) for size in ((32, 2), (64, 1)) for name in kinds]
    rows.append(exact_row())
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for row in (header, *rows):
        print("{:14} {:>7} {:12} {:>7} {:>13} {:>23}".format(*row))


if __name__ == "__main__":
    main()
