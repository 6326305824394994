"""What the page of counts says in words: warnings, shift and notes."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from svpkit.report.counts_cells import (
    clean_line,
    nought,
    parts,
    short,
    shown,
    sizes_of,
    unsized,
    upper,
    whom,
)
from svpkit.report.counts_methods import PLAIN, mixed, uncorrected, used
from svpkit.report.counts_sample import (
    diluted,
    drowned,
    reasons,
    subtracted,
    unlike,
    volume,
)
from svpkit.report.numbers import percent, value

if TYPE_CHECKING:
    from svpkit.report.counts import Counted

MUCH = 0.05
"""Share of a run's particles from which "unknown" or "rejected" is warned of."""
ZERO = -math.log(0.025)
"""Upper end of the exact two-sided 95 % Poisson interval of a count of 0."""


def notices(found: "Counted") -> list[tuple[str, str]]:
    """Return what must be known before the counts are used: (kind, sentence), the worst first.

    Kinds are "bad", "warn" and "note".
    """
    said = [
        ("bad", _shifted(found, "far")),
        ("warn", _shifted(found, "moderate")),
        *(("warn", clean_line(text)) for text in found.warnings),
        ("warn", _unjudged(found)),
        ("warn", _unmeasured(found)),
        ("warn", unlike(found)),
        ("warn", drowned(found)),
        ("warn", _sizeless(found)),
        ("warn", _many(found, "unknown", "look like no class of the model (unknown)")),
        ("warn", _many(found, "rejected", "were too uncertain to be named (rejected)")),
        ("warn", _unread(found)),
        ("warn", uncorrected(found)),
        ("note", subtracted(found)),
        ("note", diluted(found)),
        ("note", mixed(found)),
        ("note", _zero(found)),
    ]
    return [(kind, text) for kind, text in said if text]


def flags(found: "Counted", run: str) -> list[tuple[str, str]]:
    """Return the short marks of a run, (kind, text): blank, shift, forced, unknown, no volume."""
    each = next((row for row in found.inputs if str(row["run"]) == run), None)
    if each is None:
        return [("note", "pooled")]
    level = _level(each)
    said = [
        ("note", "blank" if each.get("blank") else ""),
        (
            "bad" if level == "far" else "warn",
            f"{level} shift" if level in ("moderate", "far") else "",
        ),
        ("bad", "forced" if each.get("forced") else ""),
        ("warn", "" if volume(each) else "no volume"),
        *(("warn", f"{percent(s, 0)} {k}" if s > MUCH else "") for k, s in _shares(each).items()),
    ]
    return [(kind, text) for kind, text in said if text]


def shifts(found: "Counted") -> list[str]:
    """Return what the shift tests found, a sentence a level."""
    names = {level: _of(found, level) for level in ("none", "moderate", "far", "untested")}
    said = []
    if names["none"]:
        said.append(
            f"No shift shown: {whom(names['none'])}. The particles look like those of the "
            "validation set, as far as this test can see."
        )
    if names["moderate"]:
        said.append(
            f"Moderate shift: {whom(names['moderate'])}. The classifier's errors here may not be "
            "those of validation, and a correction by them is not to be relied on."
        )
    if names["far"]:
        said.append(
            f"Far: {whom(names['far'])}. These are not the images that the model was made for; "
            "such a run is counted only when forced."
        )
    if names["untested"]:
        said.append(
            f"Not told: {whom(names['untested'])}. Whether the particles look like those of the "
            "validation set could not be tested."
        )
    return said


def notes(counts: pd.DataFrame) -> list[str]:
    """Return the notes on the counts of a run, each with the classes and sizes that it is about."""
    made: dict[str, dict[str, list[str]]] = {}
    for row in counts.to_dict(orient="records"):
        for note in parts(row.get("note")):
            own = made.setdefault(note, {}).setdefault(shown(row["class"]), [])
            own.append(row["bin"])
    n, bins = len(counts), len(set(counts["bin"]))
    return [
        f"{note} ({'; '.join(f'{name}: {sizes_of(sizes, bins)}' for name, sizes in own.items())})"
        for note, own in made.items()
        if sum(map(len, own.values())) < n
    ]


def _level(each: Mapping[str, Any]) -> str:
    shift = each.get("shift") or {}
    level = str(shift.get("level") or "untested")
    # a run that is told to be alike without reserve has no reasons
    return "untested" if level == "none" and shift.get("reasons") else level


def _of(found: "Counted", level: str) -> list[str]:
    return [str(each["run"]) for each in found.inputs if _level(each) == level]


def _shares(each: Mapping[str, Any]) -> dict[str, float]:
    total = max(1, each.get("particles") or 0)
    return {kind: (each.get(kind) or 0) / total for kind in ("unknown", "rejected")}


def _shifted(found: "Counted", level: str) -> str:
    own = _of(found, level)
    if not own:
        return ""
    alone, names = len(found.inputs) == 1, short(found)
    told = [each for each in found.inputs if str(each["run"]) in own]
    why, own = reasons(found, told), [names[run] for run in own]
    said = f": {why}." if why else "."
    if level == "far":
        forced = ", and counted because it was forced" * all(e.get("forced") for e in told)
        return (
            f"Far from what the model was made for{forced}"
            f"{'' if alone else f' ({whom(own)})'}{said} Do not rely on these counts."
        )
    return (
        f"{'This run' if alone else whom(own)} differ{'s' if len(own) == 1 else ''} from the "
        f"particles that the model was validated on{said} The counts may be off by more than "
        "their intervals say."
    )


def _unmeasured(found: "Counted") -> str:
    own = [each["run"] for each in found.inputs if not volume(each)]
    where = f": {whom([short(found)[str(run)] for run in own])}" if len(found.inputs) > 1 else ""
    said = f"The analysed volume is not known, so counts only, no particles per mL{where}."
    return said if own else ""


def _unjudged(found: "Counted") -> str:
    own = _of(found, "untested")
    where = f" ({whom([short(found)[run] for run in own])})" if len(found.inputs) > 1 else ""
    said = f"Whether the particles look like those of validation could not be tested{where}."
    return said if own else ""


def _sizeless(found: "Counted") -> str:
    own, names = [(unsized(each), str(each["run"])) for each in found.inputs], short(found)
    told = [f"{percent(share)} of {names[run]}" for share, run in own if share > 0]
    # a run without any size lacks the scale, which the user may know
    name = " (name the scale with -o um_per_px=...)" * any(share == 1 for share, _ in own)
    said = f"Particles of unknown size are in no size bin, only in all sizes: {whom(told)}{name}."
    return said if told else ""


def _many(found: "Counted", kind: str, what: str) -> str:
    own = [(_shares(each)[kind], each["run"]) for each in found.inputs]
    own = [(share, run) for share, run in own if share > MUCH]
    if not own:
        return ""
    if len(found.inputs) == 1:
        return f"{percent(own[0][0])} of the particles {what}."
    told = [f"{percent(share)} of {short(found)[str(run)]}" for share, run in own]
    return f"{whom(told)} {what}."


def _unread(found: "Counted") -> str:
    n = sum(each.get("quarantined") or 0 for each in found.inputs)
    what = "picture could not be read and is" if n == 1 else "pictures could not be read and are"
    return f"{n:,} {what} in no count." if n else ""


def _zero(found: "Counted") -> str:
    # what the tables say of their zeros, else what a zero would mean
    rows = found.counts[["per_ml", "per_ml_low", "per_ml_high"]].itertuples(index=False)
    limits = [high for count, low, high in rows if high > 0 and nought(count, low, high)] or [
        ZERO / own * (value(each.get("dilution")) or 1.0)
        for each in found.inputs
        if (own := volume(each))
    ]
    if not limits:
        return ""
    low, high = (upper(end) for end in (min(limits), max(limits)))
    fewer = f"{low} per mL" if low == high else f"{low} to {high} per mL"
    named = " so named" * all(method in PLAIN for method in used(found).values())
    return f"A count of 0 is not none: it means fewer than {fewer}{named}."
