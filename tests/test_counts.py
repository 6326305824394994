import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPO

from svpkit.errors import SvpkitError
from svpkit.evaluate import tally
from svpkit.evaluate.counts import bins, choose, count_table, garwood
from svpkit.evaluate.quantify import em
from svpkit.evaluate.runs import Run
from svpkit.evaluate.tally import STRATA, Reference, Tally

CLASSES = ("protein", "oil", "air")
K = 3


def of_table(table, ecd_um=6.0, seed=0):
    """Labels, one-hot probabilities, names and sizes of particles counted by class and name."""
    table = np.asarray(table)
    labels, named = (np.repeat(i, table.ravel()) for i in np.indices(table.shape).reshape(2, -1))
    p = np.full((labels.size, K), 0.01)
    p[np.arange(labels.size), np.minimum(named, K - 1)] = 0.98
    return labels, p, named, np.full(labels.size, float(ecd_um))


def reference(table, **changes):
    return Reference(*of_table(table), CLASSES, **changes)


def run(counts, name="run", ecd_um=6.0, **changes):
    """A run in which so many particles bear each name, unknown last."""
    _, p, named, ecd = of_table([counts], ecd_um)
    return Run(name, p, named, ecd, **changes)


PERFECT = reference([[500, 0, 0, 0], [0, 500, 0, 0], [0, 0, 500, 0]])
USUAL = reference([[1970, 10, 10, 10], [3, 92, 2, 3], [1, 2, 95, 2]])


def row(table, name="oil", bin_="all", cumulative=True, run="run"):
    own = table[(table["class"] == name) & (table["bin"] == bin_) & (table["run"] == run)]
    return own[own["cumulative"] == cumulative].iloc[0]


def per_ml(found):
    return [found["per_ml"], found["per_ml_low"], found["per_ml_high"]]


@pytest.mark.parametrize(
    ("n", "expected"), [(3, (6, 1.2, 17.5)), (30, (60, 40, 86)), (600, (1200, 1106, 1300))]
)
def test_plain_counts_have_garwoods_limits(n, expected):
    found = row(count_table(PERFECT, [run([0, n, 0, 0], volume_ml=0.5)], method="cc"))
    digits = 1 if n == 3 else 0
    assert per_ml(found) == pytest.approx(expected, abs=0.51 * 10**-digits)


def test_corrected_counts_meet_garwood_where_nothing_is_misnamed():
    exact = [float(x) for x in garwood(3)]
    found = row(count_table(PERFECT, [run([0, 3, 0, 0])], method="acc", replicates=20_000))
    assert found["count"] == 3
    assert [found["count_low"], found["count_high"]] == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("method", ["cc", "pcc", "acc", "em"])
def test_a_zero_count_is_below_a_limit(method):
    table = count_table(PERFECT, [run([40, 0, 7, 0], volume_ml=0.5)], method=method)
    found = row(table)
    assert found["n_named"] == 0
    # probabilities of others add up
    assert found["per_ml_low"] < 1 if method == "pcc" else found["per_ml_low"] == 0
    assert found["per_ml_high"] >= 3.688 / 0.5
    assert "none named: < " in found["note"]
    if method == "cc":
        assert "none named: < 7.4 per mL" in found["note"]
        assert found["per_ml_high"] == pytest.approx(3.6889 / 0.5, abs=1e-3)


@pytest.mark.parametrize("method", ["cc", "pcc", "acc", "em", "auto"])
def test_an_empty_run_is_zero_below_the_limit(method):
    table = count_table(USUAL, [run([0, 0, 0, 0], volume_ml=1.0)], method=method)
    assert len(table) == len(bins()) * 4
    assert (table["count"] == 0).all()
    np.testing.assert_allclose(table["per_ml_high"], 3.6889, atol=1e-3)


def test_bins_are_filled_by_size_and_add_up():
    sizes = np.array([1.0, 2.0, 4.9, 5.0, 10.0, 24.0, 25.0, 80.0, np.nan])
    _, p, named, _ = of_table([[0, 9, 0, 0]])
    table = count_table(PERFECT, [Run("run", p, named, sizes)], method="cc")
    found = {(b.name, b.cumulative): row(table, "oil", b.name, b.cumulative) for b in bins()}
    assert {key: value["n_named"] for key, value in found.items()} == {
        ("all", True): 9,
        (">= 2", True): 7,
        (">= 5", True): 5,
        (">= 10", True): 4,
        (">= 25", True): 2,
        ("2-5", False): 2,
        ("5-10", False): 1,
        ("10-25", False): 2,
        (">= 25", False): 2,
    }
    assert np.isnan(found["all", True]["per_ml"])
    assert "volume unknown" in found["all", True]["note"]


def test_acc_recovers_what_the_confusion_explains():
    share = np.array([9800.0, 150, 50, 0])
    rates = USUAL.table[-1] / USUAL.table[-1].sum(1, keepdims=True)
    seen = np.rint(share[:K] @ rates).astype(int)
    found = count_table(USUAL, [run(seen)], method="acc").query("bin == 'all'")
    np.testing.assert_allclose(found["count"], share, atol=2)
    assert (found["count_low"] <= share + 1e-9).all() and (share <= found["count_high"]).all()
    plain = count_table(USUAL, [run(seen)], method="cc").query("bin == 'all'")
    assert plain["count"].iloc[2] > 1.9 * share[2]
    assert plain["count_low"].iloc[2] > share[2]


def test_each_size_has_its_own_confusion():
    # small oil is named protein half the time, large oil never
    small = of_table([[1000, 0, 0, 0], [100, 100, 0, 0], [0, 0, 200, 0]], 3.0)
    large = of_table([[1000, 0, 0, 0], [0, 200, 0, 0], [0, 0, 200, 0]], 30.0)
    both = Reference(*(np.concatenate(x) for x in zip(small, large, strict=True)), CLASSES)
    assert both.rates[1, 1, 1] == pytest.approx((100 + 10 * 0.75) / 210)
    assert both.rates[2, 1] == pytest.approx([0.25, 0.75, 0, 0])
    few = [run([50, 40, 0, 0], ecd_um=3.0), run([50, 40, 0, 0], "large", ecd_um=30.0)]
    table = count_table(both, few, method="acc")
    assert row(table, bin_="2-5", cumulative=False)["count"] == pytest.approx(40 / 0.512, rel=0.01)
    found = row(table, bin_=">= 25", run="large")
    assert found["count"] == pytest.approx(40 / (207.5 / 210))


@pytest.mark.parametrize("method", ["acc", "em"])
def test_validation_without_sizes_speaks_for_all_of_them(method):
    labels, p, named, ecd = of_table(USUAL.table[-1].astype(int), np.nan)
    unsized = Reference(labels, p, named, ecd, CLASSES)
    parts = [run([9000, 150, 90, 60], ecd_um=size) for size in (3.0, 30.0)]
    keys = ("p", "named", "ecd_um")
    p, named, ecd = (np.concatenate([getattr(x, key) for x in parts]) for key in keys)
    mixed = row(count_table(unsized, [Run("run", p, named, ecd)], method=method))
    whole = row(count_table(unsized, [run([18000, 300, 180, 120])], method=method))
    # both sizes share what validation leaves open: their sum is as wide as that of one size
    for key in ("count", "count_low", "count_high"):
        assert mixed[key] == pytest.approx(whole[key], rel=0.05)


def test_flagged_particles_are_given_back_or_foreign():
    found = row(count_table(USUAL, [run([985, 5, 5, 5])], method="acc"), "unknown")
    assert found["n_named"] == 5 and found["count"] < 0.5 and found["count_low"] == 0
    found = row(count_table(USUAL, [run([985, 5, 5, 105])], method="acc"), "unknown")
    assert found["count"] == pytest.approx(100, abs=1)
    assert 70 < found["count_low"] < 100 < found["count_high"] < 130
    assert "odd ones of known classes are among them" in found["note"]
    found = row(count_table(USUAL, [run([985, 5, 5, 105])], method="cc"), "unknown")
    assert found["count"] == 105 and "not less those flagged by mistake" in found["note"]


def test_volume_and_dilution():
    once = row(count_table(USUAL, [run([900, 50, 20, 3], volume_ml=0.5)]))
    diluted = row(count_table(USUAL, [run([900, 50, 20, 3], volume_ml=0.25, dilution=10)]))
    assert once["per_ml"] == pytest.approx(once["count"] / 0.5)
    assert per_ml(diluted) == pytest.approx([20 * x for x in per_ml(once)])
    assert diluted["count"] == once["count"]


def test_a_blank_is_subtracted_jointly():
    measured = run([0, 60, 0, 0], volume_ml=0.5, dilution=4)
    blank = run([0, 10, 0, 0], "blank", volume_ml=1.0)
    found = row(count_table(PERFECT, [measured], method="cc", blank=[blank], replicates=20_000))
    # (60 / 0.5 - 10 / 1) x 4; a difference of Poisson counts has sd (60 + 10 / 4)^(1/2)
    assert found["per_ml"] == pytest.approx(440)
    half = 1.96 * np.sqrt(60 + 10 / 4) / 0.5 * 4
    assert found["per_ml_low"] == pytest.approx(440 - half, abs=0.12 * half)
    assert found["per_ml_high"] == pytest.approx(440 + half, abs=0.15 * half)
    assert found["count"] == 60 and "blank subtracted: 10 per mL" in found["note"]


def test_a_blank_that_holds_more_leaves_zero():
    measured, blank = run([9, 5, 0, 0], volume_ml=1.0), run([0, 90, 0, 0], "b", volume_ml=1.0)
    found = row(count_table(PERFECT, [measured], blank=[blank]))
    assert found["per_ml"] == found["per_ml_low"] == 0
    assert found["per_ml_high"] == pytest.approx(3.6889, abs=1e-3)
    unknown = replace(measured, volume_ml=float("nan"))
    assert np.isnan(per_ml(row(count_table(PERFECT, [unknown], blank=[blank])))).all()
    with pytest.raises(SvpkitError, match="blank b: its volume is unknown"):
        count_table(PERFECT, [measured], blank=[replace(blank, volume_ml=float("nan"))])


def test_replicates_are_pooled_and_their_spread_told():
    runs = [
        run([0, n, 0, 0], f"r{n}", volume_ml=v, dilution=d, sample="lot 7")
        for n, v, d in ((48, 0.5, 1), (52, 0.5, 1), (110, 2.0, 2))
    ]
    table = count_table(PERFECT, runs, method="cc")
    assert list(dict.fromkeys(table["run"])) == ["r48", "r52", "r110", "lot 7"]
    found = row(table, run="lot 7")
    assert found["runs"] == 3 and found["sample"] == "lot 7" and found["count"] == 210
    assert per_ml(found) == pytest.approx([105, *(x / 2 for x in map(float, garwood(210)))])
    assert found["spread"] == pytest.approx(np.std([96, 104, 110], ddof=1) / (310 / 3))
    assert np.isnan(row(table, run="r48")["spread"])


def test_over_dispersed_replicates_widen_the_interval():
    runs = [run([0, n, 0, 0], f"r{n}", volume_ml=1.0, sample="lot 7") for n in (40, 100, 160)]
    found = row(count_table(PERFECT, runs, method="cc"), run="lot 7")
    # chi2 = (60^2 + 0 + 60^2) / 100 = 72 on 2 degrees of freedom, t = 4.303
    wider = 4.303 / 1.960 * np.sqrt(72 / 2)
    low, high = garwood(300)
    assert found["count"] == 300
    assert found["count_low"] == pytest.approx(max(0, 300 - wider * (300 - low)), rel=1e-3)
    assert found["count_high"] == pytest.approx(300 + wider * (high - 300), rel=1e-3)
    assert "runs differ more than by chance: interval x 13" in found["note"]


def test_pooling_is_counting_all_particles():
    parts = [run([300, 9, 4, 2], "a", sample="s"), run([500, 4, 9, 1], "b", sample="s")]
    for method in ("pcc", "acc", "em"):
        pooled = row(count_table(USUAL, parts, method=method), run="s")
        once = row(count_table(USUAL, [run([800, 13, 13, 3], "s")], method=method), run="s")
        keys = ["count", "count_low", "count_high"]
        tolerance = 0.15 if method == "em" else 1e-9
        np.testing.assert_allclose(
            pooled[keys].astype(float), once[keys].astype(float), rtol=tolerance
        )


@pytest.fixture(scope="module")
def coverage():
    """The benchmark, by its path: a package of this name may be installed."""
    spec = importlib.util.spec_from_file_location("counts_held", REPO / "benchmarks/coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def simulated(coverage, n=3000, seed=0):
    rng = np.random.Generator(np.random.Philox(seed))
    prior = np.array([2000, 100, 100]) / 2200
    labels = np.repeat(np.arange(3), (2000, 100, 100))
    known = Reference(labels, *coverage.particles(rng, labels, 4.0, prior), CLASSES)
    labels = rng.choice(3, n, p=(0.9, 0.06, 0.04))
    return known, Run("run", *coverage.particles(rng, labels, 4.0, prior), volume_ml=1.0)


@pytest.mark.parametrize("method", ["cc", "pcc", "acc", "em"])
def test_order_changes_nothing(method, coverage):
    known, given = simulated(coverage)
    order = np.random.default_rng(1).permutation(len(given.p))
    mixed = replace(given, p=given.p[order], named=given.named[order], ecd_um=given.ecd_um[order])
    first, second = (count_table(known, [x], method=method) for x in (given, mixed))
    same = ["class", "bin", "n_named", "note"]
    assert first[same].equals(second[same])
    numbers = ["count", "count_low", "count_high", "per_ml"]
    np.testing.assert_allclose(first[numbers], second[numbers], rtol=1e-6, atol=1e-9)


def test_cells_stand_for_all_particles(coverage):
    _, given = simulated(coverage, 8000)
    prior = np.array([0.9, 0.05, 0.05])
    means, cell = tally.cells(given.p)
    assert len(means) < 300
    np.testing.assert_allclose(np.bincount(cell) @ means, given.p.sum(0))
    pooled = em(means, prior, np.bincount(cell))
    np.testing.assert_allclose(pooled, em(given.p, prior), atol=3e-4)


def test_a_tally_holds_every_particle_once(coverage):
    _, given = simulated(coverage)
    found = Tally.of(given.p, given.named, given.ecd_um)
    assert found.counts.shape == (STRATA, 4) and found.counts.sum() == len(given.p)
    kept = given.named < 3
    assert found.weight.sum() == kept.sum()
    np.testing.assert_allclose(found.sums.sum(0), given.p[kept].sum(0))


def test_auto_corrects_where_label_shift_is_admissible():
    given = run([90, 5, 5, 0])
    assert choose(USUAL, [given])[0] == "acc"
    method, why = choose(USUAL, [replace(given, admissible=False, reason="images are darker")])
    assert method == "cc" and "not corrected: images are darker" in why
    table = count_table(USUAL, [replace(given, admissible=False)])
    assert set(table["method"]) == {"cc"}
    assert table["note"].str.contains("differs from validation in more than its mix").all()
    strange = run([0, 1, 0, 0], "b", volume_ml=1.0, admissible=False, reason="another lens")
    table = count_table(USUAL, [replace(given, volume_ml=1.0)], blank=[strange])
    assert set(table["method"]) == {"acc"}
    assert table["note"].str.contains("blank b: another lens").all()
    method, why = choose(USUAL, [replace(given, admissible=False, reason="darker")], "em")
    assert method == "em" and "not calibrated" in why and why.endswith("though darker")


def test_a_class_without_validation_falls_back_or_is_refused():
    lacking = reference([[50, 1, 0, 0], [2, 40, 0, 0], [0, 0, 0, 0]])
    method, why = choose(lacking, [run([9, 1, 0, 0])])
    assert method == "cc" and "no validation particle of air" in why
    assert count_table(lacking, [run([9, 1, 0, 0])])["count"].notna().all()
    for asked in ("acc", "em"):
        with pytest.raises(SvpkitError, match="'acc'|'em'.*no validation particle of air"):
            count_table(lacking, [run([9, 1, 0, 0])], method=asked)


def test_names_that_tell_nothing_fall_back_or_are_refused():
    blind = reference([[50, 50, 0, 0], [50, 50, 0, 0], [0, 0, 90, 0]])
    method, why = choose(blind, [run([9, 1, 0, 0])])
    assert method == "cc" and "do not tell the classes apart" in why
    with pytest.raises(SvpkitError, match="do not tell the classes apart"):
        count_table(blind, [run([9, 1, 0, 0])], method="acc")


def test_what_does_not_fit_is_said():
    given = run([9, 1, 0, 0])
    with pytest.raises(SvpkitError, match="counts.method: unknown 'ac'.*did you mean 'acc'"):
        count_table(USUAL, [given], method="ac")
    with pytest.raises(SvpkitError, match="dilution = 0 given, above 0"):
        replace(given, dilution=0)
    with pytest.raises(SvpkitError, match="volume_ml = -1 given, above 0"):
        replace(given, volume_ml=-1)
    with pytest.raises(SvpkitError, match="as many of each"):
        replace(given, ecd_um=np.zeros(3))
    with pytest.raises(SvpkitError, match="0 to 3 is allowed"):
        replace(given, named=np.full(10, 4))
    with pytest.raises(SvpkitError, match="integers are needed"):
        replace(given, named=np.zeros(10))
    with pytest.raises(SvpkitError, match="NaN or infinity"):
        replace(given, p=np.full((10, 3), np.nan))
    with pytest.raises(SvpkitError, match="2 columns of probabilities given, validation has 3"):
        count_table(USUAL, [replace(given, p=np.full((10, 2), 0.5))])
    with pytest.raises(SvpkitError, match="no run given"):
        count_table(USUAL, [])


def test_nothing_is_said_to_pass_a_pharmacopoeia():
    blank = run([1, 0, 0, 0], "b", volume_ml=1.0)
    table = count_table(USUAL, [run([9, 1, 0, 2], volume_ml=1.0)], blank=[blank])
    assert not table["note"].str.contains("pass|USP|complian", case=False).any()


def test_default_intervals_hold_the_truth(coverage):
    case = next(c for c in coverage.CASES if c[1] == "98:1.5:0.5" and c[3] == 5000)
    rows = list(coverage.measure(case, {"acc": 60}, 300))
    for name in (*CLASSES, "unknown"):
        held = [r["coverage"] for r in rows if r["class"] == name]
        # 60 truths in 3 kinds of bin: 3 standard errors below 95 %
        assert min(held) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)
        assert np.mean(held) > 0.93


def in_clusters(rng, size, m=10):
    """Validation particles of three classes in clusters of m that bear one name, and as groups."""
    rates = np.array([[0.95, 0.03, 0.02, 0], [0.05, 0.93, 0.02, 0], [0.03, 0.02, 0.95, 0]])
    named = [np.repeat(rng.choice(4, size // m, p=each), m) for each in rates]
    groups = np.arange(3 * size) // m
    labels, named = np.repeat(np.arange(3), size), np.concatenate(named)
    p = np.full((labels.size, K), 0.01)
    p[np.arange(labels.size), np.minimum(named, K - 1)] = 0.98
    return labels, p, named, np.full(labels.size, 6.0), groups, rates


def test_particles_of_a_group_are_worth_fewer():
    rng = np.random.Generator(np.random.Philox(4))
    *alike, groups, _ = in_clusters(rng, 600)
    assert Reference(*alike, CLASSES).worth == pytest.approx(1)
    # all of a cluster bear one name: a cluster is worth one particle
    found = Reference(*alike, CLASSES, groups=groups)
    assert found.worth == pytest.approx(1 / 10)
    np.testing.assert_array_equal(found.rates, Reference(*alike, CLASSES).rates)
    # groups dealt by chance tell nothing, one group or as many as particles cannot
    dealt = [Reference(*alike, CLASSES, groups=rng.permutation(groups)).worth for _ in range(20)]
    assert np.mean(dealt) > 0.95
    for one in (np.zeros(1800), np.arange(1800)):
        assert Reference(*alike, CLASSES, groups=one).worth == pytest.approx(1)
    with pytest.raises(SvpkitError, match="5 groups given for 1800 particles"):
        Reference(*alike, CLASSES, groups=np.zeros(5))


def test_intervals_hold_the_truth_where_validation_comes_in_clusters():
    rng, share, held = np.random.Generator(np.random.Philox(5)), np.array([0.9, 0.06, 0.04]), []
    for i in range(60):
        *alike, groups, rates = in_clusters(rng, 300)
        given = run(rng.poisson(3000 * share @ rates))
        for known in (None, groups):
            known = Reference(*alike, CLASSES, groups=known)
            table = count_table(known, [given], method="acc", replicates=200, seed=i)
            found = table.query("bin == 'all'").iloc[:K]
            truth = 3000 * share
            held.append(((found["count_low"] <= truth) & (truth <= found["count_high"])).mean())
    # 180 intervals, three of a truth not independent
    assert np.mean(held[1::2]) > 0.9 and np.mean(held[::2]) < 0.75


def test_plain_counts_say_that_their_limits_leave_out_misnaming():
    strange = run([90, 5, 5, 0], admissible=False, reason="darker")
    for method in ("auto", "cc", "pcc"):
        table = count_table(USUAL, [strange], method=method)
        assert table["note"].str.contains("chance alone, not what is misnamed").all()
    assert not count_table(USUAL, [run([90, 5, 5, 0])])["note"].str.contains("chance alone").any()


def test_no_bin_holds_less_than_one_inside_it():
    """Each bin is corrected by itself: small particles misnamed as oil must not go below zero."""
    rng = np.random.default_rng(3)
    small, large = (
        of_table([[990, 8, 1, 1], [4, 40, 3, 3], [1, 1, 48, 0]], um, seed)
        for um, seed in ((3, 0), (12, 1))
    )
    known = Reference(*(np.concatenate(pair) for pair in zip(small, large, strict=True)), CLASSES)
    sizes = [(1.0, [30, 0, 0, 0]), (3.0, [900, 2, 1, 0]), (7.0, [5, 4, 0, 1]), (12.0, [3, 9, 2, 0])]
    parts = [of_table([counts], um) for um, counts in sizes]
    _, p, named, ecd = (np.concatenate(each) for each in zip(*parts, strict=True))
    mixed = rng.permutation(len(p))
    one = Run("run", p[mixed], named[mixed], ecd[mixed], volume_ml=0.2)
    table = count_table(known, [one], method="acc")
    for name in (*CLASSES, "unknown"):
        nested = [row(table, name, b)["count"] for b in ("all", ">= 2", ">= 5", ">= 10", ">= 25")]
        assert nested == sorted(nested, reverse=True), name
        for b in ("all", ">= 2", ">= 5"):
            found = row(table, name, b)
            assert found["count_low"] <= found["count"] <= found["count_high"]
