"""Write the tables of README.md, benchmarks/README.md and recipes/BIG.md from their files.

uv run python benchmarks/tables.py          # rewrite them
uv run python benchmarks/tables.py --check  # exit 1 when a page is not what the files say
"""

import csv
import json
import re
import sys
from functools import cache
from pathlib import Path

from svpkit import suite
from svpkit.bench import Bench
from svpkit.board import board
from svpkit.measured import Places
from svpkit.plugins import discover
from svpkit.report import numbers, trial

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(ROOT / page for page in ("README.md", "benchmarks/README.md", "recipes/BIG.md"))
MARK = re.compile(r"(<!-- table: ([\w.:+/-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

SCATTER = """\
In brackets: where 95 % of repeated comparisons fall, with as many images a side as stated; this
scatter is no confidence interval. Features come from the run's own small extractor: these figures
do not compare with published KID or FID, nor across splits."""


def main() -> None:
    stale = False
    for page in PAGES:
        old = page.read_text()
        new = MARK.sub(lambda m: m[1] + table(m[2]) + "\n" + m[3], old)
        stale |= new != old
        if "--check" not in sys.argv:
            page.write_text(new)
    if stale and "--check" in sys.argv:
        sys.exit("tables are stale: python benchmarks/tables.py")


def table(name: str) -> str:
    """Return one table: of a CSV as it stands or over its seeds, of a run's results, of a suite."""
    kind, _, file = name.rpartition(":")
    if kind == "matrix":
        return matrix(file)
    if kind in SUITES:
        return SUITES[kind](trial_of(file))
    path = RESULTS / file
    if kind in ROWS:
        with path.open(newline="") as lines:
            return ROWS[kind](list(csv.DictReader(lines)))
    if kind in SEEDS:
        with path.open(newline="") as lines:
            return over_seeds(list(csv.DictReader(lines)), *SEEDS[kind])
    if kind:
        return {"arms": arms, "fidelity": fidelity, "seconds": seconds}[kind](
            json.loads(path.read_text())
        )
    with path.open() as lines:
        head, *rows = csv.reader(lines)
    return markdown(head, rows)


# What makes rows of a CSV one row of its table, and which figures are shown over their seeds.
SEEDS = {
    "quality": (
        ("generator", "pretrain", "n", "minutes"),
        ("images", "cpu_s", "kid_gap", "background_shift_sd", "copy_rate"),
    ),
    "drawing": (
        ("drawn",),
        ("macro_auprc", "minus_oversample", "oil_kid_gap", "air_kid_gap", "oil_coverage")
        + ("oil_c2st", "oil_copy_rate", "reject_rate"),
    ),
}


def over_seeds(rows: list[dict], keys: tuple[str, ...], figures: tuple[str, ...]) -> str:
    """Return means over seeds with the lowest and highest; failed runs are counted."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    lines = []
    for key, found in groups.items():
        good = [row for row in found if not row["error"]]
        failed = f"{len(good)}" + (f" ({len(found) - len(good)} failed)" if good != found else "")
        lines.append([*key, failed, *(spread([row[f] for row in good]) for f in figures)])
    return markdown([*keys, "seeds", *figures], lines)


def spread(values: list[str]) -> str:
    """Return the mean, and from where to where the seeds went."""
    known = [float(v) for v in values if v not in ("", "None")]
    if not known:
        return "-"
    mean, low, high = sum(known) / len(known), min(known), max(known)
    if abs(mean) >= 100:
        return f"{mean:,.0f}"
    return f"{mean:.3f}" + (f" ({low:.3f} to {high:.3f})" if len(known) > 1 else "")


def arms(results: dict) -> str:
    own = {results["name"]: {"test": results["test"]}}
    gaps = {d["against"]: d for d in results["differences"] if d["arm"] == results["name"]}
    rows = []
    for name, arm in {**own, **results["arms"]}.items():
        metrics = [cell(arm["test"][m]) for m in ("macro_auprc", "macro_precision", "macro_recall")]
        gap = cell(gaps[name]["macro_auprc"], "+") if name in gaps else "-"
        rows.append([name, *metrics, gap])
    head = ["arm", "macro AUPRC", "macro precision", "macro recall"]
    return markdown([*head, f"macro AUPRC, {results['name']} minus it"], rows)


def fidelity(results: dict) -> str:
    head = ["class", "KID", "floor: real to real", "KID minus floor", "ceiling: noise"]
    head += ["a side", "copies", "real copies", "drawn", "real"]
    rows = []
    for name, found in results["fidelity"].items():
        kids = [cell(found.get(k)) for k in ("kid", "kid_floor", "kid_gap", "kid_ceiling")]
        copies = [percent(found.get(k)) for k in ("copy_rate", "copy_rate_floor")]
        if found.get("copy_recall") is not None:
            copies[0] = f"at least {copies[0]} (catches {found['copy_recall']:.0%} of planted)"
        counts = [f"{found[k]:,}" for k in ("n_drawn", "n_real")]
        rows.append([name, *kids, f"{found.get('n_compared', '-')}", *copies, *counts])
    return f"{markdown(head, rows)}\n\n{SCATTER}"


def seconds(results: dict) -> str:
    spent = results["seconds"]
    rows = [[name, f"{s:,.0f}"] for name, s in spent.items()]
    return markdown(["stage", "seconds"], [*rows, ["all", f"{sum(spent.values()):,.0f}"]])


@cache
def trial_of(name: str) -> trial.Board:
    """Return what the committed rows of a suite say."""
    path = ROOT / "benchmarks" / f"{name}.toml"
    read = suite.load(path)
    places = Places(ROOT / "runs", ROOT / "store", RESULTS / name)
    cells = suite.cells(read, path)
    return board(Bench(read, path, cells, places, discover(builtin_only=True)))


def gains(found: trial.Board) -> str:
    """Arms against settings: the mean on test and, in brackets, what it is beside the baseline."""

    def told(each: dict) -> str:
        if not each["minus"] or each["minus"]["value"] is None:
            return numbers.number(each["test"])
        sure = "\\*" if (each["minus"]["p_holm"] or 1) < 0.05 else ""
        minus, around = numbers.signed(each["minus"]), numbers.bounds(each["minus"])
        return f"{numbers.number(each['test'])}, {minus}{sure}" + (f" ({around})" if around else "")

    rows = over_settings(found, told)
    return f"{rows}\n\n\\* p < 0.05 after Holm's correction over the arms of its column."


def operating(found: trial.Board) -> str:
    """Arms against settings: macro precision, recall, and AUPRC at the stated prevalence."""
    every = ("macro_precision", "macro_recall", "at_prevalence.macro_auprc")
    arms = [each for s in found.settings for each in s.said["arms"].values()]
    keys = [k for k in every if any(each[k] == each[k] for each in arms)]
    return over_settings(found, lambda each: " / ".join(f"{each[k]:.3f}" for k in keys))


def shares(found: trial.Board) -> str:
    """Arms against settings: the share of the gap to the oracle that each closes."""

    def told(each: dict) -> str:
        share = each["share"]
        ends = [f"{100 * share[k]:.0f}" for k in ("value", "low", "high")] if share else []
        return "{} % ({} to {})".format(*ends) if ends else "-"

    return over_settings(found, told)


def over_settings(found: trial.Board, told: object, one: str = "macro AUPRC") -> str:
    shown = found.settings
    rows = [
        [arm, *(told(s.said["arms"][arm]) if arm in s.said["arms"] else "-" for s in shown)]
        for arm in found.arms
    ]
    titles = [s.title.replace("data.train ", "n = ") for s in shown]
    titles = [one if title == "all" else title for title in titles]
    return markdown(["arm", *titles], rows)


def says(found: trial.Board) -> str:
    return "\n".join(f"- {line}" for line in trial.headlines(found))


def classes(found: trial.Board) -> str:
    """Arms against settings: average precision of each class."""
    keys = [f"auprc.{name}" for name in found.classes]
    one = "average precision: " + " / ".join(map(str, found.classes))
    return over_settings(found, lambda each: " / ".join(f"{each[k]:.3f}" for k in keys), one)


def doses(found: trial.Board) -> str:
    """Settings against what each says of every arm beside the baseline."""
    rows = []
    for setting in found.settings:
        for arm, each in setting.said["arms"].items():
            if arm != found.baseline:
                around = numbers.bounds(each["minus"])
                minus = f"{numbers.signed(each['minus'])} ({around})"
                dose = ", ".join(setting.at.values())
                rows.append([dose, arm, numbers.interval(each["test"]), minus])
    return markdown(["dose", "arm", "macro AUPRC", f"minus {found.baseline}"], rows)


def cost(found: trial.Board) -> str:
    head = ["arm", "images seen", "by the generator", "time", "peak memory, MB"]
    return markdown(head, [[arm, *told] for arm, told in trial.costs(found)])


def won(found: trial.Board) -> str:
    rows = []
    for each in found.winners:
        at = ", ".join(f"{numbers.plain(k)} {v}" for k, v in each["at"].items())
        values = [numbers.interval(each[side]) for side in ("val", "test")]
        rows.append([each["arm"], at, str(each["configurations"]), *values])
    return markdown(["arm", "winner", "configurations tried", "val", "test"], rows)


def coverage(rows: list[dict]) -> str:
    """Methods against classes: mean coverage over the cases and, in brackets, the lowest row."""
    names = list(dict.fromkeys(row["class"] for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        said = [_covered([row for row in own if row["class"] == name]) for name in names]
        below = sum(float(row["coverage"]) < 0.93 for row in own)
        lines.append([method, *said, f"{below} of {len(own)}"])
    return markdown(["method", *names, "rows under 93 %"], lines)


def widths(rows: list[dict]) -> str:
    """Cases against methods: mean width of the interval over its expected count, rare classes."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cases: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in rows:
        if row["bins"] == "all" and row["class"] == "oil":
            key = tuple(row[k] for k in ("dprime", "mix", "validation", "particles"))
            told = f"{float(row['width']):,.0f} ({float(row['bias']):+,.0f})"
            cases.setdefault((*key, row["expected"]), {})[row["method"]] = [told]
    lines = [[*key, *(found.get(m, ["-"])[0] for m in methods)] for key, found in cases.items()]
    head = ["d'", "mix", "validation", "particles", "oil expected"]
    return markdown([*head, *methods], lines)


def _covered(rows: list[dict]) -> str:
    values = [float(row["coverage"]) for row in rows if row["coverage"]]
    return f"{sum(values) / len(values):.3f} ({min(values):.3f})" if values else "-"


def descriptors(rows: list[dict]) -> str:
    """Canvas and reference against size: bias, and correlation, of the ECD over all runs."""
    against = {"instrument": "the ABD diameter as listed", "mask": "the diameter of the mask"}
    lines = [
        [row["canvas"], against[row["against"]], row["size_um"], row["n"]]
        + [f"{100 * float(row[k]):+.0f} %" for k in ("bias_mean", "bias_median")]
        + [f"{float(row[k]):.2f}" for k in ("pearson", "spearman")]
        for row in rows
        if (row["run"], row["parts"], row["quantity"]) == ("all", "any", "ecd_um")
        and row["against"] in against
    ]
    head = ["image", "ECD from pixels beside", "um", "n", "mean bias", "median bias"]
    return markdown([*head, "Pearson", "Spearman"], lines)


def strangers(rows: list[dict]) -> str:
    """Strangers against scores: the share flagged by seed, AUROC, and what that does to counts."""
    lines = []
    for stranger, score in dict.fromkeys((row["stranger"], row["score"]) for row in rows):
        own = [row for row in rows if (row["stranger"], row["score"]) == (stranger, score)]
        told = [", ".join(f"{float(row[k]):.2f}" for row in own if row[k]) or "-" for k in RECALLED]
        chosen = sum(row["chosen"] == "1" for row in own)
        lost = [spread([row[f"lost_{name}"] for row in own]) for name in ("air_bubble", "protein")]
        errors = [
            " to ".join(
                f"{sum(float(row[f'{when}_air_bubble']) for row in own) / len(own):+.2f}"
                for when in ("before", "after")
            )
        ]
        lines.append([stranger, score, f"{chosen} of {len(own)}", *told, *lost, *errors])
    head = [
        "stranger",
        "score",
        "chosen",
        "flagged",
        "AUROC",
        "bubbles flagged",
        "proteins flagged",
    ]
    return markdown([*head, "error of the bubble count"], lines)


RECALLED = ("recall", "auroc")


def shapes(rows: list[dict]) -> str:
    """Drawn classes against arms: average precision of each, beside how drawn ones look."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    drawn = [key.rpartition(".")[2] for key in rows[0] if key.startswith("fidelity.kid_gap.")]
    lines = []
    for name in drawn:
        said = {
            arm: [row[f"test.auprc.{name}"] for row in rows if row["arm"] == arm] for arm in arms
        }
        own = [row for row in rows if row["arm"] == "drawn"]
        looks = [spread([row[f"fidelity.{k}.{name}"] for row in own]) for k in LOOKS]
        lines.append([name, *looks, *(spread(said[arm]) for arm in arms)])
    return markdown(["class", *LOOKS, *arms], lines)


def slopes(rows: list[dict]) -> str:
    """Stages against the two largest sets: what one more particle costs, and the time's growth."""
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = sorted((row for row in rows if row["stage"] == stage), key=lambda row: int(row["n"]))
        less, more = own[-2:]
        n = int(more["n"]) - int(less["n"])
        cost = 1e6 * (float(more["peak_mb"]) - float(less["peak_mb"])) / n
        times = float(more["seconds"]) / float(less["seconds"])
        far = float(more["peak_mb"]) / 1e3 + cost * (1e8 - int(more["n"])) / 1e9
        lines.append([stage, f"{cost:.0f}", f"{times:.1f}", f"{far:.0f}"])
    head = ["stage", "bytes a particle", "times the seconds", "GB at 100 million (arithmetic)"]
    return markdown(head, lines)


LOOKS = ("kid_gap", "coverage", "copy_rate")


def matrix(name: str) -> str:
    """Sources against targets of two suites that go each other's way: AUPRC and the drop."""
    there, back = (trial_of(file) for file in name.split("+"))
    said = [
        {arm: s.said["arms"][arm] for arm in s.said["arms"]}
        for s in (there.settings[0], back.settings[0])
    ]
    titles = [f"to {goal}" for goal in ("flowcam-like", "mfi-like")]
    lines = []
    for arm in there.arms:
        lines.append([arm])
        for own in said:
            minus = own[arm]["minus"]
            drop = ""
            if minus and minus["value"] is not None:
                drop = f", {numbers.signed(minus)} ({numbers.bounds(minus)})"
            lines[-1].append(f"{numbers.number(own[arm]['test'])}{drop}")
    return markdown(["arm", *titles], lines)


ROWS = {
    "coverage": coverage,
    "widths": widths,
    "descriptors": descriptors,
    "strangers": strangers,
    "shapes": shapes,
    "slopes": slopes,
}
SUITES = {
    "gains": gains,
    "operating": operating,
    "classes": classes,
    "doses": doses,
    "shares": shares,
    "says": says,
    "cost": cost,
    "won": won,
}


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def cell(found: dict | None, sign: str = "") -> str:
    if not found or found["value"] is None:
        return "-"
    return f"{found['value']:{sign}.3f} ({found['low']:{sign}.3f} to {found['high']:{sign}.3f})"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
