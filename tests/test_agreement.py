"""Agreement of annotators: scikit-learn, the textbook, missing labels, one class only."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from svpkit.errors import SvpkitError
from svpkit.evaluate.agreement import agreement, consensus, readable, remarks

CLASSES = ("protein", "oil", "air")


def annotated(n, raters, wrong=0.25, seed=0):
    """Names given by raters that err at random, (N, R)."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, size=(n, 1), p=(0.6, 0.3, 0.1))
    errs = rng.random((n, raters)) < wrong
    return np.array(CLASSES, object)[np.where(errs, rng.integers(0, 3, (n, raters)), truth)]


def row(table, name):
    return table[table["name"] == name].iloc[0]


def test_two_annotators_are_cohens_kappa_of_scikit_learn():
    labels = annotated(200, 2)
    table = agreement(labels, CLASSES, replicates=50)
    found = row(table, "all")
    assert found["cohen"] == pytest.approx(cohen_kappa_score(*labels.T))
    assert found["percent"] == pytest.approx((labels[:, 0] == labels[:, 1]).mean())
    assert found["n"] == 200
    for name in CLASSES:
        against = cohen_kappa_score(*(labels == name).T)
        assert row(table, name)["cohen"] == pytest.approx(against)
    assert list(table["part"]) == ["overall", *["class"] * 3]


def test_three_annotators_are_the_mean_over_pairs():
    labels = annotated(150, 3)
    labels[:20, 1] = ""
    labels[10:40, 2] = None
    expected = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = [(x, y) for x, y in labels[:, [a, b]] if x and y]
        expected.append(cohen_kappa_score(*zip(*both, strict=True)))
    found = row(agreement(labels, CLASSES, replicates=20), "all")
    assert found["cohen"] == pytest.approx(np.mean(expected))
    assert found["n"] == 140  # ten have one label only


def test_the_textbook_example_of_fleiss():
    # 10 subjects, 14 raters, 5 categories: kappa 0.210 (Fleiss 1971 as worked on Wikipedia)
    votes = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    labels = np.array([np.repeat(list("12345"), n) for n in votes])
    found = row(agreement(labels, list("12345"), replicates=200), "all")
    assert found["fleiss"] == pytest.approx(0.210, abs=5e-4)
    assert found["percent"] == pytest.approx(0.378, abs=5e-4)
    assert found["fleiss_low"] < 0.210 < found["fleiss_high"] + 0.1
    # who gave which label is nothing to Fleiss
    rng = np.random.default_rng(0)
    mixed = row(agreement(rng.permuted(labels, axis=1), list("12345"), replicates=2), "all")
    assert mixed["fleiss"] == pytest.approx(found["fleiss"])


def test_a_varying_number_of_raters_by_hand():
    # P = 1, 1/3, 0; shares of a 1, 2/3, 1/2: chance .7222^2 + .2778^2; the last row has one label
    labels = pd.DataFrame([["a", "a", np.nan], ["a", "b", "a"], ["", "b", "a"], ["b", None, None]])
    found = row(agreement(labels, ("a", "b"), replicates=2), "all")
    chance = (13 / 18) ** 2 + (5 / 18) ** 2
    assert found["n"] == 3
    assert found["percent"] == pytest.approx(4 / 9)
    assert found["fleiss"] == pytest.approx((4 / 9 - chance) / (1 - chance))


def test_perfect_random_and_single_class_labels():
    truth = annotated(300, 1, 0.0)
    found = row(agreement(np.repeat(truth, 3, axis=1), CLASSES, replicates=50), "all")
    assert found["cohen"] == found["fleiss"] == found["percent"] == pytest.approx(1)
    assert found["fleiss_low"] == pytest.approx(1)
    by_chance = row(agreement(annotated(3000, 3, 1.0), CLASSES, replicates=50), "all")
    assert by_chance["fleiss"] == pytest.approx(0, abs=0.03)
    same = row(agreement(np.full((30, 2), "oil"), CLASSES, replicates=50), "all")
    assert same["percent"] == 1
    assert np.isnan(same[["cohen", "cohen_low", "fleiss", "fleiss_high"]].astype(float)).all()


def test_size_bins_take_their_particles():
    labels = annotated(400, 2)
    sizes = np.random.default_rng(1).uniform(2, 30, 400)
    sizes[:10] = np.nan
    table = agreement(labels, CLASSES, sizes, replicates=20)
    names = ["2-5 um", "5-10 um", "10-25 um", ">= 25 um"]
    assert list(table["name"][table["part"] == "size"]) == names
    assert table["n"][table["part"] == "size"].sum() == 390
    of = (sizes >= 5) & (sizes < 10)
    assert row(table, "5-10 um")["cohen"] == pytest.approx(cohen_kappa_score(*labels[of].T))
    small = agreement(labels, CLASSES, np.full(400, 1.0), replicates=5)
    assert row(small, "< 2 um")["n"] == 400
    empty = row(small, "2-5 um")
    assert empty["n"] == 0 and np.isnan(empty["fleiss"])


def test_intervals_hold_the_value_they_estimate():
    truth = row(agreement(annotated(200_000, 3, seed=99), CLASSES, replicates=2), "all")["fleiss"]
    held = 0
    for seed in range(60):
        table = agreement(annotated(150, 3, seed=seed), CLASSES, replicates=300, seed=seed)
        held += row(table, "all")["fleiss_low"] <= truth <= row(table, "all")["fleiss_high"]
    assert held >= 51


def test_consensus():
    index = [7, 8, 9, 10]
    rows = [["oil", "oil", "air"], ["oil", "air", ""], ["", None, "air"], [None, None, None]]
    found = consensus(pd.DataFrame(rows, index=index), CLASSES)
    assert list(found["label"]) == ["oil", "", "air", ""]
    np.testing.assert_allclose(found["share"], [2 / 3, 1 / 2, 1, np.nan])
    assert list(found["n"]) == [3, 2, 1, 0] and list(found.index) == index


def test_the_same_seed_gives_the_same_table():
    labels = annotated(100, 3)
    one, two = (agreement(labels, CLASSES, replicates=50, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SvpkitError, match="unknown 'oli'; did you mean 'oil'"):
        agreement(np.array([["oil", "oli"]]), CLASSES)
    with pytest.raises(SvpkitError, match="two are needed"):
        agreement(np.array([["oil"], ["air"]]), CLASSES)
    with pytest.raises(SvpkitError, match="3 sizes do not fit 1 particles"):
        agreement(np.array([["oil", "oil"]]), CLASSES, np.ones(3))


def test_what_cannot_be_told_is_said_and_the_rest_read_in_few_columns():
    one = agreement(np.array([["oil", "oil"], ["oil", ""]]), CLASSES, replicates=20)
    few, undefined = remarks(one)
    assert few.startswith("1 particle has two labels") and undefined.startswith("-: kappa")
    shown = readable(one)
    assert list(shown) == ["part", "name", "n", "cohen", "fleiss", "percent"]
    assert row(shown, "all")["cohen"] == "-"
    assert row(shown, "all")["percent"] == "1.000 (1.000 to 1.000)"
    many = agreement(annotated(100, 2), CLASSES, replicates=20)
    found = row(many, "all")
    said = "{:.3f} ({:.3f} to {:.3f})".format(*(found[f"cohen{e}"] for e in ("", "_low", "_high")))
    assert remarks(many) == [] and row(readable(many), "all")["cohen"] == said
