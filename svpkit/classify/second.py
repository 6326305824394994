"""Strategies for the last layer alone, on frozen features: cRT, tau-normalisation, LWS, SMOTE.

The decoupled training of Kang et al. 2020: features are learnt from particles as they come, the
last layer is then set right. Features are those of training images moved as the network saw them, a
thousand views of a small class, where the arm augments; of the images as they are where not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from svpkit import draws
from svpkit.errors import SvpkitError

BATCH, MOMENTUM = 256, 0.9
TAUS = np.linspace(0, 2, 41)


@dataclass(frozen=True)
class Head:
    """A last layer: logits = features @ weight.T + bias; weight (K, F), bias (K,).

    `prior` (K,) is the class mass that it was taught, `said` what there is to tell about it.
    """

    weight: np.ndarray
    bias: np.ndarray
    prior: np.ndarray
    said: dict[str, Any] = field(default_factory=dict)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits float64 (N, K) of features (N, F)."""
        return features.astype(np.float64) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Seen:
    """Features (N, F) and labels int64 (N,) of the training set; of val where it may choose."""

    features: np.ndarray
    labels: np.ndarray
    val_features: np.ndarray | None = None
    val_labels: np.ndarray | None = None


@dataclass(frozen=True)
class Crt:
    """Train a new last layer with class-balanced sampling (cRT: Kang et al. 2020).

    `images` drawn, classes alike, in batches of 256; SGD with momentum 0.9 and a cosine rate, on
    features scaled to unit spread.
    """

    images: int = 100_000
    lr: float = 0.1
    weight_decay: float = 5e-4

    def second_stage(self, head: Head, seen: Seen, seed: int) -> Head:
        """Return the new last layer; what it learns is an even prior."""
        mean, spread = seen.features.mean(0), seen.features.std(0) + 1e-6
        scaled = (seen.features - mean) / spread
        labels, k = seen.labels, len(head.bias)

        def gradient(now: np.ndarray, rows: np.ndarray) -> np.ndarray:
            x = scaled[rows]
            wrong = _wrong(x @ now[:, :-1].T + now[:, -1], labels[rows])
            slope = np.column_stack([wrong.T @ x, wrong.sum(0)]) / len(rows)
            slope[:, :-1] += self.weight_decay * now[:, :-1]
            return slope

        start = np.zeros((k, scaled.shape[1] + 1))
        found = _descend(start, gradient, labels, self.images, self.lr, seed)
        weight = found[:, :-1] / spread
        bias = found[:, -1] - weight @ mean
        return Head(weight, bias, even(labels, k), {"images": self.images})


@dataclass(frozen=True)
class TauNorm:
    """Divide each class's weights by their length to the power tau (Kang et al. 2020).

    Without a bias, as there. `tau` None: the one of 0, 0.05 .. 2 with the highest macro recall on
    val, the smallest of equals. What prior the result speaks for is not known.
    """

    tau: float | None = None
    prior_known: ClassVar[bool] = False

    @property
    def needs_val(self) -> bool:
        """True when val has to choose tau."""
        return self.tau is None

    def second_stage(self, head: Head, seen: Seen, seed: int) -> Head:
        """Return the scaled last layer; `said` holds its tau."""
        if self.tau is not None:
            return self._at(head, self.tau)
        assert seen.val_features is not None and seen.val_labels is not None
        heads = [self._at(head, float(tau)) for tau in TAUS]
        recalls = [_macro_recall(h.logits(seen.val_features), seen.val_labels) for h in heads]
        return heads[int(np.argmax(recalls))]

    def _at(self, head: Head, tau: float) -> Head:
        length = np.maximum(np.linalg.norm(head.weight, axis=1, keepdims=True), 1e-12)
        said = {"tau": round(tau, 6)}
        return replace(
            head, weight=head.weight / length**tau, bias=np.zeros_like(head.bias), said=said
        )


@dataclass(frozen=True)
class Lws:
    """Learn one scale a class for its logit, class-balanced (LWS: Kang et al. 2020).

    The scales start at 1; sampling and SGD as in `Crt`. The bias is scaled with the weights.
    """

    images: int = 100_000
    lr: float = 0.1

    def second_stage(self, head: Head, seen: Seen, seed: int) -> Head:
        """Return the scaled last layer; what it learns is an even prior, as far as scales can."""
        logits, labels, k = head.logits(seen.features), seen.labels, len(head.bias)

        def gradient(now: np.ndarray, rows: np.ndarray) -> np.ndarray:
            z = logits[rows]
            return (_wrong(z * now, labels[rows]) * z).mean(0)

        # steps in units of the logits' own spread, whatever that is
        spread = max(float(logits.std()), 1e-6)
        rate = self.lr / max(spread, 1.0) ** 2
        scales = _descend(np.ones(k), gradient, labels, self.images, rate, seed)
        said = {"images": self.images, "scales": [round(float(s), 6) for s in scales]}
        return Head(head.weight * scales[:, None], head.bias * scales, even(labels, k), said)


@dataclass(frozen=True)
class Smote:
    """Fill the classes up with particles between neighbours in feature space, then train as `Crt`.

    SMOTE (Chawla et al. 2002) by imbalanced-learn, on the network's features instead of pixels.
    """

    neighbours: int = 5
    images: int = 100_000
    lr: float = 0.1
    weight_decay: float = 5e-4

    def second_stage(self, head: Head, seen: Seen, seed: int) -> Head:
        """Return the new last layer; raises SvpkitError for a class of one particle."""
        from imblearn.over_sampling import SMOTE  # type: ignore[import-not-found]

        n = np.bincount(seen.labels)
        fewest = int(n[n > 0].min())
        if fewest < 2:
            raise SvpkitError(
                "balance.smote: a class has 1 training particle, SMOTE needs 2 to draw between"
            )
        state = draws.key(seed, "smote") & (2**32 - 1)
        near = min(self.neighbours, fewest - 1)
        made = SMOTE(k_neighbors=near, random_state=state).fit_resample(seen.features, seen.labels)
        crt = Crt(self.images, self.lr, self.weight_decay)
        found = crt.second_stage(head, replace(seen, features=made[0], labels=made[1]), seed)
        return replace(found, said={**found.said, "made": len(made[1]) - len(seen.labels)})


def even(labels: np.ndarray, k: int) -> np.ndarray:
    """Return equal shares (K,) over the classes that labels (N,) hold, 0 for the others."""
    there = np.bincount(labels, minlength=k) > 0
    return there / there.sum()


def balanced(labels: np.ndarray, batch: int, seed: int, step: int) -> np.ndarray:
    """Return rows int64 (batch,) of a step: every class as likely, with replacement."""
    chance = draws.rng(seed, "second stage", step).random((2, batch))
    order, n = np.argsort(labels, kind="stable"), np.bincount(labels)
    present = np.flatnonzero(n)
    which = present[(chance[0] * len(present)).astype(np.int64)]
    return order[(np.cumsum(n) - n)[which] + (chance[1] * n[which]).astype(np.int64)]


def _descend(
    now: np.ndarray,
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    images: int,
    lr: float,
    seed: int,
) -> np.ndarray:
    steps, moving = max(images // BATCH, 1), np.zeros_like(now)
    for step in range(steps):
        moving = MOMENTUM * moving + gradient(now, balanced(labels, BATCH, seed, step))
        now = now - lr * 0.5 * (1 + np.cos(np.pi * step / steps)) * moving
    return now


def _wrong(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    # the gradient of the cross-entropy by the logits
    each = np.exp(logits - logits.max(1, keepdims=True))
    each /= each.sum(1, keepdims=True)
    each[np.arange(len(labels)), labels] -= 1
    return each


def _macro_recall(logits: np.ndarray, labels: np.ndarray) -> float:
    right = logits.argmax(1) == labels
    return float(np.mean([right[labels == k].mean() for k in np.unique(labels)]))
