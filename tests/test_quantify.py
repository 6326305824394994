import warnings

import numpy as np
import pytest
from scipy import optimize, special

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics, quantify

CLASSES = np.arange(3)


@pytest.fixture(scope="module")
def quapy():
    """The oracle: its import warns of itself and of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quapy.functional
        import quapy.method.aggregative

    return quapy


def posteriors(labels, prior, dprime=2.5, seed=0):
    """Exact probabilities (N, 3) under a prior, of Gaussian vectors whose classes stand apart."""
    rng = np.random.default_rng(seed)
    apart = dprime / np.sqrt(2)
    seen = rng.standard_normal((labels.size, 3)) + apart * np.eye(3)[labels]
    return special.softmax(apart * seen + np.log(prior), axis=1)


def sample(n, share, prior, seed=0):
    labels = np.random.default_rng(seed).choice(3, n, p=share)
    p = posteriors(labels, prior, seed=seed + 1)
    return labels, p, p.argmax(1)


PRIOR = np.array([0.6, 0.25, 0.15])
SHARE = np.array([0.2, 0.5, 0.3])


def test_cc_and_pcc_are_those_of_quapy(quapy):
    _, p, named = sample(500, SHARE, PRIOR)
    theirs = quapy.functional.prevalence_from_labels(named, CLASSES)
    np.testing.assert_allclose(quantify.cc(named, 3) / 500, [*theirs, 0])
    theirs = quapy.functional.prevalence_from_probabilities(p)
    np.testing.assert_allclose(quantify.pcc(p, named) / 500, [*theirs, 0])


@pytest.mark.parametrize("seed", range(3))
def test_acc_is_that_of_quapy(quapy, seed):
    acc = quapy.method.aggregative.ACC
    labels, _, said = sample(1500, PRIOR, PRIOR, seed)
    theirs = acc.getPteCondEstim(CLASSES, labels, said)
    rates = quantify.rates(metrics.confusion(labels, said, 4)[:3])
    np.testing.assert_allclose(rates[:, :3].T, theirs)
    _, _, named = sample(800, SHARE, PRIOR, seed + 10)
    counts = quantify.cc(named, 3)
    ours = quantify.acc(counts, rates)
    for solver, tolerance in (("exact-raise", 1e-9), ("minimize", 2e-3)):
        found = acc.solve_adjustment(theirs, counts[:3] / 800, "inversion", solver)
        np.testing.assert_allclose(ours[:3] / 800, found, atol=tolerance)
    assert ours[3] == 0


def test_an_inadmissible_acc_is_cut_and_scaled_as_by_quapy(quapy):
    rates = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0]])
    counts = np.array([5.0, 95.0, 0])
    raw = np.linalg.solve(rates[:, :2].T, counts[:2] / 100)
    theirs = quapy.functional.normalize_prevalence(quapy.functional.clip(raw), method="l1")
    np.testing.assert_allclose(quantify.acc(counts, rates)[:2] / 100, theirs)
    assert quantify.unmixed(counts, rates)[0] < 0


def test_acc_is_the_least_squares_solution_on_the_simplex():
    rates = np.array([[0.9, 0.04, 0.01, 0.05], [0.1, 0.7, 0.1, 0.1], [0, 0.1, 0.8, 0.1]])
    counts = np.array([700.0, 160.0, 60.0, 80.0])
    matrix = quantify.sources(rates).T
    found = optimize.nnls(matrix, counts)[0]
    np.testing.assert_allclose(quantify.acc(counts, rates), found, atol=1e-9)
    assert found.sum() == pytest.approx(counts.sum())


@pytest.mark.parametrize("dprime", [1.5, 4.0])
def test_em_is_that_of_quapy(quapy, dprime):
    labels = np.random.default_rng(3).choice(3, 3000, p=SHARE)
    p = posteriors(labels, PRIOR, dprime, seed=4)
    theirs = quapy.method.aggregative.EMQ.EM(PRIOR, p, epsilon=1e-9)[0]
    ours = quantify.em(p, PRIOR)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert np.abs(ours - SHARE).max() < 0.06


def test_em_of_replicates_is_em_of_each_and_weights_repeat_rows():
    _, p, _ = sample(60, SHARE, PRIOR)
    weight = np.random.default_rng(0).integers(0, 4, (5, 60))
    both = quantify.em(p, PRIOR, weight)
    for row, own in zip(both, weight, strict=True):
        np.testing.assert_allclose(row, quantify.em(np.repeat(p, own, 0), PRIOR), atol=1e-5)
    np.testing.assert_array_equal(quantify.em(p, PRIOR, np.zeros(60)), 0)


def test_em_keeps_an_unseen_class_at_zero():
    _, p, _ = sample(50, SHARE, PRIOR)
    found = quantify.em(p, np.array([0.7, 0.3, 0.0]))
    assert found[2] == 0 and found.sum() == pytest.approx(1)


def test_acc_is_unbiased():
    rates = np.array([[0.96, 0.02, 0.01, 0.01], [0.05, 0.9, 0.03, 0.02], [0.02, 0.03, 0.9, 0.05]])
    truth = np.array([980.0, 15, 5, 10])
    mean = truth @ quantify.sources(rates)
    np.testing.assert_allclose(quantify.unmixed(mean, rates), truth)
    np.testing.assert_allclose(quantify.acc(mean, rates), truth)
    drawn = np.random.default_rng(0).poisson(mean, (20_000, 4))
    found = quantify.unmixed(drawn, rates)
    error = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - truth) < 4 * error).all()


def test_the_worked_example_of_oil_and_bubbles():
    # recalls 98.5, 96 and 97 % at 98/1.5/0.5 %: plain counting is off by 62 and 96 %
    rates = np.array([[0.985, 0.01, 0.005, 0], [0.037, 0.96, 0.003, 0], [0.01, 0.02, 0.97, 0]])
    truth = np.array([98.0, 1.5, 0.5, 0.0])
    plain = truth[:3] @ rates
    np.testing.assert_allclose(plain[1:3], [2.43, 0.98], atol=5e-4)
    np.testing.assert_allclose(plain[1:3] / truth[1:3] - 1, [0.62, 0.96], atol=2e-3)
    np.testing.assert_allclose(quantify.acc(plain, rates), truth, atol=1e-9)


def test_what_is_flagged_by_mistake_goes_back_and_the_rest_is_foreign():
    rates = np.array([[0.8, 0.0, 0.2], [0.1, 0.6, 0.3]])
    truth = np.array([100.0, 50.0, 12.0])
    flagged = truth @ quantify.sources(rates)
    np.testing.assert_allclose(flagged, [85, 30, 47])
    np.testing.assert_allclose(quantify.acc(flagged, rates), truth)


def test_settled_prior_returns_the_shares_of_validation():
    labels, p, _ = sample(900, PRIOR, PRIOR)
    skewed = quantify.tilted(p, np.array([0.2, 0.2, 0.6]), PRIOR)
    share = np.bincount(labels) / 900
    prior = quantify.settled_prior(skewed, share)
    np.testing.assert_allclose(quantify.em(skewed, prior), share, atol=1e-3)
    np.testing.assert_allclose(quantify.settled_prior(p, p.mean(0)), p.mean(0), atol=1e-6)


def test_names_that_tell_nothing_are_refused():
    rates = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert not quantify.tellable(rates)
    with pytest.raises(SvpkitError, match="do not tell the classes"):
        quantify.unmixed(np.array([5.0, 5.0, 0.0]), rates)
    absent = quantify.rates(np.array([[9, 1, 0], [0, 0, 0]]))
    assert not quantify.tellable(absent)
    assert quantify.tellable(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]))
