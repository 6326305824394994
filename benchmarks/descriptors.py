"""Size measured on pixels against the instrument's own, on the five real FlowCam runs.

    SVPKIT_REAL_DATA=../shared/data uv run python benchmarks/descriptors.py

Writes results/descriptors.csv and prints its rows over all runs. `svpkit.particles.describe`
measures each tile as cut, and as a set holds it (one channel of 64 x 64 px, larger tiles shrunk).
It is compared with three diameters (um) and their areas (um2):

- `instrument`: ABD diameter and area as the instrument lists them. On all runs its diameter is
  max(d - f, d / 2), d the diameter of the area of its mask and f its fringe_size, 4.5 px: the rim
  of diffraction is taken off.
- `mask`: d itself, and the area of the mask; like with like.
- `rule`: the listed values again, but the same rule applied to what is measured here first.

Bias is measured over theirs, less 1, by mean and median; size classes go by the instrument's ABD
diameter. `parts` is `one` for particles with one outline (ppc 1): the instrument sums the parts of
a particle, svpkit takes the largest. Tiles hold a margin of a few pixels and none of the collage's
empty ground, and as cut nothing is padded. Particles that reach the edge of their tile stay in; how
many is printed. Where svpkit sees no object, the particle counts under `none` and is left out of
the rest.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from svpkit.particles.describe import describe
from svpkit.particles.fitting import fit_image
from svpkit.readers.flowcam import tiles_with_masks

ROOT = Path(os.environ.get("SVPKIT_REAL_DATA", "../shared/data")) / "flowcam_protists" / "raw"
RESULTS = Path(__file__).parent / "results" / "descriptors.csv"
SIDE = 64
BINS = {"all": (0, np.inf), "<5": (0, 5), "5-10": (5, 10), ">10": (10, np.inf)}


def measured(image, scale, canvas):
    """Return the diameter (um) of a tile as cut, or on a canvas of 64 x 64 px."""
    if canvas == "as cut":
        return describe(np.moveaxis(image, 2, 0)[None], scale)["ecd_um"][0]
    fitted, factor = fit_image(image, SIDE, 1)
    return describe(fitted[None], scale * factor)["ecd_um"][0]


def particles():
    """Return a row a particle: what the instrument lists, and what is measured on the pixels."""
    rows = []
    for run in sorted(p for p in ROOT.iterdir() if p.is_dir()):
        for image, mask, row in tiles_with_masks(run):
            raw, scale = row["raw"], row["um_per_px"]
            sides = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
            rows.append(
                {
                    "run": row["run"],
                    "abd": row["ecd_um"],
                    "abd_area": raw["abd_area"],
                    "mask": 2 * np.sqrt(raw["raw_area"] / np.pi) * scale,
                    "fringe": raw["fringe_size"] * scale,
                    "ppc": raw["ppc"],
                    "edge": any(side.any() for side in sides),
                    "as cut": measured(image, scale, "as cut"),
                    "64 px": measured(image, scale, "64 px"),
                }
            )
    return pd.DataFrame(rows)


def pairs(table, canvas):
    """Yield (against, quantity, ours, theirs), diameters in um and areas in um2."""
    ours = table[canvas]
    ruled = np.maximum(ours - table["fringe"], ours / 2)
    for against, here, theirs in (
        ("instrument", ours, table["abd"]),
        ("mask", ours, table["mask"]),
        ("rule", ruled, table["abd"]),
    ):
        yield against, "ecd_um", here, theirs
        area = table["abd_area"] if against != "mask" else np.pi / 4 * theirs**2
        yield against, "area_um2", np.pi / 4 * here**2, area


def compared(ours, theirs):
    """Return n, how many have no object, the biases and the correlations."""
    seen = np.isfinite(ours)
    x, y = ours[seen].to_numpy(), theirs[seen].to_numpy()
    relative = x / y - 1
    return {
        "n": int(seen.sum()),
        "none": int((~seen).sum()),
        "bias_mean": relative.mean(),
        "bias_median": np.median(relative),
        "pearson": stats.pearsonr(x, y)[0],
        "spearman": stats.spearmanr(x, y)[0],
    }


def main():
    """Compare, write the table and print the part over all runs."""
    table, rows = particles(), []
    runs = {"all": table} | {str(name): part for name, part in table.groupby("run")}
    for canvas in ("as cut", "64 px"):
        for run, of_run in runs.items():
            for parts, kept in (("any", of_run), ("one", of_run[of_run["ppc"] == 1])):
                for size, (low, high) in BINS.items():
                    chosen = kept[(kept["abd"] >= low) & (kept["abd"] < high)]
                    head = {"canvas": canvas, "run": run, "parts": parts, "size_um": size}
                    for against, quantity, ours, theirs in pairs(chosen, canvas):
                        if len(chosen) > 2:
                            head |= {"against": against, "quantity": quantity}
                            rows.append(head | compared(ours, theirs))
    found = pd.DataFrame(rows).round(4)
    found.to_csv(RESULTS, index=False)
    print(found[found["run"] == "all"].to_string(index=False))
    print(f"{int(table['edge'].sum())} of {len(table)} particles reach the edge of their tile")


if __name__ == "__main__":
    main()
