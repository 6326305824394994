"""Counts of real FlowCam runs beside their hand labels, and which inputs the test of shift lets in.

    svpkit run recipes/flowcam.toml -o name=fc -o baselines=[] \
        -o 'balance.strategies=["oversample","augment"]'
    python benchmarks/held_out.py runs/fc --data DATA

Run 3A is held out of training; the other labelled two trained the model. `rows` are class and size
bins, `held` those whose interval holds the number labelled. Writes results/held_out.csv.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from svpkit import api
from svpkit.counted import LEFT_OUT
from svpkit.looked import Far
from svpkit.plugins import discover
from svpkit.predict import Source, predict

RESULTS = Path(__file__).parent / "results" / "held_out.csv"
RUNS = "flowcam_protists/raw"
OTHERS = ("blood_cells", "ifcb_raw", "flowcam_nano_protein", "flowcam_raw")


def truth(own, name, bin_):
    """Return how many particles of a class the labels have in a size bin."""
    ecd = own.loc[own["class"] == name, "abd_diameter"].to_numpy(float)
    if bin_ == "all":
        return len(ecd)
    low, _, high = bin_.removeprefix(">= ").partition("-")
    return int(((ecd >= float(low)) & (ecd < (float(high) if high else np.inf))).sum())


def measure(run, registry, path, labels):
    """Return the row of one input."""
    row = {"input": path.name, "shift": "far", "method": "", "rows": "", "held": ""}
    source = Source(api.reader_for(registry, path, None, {}), path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            page = predict(run, registry, [source], Path(folder) / "out")
        except Far:
            return row
    left = [line for line in page.warnings if line.startswith(LEFT_OUT)]
    levels = [each["shift"]["level"] if each["particles"] else "empty" for each in page.inputs]
    row |= {"shift": ", ".join(["far"] * len(left) + levels), "method": page.inputs[0]["method"]}
    own = labels[labels["run"] == path.name]
    if len(own):
        table = page.counts[page.counts["class"] != "unknown"]
        held = [
            r["count_low"] <= truth(own, r["class"], r["bin"]) <= r["count_high"]
            for r in table.to_dict("records")
        ]
        row |= {"rows": len(held), "held": sum(held)}
    return row


def main():
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    asked, registry = parser.parse_args(), discover()
    labels = pd.read_csv(asked.data / "flowcam_protists" / "labels.csv")
    paths = [*sorted((asked.data / RUNS).iterdir()), *(asked.data / name for name in OTHERS)]
    rows = [measure(asked.run, registry, path, labels) for path in paths]
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
