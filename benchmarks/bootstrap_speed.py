"""Bootstrap of every metric from cell counts against resampling and scikit-learn, in one run.

    python benchmarks/bootstrap_speed.py

Prints a table and writes benchmarks/results/bootstrap_speed.csv. Scores are softmax of binormal
logits, d' apart, at 500,000 + 500 + 500 particles; the smaller d', the more ways there are in which
two arms disagree, and the more there is to draw. The plain way is timed on a few replicates.
"""

import argparse
import csv
import time
import tracemalloc
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from svpkit.evaluate.bootstrap import bootstrap

OUT = Path(__file__).parent / "results" / "bootstrap_speed.csv"


def particles(n, dprime, arms, seed=0):
    """Labels and float32 scores of each arm."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n)
    shared = rng.standard_normal((labels.size, 3))
    shared[np.arange(labels.size), labels] += dprime / np.sqrt(2)
    made = []
    for _ in range(arms):
        power = np.exp(1.5 * shared + 0.5 * rng.standard_normal(shared.shape))
        made.append((power / power.sum(1, keepdims=True)).astype(np.float32))
    return labels, made


def plain(labels, arms, replicates, seed=0):
    """Average precision of each arm and class by resampling particles and sorting again."""
    rng, where = np.random.default_rng(seed), [np.flatnonzero(labels == k) for k in range(3)]
    draws = np.empty((replicates, len(arms), 3))
    for draw in draws:
        chosen = np.concatenate([rng.choice(w, w.size) for w in where])
        for arm, scores in zip(draw, arms, strict=True):
            for k in range(3):
                arm[k] = average_precision_score(labels[chosen] == k, scores[chosen, k])
    return draws


def timed(run):
    """Seconds and result of a call."""
    start = time.perf_counter()
    made = run()
    return time.perf_counter() - start, made


def measure(n, dprime, n_arms, replicates, plain_replicates):
    """One row of the table."""
    labels, arms = particles(n, dprime, n_arms)
    runs = [timed(lambda: bootstrap(labels, arms, replicates=replicates)) for _ in range(2)]
    ours, made = min(runs, key=lambda run: run[0])
    tracemalloc.start()
    bootstrap(labels, arms, replicates=min(replicates, 500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    theirs, draws = timed(lambda: plain(labels, arms, plain_replicates))
    theirs *= replicates / plain_replicates
    exact = [average_precision_score(labels == k, arms[0][:, k]) for k in range(3)]
    return {
        "protein": n[0],
        "oil": n[1],
        "air": n[2],
        "dprime": dprime,
        "arms": n_arms,
        "replicates": replicates,
        "seconds": round(ours, 2),
        "plain_seconds": round(theirs),
        "ratio": round(theirs / ours),
        "peak_extra_mb": round(peak / 2**20),
        "point_difference": float(np.abs(made[0].point[0] - exact).max()),
        "macro_auprc": round(float(np.mean(exact)), 4),
        "macro_sd": float(f"{made[0].auprc[0].mean(1).std():.3g}"),
        "plain_macro_sd": float(f"{draws[:, 0].mean(1).std():.3g}"),
    }


def main():
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain-replicates", type=int, default=30)
    chosen = parser.parse_args()
    cases = [
        ((500_000, 500, 500), 4.0, 1),
        ((500_000, 500, 500), 4.0, 2),
        ((500_000, 500, 500), 6.0, 1),
        ((500_000, 500, 500), 6.0, 2),
        ((500_000, 500, 500), 2.5, 2),
        ((500_000, 500, 500), 1.5, 2),
        ((10_000, 250, 250), 4.0, 2),
    ]
    rows = []
    for case in cases:
        rows.append(measure(*case, 2000, chosen.plain_replicates))
        print(rows[-1], flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
