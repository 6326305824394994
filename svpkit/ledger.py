"""results.csv of a suite: a row a cell, known by its digest, the file whole at every moment."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svpkit import ranks
from svpkit.cells import safe_text, unsafe
from svpkit.errors import SvpkitError

Row = dict[str, str]

FIRST = ("suite", "arm")
LAST = ("images_seen", "images_generator", "seconds", "peak_rss_mb", "digest", "error")
_MEASURED = ("configurations", "test.", "val.", "fidelity.")


def read(path: Path) -> dict[str, Row]:
    """Return the rows of a results file by digest, in order; none where there is no file."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {row["digest"]: {k: unsafe(v) for k, v in row.items() if k and v} for row in rows}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise SvpkitError(f"{path}: no results of a suite here ({error!r})") from None


def put(path: Path, row: Mapping[str, Any], lock: Path) -> None:
    """Add a row, or replace the one of its digest; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ranks.alone(lock):
        rows = read(path)
        rows[str(row["digest"])] = {k: spelt(v) for k, v in row.items()}
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns(list(rows.values())), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: safe_text(v) for k, v in row.items()} for row in rows.values())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of rows: what names a cell, its seed, what was measured, cost, digest."""
    known = list(dict.fromkeys(key for row in rows for key in row))
    measured = [key for start in _MEASURED for key in known if key.startswith(start)]
    named = [k for k in known if k not in (*FIRST, "seed", *measured, *LAST)]
    return [*FIRST, *named, "seed", *measured, *LAST]


def spelt(value: Any) -> str:
    """Return a value as the file holds it: numbers to six digits, nothing where there is none."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else str(value)


def number(row: Mapping[str, str], key: str) -> float:
    """Return a number of a row, NaN where it holds none."""
    try:
        return float(row.get(key, "nan"))
    except ValueError:
        return math.nan
