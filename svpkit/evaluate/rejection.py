"""What thresholds gave: precision, recall and the share rejected, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from svpkit.evaluate import metrics
from svpkit.evaluate.bootstrap import bootstrap
from svpkit.evaluate.intervals import interval, precision_at, weighted_poisson, wilson
from svpkit.evaluate.metrics import FEW_EVENTS, ratio


def rates(table: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and share rejected of each class (..., K), and of all particles (...,).

    table (..., K, K + 1) counts particles by true class and name, the last one being the bin;
    weight (K,) that of a particle of each class. NaN where a class is never named or has none.
    """
    hits, n = np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1)
    named = (table[..., :-1] * weight[:, None]).sum(-2)
    return {
        "precision": ratio(weight * hits, named, np.nan),
        "recall": ratio(hits, n, np.nan),
        "rejected": ratio(table[..., -1], n, np.nan),
        "all": ratio(table[..., -1] @ weight, n @ weight, np.nan),
    }


def judge(
    labels: np.ndarray,
    named: np.ndarray,
    classes: Sequence[str],
    *,
    prevalence: Mapping[str, float] | None = None,
    groups: np.ndarray | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how particles were named: {"per_class": {class: values}, "rejected": interval}.

    labels int (N,), named int (N,) with K for what is rejected, groups (N,) of any type. Values are
    intervals of precision (at the prevalence where one is stated), recall (what is rejected is
    missed) and of the share of the class that is rejected: 95 % percentiles of the same stratified
    replicates as every score, Wilson's or a weighted Poisson's limits where events are few.
    """
    k = len(classes)
    clustered = groups is not None and 1 < np.unique(groups).size < labels.size
    table = metrics.confusion(labels, named, k + 1)[:k]
    weight = np.ones(k)
    if prevalence is not None:
        weight = metrics.class_weights(table.sum(1), classes, prevalence)
    said = [np.eye(k + 1, dtype=np.float32)[named]]
    kept = groups if clustered else None
    drawn = bootstrap(
        labels, said, groups=kept, weights=np.ones((1, k + 1)), replicates=replicates, seed=seed
    )[0].confusion[:, :k]
    point, draws = rates(table, weight), rates(drawn, weight)
    few = _few_events(table, weight)
    per_class = {
        name: {
            key: _widened(interval(point[key][i], draws[key][:, i]), few[i].get(key), clustered)
            for key in ("precision", "recall", "rejected")
        }
        for i, name in enumerate(classes)
    }
    share = weight / (weight @ table.sum(1))
    everything = None
    if table[:, -1].sum() < FEW_EVENTS:
        low, high = weighted_poisson(table[:, -1], share)
        everything = low, min(high, 1.0)
    rejected = _widened(interval(point["all"], draws["all"]), everything, clustered)
    return {"per_class": per_class, "rejected": rejected}


def _few_events(table: np.ndarray, weight: np.ndarray) -> list[dict[str, tuple[float, float]]]:
    # percentiles are too narrow with few events: [1, 1] where there is no false positive at all
    even, found = np.ptp(weight) == 0, []
    for i, row in enumerate(table):
        n, hits, binned, named = row.sum(), row[i], row[-1], table[:, i].sum()
        limits = {}
        if min(hits, n - hits) < FEW_EVENTS:
            limits["recall"] = wilson(hits, n)
        if min(binned, n - binned) < FEW_EVENTS:
            limits["rejected"] = wilson(binned, n)
        if named and min(hits, named - hits) < FEW_EVENTS:
            limits["precision"] = (
                wilson(hits, named) if even else precision_at(table[:, i], i, int(n), weight)
            )
        found.append(limits)
    return found


def _widened(
    found: dict[str, float | None], limits: tuple[float, float] | None, clustered: bool
) -> dict[str, float | None]:
    if limits is None:
        return found
    low, high = limits
    if clustered and found["low"] is not None and found["high"] is not None:
        low, high = min(low, found["low"]), max(high, found["high"])
    return found | {"low": low, "high": high}
