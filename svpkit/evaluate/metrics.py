"""Point values: confusion, precision, recall, F1 and average precision, raw or at a prevalence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from svpkit.errors import SvpkitError, unknown

SIZE_BINS = ("< 5", "5-10", ">= 10")
"""Names of the size bins, ECD in um."""

FEW_EVENTS = 30
"""Below this many events a proportion is too uncertain for a percentile interval."""

MACRO = ("macro_precision", "macro_recall", "macro_f1", "macro_auprc", "accuracy")
PER_CLASS = ("precision", "recall", "f1", "auprc")


@dataclass(frozen=True)
class Ranking:
    """One class against the rest, ranked from the top score down in gap form.

    A gap ends at each distinct score of a positive; negatives tied with it belong to it, and the
    last gap holds the negatives below every positive. `gap` (N,) is the gap of each particle,
    `positives` and `negatives` (G,) are the weights in each.
    """

    gap: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def check(labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse labels (N,) and scores (N, K) that do not fit the K classes or are not finite."""
    if labels.ndim != 1 or scores.shape != (labels.size, len(classes)):
        raise SvpkitError(
            f"scores of shape {scores.shape} do not fit {labels.size} labels and "
            f"{len(classes)} classes: ({labels.size}, {len(classes)}) is needed"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= len(classes)):
        raise SvpkitError(
            f"labels run from {labels.min()} to {labels.max()}: 0 to {len(classes) - 1} is allowed"
        )
    if not np.isfinite(scores).all():
        raise SvpkitError("scores hold NaN or infinity: the classifier gave no usable answer")


def check_present(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse labels (N,) that hold none of some class: its recall would not be 0 but unknown."""
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, n in zip(classes, counts, strict=True) if n == 0]
    if absent:
        raise SvpkitError(
            f"no particle of class {', '.join(absent)} among the {labels.size} labelled: "
            "every class needs at least one"
        )


def confusion(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Count particles by true class (rows) and predicted class (columns), (K, K).

    Integers without `weight` (N,), summed weights with it.
    """
    cell = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(cell, weight, n_classes**2).reshape(n_classes, n_classes)


def ratio(above: ArrayLike, below: ArrayLike, empty: float) -> np.ndarray:
    """Divide elementwise, with `empty` where there is nothing to divide by."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.full(above.shape, empty), where=below > 0)


def per_class(table: np.ndarray) -> dict[str, np.ndarray]:
    """Precision (PPV), recall and F1 of each class from confusion tables (..., K, K).

    A class that is never predicted has precision 0 (`predicted` says so); a class without
    particles has NaN for all three. Arrays are (..., K).
    """
    hit = np.diagonal(table, axis1=-2, axis2=-1).astype(float)
    n, predicted = table.sum(-1), table.sum(-2)
    nothing = np.where(n > 0, 0.0, np.nan)
    return {
        "precision": ratio(hit, predicted, 0.0) + nothing,
        "recall": ratio(hit, n, np.nan),
        "f1": ratio(2 * hit, n + predicted, 0.0) + nothing,
        "n": n,
        "predicted": predicted,
        "false_positives": predicted - hit,
    }


def ranking(positive: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> Ranking:
    """Rank one class against the rest: `positive` bool (N,), `score` (N,), `weight` (N,) >= 0."""
    values = np.unique(score[positive])
    gap = (values.size - np.searchsorted(values, score, side="right")).astype(np.int32)
    n = values.size + 1
    above = None if weight is None else weight[positive]
    below = None if weight is None else weight[~positive]
    return Ranking(
        gap,
        np.bincount(gap[positive], above, n).astype(float),
        np.bincount(gap[~positive], below, n).astype(float),
    )


def step_sum(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Average precision from the weights in each gap, (G,) each; NaN without positives."""
    hits = positives.cumsum()
    precision = ratio(hits, hits + negatives.cumsum(), 0.0)
    return float(ratio(positives @ precision, hits[-1], np.nan))


def average_precision(
    positive: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Average precision (AUPRC), the step sum over thresholds as scikit-learn defines it.

    `positive` bool (N,), `score` (N,), `weight` (N,) >= 0. Tied scores are one threshold. Not the
    trapezoidal area, which is optimistic. NaN without positives.
    """
    ranked = ranking(positive, score, weight)
    return step_sum(ranked.positives, ranked.negatives)


def headline(table: np.ndarray, auprc: np.ndarray) -> dict[str, np.ndarray]:
    """Macro values and accuracy from confusion tables (..., K, K) and AUPRC (..., K).

    A macro value is the plain mean over all classes, so NaN when one has no particles.
    """
    each = per_class(table)
    right = np.trace(table, axis1=-2, axis2=-1)
    return {
        "macro_precision": each["precision"].mean(-1),
        "macro_recall": each["recall"].mean(-1),
        "macro_f1": each["f1"].mean(-1),
        "macro_auprc": auprc.mean(-1),
        "accuracy": ratio(right, table.sum((-2, -1)), np.nan),
    }


def class_auprc(
    labels: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """Average precision of each class against the rest, (K,); labels (N,), scores (N, K)."""
    return np.array(
        [average_precision(labels == k, scores[:, k], weight) for k in range(scores.shape[1])]
    )


def summary(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    weight: np.ndarray | None = None,
) -> dict:
    """Score class probabilities: macro values, accuracy and the four values of each class.

    labels int (N,), scores (N, K), weight (N,) >= 0. The prediction is the highest score. Raises
    SvpkitError when shapes do not fit or a class has no particle.
    """
    check(labels, scores, classes)
    check_present(labels, classes)
    table = confusion(labels, scores.argmax(1), len(classes), weight)
    auprc = class_auprc(labels, scores, weight)
    each = per_class(table) | {"auprc": auprc}
    n = np.bincount(labels, minlength=len(classes))
    return {name: float(value) for name, value in headline(table, auprc).items()} | {
        "per_class": {
            name: {key: float(each[key][k]) for key in PER_CLASS} | {"n": int(n[k])}
            for k, name in enumerate(classes)
        }
    }


def class_weights(
    n: np.ndarray, classes: Sequence[str], prevalence: Mapping[str, float]
) -> np.ndarray:
    """Weight of one particle of each class (K,) that moves counts n (K,) to a prevalence.

    `prevalence` holds a positive number for every class, in any unit; weights average 1 over the
    particles. Raises SvpkitError for a class that is missing, unknown or not above 0.
    """
    for name in prevalence:
        if name not in classes:
            raise unknown("evaluate.prevalence", name, classes)
    for name in classes:
        if not 0 < prevalence.get(name, 0) < np.inf:
            given = prevalence.get(name, "nothing")
            raise SvpkitError(
                f"evaluate.prevalence.{name}: {given} given, a number above 0 is needed"
            )
    share = np.array([float(prevalence[name]) for name in classes])
    share = np.where(n > 0, share, 0.0)
    return ratio(share / share.sum() * n.sum(), n, 0.0)


def prevalence_weights(
    labels: np.ndarray, classes: Sequence[str], prevalence: Mapping[str, float]
) -> np.ndarray:
    """Weight of each particle (N,) that moves labels (N,) to a prevalence such as 1000:1:1."""
    n = np.bincount(labels, minlength=len(classes))
    return class_weights(n, classes, prevalence)[labels]


def size_bins(ecd_um: np.ndarray) -> np.ndarray:
    """Bin of each particle in SIZE_BINS, (N,) from ECD in um; -1 where the size is unknown."""
    return np.where(np.isnan(ecd_um), -1, np.digitize(ecd_um, (5.0, 10.0)))


def precision_recall_curve(
    positive: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None, points: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at up to `points` thresholds, spread evenly over recall, for drawing.

    `positive` bool (N,), `score` (N,), `weight` (N,) >= 0; recall rises to 1.
    """
    ranked = ranking(positive, score, weight)
    hits = np.cumsum(ranked.positives)[:-1]
    recall = ratio(hits, hits[-1] if hits.size else 0.0, np.nan)
    precision = ratio(hits, hits + np.cumsum(ranked.negatives)[:-1], 0.0)
    if recall.size > points:
        keep = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1.0, points)))
        keep = keep[keep < recall.size]
        recall, precision = recall[keep], precision[keep]
    return recall, precision
