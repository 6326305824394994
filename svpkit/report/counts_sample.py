"""What was done to a sample before it was counted, and what its runs say, in words."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from svpkit.report.counts_cells import clean, listed, parts, short, shown, sizes_of, whom
from svpkit.report.numbers import value

if TYPE_CHECKING:
    from svpkit.report.counts import Counted

MOST = 6
"""Classes whose blank holds too much, in one sentence."""
WIDER = re.compile(r"interval x ([\d.]+(?:e[+-]?\d+)?)")
DROWNED = "the blank holds"


def fresh(found: "Counted") -> list[Mapping[str, Any]]:
    """Return the inputs that are counted for themselves: all but the blanks."""
    return [each for each in found.inputs if not each.get("blank")]


def volume(each: Mapping[str, Any]) -> float | None:
    """Return the analysed volume of a run in mL, None where it is not known."""
    own = value(each.get("volume_ml"))
    return own if own and own > 0 else None


def subtracted(found: "Counted") -> str:
    """Say which blanks are subtracted, and from which runs; "" without a blank."""
    blanks = [each for each in found.inputs if each.get("blank")]
    own = fresh(found)
    if not blanks or not own:
        return ""
    told = listed([f"{clean(e['run'])} ({e.get('particles') or 0:,} particles)" for e in blanks])
    many = len(blanks) > 1
    are, pooled = ("Blanks", "are pooled and") if many else ("Blank", "is")
    known = [each["run"] for each in own if volume(each)]
    bare = [each["run"] for each in own if not volume(each)]
    names = short(found)
    if not known:
        return f"{are} {told} {'are' if many else 'is'} not subtracted: no volume is known."
    whose = "the run" if len(own) == 1 else "all runs"
    if bare:
        whose = f"the runs of known volume, not from {whom([names[str(run)] for run in bare])}"
    return f"{are} {told} {pooled} subtracted from {whose}."


def diluted(found: "Counted") -> str:
    """Say that counts are of the undiluted sample, and how much was diluted; "" where not."""
    own = {str(each["run"]): value(each.get("dilution")) or 1.0 for each in fresh(found)}
    names = short(found)
    bare = [str(each["run"]) for each in fresh(found) if not volume(each)]
    bare = [run for run in bare if own[run] != 1]
    per_ml = {run: times for run, times in own.items() if run not in bare}
    said = []
    if any(times != 1 for times in per_ml.values()):
        said.append(f"Counts per mL are of the undiluted sample: {_times(own, per_ml, names)}.")
    if bare:
        whose = "" if len(bare) == len(own) else f" of {whom([names[run] for run in bare])}"
        said.append(
            f"Counts{whose} are of what was measured, after dilution, as no volume is known: "
            f"{_times(own, {run: own[run] for run in bare}, names)}."
        )
    return " ".join(said)


def _times(every: Mapping[str, float], own: Mapping[str, float], names: Mapping[str, str]) -> str:
    if len(set(own.values())) == 1 and len(own) == len(every):
        who = "the run was" if len(own) == 1 else "runs were"
        return f"{who} diluted {next(iter(own.values())):g} times"
    by: dict[float, list[str]] = {}
    for run, times in own.items():
        by.setdefault(times, []).append(names[run])
    return "; ".join(
        f"{whom(runs)} {'not diluted' if times == 1 else f'diluted {times:g} times'}"
        for times, runs in by.items()
    )


def unlike(found: "Counted") -> str:
    """Warn that the runs of a sample differ by more than chance; "" where they do not."""
    rows = [
        (str(row["run"]), shown(row["class"]), float(hit[1]))
        for row in found.counts.to_dict(orient="records")
        if (hit := WIDER.search(str(row.get("note") or "")))
    ]
    if not rows:
        return ""
    samples = list(dict.fromkeys(run for run, _, _ in rows))
    pooled = set(found.runs) - {str(each["run"]) for each in found.inputs}
    whose = "the sample" if len(pooled) < 2 else whom(samples)
    classes = list(dict.fromkeys(name for _, name, _ in rows))
    among = "" if len(classes) == len(found.classes) else f" in {whom(classes)}"
    factors = {factor for _, _, factor in rows}
    up = "up to " if len(factors) > 1 else ""
    return (
        f"The runs of {whose} differ more than chance{among}: their intervals are widened "
        f"{up}{max(factors):,.3g} times; look at each run by itself."
    )


def drowned(found: "Counted") -> str:
    """Warn of classes and sizes of which the blank holds as much as the sample; "" for none."""
    told = [(text, run) for run in found.runs for text in _drowned(found.counts, run)]
    if not told:
        return ""
    names, runs = short(found), dict.fromkeys(found.runs)
    by: dict[str, list[str]] = {}
    for text, run in told:
        by.setdefault(text, []).append(run)
    said = [
        text if len(own) == len(runs) else f"{text} ({whom([names[run] for run in own])})"
        for text, own in by.items()
    ]
    more = f" and {len(said) - MOST} more" if len(said) > MOST else ""
    return (
        f"In {'; '.join(said[:MOST])}{more} the blank holds as much as the sample or more: not "
        "measurable with this blank."
    )


def _drowned(counts: pd.DataFrame, run: str) -> list[str]:
    own = counts.loc[counts["run"].astype(str) == run, :]
    made: dict[str, list[str]] = {}
    for row in own.to_dict(orient="records"):
        if any(DROWNED in part for part in parts(row.get("note"))):
            made.setdefault(shown(row["class"]), []).append(row["bin"])
    n = len(set(own["bin"]))
    return [f"{name} {sizes_of(sizes, n)}" for name, sizes in made.items()]


def counted_runs(found: "Counted") -> int:
    """Return how many runs were counted: neither blanks nor what is pooled of them."""
    blanks = {str(each["run"]) for each in found.inputs if each.get("blank")}
    own = {str(each["run"]) for each in fresh(found)}
    return len(own or set(found.runs) - blanks)


def reasons(found: "Counted", told: Sequence[Mapping[str, Any]], most: int = 4) -> str:
    """Return why runs differ: "reason; reason", or where they differ in it "RUN: reason; ..."."""
    names = short(found)
    own = {str(each["run"]): list((each.get("shift") or {}).get("reasons") or ()) for each in told}
    own = {
        run: [clean(" ".join(str(r).split())).rstrip(".") for r in why] for run, why in own.items()
    }
    if len({tuple(why) for why in own.values()}) == 1:
        return "; ".join(next(iter(own.values()))[:most])
    given = [f"{names[run]}: {' and '.join(why[:most])}" for run, why in own.items() if why]
    more = [f"and {len(given) - most} more runs, below"] if len(given) > most else []
    return "; ".join([*given[:most], *more])
