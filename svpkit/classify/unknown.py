"""Particles of no known class: a score of strangeness and thresholds, chosen for right counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from svpkit.classify import strangeness
from svpkit.classify.strangeness import SCORES
from svpkit.errors import SvpkitError, unknown

FORMAT = 1
FEW = 30
"""With fewer rightly named validation particles a class has no quantile of its own."""

LEVELS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05)
"""Shares of a class that may be lost, tried up to the largest allowed."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a classifier said of N particles: features (N, F) or None, logits (N, K).

    `labels` int (N,) where they are known; `named` int (N,) is the class each is counted as, the
    likeliest by default, K for none.
    """

    features: np.ndarray | None
    logits: np.ndarray
    labels: np.ndarray | None = None
    named: np.ndarray | None = None

    @property
    def names(self) -> np.ndarray:
        """The class each particle is counted as: int (N,)."""
        return self.logits.argmax(1) if self.named is None else self.named


@dataclass(frozen=True, eq=False)
class Detector:
    """One score and a threshold a class: what lies above is of no known class.

    `name` is the score, `thresholds` float64 (K,) hold for the particles named so (inf: none is
    ever flagged), `fitted` the score's own arrays, `found` what was measured when it was chosen.
    """

    classes: tuple[str, ...]
    name: str
    thresholds: np.ndarray
    fitted: Mapping[str, np.ndarray] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)

    def score(self, features: np.ndarray | None, logits: np.ndarray) -> np.ndarray:
        """Return strangeness float32 (N,) of features (N, F), None for energy, and logits (N, K).

        Raises SvpkitError where the score needs features and there are none, or of another width.
        """
        wanted = {"knn": "basis", "vim": "rest"}.get(self.name)
        width = 0 if wanted is None else len(self.fitted[wanted])
        if width and (features is None or features.shape[1:] != (width,)):
            given = "none" if features is None else f"those of shape {features.shape}"
            raise SvpkitError(f"unknown.{self.name}: features (N, {width}) wanted, {given} given")
        if logits.shape[1:] != (len(self.classes),):
            raise SvpkitError(
                f"unknown: logits (N, {len(self.classes)}) wanted, those of {logits.shape} given"
            )
        there = logits if features is None else features
        return strangeness.score(self.name, self.fitted, there, logits)

    def flags(
        self, features: np.ndarray | None, logits: np.ndarray, named: np.ndarray | None = None
    ) -> np.ndarray:
        """Return bool (N,): True for a particle above the threshold of the class it is named.

        `named` int (N,): the likeliest class by default. What is named none (K) is held to the
        highest threshold.
        """
        names = logits.argmax(1) if named is None else named
        return self.score(features, logits) > _limit(self.thresholds, names)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to keep beside `to_json`, fit for safetensors."""
        return {"thresholds": self.thresholds, **self.fitted}

    def to_json(self) -> dict[str, Any]:
        """Return the rest of the detector in JSON's types."""
        said = {"format": FORMAT, "score": self.name, "classes": list(self.classes)}
        return {**said, "found": dict(self.found)}

    @classmethod
    def from_state(cls, json: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Detector":
        """Return what `to_json` and `arrays` gave; raises SvpkitError where they do not fit."""
        if json.get("format") != FORMAT:
            raise SvpkitError(
                f"unknown: detector of format {json.get('format')}, this version reads {FORMAT}"
            )
        name, classes = json.get("score", ""), tuple(json.get("classes", ()))
        if name not in SCORES:
            raise unknown("unknown.score", name, SCORES)
        own = {"knn": {"basis", "bank", "k"}, "vim": {"origin", "rest", "alpha"}}.get(name, set())
        if set(arrays) != own | {"thresholds"} or arrays["thresholds"].shape != (len(classes),):
            raise SvpkitError(f"unknown: not the arrays of {name} and {len(classes)} classes")
        fitted = {key: arrays[key] for key in sorted(own)}
        return cls(classes, name, arrays["thresholds"], fitted, json.get("found", {}))


def choose(
    train: Seen,
    val: Seen,
    strangers: Seen,
    classes: Sequence[str],
    *,
    share: float = 0.05,
    at_most: float = 0.03,
) -> Detector:
    """Return the detector that distorts the counts of a strange-ridden validation set least.

    The distortion is what strangers and flags together do to the counts: the mean over classes of
    (rightly named val particles flagged + strangers named so and not flagged) / true, for all of
    val and as much weight of strangers as makes them `share` of the mix, evenly spread over the
    names: which class new strangers resemble is not known, and most of those made of training
    images resemble the commonest. Losses and strangers are not set off against each other, since
    another input has another share; nor does it hold the classifier's own confusion, which counts
    are corrected for elsewhere. Each score that has its features is tried, each class with that of
    LEVELS up to `at_most` which distorts its own count least, and so is flagging nothing; the least
    distortion wins, then the lesser loss, then the simpler score.

    At level q at most a share q of a class's n rightly named val particles is flagged (what is
    misnamed is lost to its class already): thresholds are order statistics, max(0, floor(q (n + 1))
    - 1) particles above, so that q is expected of new particles too where n >= 1 / q. A class with
    n < FEW loses none, and its threshold is no lower than the highest of the others; with n = 0 it
    is that highest one. Raises SvpkitError without labels, val particles or strangers.
    """
    if train.labels is None or val.labels is None:
        raise SvpkitError("unknown: training and validation particles need their labels")
    for name, seen in (("training", train), ("validation", val), ("strange", strangers)):
        if not len(seen.logits):
            raise SvpkitError(f"unknown: no {name} particle to choose thresholds by")
    none = float(np.nanmean(_distortions(val, strangers, share, len(classes))))
    best = Detector(tuple(classes), "energy", np.full(len(classes), np.inf))
    least, found = none, {}
    for name in SCORES if train.features is not None else SCORES[:1]:
        there = train.logits if train.features is None else train.features
        fitted = strangeness.fit(name, there, train.logits, train.labels)
        tried = Detector(tuple(classes), name, best.thresholds, fitted)
        limit, found[name] = _best_levels(tried, val, strangers, share, at_most)
        if found[name]["distortion"] < least - 1e-9:
            best, least = replace(tried, thresholds=limit), found[name]["distortion"]
    right = _count(val.labels[val.names == val.labels], len(classes))
    few = [c for c, n in zip(classes, right, strict=True) if n < FEW]
    said = {"share": share, "at_most": at_most, "few": few, "none": {"distortion": none}}
    return replace(best, found={**said, "tried": found})


def thresholds_at(
    level: float | np.ndarray, scores: np.ndarray, labels: np.ndarray, named: np.ndarray, k: int
) -> np.ndarray:
    """Return thresholds (k,) that flag at most a share `level` of what is named rightly, a class.

    `level` is one for all or (k,); scores (N,), labels and named int (N,); see `choose`.
    """
    limit, levels = np.full(k, -np.inf), np.broadcast_to(level, k)
    right = [np.sort(scores[(labels == c) & (named == c)])[::-1] for c in range(k)]
    for c, own in enumerate(right):
        if len(own) >= FEW:
            limit[c] = own[max(0, int(levels[c] * (len(own) + 1) + 1e-9) - 1)]
    known = limit[np.isfinite(limit)]
    highest = known.max() if len(known) else scores.max()
    for c, own in enumerate(right):
        if len(own) < FEW:
            limit[c] = max(highest, own[0]) if len(own) else highest
    return limit


def _best_levels(
    tried: Detector, val: Seen, strangers: Seen, share: float, at_most: float
) -> tuple[np.ndarray, dict[str, Any]]:
    k, labels = len(tried.classes), np.asarray(val.labels)
    own = tried.score(val.features, val.logits).astype(np.float64)
    odd = tried.score(strangers.features, strangers.logits).astype(np.float64)

    def judge(level: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[Any, Any]]:
        limit = thresholds_at(level, own, labels, val.names, k)
        kept = own <= _limit(limit, val.names), odd <= _limit(limit, strangers.names)
        return _distortions(val, strangers, share, k, *kept), limit, kept

    levels = np.array(sorted({q for q in LEVELS if q < at_most} | {at_most}))
    each = np.nan_to_num(np.stack([judge(float(level))[0] for level in levels]))
    # a class's distortion is of its own threshold alone; of equal ones argmin takes the lowest
    level = levels[each.round(9).argmin(0)]
    distortions, limit, kept = judge(level)
    lost = _count(labels[(labels == val.names) & ~kept[0]], k) / np.maximum(_count(labels, k), 1)
    ranks = rankdata(np.concatenate([odd, own]))[: len(odd)].sum()
    auroc = (ranks - len(odd) * (len(odd) + 1) / 2) / (len(odd) * len(own))
    found = {"distortion": float(np.nanmean(distortions)), "caught": float((~kept[1]).mean())}
    by_class = {"level": level, "lost": lost}
    found |= {n: dict(zip(tried.classes, v.tolist(), strict=True)) for n, v in by_class.items()}
    return limit, {**found, "auroc": float(auroc)}


def _distortions(
    val: Seen,
    strangers: Seen,
    share: float,
    k: int,
    kept: np.ndarray | None = None,
    odd_kept: np.ndarray | None = None,
) -> np.ndarray:
    # of each class (k,), NaN for one without validation particles
    true = _count(np.asarray(val.labels), k)
    there = true > 0
    right = val.names == val.labels
    gone = np.zeros(k) if kept is None else _count(val.names[right & ~kept], k)
    odd = strangers.names if odd_kept is None else strangers.names[odd_kept]
    passed = _count(odd, k) / np.maximum(_count(strangers.names, k), 1)
    weight = share / (1 - share) * len(val.logits) / there.sum()
    return np.where(there, (gone + weight * passed) / np.where(there, true, 1), np.nan)


def _limit(thresholds: np.ndarray, named: np.ndarray) -> np.ndarray:
    return np.append(thresholds, thresholds.max())[named]


def _count(labels: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(labels[(labels >= 0) & (labels < k)], minlength=k).astype(float)
