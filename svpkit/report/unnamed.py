"""Classes that an arm never names on the test set: said first, their precision shown undefined."""

from collections.abc import Mapping
from typing import Any

from svpkit.report.numbers import (
    arms_named,
    bounds,
    interval,
    listed,
    number,
    plain,
    the_arm,
    value,
)

Values = Mapping[str, Any]

UNDEFINED = "undefined (none named)"
STAR = "*"
"""Mark of a macro precision in which a class counts as 0 because it is never named."""


def unnamed(row: Values) -> bool:
    """Tell whether a class of which there are particles was named of none, right or wrong.

    `row` is one of an evaluation's "per_class"; its precision, which is 0 there, is 0 of 0.
    """
    return bool(value(row.get("n"))) and value(row.get("predicted")) == 0


def never(metrics: Values) -> list[str]:
    """Return the classes that an arm never names, from its evaluation; see `unnamed`."""
    return [name for name, row in (metrics.get("per_class") or {}).items() if unnamed(row)]


def thin(metrics: Values) -> list[str]:
    """Return the classes that an arm names, with too few false positives for a sure precision."""
    each = metrics.get("per_class") or {}
    return [n for n, row in each.items() if row.get("few_false_positives") and not unnamed(row)]


def star(metrics: Values) -> str:
    """Return the mark that stands on a macro precision: of an arm, a size bin or a mixture."""
    known = value(metrics.get("macro_precision")) is not None
    return STAR if known and never(metrics) else ""


def precision(row: Values) -> str:
    """Write the precision of a class with its interval, or that there is none."""
    return UNDEFINED if unnamed(row) else interval(row.get("precision"))


def macro(metrics: Values, key: str) -> str:
    """Write a macro value with its interval, marked where it is a precision with undefined ones."""
    mark = star(metrics) if key == "macro_precision" else ""
    found, around = metrics.get(key), bounds(metrics.get(key))
    return f"{number(found)}{mark} ({around})" if around else f"{number(found)}{mark}"


def missed(arms: Mapping[str, Values]) -> list[str]:
    """Say of which classes no test particle is found: a sentence a class, and the arms it is of."""
    own = {name: arm.get("metrics") or {} for name, arm in arms.items()}
    by_class: dict[str, list[str]] = {}
    for arm, metrics in own.items():
        for name in never(metrics):
            by_class.setdefault(name, []).append(arm)
    said = [_never(name, found, own) for name, found in by_class.items()]
    return [*said, *(text for arm, metrics in own.items() for text in _wrong(arm, metrics))]


def _never(name: str, found: list[str], own: Mapping[str, Values]) -> str:
    n = own[found[0]]["per_class"][name]["n"]
    verb = "find" if len(found) > 1 else "finds"
    return (
        f"{plain(name)}: none of {n:,} was named; {arms_named(found)} {verb} no particle of this "
        "class."
    )


def _wrong(arm: str, metrics: Values) -> list[str]:
    # named, and never rightly: its precision is a true 0
    return [
        f"{plain(name)}: none of {row['n']:,} was found; what {the_arm(arm)} names so "
        f"({row['predicted']:,}) are others."
        for name, row in (metrics.get("per_class") or {}).items()
        if row.get("n") and row.get("predicted") and row["predicted"] == row.get("false_positives")
    ]


def convention(arms: Mapping[str, Values]) -> str:
    """Say how a macro precision counts what is never named; empty where every class is named."""
    lacking = {name: never(arm.get("metrics") or {}) for name, arm in arms.items()}
    told = [f"{listed(names)} by {the_arm(arm)}" for arm, names in lacking.items() if names]
    if not told:
        return ""
    return (
        f"{STAR} The precision of a class that is never named is undefined ({'; '.join(told)}). "
        "Macro precision, its interval and its differences count it as 0, so they lie below the "
        "mean of the precisions that are shown."
    )


def notes(metrics: Values) -> list[str]:
    """Return an evaluation's notes, less those on a precision that is undefined."""
    starts = tuple(f"precision of {name} rests on " for name in never(metrics))
    return [note for note in metrics.get("notes") or [] if not note.startswith(starts or ("\0",))]
