"""Statistics over cells: against scipy's tests, sums by hand, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from svpkit.evaluate.trial import (
    holm,
    letters,
    mean_ranks,
    overlap,
    pick,
    settle,
    share_of_gap,
    t_interval,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_paired_test_is_that_of_scipy():
    a, b = rng().normal(0.8, 0.1, (2, 7))
    theirs = stats.ttest_rel(a, b)
    ours = t_interval(a - b)
    assert ours["p"] == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval(0.95)
    assert (ours["low"], ours["high"]) == pytest.approx((low, high))
    assert ours["value"] == pytest.approx((a - b).mean()) and ours["n"] == 7


def test_few_and_equal_values_say_what_they_can():
    assert t_interval(np.array([np.nan, 0.5])) == {
        "value": 0.5,
        "low": None,
        "high": None,
        "p": None,
        "n": 1,
    }
    assert t_interval(np.array([np.nan]))["value"] is None
    assert t_interval(np.zeros(3))["p"] == 1 and t_interval(np.ones(3))["p"] == 0


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, 0.04 * 2, then 0.03 * 2 lifted to what stands before it
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_the_t_interval_covers_as_often_as_it_says():
    r = rng(1)
    found = [t_interval(r.normal(0.02, 0.05, 5)) for _ in range(2000)]
    covered = np.mean([f["low"] <= 0.02 <= f["high"] for f in found])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_fiellers_interval_covers_as_often_as_it_says():
    r, found = rng(2), []
    for _ in range(2000):
        noise = r.multivariate_normal((0, 0), [[4e-4, 2e-4], [2e-4, 4e-4]], 6).T
        found.append(share_of_gap(0.05 + noise[0], 0.10 + noise[1]))
    assert None not in found
    covered = np.mean([f["low"] <= 0.5 <= f["high"] for f in found])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_fiellers_limits_are_where_the_t_test_of_the_remainder_turns():
    part, gap = np.array([0.01, 0.03, 0.02, 0.04]), np.array([0.05, 0.06, 0.04, 0.07])
    found = share_of_gap(part, gap)
    for limit in (found["low"], found["high"]):
        assert stats.ttest_1samp(part - limit * gap, 0).pvalue == pytest.approx(0.05)
    assert found["value"] == pytest.approx(part.sum() / gap.sum())
    assert found["low"] < found["value"] < found["high"]


def test_a_share_is_given_exactly_where_the_gaps_own_interval_excludes_zero():
    r = rng(3)
    for _ in range(300):
        gap = r.normal(0.02, 0.02, 4)
        own = t_interval(gap)
        sure = own["low"] > 0
        assert (share_of_gap(r.normal(size=4), gap) is not None) == sure
    assert share_of_gap(np.ones(3), -np.array([1, 1.1, 0.9])) is None
    assert share_of_gap(np.ones(1), np.ones(1)) is None


def test_letters_join_the_arms_that_cannot_be_told_apart():
    noise = rng(4).normal(0, 1e-3, (4, 8))
    scores = {
        "low": 0.5 + noise[0],
        "high": 0.9 + noise[1],
        "middle": 0.9 + noise[2],
        "alone": 0.7 + noise[3],
    }
    assert letters(scores) == {"high": "a", "middle": "a", "alone": "b", "low": "c"}
    assert list(letters(scores))[-1] == "low"


def test_an_arm_between_two_shares_a_letter_with_each():
    # b lies within the noise of a and of c, which are told apart
    noise = rng(5).normal(0, 1, (3, 6))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True) * 0.01
    a, b, c = noise + np.array([[0.03], [0.0165], [0.0]])
    p = [stats.ttest_rel(x, y).pvalue for x, y in ((a, b), (a, c), (b, c))]
    adjusted = [float(value) for value in holm(p)]
    assert adjusted[1] <= 0.05 < min(adjusted[0], adjusted[2]), adjusted
    assert letters({"a": a, "b": b, "c": c}) == {"a": "a", "b": "ab", "c": "b"}
    assert set(letters({"a": a[:1], "b": b[:1]}).values()) == {"a"}


def test_ranks_share_ties_and_leave_out_what_is_missing():
    first = {"a": np.array([0.9, 0.8, np.nan]), "b": np.array([0.9, 0.7, 0.5])}
    found = mean_ranks([first, {"a": np.array([0.1]), "b": np.array([0.2])}])
    assert found["a"] == {"value": pytest.approx((1.5 + 1 + 2) / 3), "low": 1, "high": 2, "n": 3}
    assert found["b"]["value"] == pytest.approx((1.5 + 2 + 1) / 3)


def test_the_best_arm_is_picked_on_val_whatever_the_test_says():
    val = {"base": np.array([0.6, 0.6]), "a": np.array([0.8, 0.8]), "o": np.array([0.9, 0.9])}
    test = {"base": np.array([0.9, 0.9]), "a": np.array([0.1, 0.1]), "o": np.array([0.95, 0.96])}
    found = settle(test, val, baseline="base", oracle="o")
    assert found["picked"] == "a"
    assert settle(test, val, baseline="base", oracle="o", beside=["a"])["picked"] == "base"
    val["a"][1] = np.nan
    assert pick(val, ["a", "base"]) == "base" and pick(val, []) is None


def test_the_best_of_the_arms_that_draw_is_picked_beside():
    val = {"base": np.array([0.9]), "a": np.array([0.7]), "b": np.array([0.8]), "o": np.array([1])}
    found = settle(val, val, baseline="base", oracle="o", drawing=["a", "b", "o"])
    assert (found["picked"], found["picked_drawn"]) == ("base", "b")
    assert settle(val, val, baseline="base")["picked_drawn"] is None


def test_folds_widen_what_they_say():
    # Nadeau and Bengio's corrected variance of k folds: (1 / k + n_test / n_train) s^2
    scores, k = rng().normal(0.02, 0.01, 5), 5
    found = t_interval(scores, overlap(k))
    error = np.sqrt((1 / k + (1 / k) / (1 - 1 / k)) * scores.var(ddof=1))
    half = stats.t.ppf(0.975, k - 1) * error
    assert (found["low"], found["high"]) == pytest.approx(
        (scores.mean() - half, scores.mean() + half)
    )
    assert overlap(3) == pytest.approx(np.sqrt(2.5)) and overlap(1) == 1
    gap = np.array([0.05, 0.06, 0.05, 0.04, 0.05])
    narrow, wide = share_of_gap(scores, gap), share_of_gap(scores, gap, overlap(k))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


@pytest.mark.parametrize(("n", "told"), [(4, False), (5, True)])
def test_letters_wait_for_five_subsets(n, told):
    test = {"a": rng(1).normal(0.9, 0.001, n), "b": rng(2).normal(0.5, 0.001, n)}
    found = settle(test, test)["arms"]
    assert bool(found["a"]["letters"]) is told
    assert (found["a"]["letters"] != found["b"]["letters"]) is told


def test_a_setting_is_settled_by_hand():
    base = np.array([0.70, 0.72, 0.68, 0.71])
    test = {
        "base": base,
        "arm": base + [0.02, 0.03, 0.02, 0.03],
        "same": base.copy(),
        "oracle": base + [0.05, 0.05, 0.04, 0.06],
    }
    found = settle(test, test, baseline="base", oracle="oracle")
    assert found["gap"]["value"] == pytest.approx(0.05)
    arm = found["arms"]["arm"]
    assert arm["minus"]["value"] == pytest.approx(0.025)
    assert arm["share"]["value"] == pytest.approx(0.5)
    p = [stats.ttest_rel(test[k], base).pvalue for k in ("arm", "oracle")] + [1.0]
    assert arm["minus"]["p_holm"] == pytest.approx(holm(p)[0])
    assert found["arms"]["same"]["minus"]["p"] == 1
    assert found["arms"]["base"]["minus"] is None and found["arms"]["oracle"]["share"] is None
    assert settle({"a": base}, {"a": base})["arms"]["a"]["minus"] is None
