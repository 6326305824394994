"""Counts as text: names, size bins, and values rounded to what their intervals support."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit.report.numbers import plain, value

if TYPE_CHECKING:
    from svpkit.report.counts import Counted


@dataclass(frozen=True)
class Cell:
    """A count as text, its 95 % interval as text, and how many particles were so named."""

    value: str
    around: str
    named: str
    per_ml: bool


LONG = 12
"""Characters that the names of runs have in common, from which they are left out."""
EMPTY = Cell("–", "", "", False)
Key = tuple[str, str, str, bool]


def clean(name: Any) -> str:
    """Write a name with what cannot be printed, or turns the direction of reading, replaced."""
    return (
        "".join(c if c.isprintable() or c == "\u00a0" else "\ufffd" for c in str(name))
        or "(no name)"
    )


def clean_line(text: str) -> str:
    """Write a sentence in one line, without what cannot be printed."""
    return clean(" ".join(text.split()))


def short(found: "Counted") -> dict[str, str]:
    """Return what to call each run: without what a long beginning has in common, "…day7-11Apr"."""
    every = dict.fromkeys([*found.runs, *(str(each["run"]) for each in found.inputs)])
    own = {str(each["run"]) for each in found.inputs if not each.get("blank")}
    start = os.path.commonprefix([clean(run) for run in own]) if len(own) > 1 else ""
    start = re.sub(r"[^-_./\\ ]*$", "", start)  # whole words
    cut = len(start) if len(start) >= LONG else 0
    said = {run: clean(run) for run in every}
    return {
        run: f"…{name[cut:]}" if cut and name.startswith(start) and name[cut:] else name
        for run, name in said.items()
    }


def listed(told: Sequence[str]) -> str:
    """List texts: "a, b and c"."""
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def whom(names: Sequence[Any], most: int = 4) -> str:
    """List runs, and how many more there are: "a, b, c, d and 12 more"."""
    told = [clean(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(told)} and {len(names) - most} more"
    return listed(told)


def parts(note: Any) -> list[str]:
    """Return the parts of a note that a page has to tell."""
    # what the table shows itself is left out, and by the caller what holds for every row: the why
    parts = clean_line(note).split("; ") if isinstance(note, str) and note.strip() else []
    return [part for part in parts if not part.startswith(("none named:", "volume unknown:"))]


def sizes_of(sizes: Sequence[Any], bins: int) -> str:
    """Write size bins, "≥ 2 µm, ≥ 5 µm", or "every size" where they are all `bins` there are."""
    found = list(dict.fromkeys(map(sized, sizes)))
    return "every size" if len(found) == bins else ", ".join(found)


def shown(name: Any) -> str:
    """Write the name of a class as people say it."""
    return clean(plain(name))


def sized(name: Any) -> str:
    """Write a size bin: ">= 5" is "≥ 5 µm", "5-10" is "5–10 µm", "all" is "all sizes"."""
    text = clean(name).replace(">=", "≥").replace("-", "–")
    return "all sizes" if text == "all" else f"{text} µm"


def cells(found: "Counted") -> dict[Key, Cell]:
    """Return what stands in the tables, by (run, class, bin, cumulative)."""
    made = {}
    for row in _sized(found).to_dict(orient="records"):
        name = str(row["bin"])
        key = (str(row["run"]), str(row["class"]), name, bool(row["cumulative"]) or name == "all")
        per_ml = value(_float(row["per_ml"])) is not None
        unit = "per_ml" if per_ml else "count"
        told = rounded(*(_float(row[f"{unit}{end}"]) for end in ("", "_low", "_high")))
        named = value(_float(row["n_named"]))
        made[key] = Cell(*told, "" if named is None else f"{named:,.0f}", per_ml)
    return made


def bins(found: "Counted", cumulative: bool) -> list[str]:
    """Return the names of the bins of one kind, the smallest size first."""
    counts = _sized(found)
    texts = counts["bin"].astype(str)
    kind = counts["cumulative"].astype(bool) | (texts == "all")
    return sorted(dict.fromkeys(texts[kind == cumulative]), key=_size)


def rounded(count: float, low: float, high: float) -> tuple[str, str]:
    """Write a count and its interval to the places that the interval supports.

    Each end is rounded to two figures of its distance from the count, the count to those of the
    shorter one, or of the upper one where the interval begins at 0: ("1,240", "1,080 to 1,410"). A
    count of 0, as rounded, has an upper limit, rounded up: ("0", "< 7.4").
    """
    if not math.isfinite(count):
        return "–", ""
    if nought(count, low, high):
        return "0", f"< {upper(high)}" if high else ""
    below, above = abs(count - low), abs(high - count)
    sides = [side for side in (below, above) if side > 0]
    if not math.isfinite(below + above) or not sides:
        return _whole(count, _place(abs(count)) - 1), ""
    ends = (_text(end, _place(side or sides[0])) for end, side in ((low, below), (high, above)))
    finest = above if low == 0 and above else min(sides)
    return _whole(count, _place(finest)), " to ".join(ends)


def nought(count: float, low: float, high: float) -> bool:
    """Tell whether a count reads as 0: it is 0, or a trace that its interval has no digits for."""
    if low != 0 or not (math.isfinite(count) and math.isfinite(high)):
        return False
    return round(count, -_place(abs(high - count))) == 0


def upper(limit: float) -> str:
    """Write an upper limit with two figures, rounded up."""
    place = max(math.floor(math.log10(limit)) - 1, -6) if limit > 0 else 0
    step = 10.0**place
    return f"{math.ceil(limit / step - 1e-9) * step:,.{max(0, -place)}f}"


def unsized(each: Mapping[str, Any]) -> float:
    """Return the share of a run's named particles whose size is not known, 0 to 1."""
    sizes = [np.asarray(block, float) for block in (each.get("sizes") or {}).values()]
    total = sum(block.size for block in sizes)
    return 1 - sum(int(np.isfinite(block).sum()) for block in sizes) / total if total else 0.0


def _sized(found: "Counted") -> pd.DataFrame:
    # where no size is known a size bin holds no particle, which is no count of zero
    bare = [str(each["run"]) for each in found.inputs if unsized(each) == 1]
    counts = found.counts
    return counts.loc[~counts["run"].astype(str).isin(bare) | (counts["bin"] == "all"), :]


def _whole(count: float, place: int) -> str:
    return _text(count, max(place, 0) if float(count).is_integer() else place)


def _place(width: float) -> int:
    # the power of ten of the second figure
    return max(math.floor(math.log10(width)) - 1, -6) if width > 0 else 0


def _text(number: float, place: int) -> str:
    kept = round(number, -place)
    return f"{kept:,.{max(0, -place)}f}".replace("-", "−") if kept else "0"


def _float(entry: Any) -> float:
    return math.nan if entry is None or pd.isna(entry) else float(entry)


def _size(name: str) -> tuple[float, str]:
    found = re.search(r"\d+(\.\d+)?", name)
    least = float(found[0]) if found else -1.0
    return (least - 0.5 if name.lstrip().startswith("<") else least, name)
