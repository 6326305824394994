"""Evidence from scores: every metric with its interval, and arms compared on the same particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics
from svpkit.evaluate.bootstrap import Replicates, bootstrap
from svpkit.evaluate.intervals import TAILS, difference, interval, precision_at, wilson
from svpkit.evaluate.metrics import FEW_EVENTS, MACRO, PER_CLASS, SIZE_BINS

FEW_GROUPS = 10
"""Below this many groups an interval by group is itself rough."""


@dataclass(frozen=True)
class Trial:
    """Arms scored on the same labelled particles, and how to resample them."""

    labels: np.ndarray
    arms: Mapping[str, np.ndarray]
    classes: Sequence[str]
    groups: np.ndarray | None
    replicates: int
    seed: int

    def subset(self, chosen: np.ndarray) -> Trial:
        """Return the trial of the chosen particles, bool (N,)."""
        arms = {name: scores[chosen] for name, scores in self.arms.items()}
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, labels=self.labels[chosen], arms=arms, groups=groups)

    def resample(
        self, weights: np.ndarray, levels: Sequence[Sequence[np.ndarray]] | None = None
    ) -> dict[str, Replicates]:
        """Return the replicates of each arm under class weightings (V, K)."""
        made = bootstrap(
            self.labels,
            list(self.arms.values()),
            groups=self.groups,
            weights=weights,
            levels=levels,
            replicates=self.replicates,
            seed=self.seed,
        )
        return dict(zip(self.arms, made, strict=True))


def evaluate(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    *,
    groups: np.ndarray | None = None,
    prevalence: Mapping[str, float] | None = None,
    ecd_um: np.ndarray | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict:
    """Score one arm, with intervals, curves, deployment prevalence and size bins, ready for JSON.

    Arguments and result as in `evaluate_paired`, of which this is the case of one arm.
    """
    made = evaluate_paired(
        labels,
        {"": scores},
        classes,
        groups=groups,
        prevalence=prevalence,
        ecd_um=ecd_um,
        replicates=replicates,
        seed=seed,
    )
    return made["arms"][""]


def evaluate_paired(
    labels: np.ndarray,
    arms: Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    groups: np.ndarray | None = None,
    prevalence: Mapping[str, float] | None = None,
    ecd_um: np.ndarray | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict:
    """Score several arms on the same resampled particles.

    labels int (N,), each arm scores (N, K), groups (N,) of any type, prevalence a positive number
    a class, ecd_um (N,) with NaN where unknown. Returns {"arms": {name: values}, "differences":
    [...]}, the later arm minus the earlier one for each pair; plain Python values, None for what is
    not known. Raises SvpkitError where shapes do not fit or a class has no particle.
    """
    for scores in arms.values():
        metrics.check(labels, scores, classes)
    metrics.check_present(labels, classes)
    groups, notes = _grouping(labels, groups)
    trial = Trial(labels, arms, classes, groups, replicates, seed)
    weights = np.ones((1, len(classes)))
    if prevalence is not None:
        n = np.bincount(labels, minlength=len(classes))
        weights = np.stack([weights[0], metrics.class_weights(n, classes, prevalence)])
    curves = {name: _curves(labels, scores) for name, scores in arms.items()}
    made = trial.resample(weights, [[recall for recall, _ in curves[name]] for name in arms])
    sizes, size_notes = _by_size(trial, ecd_um)
    results = {}
    for name in arms:
        at = [_values(trial, name, made[name], v, weight) for v, weight in enumerate(weights)]
        results[name] = at[0] | {
            "curves": _bands(curves[name], made[name].curves, classes),
            "at_prevalence": at[1] if prevalence is not None else None,
            "by_size": sizes[name],
            "notes": notes + size_notes + _few_notes(at[0], made[name]),
        }
    return {"arms": results, "differences": _differences(trial, made, weights)}


def _grouping(labels: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
    if groups is None:
        return None, []
    if len(groups) != labels.size:
        raise SvpkitError(
            f"{len(groups)} groups do not fit {labels.size} labels: one each is needed"
        )
    n = np.unique(groups).size
    if n == labels.size:
        return None, []
    if n == 1:
        return None, ["one test group: intervals are over particles and hold within this run only"]
    rough = [f"{n} test groups: intervals by group are rough below {FEW_GROUPS}"]
    return np.asarray(groups), rough if n < FEW_GROUPS else []


def _values(
    trial: Trial, name: str, made: Replicates, v: int, weight: np.ndarray
) -> dict[str, Any]:
    n_classes = len(trial.classes)
    table = metrics.confusion(trial.labels, trial.arms[name].argmax(1), n_classes)
    head, each = _metrics(table, made.point[v], weight)
    head_draws, each_draws = _metrics(made.confusion, made.auprc[v], weight)
    counts, per_class = metrics.per_class(table), {}
    for k, label in enumerate(trial.classes):
        found = {key: interval(each[key][k], each_draws[key][:, k]) for key in PER_CLASS}
        found |= _few_events(table, k, weight, found, trial.groups is not None)
        false = int(counts["false_positives"][k])
        per_class[label] = found | {
            "n": int(counts["n"][k]),
            "predicted": int(counts["predicted"][k]),
            "false_positives": false,
            "few_false_positives": false < FEW_EVENTS,
        }
    return {
        "n": {label: int(n) for label, n in zip(trial.classes, counts["n"], strict=True)},
        **{key: interval(head[key], head_draws[key]) for key in MACRO},
        "per_class": per_class,
        "confusion": [[int(cell) for cell in row] for row in table],
    }


def _metrics(
    table: np.ndarray, auprc: np.ndarray, weight: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    table = table * weight[:, None]
    return metrics.headline(table, auprc), metrics.per_class(table) | {"auprc": auprc}


def _few_events(
    table: np.ndarray, k: int, weight: np.ndarray, found: dict, clustered: bool
) -> dict[str, dict]:
    # Percentiles are too narrow with few events: [1, 1] where there is no false positive at all.
    hits, n, predicted = table[k, k], table[k].sum(), table[:, k].sum()
    limits = {}
    if n and min(hits, n - hits) < FEW_EVENTS:
        limits["recall"] = "wilson", wilson(hits, n)
    if n and min(hits, predicted - hits) < FEW_EVENTS:
        even = np.ptp(weight) == 0
        limits["precision"] = (
            ("wilson", wilson(hits, predicted))
            if even
            else ("weighted poisson", precision_at(table[:, k], k, int(n), weight))
        )
    result = {key: found[key] | {"method": "percentile"} for key in ("precision", "recall")}
    for key, (method, (low, high)) in limits.items():
        if clustered and found[key]["low"] is not None:
            low, high = min(low, found[key]["low"]), max(high, found[key]["high"])
        result[key] |= {"low": low, "high": high, "method": method}
    return result


def _few_notes(values: dict, made: Replicates) -> list[str]:
    lost = np.isnan(made.auprc[0]).any(1).mean()
    notes = [f"{lost:.0%} of replicates drew no group of some class and are left out"]
    return notes[: int(lost > 0)] + [
        f"precision of {name} rests on {one['false_positives']} false positives (under "
        f"{FEW_EVENTS}): the percentile interval of macro precision is too narrow"
        for name, one in values["per_class"].items()
        if one["few_false_positives"]
    ]


def _curves(labels: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        metrics.precision_recall_curve(labels == k, scores[:, k]) for k in range(scores.shape[1])
    ]


def _bands(
    curves: list[tuple[np.ndarray, np.ndarray]], draws: list[np.ndarray], classes: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    bands = {}
    for name, (recall, precision), drawn in zip(classes, curves, draws, strict=True):
        low, high = np.nanquantile(drawn, TAILS, axis=0)
        values = {"recall": recall, "precision": precision, "low": low, "high": high}
        bands[name] = {key: value.tolist() for key, value in values.items()}
    return bands


def _by_size(
    trial: Trial, ecd_um: np.ndarray | None
) -> tuple[Mapping[str, dict | None], list[str]]:
    if ecd_um is None or np.isnan(ecd_um).all():
        return dict.fromkeys(trial.arms, None), []
    where = metrics.size_bins(ecd_um)
    bins = [_bin(trial, where == number) for number in range(len(SIZE_BINS))]
    sizes = {
        name: {size: found.get(name) for size, found in zip(SIZE_BINS, bins, strict=True)}
        for name in trial.arms
    }
    left_out = int((where < 0).sum())
    notes = [f"{left_out} particles of unknown size are in no size bin"] if left_out else []
    return sizes, notes


def _bin(trial: Trial, chosen: np.ndarray) -> dict[str, dict]:
    if not chosen.any():
        return {}
    part, even = trial.subset(chosen), np.ones(len(trial.classes))
    part = replace(part, groups=_grouping(part.labels, part.groups)[0])
    made = part.resample(even[None])
    return {name: _values(part, name, one, 0, even) for name, one in made.items()}


def _differences(
    trial: Trial, made: Mapping[str, Replicates], weights: np.ndarray
) -> list[dict[str, Any]]:
    found = []
    for against, name in combinations(trial.arms, 2):
        at = [_difference(trial, made, (name, against), v, w) for v, w in enumerate(weights)]
        prevalence = at[1] if len(at) > 1 else None
        found.append({"arm": name, "against": against, **at[0], "at_prevalence": prevalence})
    return found


def _difference(
    trial: Trial, made: Mapping[str, Replicates], pair: tuple[str, str], v: int, weight: np.ndarray
) -> dict[str, Any]:
    points, draws = [], []
    for name in pair:
        table = metrics.confusion(trial.labels, trial.arms[name].argmax(1), len(weight))
        points.append(_metrics(table, made[name].point[v], weight))
        draws.append(_metrics(made[name].confusion, made[name].auprc[v], weight))
    head, each = 0, 1

    def minus(found: list, which: int, key: str) -> np.ndarray:
        return found[0][which][key] - found[1][which][key]

    per_class = {
        label: {
            key: difference(minus(points, each, key)[k], minus(draws, each, key)[:, k])
            for key in PER_CLASS
        }
        for k, label in enumerate(trial.classes)
    }
    macro = {key: difference(minus(points, head, key), minus(draws, head, key)) for key in MACRO}
    return {**macro, "per_class": per_class}
