"""The page of counts and its table: what they say first, and that any name or gap is survived."""

import base64
import json
import math
import re
import shutil
from dataclasses import replace
from functools import cache
from html import escape, unescape

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import chi2
from test_report import FRAME, Page, asked_for, browse

from svpkit.report.counts import SECTIONS, Counted, render, table, write_page
from svpkit.report.counts_cells import bins, rounded
from svpkit.report.counts_figures import gallery, size_panels

HOSTILE = "<script>alert('x')</script>"
SIZES = {">= 2": (2, np.inf), ">= 5": (5, np.inf), ">= 10": (10, np.inf), ">= 25": (25, np.inf)}
RANGES = {"2-5": (2, 5), "5-10": (5, 10), "10-25": (10, 25), ">= 25": (25, np.inf)}


@cache
def poisson(n, volume=1.0):
    """Exact limits by the chi-squared road (Garwood)."""
    low = chi2.ppf(0.025, 2 * n) / 2 if n else 0.0
    return [x / volume for x in (n, low, chi2.ppf(0.975, 2 * n + 2) / 2)]


def counted(*runs, classes=("protein", "silicone_oil", "air_bubble"), drawn=False, **more):
    """Counts of runs {"run", "volume_ml", ...}, as the particles are named."""
    rng = np.random.default_rng(np.random.Philox(1))
    counts = [*(400, 120, 9), *[20] * len(classes)][: len(classes)] + [20, 20]
    n = dict(zip([*classes, "unknown", "rejected"], counts, strict=True))
    rows, inputs = [], []
    for own in runs:
        sizes = {name: 2 * (1 + rng.pareto(1.5, many)) for name, many in n.items()}
        sizes["air_bubble"] = np.minimum(sizes.get("air_bubble", np.zeros(0)), 4.9)
        each = {
            **{"run": "run-1", "source": "a/run-1.lst", "reader": "flowcam", "quarantined": 0},
            **{"particles": sum(n.values()), "volume_ml": 0.5, "dilution": 1.0, "timestamp": ""},
            **{"shift": {"level": "none", "reasons": []}, "unknown": 20, "rejected": 20},
            **{"method": "acc", "why": "the shift test did not fire", "blank": False},
            **{"forced": False, "sizes": sizes if drawn else {}, "mean_set": 1.1, **own},
        }
        inputs.append(each)
        for name in n:
            for cumulative, ends in ((True, SIZES), (False, RANGES)):
                for text, (low, high) in ends.items():
                    hits = int(((sizes[name] >= low) & (sizes[name] < high)).sum())
                    row = {"run": each["run"], "class": name, "bin": text, "n_named": hits}
                    row |= dict(
                        zip(("count", "count_low", "count_high"), poisson(hits), strict=True)
                    )
                    volume = each["volume_ml"]
                    per_ml = poisson(hits, volume) if volume else [math.nan] * 3
                    row |= dict(zip(("per_ml", "per_ml_low", "per_ml_high"), per_ml, strict=True))
                    rows.append(row | {"cumulative": cumulative, "method": "acc", "note": ""})
    made = Counted(
        run={"name": "oil", "classes": list(classes), "svpkit": "0.1.0", "model digest": "9f31"},
        inputs=inputs,
        counts=pd.DataFrame(rows),
        pictures={name: rng.integers(0, 256, (5, 1, 12, 12), dtype=np.uint8) for name in n},
        calibration=None,
        warnings=[],
        queue=None,
        simulated=False,
    )
    return replace(made, **more)


def stated(made, name, text, *figures, run="run-1"):
    """Put given figures in place of those of one class and bin."""
    counts = made.counts.copy()
    hit = (counts["class"] == name) & (counts["bin"] == text) & counts["cumulative"]
    counts.loc[hit & (counts["run"] == run), ["per_ml", "per_ml_low", "per_ml_high"]] = figures
    return replace(made, counts=counts)


def words(text):
    """The words of a page or a part of it, spaces made plain."""
    return " ".join(unescape(re.sub("<[^>]+>", " ", text.partition("</style>")[2] or text)).split())


def page(made):
    return made if isinstance(made, str) else render(made)


def header(made):
    return words(re.search("<header.*?</header>", page(made), re.DOTALL)[0])


def section(made, name):
    return words(re.search(f'<section id="{name}".*?</section>', page(made), re.DOTALL)[0])


def terminal(made):
    with (console := Console(width=200)).capture() as text:
        console.print(table(made))
    return text.get()


# Numbers


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((1237.2, 1083.3, 1408.9), ("1,240", "1,080 to 1,410")),
        ((0.0, 0.0, 7.378), ("0", "< 7.4")),
        ((0.0, 0.0, 7.41), ("0", "< 7.5")),
        # a trace that a correction leaves of a class never named
        ((0.0076, 0.0, 9.3), ("0", "< 9.3")),
        ((0.049, 0.0, 9.31), ("0", "< 9.4")),
        ((0.064, 0.0, 9.3), ("0.1", "0 to 9.3")),
        ((3.7, 0.0, 16.2), ("4", "0 to 16")),
        ((0.0076, 0.0, 0.02), ("0.008", "0 to 0.020")),
        ((0.0076, 0.001, 9.3), ("0.0076", "0.0010 to 9.3")),
        ((6.0, 1.237, 17.53), ("6", "1.2 to 18")),
        ((2.02, 0.047, 11.46), ("2.0", "0 to 11.5")),
        ((41.6, 41.6, 65.2), ("42", "42 to 65")),
        ((123_456.0, 123_010.0, 123_905.0), ("123,460", "123,010 to 123,900")),
        ((-3.2, -8.1, 1.7), ("−3.2", "−8.1 to 1.7")),
        ((12.0, math.nan, math.nan), ("12", "")),
        ((math.nan, math.nan, math.nan), ("–", "")),
        ((0.0, 0.0, 0.0), ("0", "")),
        ((5.0, 5.0, 5.0), ("5", "")),
        ((0.3741, math.nan, math.nan), ("0.374", "")),
        ((0.0, math.nan, math.nan), ("0", "")),
    ],
)
def test_counts_are_rounded_to_what_the_interval_supports(figures, said):
    got = rounded(*figures)
    assert got == said


def test_an_upper_limit_is_never_rounded_below_itself():
    for volume in np.geomspace(0.01, 50, 200):
        limit = -math.log(0.025) / volume
        text = rounded(0.0, 0.0, limit)[1].removeprefix("< ").replace(",", "")
        assert limit <= float(text) * (1 + 1e-8) and float(text) < 1.11 * limit


# What the first screen says


def test_the_first_screen_answers_by_class_with_interval_and_limit():
    made = stated(counted({}), "silicone_oil", ">= 5", 1237.2, 1083.3, 1408.9)
    said = header(stated(made, "air_bubble", ">= 5", 0.0, 0.0, 7.378))
    assert "silicone oil: 1,240 per mL ≥ 5 µm (1,080 to 1,410)" in said
    assert "air bubble: 0 per mL ≥ 5 µm (< 7.4)" in said
    assert "A count of 0 is not none: it means fewer than 7.4 per mL." in said
    assert "not a compendial test" in said
    assert said.index("protein:") < said.index("silicone oil:") < said.index("unknown:")


def test_warnings_stand_on_the_first_screen():
    reasons = ["background 12 % darker"]
    one = counted(
        {
            **{"shift": {"level": "moderate", "reasons": reasons}, "unknown": 90},
            **{"volume_ml": None, "quarantined": 3},
        },
        warnings=["the scale\nwas assumed"],
    )
    said = header(one).replace("\u00a0", " ")
    for part in (
        *(
            "This run differs from the particles",
            "background 12 % darker.",
            "the scale was assumed",
        ),
        *("volume is not known", "15.8 % of the particles look like no class", "3 pictures could"),
        *("moderate shift", "no volume", "particles ≥ 5 µm"),
    ):
        assert part in said, part
    assert "per mL ≥" not in said and "A count of 0" not in said
    far = header(counted({"shift": {"level": "far", "reasons": reasons}, "forced": True}))
    assert "counted because it was forced: background" in far
    assert "Do not rely on these counts." in far
    assert "forced" not in header(counted({"shift": {"level": "far", "reasons": reasons}}))
    quiet = header(counted({}))
    assert "differs" not in quiet and "look like no class" not in quiet


def test_a_zero_means_less_than_its_own_limit_or_that_of_the_volume():
    assert "it means fewer than 7.4 per mL." in header(counted({}))
    wider = stated(counted({}), "air_bubble", ">= 5", 0.0, 0.0, 11.9)
    assert "it means fewer than 7.4 to 12 per mL." in header(wider)
    trace = stated(counted({}), "air_bubble", ">= 5", 0.0076, 0.0, 11.9)
    assert "it means fewer than 7.4 to 12 per mL." in header(trace)
    assert "air bubble: 0 per mL ≥ 5 µm (< 12)" in header(trace)
    assert "0 (< 12)" in terminal(trace) and "0.0076" not in terminal(trace) + render(trace)
    seen = counted({"dilution": 10.0})
    seen.counts["per_ml"] = seen.counts["per_ml"].clip(lower=1.0)
    assert "it means fewer than 74 per mL." in header(seen)


def test_several_runs_stand_in_one_table_and_none_without_volume_passes_for_a_concentration():
    made = counted({}, {"run": "run-2", "volume_ml": None}, {"run": "blank", "blank": True})
    made = stated(made, "protein", ">= 10", 123.0, 98.0, 151.0, run="run-2")
    said = header(made)
    assert "2 runs, particles" in said and re.search("blank blank", said)
    assert re.search(r"run-2 no volume \d+ in all", said)
    assert "no particles per mL: run-2." in said
    assert "≥ 25 µm" in section(made, "runs")
    assert "runs" not in Page(render(counted({}))).ids


def test_a_blank_that_is_subtracted_has_no_row_of_counts():
    made = counted({}, {"run": "empty", "blank": True})
    made = replace(made, counts=made.counts[made.counts["run"] == "run-1"])
    assert made.runs == ["run-1"] and "silicone oil: " in header(made)
    assert (
        "empty blank" in section(made, "provenance")
        and "empty" not in terminal(made).split("Blank")[0]
    )


def test_a_blank_and_a_dilution_are_told_first():
    blank = {"run": "empty", "blank": True, "particles": 7040}
    made = counted({"dilution": 10.0}, {"run": "run-2", "dilution": 10.0}, blank)
    made = replace(made, counts=made.counts[made.counts["run"] != "empty"])
    said = header(made)
    assert "Blank empty (7,040 particles) is subtracted from all runs." in said
    assert "of the undiluted sample: runs were diluted 10 times." in said
    assert "2 runs, particles" in said
    one = header(counted({"dilution": 2.5}))
    assert "the run was diluted 2.5 times" in one and "subtracted" not in one
    mixed = header(counted({}, {"run": "run-2", "dilution": 3.0}))
    assert "sample: run-1 not diluted; run-2 diluted 3 times." in mixed
    assert "undiluted" not in header(counted({}))


def test_without_a_volume_nothing_passes_for_undiluted_or_less_its_blank():
    bare, blank = {"volume_ml": None, "dilution": 4.0}, {"run": "empty", "blank": True}
    said = header(counted(bare, blank))
    assert "Blank empty (569 particles) is not subtracted: no volume is known." in said
    assert "after dilution, as no volume is known: the run was diluted 4 times." in said
    some = header(counted({}, {"run": "run-2", **bare}, blank))
    assert "subtracted from the runs of known volume, not from run-2." in some
    assert "Counts of run-2 are of what was measured" in some


def noted(made, note, **where):
    """Write a note on the rows of a class, a bin, a run."""
    hit = np.all([made.counts[key].isin(several) for key, several in where.items()], axis=0)
    return replace(made, counts=made.counts.assign(note=np.where(hit, note, "")))


def test_runs_that_differ_are_told_first():
    made = counted({}, {"run": "run-2"})
    pooled = made.counts[made.counts["run"] == "run-1"].assign(run="both vials")
    made = replace(made, counts=pd.concat([made.counts, pooled], ignore_index=True))
    note = "runs differ more than by chance: interval x 1.6e+02"
    own = noted(made, note, run=["both vials"])
    told = "their intervals are widened 160 times; look at each run by itself."
    assert f"The runs of the sample differ more than chance: {told}" in header(own)
    assert told in " ".join(terminal(own).split())
    some = noted(made, note, **{"run": ["both vials"], "class": ["protein"]})
    assert f"more than chance in protein: {told}" in header(some)
    assert "2 runs, particles" in header(made) and "widened" not in header(made)


def test_what_the_blank_drowns_is_told_first():
    note = "the blank holds as much or more: not measurable with it"
    where = {"class": ["silicone_oil"], "bin": [">= 2", ">= 5"]}
    said = header(noted(counted({}, {"run": "run-2"}), note, run=["run-1"], **where))
    assert "In silicone oil ≥ 2 µm, ≥ 5 µm (run-1) the blank holds as much as the sample" in said
    alone = header(noted(counted({}), note, **where))
    assert "≥ 5 µm the blank holds as much" in alone and "the blank holds" not in header(
        counted({})
    )


def test_each_run_has_its_own_reasons_and_a_short_name():
    long = "protein-vial-sample2-replicate1-day"
    shift = [{"level": "moderate", "reasons": [f"{what} is other"]} for what in ("grey", "edge")]
    made = counted(*({"run": f"{long}{i}-11Apr", "shift": own} for i, own in enumerate(shift)))
    said = header(made)
    assert "…day0-11Apr: grey is other; …day1-11Apr: edge is other." in said
    assert "…day0-11Apr" in terminal(made) and "replicate1" not in terminal(made)
    same = counted(*({"run": f"run-{i}", "shift": shift[0]} for i in range(2)))
    assert "run-0 and run-1 differ from" in header(same) and "on: grey is other." in header(same)


def test_words_of_the_trade_are_explained():
    made = counted({})
    text = render(replace(made, run={**made.run, "unknown": "vim"}))
    assert "virtual logit matching" in section(text, "diagnostics")
    assert "spreads” is 1.8 times" in section(text, "diagnostics")
    assert "mean set" not in text and "at least" not in words(text)
    assert "cc is classify and count" in section(text, "method")
    assert "by class and size" in terminal(made)


def test_the_comparison_does_not_repeat_the_summary():
    said = section(counted({}, {"run": "run-2"}), "runs")
    assert "Particles per mL ≥ 5 µm" not in said and "Particles per mL ≥ 2 µm" in said


def test_what_is_flagged_is_named_after_what_it_holds():
    made = counted({"rejected": 50})
    both = replace(made, counts=made.counts[made.counts["class"] != "rejected"])
    assert "unknown or rejected: " in header(both) and "unknown or rejected" in terminal(both)
    assert "unknown: " in header(made) and "rejected: " in header(made)


def test_a_run_whose_likeness_could_not_be_tested_says_so():
    made = counted({"shift": {"level": "none", "reasons": ["too few particles to tell"]}})
    assert "could not be tested" in header(made)
    assert "too few particles to tell" in section(made, "diagnostics")
    assert "could not be tested" not in header(counted({}))


def test_pooled_counts_have_rows_of_their_own():
    made = counted({}, {"run": "run-2"})
    pooled = made.counts[made.counts["run"] == "run-1"].assign(run="both vials")
    made = replace(made, counts=pd.concat([made.counts, pooled]))
    assert made.runs == ["both vials", "run-1", "run-2"]
    assert "both vials pooled" in section(made, "runs") and "both vials" in terminal(made)


# The rest of the page


def test_bins_are_in_the_order_of_size_and_words():
    made = counted({})
    made = replace(made, counts=made.counts.iloc[::-1])
    assert bins(made, True) == [*SIZES] and bins(made, False) == [*RANGES]
    said = section(made, "counts")
    assert said.index("≥ 2 µm") < said.index("≥ 25 µm") and "5–10 µm" in said
    assert "400 named" in said


def test_sizes_unknown_leaves_all_sizes_and_says_so():
    made = counted({"sizes": {}})
    every = made.counts[made.counts["bin"] == ">= 2"].assign(bin="all", cumulative=False)
    made = replace(made, counts=every)
    assert "all sizes" in header(made) and "all sizes" in terminal(made)
    assert "sizes of these particles are not known" in section(made, "sizes")


def test_particles_without_a_size_are_no_count_of_zero():
    bare = {"sizes": {"protein": np.full(400, np.nan)}}
    made = counted({}, {"run": "run-2", **bare})
    every = made.counts[made.counts["bin"] == ">= 2"].assign(bin="all")
    made = replace(made, counts=pd.concat([every, made.counts]))
    said = header(made).replace("\u00a0", " ")
    assert re.search("run-2 – – – – –", said)
    assert "in all sizes: 100.0 % of run-2 (name the scale with -o um_per_px=...)." in said
    alone = counted(bare)
    alone = replace(alone, counts=pd.concat([every[every["run"] == "run-1"], alone.counts]))
    assert "protein: 800 per mL all sizes" in header(alone)
    assert "≥" not in section(alone, "counts") and "≥" not in terminal(alone)


def test_notes_are_told_once_and_without_what_the_tables_show():
    made = counted({})
    counts = made.counts
    zero = np.where(counts["n_named"] == 0, "none named: < 7.4 per mL; ", "")
    few = np.where(counts["class"] == "air_bubble", "not told from zero; ", "")
    counts["note"] = zero + few.astype(object) + "acc: corrected; assumes the mix alone"
    said = section(made, "counts")
    assert said.count("not told from zero (air bubble: every size)") == 1
    assert "none named" not in said and "assumes" not in said


def test_method_interval_and_calibration_are_told():
    figure = {"value": 0.012, "low": 0.008, "high": 0.019}
    calibration = {"kind": "temperature", "ece": figure, "brier": figure}
    queue = pd.DataFrame({"id": ["a/1"], "predicted": ["air_bubble"], "why": ["uncertain"]})
    made = counted(
        {}, {"run": "r2", "method": "cc", "why": "it fired"}, calibration=calibration, queue=queue
    )
    made.counts.loc[made.counts["bin"] == ">= 25", "note"] = "few validation particles"
    text = render(made)
    said = section(text, "method")
    for part in ("adjusted count", "the shift test did not fire", "it fired", "does not hold"):
        assert part in said
    assert "exact at zero" in said and "characterisation, not a compendial test" in said
    assert "0.012 0.008–0.019" in section(text, "calibration")
    assert "few validation particles (protein: ≥ 25 µm;" in section(text, "counts")
    assert "a/1 air bubble uncertain" in section(text, "queue")
    assert "9f31" in section(text, "provenance") and "a/run-1.lst" in section(text, "provenance")
    assert "No shift shown" in section(text, "diagnostics")


def counted_by(*methods, **more):
    """Counts of as many runs, each by its method."""
    names = [f"run-{i}" for i in range(1, 1 + len(methods))]
    inputs = [{"run": name, "method": how} for name, how in zip(names, methods, strict=True)]
    made = counted(*inputs, **more)
    made.counts["method"] = made.counts["run"].map(dict(zip(names, methods, strict=True)))
    return made


def test_an_interval_of_plain_counts_does_not_pass_for_more_than_chance():
    corrected, plain = counted_by("acc"), counted_by("cc")
    assert "validation confusion" in section(corrected, "method")
    assert "validation confusion" not in section(plain, "method")
    assert "(Poisson, exact at zero) and nothing else" in section(plain, "method")
    said = "Not corrected for misnaming: the intervals hold chance alone"
    assert said in header(plain) and said in terminal(plain)
    assert "fewer than 7.4 per mL so named." in header(plain)
    assert "chance alone" not in header(corrected) and "so named" not in header(corrected)
    for made in (corrected, plain):
        assert "chose the checkpoint" in section(made, "method")


def test_runs_counted_by_several_methods_say_so():
    made = counted_by("acc", "cc")
    assert "Not corrected for misnaming (run-2):" in header(made)
    assert "what differs may be the method" in header(made)
    both = section(made, "method")
    assert "of corrected counts holds" in both and "of counts as named holds" in both
    assert "what differs may be" not in header(counted_by("acc", "acc"))


def test_how_pooled_runs_were_counted_is_told_too():
    made = counted_by("acc", "acc")
    pooled = made.counts[made.counts["run"] == "run-1"]
    pooled = pooled.assign(run="both vials", method="cc", note="cc: as named: run-2 is darker")
    said = render(replace(made, counts=pd.concat([made.counts, pooled])))
    assert "cc: as named: run-2 is darker" in section(said, "method")
    assert "of pooled runs is wider" in section(said, "method")
    assert "Not corrected for misnaming (both vials)" in header(said)
    assert "pooled" not in section(made, "method")


def test_what_calibration_was_measured_on_is_told():
    figure = {"value": 0.012, "low": 0.008, "high": 0.019}
    made = counted({}, calibration={"kind": "vector", "on": "test set", "ece": figure})
    assert "Measured on the test set, in its mix" in section(made, "calibration")


def test_a_blank_is_told_in_the_sum():
    assert "less what the blank holds" in section(counted({}, {"blank": True}), "method")
    assert "blank" not in section(counted({}), "method")


def test_the_page_is_whole_asks_for_nothing_and_promises_nothing(tmp_path):
    made = counted({}, {"run": "run-2"}, drawn=True)
    text = write_page(tmp_path / "report.html", made).read_text()
    found = Page(text)
    assert set(SECTIONS) <= set(found.ids) and len(found.ids) == len(set(found.ids))
    assert all(link.startswith(("data:", "#")) for link in found.links)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert "default-src 'none'" in text and "script" not in found.tags
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert all(image.get("alt") for image in found.images) and len(found.images) >= 25
    assert render(made) == text and "SIMULATED" not in text
    said = words(text).lower()
    assert "usp" not in said and "passes" not in said
    assert text.count("<table") == text.count('<div class="scroll"')


def test_simulated_counts_say_so_wherever_figures_stand():
    made = counted({}, {"run": "run-2"}, drawn=True, simulated=True)
    text = render(made)
    assert all(re.search(rf'<h2 id="{name}-h">.*SIMULATED', text) for name in SECTIONS)
    panels = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", text)
    assert panels and all("SIMULATED" in base64.b64decode(each).decode() for each in panels)
    assert "no evidence for a real product" in text and "SIMULATED" in terminal(made)


def test_hostile_names_are_shown_and_not_obeyed():
    names = (HOSTILE, "$x^2$ \u4e2d", '" onload="alert(1)')
    run = {"run": "\u202e[bold]\x00" + "x" * 300, "source": HOSTILE, "why": HOSTILE}
    run |= {"shift": {"level": "moderate", "reasons": [HOSTILE]}, "reader": HOSTILE}
    queue = pd.DataFrame({"id": [HOSTILE], "predicted": [HOSTILE], "why": [HOSTILE]})
    made = counted(
        run, {"run": HOSTILE}, classes=names, queue=queue, warnings=[HOSTILE], drawn=True
    )
    made = replace(made, run={"name": HOSTILE, HOSTILE: HOSTILE, "more": {HOSTILE: HOSTILE}})
    text = render(made)
    found = Page(text)
    assert "script" not in found.tags and "\x00" not in text and "\u202e" not in text
    assert not any("onload" in image for image in found.images)
    assert "alert" in terminal(made) and "[bold]" in terminal(made)


def test_a_poor_prediction_still_makes_a_page():
    columns = counted({}).counts.columns
    nothing = Counted({}, [], pd.DataFrame(columns=columns), {}, None, [], None, False)
    bare = counted({})
    bare = replace(bare, inputs=[{"run": "run-1"}], pictures={}, run={})
    for made in (nothing, bare):
        assert set(SECTIONS) - {"runs"} <= set(Page(render(made)).ids)
        terminal(made)
    assert "could not be tested" in section(bare, "diagnostics")


def test_fifty_runs_of_ten_classes_stay_small_and_folded():
    classes = tuple(f"class_{i}" for i in range(10))
    made = counted(*({"run": f"run-{i:02d}"} for i in range(50)), classes=classes, drawn=True)
    big = np.zeros((64, 3, 64, 64), np.uint8)
    big[:] = np.random.default_rng(np.random.Philox(2)).integers(0, 256, big.shape)
    made = replace(made, pictures=dict.fromkeys([*classes, "unknown", "rejected"], big))
    text = render(made)
    assert len(text) < 3_000_000
    assert len(re.findall("<details open>", text)) == 1 and text.count("<details") > 50
    assert "The first 12 of 50 runs" in header(made)


def test_the_terminal_has_a_row_a_class_and_a_column_a_size():
    made = stated(counted({}), "silicone_oil", ">= 5", 1237.2, 1083.3, 1408.9)
    text = terminal(made)
    row = next(line for line in text.splitlines() if "silicone oil" in line)
    assert "1,240 (1,080 to 1,410)" in row and "per mL" in row and row.count("(") == 4
    assert "5–10" not in text and "SIMULATED" not in text
    assert "particles" in terminal(counted({"volume_ml": None})).split("≥ 25 µm")[1]


# Pictures


def test_the_sizes_are_drawn_per_ml_on_common_axes():
    made = counted({}, {"run": "run-2"}, drawn=True)
    panels = {panel.caption: panel for panel in size_panels(made)}
    assert [*panels] == made.classes and "800 particles" in panels["protein"].alt
    svg = base64.b64decode(panels["protein"].uri.partition(",")[2]).decode()
    assert "per mL in a bin" in svg and "var(--arm1)" in svg
    unknown = size_panels(counted({}, {"volume_ml": None}, drawn=True))[0]
    assert "particles in a bin" in base64.b64decode(unknown.uri.partition(",")[2]).decode()
    odd = counted({"sizes": {"protein": np.array([np.nan, 0.0, -1.0, np.inf, 5.0])}})
    assert len(size_panels(odd)) == 1


def test_the_gallery_keeps_the_order_of_classes_and_a_budget():
    block = np.full((40, 1, 8, 8), 128, np.uint8)
    made = gallery({"unknown": block, "b": block, "a": block[:2], "none": block[:0]}, ["a", "b"])
    assert [*made] == ["a", "b", "unknown"] and [len(each) for each in made.values()] == [2, 32, 32]


# In a browser


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium")
    if not found:
        pytest.skip("no chromium here: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def loud():
    """A page with long and hostile names, several runs and every part."""
    runs = [{"run": f"{HOSTILE}-{'x' * 120}-{i}"} for i in range(4)]
    classes = ("protein", "s" * 90, HOSTILE)
    return render(counted(*runs, classes=classes, drawn=True, warnings=["y" * 300]))


def test_chromium_finds_no_error_and_asks_the_network_for_nothing(tmp_path, loud, browser):
    page = tmp_path / "report.html"
    page.write_text(loud)
    urls, wrote = asked_for(browser, page, tmp_path)
    assert urls == set() and "CONSOLE" not in wrote


@pytest.mark.parametrize("width", [390, 1280])
def test_chromium_shows_every_picture_and_nothing_spills(tmp_path, loud, browser, width):
    for name, text in {
        "loud": loud,
        "one": render(counted({}, drawn=True, simulated=True)),
    }.items():
        page = tmp_path / f"{name}.html"
        page.write_text(FRAME.format(width=width, page=escape(text)))
        dom, _ = browse(browser, page, tmp_path / "profile")
        seen = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
        assert seen["width"] == width and seen["scroll"] <= width
        assert seen["images"] > 25 and seen["blank"] == 0
