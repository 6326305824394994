"""The quickstart with other things drawn: reference generators, selections, pre-training, seeds.

    uv run python benchmarks/drawing.py [--seeds 0 1 2] [--only TEXT] [--store DIR] [--runs DIR]

Writes results/drawing.csv, a row an arm and seed, cell by cell; what is there already is not run
again. SIMULATED particles; macro AUPRC on the test set beside oversample + augment, paired.
"""

import argparse
from pathlib import Path

from generators import append, read

import svpkit
from svpkit.errors import SvpkitError

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "drawing.csv"
RECIPE = HERE.parent / "recipes" / "quickstart.toml"
PLAIN = ("generator.options={}", "generator.sample={}")
# What is drawn, and what it changes in the quickstart.
ARMS = {
    "ddpm": (),
    "ddpm, 500 levels": ("generator.options.timesteps=500",),
    "copy": ("generator.plugin='copy'", *PLAIN),
    "copy_augment": ("generator.plugin='copy_augment'", *PLAIN),
    "noise": ("generator.plugin='noise'", *PLAIN),
    "gaussian_pca": ("generator.plugin='gaussian_pca'", *PLAIN),
    "ddpm, agreement": ("generator.select={by='agreement', keep=0.5}",),
    "ddpm, density": ("generator.select={by='density', keep=0.5}",),
    "ddpm, diversity": ("generator.select={by='diversity', keep=0.5}",),
    "ddpm, pre-trained on train": ("generator.pretrain={on='train', images=50_000}",),
}
FIDELITY = ("kid_gap", "precision", "recall", "density", "coverage", "c2st", "copy_rate")
COLUMNS = (
    *("drawn", "seed", "macro_auprc", "low", "high", "minus_oversample", "minus_low", "minus_high"),
    *(f"{kind}_{name}" for kind in ("oil", "air") for name in FIDELITY),
    *("reject_rate", "error"),
)


def main():
    """Run what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="arms whose name holds this")
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    done = {(row["drawn"], row["seed"]) for row in read(RESULTS) if not row["error"]}
    for seed in asked.seeds:
        for name in (name for name in ARMS if asked.only in name):
            if (name, str(seed)) not in done:
                row = measure(name, seed, asked)
                print(row, flush=True)
                append(RESULTS, COLUMNS, [row])


def measure(name, seed, asked):
    """Return the row of one arm and seed; a run that fails is a row with its error."""
    label = "".join(c if c.isalnum() else "-" for c in name)
    overrides = [f"name='drawing-{label}-{seed}'", f"seed={seed}", *ARMS[name]]
    row = {"drawn": name, "seed": seed, "error": ""}
    try:
        run = svpkit.run(RECIPE, overrides=overrides, runs=asked.runs, store=asked.store)
    except SvpkitError as error:
        return {**row, "error": str(error)}
    found = run.results
    macro = found["test"]["macro_auprc"]
    ends = (found["name"], "oversample")
    pairs = {(d["arm"], d["against"]): d["macro_auprc"] for d in found["differences"]}
    against = pairs[ends]
    row |= {"macro_auprc": macro["value"], "low": macro["low"], "high": macro["high"]}
    row |= {"minus_oversample": against["value"]}
    row |= {"minus_low": against["low"], "minus_high": against["high"]}
    for kind, of in (("oil", "silicone_oil"), ("air", "air_bubble")):
        for measure in FIDELITY:
            value = found["fidelity"][of].get(measure)
            row[f"{kind}_{measure}"] = value["value"] if isinstance(value, dict) else value
    rejected = [each["reject_rate"] for each in found["selection"].values()]
    row["reject_rate"] = max(rejected, default=0.0)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


if __name__ == "__main__":
    main()
