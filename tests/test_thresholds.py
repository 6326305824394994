"""Thresholds for a required precision: by hand, by other libraries, over draws, in a run."""

import json
import re
import shutil
from html import unescape

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import binom
from sklearn.metrics import precision_recall_curve, precision_score, recall_score
from toy import images

import svpkit
from svpkit.checks import check_classes
from svpkit.deployed import names, thresholds_of
from svpkit.errors import SvpkitError
from svpkit.evaluate.evidence import evidence
from svpkit.evaluate.rejection import judge
from svpkit.evaluate.thresholds import assign, choose, limits, precision_bound, required
from svpkit.keep import note_thresholds, read_thresholds, weights_of
from svpkit.pipeline import evidence_params
from svpkit.predict import Source, predict
from svpkit.recipe import Evaluate, validate
from svpkit.report import Story, summary_table
from svpkit.report.html import render
from svpkit.report.thresholds import sentences

CLASSES = ("protein", "oil", "air")
PAIR = ("no", "yes")
RECIPE = {"name": "x", "data": {"reader": "folder"}}
HALF = {"precision": 0.5}


def pair(yes, no):
    """Particles of two classes from the probability of "yes" of each: labels, scores."""
    p = np.concatenate([no, yes]).astype(np.float32)
    labels = np.repeat([0, 1], [len(no), len(yes)])
    return labels, np.stack([1 - p, p], axis=1)


def drawn(rng, counts, apart):
    """Particles of three classes that lie `apart`, and what a fair classifier says of them."""
    labels = np.repeat(np.arange(3), counts)
    z = rng.normal(size=(labels.size, 3))
    z[np.arange(labels.size), labels] += apart
    return labels, softmax(2 * z, axis=1).astype(np.float32)


def limit_of(found, classes=CLASSES):
    return limits({name: row["threshold"] for name, row in found.items()}, classes)


# By hand


def test_a_class_named_without_a_mistake_needs_45_particles_for_95_percent():
    # 0.95^44 = 0.105, 0.95^45 = 0.0994: below one in ten from 45 on
    for n, given in ((44, False), (45, True)):
        row = choose(*pair(np.full(n, 0.9), np.full(200, 0.1)), PAIR, {"yes": 0.95})["yes"]
        assert row["threshold"] == (0.0 if given else None)
        assert row["needs"] == ({} if given else {"yes": 45})
    assert row["shown"] == pytest.approx(0.1 ** (1 / 45))


def test_the_threshold_is_the_lowest_of_those_looked_at_that_holds():
    # of 100 named, those that keep 100, 84 and 70 are looked at, at a third of 0.1 each: 0.95^70 is
    # below it, while 59 would have to hold at a quarter, 0.025 = 0.95^71.9; 96 of 100 does not
    yes = np.linspace(0.99, 0.61, 96)
    no = np.array([*np.full(200, 0.1), 0.55, 0.56, 0.57, 0.58])
    labels, scores = pair(yes, no)
    row = choose(labels, scores, PAIR, {"yes": 0.95})["yes"]
    kept = scores[:, 1].astype(float) >= row["threshold"]
    assert kept.sum() == 84 and labels[kept].all()
    assert row["threshold"] > np.sort(scores[:, 1])[::-1][84]
    assert row["shown"] == pytest.approx((0.1 / 3) ** (1 / 84))


def saturated(at):
    """2,000 named, 1,500 of them at one score and right, of 500 below it a third wrong."""
    rest = np.linspace(0.6, 0.99, 500)
    wrong = np.arange(500) % 3 == 0
    return pair([*np.full(1500, at), *rest[~wrong]], [*np.full(2000, 0.1), *rest[wrong]])


@pytest.mark.parametrize("at", [1.0, 0.9999])
@pytest.mark.parametrize("mix", [None, {"no": 2, "yes": 1}])
def test_a_tie_is_kept_as_a_whole(at, mix):
    labels, scores = saturated(at)
    row = choose(labels, scores, PAIR, {"yes": 0.99}, mix)["yes"]
    assert row["threshold"] == float(np.float32(at)) and row["shown"] >= 0.99
    named = assign(scores, limits({"yes": row["threshold"]}, PAIR)) == 1
    assert named.sum() == 1500 and labels[named].all()
    if mix is None:
        # all of it counts: 2,000 x STEP^0 .. as many as could hold 0.99 without a mistake
        looked = next(n for n in range(1, 99) if 0.99 ** (2000 * 2 ** (-n / 4)) > 0.1 / (n + 1))
        assert row["shown"] == pytest.approx((0.1 / looked) ** (1 / 1500), rel=1e-4)


def test_no_threshold_is_above_1_and_a_tie_that_errs_promises_nothing():
    labels, scores = pair(np.ones(1500), np.ones(150))
    row = choose(labels, scores, PAIR, {"yes": 0.99})["yes"]
    assert row["threshold"] is None and 0.85 < row["shown"] < 0.92
    row = choose(labels, scores, PAIR, {"yes": 0.85})["yes"]
    assert row["threshold"] == 0.0


def test_the_bound_is_that_of_clopper_and_pearson():
    column, n = np.array([3, 60]), np.array([500, 80])
    low = precision_bound(column, 1, n, None, 0.1)
    assert binom.sf(59, 63, low) == pytest.approx(0.1)
    # re-weighted: each rate's own exact bound, at half the level, found by another road
    recall = brentq(lambda r: binom.sf(59, 80, r) - 0.05, 0.01, 0.99)
    false = brentq(lambda f: binom.cdf(3, 500, f) - 0.05, 1e-4, 0.5)
    found = precision_bound(column, 1, n, np.array([0.9, 0.1]), 0.1)
    assert found == pytest.approx(0.1 * recall / (0.1 * recall + 0.9 * false))
    assert precision_bound(np.array([3, 0]), 1, n, np.array([0.9, 0.1]), 0.1) == 0


def test_what_cannot_be_resolved_is_not_promised_and_says_what_it_takes():
    # none of 2,000 misnamed shows a rate below 0.17 % at a twentieth; 1000:1 asks for 0.005 %
    labels, scores = pair(np.full(100, 0.99), np.full(2000, 0.01))
    mix = {"no": 1000, "yes": 1}
    found = choose(labels, scores, PAIR, {"no": 0.95, "yes": 0.95}, mix)
    assert found["no"]["threshold"] == 0.0
    row = found["yes"]
    assert row["threshold"] is None and row["shown"] is None
    # 0.05 / 0.95 * 0.05^(1/100) = 1000 f, and (1 - f)^n = 0.05
    rate = 0.05 / 0.95 * 0.05 ** (1 / 100) / 1000
    exact = np.log(0.05) / np.log1p(-rate)
    assert exact <= row["needs"]["no"] <= 1.15 * exact
    enough = pair(np.full(100, 0.99), np.full(row["needs"]["no"], 0.01))
    assert choose(*enough, PAIR, {"yes": 0.95}, mix)["yes"]["threshold"] is not None


def test_a_class_too_often_wrong_is_not_promised():
    labels, scores = pair(np.linspace(0.6, 0.9, 300), np.linspace(0.6, 0.9, 300))
    row = choose(labels, scores, PAIR, {"yes": 0.9})["yes"]
    assert row["threshold"] is None and row["needs"] == {} and 0.4 < row["shown"] < 0.6


def test_names_below_their_threshold_are_rejected():
    scores = np.array([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.7], [0.2, 0.8, 0]], "f4")
    limit = limits({"oil": float(np.float32(0.8)), "air": None}, CLASSES)
    assert assign(scores, limit).tolist() == [0, 3, 3, 1]
    assert names(scores, CLASSES, limit).tolist() == ["protein", "rejected", "rejected", "oil"]
    assert names(scores, CLASSES).tolist() == ["protein", "oil", "air", "oil"]


def test_measured_by_hand_and_at_a_prevalence():
    # 10 protein: 6 right, 1 oil, 3 rejected; 5 oil: 4 right, 1 rejected; 2 air: right
    labels = np.repeat([0, 1, 2], [10, 5, 2])
    named = np.array([*[0] * 6, 1, *[3] * 3, *[1] * 4, 3, 2, 2])
    found = judge(labels, named, CLASSES, replicates=200)
    oil = found["per_class"]["oil"]
    assert [oil[k]["value"] for k in ("precision", "recall", "rejected")] == [0.8, 0.8, 0.2]
    assert found["rejected"]["value"] == 4 / 17
    mix = {"protein": 100, "oil": 1, "air": 1}
    found = judge(labels, named, CLASSES, prevalence=mix, replicates=200)
    oil = found["per_class"]["oil"]
    assert oil["precision"]["value"] == pytest.approx(0.8 / (0.8 + 100 * 0.1))
    assert oil["recall"]["value"] == 0.8
    assert found["rejected"]["value"] == pytest.approx((100 * 0.3 + 0.2) / 102)
    for each in (*found["per_class"]["air"].values(), *oil.values(), found["rejected"]):
        assert each["low"] <= each["value"] <= each["high"]
    never = judge(labels, np.full(17, 3), CLASSES, replicates=200)["per_class"]["oil"]
    assert never["precision"] == {"value": None, "low": None, "high": None}


def test_whole_groups_widen_the_interval():
    rng = np.random.default_rng(1)
    groups, labels = np.repeat(np.arange(40), 30), np.tile(np.repeat([0, 1, 2], 10), 40)
    bad = np.repeat(rng.random(40) < 0.3, 30) & (rng.random(1200) < 0.6)
    named = np.where(bad, (labels + 1) % 3, labels)
    width = []
    for given in (None, groups):
        each = judge(labels, named, CLASSES, groups=given, replicates=500)["per_class"]["oil"]
        width.append(each["recall"]["high"] - each["recall"]["low"])
    assert width[1] > 1.5 * width[0]


# By other roads


def test_precision_and_recall_on_val_are_those_of_scikit_learn():
    labels, scores = drawn(np.random.default_rng(2), (600, 200, 200), 2.2)
    found = choose(labels, scores, CLASSES, required(0.9, CLASSES))
    named = assign(scores, limit_of(found))
    said = judge(labels, named, CLASSES, replicates=100)["per_class"]
    for k, name in enumerate(CLASSES):
        # who is likeliest something else has no score for this class
        score = np.where(scores.argmax(1) == k, scores[:, k], 0)
        precision, recall, at = precision_recall_curve(labels == k, score)
        here = np.searchsorted(at, max(found[name]["threshold"], 1e-9))
        assert said[name]["precision"]["value"] == pytest.approx(precision[here])
        assert said[name]["recall"]["value"] == pytest.approx(recall[here])
        assert precision[here] > 0.9
        at_all = {"labels": [k], "average": None, "zero_division": 0}
        assert said[name]["precision"]["value"] == precision_score(labels, named, **at_all)[0]
        assert said[name]["recall"]["value"] == recall_score(labels, named, **at_all)[0]


@pytest.mark.parametrize("mix", [None, {"protein": 10, "oil": 1, "air": 1}])
def test_the_promise_is_kept_over_draws_of_val(mix):
    counts, apart = ((400, 120, 120), 2.8) if mix is None else ((2000, 250, 250), 3.4)
    shares = np.array(counts if mix is None else [10, 1, 1])
    work, scores = drawn(np.random.default_rng(99), (20_000,) * 3, apart)
    given = kept = 0
    for seed in range(300):
        val = drawn(np.random.default_rng(seed), counts, apart)
        found = choose(*val, CLASSES, {"oil": 0.9}, mix)
        if found["oil"]["threshold"] is None:
            continue
        named = assign(scores, limit_of(found))
        rates = np.array([(named[work == j] == 1).mean() for j in range(3)])
        given += 1
        kept += shares[1] * rates[1] / (shares @ rates) >= 0.9
    assert given > 200 and kept >= 0.9 * given


def test_a_precision_that_is_not_there_is_promised_in_one_draw_of_ten_at_most():
    # scores say nothing: every threshold has the precision 0.95, and many are looked at
    promised = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = (rng.random(600) < 0.95).astype(np.int64)
        p = rng.uniform(0.5, 1, 600).astype(np.float32)
        labels[:2], p[:2] = (0, 1), (0.1, 0.9)
        found = choose(labels, np.stack([1 - p, p], 1), PAIR, {"yes": 0.9505})
        promised += found["yes"]["threshold"] is not None
    assert promised <= 30


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("right", [(0.94, 0.94, 0.94), (0.9, 0.935, 0.97), (0.955, 0.94, 0.92)])
def test_ties_keep_the_promise_where_it_is_false(mixed, right):
    # three scores only, and the precision is below 0.95 wherever one names from: from the highest
    # on, from the second on, from the lowest on
    share, at = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.9, 0.6], np.float32)
    right = np.array(right)
    best = (np.cumsum(share * right) / np.cumsum(share)).max()
    mix = {"no": share @ (1 - right), "yes": share @ right} if mixed else None
    promised = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        which = rng.choice(3, 1000, p=share)
        labels = (rng.random(1000) < right[which]).astype(np.int64)
        p = at[which]
        if mixed:
            labels = np.repeat([0, 1], [500, 500])
            given = [share * (1 - right), share * right]
            which = np.concatenate([rng.choice(3, 500, p=g / g.sum()) for g in given])
            p = at[which]
        found = choose(labels, np.stack([1 - p, p], 1), PAIR, {"yes": best + 1e-4}, mix)
        promised += found["yes"]["threshold"] is not None
    assert promised <= 30


# In a run


def frame(labels, scores, classes=CLASSES):
    table = {"id": [f"p{i}" for i in range(labels.size)], "label": np.asarray(classes)[labels]}
    table |= {f"p_{c}": scores[:, k] for k, c in enumerate(classes)}
    return pd.DataFrame(table | {"group": "", "ecd_um": np.nan})


def scored(folder, val, test):
    folder.mkdir()
    frame(*val).to_parquet(folder / "val.parquet")
    frame(*test).to_parquet(folder / "test.parquet")
    return folder


def made(out, params, *scores):
    out.mkdir()
    evidence(out, {"prevalence": None, "replicates": 100} | params, *scores)
    return json.loads((out / "evidence.json").read_text())


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("thresholds"), np.random.default_rng(3)
    val, test = (drawn(rng, (300, 100, 100), 2.5) for _ in range(2))
    other = drawn(rng, (300, 100, 100), 0.4)
    own = scored(place / "own", val, test)
    moved = scored(place / "moved", val, other)
    return place, own, moved


def test_test_particles_never_move_a_threshold(arms):
    place, own, moved = arms
    asked = {"arms": ["own", "moved"], "precision": {"oil": 0.9, "air": 0.85}}
    found = made(place / "asked", asked, own, moved)["test"]
    here, there = (found[name]["thresholds"]["per_class"] for name in ("own", "moved"))
    assert set(here) == {"oil", "air"}
    for name, row in here.items():
        assert row["threshold"] == there[name]["threshold"] is not None
        assert row["val"] == there[name]["val"]
        assert there[name]["test"]["precision"]["value"] < row["test"]["precision"]["value"]
        assert row["test"]["precision"]["low"] <= row["test"]["precision"]["value"]
    assert found["own"]["thresholds"]["rejected"]["test"]["value"] > 0


def test_without_the_key_all_is_as_it_was(arms, tmp_path):
    _, own, moved = arms
    plain = made(tmp_path / "plain", {"arms": ["own", "moved"]}, own, moved)
    asked = made(tmp_path / "asked", {"arms": ["own", "moved"], "precision": 0.9}, own, moved)
    assert set(plain["test"]["own"]) == set(asked["test"]["own"]) - {"thresholds"}
    assert plain["differences"] == asked["differences"]
    note_thresholds(tmp_path, plain["test"]["own"].get("thresholds"), {})
    assert read_thresholds(tmp_path) is None and thresholds_of(tmp_path, CLASSES) is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    note_thresholds(tmp_path, asked["test"]["own"]["thresholds"], weights_of(tmp_path))
    limit = thresholds_of(tmp_path, CLASSES)
    assert limit is not None and limit.shape == (3,)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(SvpkitError, match="thresholds.json: chosen for other weights"):
        thresholds_of(tmp_path, CLASSES)


def test_the_key_is_checked_and_changes_no_params_at_its_default():
    class Bound:
        arms = ()

        def __init__(self, **evaluate):
            self.recipe = type("R", (), {"evaluate": Evaluate(**evaluate)})

    assert set(evidence_params(Bound())) == {"arms", "prevalence", "replicates"}
    assert evidence_params(Bound(precision=0.95))["precision"] == 0.95
    with pytest.raises(SvpkitError, match=r"evaluate\.precision: .*'ail'; did you mean 'oil'"):
        required({"ail": 0.9}, CLASSES)
    with pytest.raises(SvpkitError, match="called 'rejected'"):
        required(0.9, ("a", "rejected"))
    bound = type("E", (), {"arms": (), "recipe": validate(RECIPE | {"evaluate": HALF}, "x.toml")})
    with pytest.raises(SvpkitError, match=r"evaluate\.precision: a class is called 'rejected'"):
        check_classes(bound, ("a", "rejected"))
    recipe = RECIPE
    for value in (1.5, {"oil": 0}, "high"):
        with pytest.raises(SvpkitError, match=r"evaluate\.precision") as error:
            validate(recipe | {"evaluate": {"precision": value}}, "x.toml")
        assert "\n" not in str(error.value)


def test_parts_are_for_folds():
    for test in ({"share": 0.2, "of": 10}, {"group": "a", "of": 4}):
        with pytest.raises(SvpkitError, match=r"data\.test.*`of` \d+ is for `fold`") as error:
            validate(RECIPE | {"data": {"reader": "folder", "test": test}}, "x.toml")
        assert "\n" not in str(error.value)
    for test in (0.2, {"group": "a"}, {"fold": 3, "of": 10}):
        found = validate(RECIPE | {"data": {"reader": "folder", "test": test}}, "x.toml")
        assert validate(found.model_dump(mode="json"), "run.json") == found


def words(story):
    """What the page and the terminal say, tags and line breaks left out."""
    with (console := Console(width=200)).capture() as table:
        console.print(summary_table(story))
    found = (unescape(re.sub("<[^>]+>", " ", render(story))), table.get())
    return [" ".join(text.split()) for text in found]


def test_the_report_says_what_is_promised_and_what_came_of_it(arms, tmp_path):
    asked = {"arms": ["own"], "precision": {"oil": 0.9, "air": 0.97}}
    metrics = made(tmp_path / "e", asked, arms[1])["test"]["own"]
    said, terminal = words(Story(recipe={}, run={}, sets={}, arms={"own": {"metrics": metrics}}))
    row = metrics.pop("thresholds")["per_class"]["oil"]
    silent = words(Story(recipe={}, run={}, sets={}, arms={"own": {"metrics": metrics}}))
    assert not any("required precision" in text or "promised" in text for text in silent)
    for part in (
        "Thresholds for a required precision",
        f"oil: named from a probability of {row['threshold']:.6g} on, a precision of 0.9 is promis",
        f"on test it is {row['test']['precision']['value']:.3f}",
        "air: a precision of 0.97 cannot be promised on these validation particles",
        "What is likeliest air is rejected",
        "reach no threshold and are named rejected",
    ):
        assert part in said
    assert "oil: precision 0.9 from" in terminal
    assert "air: precision 0.97 cannot be promised" in terminal
    short = {"required": 0.95, "threshold": None, "shown": None, "needs": {"protein": 68_000}}
    text = sentences({"per_class": {"silicone_oil": short}}, weighted=True)
    assert "It would take about 68,000 protein in them, and no mistake." in text[0]


def test_predict_rejects_what_reaches_no_threshold(run, place, tmp_path, monkeypatch):
    from svpkit.api import reader_for

    pixels, _ = images({"disc": 6, "ring": 6, "bar": 6}, seed=5)
    before = run.predict(pixels)
    assert "rejected" not in set(before["predicted"])
    overrides = ["name=held", "evaluate.precision={ ring=0.999, disc=0.5 }"]
    held = svpkit.run(
        place / "toy.toml", overrides=overrides, runs=tmp_path / "runs", store=place / "store"
    )
    found = held.results["test"]["thresholds"]["per_class"]
    assert found["ring"]["threshold"] is None and found["disc"]["threshold"] is not None
    assert "Thresholds for a required precision" in (held.folder / "report.html").read_text()
    after = held.predict(pixels)
    p = after.drop(columns="predicted").to_numpy()
    limit = thresholds_of(held.folder / "model", tuple(held.results["classes"]))
    assert after["predicted"].tolist() == names(p, held.results["classes"], limit).tolist()
    assert "ring" not in set(after["predicted"]) and "rejected" in set(after["predicted"])
    use = reader_for(held.registry, place / "test", None, {})
    source = Source(use, place / "test")
    page = predict(held.folder, held.registry, [source], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    counts = page.counts[page.counts["bin"] == "all"]
    rows = dict(zip(counts["class"], counts["n_named"], strict=True))
    assert page.inputs[0]["rejected"] == (table["predicted"] == "rejected").sum() > 0
    assert rows["unknown"] == page.inputs[0]["rejected"] + page.inputs[0]["unknown"]
    assert rows["ring"] == 0
    assert counts["n_named"].sum() == len(table) == 120
    assert not (held.folder / "thresholds.json").exists()
    (tmp_path / "mixed").mkdir()
    shutil.copytree(held.folder / "model", tmp_path / "mixed" / "model")
    assert thresholds_of(tmp_path / "mixed" / "model", tuple(held.results["classes"])) is not None
    weights = tmp_path / "mixed" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    (tmp_path / "mixed" / "model" / "thresholds.json").rename(tmp_path / "kept.json")
    with pytest.raises(SvpkitError, match="not here, though the model is held to thresholds"):
        read_thresholds(tmp_path / "mixed" / "model")
    (tmp_path / "kept.json").rename(tmp_path / "mixed" / "model" / "thresholds.json")
    with pytest.raises(SvpkitError, match="chosen for other weights"):
        predict(tmp_path / "mixed", run.registry, [source], tmp_path / "no")
    assert not (tmp_path / "no").exists()
    plain = predict(run.folder, run.registry, [source], tmp_path / "plain")
    assert plain.inputs[0]["rejected"] == 0
