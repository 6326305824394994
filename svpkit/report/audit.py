"""Probable label errors as one page of pictures that asks nothing of the network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit.report import figures
from svpkit.report.html import _environment

if TYPE_CHECKING:
    from rich.table import Table

# Pictures of one pair of classes; the CSV has the rest.
MOST = 48


@dataclass(frozen=True)
class Audit:
    """What was found: the flagged rows, the corrigible ones first, each part worst first.

    `flagged` has the columns of the CSV; `counts` {set: {class: particles looked at}}; `simulated`
    says that simulated particles are among them; `without` are the run's strategies that the folds
    were trained without, {name: why}.
    """

    folder: Path
    flagged: pd.DataFrame
    counts: Mapping[str, Mapping[str, int]]
    simulated: bool
    without: Mapping[str, str]


def table(found: Audit) -> "Table":
    """Return how many labels are probably wrong, by (label -> suggested)."""
    from rich.markup import escape
    from rich.table import Table

    mark = " (SIMULATED particles)" if found.simulated else ""
    made = Table(title=f"probable label errors{mark}", caption=_said(found))
    made.caption_justify = "left"
    for name in ("label", "suggested"):
        made.add_column(name, overflow="fold")
    for name in ("train and val", "test (reported only)"):
        made.add_column(name, justify="right")
    columns = (found.flagged[name] for name in ("label", "suggested", "set"))
    n = Counter((str(a), str(b), kind == "test") for a, b, kind in zip(*columns, strict=True))
    for a, b in sorted({pair[:2] for pair in n}):
        made.add_row(escape(a), escape(b), f"{n[a, b, False]:,}", f"{n[a, b, True]:,}")
    return made


def _said(found: Audit) -> str:
    looked = {name: sum(n.values()) for name, n in found.counts.items()}
    tested = found.flagged["set"].tolist().count("test")
    said = (
        f"{len(found.flagged) - tested:,} of {looked['train'] + looked['val']:,} labels of train "
        f"and val, {tested:,} of {looked['test']:,} of test"
    )
    without = ", ".join(f"{name} ({why})" for name, why in found.without.items())
    return f"{said}; judged without {without}" if without else said


def shown(flagged: pd.DataFrame) -> np.ndarray:
    """Return True for the rows of `flagged` that the page has room for: bool (N,)."""
    pair = [flagged[name].astype(str) for name in ("label", "suggested")]
    place = flagged.groupby([flagged["set"] == "test", *pair], sort=False).cumcount()
    return (place < MOST).to_numpy()


def write_page(
    path: Path,
    record: Mapping[str, Any],
    flagged: pd.DataFrame,
    pictures: Mapping[int, np.ndarray],
) -> None:
    """Write the flagged particles, grouped by (label -> suggested), worst first.

    `record` is what audit.json holds; `flagged` has the columns of corrections.csv; `pictures`
    uint8 (C, H, W) by row of `flagged`, where there is one.
    """
    greys = figures.grey_range(pictures.values())
    rows = [{**row, "at": i} for i, row in enumerate(flagged.to_dict(orient="records"))]
    page = (
        _environment()
        .get_template("audit.html.j2")
        .render(
            record=record,
            most=MOST,
            sums={k: sum(v.values()) for k, v in record["looked_at"].items()},
            own=_groups([row for row in rows if row["set"] != "test"], pictures, greys),
            test=_groups([row for row in rows if row["set"] == "test"], pictures, greys),
        )
    )
    path.write_text(page, encoding="utf-8")


def _groups(
    rows: Sequence[Mapping[Any, Any]],
    pictures: Mapping[int, np.ndarray],
    greys: tuple[float, float],
) -> list[dict[str, Any]]:
    pairs: dict[tuple[str, str], list[Mapping[Any, Any]]] = {}
    for row in rows:
        pairs.setdefault((str(row["label"]), str(row["suggested"])), []).append(row)
    groups = []
    for (label, suggested), own in sorted(pairs.items(), key=lambda pair: pair[0]):
        worst = [
            {**r, "uri": figures.png(pictures[r["at"]], greys) if r["at"] in pictures else ""}
            for r in own[:MOST]
        ]
        groups.append({"label": label, "suggested": suggested, "n": len(own), "shown": worst})
    return groups
