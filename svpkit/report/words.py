"""Sentences made from figures: what was asked, what was found, how sure, what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svpkit.report.numbers import bounds, interval, listed, number, plain, signed, value

Values = Mapping[str, Any]

FAR = 0.05
"""Share of the way from real to noise above which drawn particles are called far from real."""


@dataclass(frozen=True)
class Verdict:
    """What the recipe's own arm did against its strongest baseline.

    `kind` is "helped", "hurt", "unclear" (the paired interval holds zero), "unpaired" (there is no
    interval) or "alone" (no baseline).
    """

    kind: str
    headline: str
    sentence: str


def rare(counts: Mapping[str, int]) -> list[str]:
    """Return the classes with at most half as many particles as the largest."""
    most = max(counts.values(), default=0)
    return [name for name, n in counts.items() if 2 * n <= most]


def asked(recipe: Values, counts: Mapping[str, int], arms: Sequence[str]) -> str:
    """Say what the recipe asks, from its train counts {class: n} and the names of its arms."""
    few, most = rare(counts), max(counts, key=lambda name: counts[name], default="")
    learn = listed(f"{counts[name]:,} {plain(name)}" for name in few)
    beside = f" from {learn} images beside {counts.get(most, 0):,} {plain(most)}" if few else ""
    others = f" Beside it stand {listed(arms[1:])}." if len(arms) > 1 else ""
    balance = recipe.get("balance") or {}
    met = listed(s for s in balance.get("strategies", []) if s != "none") or "no balancing"
    return (
        f"Can a classifier learn to tell {listed(counts)} apart{beside}? "
        f"The recipe meets the imbalance with {met}.{others}"
    )


def strongest(arms: Mapping[str, Values]) -> str | None:
    """Return the baseline (any arm but the first) of highest macro average precision."""
    names = list(arms)[1:]
    return max(names, key=lambda name: value(_macro(arms[name])) or 0.0, default=None)


def verdict(arms: Mapping[str, Values], differences: Mapping[str, Values]) -> Verdict:
    """Judge the first arm against its strongest baseline by the paired difference in macro AUPRC.

    `differences[baseline]["macro_auprc"]` is the recipe's own arm minus that baseline.
    """
    own, base = next(iter(arms), ""), strongest(arms)
    what = _subject(arms, own, base)
    if base is None:
        found = f"Macro AUPRC (average precision) is {interval(_macro(arms.get(own, {})))}."
        return Verdict("alone", "One arm, with nothing to compare it to", found)
    gap = (differences.get(base) or {}).get("macro_auprc")
    low, high = value(gap, "low"), value(gap, "high")
    kind = _kind(low, high)
    found = (
        f"Macro AUPRC (average precision): {plain(own)} {number(_macro(arms[own]))}, "
        f"{plain(base)} {number(_macro(arms[base]))}. "
    )
    if kind != "unpaired":
        zero = "holds zero" if kind == "unclear" else "excludes zero"
        found += (
            f"The paired difference is {signed(gap)} "
            f"(95\u00a0% interval {signed(low)} to {signed(high)}), which {zero}. "
        )
    found += "".join(_against(name, row) for name, row in differences.items() if name != base)
    headline = _HEADLINES[kind].format(what=what, base=plain(base))
    return Verdict(kind, headline, found + _caution(arms, own, base))


_HEADLINES = {
    "helped": "{what} helped",
    "hurt": "{what} did worse than {base}",
    "unclear": "{what}: no difference to {base} that this test can show",
    "unpaired": "{what}: set beside {base} without a paired interval",
}


def _kind(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unpaired"
    return "helped" if low > 0 else "hurt" if high < 0 else "unclear"


def _against(name: str, row: Values) -> str:
    gap = row.get("macro_auprc")
    around = f" ({bounds(gap)})" if bounds(gap) else ""
    return f"Against {plain(name)} it is {signed(gap)}{around}. "


def _macro(arm: Values) -> Any:
    return (arm.get("metrics") or {}).get("macro_auprc")


def _strategies(arms: Mapping[str, Values], name: str | None) -> set[str]:
    return set((arms.get(name or "") or {}).get("strategies") or [])


def _subject(arms: Mapping[str, Values], own: str, base: str | None) -> str:
    mine, theirs = _strategies(arms, own), _strategies(arms, base)
    if "synthetic" in mine - theirs and not _others(mine, theirs):
        return "Adding drawn particles"
    gained = sorted(mine - theirs - {"none"})
    return listed(gained).capitalize() if gained else "The recipe's own arm"


def _others(mine: set[str], theirs: set[str]) -> set[str]:
    # drawing takes the place of showing the same images more often
    return (mine ^ theirs) - {"synthetic", "none", "oversample"}


def _caution(arms: Mapping[str, Values], own: str, base: str) -> str:
    mine, theirs = _strategies(arms, own), _strategies(arms, base)
    other = _others(mine, theirs)
    if "synthetic" not in mine - theirs or not other:
        return ""
    named = listed(sorted(other))
    return f"The two arms also differ in {named}: the difference is not drawing's alone."


def closeness(row: Values) -> str:
    """Say how drawn particles stand to real ones: "near", "close", "far" or "unknown".

    Near: the interval of KID reaches its real-against-real floor. Far: above 5 % of the way from
    that floor to the noise ceiling, or no ceiling is known. Close lies between.
    """
    kid, floor = row.get("kid"), row.get("kid_floor")
    here, bottom, top = value(kid), value(floor), value(row.get("kid_ceiling"))
    if here is None or bottom is None:
        return "unknown"
    low, reach = value(kid, "low"), value(floor, "high")
    if (here if low is None else low) <= (bottom if reach is None else reach):
        return "near"
    if top is not None and top > bottom and (here - bottom) / (top - bottom) <= FAR:
        return "close"
    return "far"


_CLOSENESS = {
    "near": "cannot be told from real ones by KID",
    "close": "are close to real ones, yet measurably different",
    "far": "are still far from real ones",
    "unknown": "were not measured against real ones",
}


def fidelity_sentence(name: str, row: Values) -> str:
    """Say how far the drawn particles of a class are from real ones (the row's own words first)."""
    if row.get("words"):
        return str(row["words"])
    kind = closeness(row)
    said = f"Drawn {plain(name)} particles {_CLOSENESS[kind]}"
    if kind == "unknown":
        return f"{said}."
    top = value(row.get("kid_ceiling"))
    noise = "" if top is None else f", {number(top)} for noise"
    return (
        f"{said}: KID {interval(row.get('kid'))} against {number(row.get('kid_floor'))} "
        f"between two sets of real images{noise}."
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
