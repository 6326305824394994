"""Conformal sets: coverage of each class on draws, mapie, and too few particles."""

import math

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from svpkit.errors import SvpkitError
from svpkit.evaluate.conformal import coverage, least, quantiles, sets


def drawn(rng, counts):
    labels = np.repeat(np.arange(3), counts)
    z = rng.normal(size=(labels.size, 3))
    z[np.arange(labels.size), labels] += 1.5
    return labels, softmax(2 * z, axis=1)


def test_by_hand():
    labels = np.array([0] * 9 + [1] * 4)
    p = np.zeros((13, 2))
    p[:9, 0] = np.arange(1, 10) / 10
    p[9:, 1] = 0.5
    q = quantiles(labels, p, 0.2)
    # the 8th of 9 smallest of .1 ... .9, the 4th of 4
    np.testing.assert_allclose(q, [0.8, 0.5])
    members = sets(np.array([[0.2, 0.8], [0.1, 0.4], [0.19, 0.5]]), q)
    np.testing.assert_array_equal(members, [[True, True], [False, False], [False, True]])


def test_too_few_particles_put_the_class_in_every_set():
    assert [least(alpha) for alpha in (0.1, 0.05, 0.01)] == [9, 19, 99]
    for alpha in (0.1, 0.07, 0.05, 0.01):
        n = least(alpha)
        for have, finite in ((n - 1, False), (n, True)):
            labels = np.repeat([0, 1], [have, 200])
            q = quantiles(labels, np.full((labels.size, 2), 0.5), alpha)
            assert np.isfinite(q[0]) == finite and np.isfinite(q[1])
    q = quantiles(np.zeros(50, int), np.full((50, 2), 0.5), 0.1)  # none at all of one class
    assert q[1] == np.inf and sets(np.array([[1.0, 0.0]]), q)[0, 1]


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.07])
def test_rank_is_exact_where_one_minus_alpha_is_not(alpha):
    for n in (9, 29, 99, 999):
        rank = -(-(n + 1) * round(100 * (1 - alpha)) // 100)
        p = np.arange(n, 0, -1)[:, None] / (n + 1)
        found = quantiles(np.zeros(n, int), p, alpha)[0]
        if rank <= n:
            assert found == 1 - p[rank - 1, 0]
        else:
            assert found == math.inf


def test_each_class_is_covered_whatever_the_mix():
    rng = np.random.default_rng(0)
    alpha, counts, held = 0.1, (300, 60, 25), []
    for _ in range(400):
        q = quantiles(*drawn(rng, counts), alpha)
        labels, p = drawn(rng, (20, 20, 20))  # another mix than validation's
        held.append(sets(p, q)[np.arange(60), labels].reshape(3, 20).mean(1))
    mean, se = np.mean(held, axis=0), np.std(held, axis=0) / 20
    # between 1 - alpha and 1 - alpha + 1 / (n + 1)
    assert (mean > 1 - alpha - 3 * se).all()
    assert (mean < 1 - alpha + 1 / (np.array(counts) + 1) + 3 * se).all()


class Given(ClassifierMixin, BaseEstimator):
    """Hands back the probabilities it is given as features."""

    def __init__(self):
        self.classes_ = np.arange(3)

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return np.asarray(X).argmax(1)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.filterwarnings("ignore")
def test_sets_are_those_of_mapie():
    rng = np.random.default_rng(1)
    labels, p = drawn(rng, (400, 80, 40))
    _, new = drawn(rng, (100, 100, 100))
    ours = sets(new, quantiles(labels, p, 0.1))
    for k in range(3):
        theirs = SplitConformalClassifier(Given(), confidence_level=0.9, prefit=True)
        own = labels == k
        theirs.conformalize(p[own], labels[own])
        np.testing.assert_array_equal(theirs.predict_set(new)[1][:, k, 0], ours[:, k])


def test_coverage_is_counted():
    members = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    rows = coverage(np.array([0, 0, 0, 0]), members, ("oil", "air"))
    assert [row["name"] for row in rows] == ["oil", "air", "all"]
    first = rows[0]
    assert (first["n"], first["covered"], first["size"]) == (4, 0.5, 1.0)
    assert (first["single"], first["empty"]) == (0.5, 0.25)
    assert first["low"] < 0.5 < first["high"]
    assert rows[1]["n"] == 0 and rows[1]["covered"] is None
    assert rows[2] == first | {"name": "all"}


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan")])
def test_alpha_is_checked(alpha):
    with pytest.raises(SvpkitError, match="above 0, below 1"):
        quantiles(np.zeros(3, int), np.ones((3, 2)) / 2, alpha)


def test_shapes_are_checked():
    with pytest.raises(SvpkitError, match="do not fit"):
        quantiles(np.zeros(3, int), np.ones((4, 2)) / 2, 0.1)
