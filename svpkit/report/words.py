"""Sentences made from figures: what was asked, what was found, how sure, what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svpkit.report.numbers import (
    arms_named,
    bounds,
    interval,
    listed,
    number,
    percent,
    plain,
    signed,
    the_arm,
    value,
)
from svpkit.report.unnamed import never

if TYPE_CHECKING:
    from svpkit.report.html import Story

Values = Mapping[str, Any]

MIXED = 0.03
"""Share of a class seen in training by which two arms may differ before it is said."""


@dataclass(frozen=True)
class Verdict:
    """What the recipe's own arm did against its strongest baseline.

    `kind` is "better", "worse", "unclear" (the paired interval holds zero), "unpaired" (there is no
    interval) or "alone" (no baseline). `missing` are the classes that the own arm never names:
    whatever the kind, the headline says so.
    """

    kind: str
    headline: str
    sentence: str
    missing: tuple[str, ...] = ()


def rare(counts: Mapping[str, int]) -> list[str]:
    """Return the classes with at most half as many particles as the largest."""
    most = max(counts.values(), default=0)
    return [name for name, n in counts.items() if 2 * n <= most]


def asked(recipe: Values, counts: Mapping[str, int], arms: Sequence[str]) -> str:
    """Say what the recipe asks, from its train counts {class: n} and the names of its arms."""
    few, most = rare(counts), max(counts, key=lambda name: counts[name], default="")
    learn = listed(f"{counts[name]:,} {plain(name)}" for name in few)
    beside = f" from {learn} images beside {counts.get(most, 0):,} {plain(most)}" if few else ""
    stand = "stands" if len(arms) == 2 else "stand"
    others = f" Beside it {stand} {arms_named(arms[1:])}." if len(arms) > 1 else ""
    balance = recipe.get("balance") or {}
    met = listed(s for s in balance.get("strategies", []) if s != "none") or "no balancing"
    return (
        f"Can a classifier learn to tell {listed(counts)} apart{beside}? "
        f"The recipe meets the imbalance with {met}.{others}"
    )


def strongest(arms: Mapping[str, Values]) -> str | None:
    """Return the baseline (any arm but the first) of highest macro average precision.

    It is chosen on the validation set, or on the test set where an arm has no validation figure.
    """
    names = list(arms)[1:]
    key = "val" if validated(arms) else "metrics"
    return max(names, key=lambda name: value(_macro(arms[name], key)) or 0.0, default=None)


def validated(arms: Mapping[str, Values]) -> bool:
    """Tell whether every baseline has a macro average precision on the validation set."""
    return all(value(_macro(arms[name], "val")) is not None for name in list(arms)[1:])


def verdict(story: "Story") -> Verdict:
    """Judge the first arm against its strongest baseline by the paired difference in macro AUPRC.

    `differences[baseline]["macro_auprc"]` is the recipe's own arm minus that baseline.
    """
    arms, differences = story.arms, story.differences
    own, base = next(iter(arms), ""), strongest(arms)
    missing = tuple(never((arms.get(own) or {}).get("metrics") or {}))
    if base is None:
        found = f"Macro AUPRC (average precision) is {interval(_macro(arms.get(own, {})))}."
        headline = "One arm, with nothing to compare it to" + _lacking("alone", missing)
        return Verdict("alone", headline, found, missing)
    row = differences.get(base) or {}
    kind = _kind(row.get("macro_auprc"))
    found = [
        f"Macro AUPRC (average precision): {number(_macro(arms[own]))} for {the_arm(own)}, "
        f"{number(_macro(arms[base]))} for {the_arm(base)}.",
        _chosen(arms, base),
        _paired("The paired difference", row.get("macro_auprc")),
        _elsewhere(row),
        *(_against(name, each) for name, each in differences.items() if name != base),
        _caution(arms, own, base),
        _mix(arms, own, base, story.sets.get("train") or {}),
    ]
    headline = _HEADLINES[kind].format(what=_subject(arms, own, base), base=the_arm(base))
    headline += _lacking(kind, missing)
    return Verdict(kind, headline, " ".join(part for part in found if part), missing)


_HEADLINES = {
    "better": "{what} did better than {base} in this run",
    "worse": "{what} did worse than {base} in this run",
    "unclear": "{what}: no difference to {base} that this test can show",
    "unpaired": "{what}: set beside {base} without a paired interval",
}


def _lacking(kind: str, missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return f", {'yet' if kind == 'better' else 'and'} the model names no {listed(missing, 'or')}"


def _kind(gap: Any) -> str:
    low, high = value(gap, "low"), value(gap, "high")
    if low is None or high is None:
        return "unpaired"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _chosen(arms: Mapping[str, Values], base: str) -> str:
    if len(arms) < 3:
        return ""
    where = (
        "on validation" if validated(arms) else "on the test set, no validation figure being kept"
    )
    return f"Of the baselines, {the_arm(base)} is the strongest {where}."


def _paired(what: str, gap: Any) -> str:
    kind = _kind(gap)
    if kind == "unpaired":
        return ""
    low, high = signed(value(gap, "low")), signed(value(gap, "high"))
    zero = "holds zero" if kind == "unclear" else "excludes zero"
    return f"{what} is {signed(gap)} (95\u00a0% interval {low} to {high}), which {zero}."


def _elsewhere(row: Values) -> str:
    # the stated mixture is the one that counts in use: say so where it changes the finding
    here, there = row.get("macro_auprc"), (row.get("at_prevalence") or {}).get("macro_auprc")
    turned = (value(here) or 0.0) * (value(there) or 0.0) < 0
    if _kind(here) == _kind(there) and not turned:
        return ""
    return _paired("At the stated prevalence it", there)


def _against(name: str, row: Values) -> str:
    gap = row.get("macro_auprc")
    around = f" ({bounds(gap)})" if bounds(gap) else ""
    return f"Against {the_arm(name)} it is {signed(gap)}{around}."


def _macro(arm: Values, key: str = "metrics") -> Any:
    return (arm.get(key) or {}).get("macro_auprc")


def _strategies(arms: Mapping[str, Values], name: str) -> set[str]:
    return set(arms[name].get("strategies") or [])


def _subject(arms: Mapping[str, Values], own: str, base: str) -> str:
    gained = _strategies(arms, own) - _strategies(arms, base) - {"none"}
    named = ["drawn particles" if name == "synthetic" else name for name in sorted(gained)]
    return f"Training with {listed(named)}" if named else "The recipe's own arm"


def _caution(arms: Mapping[str, Values], own: str, base: str) -> str:
    mine, theirs = _strategies(arms, own), _strategies(arms, base)
    other = (mine ^ theirs) - {"synthetic", "none"}
    if "synthetic" not in mine - theirs or not other:
        return ""
    often = " (how often each real image is shown)" if "oversample" in other else ""
    named = listed(sorted(other))
    return f"The two arms also differ in {named}{often}: the difference is not drawing's alone."


def _mix(arms: Mapping[str, Values], own: str, base: str, counts: Mapping[str, int]) -> str:
    mine, theirs = arms[own].get("seen") or {}, arms[base].get("seen") or {}
    known = [name for name in rare(counts) if name in mine and name in theirs]
    if not any(abs(mine[name] - theirs[name]) > MIXED for name in known):
        return ""
    here = listed(f"{percent(mine[name], 0)} {plain(name)}" for name in known)
    there = listed(percent(theirs[name], 0) for name in known)
    return f"The arms also differ in class mix: {here} seen in training against {there}."


def fidelity_sentence(name: str, row: Values) -> str:
    """Say how far the drawn particles of a class are from real ones, in the row's own words."""
    said = str(row.get("words") or f"KID {interval(row.get('kid'))}.")
    return f"Drawn {plain(name)}: {said[:1].lower() if row.get('words') else said[:1]}{said[1:]}"


def resolution(prevalence: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """Say the finest false-positive rate that the test set shows, and what one is worth.

    `prevalence` {class: share, any unit}; `counts` the test particles {class: n}. One false
    positive among n of the commonest class weighs (its share / n) / (share of the rarest class) for
    every particle of the rarest. Empty where the two do not name the same classes.
    """
    if len(prevalence) < 2 or any(not counts.get(name) for name in prevalence):
        return ""
    most, least = (pick(prevalence, key=lambda name: prevalence[name]) for pick in (max, min))
    n = counts[most]
    worth = prevalence[most] / prevalence[least] / n
    return (
        f"{n:,} {plain(most)} test particles resolve no false-positive rate below 1 in {n:,}: at "
        f"this mixture a single one counts as {worth:.2g} for every {plain(least)} particle, and "
        f"alone holds the precision of {plain(least)} to {number(1 / (1 + worth), 2)} at most."
    )


def blind(metrics: Values) -> str | None:
    """Warn of a classifier that finds little, however high its macro precision; else None.

    It finds little when macro recall is within 0.1 of chance (1 / classes) or 0.3 below macro
    precision.
    """
    each = metrics.get("per_class") or {}
    recall, precision = value(metrics.get("macro_recall")), value(metrics.get("macro_precision"))
    if recall is None or not each:
        return None
    if recall > 1 / len(each) + 0.1 and (precision or 0.0) - recall < 0.3:
        return None
    missed = [name for name, row in each.items() if (value(row.get("recall")) or 0.0) < 0.2]
    whom = f", nearly all {listed(missed)} among them" if missed else ""
    return (
        f"It misses most particles{whom}: macro recall is {number(recall)} where guessing gives "
        f"{number(1 / len(each))}. Its macro precision of {number(precision)} says nothing alone."
    )
