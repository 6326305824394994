"""Numbers, intervals and names as text, the same wherever they are printed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from svpkit.legible import legible


def value(entry: Any, key: str = "value") -> float | None:
    """Return a finite number from a number or an interval {"value", "low", "high"}, else None."""
    found = entry.get(key) if isinstance(entry, Mapping) else entry if key == "value" else None
    if not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def number(entry: Any, places: int = 3) -> str:
    """Write a number, or the value of an interval; a dash where there is none."""
    found = value(entry)
    if found is None:
        return "–"
    small = 0 < abs(found) < 0.5 * 10**-places
    return (f"{found:.1g}" if small else f"{found:,.{places}f}").replace("-", "−")


def signed(entry: Any) -> str:
    """Write a number with its sign."""
    found = value(entry)
    return number(found) if found is None or found <= 0 else f"+{number(found)}"


def percent(entry: Any, places: int = 1) -> str:
    """Write a share of one in percent: "4.2 %"."""
    found = value(entry)
    return number(found) if found is None else f"{100 * found:.{places}f}\u00a0%"


def bounds(entry: Any) -> str:
    """Write the interval around a value, "0.890–0.930", or nothing."""
    low, high = value(entry, "low"), value(entry, "high")
    if low is None or high is None:
        return ""
    return f"{number(low)} to {number(high)}" if low < 0 else f"{number(low)}–{number(high)}"


def interval(entry: Any) -> str:
    """Write a value and its interval: "0.912 (0.890–0.930)"."""
    around = bounds(entry)
    return f"{number(entry)} ({around})" if around else number(entry)


def plain(name: Any) -> str:
    """Write a name as people say it: "silicone oil"."""
    return legible(str(name).replace("_", " ").strip())


def listed(names: Iterable[Any], last: str = "and") -> str:
    """Join names: "a, b and c"."""
    *most, end = [plain(name) for name in names] or [""]
    return f"{', '.join(most)} {last} {end}" if most else end


def the_arm(name: Any) -> str:
    """Write the name of an arm as a sentence can hold it, even 'none': "the arm 'none'"."""
    return f"the arm '{plain(name)}'"


def arms_named(names: Sequence[Any]) -> str:
    """Write the names of arms in a sentence: "the arms 'a' and 'b'"."""
    if len(names) == 1:
        return the_arm(names[0])
    quoted = [f"'{plain(name)}'" for name in names]
    return f"the arms {listed(quoted)}"


def duration(seconds: Any) -> str:
    """Write a duration: "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    found = value(seconds)
    if found is None:
        return "–"
    if found < 9.95:
        return f"{found:.1f} s"
    whole = round(found)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
