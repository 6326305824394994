"""Class counts of one or many runs: one HTML page that fetches nothing, and a terminal table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit.report import counts_figures, counts_methods, counts_sample, counts_words, html
from svpkit.report.advice import SIMULATED
from svpkit.report.counts_cells import EMPTY, Cell, Key, bins, cells, clean, short, shown, sized
from svpkit.report.counts_methods import DETECTORS

if TYPE_CHECKING:
    from rich.table import Table

APART = ("unknown", "rejected")
"""Rows that are no class of the model, and stand below the classes."""
HEADLINE = ">= 5"
STANDARD = (">= 2", ">= 5", ">= 10", ">= 25")
LEAD = 12
"""Runs in the table of the first screen; the section on runs has them all."""
QUEUED = 40
NAME = 18
"""Columns of a terminal that the name of a run has at least, if half of it needs them."""

SECTIONS = {
    "counts": "Counts by class and size",
    "runs": "Runs compared",
    "sizes": "Size distribution by class",
    "gallery": "What was counted, in pictures",
    "method": "How it was counted",
    "diagnostics": "Shift, unknown and rejected particles",
    "calibration": "Calibration",
    "queue": "What to label next",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class Counted:
    """Everything that the page tells of a prediction, as plain values.

    `run` is the model's story {"name", "recipe", "classes", "svpkit", "model digest", ...}.
    `inputs` is a mapping a run: "run", "source", "reader", "particles", "quarantined", "volume_ml"
    (None where unknown), "dilution", "timestamp", "shift" {"level": "none" | "moderate" | "far",
    "reasons"}, "unknown" and "rejected" (numbers of particles), "method", "why", "blank", "forced",
    "sizes" {class: float (n,) of ECD in um}, "mean_set" (mean number of classes in the conformal
    sets, or None). `counts` is long, a row a run, class (also "unknown" and "rejected") and bin
    (">= 5", "5-10", "all"): cumulative, n_named, count, count_low, count_high, per_ml, per_ml_low,
    per_ml_high (NaN where the volume is not known), method, note. `pictures` uint8 (n, C, S, S) by
    class. `calibration` {"kind", "ece", "brier", "before": {"ece", "brier"}}, each figure
    {"value", "low", "high"}. `warnings` are those that `inputs` do not tell by themselves. `queue`
    has the columns id, predicted, why.
    """

    run: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    counts: pd.DataFrame
    pictures: Mapping[str, np.ndarray]
    calibration: Mapping[str, Any] | None
    warnings: Sequence[str]
    queue: pd.DataFrame | None
    simulated: bool

    @property
    def runs(self) -> list[str]:
        """The runs that were counted: what is pooled first; a blank may not be among them."""
        counted = dict.fromkeys(self.counts["run"].astype(str))
        own = dict.fromkeys(str(each["run"]) for each in self.inputs)
        return [*(r for r in counted if r not in own), *(r for r in own if r in counted)]

    @property
    def classes(self) -> list[str]:
        """The classes in the model's order, then "unknown" and "rejected" where counted."""
        counted = self.counts["class"].astype(str).tolist()
        known = dict.fromkeys([*map(str, self.run.get("classes") or ()), *counted])
        return [
            *(name for name in known if name not in APART),
            *(name for name in APART if name in known),
        ]


def write_page(path: Path | str, found: Counted) -> Path:
    """Write the page to one self-contained file and return its path."""
    path = Path(path)
    path.write_text(render(found), encoding="utf-8")
    return path


def render(found: Counted) -> str:
    """Return the page as HTML; the same counts give the same text."""
    page = html._environment()
    page.filters |= {"shown": shown, "clean": clean, "bin": sized}
    mark = "SIMULATED" if found.simulated else ""
    every = cells(found)
    cumulative, differential = (bins(found, kind) for kind in (True, False))
    sections = {k: v for k, v in SECTIONS.items() if k != "runs" or len(found.runs) > 1}
    return page.get_template("counts.html.j2").render(
        found=found,
        mark=mark,
        simulated=SIMULATED if mark else "",
        sections=sections,
        apart=APART,
        lead=LEAD,
        names=_names(found),
        bins=cumulative,
        headline=_headline(cumulative),
        standard=STANDARD,
        beside=[name for name in (">= 10", ">= 25") if name in cumulative],
        runs=[_run(found, name, every, cumulative, differential) for name in found.runs],
        inputs={str(each["run"]): each for each in found.inputs},
        notices=counts_words.notices(found),
        shifts=counts_words.shifts(found),
        methods=counts_methods.methods(found),
        n_runs=counts_sample.counted_runs(found),
        detector=DETECTORS.get(str(found.run.get("unknown")), ""),
        interval_holds=counts_methods.intervals(found),
        sizes=counts_figures.size_panels(found, mark),
        legend=counts_figures.legend(found),
        gallery=counts_figures.gallery(found.pictures, found.classes),
        queue=_queue(found, QUEUED),
        facts=list(html._facts(found.run)),
    )


def table(found: Counted) -> "Table":
    """Return a row a run and class, with what was counted at and above each size, per mL.

    Where the volume of a run is not known its rows give particles, and say so.
    """
    from rich.markup import escape
    from rich.table import Table

    every, names = cells(found), _names(found)
    standard = [name for name in bins(found, True) if name in STANDARD]
    columns = standard or bins(found, True)
    mark = " (SIMULATED particles)" if found.simulated else ""
    caption = "\n".join(text for _, text in counts_words.notices(found))
    made = Table(title=f"particles by class and size{mark}", caption=escape(caption))
    made.caption_justify = "left"
    called = short(found)
    if len(found.runs) > 1:
        # a name takes two lines rather than ten
        wide = max(len(called[run]) for run in found.runs)
        made.add_column("run", overflow="fold", min_width=min(NAME, -(-wide // 2)))
    made.add_column("class", overflow="fold")
    for name in (*map(sized, columns), "unit"):
        made.add_column(name, justify="right")
    for run in found.runs:
        for i, name in enumerate(found.classes):
            row = [every.get((run, name, each, True), EMPTY) for each in columns]
            lead = [called[run] if i == 0 else ""] if len(found.runs) > 1 else []
            unit = "per mL" if any(cell.per_ml for cell in row) else "particles"
            texts = [f"{cell.value} ({cell.around})" if cell.around else cell.value for cell in row]
            made.add_row(*map(escape, [*lead, names[name], *texts, unit]))
        made.add_section()
    return made


def _names(found: Counted) -> dict[str, str]:
    rejected = any(each.get("rejected") for each in found.inputs)
    names = {name: shown(name) for name in found.classes}
    if rejected and "unknown" in names and "rejected" not in names:
        names["unknown"] = "unknown or rejected"
    return names


def _headline(cumulative: Sequence[str]) -> str:
    if HEADLINE in cumulative:
        return HEADLINE
    first = [name for name in cumulative if name != "all"]
    return (first or [*cumulative, "all"])[0]


def _run(
    found: Counted,
    run: str,
    every: Mapping[Key, Cell],
    cumulative: Sequence[str],
    differential: Sequence[str],
) -> dict[str, Any]:
    own = found.counts.loc[found.counts["run"].astype(str) == run, :]
    grids = {
        kind: {
            name: {each: every.get((run, name, each, flag), EMPTY) for each in columns}
            for name in found.classes
        }
        for kind, columns, flag in (
            ("cumulative", cumulative, True),
            ("differential", differential, False),
        )
    }
    per_ml = any(c.per_ml for row in grids["cumulative"].values() for c in row.values())
    return {
        "name": run,
        **grids,
        "unit": "per mL" if per_ml else "particles",
        "differential_bins": differential,
        "flags": counts_words.flags(found, run),
        "notes": counts_words.notes(own),
    }


def _queue(found: Counted, most: int) -> list[dict[str, Any]]:
    if found.queue is None:
        return []
    return [
        {str(k): v for k, v in row.items()}
        for row in found.queue.head(most).to_dict(orient="records")
    ]
