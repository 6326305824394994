"""What a run leaves: results.json, run.json, predictions, the model and the report."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit import __version__, auditlog, ranks
from svpkit.bind import Experiment
from svpkit.collected import collected
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
from svpkit.particles.corrections import TEST
from svpkit.particles.split import Split
from svpkit.pipeline import Walked
from svpkit.plugins import Use
from svpkit.store import Artifact, Store, file_digest, plain, read_record, write_json
from svpkit.surroundings import surroundings

if TYPE_CHECKING:
    from svpkit.report.html import Story

SHEET = "DATASHEET.md"
WRITTEN = ("predictions.parquet", "report.html", SHEET)


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
    run = run_record(experiment, walked, store, started or {})
    own = experiment.recipe.name
    shutil.copyfile(walked.scores[own].path / "test.parquet", folder / "predictions.parquet")
    story = tell(experiment, walked, store, run)
    found = results(experiment, walked, store, story)
    # the page names what its numbers come from, and how far the log had come
    run["results"] = hashlib.sha256(_spelt(found)).hexdigest()
    run["audit"] = auditlog.head(store.root)
    card = model_card(story)
    _deploy(folder / "model", experiment, walked, card)
    gathered = collected(walked, store, story.split)
    (folder / SHEET).write_text(data_sheet(story, gathered), encoding="utf-8")
    write_report(folder / "report.html", story)
    _seal(folder, run, store)
    # last: what holds results.json is a finished run
    write_json(folder / "results.json", found)
    return story


def _seal(folder: Path, run: dict[str, Any], store: Store) -> None:
    # what was written is named by its digest, and run.json itself by a line of the log
    written = [*(folder / name for name in WRITTEN), *sorted((folder / "model").rglob("*"))]
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in written if p.is_file()}
    files["results.json"] = run["results"]
    write_json(folder / "run.json", run | {"files": files})
    digest = file_digest(folder / "run.json")
    said = {"run": folder.name, "run.json": digest, "results.json": run["results"]}
    auditlog.append(store.root, auditlog.WRITTEN, **said)


def _spelt(value: Any) -> bytes:
    # the bytes that write_json writes
    return json.dumps(value, indent=1, allow_nan=False).encode()


def note_start(
    root: Path,
    folder: Path,
    experiment: Experiment,
    artifacts: Sequence[Artifact],
    fresh: Sequence[str],
) -> dict[str, Any]:
    """Log that a run begins, what it will score, and what in it was set aside by options.

    Returns the log's line ({} off the main process).
    """
    given, recipe = experiment.asked, experiment.recipe
    gates = {arm.name: arm.gates for arm in experiment.arms if arm.drawing}
    said = {"run": folder.name, "recipe": recipe.name, "seed": recipe.seed}
    line = auditlog.append(
        root,
        auditlog.STARTED,
        **said,
        recipe_file=Path(experiment.where).name,
        recipe_digest=given.get("recipe_digest"),
        gates=gates,
        scores={a.label: a.name for a in artifacts if a.stage == "score"},
    )
    if changed := [each for each in given.get("overrides", ()) if ".gates" in each.split("=")[0]]:
        auditlog.append(root, auditlog.GATES, **said, overrides=changed, gates=gates)
    if fresh:
        auditlog.append(root, auditlog.FRESH, **said, stages=list(fresh))
    return line


def run_record(
    experiment: Experiment, walked: Walked, store: Store, started: Mapping[str, Any]
) -> dict[str, Any]:
    """Return where every number came from: recipe, versions, device, data, artifacts."""
    from svpkit import devices

    split = Split.open(walked.split.path)
    return {
        "svpkit": __version__,
        "recipe": experiment.recipe.model_dump(mode="json"),
        "recipe_file": Path(experiment.where).name,
        "recipe_digest": experiment.asked.get("recipe_digest"),
        "overrides": list(experiment.asked.get("overrides", ())),
        "fresh": list(store.fresh),
        "seed": experiment.recipe.seed,
        "started": started.get("time"),
        "ended": auditlog.now(),
        "plugins": plugins_used(experiment),
        **surroundings(),
        "device": devices.describe(),
        "processes": ranks.size(),
        "data": {name: s["digest"] for name, s in split.record["sets"].items()},
        "datasheet": SHEET,
        **_corrections(_described(experiment, split)),
        "artifacts": {
            label: {"name": a.name, "key": a.key, **_noted(read_record(a.path))}
            for label, a in labelled(store.used).items()
        },
        "generators": {
            label: {"artifact": a.name, "classes": _config(a)["spec"]["classes"]}
            for label, a in walked.generators.items()
        },
        "store": str(store.root.resolve()),
        "seconds": sum(store.seconds.values()),
    }


def _noted(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: record[name] for name in ("stage", "revision", "code")}
    return kept | {"content": content(record)}


def content(record: Mapping[str, Any]) -> str:
    """Return a digest of what an artifact holds: the names and digests of its files."""
    return hashlib.sha256(json.dumps(record["files"], sort_keys=True).encode()).hexdigest()


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
        split=_described(experiment, split),
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
                "history": json.loads((a.path / "history.json").read_text()),
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


def _described(experiment: Experiment, split: Split) -> dict[str, Any]:
    # the split may have been made with other files that corrected the same labels
    asked = experiment.corrections
    if asked is None:
        return split.record
    found = split.record.get("corrections") or {"applied": [], "counts": {}}
    stated = [row.set for rows in asked.rows for row in rows if row.set]
    counts = found["counts"] | ({TEST: stated.count("test")} if stated else {})
    return {**split.record, "corrections": {**found, "files": asked.files, "counts": counts}}


def _corrections(split: Mapping[str, Any]) -> dict[str, Any]:
    found = split.get("corrections")
    return {"corrections": {k: found[k] for k in ("files", "applied", "counts")}} if found else {}


def _seen(generator: Artifact) -> int | None:
    # fewer than asked where the training stopped early; none where nothing is trained
    rows = json.loads((generator.path / "history.json").read_text())
    return rows[-1]["images"] if rows else None


def labelled(artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    """Return artifacts by label; a label that two share gets the key beside it."""
    found: dict[str, Artifact] = {}
    for artifact in artifacts:
        label = artifact.label
        found[f"{label} ({artifact.key[:6]})" if label in found else label] = artifact
    return found


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
        "history": json.loads((artifact.path / "history.json").read_text()),
        "strategies": [s.plugin.name for s in arm.strategies],
        "seen": json.loads((artifact.path / "train_counts.json").read_text())["share_seen"],
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
    config = json.loads((trained / "config.json").read_text())
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


def plugins_used(experiment: Experiment) -> dict[str, dict[str, dict[str, str]]]:
    """Return {kind: {name: package, version, origin}} of every plugin that a run uses."""
    uses = _uses(experiment)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for each in [use.plugin for use in uses] + [kind for use in uses for kind in use.draws]:
        source = {"package": each.package, "version": each.version, "origin": each.origin}
        found.setdefault(each.kind, {})[each.name] = source
    return found


def _uses(experiment: Experiment) -> list[Use]:
    readers = [experiment.reader, experiment.pretraining]
    readers += [experiment.test[0]] if experiment.test else []
    readers += [reader for reader, _ in experiment.also]
    models = [experiment.generator, experiment.classifier, experiment.extractor]
    strategies = [s for arm in experiment.arms for s in arm.strategies]
    return [use for use in (*readers, *models, *strategies) if use]


def _manifest(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "manifest.json").read_text())


def _config(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "config.json").read_text())
