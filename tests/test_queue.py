"""What to label next: planted particles are found, copies are not repeated, and it is bounded."""

import numpy as np
import pytest

from svpkit.errors import SvpkitError
from svpkit.evaluate.queue import to_label

CLASSES = ("protein", "silicone_oil", "air_bubble")


def sure(labels, certainty=0.99):
    p = np.full((labels.size, 3), (1 - certainty) / 2)
    p[np.arange(labels.size), labels] = certainty
    return p


def crowd(n=3000, seed=0):
    """Three well-told clusters of even size, far apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    features = rng.normal(size=(n, 8)) + 6 * np.eye(8)[labels]
    return sure(labels), features, rng


def test_a_planted_uncertain_cluster_is_found():
    p, features, _ = crowd()
    planted = np.arange(100, 160)
    p[planted] = [0.45, 0.52, 0.03]
    features[planted, 5] += 8
    chosen, reasons = to_label(p, features, 20, classes=CLASSES)
    assert np.isin(chosen, planted).all()
    assert set(reasons) == {"uncertain: silicone_oil .52 / protein .45"}


def test_uncertain_and_maybe_rare_comes_before_uncertain_among_the_common():
    labels = np.repeat([0, 1, 2], [1500, 1480, 20])
    rng = np.random.default_rng(0)
    p, features = sure(labels, 0.998), rng.normal(size=(3000, 5))
    p[:30], p[30:60] = [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]
    chosen, _ = to_label(p, features, 20, classes=CLASSES)
    assert np.isin(chosen, np.arange(30, 60)).mean() >= 0.8


def test_a_rare_class_comes_up_though_nothing_is_uncertain():
    labels = np.zeros(5000, int)
    labels[::500] = 2
    features = np.random.default_rng(0).normal(size=(5000, 6))
    chosen, reasons = to_label(sure(labels, 0.9999), features, 10, classes=CLASSES)
    assert set(chosen) == set(range(0, 5000, 500))
    assert reasons[0] == "rare: air_bubble 1.00, 0.2 % of the particles"


def test_copies_are_not_repeated():
    p, features, rng = crowd()
    p[:], p[:2000] = [0.7, 0.3, 0.0], [0.5, 0.5, 0.0]
    features[:2000] = features[0]  # one stuck particle, the worthiest of all
    nearly = rng.normal(scale=1e-3, size=(2000, 8))
    for copies in (0 * nearly, nearly):
        features[:2000] = features[0] + copies
        chosen, _ = to_label(p, features, 15, classes=CLASSES)
        assert (chosen < 2000).sum() == 1 and chosen[0] < 2000


def test_what_is_chosen_spreads_over_kinds():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 10, 4000)
    features = rng.normal(scale=0.1, size=(4000, 12)) + 5 * np.eye(12)[kinds]
    p = np.tile([0.4, 0.35, 0.25], (4000, 1))
    chosen, _ = to_label(p, features, 10, classes=CLASSES)
    assert np.unique(kinds[chosen]).size == 10


def test_unknown_particles_count_as_a_class_of_their_own():
    p, features, _ = crowd()
    unknown = np.zeros(3000, bool)
    unknown[[5, 50, 500]] = True
    chosen, reasons = to_label(p, features, 6, classes=CLASSES, unknown=unknown)
    assert set(chosen[:3]) == {5, 50, 500}
    assert reasons[0].startswith("unknown: nearest ") and reasons[0].endswith(" .99")
    assert not any(reason.startswith("unknown") for reason in reasons[3:])


def test_more_asked_for_than_there_are_none_and_nothing():
    p, features, _ = crowd(30)
    features[:10] = features[0]
    chosen, reasons = to_label(p, features, 100, classes=CLASSES)
    assert sorted(chosen) == list(range(30)) and len(reasons) == 30
    assert len(to_label(p, features, 0, classes=CLASSES)[0]) == 0
    assert len(to_label(p[:0], features[:0], 5, classes=CLASSES)[0]) == 0
    one, _ = to_label(p[:1], features[:1], 5, classes=CLASSES)
    assert list(one) == [0]
    same, _ = to_label(np.full((9, 3), 1 / 3), np.ones((9, 4)), 9, classes=CLASSES)
    assert sorted(same) == list(range(9))


def test_deterministic_and_the_seed_breaks_ties():
    p, features, _ = crowd()
    first, reasons = to_label(p, features, 25, classes=CLASSES, seed=1)
    again, same = to_label(p, features, 25, classes=CLASSES, seed=1)
    np.testing.assert_array_equal(first, again)
    assert reasons == same and np.unique(first).size == 25
    flat = np.full((3000, 3), 1 / 3)
    one, two = (to_label(flat, features, 5, classes=CLASSES, seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(one, two)


def test_wide_features_in_a_map_are_read_in_parts(tmp_path):
    p, _, rng = crowd(20_000)
    wide = np.lib.format.open_memmap(tmp_path / "f.npy", "w+", np.float32, (20_000, 64))
    wide[:] = rng.normal(size=(20_000, 64))
    p[17_000:17_010] = [0.5, 0.5, 0.0]
    chosen, _ = to_label(p.astype(np.float32), wide, 10, classes=CLASSES)
    assert set(chosen) == set(range(17_000, 17_010))


def test_what_does_not_fit_is_refused():
    p, features, _ = crowd(30)
    with pytest.raises(SvpkitError, match="does not fit 2 classes"):
        to_label(p, features, 5, classes=CLASSES[:2])
    with pytest.raises(SvpkitError, match="do not fit 30 particles"):
        to_label(p, features[:20], 5, classes=CLASSES)
    with pytest.raises(SvpkitError, match="-1 given"):
        to_label(p, features, -1, classes=CLASSES)
    features[3, 2] = np.nan
    with pytest.raises(SvpkitError, match="NaN or infinity"):
        to_label(p, features, 5, classes=CLASSES)
