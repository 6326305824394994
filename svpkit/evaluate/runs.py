"""Runs of the instrument: their particles and volumes, and how replicates of a sample differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
from scipy import stats

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics
from svpkit.evaluate.intervals import TAILS
from svpkit.evaluate.tally import Tally, fits

SUSPECT = 0.05
"""Runs of a sample are over-dispersed where Poisson counts differ as much more rarely than this."""


@dataclass(frozen=True)
class Run:
    """Particles of one run of the instrument.

    p (N, K), named int (N,) in 0..K with K for unknown, ecd_um (N,) with NaN for no size,
    volume_ml analysed (NaN where unknown), dilution the factor by which the sample was diluted.
    Runs of one `sample` are replicates. `admissible` says whether the run differs from validation
    in its mix alone, `reason` why not. Raises SvpkitError for what does not fit.
    """

    name: str
    p: np.ndarray
    named: np.ndarray
    ecd_um: np.ndarray
    volume_ml: float = float("nan")
    dilution: float = 1.0
    sample: str = ""
    admissible: bool = True
    reason: str = ""

    def __post_init__(self) -> None:
        fits(f"run {self.name}", self.p, self.named, self.ecd_um)
        for key, value in (("volume_ml", self.volume_ml), ("dilution", self.dilution)):
            if value <= 0 or np.isinf(value) or (key == "dilution" and np.isnan(value)):
                raise SvpkitError(f"run {self.name}: {key} = {value} given, above 0 is needed")


@dataclass(frozen=True)
class Unit:
    """A run, or the runs of a sample pooled; `each` is the tally of each run."""

    name: str
    runs: Sequence[Run]
    each: list[Tally]

    @cached_property
    def tally(self) -> Tally:
        """What all runs hold."""
        return reduce(add, self.each)

    @property
    def measured_ml(self) -> float:
        """Volume that went through the instrument, NaN where one is unknown."""
        return float(sum(run.volume_ml for run in self.runs))

    @property
    def sample_ml(self) -> float:
        """Volume of undiluted sample in it."""
        return float(sum(run.volume_ml / run.dilution for run in self.runs))


def pool(name: str, runs: Sequence[Run]) -> Unit:
    """Tally runs."""
    return Unit(name, runs, [Tally.of(run.p, run.named, run.ecd_um) for run in runs])


def units(runs: Sequence[Run]) -> list[Unit]:
    """Return every run, and after the last run of a sample its runs pooled."""
    found = []
    for sample in dict.fromkeys(run.sample or run.name for run in runs):
        own = [pool(run.name, [run]) for run in runs if (run.sample or run.name) == sample]
        found += own
        if len(own) > 1:
            each = [tally for unit in own for tally in unit.each]
            found.append(Unit(sample, [run for unit in own for run in unit.runs], each))
    return found


def between(unit: Unit, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CV of what is named per mL between runs, and how many times wider an interval has to be.

    Both (K + 1,), over strata `own`, bool (STRATA,). Runs that differ as Poisson counts do, or
    whose volume is unknown, leave the interval as it is; others widen it by the root of chi2 / df
    (McCullagh & Nelder 1989, section 4.5) and Student's t.
    """
    named = np.stack([tally.counts[own].sum(0) for tally in unit.each])
    volume = np.array([run.volume_ml / run.dilution for run in unit.runs])
    free, total = len(named) - 1, named.sum(0)
    if free == 0 or np.isnan(volume).any():
        return np.full(total.size, np.nan), np.ones(total.size)
    rate = named / volume[:, None]
    cv = metrics.ratio(rate.std(0, ddof=1), rate.mean(0), np.nan)
    expected = total * (volume / volume.sum())[:, None]
    chi2 = metrics.ratio((named - expected) ** 2, expected, 0.0).sum(0)
    suspect = stats.chi2.sf(chi2, free) < SUSPECT
    t = stats.t.ppf(TAILS[1], free) / stats.norm.ppf(TAILS[1])
    return cv, np.where(suspect, t * np.sqrt(chi2 / free), 1.0)
