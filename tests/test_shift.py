import json
from functools import lru_cache

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy import ndimage
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from toynet import network, pictures, seen

from svpkit.classify import resemblance
from svpkit.classify.appearance import STATISTICS, statistics
from svpkit.classify.shift import FEWEST, Shift, ShiftReport, admissible
from svpkit.errors import SvpkitError

CLASSES = ("disc", "ring", "bar")


@lru_cache(maxsize=1)
def reference():
    pixels, labels = pictures({"disc": 500, "ring": 150, "bar": 150}, seed=1)
    features, logits = seen(network(steps=60), pixels)
    named = logits.argmax(1)
    return Shift.fit(features, labels, named, statistics(pixels), CLASSES, um_per_px=0.5)


def judged(pixels, um_per_px=0.5):
    features, logits = seen(network(steps=60), pixels)
    return reference().test(features, logits.argmax(1), statistics(pixels), um_per_px)


@lru_cache(maxsize=1)
def fresh():
    return pictures({"disc": 400, "ring": 400, "bar": 400}, seed=2)


def mixed(*counts):
    pixels, labels = fresh()
    rows = [np.flatnonzero(labels == k)[:n] for k, n in enumerate(counts)]
    return pixels[np.concatenate(rows)]


def test_more_of_the_same_is_no_shift():
    report = judged(mixed(250, 75, 75))
    assert (report.level, report.reasons, report.judged) == ("none", (), True)
    assert report.measures["auc"] == pytest.approx(0.5, abs=0.08)
    assert report.measures["strange"] == pytest.approx(0.05, abs=0.05)
    assert report.measures["um_per_px_ratio"] == 1
    assert admissible(report) == (True, "the input is like validation's, class by class")


@pytest.mark.parametrize(
    "counts", [(400, 0, 0), (0, 400, 0), (0, 0, 400), (400, 1, 1), (1, 1, 400), (200, 200, 200)]
)
def test_another_class_mix_is_no_shift(counts):
    report = judged(mixed(*counts))
    assert report.level == "none", report.reasons
    share = np.array(counts) / sum(counts)
    assert list(report.mix.values()) == pytest.approx(share, abs=0.05)


def brighter(pixels):
    return (pixels + 25.0).clip(0, 255).astype(np.uint8)


def blurred(pixels):
    return ndimage.gaussian_filter(pixels.astype(float), (0, 0, 1.5, 1.5)).astype(np.uint8)


def noisy(pixels):
    noise = np.random.default_rng(0).normal(0, 20, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def negative(pixels):
    return 255 - pixels


@pytest.mark.parametrize("harm", [brighter, blurred, noisy, negative])
def test_another_look_is_a_shift(harm):
    report = judged(harm(mixed(250, 75, 75)))
    assert report.level in ("moderate", "far")
    assert report.reasons
    if harm in (blurred, noisy, negative):
        assert report.level == "far"


def test_other_objects_are_far():
    texture = np.random.default_rng(0).integers(0, 255, (100, 1, 16, 16)).astype(np.uint8)
    report = judged(texture)
    assert report.level == "far"
    with pytest.raises(SvpkitError, match="^far from what the model was validated on: .*stranger"):
        admissible(report)
    allowed, reason = admissible(report, force=True)
    assert not allowed
    assert "far and used by force" in reason


def test_one_class_of_a_new_kind_is_told():
    pixels = mixed(380, 0, 20)
    pixels[380:] = negative(pixels[380:])
    report = judged(pixels)
    assert report.level != "none"


@pytest.mark.parametrize(("um", "level"), [(0.52, "none"), (0.6, "moderate"), (0.3, "far")])
def test_the_scale_counts_either_way(um, level):
    report = judged(mixed(250, 75, 75), um)
    assert report.level == level
    assert report.measures["um_per_px_ratio"] == pytest.approx(um / 0.5)
    assert ("scale is" in " ".join(report.reasons)) == (level != "none")


def test_an_unknown_scale_is_not_judged():
    for um in (None, np.nan, np.array([np.nan, np.nan])):
        assert "um_per_px_ratio" not in judged(mixed(50, 15, 15), um).measures


@pytest.mark.parametrize("n", [0, 1, FEWEST - 1])
def test_few_particles_are_not_judged(n):
    report = judged(negative(mixed(n, 0, 0)))
    assert (report.level, report.judged, report.n) == ("none", False, n)
    assert admissible(report)[0] is False
    assert "too few" in admissible(report)[1]
    assert judged(mixed(n, 0, 0), 5.0).level == "far"


def test_chance_among_few_does_not_fire():
    pixels, _ = fresh()
    rng = np.random.default_rng(0)
    levels = [judged(pixels[rng.permutation(len(pixels))[:20]]).level for _ in range(20)]
    assert levels.count("none") >= 19


def test_many_particles_do_not_fire_by_being_many():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2000)
    features = rng.normal(size=(2000, 8)) + 5 * np.eye(8)[labels]
    looks = rng.normal(100, 5, (2000, 6))
    shift = Shift.fit(features, labels, labels, looks, CLASSES)
    named = rng.integers(0, 3, 100_000)
    # a difference of 0.05 sigma in each direction: any test of significance would find it
    there = rng.normal(0.05, 1, (100_000, 8)) + 5 * np.eye(8)[named]
    report = shift.test(there, named, rng.normal(100, 5, (100_000, 6)))
    assert report.level == "none", report.reasons
    assert report.n == 100_000


def test_a_classifier_without_features_is_judged_by_looks():
    pixels, labels = pictures({"disc": 100, "ring": 100, "bar": 100}, seed=3)
    looks = statistics(pixels)
    shift = Shift.fit(None, labels, labels, looks, CLASSES)
    _, there = fresh()
    assert shift.test(None, there, statistics(fresh()[0])).level == "none"
    assert shift.test(None, there, statistics(noisy(fresh()[0]))).level == "far"


def test_features_that_are_no_numbers_are_far():
    looks = statistics(mixed(20, 10, 10))
    features = np.full((40, len(reference().held["mean"])), np.nan, np.float32)
    assert reference().test(features, np.zeros(40, int), looks).level == "far"


def test_told_apart_and_strange_is_far():
    rng = np.random.default_rng(0)
    labels, looks = np.zeros(1000, int), np.full((1000, 6), 100.0)
    shift = Shift.fit(rng.normal(size=(1000, 2)), labels, labels, looks, ("a",))
    moved, wide = rng.normal(size=(2, 600, 2)) * [[[1]], [[1.35]]]
    levels = [
        shift.test(there, labels[:600], looks[:600]).level
        for there in (moved + [0.75, 0], wide, 0.9 * wide + [1, 0])
    ]
    assert levels == ["moderate", "moderate", "far"]


def test_what_is_rejected_has_a_share_of_its_own():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    named = np.where(rng.random(600) < 0.1, 2, labels)
    found = np.repeat([0, 1, 2], [810, 90, 100])
    known, there = np.zeros((600, 1)), np.zeros((1000, 1))
    mix = resemblance.mix(labels, named, known, found, there, 2)
    assert mix == pytest.approx([0.9, 0.1], abs=0.03)


def test_classes_that_are_named_alike_are_told_by_their_features():
    labels, rng = np.repeat([0, 1], 300), np.random.default_rng(0)
    known = rng.normal(size=(600, 2)) + 2 * labels[:, None]
    there = rng.normal(size=(400, 2)) + 2 * (np.arange(400) < 100)[:, None]
    mix = resemblance.mix(labels, 0 * labels, known, np.zeros(400, int), there, 2)
    assert mix == pytest.approx([0.75, 0.25], abs=0.05)


def test_runs_that_differ_in_validation_make_wider_spreads():
    pixels, labels = pictures({"disc": 100, "ring": 100, "bar": 100}, seed=3)
    run = np.arange(300) % 3
    looks = statistics((pixels - 20.0 * run[:, None, None, None]).clip(0, 255).astype(np.uint8))
    shift = Shift.fit(None, labels, labels, looks, CLASSES, groups=run)
    medians = [np.median(looks[run == g, 0]) for g in range(3)]
    assert shift.held["spreads"][0] == pytest.approx(np.std(medians, ddof=1))
    assert Shift.fit(None, labels, labels, looks, CLASSES).held["spreads"].tolist() == [0] * 6


def test_saved_and_opened_it_says_the_same():
    shift = reference()
    told = json.loads(json.dumps(shift.to_json(), allow_nan=False))
    opened = Shift.from_state(told, load(save(shift.arrays())))
    features, logits = seen(network(steps=60), noisy(mixed(50, 50, 50)))
    looks = statistics(noisy(mixed(50, 50, 50)))
    said = [s.test(features, logits.argmax(1), looks, 0.6).to_json() for s in (shift, opened)]
    assert said[0] == said[1]
    assert json.loads(json.dumps(said[0], allow_nan=False)) == said[0]
    with pytest.raises(SvpkitError, match="format 2, this version reads 1"):
        Shift.from_state({**told, "format": 2}, shift.arrays())


def test_what_does_not_fit_is_refused():
    shift = reference()
    with pytest.raises(SvpkitError, match=r"features \(N, \d+\) and N names wanted"):
        shift.test(np.zeros((20, 2)), np.zeros(20, int), np.zeros((20, 6)))
    with pytest.raises(SvpkitError, match="5 validation particles, at least 20 are needed"):
        Shift.fit(np.zeros((5, 4)), np.zeros(5, int), np.zeros(5, int), np.zeros((5, 6)), CLASSES)


def test_a_moderate_shift_forbids_the_correction():
    report = ShiftReport("moderate", ("background is 130",), True, 100)
    allowed, reason = admissible(report)
    assert not allowed
    # not how it is counted, which is for the counts to say: 'acc' may be asked for
    assert reason == "the input's shift is moderate: background is 130"


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 20, 200).astype(float), rng.integers(5, 25, 150).astype(float)
    weight = rng.random(200)
    y = np.repeat([0, 1], [200, 150])
    expected = roc_auc_score(y, np.r_[low, high], sample_weight=np.r_[weight, np.ones(150)])
    assert resemblance.auc(high, low, weight) == pytest.approx(expected)


def test_two_sample_finds_the_distance_of_normal_clouds():
    rng = np.random.default_rng(0)
    known, there = rng.normal(size=(2000, 4)), rng.normal(size=(2000, 4)) + [1, 0, 0, 0]
    auc, low = resemblance.two_sample(known, np.ones(2000), there)
    assert auc == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.02)
    assert auc - 0.03 < low < auc


def test_lower_share_is_that_of_wilson():
    # Wilson's limit p solves (share - p) = z sqrt(p (1 - p) / n)
    for hits, n in ((3, 10), (50, 1000), (10, 10)):
        p = resemblance.lower_share(hits, n)
        assert hits / n - p == pytest.approx(resemblance.Z * np.sqrt(p * (1 - p) / n))
    assert resemblance.lower_share(0, 0) == 0


def test_whitening_makes_unit_circles():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 3)) @ np.diag([1, 10, 0]) + 7
    mean, basis = resemblance.whitening(features)
    assert basis.shape == (3, 2)
    assert np.cov(((features - mean) @ basis).T, ddof=0) == pytest.approx(np.eye(2), abs=1e-9)


def test_statistics_of_a_disc_by_hand():
    y, x = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(y, x) < 8
    image = np.where(inside, 60, 120).astype(np.uint8)[None, None]
    found = dict(zip(STATISTICS, statistics(image)[0], strict=True))
    assert found["background"] == 120
    assert found["dark"] == pytest.approx(0.5)
    assert found["bright"] == 0
    assert found["size"] == pytest.approx(np.sqrt(inside.sum()), rel=0.01)
    flat = np.full((2, 3, 8, 8), 9, np.uint8)
    assert statistics(flat)[:, 1:].tolist() == [[0] * 5] * 2
    assert statistics(flat[:0]).shape == (0, 6)


def test_noise_is_about_its_sigma_even_with_padding():
    rng = np.random.default_rng(0)
    images = np.full((50, 1, 48, 48), 120, np.uint8)
    images[:, :, 8:40, 8:40] = rng.normal(120, 5, (50, 1, 32, 32)).round()
    assert statistics(images)[:, 1].mean() == pytest.approx(5, rel=0.15)
