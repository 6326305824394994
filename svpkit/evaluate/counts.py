"""Particles per mL by class and size bin, with intervals: the table a run is measured for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from svpkit.errors import SvpkitError, unknown
from svpkit.evaluate import quantify
from svpkit.evaluate.intervals import TAILS
from svpkit.evaluate.recount import Drawn, draw, estimate
from svpkit.evaluate.runs import Run, Unit, between, pool, units
from svpkit.evaluate.tally import BINS, STRATA, Reference

METHODS = ("auto", "cc", "pcc", "acc", "em")

TRACE = 1e-3
"""Particles: a lower limit below this is zero."""

CHANCE = "limits hold chance alone, not what is misnamed"

CAVEATS = {
    "cc": f"counts of what is named, not corrected; {CHANCE}",
    "pcc": f"leans towards the mix of validation; {CHANCE}",
    "acc": "corrected for what validation shows to be misnamed",
    "em": "its interval is too narrow where probabilities are not calibrated within a size",
}
"""What is said of a method that was asked for."""

UNKNOWN = "unknown"
"""Class of the row for what was flagged."""

DIFFERS = "it differs from validation in more than its mix"

FLAGGED = (
    "flagged, as it is: not less those flagged by mistake",
    "flagged beyond what validation flags by mistake: odd ones of known classes are among them, "
    "strangers that look like a class are not",
)
"""Note of that row, by whether the method corrects it."""


@dataclass(frozen=True)
class _Bin:
    name: str
    cumulative: bool
    strata: np.ndarray


def bins() -> list[_Bin]:
    """Return all sizes, the cumulative bins and the differential ones, with the strata of each."""
    at = np.arange(STRATA)
    found = [_Bin("all", True, at >= 0)]
    for i, edge in enumerate(BINS, 1):
        found.append(_Bin(f">= {edge}", True, (at >= i) & (at < STRATA - 1)))
    for i, edge in enumerate(BINS, 1):
        name = f"{edge}-{BINS[i]}" if i < len(BINS) else f">= {edge}"
        found.append(_Bin(name, False, at == i))
    return found


def garwood(n: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Exact 95 % limits of Poisson counts of any shape (Garwood, Biometrika 28, 1936, p. 437).

    Counts are whole numbers: the limits hold the truth in at least 95 %, more often where it is
    small (98 % and above below 5).
    """
    n = np.asarray(n, float)
    low = np.where(n > 0, stats.chi2.ppf(TAILS[0], 2 * np.maximum(n, 1e-9)) / 2, 0.0)
    return low, stats.chi2.ppf(TAILS[1], 2 * n + 2) / 2


def choose(reference: Reference, runs: Sequence[Run], method: str = "auto") -> tuple[str, str]:
    """Return the method for runs, "cc", "pcc", "acc" or "em", and why, in words.

    "auto" is "acc" where the runs differ from validation in their mix alone and the names tell the
    classes apart, else "cc". Raises SvpkitError where the method asked for cannot be had.
    """
    if method not in METHODS:
        raise unknown("counts.method", method, METHODS)
    lacking = [c for c, n in zip(reference.classes, reference.n, strict=True) if n == 0]
    alike = not lacking and not all(quantify.tellable(rates) for rates in reference.rates)
    strange = [run for run in runs if not run.admissible]
    cause = ""
    if lacking:
        cause = f"no validation particle of {', '.join(lacking)}"
    elif alike and method != "em":
        cause = "the names given in validation do not tell the classes apart"
    if method == "auto":
        if not cause and strange:
            cause = strange[0].reason or DIFFERS
        if cause:
            return "cc", f"cc: counts of what is named, not corrected: {cause}; {CHANCE}"
        return "acc", (
            "acc: corrected for what validation shows to be misnamed; assumes that the run differs "
            "from validation in its mix alone"
        )
    if cause and method in ("acc", "em"):
        raise SvpkitError(f"counts.method: '{method}' is not possible: {cause}; 'cc' is")
    said = f"{method}: as asked: {CAVEATS[method]}"
    if strange and method != "cc":
        said += f", though {strange[0].reason or DIFFERS}"
    return method, said


def count_table(
    reference: Reference,
    runs: Sequence[Run],
    *,
    method: str = "auto",
    blank: Sequence[Run] = (),
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Count particles by class and size bin (ECD, um), with 95 % intervals: a row for each.

    Columns sample, run (the sample's name again where its `runs` > 1 runs are pooled), class (the
    last one "unknown"), bin, cumulative, n_named, count, count_low, count_high (as measured),
    per_ml, per_ml_low, per_ml_high (of the undiluted sample; what the pooled `blank` runs hold per
    mL as measured is subtracted before; NaN where a volume is unknown), spread (CV of per_ml
    between the runs), method and note.

    A bin sums up its strata, each corrected with its own confusion. Limits are percentiles of
    joint replicates, exact Poisson ones for "cc"; wider where runs differ (`runs.between`). A
    cumulative bin holds no less than one inside it; differential ones need not add up to it.
    """
    _check(reference, runs, blank)
    empty_unit = pool("(blank)", blank) if blank else None
    strange = [f"blank {run.name}: {run.reason or DIFFERS}" for run in blank if not run.admissible]
    parts = []
    for unit in units(runs):
        chosen, why = choose(reference, unit.runs, method)
        why = "; ".join([why, *strange])
        counted = _Counted.of(reference, unit, chosen, replicates, seed)
        empty = None
        if empty_unit:
            empty = _Counted.of(reference, empty_unit, chosen, replicates, seed)
        own = [_rows(reference, counted, empty, bin_, why) for bin_ in bins()]
        _nest([rows for rows, bin_ in zip(own, bins(), strict=True) if bin_.cumulative])
        parts += own
    return pd.DataFrame({key: [x for part in parts for x in part[key]] for key in parts[0]})


def _nest(rows: Sequence[dict[str, list]]) -> None:
    # bins are corrected each by itself, but none can hold less than one inside it; limits stay as
    # they are: the highest of several lower ones would hold less often than each
    for inner, outer in zip(reversed(rows), list(reversed(rows))[1:], strict=False):
        for name in ("count", "per_ml"):
            outer[name] = np.fmax(outer[name], inner[name]).tolist()
            outer[f"{name}_high"] = np.maximum(outer[f"{name}_high"], outer[name]).tolist()


def _check(reference: Reference, runs: Sequence[Run], blank: Sequence[Run]) -> None:
    if not runs:
        raise SvpkitError("counts: no run given")
    for run in [*runs, *blank]:
        if run.p.shape[1] != len(reference.classes):
            raise SvpkitError(
                f"run {run.name}: {run.p.shape[1]} columns of probabilities given, validation has "
                f"{len(reference.classes)} classes"
            )
    for run in blank:
        if np.isnan(run.volume_ml):
            raise SvpkitError(f"blank {run.name}: its volume is unknown: nothing to subtract")


@dataclass(frozen=True)
class _Counted:
    unit: Unit
    method: str
    by_stratum: np.ndarray
    drawn: Drawn

    @classmethod
    def of(
        cls, reference: Reference, unit: Unit, method: str, replicates: int, seed: int
    ) -> _Counted:
        found = estimate(reference, unit.tally, method)
        drawn = draw(reference, unit.tally, method, unit.name, replicates, seed)
        return cls(unit, method, found, drawn)

    def point(self, own: np.ndarray) -> np.ndarray:
        return quantify.admissible(self.by_stratum[own].sum(0))

    def values(self, own: np.ndarray) -> np.ndarray:
        # count, low and high, (3, K + 1): no less than zero particles allow, no more than all do
        named, point = self.unit.tally.counts[own].sum(0), self.point(own)
        if self.method == "cc":
            return np.stack([point, *garwood(named)])
        low, high = _limits(*self.drawn.over(own))
        high = np.minimum(np.maximum(high, garwood(0)[1]), garwood(named.sum())[1])
        return np.stack([point, np.clip(low, 0.0, point), np.maximum(high, point)])

    def less(self, blank: _Counted, own: np.ndarray) -> np.ndarray:
        # the same, less what the blank holds in the volume that was measured
        times = self.unit.measured_ml / blank.unit.measured_ml
        if np.isnan(times):
            return np.full((3, self.by_stratum.shape[1]), np.nan)
        point = np.maximum(self.point(own) - times * blank.point(own), 0.0)
        (low, high), (little, much) = self.drawn.over(own), blank.drawn.over(own)
        low, high = _limits(low - times * much, high - times * little)
        high = np.maximum(np.maximum(high, garwood(0)[1]), point)
        return np.stack([point, np.clip(low, 0.0, point), high])


def _limits(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = np.quantile(low, TAILS[0], 0)
    # what em leaves of a class that is not there is a trace, never zero
    return np.where(below < TRACE, 0.0, below), np.quantile(high, TAILS[1], 0)


def _rows(
    reference: Reference, counted: _Counted, blank: _Counted | None, bin_: _Bin, why: str
) -> dict[str, list]:
    unit, own = counted.unit, bin_.strata
    spread, wider = between(unit, own)
    count = _widened(counted.values(own), wider)
    per_ml = count if blank is None else _widened(counted.less(blank, own), wider)
    per_ml = per_ml / unit.sample_ml
    named = unit.tally.counts[own].sum(0)
    rows = {
        "sample": unit.runs[0].sample or unit.runs[0].name,
        "run": unit.name,
        "runs": len(unit.runs),
        "class": [*reference.classes, UNKNOWN],
        "bin": bin_.name,
        "cumulative": bin_.cumulative,
        "n_named": named.astype(int),
    }
    for name, values in (("count", count), ("per_ml", per_ml)):
        for end, value in zip(("", "_low", "_high"), values, strict=True):
            rows[name + end] = value
    rows |= {"spread": spread, "method": counted.method}
    notes = [[] for _ in named]
    for c, said in enumerate(notes):
        said += _zero(named[c], count[:, c], per_ml[:, c])
        if wider[c] > 1:
            said.append(f"runs differ more than by chance: interval x {wider[c]:.2g}")
        if np.isnan(unit.sample_ml):
            said.append("volume unknown: nothing per mL")
        elif blank is not None:
            less = blank.point(own)[c] / blank.unit.measured_ml
            told = f"{less:,.0f}" if less >= 100 else f"{less:.3g}"
            said.append(f"blank subtracted: {told} per mL as measured, not below 0")
            if count[0, c] > 0 and per_ml[0, c] == 0:
                said.append("the blank holds as much or more: not measurable with it")
        if c == len(named) - 1:
            said.append(FLAGGED[counted.method in ("acc", "em")])
        said.append(why)
    rows["note"] = ["; ".join(said) for said in notes]
    return {key: np.broadcast_to(value, named.shape).tolist() for key, value in rows.items()}


def _zero(named: float, count: np.ndarray, per_ml: np.ndarray) -> list[str]:
    if named == 0 and np.isnan(per_ml[2]):
        return [f"none named: < {count[2]:.2g} in the volume"]
    if named == 0:
        return [f"none named: < {per_ml[2]:.2g} per mL"]
    return ["not told from zero"] if count[1] == 0 else []


def _widened(values: np.ndarray, wider: np.ndarray) -> np.ndarray:
    return np.maximum(values[0] + wider * (values - values[0]), 0.0)
