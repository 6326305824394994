import numpy as np
import pytest
from sklearn import metrics as sk

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics

CLASSES = ("protein", "oil", "air")


def particles(n=(300, 40, 30), seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n)
    logits = rng.standard_normal((labels.size, 3))
    logits[np.arange(labels.size), labels] += 1.5
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = rng.permutation(labels.size)
    scores = scores if decimals is None else np.round(scores, decimals)
    return labels[order], scores[order]


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_average_precision_is_scikit_learns(decimals, weighted):
    labels, scores = particles(decimals=decimals)
    weight = np.random.default_rng(1).exponential(size=labels.size) if weighted else None
    for k in range(3):
        expected = sk.average_precision_score(labels == k, scores[:, k], sample_weight=weight)
        found = metrics.average_precision(labels == k, scores[:, k], weight)
        assert found == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand():
    positive = np.array([True, False, True, False])
    assert metrics.average_precision(positive, np.array([4.0, 3, 2, 1])) == pytest.approx(5 / 6)
    assert metrics.average_precision(positive, np.zeros(4)) == pytest.approx(0.5)
    assert np.isnan(metrics.average_precision(np.zeros(4, bool), np.zeros(4)))


@pytest.mark.parametrize("weighted", [False, True])
def test_summary_is_scikit_learns(weighted):
    labels, scores = particles()
    weight = np.random.default_rng(1).exponential(size=labels.size) if weighted else None
    found = metrics.summary(labels, scores, CLASSES, weight)
    predicted = scores.argmax(1)
    each = sk.precision_recall_fscore_support(labels, predicted, sample_weight=weight)
    for key, expected in zip(("precision", "recall", "f1"), each[:3], strict=True):
        assert [found["per_class"][c][key] for c in CLASSES] == pytest.approx(expected, abs=1e-12)
        assert found[f"macro_{key}"] == pytest.approx(expected.mean(), abs=1e-12)
    accuracy = sk.accuracy_score(labels, predicted, sample_weight=weight)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    auprc = sk.average_precision_score(np.eye(3)[labels], scores, sample_weight=weight)
    assert found["macro_auprc"] == pytest.approx(auprc, abs=1e-12)
    assert found["per_class"]["oil"]["n"] == 40
    table = metrics.confusion(labels, predicted, 3, weight)
    expected = sk.confusion_matrix(labels, predicted, sample_weight=weight)
    assert table == pytest.approx(expected)


def test_reweighting_to_a_prevalence_equals_replicating_particles():
    labels, scores = particles((60, 20, 30))
    times = np.array([7, 3, 2])
    prevalence = dict(zip(CLASSES, (times * [60, 20, 30]).tolist(), strict=True))
    weight = metrics.prevalence_weights(labels, CLASSES, prevalence)
    assert weight.mean() == pytest.approx(1)
    repeated = np.repeat(np.arange(labels.size), times[labels])
    found = metrics.summary(labels, scores, CLASSES, weight)
    expected = metrics.summary(labels[repeated], scores[repeated], CLASSES)
    for key in metrics.MACRO:
        assert found[key] == pytest.approx(expected[key], abs=1e-12)
    for name in CLASSES:
        for key in metrics.PER_CLASS:
            value = expected["per_class"][name][key]
            assert found["per_class"][name][key] == pytest.approx(value, abs=1e-12)


def test_macro_precision_alone_misleads():
    # Finds one oil and one air bubble only, never wrongly: perfect rare precision, recall near 0.
    labels = np.repeat(np.arange(3), (1000, 100, 100))
    predicted = np.where(np.arange(1200) == 1000, 1, np.where(np.arange(1200) == 1199, 2, 0))
    each = metrics.per_class(metrics.confusion(labels, predicted, 3))
    assert each["precision"].mean() > 0.9 and each["recall"][1:].max() == 0.01


def test_a_class_never_predicted_has_precision_zero_and_a_count_that_says_so():
    table = np.array([[90, 0, 10], [5, 0, 0], [1, 0, 9]])
    each = metrics.per_class(table)
    assert each["precision"][1] == 0 and each["recall"][1] == 0 and each["f1"][1] == 0
    assert each["predicted"].tolist() == [96, 0, 19]
    assert each["false_positives"].tolist() == [6, 0, 10]


def test_an_absent_class_is_an_error_not_zero():
    labels, scores = particles((50, 10, 0))
    with pytest.raises(SvpkitError, match="no particle of class air among the 60 labelled"):
        metrics.summary(labels, scores, CLASSES)
    each = metrics.per_class(metrics.confusion(labels, scores.argmax(1), 3))
    assert np.isnan([each[key][2] for key in ("precision", "recall", "f1")]).all()


@pytest.mark.parametrize(
    ("prevalence", "message"),
    [
        ({"protein": 1000, "oil": 1}, "evaluate.prevalence.air: nothing given"),
        ({"protein": 1000, "oil": 1, "air": 0}, "evaluate.prevalence.air: 0 given"),
        ({"protien": 1, "oil": 1, "air": 1}, "did you mean 'protein'"),
    ],
)
def test_prevalence_errors(prevalence, message):
    with pytest.raises(SvpkitError, match=message):
        metrics.prevalence_weights(np.array([0, 1, 2]), CLASSES, prevalence)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], np.zeros((2, 2)), "scores of shape"),
        ([0, 3], np.zeros((2, 3)), "labels run from 0 to 3"),
        ([0, 1], np.full((2, 3), np.nan), "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused(labels, scores, message):
    with pytest.raises(SvpkitError, match=message):
        metrics.check(np.array(labels), scores, CLASSES)


def test_size_bins():
    ecd_um = np.array([0.5, 4.999, 5.0, 9.999, 10.0, 80.0, np.nan])
    assert metrics.size_bins(ecd_um).tolist() == [0, 0, 1, 1, 2, 2, -1]
    assert len(metrics.SIZE_BINS) == 3


def test_curve_is_thinned_from_scikit_learns():
    labels, scores = particles((3000, 1000, 500))
    precision, recall, _ = sk.precision_recall_curve(labels == 1, scores[:, 1])
    thin_recall, thin_precision = metrics.precision_recall_curve(labels == 1, scores[:, 1], None)
    assert thin_recall.size <= 200 and thin_recall[-1] == 1 and (np.diff(thin_recall) > 0).all()
    points = set(zip(recall.round(12), precision.round(12), strict=True))
    assert set(zip(thin_recall.round(12), thin_precision.round(12), strict=True)) <= points
    assert np.diff(thin_recall).max() < 0.01
