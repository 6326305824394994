"""Probable label errors as one page of pictures that asks nothing of the network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit.report import figures
from svpkit.report.html import _environment

# Pictures of one pair of classes; the CSV has the rest.
MOST = 48


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
    pairs = sorted({(str(row["label"]), str(row["suggested"])) for row in rows})
    groups = []
    for label, suggested in pairs:
        own = [r for r in rows if (str(r["label"]), str(r["suggested"])) == (label, suggested)]
        shown = [
            {**r, "uri": figures.png(pictures[r["at"]], greys) if r["at"] in pictures else ""}
            for r in own[:MOST]
        ]
        groups.append({"label": label, "suggested": suggested, "n": len(own), "shown": shown})
    return groups
