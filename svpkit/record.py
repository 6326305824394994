"""What a run leaves: results.json, run.json, predictions, the model and the report."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit import __version__, ranks
from svpkit.bind import Experiment
from svpkit.doctor import PACKAGES, version
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
from svpkit.store import Artifact, Store, plain, read_record, write_json

if TYPE_CHECKING:
    from svpkit.report.html import Story


def write_run(folder: Path, experiment: Experiment, walked: Walked, store: Store) -> "Story":
    """Write a run's folder and return the story that its report tells."""
    from svpkit.report.card import model_card
    from svpkit.report.html import write_report

    folder.mkdir(parents=True, exist_ok=True)
    run = run_record(experiment, walked, store)
    write_json(folder / "run.json", run)
    own = experiment.recipe.name
    shutil.copyfile(walked.scores[own].path / "test.parquet", folder / "predictions.parquet")
    story = tell(experiment, walked, store, run)
    _deploy(folder / "model", experiment, walked, model_card(story))
    write_report(folder / "report.html", story)
    # last: what holds results.json is a finished run
    write_json(folder / "results.json", results(experiment, walked, store, story))
    return story


def run_record(experiment: Experiment, walked: Walked, store: Store) -> dict[str, Any]:
    """Return where every number came from: recipe, versions, device, data, artifacts."""
    from svpkit import devices

    split = Split.open(walked.split.path)
    return {
        "svpkit": __version__,
        "recipe": experiment.recipe.model_dump(mode="json"),
        "recipe_file": Path(experiment.where).name,
        "seed": experiment.recipe.seed,
        "plugins": {
            p.plugin.name: f"{p.plugin.package} {p.plugin.version}".strip()
            for p in _uses(experiment)
        },
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}},
        "device": devices.describe(),
        "processes": ranks.size(),
        "commit": commit(),
        "data": {name: s["digest"] for name, s in split.record["sets"].items()},
        **_corrections(_described(experiment, split)),
        "artifacts": {
            label: {"name": a.name, "key": a.key, "code": read_record(a.path)["code"]}
            for label, a in labelled(store.used).items()
        },
        "generators": {
            label: {"artifact": a.name, "classes": _config(a)["spec"]["classes"]}
            for label, a in walked.generators.items()
        },
        "store": str(store.root.resolve()),
        "seconds": sum(store.seconds.values()),
    }


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


def commit() -> str | None:
    """Return the commit that svpkit's source is at, with a mark when it was changed, or None."""
    here = Path(__file__).parent
    # installed inside a stranger's repository, git would tell of that one
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git(here, "describe", "--always", "--dirty", "--abbrev=12")


def _git(folder: Path, *args: str) -> str | None:
    try:
        git = ["git", "-C", str(folder), *args]
        said = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None if said.returncode == 0 else None


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
        "images": experiment.recipe.classifier.train.images,
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


def _uses(experiment: Experiment) -> list[Any]:
    uses = [experiment.reader, experiment.classifier]
    uses += [experiment.generator] if experiment.generator else []
    return uses + [s for arm in experiment.arms for s in arm.strategies]


def _manifest(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "manifest.json").read_text())


def _config(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "config.json").read_text())
