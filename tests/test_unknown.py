import json

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from toynet import network, pictures, seen

from svpkit.classify import strangeness
from svpkit.classify.strangeness import SCORES
from svpkit.classify.strangers import HARMS, sources, strangers
from svpkit.classify.unknown import Detector, Seen, choose, thresholds_at
from svpkit.errors import SvpkitError

K, F = 3, 20
NAMES = ("a", "b", "c")


def cloud(counts, seed, at=range(K)):
    """Clusters on the axes of a space whose first K axes are the logits."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = rng.normal(0, 0.5, (len(labels), F))
    features[np.arange(len(labels)), np.asarray(list(at))[labels]] += 6
    features = features.astype(np.float32)
    return Seen(features, features[:, :K] + np.float32(0.1), labels)


@pytest.fixture(scope="module")
def parts():
    train, val = cloud([900, 100, 60], 0), cloud([1000, 100, 50], 1)
    return train, val, cloud([80], 2, at=[12])


def fitted(name, train):
    return strangeness.fit(name, train.features, train.logits, train.labels)


def test_energy_by_hand():
    logits = np.array([[0.0, 0.0], [np.log(3), 0.0], [1000.0, 0.0]])
    expected = [-np.log(2), -np.log(4), -1000.0]
    np.testing.assert_allclose(strangeness.energy(logits), expected)


def test_knn_is_that_of_nearest_neighbours(parts):
    train, val, _ = parts
    arrays = fitted("knn", train)
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (train.features, val.features)]
    k = int(arrays["k"][0])
    far = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit[0]).kneighbors(unit[1])[0]
    np.testing.assert_allclose(strangeness.knn(arrays, val.features), far[:, -1], atol=2e-4)


def test_knn_counts_what_stands_outside_the_directions_of_the_bank():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    near = rng.normal(size=(600, 10)) @ basis[:10]
    arrays = strangeness.fit("knn", near.astype(np.float32), near[:, :2], np.zeros(600, int))
    assert arrays["basis"].shape == (200, strangeness.DIMS)
    # at right angles to all of the bank: sqrt(2) from each
    outside = (3 * basis[50:52]).astype(np.float32)
    np.testing.assert_allclose(strangeness.knn(arrays, outside), np.sqrt(2), atol=0.02)


def test_vim_is_that_of_a_direct_calculation():
    rng = np.random.default_rng(0)
    x, w, b = (
        rng.normal(size=(500, 8)) * np.arange(1, 9),
        rng.normal(size=(8, 3)),
        rng.normal(size=3),
    )
    logits = x @ w + b
    origin = -np.linalg.pinv(w.T) @ b
    _, _, vt = np.linalg.svd(x - origin)
    residual = np.linalg.norm((x - origin) @ vt[4:].T, axis=1)
    alpha = logits.max(1).mean() / residual.mean()
    expected = alpha * residual - np.log(np.exp(logits).sum(1))
    arrays = strangeness.fit("vim", x, logits, np.zeros(500, int))
    np.testing.assert_allclose(strangeness.vim(arrays, x, logits), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", SCORES)
def test_a_planted_cluster_is_stranger(parts, name):
    train, val, odd = parts
    arrays = fitted(name, train)
    scores = [strangeness.score(name, arrays, s.features, s.logits) for s in (val, odd)]
    where = np.repeat([0, 1], [len(s) for s in scores])
    assert roc_auc_score(where, np.concatenate(scores)) > 0.99


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_of_the_particle_alone(parts, name):
    train, _, _ = parts
    many = cloud([2000, 100, 77], 3)
    arrays = fitted(name, train)

    def score(rows):
        return strangeness.score(name, arrays, many.features[rows], many.logits[rows])

    whole = score(slice(None))
    pieces = [score(slice(start, start + 301)) for start in range(0, len(whole), 301)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    order = np.random.default_rng(0).permutation(len(whole))
    np.testing.assert_array_equal(score(order), whole[order])
    np.testing.assert_array_equal(score(slice(5, 6)), whole[5:6])
    assert score(slice(0, 0)).shape == (0,)


def test_the_bank_is_even_over_classes():
    labels = np.repeat([0, 1, 2], [10_000, 300, 20])
    rows = strangeness.spread(labels, 1000)
    assert np.bincount(labels[rows]).tolist() == [680, 300, 20]
    assert len(np.unique(rows)) == 1000
    assert strangeness.spread(labels, 20_000).tolist() == list(range(len(labels)))


@pytest.mark.parametrize("level", [0.0, 0.01, 0.02, 0.03, 0.05])
def test_no_class_loses_more_than_allowed(level):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [2000, 100, 12])
    named = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, 3, len(labels)), labels)
    # what is misnamed is stranger, and class 1 strange as a whole
    scores = rng.normal(size=len(labels)) + 2 * (named != labels) + 3 * (labels == 1)
    limit = thresholds_at(level, scores, labels, named, 3)
    lost = np.bincount(labels[(scores > limit[named]) & (named == labels)], minlength=3)
    assert (lost <= level * np.array([2000, 100, 0])).all()
    assert lost[0] >= 0.85 * level * 2000


def test_new_particles_are_lost_no_more_often_than_allowed():
    rng, lost = np.random.default_rng(0), []
    for _ in range(300):
        scores = rng.normal(size=150)
        limit = thresholds_at(0.03, scores[:100], np.zeros(100, int), np.zeros(100, int), 1)
        lost.append((scores[100:] > limit[0]).mean())
    assert np.mean(lost) == pytest.approx(3 / 101, abs=0.004)


def test_a_class_without_validation_particles_is_held_to_the_highest_threshold():
    scores = np.arange(100.0)
    labels = np.repeat([0, 1], 50)
    assert thresholds_at(0.0, scores, labels, labels, 3).tolist() == [49, 99, 99]
    few = np.zeros(5, int)
    assert thresholds_at(0.05, np.arange(5.0), few, few, 2).tolist() == [4, 4]


def test_what_is_chosen_catches_strangers_and_spares_classes(parts):
    train, val, odd = parts
    found = choose(train, val, odd, NAMES)
    assert found.flags(odd.features, odd.logits).mean() > 0.95
    flags = found.flags(val.features, val.logits)
    assert (np.bincount(val.labels[flags], minlength=K) <= 0.03 * np.bincount(val.labels)).all()
    new = cloud([1000, 1000, 1000], 9)
    lost = np.bincount(new.labels[found.flags(new.features, new.logits)], minlength=K) / 1000
    assert lost.mean() < 0.05
    assert lost.max() < 0.15
    # by hand: 5 % of strangers beside 1150 particles, a third of them in each class's count
    into = 0.05 / 0.95 * 1150 / 3 / np.array([1000, 100, 50])
    assert found.found["none"]["distortion"] == pytest.approx(into.mean())
    best = found.found["tried"][found.name]["distortion"]
    assert best == min(each["distortion"] for each in found.found["tried"].values())


def test_a_class_loses_only_what_its_own_count_gains():
    # energy of hand-made logits: 3 % of each class overlap with strangers, named all three alike
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [10_000, 300, 100])
    odd_names = np.repeat([0, 1, 2], 200)

    def seen(names, top, own=None):
        logits = np.full((len(names), K), -20.0)
        logits[np.arange(len(names)), names] = top
        return Seen(None, logits, own)

    top = rng.uniform(0, 1, len(labels))
    val = seen(labels, top, labels)
    found = choose(val, val, seen(odd_names, rng.uniform(-0.5, 0.03, 600)), NAMES)
    level = found.found["tried"]["energy"]["level"]
    # 182 strangers named so are few beside 10,000, and more than there are of the others
    assert level["a"] < 0.01
    assert level["b"] >= 0.02 and level["c"] >= 0.02
    odd = seen(odd_names[:200], rng.uniform(0.031, 0.5, 200))
    assert found.flags(None, odd.logits).mean() < 0.02
    alone = thresholds_at(np.array([level[c] for c in NAMES]), -top, labels, labels, K)
    np.testing.assert_allclose(found.thresholds, alone, atol=1e-6)


def test_nothing_is_flagged_where_strangers_look_like_a_class(parts):
    train, val, _ = parts
    found = choose(train, val, val, NAMES)
    assert np.isinf(found.thresholds).all()
    assert not found.flags(val.features, val.logits).any()


def test_a_classifier_without_features_has_energy_alone(parts):
    train, val, odd = (Seen(None, s.logits, s.labels) for s in parts)
    found = choose(train, val, odd, NAMES)
    assert list(found.found["tried"]) == ["energy"]
    assert found.flags(None, odd.logits).mean() > 0.8


def test_a_class_with_few_in_val_is_named_and_loses_none(parts):
    train, _, odd = parts
    val = cloud([500, 100, 8], 4)
    found = choose(train, val, odd, NAMES)
    assert found.found["few"] == ["c"]
    assert not found.flags(val.features, val.logits)[val.labels == 2].any()


def test_what_is_rejected_is_held_to_the_highest_threshold():
    found = Detector(("a", "b"), "energy", np.array([0.0, 2.0]))
    logits = np.array([[-1.0, -50.0]] * 3)
    assert found.flags(None, logits).tolist() == [True] * 3
    assert found.flags(None, logits, np.array([0, 1, 2])).tolist() == [True, False, False]


def test_what_is_not_a_number_is_flagged(parts):
    found = choose(*parts, NAMES)
    features = np.full((2, F), np.nan, np.float32)
    assert found.flags(features, np.full((2, K), np.nan, np.float32)).all()


@pytest.mark.parametrize("name", SCORES)
def test_saved_and_opened_it_says_the_same(parts, name):
    train, val, _ = parts
    found = Detector(
        NAMES, name, np.array([1.0, np.inf, 2.0]), fitted(name, train), {"share": 0.05}
    )
    arrays = load(save(found.arrays()))
    opened = Detector.from_state(json.loads(json.dumps(found.to_json(), allow_nan=False)), arrays)
    assert (opened.classes, opened.name, opened.found) == (NAMES, name, {"share": 0.05})
    for each in ("score", "flags"):
        said = [getattr(d, each)(val.features, val.logits) for d in (found, opened)]
        np.testing.assert_array_equal(*said)


def test_what_does_not_fit_is_refused(parts):
    train, val, odd = parts
    found = choose(*parts, NAMES)
    state, arrays = found.to_json(), found.arrays()
    with pytest.raises(SvpkitError, match="format 9, this version reads 1"):
        Detector.from_state({**state, "format": 9}, arrays)
    with pytest.raises(SvpkitError, match="unknown 'knm'; did you mean 'knn'"):
        Detector.from_state({**state, "score": "knm"}, arrays)
    with pytest.raises(SvpkitError, match="not the arrays of energy and 3 classes"):
        Detector.from_state({**state, "score": "energy"}, {**arrays, "bank": np.zeros(3)})
    knn = Detector(NAMES, "knn", np.zeros(3), fitted("knn", train))
    with pytest.raises(SvpkitError, match=r"unknown.knn: features \(N, 20\) wanted, none given"):
        knn.score(None, val.logits)
    with pytest.raises(SvpkitError, match=r"logits \(N, 3\) wanted"):
        knn.score(val.features, val.logits[:, :2])
    with pytest.raises(SvpkitError, match="no strange particle"):
        choose(train, val, Seen(odd.features[:0], odd.logits[:0]), NAMES)
    with pytest.raises(SvpkitError, match="need their labels"):
        choose(Seen(train.features, train.logits), val, odd, NAMES)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 15, 15)])
def test_each_harm_changes_every_picture(harm, shape):
    pixels = pictures({"disc": 6}, 0)[0]
    images = np.repeat(pixels[:, :, : shape[1], : shape[1]], shape[0], axis=1)
    made = strangers(images, np.arange(6), harm)
    assert (made.shape, made.dtype) == (images.shape, np.uint8)
    assert (np.abs(made.astype(int) - images).mean((1, 2, 3)) > 2).all()


def test_a_stranger_is_of_its_picture_and_seed_alone():
    pixels = pictures({"disc": 10, "bar": 10}, 0)[0]
    seeds = np.arange(-5, 15)
    made = strangers(pixels, seeds)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(strangers(pixels[order], seeds[order]), made[order])
    np.testing.assert_array_equal(strangers(pixels[3:4], seeds[3:4]), made[3:4])
    assert (strangers(pixels, seeds + 1) != made).any((1, 2, 3)).mean() > 0.7


def test_what_is_harmed_is_of_every_class_alike():
    labels = np.repeat([0, 3, 5], [4900, 50, 7])
    rows = sources(labels, 1000)
    assert np.bincount(labels[rows]).tolist() == [334, 0, 0, 333, 0, 333]
    each = np.bincount(rows, minlength=len(labels))
    assert each[:4900].max() == 1
    assert each[4900:4950].min() >= 3
    assert each[4950:].min() >= 20


def test_inverting_twice_is_the_picture():
    flat = np.full((1, 1, 8, 8), 100, np.uint8)
    flat[0, 0, 3:5, 3:5] = 130
    once = strangers(flat, np.zeros(1, int), "inverted")
    assert (once[0, 0, 3, 3], once[0, 0, 0, 0]) == (70, 100)
    np.testing.assert_array_equal(strangers(once, np.zeros(1, int), "inverted"), flat)


def test_a_shape_left_out_of_training_is_flagged():
    names = ("disc", "bar")
    net = network(names)
    train, val, test = (
        pictures(dict.fromkeys(names, n), s) for n, s in ((200, 0), (150, 1), (150, 2))
    )
    harmed = strangers(train[0], np.arange(len(train[0])))
    found = choose(
        *(Seen(*seen(net, pixels), labels) for pixels, labels in (train, val)),
        Seen(*seen(net, harmed)),
        names,
    )
    rings = pictures({"ring": 150}, 3)[0]
    caught = found.flags(*seen(net, rings)).mean()
    lost = found.flags(*seen(net, test[0])).mean()
    assert caught > 0.5
    assert lost < 0.08
