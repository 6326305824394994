"""The model card that travels with a trained classifier: Markdown, made from the run's figures."""

from collections.abc import Mapping
from typing import Any

from svpkit.report.advice import own_arm, warned
from svpkit.report.html import CALIBRATION, METRICS, Story
from svpkit.report.markdown import points as _points
from svpkit.report.markdown import rows as _rows
from svpkit.report.markdown import text as _text
from svpkit.report.numbers import interval, listed, number, signed
from svpkit.report.unnamed import convention, macro, precision
from svpkit.report.words import fidelity_sentence, verdict

_USE = """\
To name single particles in images of the same instrument, settings and kinds as the training set.
To compare ways of meeting class imbalance. The classifier is fixed and deterministic: drawn
particles take part in training alone, never in validation, test or prediction."""

_LIMITS = (
    "It knows only the classes above: any other particle is given one of their names.",
    "Another instrument, magnification, product or lot may move every figure: test there first.",
    "Class counts characterise a sample. They are not a compendial test and decide no release.",
    "Precision depends on the mixture: read it at the prevalence of your sample.",
    "It supports a regulated record but does not make one: identity, signature and access control "
    "belong to the system around it.",
)


def model_card(story: Story) -> str:
    """Return the model card of the recipe's own arm as Markdown."""
    said = warned(story)
    name = next(iter(story.arms), "model")
    parts = [
        f"# Model card: {_text(story.recipe.get('name', 'run'))}, {_text(name)}",
        f"> **{said['simulated']}**" if said["simulated"] else "",
        "## Model\n\n" + _model(story),
        "## Intended use\n\n" + _USE,
        "## Data\n\n" + _data(story),
        "## Performance on the test set\n\n" + _performance(story) + "\n\n" + _text(said["sure"]),
        _prevalence(story),
        "## Beside its baselines\n\n" + _baselines(story),
        _drawn(story),
        "## Limits\n\n" + _points([*said["warnings"], *_LIMITS]),
        "## Provenance\n\n" + _provenance(story.run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _model(story: Story) -> str:
    classifier = story.recipe.get("classifier") or {}
    options = ", ".join(f"{k} = {v}" for k, v in (classifier.get("options") or {}).items())
    own = own_arm(story.arms)
    met = listed(own.get("strategies") or ["none"])
    seen = own.get("images")
    lines = [
        f"Classifier: {classifier.get('plugin', 'not stated')} ({options or 'default options'}).",
        f"Classes: {listed(story.sets.get('train') or {})}.",
        f"Imbalance met with: {met}.",
        f"Images seen in training: {seen:,}." if isinstance(seen, int) else "",
    ]
    return _points(line for line in lines if line)


def _data(story: Story) -> str:
    classes = story.sets.get("train") or {}
    names = {"train": "training", "val": "validation", "test": "test"}
    head = ["class", *(names.get(s, s) for s in story.sets)]
    rows = [[c, *(f"{each.get(c, 0):,}" for each in story.sets.values())] for c in classes]
    reader = (story.recipe.get("data") or {}).get("reader", "not stated")
    sheet = f"\n\nMore in the run's {story.run['datasheet']}." if "datasheet" in story.run else ""
    return (
        f"Reader: {_text(reader)}. {_images(story)} Particles by set:\n\n{_rows(head, rows)}{sheet}"
    )


def _images(story: Story) -> str:
    data = story.recipe.get("data") or {}
    scale, divided = data.get("um_per_px"), data.get("background") == "divide"
    parts = [
        f"Images of {data.get('size', '?')} px",
        "divided by their background" if divided else "with their background as it is",
        f"all at {scale:g} um a pixel" if scale else "each at its own scale",
    ]
    return ", ".join(parts) + "; `svpkit predict` does the same to what it reads."


def _performance(story: Story) -> str:
    metrics = own_arm(story.arms).get("metrics") or {}
    told = [[label, macro(metrics, key)] for key, label in METRICS.items()]
    found = (story.calibration.get("calibration") or {}).get("test", {}).get("calibrated", {})
    told += [[label, interval(found[key])] for key, label in CALIBRATION.items() if key in found]
    tables = [
        _rows(["metric", "value (95 % interval)"], told),
        _class_rows(metrics, metrics.get("per_class") or {}),
        _text(convention(story.arms)),
    ]
    return "\n\n".join(part for part in tables if part)


def _class_rows(metrics: Mapping[str, Any], raw: Mapping[str, Any]) -> str:
    head = ["class", "AUPRC", "precision", "recall", "particles", "false positives, raw"]
    rows = [
        [
            name,
            interval(row.get("auprc")),
            precision(raw.get(name, {}) | {"precision": row.get("precision")}),
            interval(row.get("recall")),
            number(raw.get(name, {}).get("n"), 0),
            number(raw.get(name, {}).get("false_positives"), 0),
        ]
        for name, row in (metrics.get("per_class") or {}).items()
    ]
    return _rows(head, rows)


def _prevalence(story: Story) -> str:
    metrics = own_arm(story.arms).get("metrics") or {}
    here = metrics.get("at_prevalence")
    if not here:
        return ""
    stated = (story.recipe.get("evaluate") or {}).get("prevalence") or {}
    mixture = " : ".join(f"{share:g} {_text(name)}" for name, share in stated.items())
    table = _class_rows(here, metrics.get("per_class") or {})
    return f"## At the stated prevalence ({mixture or 'see the recipe'})\n\n{table}"


def _baselines(story: Story) -> str:
    found = verdict(story)
    rows = [
        [
            name,
            *(macro(arm.get("metrics") or {}, key) for key in list(METRICS)[:3]),
            signed((story.differences.get(name) or {}).get("macro_auprc")),
        ]
        for name, arm in story.arms.items()
    ]
    head = ["arm", *list(METRICS.values())[:3], "own arm minus this, macro AUPRC"]
    return f"{_text(found.sentence)}\n\n{_rows(head, rows)}"


def _drawn(story: Story) -> str:
    if not story.fidelity:
        return ""
    lines = [fidelity_sentence(name, row) for name, row in story.fidelity.items()]
    return f"## Drawn particles\n\n{_points(lines)}"


def _provenance(run: Mapping[str, Any]) -> str:
    wanted = ("svpkit", "commit", "seed", "ended", "device", "data", "test_openings", "versions")
    wanted += ("plugins", "results", "audit")
    found = (f"{key}: {_spelt(run[key])}" for key in wanted if run.get(key) is not None)
    return _points(found) or "See run.json."


def _spelt(each: Any) -> str:
    if isinstance(each, Mapping):
        inner = {
            k: f"({_spelt(v)})" if isinstance(v, Mapping) else _spelt(v) for k, v in each.items()
        }
        return "; ".join(f"{key} {part}" for key, part in inner.items())
    if isinstance(each, list | tuple):
        return ", ".join(_spelt(part) for part in each)
    return str(each)
