"""One run as one HTML file that asks nothing of the network: the report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChainableUndefined, Environment, PackageLoader

from svpkit.legible import legible
from svpkit.report import advice, figures, numbers, thresholds, unnamed, words
from svpkit.report.drawing import NEAR_ORACLE, near_oracle
from svpkit.toml import to_toml

SECTIONS = {
    "sets": "Sets and counts",
    "particles": "Real and drawn particles",
    "fidelity": "How real the drawn ones are",
    "arms": "Arms beside each other",
    "curves": "Precision and recall",
    "confusion": "Confusion",
    "classes": "Class by class",
    "prevalence": "At the stated prevalence",
    "sizes": "By particle size",
    "calibration": "Calibration",
    "training": "Training",
    "errors": "Worst errors",
    "cost": "Cost",
    "provenance": "Provenance",
}
CALIBRATION = {
    "ece": "ECE, top class (15 bins of equal width)",
    "ece_mass": "ECE, top class (15 bins of equally many)",
    "ece_class": "ECE, mean over classes",
    "brier": "Brier score (0 to 2)",
}
METRICS = {
    "macro_auprc": "Macro AUPRC (average precision)",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "macro_f1": "Macro F1",
}
_HISTORY = {
    "loss": "training loss",
    "val.kid": "KID to held-out real images",
    "val.fid": "FID to held-out real images",
    "val.macro_auprc": "validation macro AUPRC",
}
_PICTURE_BYTES = 900_000


@dataclass(frozen=True)
class Story:
    """Everything that a report tells of a run, as plain values; any figure may be None.

    `recipe` and `run` are what run.json holds; `sets` {"train"|"val"|"test": {class: n}}; `split`
    what split.json holds. `arms` {name: {"metrics",
    "val", "history", "strategies", "seconds", "images", "seen"}} in order, the recipe's own first;
    "seen" {class: share of what training saw, 0 to 1} may be missing. `differences` {baseline:
    {metric: {"value", "low", "high", "p"}, "at_prevalence": {metric: ...}}}: the own arm minus that
    baseline, paired. `generators` {name: {"history", "seconds", "images"}}; `fidelity` {class:
    {"kid", "kid_floor", "kid_ceiling", "verdict", "words", ...}}; `gallery` {class: {"real": uint8
    (n, C, H, W), "drawn": uint8 (m, C, H, W) or None}}; `copies` {"class", "ratio", "drawn" and
    "train": uint8 (C, H, W)}, likest first; `errors` of the own arm, worst first,
    {"image": uint8 (C, H, W), "label", "predicted", "probability", "id", "ecd_um"}; `stages`
    {"stage", "label", "seconds", "cached", "key"}. `origins` are those of the test particles: with
    "simulated" among them, or a reader of that name, the report says so beside every figure.
    `calibration` is what reference.json says: {"calibrator", "calibration": {"val" | "test":
    {"before", "calibrated": {measure: interval}, "reliability"}}}, empty where nothing is deployed.
    """

    recipe: Mapping[str, Any]
    run: Mapping[str, Any]
    sets: Mapping[str, Mapping[str, int]]
    arms: Mapping[str, Mapping[str, Any]]
    split: Mapping[str, Any] = field(default_factory=dict)
    quarantined: int = 0
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    generators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fidelity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gallery: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    copies: Sequence[Mapping[str, Any]] = ()
    errors: Sequence[Mapping[str, Any]] = ()
    stages: Sequence[Mapping[str, Any]] = ()
    origins: tuple[str, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: Path | str, story: Story) -> Path:
    """Write the report to one self-contained file and return its path."""
    path = Path(path)
    path.write_text(render(story), encoding="utf-8")
    return path


def render(story: Story) -> str:
    """Return the report as HTML; the same story gives the same text."""
    said = advice.warned(story)
    mark = marked(story)
    arms = list(story.arms)
    return (
        _environment()
        .get_template("template.html.j2")
        .render(
            **said,
            **_panels(story, mark),
            story=story,
            mark=mark,
            sections=SECTIONS,
            metrics=METRICS,
            calibrated=CALIBRATION,
            arm_names=arms,
            own=story.arms[arms[0]] if arms else {},
            title=str(story.recipe.get("name") or "run"),
            asked=words.asked(story.recipe, story.sets.get("train") or {}, arms),
            verdict=words.verdict(story),
            gallery=_gallery(story),
            copies=_copies(story),
            wrong=_wrong(story),
            facts=list(_facts(story.run)),
            recipe_text=to_toml(story.recipe),
        )
    )


def marked(story: Story) -> str:
    """Return the mark that stands on every figure: simulated, and learnt from that simulator."""
    if not advice.is_simulated(story.recipe, story.origins):
        return ""
    return f"SIMULATED, {NEAR_ORACLE}" if near_oracle(story) else "SIMULATED"


def _environment() -> Environment:
    page = Environment(
        loader=PackageLoader("svpkit.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
        undefined=ChainableUndefined,  # a missing figure is a dash, not a lost report
    )
    for said in (
        *(numbers.number, numbers.bounds, numbers.signed, numbers.percent),
        *(numbers.plain, numbers.duration, numbers.value, numbers.the_arm),
    ):
        page.filters[said.__name__] = said
    page.globals.update(
        span=figures.span,
        tokens=figures.tokens,
        font=figures.FONT,
        n_colours=len(figures.ARMS),
        fidelity_sentence=words.fidelity_sentence,
        resolution=words.resolution,
        copied=advice.copied,
        unnamed=unnamed.unnamed,
        never=unnamed.never,
        thin=unnamed.thin,
        star=unnamed.star,
        convention=unnamed.convention,
        notes_of=unnamed.notes,
        few=advice.FEW,
        groups_in=advice.groups_in,
        promised=thresholds.sentences,
        threshold_shown=thresholds.shown,
        threshold_missed=thresholds.below,
    )
    return page


def _seen(value: Any) -> Any:
    # all that a page holds of others passes here; what is marked safe is ours
    return legible(value) if type(value) is str else value


def _panels(story: Story, mark: str) -> dict[str, list[figures.Panel]]:
    names = list(story.sets.get("test") or {})
    points = int(np.clip(1500 / max(1, len(names) * len(story.arms)), 30, 120))
    drawn = [figures.precision_recall(story.arms, name, mark, points) for name in names]
    return {
        "recall_panels": [panel for panel in drawn if panel],
        "classifier_panels": _training(story.arms, mark),
        "generator_panels": _training(story.generators, mark),
        "calibration_panels": [
            figures.reliability(each["reliability"], name, mark)
            for name, each in story.calibration.get("calibration", {}).items()
        ],
    }


def _training(models: Mapping[str, Mapping[str, Any]], mark: str) -> list[figures.Panel]:
    histories = {name: each.get("history") or [] for name, each in models.items()}
    drawn = (figures.curves(histories, key, label, mark) for key, label in _HISTORY.items())
    return [panel for panel in drawn if panel]


def _gallery(story: Story) -> dict[str, dict[str, list[str]]]:
    """Encode the pictures of each class, all over one grey range, fewer where classes are many."""
    blocks = [block for each in story.gallery.values() for block in each.values()]
    greys = figures.grey_range(blocks)
    size = max((block[0].size for block in blocks if block is not None and len(block)), default=1)
    most = int(np.clip(_PICTURE_BYTES / (size * max(1, len(blocks))), 2, 24))
    return {
        name: {
            kind: [figures.png(image, greys) for image in block[:most]]
            for kind, block in each.items()
            if block is not None and len(block)
        }
        for name, each in story.gallery.items()
    }


def _copies(story: Story, most: int = 8) -> dict[str, list[dict[str, Any]]]:
    """Encode the pairs of drawn and training image most like copies, a list a class."""
    greys = figures.grey_range([np.stack([e["drawn"], e["train"]]) for e in story.copies])
    found: dict[str, list[dict[str, Any]]] = {}
    for each in story.copies:
        pictures = {kind: figures.png(each[kind], greys) for kind in ("drawn", "train")}
        found.setdefault(each["class"], []).append({**each, **pictures})
    return {name: pairs[:most] for name, pairs in found.items()}


def _wrong(story: Story, most: int = 24) -> list[dict[str, Any]]:
    real: list[Any] = [each.get("real") for each in story.gallery.values()]
    greys = figures.grey_range(real or [np.asarray(e["image"]) for e in story.errors])
    return [{**each, "uri": figures.png(each["image"], greys)} for each in story.errors[:most]]


def _facts(run: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield (heading, rows) for run.json: its plain values first, then each nested part."""
    nested = {key: each for key, each in run.items() if isinstance(each, Mapping) and each}
    yield "run", [(key, _text(each)) for key, each in run.items() if key not in nested]
    for key, each in nested.items():
        if key != "recipe":
            yield key, list(_flat(each))


def _flat(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, each in part.items():
        if isinstance(each, Mapping) and each:
            yield from _flat(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(each)


def _text(each: Any) -> str:
    return each if isinstance(each, str) else json.dumps(each, default=str, ensure_ascii=False)
