"""Probabilities that mean what they say: logits calibrated on validation particles, and measured.

Temperature is bias-corrected temperature scaling (BCTS; Alexandari, Kundaje and Shrikumar, ICML
2020): softmax(scale z + bias), with scale = 1 / temperature, and a bias for each class that moves
the class mix which the network was trained under to that of the validation set. Vector is vector
scaling (Guo et al., ICML 2017): a scale for each class too. Both are convex in scale and bias.

Weak pulls keep every parameter finite where classes are separable or hardly there. A gap between
logits of ten times their spread costs half a nat in all (not a particle), a bias of 3 costs half a
nat, a vector's scale half as large again as the temperature's and its bias 1 away cost half a nat
each: particles outweigh them from a few dozen on. So a class of few validation particles keeps a
bias, which is about as sure as 1 / sqrt(n), and one without any is held near half a particle; its
own scale it gets only from FEW particles on, which `choose` asks of every class before vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from svpkit.errors import SvpkitError, unknown
from svpkit.evaluate import metrics

KINDS = ("none", "temperature", "vector")
"""Ways to calibrate, the simplest first."""

FEW = 30
"""Validation particles that a class needs before it gets a scale of its own."""

FOLDS = 5
LEAST_SCALE = 1e-3


@dataclass(frozen=True, eq=False)
class Calibrator:
    """Turns logits into probabilities under the class mix of the validation particles.

    `scale` is a float or (K,), `bias` (K,); `prior` (K,) is the mix that p is calibrated under,
    0 for a class that validation lacks.
    """

    kind: str
    scale: float | np.ndarray
    bias: np.ndarray
    prior: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities (N, K), float64, of logits (N, K)."""
        return softmax(self.scale * _centred(logits) + self.bias, axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which `from_json` takes back to the bit."""
        scale = np.asarray(self.scale).tolist()
        bias, prior = self.bias.tolist(), self.prior.tolist()
        return {"kind": self.kind, "scale": scale, "bias": bias, "prior": prior}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibrator:
        """Return the calibrator that was written; SvpkitError where it is not a whole one."""
        if values.get("kind") not in KINDS:
            raise unknown("calibrator.kind", str(values.get("kind")), KINDS)
        try:
            bias, prior = (np.asarray(values[key], dtype=float) for key in ("bias", "prior"))
            scale = np.asarray(values["scale"], dtype=float)
        except (KeyError, TypeError, ValueError) as error:
            raise SvpkitError(f"calibrator: {error} is missing or not numbers") from error
        fits = bias.ndim == 1 and prior.shape == bias.shape and scale.shape in ((), bias.shape)
        if not fits or not np.isfinite(np.concatenate([bias, prior, scale.ravel()])).all():
            raise SvpkitError("calibrator: scale, bias and prior need one finite number a class")
        return cls(values["kind"], scale if scale.ndim else float(scale), bias, prior)


def fit(
    logits: np.ndarray, labels: np.ndarray, kind: str, weight: np.ndarray | None = None
) -> Calibrator:
    """Fit a calibrator to validation particles by log loss.

    logits (N, K) finite, labels int (N,), weight (N,) >= 0. Raises SvpkitError where shapes do not
    fit, nothing is there to fit or the kind is unknown.
    """
    if kind not in KINDS:
        raise unknown("calibration", kind, KINDS)
    n_classes = _check(labels, logits)
    own = np.ones(labels.size) if weight is None else np.asarray(weight, dtype=float)
    prior = np.bincount(labels, own, n_classes) / own.sum()
    if kind == "none":
        return Calibrator(kind, 1.0, np.zeros(n_classes), prior)
    centred, own = _centred(logits), own * (labels.size / own.sum())
    spread = float(np.sqrt(np.average((centred**2).mean(1), weights=own))) or 1.0
    start = np.concatenate([[1.0], np.zeros(n_classes)])
    pull = np.concatenate([[1 / 100], np.full(n_classes, 1 / 9)])
    found = _minimum(centred / spread, labels, own, start, 0 * start, pull)
    if kind == "vector":
        start = np.concatenate([np.full(n_classes, found[0]), found[1:]])
        pull = np.repeat([4 / found[0] ** 2, 1.0], n_classes)
        found = _minimum(centred / spread, labels, own, start, start, pull)
    scale, bias = found[:-n_classes] / spread, found[-n_classes:]
    one = float(scale[0]) if kind == "temperature" else scale
    return Calibrator(kind, one, bias - bias.mean(), prior)


def cross_fit(
    logits: np.ndarray,
    labels: np.ndarray,
    kind: str,
    *,
    seed: int,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return probabilities (N, K) of validation particles, each by a fit that never saw it.

    Arguments as in `fit`; five folds, stratified by class, that keep groups (N,) whole where there
    are as many. These are what calibration may be judged on.
    """
    fold = _folds(labels, groups, seed, _check(labels, logits))
    p = np.empty(logits.shape)
    for k in np.unique(fold):
        others = fold != k if (fold != k).any() else np.ones(fold.size, bool)
        fitted = fit(
            logits[others], labels[others], kind, None if weight is None else weight[others]
        )
        p[fold == k] = fitted(logits[fold == k])
    return p


def choose(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[Calibrator, dict[str, dict[str, float]]]:
    """Choose how to calibrate by cross-validated log loss, the simplest within a standard error.

    Arguments as in `cross_fit`. Returns the calibrator fitted to all and {kind: {"log_loss",
    "behind", "se"}}: nats a particle, how far behind the best and the standard error of that
    (paired). Vector is tried where every class has FEW particles.
    """
    n = np.bincount(labels, minlength=_check(labels, logits))
    kinds = KINDS if n.min() >= FEW else KINDS[:2]
    losses = {}
    for kind in kinds:
        p = cross_fit(logits, labels, kind, seed=seed, weight=weight, groups=groups)
        losses[kind] = -np.log(np.maximum(p[np.arange(labels.size), labels], 1e-300))
    mean = {kind: float(np.average(loss, weights=weight)) for kind, loss in losses.items()}
    best = losses[min(mean, key=mean.__getitem__)]
    table = {
        kind: {"log_loss": mean[kind]} | _behind(losses[kind] - best, weight) for kind in kinds
    }
    kind = next(kind for kind in kinds if table[kind]["behind"] <= table[kind]["se"])
    return fit(logits, labels, kind, weight), table


def _behind(difference: np.ndarray, weight: np.ndarray | None) -> dict[str, float]:
    weight = np.ones(difference.size) if weight is None else weight
    mean = float(np.average(difference, weights=weight))
    se = float(np.sqrt((weight**2 * (difference - mean) ** 2).sum()) / weight.sum())
    return {"behind": mean, "se": se}


def _check(labels: np.ndarray, scores: np.ndarray) -> int:
    n_classes = scores.shape[-1]
    metrics.check(labels, scores, [str(k) for k in range(n_classes)])
    if not labels.size:
        raise SvpkitError("calibration: no labelled particle is given, at least one is needed")
    return n_classes


def _centred(logits: np.ndarray) -> np.ndarray:
    # A constant added to a particle's logits means nothing: here it does not to vector either.
    logits = np.asarray(logits, dtype=np.float64)
    return logits - logits.mean(1, keepdims=True)


def _minimum(
    z: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    start: np.ndarray,
    centre: np.ndarray,
    pull: np.ndarray,
) -> np.ndarray:
    """Return the scales (1 or K) and biases (K), joined, that minimise log loss and pulls."""
    n_classes = z.shape[1]
    own = np.arange(labels.size), labels

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(x[:-n_classes] * z + x[-n_classes:], axis=1)
        slope = np.exp(log_p)
        slope[own] -= 1
        slope *= weight[:, None]
        scales = (slope * z).sum(0)
        scales = scales.sum(keepdims=True) if x.size == n_classes + 1 else scales
        away = pull * (x - centre)
        value = -weight @ log_p[own] + away @ (x - centre) / 2
        slopes = np.concatenate([scales, slope.sum(0)]) + away
        return value / labels.size, slopes / labels.size

    bounds = [(LEAST_SCALE, None)] * (start.size - n_classes) + [(None, None)] * n_classes
    tight = {"ftol": 1e-13, "gtol": 1e-8, "maxiter": 1000}
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=tight).x


def _folds(labels: np.ndarray, groups: np.ndarray | None, seed: int, n_classes: int) -> np.ndarray:
    """Return the fold of each particle (N,): units dealt in turn, those of a class together."""
    unit = np.arange(labels.size)
    if groups is not None and np.unique(groups).size >= FOLDS:
        unit = np.unique(groups, return_inverse=True)[1].reshape(-1)
    rarity = np.argsort(np.argsort(np.bincount(labels, minlength=n_classes), kind="stable"))
    stratum = np.full(unit.max() + 1, n_classes)
    np.minimum.at(stratum, unit, rarity[labels])  # a group counts as its rarest class
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 0xCA11])))
    order = rng.permutation(stratum.size)
    order = order[np.argsort(stratum[order], kind="stable")]
    dealt = np.empty(order.size, dtype=np.int64)
    dealt[order] = np.arange(order.size) % FOLDS
    return dealt[unit]
