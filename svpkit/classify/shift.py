"""Whether an input comes from where a model's validation particles came from, class mix aside."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from svpkit.classify import resemblance
from svpkit.classify.appearance import STATISTICS
from svpkit.classify.strangeness import spread
from svpkit.errors import SvpkitError

FORMAT = 1
LEVELS = ("none", "moderate", "far")

MOST = 5_000
"""Particles compared, of each side: effects are measured, and more would not change them."""

FEWEST = 10
"""With fewer particles no level but that of the scale is judged."""

# AUC and strange shares are judged by their lower 99 % limit: few particles do not fire by chance,
# nor many by being many. Limits measured with ResNet-10 on FlowCam tiles and simulated particles:
# another run of the same day and 180 class mixes from 1:0:0 to 0:0:1, AUC to 0.62 and strange to
# 0.08 (0.13 where validation held 6 of a class); two runs of the same instrument a year later, 0.63
# to 0.72, 0.03 to 0.07; 5 grey levels more, at which accuracy fell from 0.84 to 0.70, AUC 0.77; 10
# more (accuracy 0.43), 0.91 and 0.26; other instruments, objectives and objects, AUC over 0.92, and
# 0.78 or more with 25 particles.
AUC = {"moderate": 0.63, "far": 0.85}
STRANGE = {"moderate": 0.12, "far": 0.20}
CLASS_STRANGE = {"moderate": 0.30}  # in one class: it may be new in kind, all others as before
SCALE = {"moderate": 1.1, "far": 1.5}  # a particle 1.5 times as large is another size bin
SPREADS = {"moderate": 1.0}  # a lamp turned up is no reason to refuse unless features say so too

# Spreads of statistics are no smaller than this: grey levels, ratios of 1, px.
_FLOORS = dict(zip(STATISTICS, (4.0, 0.5, 0.03, 0.03, 0.1, 1.0), strict=True))


@dataclass(frozen=True)
class ShiftReport:
    """How an input of `n` particles compares: level "none", "moderate" or "far", and why.

    `judged` is False where there were too few particles to tell. `measures` are the effects, each
    as measured (`auc`, `strange`, `um_per_px_ratio`, statistics in spreads) and, for the first two,
    its lower 99 % limit; `by_class` gives the strange share of what was named so; `mix` the
    estimated shares of the classes that the comparison allowed for.
    """

    level: str
    reasons: tuple[str, ...]
    judged: bool
    n: int
    measures: Mapping[str, float] = field(default_factory=dict)
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    mix: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report in JSON's types."""
        return {**asdict(self), "reasons": list(self.reasons)}


@dataclass(frozen=True, eq=False)
class Shift:
    """What validation particles look like to a classifier and to a ruler.

    `held`: mean (F,), basis (F, D), bank (M, D) of whitened features, apart (M,) (each one's
    distance to its own k-th neighbour), labels and named int (M,), statistics (M, 6), spreads (6,).
    `um_per_px` is their scale, None where unknown.
    """

    classes: tuple[str, ...]
    held: Mapping[str, np.ndarray]
    um_per_px: float | None = None

    @classmethod
    def fit(
        cls,
        features: np.ndarray | None,
        labels: np.ndarray,
        named: np.ndarray,
        statistics: np.ndarray,
        classes: Sequence[str],
        *,
        groups: np.ndarray | None = None,
        um_per_px: np.ndarray | float | None = None,
    ) -> "Shift":
        """Describe validation particles that the classifier did not learn from.

        features (N, F), or None for a classifier without (statistics take their place); labels int
        (N,); named int (N,), the likeliest class of each, nothing rejected; statistics (N, 6) as
        `appearance.statistics` gives them; groups (N,) of any type, the runs; um_per_px in um, the
        scale of the images as the classifier sees them. Raises SvpkitError for under 2 FEWEST.
        """
        if len(labels) < 2 * FEWEST:
            raise SvpkitError(
                f"shift: {len(labels)} validation particles, at least {2 * FEWEST} are needed"
            )
        rows = spread(labels, MOST)
        seen = statistics if features is None else features
        mean, basis = resemblance.whitening(seen[rows])
        bank = (seen[rows] - mean) @ basis
        held = {
            "mean": mean,
            "basis": basis,
            "bank": bank,
            # the nearest particle to each is itself
            "apart": _apart(bank, bank, resemblance.NEIGHBOURS + 1),
            "labels": labels[rows].astype(np.int64),
            "named": named[rows].astype(np.int64),
            "statistics": statistics[rows].astype(np.float64),
            "spreads": _between(statistics[rows], None if groups is None else groups[rows]),
        }
        return cls(tuple(classes), held, _scale(um_per_px))

    def test(
        self,
        features: np.ndarray | None,
        named: np.ndarray,
        statistics: np.ndarray,
        um_per_px: np.ndarray | float | None = None,
    ) -> ShiftReport:
        """Return how particles compare; arguments as for `fit`, of N particles, N from 0.

        Validation particles are re-weighted to the classes' shares in the input, estimated from
        names and features (`resemblance.mix`), so that another mix alone is no shift. Of more than
        MOST particles, MOST at equal steps are compared. Compared are: the share of particles
        farther from validation's than the 95th percentile of those named alike (k-NN); the AUC of
        a classifier that tells the two apart (Lopez-Paz & Oquab 2017); the medians of
        image statistics, in spreads of validation's; the scale.
        """
        seen = statistics if features is None else features
        if seen.shape[1:] != self.held["mean"].shape or not len(seen) == len(named):
            raise SvpkitError(
                f"shift: features (N, {len(self.held['mean'])}) and N names wanted, {seen.shape} "
                f"and {len(named)} given"
            )
        n = len(named)
        found = _Findings()
        self._weigh_scale(found, _scale(um_per_px))
        if n < FEWEST:
            found.say("none", f"{n} particles are too few to judge ({FEWEST} needed)")
            return ShiftReport(found.level, tuple(found.reasons), False, n, found.measures)
        rows = np.linspace(0, n - 1, min(n, MOST)).round().astype(int)
        named = np.asarray(named)[rows]
        # what is no number is far from all
        there = np.nan_to_num((seen[rows] - self.held["mean"]) @ self.held["basis"], nan=100.0)
        labels, known = self.held["labels"], self.held["named"]
        mix = resemblance.mix(labels, known, self.held["bank"], named, there, len(self.classes))
        weight = resemblance.weights(labels, mix)
        by_class = self._weigh_strange(found, there, named, weight)
        self._weigh_auc(found, there, weight)
        if _level(found.measures["auc_low"], AUC) and _level(
            found.measures["strange_low"], STRANGE
        ):
            # later runs may be told apart, and rare classes be strange; new objects are both
            found.say("far", "told apart from validation's, and unlike them: another kind of input")
        self._weigh_statistics(found, statistics[rows], weight)
        shares = dict(zip(self.classes, mix.tolist(), strict=True))
        return ShiftReport(
            found.level, tuple(found.reasons), True, n, found.measures, by_class, shares
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to keep beside `to_json`, fit for safetensors."""
        return {name: np.ascontiguousarray(array) for name, array in self.held.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the rest in JSON's types."""
        return {"format": FORMAT, "classes": list(self.classes), "um_per_px": self.um_per_px}

    @classmethod
    def from_state(cls, json: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Shift":
        """Return what `to_json` and `arrays` gave; raises SvpkitError for another format."""
        if json.get("format") != FORMAT:
            raise SvpkitError(
                f"shift: reference of format {json.get('format')}, this version reads {FORMAT}"
            )
        return cls(tuple(json["classes"]), dict(arrays), json["um_per_px"])

    def _weigh_scale(self, found: "_Findings", given: float | None) -> None:
        if self.um_per_px is None or given is None:
            return
        ratio = given / self.um_per_px
        found.measures["um_per_px_ratio"] = ratio
        said = f"scale is {given:.3g} um per px, validation's {self.um_per_px:.3g}"
        found.say(_level(max(ratio, 1 / ratio), SCALE), said)

    def _weigh_strange(
        self, found: "_Findings", there: np.ndarray, named: np.ndarray, weight: np.ndarray
    ) -> dict[str, dict[str, float]]:
        apart = _apart(self.held["bank"], there, resemblance.NEIGHBOURS)
        odd = resemblance.strange(self.held["apart"], self.held["named"], weight, apart, named)
        low = resemblance.lower_share(int(odd.sum()), len(odd))
        found.measures |= {"strange": float(odd.mean()), "strange_low": low}
        said = f"{odd.mean():.0%} of the particles are stranger than 95 % of validation's"
        found.say(_level(low, STRANGE), said)
        by_class = {}
        for k, name in enumerate(self.classes):
            own = odd[named == k]
            if not len(own):
                continue
            by_class[name] = {"n": len(own), "strange": float(own.mean())}
            if len(own) >= FEWEST:
                low = resemblance.lower_share(int(own.sum()), len(own))
                said = f"{own.mean():.0%} of what is named {name} is strange for that class"
                found.say(_level(low, CLASS_STRANGE), said)
        return by_class

    def _weigh_auc(self, found: "_Findings", there: np.ndarray, weight: np.ndarray) -> None:
        auc, low = resemblance.two_sample(self.held["bank"], weight, there)
        found.measures |= {"auc": auc, "auc_low": low}
        said = f"a classifier tells them from validation's with AUC {auc:.2f} (0.5: alike)"
        found.say(_level(low, AUC), said)

    def _weigh_statistics(
        self, found: "_Findings", statistics: np.ndarray, weight: np.ndarray
    ) -> None:
        known, between = self.held["statistics"], self.held["spreads"]
        for j, name in enumerate(STATISTICS):
            low, usual, high = resemblance.quantiles(known[:, j], weight, (0.159, 0.5, 0.841))
            median = float(np.median(statistics[:, j]))
            spreads = (median - usual) / max((high - low) / 2, between[j], _FLOORS[name])
            found.measures[name] = spreads
            slack = (
                resemblance.Z * 1.25 * np.sqrt(1 / len(statistics) + 1 / resemblance.size(weight))
            )
            said = f"{name} is {median:.3g}, validation's {usual:.3g} ({abs(spreads):.1f} spreads)"
            found.say(_level(abs(spreads) - slack, SPREADS), said)


def admissible(report: ShiftReport, *, force: bool = False) -> tuple[bool, str]:
    """Return whether a correction for label shift may be made to this input's counts, and why.

    Such a correction holds where p(x | y) is that of validation. Raises SvpkitError for a far
    input unless `force`d; it then is not admissible.
    """
    because = "; ".join(report.reasons)
    if report.level == "far" and not force:
        raise SvpkitError(f"far from what the model was validated on: {because}")
    if report.level != "none":
        forced = " and used by force" if report.level == "far" else ""
        return False, f"the input's shift is {report.level}{forced}: {because}"
    if not report.judged:
        return False, f"whether the input is like validation's is not known: {because}"
    return True, "the input is like validation's, class by class"


@dataclass
class _Findings:
    level: str = "none"
    reasons: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)

    def say(self, level: str | None, reason: str) -> None:
        if level is not None:
            self.level = max(self.level, level, key=LEVELS.index)
            self.reasons.append(reason)


def _level(value: float, limits: Mapping[str, float]) -> str | None:
    reached = [name for name in LEVELS if name in limits and value > limits[name]]
    return reached[-1] if reached else None


def _apart(bank: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(KDTree(bank).query(points, k=k)[0])[:, k - 1]


def _between(statistics: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return the spread of the medians of runs with 2 FEWEST particles, 0 where there is one."""
    if groups is not None:
        names, n = np.unique(groups, return_counts=True)
        medians = [np.median(statistics[groups == g], axis=0) for g in names[n >= 2 * FEWEST]]
        if len(medians) > 1:
            return np.std(medians, axis=0, ddof=1)
    return np.zeros(statistics.shape[1])


def _scale(um_per_px: np.ndarray | float | None) -> float | None:
    given = np.zeros(0) if um_per_px is None else np.atleast_1d(np.asarray(um_per_px, float))
    given = given[np.isfinite(given) & (given > 0)]
    return float(np.median(given)) if len(given) else None
