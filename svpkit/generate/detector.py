"""A classifier that tries to tell drawn images from real ones (C2ST)."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from svpkit import draws
from svpkit.generate.manifold import Rows
from svpkit.generate.resample import LEVEL

FOLDS = 5
# Small: a hundred images in seventy dimensions can be parted by chance.
STRENGTH = 0.1


def c2st(
    drawn: np.ndarray, real: np.ndarray, pairs: Sequence[Rows], units: Rows, seed: int
) -> dict[str, float] | None:
    """Return the AUROC of a logistic regression that tells drawn (n, F) from real (N, F) rows.

    0.5: it cannot tell them apart (Lopez-Paz and Oquab 2017). A feature may be NaN. It is the mean
    over the pairs of row numbers, as many of each set, and over five folds that part no unit (fewer
    where there are fewer units),
    int64 (n,) and (N,): no row is judged by a classifier that learned from its unit. The interval
    is `auroc_interval` of as many independent rows as the pairs have units on either side. None
    where no fold holds both.
    """
    found, sizes = [], []
    for k, (a, b) in enumerate(pairs):
        rng = draws.rng(seed, "c2st", k)
        own = units[0][a], units[1][b]
        found += _folds(drawn[a], real[b], own, int(rng.integers(2**31)))
        sizes.append([len(np.unique(each)) for each in own])
    if not found:
        return None
    value = float(np.mean(found))
    low, high = auroc_interval(value, *np.mean(sizes, axis=0))
    return {"value": value, "low": low, "high": high, "n": len(pairs[0][0])}


def auroc_interval(value: float, n: float, m: float) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC of n rows against m.

    Newcombe's score interval on the variance of Hanley and McNeil (Stat. Med. 25, 2006, p. 559,
    method 5), which holds for few rows and at 1 too.
    """
    z, half = float(norm.ppf((1 + LEVEL) / 2)), (n + m) / 2 - 1

    def beyond(true: float, sign: int) -> float:
        spread = true * (1 - true) * (1 + half * ((1 - true) / (2 - true) + true / (1 + true)))
        return sign * (true - value) - z * math.sqrt(spread / (n * m))

    # at 0 and 1 the value itself is a root, and not the one that is wanted
    low = brentq(beyond, 0.0, value - 1e-9, args=(-1,)) if value > 1e-6 else 0.0
    high = brentq(beyond, value + 1e-9, 1.0, args=(1,)) if value < 1 - 1e-6 else 1.0
    return float(low), float(high)  # type: ignore[arg-type]


def _folds(drawn: np.ndarray, real: np.ndarray, units: Rows, seed: int) -> list[float]:
    x = np.concatenate([drawn, real])
    y = np.repeat([1, 0], [len(drawn), len(real)])
    groups = np.concatenate(units)
    splits, found = min(FOLDS, *(len(np.unique(each)) for each in units)), []
    if splits < 2:
        return found
    folds = StratifiedGroupKFold(splits, shuffle=True, random_state=seed)
    for train, test in folds.split(x, y, groups):
        if len(set(y[train])) < 2 or len(set(y[test])) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = _model().fit(x[train], y[train])
        found.append(float(roc_auc_score(y[test], model.decision_function(x[test]))))
    return found


def _model() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=STRENGTH, max_iter=300),
    )
