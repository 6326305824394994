"""What a run leaves: results.json, run.json, predictions, the model and the report."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit import auditlog
from svpkit.bind import Experiment
from svpkit.collected import collected
from svpkit.disk import forget, settle, write_json
from svpkit.keep import note_thresholds, weights_of
from svpkit.left import (
    gallery,
    read_calibration,
    read_copies,
    read_evidence,
    read_fidelity,
    read_selection,
    worst_errors,
)
from svpkit.particles.split import Split
from svpkit.pipeline import Walked
from svpkit.provenance import SHEET, described, labelled, run_record, seal, spelt
from svpkit.safe import read_json
from svpkit.store import Artifact, Store, plain

if TYPE_CHECKING:
    from svpkit.report.html import Story


def write_run(
    folder: Path,
    experiment: Experiment,
    walked: Walked,
    store: Store,
    started: Mapping[str, Any] | None = None,
) -> "Story":
    """Write a run's folder and return the story that its report tells.

    `started` is the line that the audit log got when the run began.
    """
    from svpkit.report.card import model_card
    from svpkit.report.datasheet import data_sheet
    from svpkit.report.html import write_report

    folder.mkdir(parents=True, exist_ok=True)
    run = run_record(folder, experiment, walked, store, started or {})
    own = experiment.recipe.name
    store.check_used()
    story = tell(experiment, walked, store, run)
    found = results(experiment, walked, store, story)
    # the page names what its numbers come from, and how far the log had come
    run["results"] = hashlib.sha256(spelt(found)).hexdigest()
    run["audit"] = auditlog.head(store.root)
    card = model_card(story)
    gathered = collected(walked, store, story.split)
    # first: what an earlier run left here must not pass for finished while files of it are replaced
    forget(folder / "results.json")
    shutil.copyfile(walked.scores[own].path / "test.parquet", folder / "predictions.parquet")
    _deploy(folder / "model", experiment, walked, card)
    (folder / SHEET).write_text(data_sheet(story, gathered), encoding="utf-8")
    write_report(folder / "report.html", story)
    seal(folder, run, store)
    settle(folder)
    # last: what holds results.json is a finished run
    write_json(folder / "results.json", found)
    return story


def results(experiment: Experiment, walked: Walked, store: Store, story: "Story") -> dict[str, Any]:
    """Return the numbers of a run: the recipe's own arm, and each baseline under "arms"."""
    from svpkit.report.drawing import drawing_notes

    found = read_evidence(walked)
    arms = {arm.name: _arm_results(found, arm.name) for arm in experiment.arms}
    own = arms.pop(experiment.recipe.name)
    names = list(own["test"]["n"])
    return {
        "name": experiment.recipe.name,
        "seed": experiment.recipe.seed,
        "classes": names,
        **own,
        "differences": found["differences"],
        "fidelity": read_fidelity(walked),
        "calibration": read_calibration(walked),
        "selection": {
            k: v for n in walked.generators for k, v in read_selection(walked, n).items()
        },
        "notes": drawing_notes(story),
        "seconds": {label: store.seconds[a.name] for label, a in labelled(store.used).items()},
        "arms": arms,
    }


def tell(experiment: Experiment, walked: Walked, store: Store, run: dict[str, Any]) -> "Story":
    """Return everything that the report shows."""
    from svpkit.report.html import Story

    found, split = read_evidence(walked), Split.open(walked.split.path)
    made = {a.name for a in store.made}
    return Story(
        recipe=run["recipe"],
        run=run,
        sets=split.counts,
        split=described(experiment, split),
        quarantined=_manifest(walked.data).get("quarantined", 0),
        arms={
            arm.name: _arm_story(experiment, walked, store, found, arm.name)
            for arm in experiment.arms
        },
        differences={
            d["against"]: d for d in found["differences"] if d["arm"] == experiment.recipe.name
        },
        generators={
            name: {
                "history": read_json(a.path / "history.json", list),
                "selection": read_selection(walked, name),
                "seconds": store.seconds[a.name],
                "images": _seen(a),
            }
            for name, a in walked.generators.items()
        },
        fidelity=read_fidelity(walked),
        gallery=gallery(split, walked, experiment),
        copies=read_copies(walked),
        errors=worst_errors(walked.scores[experiment.recipe.name]),
        stages=[
            {
                "stage": a.stage,
                "label": label,
                "seconds": store.seconds[a.name],
                "cached": a.name not in made,
                "key": a.key,
            }
            for label, a in labelled(store.used).items()
        ],
        origins=tuple(split.record["origins"]),
        calibration=read_calibration(walked),
    )


def _seen(generator: Artifact) -> int | None:
    # fewer than asked where the training stopped early; none where nothing is trained
    rows = read_json(generator.path / "history.json", list)
    return rows[-1]["images"] if rows else None


def _arm_results(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    # curves are for drawing; they stay in the evidence
    keep = [{k: v for k, v in found[s][name].items() if k != "curves"} for s in ("test", "val")]
    return dict(zip(("test", "val"), keep, strict=True))


def _arm_story(
    experiment: Experiment, walked: Walked, store: Store, found: Mapping[str, Any], name: str
) -> dict[str, Any]:
    artifact = walked.classifiers[name]
    arm = next(a for a in experiment.arms if a.name == name)
    return {
        "metrics": found["test"][name],
        "val": found["val"][name],
        "history": read_json(artifact.path / "history.json", list),
        "strategies": [s.plugin.name for s in arm.strategies],
        "seen": read_json(artifact.path / "train_counts.json")["share_seen"],
        "seconds": store.seconds[artifact.name],
        # what trains itself is asked for no number of images
        "images": _seen(artifact) or experiment.recipe.classifier.train.images,
    }


def _deploy(folder: Path, experiment: Experiment, walked: Walked, card: str) -> None:
    own = experiment.arms[0]
    trained, scored = walked.classifiers[own.name].path, walked.scores[own.name].path
    shutil.rmtree(folder, ignore_errors=True)
    skip = shutil.ignore_patterns("artifact.json", "config.json")
    shutil.copytree(trained, folder, ignore=skip)
    shutil.copyfile(scored / "val.parquet", folder / "val.parquet")
    if walked.reference:
        for name in ("reference.json", "reference.safetensors"):
            shutil.copyfile(walked.reference.path / name, folder / name)
    config = read_json(trained / "config.json")
    config["strategies"] = plain([s.describe() for s in own.strategies])
    config["prevalence"] = experiment.recipe.evaluate.prevalence
    asked = experiment.recipe.data
    config["intake"] = {"background": asked.background, "um_per_px": asked.um_per_px}
    config["digests"] = weights_of(folder)
    found = read_evidence(walked)["test"][own.name].get("thresholds")
    note_thresholds(folder, found, config["digests"])
    config["held_to_thresholds"] = found is not None
    (folder / "README.md").write_text(card, encoding="utf-8")
    # last: what holds config.json is a whole model, thresholds and all
    write_json(folder / "config.json", config)


def _manifest(artifact: Artifact) -> dict[str, Any]:
    return read_json(artifact.path / "manifest.json")


def _config(artifact: Artifact) -> dict[str, Any]:
    return read_json(artifact.path / "config.json")
