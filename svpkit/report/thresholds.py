"""What thresholds for a required precision came to, in words."""

from collections.abc import Mapping
from typing import Any

from svpkit.report.numbers import interval, listed, number, percent, plain, value

Values = Mapping[str, Any]


def sentences(found: Values, *, weighted: bool) -> list[str]:
    """Say of each class what is promised and what came of it on test, and how much is rejected.

    `found` is an arm's "thresholds" as the evidence holds them; `weighted` where the shares are
    those at the stated prevalence.
    """
    each = found.get("per_class") or {}
    binned = (found.get("rejected") or {}).get("test")
    where = "particles at the stated prevalence" if weighted else "test particles"
    share = f"{percent(binned)} of the {where} reach no threshold and are named rejected."
    return [_sentence(name, row) for name, row in each.items()] + ([share] if each else [])


def lines(found: Values) -> list[str]:
    """Return one short line a class for the terminal."""
    return [_line(name, row) for name, row in (found.get("per_class") or {}).items()]


def shown(row: Values) -> str:
    """Write a threshold as it stands in a table: a number, "none needed" or "none"."""
    threshold = value(row.get("threshold"))
    if threshold is None:
        return "none"
    return f"{threshold:.6g}" if threshold else "none needed"


def below(row: Values) -> bool:
    """Tell whether the precision on test lies below what is required, its interval and all."""
    high = value((row.get("test") or {}).get("precision"), "high")
    return high is not None and high < row["required"]


def _sentence(name: str, row: Values) -> str:
    asked = f"a precision of {row['required']:g}"
    if row.get("threshold") is None:
        return (
            f"{plain(name)}: {asked} cannot be promised on these validation particles. "
            f"{_why(name, row)} What is likeliest {plain(name)} is rejected."
        )
    test = row.get("test") or {}
    at = (
        f"from a probability of {shown(row)} on" if row["threshold"] else "wherever it is likeliest"
    )
    fell = ", which is less" if below(row) else ""
    return (
        f"{plain(name)}: named {at}, {asked} is promised; on test it is "
        f"{interval(test.get('precision'))}{fell}, with a recall of {interval(test.get('recall'))}."
    )


def _why(name: str, row: Values) -> str:
    needs = row.get("needs") or {}
    if needs:
        many = listed(f"{n:,} {plain(each)}" for each, n in needs.items())
        return f"It would take about {many} in them, and no mistake."
    best = number(row.get("shown"))
    return f"The most that any threshold looked at shows is {best}."


def _line(name: str, row: Values) -> str:
    asked = f"{plain(name)}: precision {row['required']:g}"
    if row.get("threshold") is None:
        needs = row.get("needs") or {}
        many = listed(f"{n:,} {plain(each)}" for each, n in needs.items())
        why = f"val would take about {many}, and no mistake" if needs else "no threshold shows it"
        return f"{asked} cannot be promised ({why})"
    test = row.get("test") or {}
    at = f"from {shown(row)}" if row["threshold"] else "without a threshold"
    return (
        f"{asked} {at}: on test {interval(test.get('precision'))}, "
        f"recall {number(test.get('recall'))}"
    )
