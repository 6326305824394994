"""Where a run's numbers come from: its record, the log's lines on it, and its seal."""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svpkit import __version__, auditlog, ranks
from svpkit.bind import Arm, Experiment
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError
from svpkit.options import check_options
from svpkit.particles.corrections import TEST
from svpkit.particles.split import Split
from svpkit.pipeline import Walked
from svpkit.plugins import Use
from svpkit.safe import read_json
from svpkit.shapes import read_run
from svpkit.store import Artifact, Store, place_of, read_record, root_of
from svpkit.surroundings import surroundings

SHEET = "DATASHEET.md"
WRITTEN = ("predictions.parquet", "report.html", SHEET)


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
    if not all(arm.gates == _as_written(experiment, arm) for arm in experiment.arms if arm.drawing):
        changed = [o for o in given["overrides"] if o.strip().startswith(("balance", "baselines"))]
        auditlog.append(root, auditlog.GATES, **said, overrides=changed, gates=gates)
    if fresh:
        auditlog.append(root, auditlog.FRESH, **said, stages=list(fresh))
    return line


def _as_written(experiment: Experiment, arm: Arm) -> dict[str, float] | None:
    """Return the gates that an arm's strategies had without the overrides; None where unknown."""
    # a table above the gates sets them aside too: what the recipe comes to is compared
    written = experiment.asked.get("written")
    if written is None:
        return arm.gates
    tables = dict(_table(written.get("balance")))
    if arm is not experiment.arms[0]:
        rows = written.get("baselines")
        found = [_table(each) for each in rows] if isinstance(rows, list | tuple) else []
        tables |= next((each for each in found if each.get("name") == arm.name), {})
    try:
        uses = [
            replace(use, options=check_options(use.plugin.options, options, "balance"))
            for use in arm.strategies
            for options in [_table(tables.get(use.plugin.name))]
        ]
    except SvpkitError:
        return None
    return Arm(arm.name, tuple(uses)).gates


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def note_refused(root: Path, folder: Path, experiment: Experiment, why: str) -> None:
    """Log that a run that was begun ended without results, and why, without this machine's places.

    Where the log cannot be written, as on the full disk that ended the run, `why` is what counts.
    """
    said = {"run": folder.name, "recipe": experiment.recipe.name, "seed": experiment.recipe.seed}
    told = re.sub(r"\S*[/\\](?=\S)", "", why)[:300]
    with contextlib.suppress(SvpkitError):
        auditlog.append(root, auditlog.REFUSED, **said, why=told)


def note_forced(run: Path, names: Sequence[str]) -> None:
    """Log which inputs a run was made to count though they are far from what it was validated on.

    Only where the run's store is at hand; on another machine prediction.json alone says so.
    """
    if not names or not (run / "run.json").is_file():
        return
    root = root_of(run, read_run(run))
    if (root / auditlog.LOG).is_file():
        auditlog.append(root, auditlog.FORCED, run=run.name, inputs=list(names))


def run_record(
    folder: Path,
    experiment: Experiment,
    walked: Walked,
    store: Store,
    started: Mapping[str, Any],
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
        "test_openings": auditlog.openings(store.root, split.record["sets"]["test"]["digest"]),
        "datasheet": SHEET,
        **_corrections(described(experiment, split)),
        "artifacts": {
            label: {"name": a.name, "key": a.key, **_noted(read_record(a.path))}
            for label, a in labelled(store.used).items()
        },
        "generators": {
            label: {"artifact": a.name, "classes": _drawn_by(a)}
            for label, a in walked.generators.items()
        },
        "store": place_of(store.root, folder),
        "seconds": sum(store.seconds.values()),
    }


def seal(folder: Path, run: dict[str, Any], store: Store) -> None:
    """Write run.json with the digest of each file of the run; a line of the log names its own."""
    written = [*(folder / name for name in WRITTEN), *sorted((folder / "model").rglob("*"))]
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in written if p.is_file()}
    files["results.json"] = run["results"]
    write_json(folder / "run.json", run | {"files": files})
    digest = file_digest(folder / "run.json")
    said = {"run": folder.name, "run.json": digest, "results.json": run["results"]}
    auditlog.append(store.root, auditlog.WRITTEN, **said)


def spelt(value: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    return json.dumps(value, indent=1, allow_nan=False).encode()


def content(record: Mapping[str, Any]) -> str:
    """Return a digest of what an artifact holds: the names and digests of its files."""
    return hashlib.sha256(json.dumps(record["files"], sort_keys=True).encode()).hexdigest()


def _noted(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: record[name] for name in ("stage", "revision", "code")}
    return kept | {"content": content(record)}


def described(experiment: Experiment, split: Split) -> dict[str, Any]:
    """Return what split.json says, with the files that this run named as corrections."""
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


def labelled(artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    """Return artifacts by label; a label that two share gets the key beside it."""
    found: dict[str, Artifact] = {}
    for artifact in artifacts:
        label = artifact.label
        found[f"{label} ({artifact.key[:6]})" if label in found else label] = artifact
    return found


def plugins_used(experiment: Experiment) -> dict[str, dict[str, dict[str, str]]]:
    """Return {kind: {name: package, version, origin}} of every plugin that a run uses.

    A stranger's has the digest of its code too: an edit under the same version is told.
    """
    uses = _uses(experiment)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for each in [use.plugin for use in uses] + [kind for use in uses for kind in use.draws]:
        source = {"package": each.package, "version": each.version, "origin": each.origin}
        source |= {"code": each.code} if each.strange else {}
        found.setdefault(each.kind, {})[each.name] = source
    return found


def _uses(experiment: Experiment) -> list[Use]:
    readers = [experiment.reader, experiment.pretraining]
    readers += [experiment.test[0]] if experiment.test else []
    readers += [reader for reader, _ in experiment.also]
    models = [experiment.generator, experiment.classifier, experiment.extractor]
    strategies = [s for arm in experiment.arms for s in arm.strategies]
    return [use for use in (*readers, *models, *strategies) if use]


def _drawn_by(generator: Artifact) -> list[str]:
    return read_json(generator.path / "config.json")["spec"]["classes"]
