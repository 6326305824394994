"""Do 95 % intervals of counts hold the truth: simulated runs whose expected counts are known.

    python benchmarks/coverage.py [--truths 170] [--others 60]

Writes benchmarks/results/coverage.csv, a row for each case, method, class and kind of bin. Each
truth has its own validation particles and its own run. The classifier sees a Gaussian vector whose
classes stand d' apart, times FACTOR of the size, and believes in d' for every size: it is about
calibrated over all sizes, not within one. What it is unsure of is flagged.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from scipy import special, stats

from svpkit.evaluate.counts import bins, count_table
from svpkit.evaluate.runs import Run
from svpkit.evaluate.tally import BINS, STRATA, Reference

OUT = Path(__file__).parent / "results" / "coverage.csv"
CLASSES = ("protein", "oil", "air")
MEDIAN_UM, SPREAD = np.array([4.0, 5.0, 8.0]), np.array([0.7, 0.6, 0.6])
FACTOR = np.array([0.75, 0.85, 1.0, 1.15, 1.25])
SURE = 0.6
METHODS = ("cc", "pcc", "acc", "em")
MIXES = {
    "98:1.5:0.5": (98, 1.5, 0.5),
    "1000:1:1": (1000, 1, 1),
    "as validation": (2000, 100, 100),
    "10:80:10": (10, 80, 10),
}
CASES = [  # d', mix, particles by class in validation, expected particles, share of foreign ones
    (4.0, "98:1.5:0.5", (2000, 100, 100), 200, 0.0),
    (4.0, "98:1.5:0.5", (2000, 100, 100), 5_000, 0.0),
    (4.0, "98:1.5:0.5", (2000, 100, 100), 50_000, 0.0),
    (3.0, "98:1.5:0.5", (2000, 100, 100), 5_000, 0.0),
    (6.0, "98:1.5:0.5", (2000, 100, 100), 5_000, 0.0),
    (4.0, "1000:1:1", (2000, 100, 100), 5_000, 0.0),
    (4.0, "1000:1:1", (2000, 100, 100), 50_000, 0.0),
    (6.0, "1000:1:1", (2000, 100, 100), 50_000, 0.0),
    (4.0, "as validation", (2000, 100, 100), 5_000, 0.0),
    (4.0, "10:80:10", (2000, 100, 100), 5_000, 0.0),
    (4.0, "98:1.5:0.5", (300, 300, 300), 5_000, 0.0),
    (4.0, "98:1.5:0.5", (2000, 100, 100), 5_000, 0.02),
]


def sizes(rng, labels):
    """ECD in um (N,) of particles, lognormal by class."""
    return MEDIAN_UM[labels] * np.exp(SPREAD[labels] * rng.standard_normal(labels.size))


def particles(rng, labels, dprime, validation):
    """Probabilities (N, 3), names (N,) and sizes (N,) of particles of these classes."""
    ecd = sizes(rng, labels)
    seen = rng.standard_normal((labels.size, 3))
    apart = dprime / np.sqrt(2)
    seen[np.arange(labels.size), labels] += apart * FACTOR[np.digitize(ecd, BINS)]
    p = special.softmax(seen * apart + np.log(validation), axis=1)
    named = np.where(p.max(1) >= SURE, p.argmax(1), 3)
    return p, named, ecd


def expected(share, n):
    """Expected counts of n particles by stratum and class, (STRATA, 4)."""
    edges = np.log(np.array([1e-9, *BINS, 1e9]))
    below = stats.norm.cdf((edges[:, None] - np.log(MEDIAN_UM)) / SPREAD)
    found = np.zeros((STRATA, 4))
    found[:-1, :3] = n * share * np.diff(below, axis=0)
    return found


def one(rng, case, method, replicates):
    """Truth and table of a run, beside validation particles of its own."""
    dprime, mix, validation, n, foreign = case
    share = np.array(MIXES[mix], float)
    share = share / share.sum() * (1 - foreign)
    labels = np.repeat(np.arange(3), validation)
    prior = np.array(validation) / sum(validation)
    p, named, ecd = particles(rng, labels, dprime, prior)
    reference = Reference(labels, p, named, ecd, CLASSES)
    labels = np.repeat(np.arange(3), rng.poisson(n * share))
    p, named, ecd = particles(rng, labels, dprime, prior)
    strange = rng.poisson(n * foreign)
    p = np.concatenate([p, np.full((strange, 3), 1 / 3)])
    named = np.append(named, np.full(strange, 3))
    ecd = np.append(ecd, sizes(rng, np.zeros(strange, int)))
    run = Run("run", p, named, ecd, 1.0)
    seed = int(rng.integers(2**31))
    tables = {
        m: count_table(reference, [run], method=m, replicates=replicates, seed=seed) for m in method
    }
    truth = expected(share, n)
    truth[:-1, 3] = expected(np.array([foreign, 0, 0]), n)[:-1, 0]
    return np.concatenate([truth[bin_.strata].sum(0) for bin_ in bins()]), tables


def measure(case, methods, replicates, seed=0):
    """Rows of a case: coverage, width and bias by method, class and kind of bin.

    `methods` tells of how many truths each method is asked.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, CASES.index(case)])))
    kept = {m: [] for m in methods}
    for i in range(max(methods.values())):
        asked = [m for m, truths in methods.items() if i < truths]
        truth, tables = one(rng, case, asked, replicates)
        for m, table in tables.items():
            kept[m].append(np.column_stack([truth, table[["count", "count_low", "count_high"]]]))
    table = table[["class", "bin", "cumulative"]]
    for m, values in kept.items():
        yield from rows(case, m, table, np.moveaxis(np.array(values), 2, 0))


def rows(case, method, table, values):
    """Rows of a method from truth, count and limits, each (truths, rows of the table)."""
    truth, count, low, high = values
    kind = np.where(table["bin"] == "all", "all", np.where(table["cumulative"], ">=", "between"))
    below, above = truth > high, truth < low - 1e-3
    held = ~below & ~above
    for name in (*CLASSES, "unknown"):
        for bins_ in ("all", ">=", "between"):
            own = np.array((table["class"] == name) & (kind == bins_))
            yield {
                "dprime": case[0],
                "mix": case[1],
                "validation": ":".join(map(str, case[2])),
                "particles": case[3],
                "foreign": case[4],
                "method": method,
                "class": name,
                "bins": bins_,
                "truths": len(truth),
                "expected": round(truth[:, own].mean(), 2),
                "coverage": round(held[:, own].mean(), 4),
                "lowest_bin": round(held[:, own].mean(0).min(), 4),
                "missed_below": round(below[:, own].mean(), 4),
                "missed_above": round(above[:, own].mean(), 4),
                "width": round((high - low)[:, own].mean(), 2),
                "bias": round((count - truth)[:, own].mean(), 2),
            }


def main():
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truths", type=int, default=170, help="of acc and cc")
    parser.add_argument("--others", type=int, default=60, help="of pcc and em")
    parser.add_argument("--replicates", type=int, default=300)
    chosen = parser.parse_args()
    methods = {m: chosen.truths if m in ("cc", "acc") else chosen.others for m in METHODS}
    found = []
    for case in CASES:
        start = time.process_time()
        found += measure(case, methods, chosen.replicates)
        print(case, round(time.process_time() - start, 1), "s of CPU", flush=True)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        with OUT.open("w", newline="") as file:
            table = csv.DictWriter(file, found[0], lineterminator="\n")
            table.writeheader()
            table.writerows(found)


if __name__ == "__main__":
    main()
