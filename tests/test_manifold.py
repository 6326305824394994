"""Precision, recall, density and coverage against the package prdc; the classifier's AUROC."""

import numpy as np
import pytest
import torch
from scipy import stats

from svpkit import draws
from svpkit.generate import manifold, resample
from svpkit.generate.detector import auroc_interval, c2st
from svpkit.generate.distances import halvings, subsets


def normal(n, seed, shift=0.0, dims=16):
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed)).double() + shift


@pytest.mark.parametrize("n, m, shift", [(700, 600, 0.0), (300, 520, 0.4), (40, 30, 0.2)])
def test_the_four_measures_are_those_of_prdc(n, m, shift, capsys):
    prdc = pytest.importorskip("prdc")
    drawn, real = normal(n, 1, shift), normal(m, 2)
    drawn[:7] = real[:7]  # copies: at no distance at all
    expected = prdc.compute_prdc(real.numpy(), drawn.numpy(), manifold.K)
    found = {k: float(v.mean()) for k, v in manifold.manifold(drawn, real).items()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_blocks_change_nothing(monkeypatch):
    drawn, real = normal(150, 1, 0.2), normal(90, 2)
    whole = manifold.manifold(drawn, real)
    monkeypatch.setattr(manifold, "BLOCK", 16)
    for name, rows in manifold.manifold(drawn, real).items():
        assert torch.equal(rows, whole[name])


def two_modes(n, seed, share=0.5):
    # two clusters, six apart
    x = normal(n, seed, dims=8)
    x[: int(n * share), 0] += 6
    return x


def figures(drawn, real, seed=0):
    units, size = np.arange(len(real)), len(real) // 2
    pairs = subsets(len(drawn), len(real), size, 20, seed, "test")
    found = manifold.measured(drawn, real, pairs, (np.arange(len(drawn)), units), seed)
    floor = manifold.measured(real, real, halvings(units, seed)[:20], (units, units), seed)
    return found, floor


def test_a_lost_mode_lowers_recall_and_coverage_alone():
    found, floor = figures(two_modes(200, 1, share=0), two_modes(80, 2))
    for name in ("recall", "coverage"):
        assert found[name]["high"] < floor[name]["low"]
    assert found["precision"]["high"] > floor["precision"]["low"]
    assert found["density"]["value"] > 0.8 * floor["density"]["value"]


def test_like_sets_have_like_figures():
    apart = 0
    for seed in range(15):
        found, floor = figures(two_modes(150, seed), two_modes(80, 100 + seed), seed)
        for name, row in found.items():
            assert row["low"] <= row["value"] <= row["high"]
            apart += row["high"] < floor[name]["low"] or row["low"] > floor[name]["high"]
    assert apart <= 4  # of 60


def test_a_share_is_taken_again_by_unit():
    rng = draws.rng(0, "share")
    hits = (rng.random(400) < 0.3).astype(float)
    alone = resample.share(hits, np.ones(400), np.arange(400), draws.rng(0, "a"))
    low, high = resample.wilson(int(hits.sum()), 400)
    assert (alone["low"], alone["high"]) == pytest.approx((low, high), abs=0.015)
    # ten rows a unit, all alike: a tenth as much is known
    units = np.repeat(np.arange(40), 10)
    tens = resample.share(hits[units], np.ones(400), units, draws.rng(0, "b"))
    assert tens["high"] - tens["low"] > 2 * (high - low)
    none = resample.share(np.zeros(30), np.ones(30), np.arange(30), draws.rng(0, "c"))
    assert (none["low"], none["high"]) == pytest.approx(resample.wilson(0, 30))


def test_the_aurocs_interval_covers():
    rng = np.random.default_rng(0)
    for true, n in ((0.5, 40), (0.9, 25)):
        shift = np.sqrt(2) * stats.norm.ppf(true)
        inside = 0
        for _ in range(400):
            a, b = rng.normal(shift, 1, n), rng.normal(0, 1, n)
            value = float((a[:, None] > b).mean())
            low, high = auroc_interval(value, n, n)
            inside += low <= true <= high
        assert 0.92 <= inside / 400 <= 0.985
    assert auroc_interval(1.0, 20, 20) == (pytest.approx(0.84, abs=0.08), 1.0)
    low, high = auroc_interval(0.3, 50, 30)
    assert auroc_interval(0.7, 50, 30) == pytest.approx((1 - high, 1 - low), abs=0.02)


def told(drawn, real, units=None, seed=0):
    own = np.arange(len(drawn)) + 10_000
    units = np.arange(len(real)) if units is None else units
    pairs = subsets(len(drawn), len(real), min(len(drawn), len(real)), 3, seed, "test")
    return c2st(np.asarray(drawn), np.asarray(real), pairs, (own, units), seed)


def test_the_classifier_tells_what_differs_and_nothing_else():
    values = [told(normal(200, k), normal(60, 50 + k), seed=k) for k in range(12)]
    assert np.mean([v["value"] for v in values]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([v["low"] <= 0.5 <= v["high"] for v in values]) >= 0.9
    apart = told(normal(200, 1, 0.8), normal(60, 2))
    assert apart["low"] > 0.8 and apart["n"] == 60


def test_the_classifier_never_judges_a_unit_that_it_learned_from():
    # ten real groups, each with a look of its own that says nothing of the next group
    own = normal(10, 1).repeat_interleave(10, dim=0)
    real = own + 0.1 * normal(100, 2)
    drawn = normal(100, 3)
    units = np.repeat(np.arange(10), 10)
    assert told(drawn, real, units)["value"] < 0.65
    # judged by rows, the same looks give it away
    assert told(drawn, real)["value"] > told(drawn, real, units)["value"] + 0.1


def test_missing_descriptors_are_borne():
    drawn, real = normal(60, 1).numpy(), normal(60, 2).numpy()
    drawn[::3, 0] = np.nan
    drawn[:, 1] = real[:, 1] = np.nan
    found = told(drawn, real)
    # that they are missing is what tells
    assert 0.55 < found["value"] <= 1


def test_too_few_units_give_none():
    same = np.zeros(10, int)
    pairs = [(np.arange(10), np.arange(10))]
    x = normal(10, 1).numpy()
    assert c2st(x, x, pairs, (same, same + 1), 0) is None
    halves = np.arange(10) // 5
    assert c2st(x, x, pairs, (halves, halves + 2), 0) is not None
