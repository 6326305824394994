import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, precision_score

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics
from svpkit.evaluate.blocks import cut
from svpkit.evaluate.bootstrap import bootstrap, step_auprc
from svpkit.evaluate.intervals import difference, interval, precision_at, weighted_poisson, wilson
from svpkit.evaluate.multinomial import Cells, Guide
from svpkit.evaluate.statistics import evaluate, evaluate_paired

CLASSES = ("protein", "oil", "air")
AS_MET = {"protein": 1000, "oil": 1, "air": 1}


def binormal(n, d=3.0, seed=0, arms=1, noise=0.5, decimals=None):
    """Labels and softmax scores whose logits stand d / sqrt(2) apart, arms differing by noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n)
    shared = rng.standard_normal((labels.size, 3))
    shared[np.arange(labels.size), labels] += d / np.sqrt(2)
    made = []
    for _ in range(arms):
        power = np.exp(shared + noise * rng.standard_normal(shared.shape))
        scores = power / power.sum(1, keepdims=True)
        made.append(scores if decimals is None else np.round(scores, decimals))
    return labels, made


def resampled(labels, rng):
    where = [np.flatnonzero(labels == k) for k in range(3)]
    return np.concatenate([rng.choice(w, w.size) for w in where])


@pytest.mark.parametrize("decimals", [None, 2])
@pytest.mark.parametrize("weight", [(1.0, 1.0, 1.0), (25.0, 1.0, 0.5)])
def test_without_tolerance_a_replicate_is_exact(decimals, weight):
    labels, (scores,) = binormal((400, 30, 40), decimals=decimals)
    weights, rng = np.array([weight]), np.random.default_rng(1)
    for k in range(3):
        blocks = cut(labels, k, scores[:, k], weights, 0.0)
        n = int(blocks.parent[-1]) + 1
        for _ in range(5):
            times = np.bincount(resampled(labels, rng), minlength=labels.size)
            counts = np.bincount(labels * n + blocks.block, times, 3 * n).reshape(3, n, 1)
            found = step_auprc(blocks.spread(counts), k, weights[0], blocks)[0][0]
            mass = weights[0][labels] * times
            expected = average_precision_score(labels == k, scores[:, k], sample_weight=mass)
            assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [(20_000, 300, 300), (3000, 3000, 3000)])
def test_blocks_follow_each_replicate_to_a_few_percent_of_its_spread(n):
    labels, (scores,) = binormal(n, d=3.5)
    even, rng = np.ones((1, 3)), np.random.default_rng(1)
    blocks = [cut(labels, k, scores[:, k], even, 1e-4) for k in range(3)]
    assert max(one.parent[-1] for one in blocks) < 200
    found, expected = [], []
    for _ in range(20):
        times = np.bincount(resampled(labels, rng), minlength=labels.size)
        for k, one in enumerate(blocks):
            size = int(one.parent[-1]) + 1
            counts = np.bincount(labels * size + one.block, times, 3 * size).reshape(3, size, 1)
            found.append(step_auprc(one.spread(counts), k, even[0], one)[0][0])
            expected.append(metrics.average_precision(labels == k, scores[:, k], times))
    found, expected = np.reshape(found, (20, 3)), np.reshape(expected, (20, 3))
    missed, spread = (found - expected).std(0), expected.std(0)
    assert ((missed < 0.03 * spread) | (missed < 1e-5)).all()


@pytest.mark.parametrize("decimals", [None, 2])
def test_same_distribution_as_resampling_and_sorting_again(decimals):
    labels, (scores,) = binormal((1500, 60, 60), decimals=decimals)
    made = bootstrap(labels, [scores], replicates=2000, seed=3)[0]
    rng, direct = np.random.default_rng(5), []
    for _ in range(400):
        chosen = resampled(labels, rng)
        auprc = [average_precision_score(labels[chosen] == k, scores[chosen, k]) for k in range(3)]
        each = precision_score(labels[chosen], scores[chosen].argmax(1), average=None)
        direct.append([*auprc, np.mean(auprc), np.mean(each)])
    direct = np.array(direct)
    precision = metrics.per_class(made.confusion)["precision"].mean(1)
    found = np.column_stack([made.auprc[0], made.auprc[0].mean(1), precision])
    spread = direct.std(0)
    assert (np.abs(found.mean(0) - direct.mean(0)) < 0.2 * spread).all()
    assert found.std(0) == pytest.approx(spread, rel=0.12)
    for one, other in zip(found.T, direct.T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-3
    # The joint resampling matters: classes share particles, so the mean is not of independents.
    assert np.corrcoef(found[:, :3].T) == pytest.approx(np.corrcoef(direct[:, :3].T), abs=0.2)


def test_point_values_are_scikit_learns():
    labels, (scores,) = binormal((5000, 100, 100))
    found = evaluate(labels, scores, CLASSES, prevalence=AS_MET, replicates=50)
    weight = metrics.prevalence_weights(labels, CLASSES, AS_MET)
    for k, name in enumerate(CLASSES):
        raw = average_precision_score(labels == k, scores[:, k])
        assert found["per_class"][name]["auprc"]["value"] == pytest.approx(raw, abs=1e-12)
        met = average_precision_score(labels == k, scores[:, k], sample_weight=weight)
        value = found["at_prevalence"]["per_class"][name]["auprc"]["value"]
        assert value == pytest.approx(met, abs=1e-12)
    flat = metrics.summary(labels, scores, CLASSES, weight)
    for key in metrics.MACRO:
        assert found["at_prevalence"][key]["value"] == pytest.approx(flat[key], abs=1e-12)
        assert found[key]["low"] < found[key]["value"] < found[key]["high"]
    assert found["at_prevalence"]["macro_auprc"]["value"] < found["macro_auprc"]["value"]


def test_interval_covers_the_true_average_precision():
    n, inside = (600, 150, 150), 0
    labels, (scores,) = binormal((200_000, 50_000, 50_000), seed=99)
    truth = metrics.class_auprc(labels, scores).mean()
    for seed in range(120):
        labels, arms = binormal(n, seed=seed)
        draws = bootstrap(labels, arms, replicates=300, seed=seed)[0].auprc[0].mean(1)
        low, high = np.quantile(draws, (0.025, 0.975))
        inside += low <= truth <= high
    assert 0.88 <= inside / 120 <= 0.99


def test_paired_difference_is_narrower_than_unpaired_and_knows_no_difference():
    labels, (one, other) = binormal((3000, 150, 150), arms=2, noise=0.3)
    made = evaluate_paired(labels, {"a": one, "b": other, "c": one}, CLASSES, replicates=500)
    by_pair = {(d["arm"], d["against"]): d for d in made["differences"]}
    paired = by_pair["b", "a"]["macro_auprc"]
    widths = [made["arms"][a]["macro_auprc"] for a in "ab"]
    unpaired = np.hypot(*(w["high"] - w["low"] for w in widths))
    assert paired["high"] - paired["low"] < 0.7 * unpaired
    value = widths[1]["value"] - widths[0]["value"]
    assert paired["value"] == pytest.approx(value) and 0 < paired["p"] <= 1
    same = by_pair["c", "a"]["macro_auprc"]
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    assert set(by_pair) == {("b", "a"), ("c", "a"), ("c", "b")}


def test_a_better_arm_is_told_apart():
    labels, (good,) = binormal((3000, 150, 150), d=4.5)
    bad = binormal((3000, 150, 150), d=2.0)[1][0]
    made = evaluate_paired(
        labels, {"bad": bad, "good": good}, CLASSES, prevalence=AS_MET, replicates=200
    )
    found = made["differences"][0]
    assert found["macro_auprc"]["low"] > 0 and found["macro_auprc"]["share"] == 1
    assert found["macro_auprc"]["p"] == pytest.approx(2 / 201)
    assert found["per_class"]["oil"]["auprc"]["low"] > 0
    assert found["at_prevalence"]["macro_auprc"]["low"] > 0


def grouped(n_groups=24, seed=0):
    labels, (scores,) = binormal((2400, 240, 240), d=2.5, seed=seed)
    groups = np.random.default_rng(seed).integers(n_groups, size=labels.size)
    shift = np.random.default_rng(seed + 1).normal(0, 2, (n_groups, 3))
    power = scores * np.exp(shift[groups])
    return labels, power / power.sum(1, keepdims=True), groups


def test_correlated_groups_widen_the_interval():
    labels, scores, groups = grouped()
    alone = evaluate(labels, scores, CLASSES, replicates=400)["macro_auprc"]
    found = evaluate(labels, scores, CLASSES, groups=groups, replicates=400)
    assert found["macro_auprc"]["value"] == alone["value"]
    width = found["macro_auprc"]["high"] - found["macro_auprc"]["low"]
    assert width > 1.7 * (alone["high"] - alone["low"])
    assert not any("group" in note for note in found["notes"])


def test_group_replicates_are_those_of_resampled_groups():
    labels, scores, groups = grouped(12)
    made = bootstrap(labels, [scores], groups=groups, replicates=1000)[0].auprc[0].mean(1)
    rng, direct = np.random.default_rng(8), []
    for _ in range(300):
        times = np.bincount(rng.integers(12, size=12), minlength=12)[groups]
        direct.append(metrics.class_auprc(labels, scores, times).mean())
    assert made.mean() == pytest.approx(np.mean(direct), abs=0.2 * np.std(direct))
    assert made.std() == pytest.approx(np.std(direct), rel=0.15)


def test_groups_of_one_class_are_drawn_within_it_and_lost_classes_are_told():
    labels, (scores,) = binormal((300, 60, 60))
    groups = np.arange(labels.size) // 60
    made = bootstrap(labels, [scores], groups=groups, replicates=200)[0]
    n = made.confusion.sum(2)
    assert (n[:, 0] == 300).all() and (n[:, 1] + n[:, 2] == 120).all()
    assert (np.isnan(made.auprc[0, :, 1]) == (n[:, 1] == 0)).all()
    found = evaluate(labels, scores, CLASSES, groups=groups, replicates=200)
    assert any("drew no group of some class" in note for note in found["notes"])


def test_one_group_speaks_for_its_run_only():
    labels, (scores,) = binormal((300, 40, 40))
    alone = evaluate(labels, scores, CLASSES, replicates=100)
    found = evaluate(labels, scores, CLASSES, groups=np.zeros(labels.size), replicates=100)
    assert any("within this run only" in note for note in found["notes"])
    assert found["macro_auprc"] == alone["macro_auprc"]
    few = evaluate(labels, scores, CLASSES, groups=np.arange(labels.size) % 4, replicates=100)
    assert any("4 test groups" in note for note in few["notes"])


def test_groups_must_fit():
    labels, (scores,) = binormal((30, 10, 10))
    with pytest.raises(SvpkitError, match="49 groups do not fit 50 labels"):
        evaluate(labels, scores, CLASSES, groups=np.zeros(49))


@pytest.mark.parametrize("rate", [0.9, 4.0, 31.0, 127.0])
def test_a_guide_holds_the_poisson_distribution_whole(rate):
    guide = Guide.of(rate)
    settled = np.bincount(guide.table, minlength=256)
    chance = settled[:255] / settled.sum() + np.diff(guide.rest, prepend=0)
    assert chance == pytest.approx(stats.poisson.pmf(np.arange(255), rate), abs=1e-12)
    # what the bits leave open is drawn as often as it is told to be
    assert guide.rest[-1] == pytest.approx(settled[255] / settled.sum(), abs=1e-12)
    drawn = guide.draw(np.random.Generator(np.random.Philox(1)), (40, 10_000))
    assert drawn.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate / drawn.size))


@pytest.mark.parametrize("scale", [1, 40])
def test_cells_are_drawn_as_one_multinomial(scale):
    size = np.r_[np.ones(40, int), np.full(30, 3), 20, 150 * scale, 400 * scale]
    n, counts = size.sum(), np.empty((size.size, 20_000), np.int32)
    cells = Cells.of(size)
    assert [len(rows) for rows, _ in cells.guided] == [40, 30]
    cells.draw(np.random.Generator(np.random.Philox(3)), counts)
    assert (counts.sum(0) == n).all() and counts.min() == 0
    for rows in (np.arange(40), np.arange(40, 70), [70], [71], [72]):
        part = counts[rows]
        law = stats.binom(n, size[rows][0] / n)
        assert part.mean() == pytest.approx(law.mean(), abs=5 * law.std() / np.sqrt(part.size))
        assert part.var() == pytest.approx(law.var(), rel=0.05)
        # fixed sums make cells move against each other: their total is binomial as well
        whole = stats.binom(n, size[rows].sum() / n)
        assert uniform(part.sum(0), whole).pvalue > 1e-3


def uniform(counts, law):
    """Test whole numbers against their law: each is spread over its step of the distribution."""
    place = law.cdf(counts) - np.random.default_rng(0).random(counts.size) * law.pmf(counts)
    return stats.kstest(place, "uniform")


def test_paired_replicates_spread_as_resampled_particles_do():
    labels, arms = binormal((1500, 60, 60), d=2.0, arms=2)
    made = bootstrap(labels, arms, replicates=2000, seed=4)
    assert all((one.confusion.sum(2) == (1500, 60, 60)).all() for one in made)
    rng, direct = np.random.default_rng(6), []
    for _ in range(400):
        times = np.bincount(resampled(labels, rng), minlength=labels.size)
        direct.append([metrics.class_auprc(labels, scores, times).mean() for scores in arms])
    found = np.stack([one.auprc[0].mean(1) for one in made], axis=1)
    direct = np.array(direct)
    assert found.std(0) == pytest.approx(direct.std(0), rel=0.12)
    minus, expected = found @ (1, -1), direct @ (1, -1)
    assert minus.std() == pytest.approx(expected.std(), rel=0.12)
    assert stats.ks_2samp(minus, expected).pvalue > 1e-3


def test_the_same_seed_gives_the_same_and_another_does_not():
    labels, (scores,) = binormal((2000, 60, 60))
    first, again, other = (bootstrap(labels, [scores], seed=s, replicates=300) for s in (1, 1, 2))
    assert (first[0].auprc == again[0].auprc).all()
    assert (first[0].confusion == again[0].confusion).all()
    assert (first[0].auprc != other[0].auprc).any()


def test_result_is_plain_json_with_every_part():
    labels, (scores,) = binormal((3000, 60, 60))
    ecd_um = np.where(labels == 2, 20.0, 2.0)
    ecd_um[:5] = np.nan
    ecd_um[5:10] = 7.0
    found = evaluate(
        labels, scores, CLASSES, prevalence=AS_MET, ecd_um=ecd_um, replicates=60, seed=1
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["n"] == {"protein": 3000, "oil": 60, "air": 60}
    assert np.sum(found["confusion"]) == 3120
    assert "curves" not in found["at_prevalence"]
    for curve in found["curves"].values():
        assert {len(v) for v in curve.values()} == {len(curve["recall"])}
        assert len(curve["recall"]) <= 200
        assert np.mean(np.array(curve["low"]) <= np.array(curve["high"])) == 1
        assert np.mean(np.array(curve["low"]) <= np.array(curve["precision"])) > 0.9
    small, middle, large = (found["by_size"][size] for size in metrics.SIZE_BINS)
    assert small["n"] == {"protein": 2990, "oil": 60, "air": 0}
    assert small["per_class"]["air"]["recall"]["value"] is None
    assert small["macro_auprc"] == {"value": None, "low": None, "high": None}
    assert middle["n"]["protein"] == 5 and large["n"]["air"] == 60
    assert small["per_class"]["oil"]["auprc"]["low"] is not None
    assert any("5 particles of unknown size" in note for note in found["notes"])


def test_few_false_positives_are_flagged_and_get_an_honest_interval():
    labels = np.repeat(np.arange(3), (10_000, 250, 250))
    scores = np.eye(3)[labels] * 0.9 + 0.03
    found = evaluate(labels, scores, CLASSES, prevalence=AS_MET, replicates=50)
    oil = found["per_class"]["oil"]
    assert oil["false_positives"] == 0 and oil["few_false_positives"]
    assert oil["precision"]["method"] == "wilson"
    assert (oil["precision"]["low"], oil["precision"]["high"]) == pytest.approx(wilson(250, 250))
    # None in 10,000 still allows 3.7e-4: at 1000:1 more than one false oil in four.
    met = found["at_prevalence"]["per_class"]["oil"]["precision"]
    assert met["value"] == 1 and 0.65 < met["low"] < 0.8
    assert any("precision of oil rests on 0 false positives" in note for note in found["notes"])


def test_limits_of_single_counts_are_the_known_ones():
    for count in (0, 1, 7, 40):
        low, high = weighted_poisson(np.array([count]), np.array([1.0]))
        assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0)
        assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2)
    assert wilson(0, 0) == (0, 1)
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_precision_interval_at_prevalence_covers():
    rng, weight = np.random.default_rng(0), np.array([25.0, 1.0])
    rate, recall = 2e-4, 0.9
    truth = recall * 250 / (recall * 250 + 25 * rate * 10_000)
    inside = 0
    for _ in range(300):
        column = np.array([rng.binomial(10_000, rate), rng.binomial(250, recall)])
        low, high = precision_at(column, 1, 250, weight)
        inside += low <= truth <= high
    assert inside / 300 >= 0.93
    assert precision_at(np.array([5, 0]), 1, 250, weight)[0] == 0


def test_interval_and_difference_of_nothing():
    empty = {"value": None, "low": None, "high": None}
    assert interval(np.nan, np.full(10, np.nan)) == empty
    assert difference(np.nan, np.full(10, np.nan)) == empty | {"share": None, "p": None}
    found = difference(1.0, np.array([1.0, 2.0, -1.0, 3.0]))
    assert found["share"] == 0.75 and found["p"] == pytest.approx(0.8)
