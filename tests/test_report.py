"""The report, the model card and the table: what they say, and that they open anywhere."""

import base64
import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import precision_score

from svpkit.evaluate.statistics import evaluate
from svpkit.report import Story, model_card, summary_table, write_report
from svpkit.report.advice import next_steps, warnings
from svpkit.report.figures import grey_range, png, span
from svpkit.report.html import SECTIONS, render
from svpkit.report.numbers import bounds, duration, interval, listed, number, signed
from svpkit.report.words import (
    asked,
    blind,
    fidelity_sentence,
    rare,
    resolution,
    strongest,
    verdict,
)

CLASSES = ("protein", "silicone_oil", "air_bubble")
HOSTILE = "<script>alert('x')</script>"


def around(value, width=0.01):
    return {"value": value, "low": value - width, "high": value + width}


def scores(auprc, precision=0.95, recall=0.9, classes=CLASSES, **more):
    """An evaluation as the statistics give it."""
    row = {
        **{"precision": around(precision), "recall": around(recall), "auprc": around(auprc)},
        **{"f1": around(0.9), "n": 100, "predicted": 98},
        **{"false_positives": 40, "few_false_positives": False},
    }
    grid = np.linspace(0.01, 1, 50)
    curve = {"recall": grid, "precision": 1 - 0.3 * grid**4}
    curve |= {"low": curve["precision"] - 0.05, "high": curve["precision"] + 0.05}
    found = {
        "n": dict.fromkeys(classes, 100),
        "macro_auprc": around(auprc),
        "macro_precision": around(precision),
        "macro_recall": around(recall),
        "macro_f1": around(0.9),
        "accuracy": around(0.95),
        "per_class": {name: dict(row) for name in classes},
        "confusion": [[90, 5, 5], [4, 91, 5], [3, 3, 94]],
        "notes": [],
    }
    return found | {
        "curves": {name: {k: v.tolist() for k, v in curve.items()} for name in classes},
        "at_prevalence": {k: v for k, v in found.items() if k not in ("confusion", "notes")},
        "by_size": {"< 5": found, "5-10": None, ">= 10": {}},
        **more,
    }


def arm(auprc, strategies, **more):
    history = [{"images": i * 100, "loss": 1 / i, "lr": 1e-3} for i in range(1, 20)]
    history += [{"images": i * 500, "val": {"macro_auprc": 0.5 + i / 10}} for i in range(1, 4)]
    return {
        **{"metrics": scores(auprc, **more), "val": None, "history": history},
        **{"strategies": strategies, "seconds": 61.5, "images": 2000},
    }


@pytest.fixture
def story():
    """A run of three classes: drawing against none, on images that are not simulated."""
    rng = np.random.default_rng(np.random.Philox(1))
    pictures = rng.integers(0, 256, (6, 1, 16, 16), dtype=np.uint8)
    gallery = {name: {"real": pictures, "drawn": pictures[:4]} for name in CLASSES}
    gallery["protein"] = {"real": pictures, "drawn": None}
    wrong = {"image": pictures[0], "label": "protein", "predicted": "air_bubble"}
    row = {"kid": around(0.159), "kid_floor": around(0.002, 0.001), "kid_ceiling": around(0.6)}
    return Story(
        recipe={
            "name": "tiny",
            "data": {"reader": "folder"},
            "balance": {"strategies": ["synthetic"]},
            "evaluate": {"prevalence": {"protein": 1000, "silicone_oil": 1, "air_bubble": 1}},
        },
        run={"commit": "abc123", "seconds": 12.5, "versions": {"svpkit": "0.1.0"}, "seed": 0},
        sets={
            "train": {"protein": 5000, "silicone_oil": 50, "air_bubble": 50},
            "val": dict.fromkeys(CLASSES, 100),
            "test": dict.fromkeys(CLASSES, 100),
        },
        arms={"synthetic": arm(0.92, ["synthetic"]), "real_only": arm(0.90, ["none"])},
        split={"choose_on_val": True, "sets": {"test": {"n_groups": 12}}},
        differences={"real_only": {"macro_auprc": around(0.02) | {"p": 0.01}}},
        generators={"silicone_oil": {"history": [{"images": 1, "loss": 0.5}], "seconds": 3}},
        fidelity={"silicone_oil": row | {"copy_rate": 0.0, "n_drawn": 100}},
        gallery=gallery,
        errors=[{**wrong, "probability": 0.97, "id": "p-1", "ecd_um": None}],
        stages=[{"stage": "ingest", "label": "ingest", "seconds": 2.0, "cached": True, "key": "k"}],
    )


# Numbers and sentences


def test_numbers_read_as_people_write_them():
    assert number(0.9123) == "0.912"
    assert number(None) == number(float("nan")) == number({"value": None}) == "–"
    assert number(-0.25) == "−0.250"
    assert number(0.00004) == "4e−05"
    assert number(12345, 0) == "12,345"
    assert signed(0.02) == "+0.020"
    assert interval(around(0.9)) == "0.900 (0.890–0.910)"
    assert bounds(around(0.0)) == "−0.010 to 0.010"
    assert bounds({"value": 1.0, "low": None, "high": 1.0}) == ""
    assert listed(["a_b", "c", "d"]) == "a b, c and d"
    assert listed([]) == ""
    assert [duration(s) for s in (0.42, 12.2, 59.8, 200, 7500, None)] == [
        *("0.4 s", "12 s", "1 min 00 s", "3 min 20 s", "2 h 05 min", "–"),
    ]


COUNTS = {"protein": 5000, "silicone_oil": 50, "air_bubble": 50}


def judged(arms, differences):
    sets = {"train": COUNTS}
    return verdict(Story(recipe={}, run={}, sets=sets, arms=arms, differences=differences))


def two_arms(gap, own=("synthetic",), base=("none",), there=None, **more):
    arms = {"own": arm(0.90, list(own)) | more, "base": arm(0.88, list(base))}
    row = {"macro_auprc": gap, "at_prevalence": {"macro_auprc": there} if there else None}
    return judged(arms, {"base": row} if gap else {})


def test_verdict_follows_the_paired_interval():
    better = two_arms(around(0.02, 0.01))
    assert better.kind == "better"
    assert (
        better.headline
        == "Training with drawn particles did better than the arm 'base' in this run"
    )
    assert "+0.020" in better.sentence and "excludes zero" in better.sentence
    worse = two_arms(around(-0.02, 0.01))
    assert (
        worse.headline == "Training with drawn particles did worse than the arm 'base' in this run"
    )
    unclear = two_arms(around(0.01, 0.02))
    assert unclear.kind == "unclear" and "holds zero" in unclear.sentence
    assert two_arms(None).kind == "unpaired"
    assert judged({"own": arm(0.9, ["none"])}, {}).kind == "alone"


@pytest.mark.parametrize("gap", [0.02, -0.02, 0.0])
def test_no_headline_claims_a_cause(gap):
    for own in (("synthetic",), ("synthetic", "augment"), ("class_weights",), ("none",)):
        found = two_arms(around(gap), own=own)
        assert not re.search("help|hurt|adding|because|improve|gain", found.headline.lower())
        assert ("in this run" in found.headline) == (found.kind != "unclear")


def test_verdict_names_what_else_the_arms_differ_in():
    assert "differ in augment" in two_arms(around(0.02), own=("synthetic", "augment")).sentence
    often = two_arms(around(0.02), own=("synthetic", "augment"), base=("oversample", "augment"))
    assert "differ in oversample (how often each real image is shown)" in often.sentence
    assert "differ in" not in two_arms(around(0.02)).sentence
    weighted = two_arms(around(0.02), own=("class_weights",)).headline
    assert weighted == "Training with class weights did better than the arm 'base' in this run"


def test_verdict_names_the_class_mix_that_each_arm_saw():
    thirds = {"protein": 0.34, "silicone_oil": 0.33, "air_bubble": 0.33}
    few = {"protein": 0.7, "silicone_oil": 0.15, "air_bubble": 0.15}

    def sentence(mine, theirs):
        arms = {"own": arm(0.9, ["synthetic"]), "base": arm(0.88, ["oversample"])}
        arms["own"] |= {"seen": mine}
        arms["base"] |= {"seen": theirs}
        return judged(arms, {"base": {"macro_auprc": around(0.02)}}).sentence

    said = sentence(few, thirds).replace("\u00a0", " ")
    assert (
        "The arms also differ in class mix: 15 % silicone oil and 15 % air bubble seen in "
        "training against 33 % and 33 %."
    ) in said
    assert "class mix" not in sentence(few, few | {"silicone_oil": 0.16})
    assert "class mix" not in sentence(few, None)


def test_verdict_says_when_the_stated_prevalence_turns_it():
    turned = two_arms(around(0.02), there=around(-0.03)).sentence
    assert "At the stated prevalence it is −0.030" in turned
    blurred = two_arms(around(0.02), there=around(0.02, 0.05)).sentence
    assert re.search("At the stated prevalence it .*holds zero", blurred)
    assert "stated prevalence" not in two_arms(around(0.02), there=around(0.05)).sentence
    assert "stated prevalence" not in two_arms(around(0.02)).sentence


def test_verdict_takes_the_strongest_baseline():
    arms = {"own": arm(0.90, []), "weak": arm(0.5, []), "strong": arm(0.95, [])}
    gaps = {"weak": around(0.4), "strong": around(-0.05)}
    found = judged(arms, {name: {"macro_auprc": gap} for name, gap in gaps.items()})
    assert found.kind == "worse" and "Against the arm 'weak' it is +0.400" in found.sentence
    assert "the arm 'strong' is the strongest on the test set" in found.sentence


def test_the_baseline_is_chosen_on_validation():
    arms = {"own": arm(0.90, []), "lucky": arm(0.95, []), "sound": arm(0.93, [])}
    for name, auprc in {"lucky": 0.80, "sound": 0.85}.items():
        arms[name]["val"] = scores(auprc)
    assert strongest(arms) == "sound"
    assert "the arm 'sound' is the strongest on validation" in judged(arms, {}).sentence
    arms["sound"]["val"] = None
    assert strongest(arms) == "lucky"


def fidelity(kid, floor=0.002, ceiling=0.6, width=0.005):
    top = None if ceiling is None else around(ceiling)
    return {"kid": around(kid, width), "kid_floor": around(floor, 0.001), "kid_ceiling": top}


def test_fidelity_sentence_is_the_words_of_the_measurement():
    said = fidelity_sentence("silicone_oil", {"words": "Far from real: 60% of the way."})
    assert said == "Drawn silicone oil: far from real: 60% of the way."
    assert fidelity_sentence("x", fidelity(0.159)) == "Drawn x: KID 0.159 (0.154–0.164)."
    assert fidelity_sentence("x", {}) == "Drawn x: KID –."


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("far", "Train the generator longer: drawn silicone oil"),
        ("cannot tell", "Hold out more real silicone oil"),
        ("some way", None),
        ("close", None),
    ],
)
def test_next_steps_follow_the_verdict_of_the_measurement(story, said, step):
    # figures that alone would look far from real: the row's own verdict is the only rule
    row = fidelity(0.5) | {"verdict": said}
    steps = "\n".join(next_steps(replace(story, fidelity={"silicone_oil": row})))
    assert step in steps if step else "drawn" not in steps


def test_copies_are_counted_above_those_among_real_images(story):
    def said(**row):
        found = warnings(replace(story, fidelity={"air_bubble": row}))
        return "\n".join(found).replace("\u00a0", " ")

    assert said(copy_rate=0.05, copy_rate_floor=0.045) == ""
    assert said(copy_rate=0.011, copy_rate_floor=None) != ""
    above = said(copy_rate=0.05, copy_rate_floor=0.02)
    assert "5.0 % of the drawn air bubble" in above and "(real ones: 2.0 %)" in above
    floor = said(copy_rate=0.05, copy_rate_floor=0.02, copy_recall=0.6)
    assert "At least 5.0 %" in floor and "catches 60 % of planted copies" in floor


def test_the_finest_false_positive_rate_follows_from_the_counts():
    prevalence = {"protein": 1000, "silicone_oil": 1, "air_bubble": 2}
    said = resolution(prevalence, {"protein": 10_000, "silicone_oil": 250, "air_bubble": 250})
    # 1 of 10,000 misnamed, 1000 protein to 1 silicone oil: 0.1 for each; 1 / 1.1 = 0.91
    for part in ("1 in 10,000", "counts as 0.1 for every silicone oil", "to 0.91 at most"):
        assert part in said
    assert resolution(prevalence, {"protein": 10_000}) == "" == resolution({}, {})


def test_a_blind_classifier_is_named_whatever_its_macro_precision():
    seeing = scores(0.9)
    assert blind(seeing) is None
    nothing = scores(0.5, precision=0.98, recall=0.34)
    nothing["per_class"]["air_bubble"]["recall"] = around(0.01)
    said = blind(nothing)
    assert said and "air bubble" in said and "says nothing alone" in said
    assert blind({}) is None


def test_the_question_names_the_rare_classes():
    counts = {"protein": 5000, "silicone_oil": 50, "air_bubble": 2600}
    assert rare(counts) == ["silicone_oil"]
    said = asked({"balance": {"strategies": ["synthetic", "augment"]}}, counts, ["own", "base"])
    assert "50 silicone oil images beside 5,000 protein" in said and "synthetic and augment" in said


def test_warnings_tell_of_thin_evidence(story):
    assert warnings(story) == []
    metrics = story.arms["synthetic"]["metrics"]
    metrics["per_class"]["air_bubble"] |= {"false_positives": 7, "few_false_positives": True}
    thin = replace(
        story,
        sets={**story.sets, "val": {"protein": 500, "silicone_oil": 12}},
        split={
            **{"choose_on_val": False, "near_duplicates": {"n": 4}, "notes": ["a note"]},
            "sets": {"test": {"n_groups": 1}},
        },
        quarantined=3,
        fidelity={"silicone_oil": {"copy_rate": 0.05}},
    )
    said = "\n".join(warnings(thin)).replace("\u00a0", " ")
    for part in (
        *("12 of silicone oil", "nothing was chosen", "7 for air bubble", "within this run only"),
        *("5.0 %", "4 near-identical", "3 unreadable", "a note"),
    ):
        assert part in said
    assert "Hold out a second run as the test set." in next_steps(thin)


# Pictures


def test_pictures_keep_their_pixels_and_share_a_grey_range():
    from io import BytesIO

    from PIL import Image

    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    back = Image.open(BytesIO(base64.b64decode(png(image).partition(",")[2])))
    assert np.array_equal(np.asarray(back), image[0])
    colour = np.stack([image[0], image[0][::-1], image[0].T])
    back = Image.open(BytesIO(base64.b64decode(png(colour).partition(",")[2])))
    assert np.array_equal(np.asarray(back), np.moveaxis(colour, 0, -1))
    low, high = grey_range([image[None] // 4 + 100, None])
    assert 100 <= low < 101 and 162 < high <= 163
    assert grey_range([]) == (0.0, 255.0)


def test_span_holds_everything_and_ticks_lie_inside():
    axis = span([around(0.9), {"value": None}, 0.7], [0])
    assert axis.low < 0 and axis.high > 0.91
    assert all(axis.low <= t <= axis.high for t in axis.ticks)
    assert axis.at(axis.low) == 0 and axis.at(axis.high) == 100 == axis.at(99)
    assert span([]).high > span([0.5]).low


# The page


class Page(HTMLParser):
    """Elements, references and text of a page; fails on tags closed out of order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.images = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [found[k] for k in ("src", "href", "srcset", "action") if k in found]
        self.ids += [found["id"]] if "id" in found else []
        self.images += [found] if tag == "img" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(tmp_path, story):
    path = write_report(tmp_path / "report.html", story)
    text = path.read_text()
    page = Page(text)
    assert set(SECTIONS) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "default-src 'none'" in text and "script" not in page.tags
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert all(image.get("alt") for image in page.images) and len(page.images) > 20
    assert page.tags.count("table") == page.tags.count("caption")
    assert render(story) == text and len(text) < 3_000_000
    assert "SIMULATED" not in text


def section(text, name):
    """The words of one section of the page, spaces made plain."""
    found = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)[0]
    return " ".join(unescape(re.sub("<[^>]+>", " ", found)).split())


def test_the_fidelity_table_says_what_its_ranges_are(story):
    row = fidelity(0.159) | {"kid_gap": around(0.157), "n_compared": 50, "n_drawn": 900}
    row |= {"copy_rate": 0.05, "copy_rate_floor": 0.02, "copy_recall": 0.6}
    said = section(render(replace(story, fidelity={"silicone_oil": row})), "fidelity")
    for part in (
        *("not a confidence interval", "own small extractor", "published KID", "images a side"),
        *("KID minus floor", "0.157 0.147–0.167", "at least 5.0 %", "real copies", "2.0 %"),
        *("catches 60 %", "share of planted copies"),
    ):
        assert part in said
    assert "at least" not in section(render(story), "fidelity")


def test_the_prevalence_section_shows_the_paired_difference_and_thin_macros(story):
    row = {"macro_auprc": around(0.02), "at_prevalence": {"macro_auprc": around(-0.037)}}
    metrics = story.arms["synthetic"]["metrics"]
    metrics["per_class"]["air_bubble"] |= {"false_positives": 7, "few_false_positives": True}
    text = render(replace(story, differences={"real_only": row}))
    said = section(text, "prevalence")
    assert "−0.037 −0.047 to −0.027" in said and "1 in 100" in said
    assert len(re.findall("macro [^m]*1 class under 30", said)) == 1
    assert "−0.037" not in section(text, "arms")


def test_the_arms_and_sizes_say_what_does_not_compare(story):
    text = render(story)
    assert "different operating points; AUPRC compares skill" in section(text, "arms")
    sizes = section(text, "sizes")
    assert "100 chance 0.333" in sizes and "0.92 · 0.95 · 0.90" in sizes
    assert "class mix of its own" in sizes


def test_the_recipe_is_shown_as_toml_that_reads_back(story):
    text = re.search(r"<pre[^>]*>(.*?)</pre>", render(story), re.DOTALL)[1]
    assert tomllib.loads(unescape(text)) == story.recipe


def test_simulated_figures_say_so_everywhere(story):
    simulated = replace(story, origins=("simulated",))
    text = render(simulated)
    assert all(re.search(rf'<h2 id="{name}-h">.*SIMULATED', text) for name in SECTIONS)
    curves = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", text)
    assert curves and all("SIMULATED" in base64.b64decode(c).decode() for c in curves)
    by_reader = replace(story, recipe={"name": "x", "data": {"reader": "simulated"}})
    for each in (simulated, by_reader):
        assert "no evidence for a real product" in render(each)
        assert "no evidence for a real product" in model_card(each)
        assert "SIMULATED" in terminal(each)


def test_hostile_names_are_shown_and_not_obeyed(story):
    names = (HOSTILE, "$x^2$", "=1+1|[a](b)")
    metrics = scores(0.9, classes=names)
    hostile = replace(
        story,
        recipe={**story.recipe, "name": HOSTILE},
        sets={"train": dict.fromkeys(names, 5), "test": dict.fromkeys(names, 100)},
        arms={HOSTILE: arm(0.9, [HOSTILE]) | {"metrics": metrics}, "_b": arm(0.8, [])},
        gallery={HOSTILE: story.gallery["air_bubble"]},
        fidelity={HOSTILE: fidelity(0.1)},
        errors=[{**story.errors[0], "label": HOSTILE, "id": '" onload="alert(1)'}],
        run={HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}},
    )
    page = Page(render(hostile))
    assert "script" not in page.tags
    assert not any("onload" in image for image in page.images)
    assert "<script>" not in model_card(hostile)
    terminal(hostile)


def test_a_poor_story_still_makes_a_page(story):
    poor = Story(recipe={}, run={}, sets={}, arms={})
    assert set(SECTIONS) <= set(Page(render(poor)).ids)
    empty = replace(story, arms={"own": {"metrics": {"macro_auprc": None}}}, differences={})
    Page(render(empty))
    model_card(poor), model_card(empty), terminal(empty)


def terminal(story):
    with (console := Console(width=140)).capture() as text:
        console.print(summary_table(story))
    return text.get()


def test_the_table_sets_precision_beside_recall_and_auprc(story):
    text = terminal(story)
    for part in ("average precision", "Macro precision", "Macro recall", "0.920 (0.910–0.930)"):
        assert part in text
    assert "+0.020 (0.010–0.030)" in text
    assert "one seed: other seeds may move it as much" in text


def test_the_card_gives_data_use_limits_and_never_a_pass(story):
    card = model_card(story)
    for part in (
        "Intended use",
        "Limits",
        "5,000",
        "0.920 (0.910–0.930)",
        "abc123",
        "1000 protein",
    ):
        assert part in card
    assert "seed: 0" in card and "versions: svpkit 0.1.0" in card and "{'" not in card
    assert "pass" not in card.lower() and "usp" not in card.lower()


# Classes never named, and an arm called none


def evaluated(names_oil, n=120, oil=40):
    """A true evaluation of 3 classes, silicone oil (40) never the likeliest unless `names_oil`."""
    rng = np.random.default_rng(np.random.Philox(7))
    labels = np.repeat([0, 1, 2], [n, oil, n])
    p = rng.dirichlet([0.6] * 3, labels.size)
    p[np.arange(labels.size), labels] += 0.6
    if not names_oil:
        p[:, 1] = np.minimum(p[:, 1], 0.9 * np.delete(p, 1, 1).max(1))
    p /= p.sum(1, keepdims=True)
    prevalence = {"protein": 1000, "silicone_oil": 1, "air_bubble": 1}
    ecd = rng.uniform(2, 15, labels.size)
    more = {"prevalence": prevalence, "ecd_um": ecd, "replicates": 200}
    return labels, p, evaluate(labels, p, CLASSES, **more)


@pytest.fixture(scope="module")
def unnamed_metrics():
    return evaluated(False)


@pytest.fixture
def never_named(story, unnamed_metrics):
    """The story with an own arm that names no silicone oil, beside one called none that does."""
    own = {**story.arms["synthetic"], "metrics": unnamed_metrics[2]}
    base = {**story.arms["real_only"], "metrics": evaluated(True)[2]}
    return replace(
        story,
        arms={"synthetic": own, "none": base},
        differences={"none": story.differences["real_only"]},
    )


FIRST = "silicone oil: none of 40 was named; the arm 'synthetic' finds no particle of this class."


def test_a_class_never_named_is_the_first_thing_said(never_named):
    assert warnings(never_named)[0] == FIRST
    found = verdict(never_named)
    assert found.kind == "better" and found.missing == ("silicone_oil",)
    assert found.headline == (
        "Training with drawn particles did better than the arm 'none' in this run, "
        "yet the model names no silicone oil"
    )
    text = render(never_named)
    mind = text[text.index("Before you trust these figures") :]
    assert FIRST in unescape(mind[mind.index("<li>") : mind.index("</li>")])
    assert "▲" not in text and "0 for silicone oil" not in text
    card = model_card(never_named)
    assert card[card.index("## Limits") :].splitlines()[2] == f"- {FIRST}"
    said = " ".join(terminal(never_named).split())
    assert said.index("names no silicone oil") < said.index(FIRST) < said.index("one seed")
    assert next_steps(never_named)[0].startswith("Do not count silicone oil by the arm 'synthetic'")


def test_precision_of_what_is_never_named_is_undefined_and_the_macro_is_marked(
    never_named, unnamed_metrics
):
    labels, p, metrics = unnamed_metrics
    # scikit-learn's zero_division=0, on its own road: the convention that is told below
    by_zero = precision_score(labels, p.argmax(1), average="macro", zero_division=0)
    assert metrics["macro_precision"]["value"] == pytest.approx(by_zero)
    marked = f"{number(metrics['macro_precision'])}*"
    convention = (
        "The precision of a class that is never named is undefined (silicone oil by the arm"
    )
    text = render(never_named)
    for name in ("arms", "classes", "prevalence"):
        said = section(text, name)
        assert f"{convention} 'synthetic')" in said and "count it as 0" in said, name
    assert marked in section(text, "arms")
    assert re.search(r"silicone oil [\d.]+ [\d.–]+ undefined none named", section(text, "classes"))
    assert re.search(r"silicone oil [\d.]+ [\d.–]+ undefined none", section(text, "prevalence"))
    assert "rests on 0 false positives" not in text
    assert "silicone oil counted as 0" in text
    assert " · – · 0.00" in section(text, "sizes") and "–*" not in text
    card = model_card(never_named)
    row = next(line for line in card.splitlines() if line.startswith("| silicone oil | 0."))
    assert "| undefined (none named) | 0.000" in row
    assert marked.replace("*", "\\*") in card and convention in card
    assert marked in terminal(never_named) and "0.000 (0.000–1.000)" not in text + card


def test_what_is_named_has_no_mark(story):
    for text in (render(story), model_card(story), terminal(story)):
        for part in ("undefined", "none named", "counted as 0", "finds no particle"):
            assert part not in text
    assert "lacking" not in render(story).partition("</style>")[2] and verdict(story).missing == ()
    assert "▲" in render(story) and "*" not in terminal(story)


def test_a_class_named_and_never_rightly_is_said_apart(story):
    row = story.arms["real_only"]["metrics"]["per_class"]["air_bubble"]
    row |= {"predicted": 7, "false_positives": 7, "few_false_positives": True}
    assert warnings(story) == [
        "air bubble: none of 100 was found; what the arm 'real only' names so (7) are others."
    ]
    assert "undefined" not in render(story)


def test_a_class_that_no_arm_names_is_said_once(never_named):
    own = never_named.arms["synthetic"]
    both = replace(never_named, arms={"synthetic": own, "none": dict(own)})
    said = [text for text in warnings(both) if "none of 40" in text]
    assert said == [
        "silicone oil: none of 40 was named; the arms 'synthetic' and 'none' find no particle of "
        "this class."
    ]
    worse = {"none": {"macro_auprc": around(-0.02)}}
    steps = next_steps(replace(both, differences=worse))
    assert any("the arm 'none', which itself names no silicone oil" in step for step in steps)
    assert not any(step.startswith("Use") for step in steps)


def test_an_arm_called_none_reads_as_an_arm(story):
    arms = {"none": story.arms["synthetic"], "also_none": story.arms["real_only"]}
    arms["none_too"] = arm(0.89, ["none"])
    gap = story.differences["real_only"]
    odd = replace(story, arms=arms, differences={"also_none": gap, "none_too": gap})
    plain_none = replace(story, arms={"own": arms["none"], "none": arms["also_none"]})
    said = " ".join([verdict(odd).sentence, *next_steps(odd), verdict(plain_none).sentence])
    assert "Of the baselines, the arm 'also none' is the strongest" in said
    assert "0.920 for the arm 'none', 0.900 for the arm 'also none'" in said
    assert "Against the arm 'none too' it is" in said
    question = asked(story.recipe, story.sets["train"], list(arms))
    assert question.endswith("Beside it stand the arms 'also none' and 'none too'.")
    assert asked(story.recipe, story.sets["train"], ["own", "none"]).endswith(
        "Beside it stands the arm 'none'."
    )
    text = render(odd)
    assert "right of zero, the arm 'none' is ahead" in section(text, "arms")
    assert "Test particles that the arm 'none' named wrongly" in section(text, "errors")
    worse = replace(plain_none, differences={"none": {"macro_auprc": around(-0.02)}})
    assert any(step.startswith("Use the arm 'none' on this data") for step in next_steps(worse))


# In a browser

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# The page stands untouched in a frame as wide as a phone or a desk; its frame looks into it.
FRAME = """<!doctype html><iframe style="border:0;width:{width}px;height:2400px" srcdoc="{page}">
</iframe><script>addEventListener('load', () => {{
const inside = document.querySelector('iframe').contentDocument;
inside.querySelectorAll('details').forEach(each => each.open = true);
const images = [...inside.images];
document.body.dataset.seen = JSON.stringify({{
  width: inside.defaultView.innerWidth, scroll: inside.documentElement.scrollWidth,
  images: images.length, blank: images.filter(i => !i.naturalWidth).length}});
}})</script>"""


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium")
    if not found:
        pytest.skip("no chromium here: apt-get install chromium")
    return found


def browse(chromium, page, folder, *flags):
    """Open a page; return the DOM after loading and what the browser wrote."""
    command = [chromium, *FLAGS, f"--user-data-dir={folder}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def asked_for(chromium, page, tmp_path):
    """Return what the page requested, beside itself, and what the browser wrote.

    The browser's own calls home have no page as their initiator.
    """
    log = tmp_path / f"{page.stem}.json"
    _, wrote = browse(chromium, page, tmp_path / page.stem, f"--log-net-log={log}")
    events = [e.get("params", {}) for e in json.loads(log.read_text())["events"]]
    urls = {e["url"] for e in events if e.get("initiator", "not an origin") != "not an origin"}
    return {url for url in urls if not url.startswith(("data:", page.as_uri()))}, wrote


def test_chromium_finds_no_error_and_asks_the_network_for_nothing(tmp_path, story, chromium):
    page = write_report(tmp_path / "report.html", story)
    urls, wrote = asked_for(chromium, page, tmp_path)
    assert urls == set() and "CONSOLE" not in wrote


def test_the_browser_test_would_see_a_request_and_an_error(tmp_path, chromium):
    page = tmp_path / "planted.html"
    page.write_text("<img src='http://example.invalid/x.png'><script>console.error('x')</script>")
    urls, wrote = asked_for(chromium, page, tmp_path)
    assert urls == {"http://example.invalid/x.png"} and "CONSOLE" in wrote


@pytest.mark.parametrize("width", [375, 1280])
def test_chromium_shows_every_picture_and_nothing_spills(tmp_path, story, chromium, width):
    text = render(replace(story, origins=("simulated",)))
    page = tmp_path / "frame.html"
    page.write_text(FRAME.format(width=width, page=escape(text)))
    dom, _ = browse(chromium, page, tmp_path / "profile")
    seen = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["images"] > 20 and seen["blank"] == 0
