"""Calibration: planted truths, other libraries, by hand, and what its intervals hold."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, minimize
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from svpkit.errors import SvpkitError
from svpkit.evaluate import calibration
from svpkit.evaluate import reliability as made
from svpkit.evaluate.calibration import FEW, KINDS, Calibrator, choose, cross_fit, fit
from svpkit.evaluate.reliability import measures, reliability


def drawn(n, scale=1.0, bias=(0.0, 0.0, 0.0), seed=0, prior=(0.6, 0.25, 0.15)):
    """Logits, labels drawn from softmax(scale logits + bias), and these probabilities."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, 3))
    logits[np.arange(n), rng.choice(3, size=n, p=prior)] += 2
    p = softmax(np.asarray(scale) * logits + np.asarray(bias), axis=1)
    return logits, (p.cumsum(1)[:, :-1] < rng.random((n, 1))).sum(1), p


def nll(p, labels):
    return log_loss(labels, p, labels=range(p.shape[1]))


# Fitting


def test_a_planted_temperature_and_biases_come_back():
    logits, labels, p = drawn(20_000, 0.5, (1.0, 0.0, -1.0))
    found = fit(logits, labels, "temperature")
    assert found.scale == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(found.bias, [1, 0, -1], atol=0.06)
    np.testing.assert_allclose(found.prior, np.bincount(labels) / labels.size)
    np.testing.assert_allclose(found(logits), p, atol=0.02)


def test_a_planted_vector_comes_back():
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(40_000, 3))
    logits -= logits.mean(1, keepdims=True)  # scales belong to centred logits
    p = softmax([0.5, 1.0, 1.5] * logits + [0.5, 0.0, -0.5], axis=1)
    labels = (p.cumsum(1)[:, :-1] < rng.random((len(p), 1))).sum(1)
    found = fit(logits, labels, "vector")
    np.testing.assert_allclose(found.scale, [0.5, 1.0, 1.5], atol=0.06)
    np.testing.assert_allclose(found.bias, [0.5, 0, -0.5], atol=0.08)


def test_bias_moves_the_mix_trained_under_to_that_of_validation():
    # A network trained on even classes that is right there: p(k | x) is prop. to p(x | k).
    rng = np.random.default_rng(2)
    prior = np.array([0.9, 0.07, 0.03])
    labels = rng.choice(3, size=150_000, p=prior)
    means = 2.0 * np.eye(3)
    x = means[labels] + rng.normal(size=(labels.size, 3))
    logits = x @ means.T - (means**2).sum(1) / 2
    found = fit(logits, labels, "temperature")
    shift = np.log(prior) - np.log(prior).mean()
    assert found.scale == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(found.bias, shift, atol=0.06)
    np.testing.assert_allclose(found(logits).mean(0), prior, atol=0.004)


def test_two_classes_are_platt_scaling():
    logits, labels, _ = drawn(4000, 0.6, (0.4, 0, 0))
    logits, labels = logits[labels < 2, :2], labels[labels < 2]
    margin = logits[:, 1] - logits[:, 0]
    platt = LogisticRegression(C=np.inf).fit(margin[:, None], labels)
    expected = platt.predict_proba(margin[:, None])
    np.testing.assert_allclose(fit(logits, labels, "temperature")(logits), expected, atol=2e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_the_gradient_is_that_of_the_loss(size, monkeypatch):
    logits, labels, _ = drawn(60, 0.7)
    seen = {}

    def caught(loss, start, **options):
        seen["loss"] = loss
        return minimize(loss, start, **options)

    monkeypatch.setattr(calibration, "minimize", caught)
    start = np.r_[np.ones(size), np.zeros(3)]
    weight = np.random.default_rng(0).random(60)
    calibration._minimum(logits, labels, weight, start, start / 2, start + 0.1)
    at = start + 0.3 * np.arange(start.size)
    by_steps = approx_fprime(at, lambda x: seen["loss"](x)[0], 1e-6)
    np.testing.assert_allclose(seen["loss"](at)[1], by_steps, atol=1e-5)


def test_fitting_never_makes_the_loss_it_is_fitted_to_worse():
    logits, labels, _ = drawn(1000, [0.4, 1.0, 1.6], (0.5, 0, -0.5), seed=3)
    losses = [nll(fit(logits, labels, kind)(logits), labels) for kind in KINDS]
    assert all(after < before for before, after in pairwise(losses))


def test_a_constant_and_a_unit_of_the_logits_change_nothing():
    logits, labels, _ = drawn(500, 0.5, (1, 0, -1))
    moved = 7 * logits + np.random.default_rng(0).normal(size=(500, 1))
    for kind in ("temperature", "vector"):
        p, q = fit(logits, labels, kind)(logits), fit(moved, labels, kind)(moved)
        np.testing.assert_allclose(p, q, atol=1e-4)


def test_weights_stand_for_copies():
    logits, labels, _ = drawn(300, 0.6)
    times = np.random.default_rng(0).integers(0, 4, 300)
    again = np.repeat(np.arange(300), times)
    for kind in KINDS:
        weighted = fit(logits, labels, kind, times.astype(float))
        copied = fit(logits[again], labels[again], kind)
        np.testing.assert_allclose(weighted.prior, copied.prior)
        # the pulls weigh a little more or less against another number of particles
        np.testing.assert_allclose(weighted(logits), copied(logits), atol=0.02)


def test_temperature_without_bias_never_changes_the_class_named():
    logits, _, _ = drawn(500)
    for scale in (0.01, 0.3, 4.0):
        p = Calibrator("temperature", scale, np.zeros(3), np.full(3, 1 / 3))(logits)
        np.testing.assert_array_equal(p.argmax(1), logits.argmax(1))
        np.testing.assert_allclose(p.sum(1), 1)


def test_by_hand():
    p = Calibrator("temperature", 0.5, np.log([1.0, 3.0]), np.array([0.25, 0.75]))(
        np.array([[2 * np.log(6.0), 0.0]])
    )
    np.testing.assert_allclose(p, [[6 / 9, 3 / 9]])
    assert p.dtype == np.float64


def test_separable_absent_and_scarce_classes_stay_finite():
    labels = np.repeat([0, 1, 2], [500, 40, 3])
    logits = 8.0 * np.eye(4)[labels]  # a fourth class that validation lacks
    for kind in ("temperature", "vector"):
        found = fit(logits, labels, kind)
        assert np.isfinite(found.bias).all() and np.all(np.asarray(found.scale) > 0)
        assert np.max(found.scale) < 20 and np.abs(found.bias).max() < 12
        p = found(logits)
        np.testing.assert_array_equal(p.argmax(1), labels)
        assert found.prior[3] == 0 and p[:, 3].sum() < 1


def test_logits_that_say_nothing_give_the_mix():
    labels = np.repeat([0, 1], [90, 10])
    for logits in (np.zeros((100, 2)), -5 * np.eye(2)[labels]):
        p = fit(logits, labels, "temperature")(logits)
        np.testing.assert_allclose(p.mean(0), [0.9, 0.1], atol=0.02)


def test_json_round_trip_to_the_bit():
    logits, labels, _ = drawn(400, 0.5)
    for kind in KINDS:
        found = fit(logits, labels, kind)
        values = json.loads(json.dumps(found.to_json(), allow_nan=False))
        again = Calibrator.from_json(values)
        assert again.to_json() == found.to_json()
        np.testing.assert_array_equal(again(logits), found(logits))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "temprature"}, "did you mean 'temperature'"),
        ({"bias": None}, "one finite number a class"),
        ({"bias": "x"}, "not numbers"),
        ({"scale": [1.0, 2.0]}, "one finite number a class"),
        ({"prior": [float("nan")] * 3}, "one finite number a class"),
    ],
)
def test_a_calibrator_that_is_not_whole_is_refused(change, message):
    logits, labels, _ = drawn(50)
    with pytest.raises(SvpkitError, match=message):
        Calibrator.from_json(fit(logits, labels, "temperature").to_json() | change)


def test_a_missing_part_unknown_kinds_and_bad_logits_are_refused():
    logits, labels, _ = drawn(50)
    with pytest.raises(SvpkitError, match="'bias' is missing"):
        Calibrator.from_json({"kind": "none", "scale": 1.0, "prior": [1.0]})
    with pytest.raises(SvpkitError, match="unknown 'vektor'"):
        fit(logits, labels, "vektor")
    with pytest.raises(SvpkitError, match="NaN or infinity"):
        fit(np.full((50, 3), np.nan), labels, "temperature")
    with pytest.raises(SvpkitError, match="no labelled particle"):
        fit(logits[:0], labels[:0], "temperature")


# Choosing


@pytest.mark.parametrize(
    ("scale", "bias", "expected"),
    [
        (1.0, (0, 0, 0), "none"),
        (0.4, (1, 0, -1), "temperature"),
        ((0.2, 1.0, 1.8), (0, 0, 0), "vector"),
    ],
)
def test_the_simplest_that_is_good_enough_is_chosen(scale, bias, expected):
    # labels drawn from exact logits: what is simplest and true is within one standard error
    logits, labels, _ = drawn(3000, scale, bias, seed=5)
    found, table = choose(logits, labels, seed=0)
    assert found.kind == expected
    assert list(table) == list(KINDS)
    assert table[expected]["behind"] <= table[expected]["se"]
    assert found.to_json() == choose(logits, labels, seed=0)[0].to_json()


def test_vector_is_not_tried_where_a_class_is_scarce():
    logits, labels, _ = drawn(2000, (0.2, 1.0, 1.8), seed=5)
    keep = (labels != 2) | (np.cumsum(labels == 2) < FEW)
    assert "vector" not in choose(logits[keep], labels[keep], seed=0)[1]


def test_cross_fit_is_by_folds_that_keep_groups_whole():
    logits, labels, _ = drawn(600, 0.5)
    groups = np.random.default_rng(0).integers(0, 40, 600)
    fold = calibration._folds(labels, groups, 0, 3)
    assert len({*zip(groups.tolist(), fold.tolist(), strict=True)}) == 40
    assert np.unique(fold).size == 5
    p = cross_fit(logits, labels, "temperature", seed=0, groups=groups)
    others = fit(logits[fold != 2], labels[fold != 2], "temperature")
    np.testing.assert_array_equal(p[fold == 2], others(logits[fold == 2]))
    alone = calibration._folds(labels, np.zeros(600), 0, 3)  # one group: by particle
    for k in range(3):
        assert np.ptp(np.bincount(alone[labels == k], minlength=5)) <= 1


# Measures


def test_errors_against_torchmetrics_and_brier_against_scikit_learn():
    logits, labels, _ = drawn(2000)
    p = softmax(1.7 * logits, axis=1)
    found = measures(labels, p, seed=0, replicates=50)
    theirs = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(labels), num_classes=3, n_bins=15
    )
    assert found["ece"]["value"] == pytest.approx(float(theirs), abs=1e-6)
    brier = brier_score_loss(np.eye(3)[labels], p, scale_by_half=False)
    assert found["brier"]["value"] == pytest.approx(brier)


def test_errors_by_hand():
    # Two bins that hold something: 10 at .9 of which 7 right, 10 at .6 of which 6 right.
    p = np.repeat([[0.9, 0.1], [0.6, 0.4]], 10, axis=0)
    labels = np.r_[np.zeros(7), np.ones(3), np.zeros(6), np.ones(4)].astype(int)
    found = measures(labels, p, seed=0, replicates=50)
    for name in ("ece", "ece_mass", "ece_class"):
        assert found[name]["value"] == pytest.approx((10 * 0.2 + 0) / 20)
    assert found["brier"]["value"] == pytest.approx(
        2 * (7 * 0.01 + 3 * 0.81 + 6 * 0.16 + 4 * 0.36) / 20
    )
    assert found["brier"]["if_calibrated"] == pytest.approx((2 * 0.09 + 2 * 0.24) / 2)
    points = reliability(labels, p)
    assert [(point["p"], point["share"], point["n"]) for point in points] == [
        (pytest.approx(0.6), 0.6, 10),
        (pytest.approx(0.9), 0.7, 10),
    ]
    assert all(point["low"] < point["share"] < point["high"] for point in points)


def test_labels_drawn_from_p_give_the_sums_that_they_should():
    _, labels, p = drawn(400)
    cells = made._cells(p)
    by_chance = made._by_chance(p, cells, np.random.default_rng(0))
    # the same draws by the road that labels take
    rng = np.random.default_rng(0)
    for sums in by_chance[:5]:
        label = (p.cumsum(1)[:, :-1] < rng.random(400)[:, None]).sum(1)
        plain = made._sums(label, p, cells, np.zeros(400, int))[0]
        np.testing.assert_allclose(np.delete(sums, -2), np.delete(plain, -2), atol=1e-12)


def test_a_reliability_curve_of_one_class_in_bins_of_equal_mass():
    logits, labels, p = drawn(3000)
    points = reliability(labels, p, k=2)
    assert [point["n"] for point in points] == [200] * 15
    top = np.argsort(p[:, 2])[-200:]
    assert points[-1]["share"] == pytest.approx((labels[top] == 2).mean())
    assert np.all(np.diff([point["p"] for point in points]) > 0)
    assert np.mean([low["low"] <= low["p"] <= low["high"] for low in points]) > 0.7


@pytest.mark.parametrize("sharper", [1.0, 2.0])
def test_intervals_hold_the_truth_about_as_often_as_they_say(sharper):
    big, _, truth = drawn(200_000, seed=9)
    q = softmax(sharper * big, axis=1)
    cell = np.minimum((q.max(1) * 15).astype(int), 14)
    gap = q.max(1) - truth[np.arange(len(q)), q.argmax(1)]
    ece = np.abs(np.bincount(cell, gap)).sum() / len(q)
    brier = (q**2 - 2 * q * truth + truth).sum(1).mean()
    held = np.zeros(2)
    for seed in range(60):
        logits, labels, _ = drawn(600, seed=100 + seed)
        found = measures(labels, softmax(sharper * logits, axis=1), seed=seed, replicates=200)
        for at, (name, true) in enumerate((("ece", ece), ("brier", brier))):
            held[at] += found[name]["low"] - 1e-12 <= true <= found[name]["high"]
    assert (held >= 51).all()  # 57 of 60 nominal; fewer than 51 of 60 at 0.93: p < 0.01


def test_perfect_probabilities_are_told_from_bad_ones():
    logits, labels, p = drawn(2000, seed=4)
    good = measures(labels, p, seed=0, replicates=200)["ece"]
    assert good["low"] == 0 and good["value"] < 2 * good["if_calibrated"]
    bad = measures(labels, softmax(3 * logits, axis=1), seed=0, replicates=200)["ece"]
    assert bad["low"] > 3 * bad["if_calibrated"]
    assert bad["low"] < bad["value"] < bad["high"]


def test_groups_and_blocks_resample_as_they_should():
    logits, labels, _ = drawn(1000)
    p = softmax(2 * logits, axis=1)
    ten = [np.tile(part, (10, 1)[: part.ndim]) for part in (p, labels)]
    of = np.tile(np.arange(1000), 10)

    def width(*given, **options):
        found = measures(*given, seed=0, replicates=400, **options)["brier"]
        return found["high"] - found["low"]

    plain = width(labels, p)
    # ten copies of each particle, resampled together, know no more than one; taken for ten
    # they look sqrt(10) surer, in blocks (10,000 particles are more than UNITS) as well
    assert width(ten[1], ten[0], groups=of) == pytest.approx(plain, rel=0.15)
    assert width(ten[1], ten[0]) == pytest.approx(plain / np.sqrt(10), rel=0.15)
    assert width(labels, p, groups=np.zeros(1000)) == plain
    assert measures(labels, p, seed=1, replicates=20) == measures(labels, p, seed=1, replicates=20)
