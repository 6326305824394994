"""The labels of a run looked at again: probable errors, with pictures and a CSV to correct."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit import ranks
from svpkit.bind import Arm, Experiment, trained_by
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError
from svpkit.particles.corrections import write_rows
from svpkit.particles.folds import fold
from svpkit.particles.particleset import concat
from svpkit.particles.split import Split
from svpkit.pipeline import Get, classifier_params
from svpkit.recipe import validate
from svpkit.report.audit import Audit, shown, write_page
from svpkit.report.audit import table as table
from svpkit.safe import opened, read_json
from svpkit.shapes import read_run
from svpkit.store import Artifact, Store, root_of

if TYPE_CHECKING:
    from svpkit.plugins import Registry

CSV, PAGE, RECORD = "corrections.csv", "audit.html", "audit.json"
COLUMNS = ("id", "set", "label", "suggested", "p_label", "p_suggested", "quality")
COLUMNS += ("corrected", "source", "group")
FOLDS = 5


@dataclass(frozen=True)
class Asked:
    """What is audited: a run's folder; how many folds; images seen a fold (None: the run's).

    `store` holds the artifacts (None: the run's own); `out` is the folder written (None: `audit` in
    the run's folder).
    """

    run: Path
    folds: int = FOLDS
    images: int | None = None
    store: Path | None = None
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that is written."""
        return self.out or self.run / "audit"


def audit(asked: Asked, registry: "Registry") -> Audit:
    """Find the probable label errors of a run and write them for a person to look at.

    A fresh classifier of the run's recipe is trained for each fold of its train and val particles
    on the other folds, without drawn particles and without strategies that choose on val; test
    particles get the mean of what all of them say. Writes corrections.csv, audit.html and
    audit.json. What the store holds already is not made again. Raises SvpkitError without cleanlab,
    for a run whose split is not in the store, and where a corrections.csv lies in the folder that
    was changed since it was written.
    """
    from svpkit.evaluate.audit import check_installed, probable_errors
    from svpkit.keep import note_audit

    run = read_run(asked.run)
    store = Store(asked.store or root_of(asked.run, run))
    split, experiment = _split(asked, run, store), _experiment(asked, run, registry)
    check_installed()
    _refuse_edited(asked.folder)
    planned: list[Artifact] = []

    def note(*args: Any, **more: Any) -> Artifact:
        planned.append(store.name(*args, **more))
        return planned[-1]

    _scored(experiment, split, asked.folds, note)
    if ranks.main():
        note_audit(asked.run, asked.folder, [a.name for a in planned], done=False)
    folds = _scored(experiment, split, asked.folds, store.get)
    sets = Split.open(split.path)
    rows = [_out_of_fold(split, folds), _tested(folds, sets.classes)]
    found = pd.concat([probable_errors(each, sets.classes) for each in rows], ignore_index=True)
    simulated = "simulated" in sets.record["origins"]
    without = _judging(experiment)[1]
    result = Audit(asked.folder, found.assign(corrected=""), sets.counts, simulated, without)
    if ranks.main():
        _write(result, asked, run, _pictures(found, split, folds), planned)
        note_audit(asked.run, asked.folder, [a.name for a in planned], done=True)
    return result


def _experiment(asked: Asked, run: Mapping[str, Any], registry: "Registry") -> Experiment:
    recipe = validate(run.get("recipe", {}), f"{asked.run / 'run.json'}: recipe")
    if asked.images:
        train = recipe.classifier.train.model_copy(update={"images": asked.images})
        named = recipe.classifier.model_copy(update={"train": train})
        recipe = recipe.model_copy(update={"classifier": named})
    return trained_by(recipe, registry, f"{asked.run / 'run.json'}")


def _split(asked: Asked, run: Mapping[str, Any], store: Store) -> Artifact:
    said = run["artifacts"].get("split")
    if said is None:
        raise SvpkitError(f"{asked.run / 'run.json'}: artifacts.split: missing")
    split = Artifact("split", said.get("key", ""), store.root / said["name"], "split")
    if not split.made:
        raise SvpkitError(
            f"{split.path}: the run's split is not in this store (--store DIR names another)"
        )
    with opened(split.path, "a split that cannot be read"):
        sets = Split.open(split.path)
        for opens in (sets.train, sets.val):
            opens()
    return split


def _judging(experiment: Experiment) -> tuple[Arm, dict[str, str]]:
    """Return the run's own arm as a fold can train it, and what it leaves out: {strategy: why}."""
    own, without = experiment.arms[0], {}
    for use in own.strategies:
        strategy = use()
        if hasattr(strategy, "draws"):
            without[use.plugin.name] = "drawn particles do not judge"
        elif getattr(strategy, "needs_val", False):
            without[use.plugin.name] = "val is judged, and may not choose"
    kept = tuple(use for use in own.strategies if use.plugin.name not in without)
    return Arm(own.name, kept), without


def _scored(
    experiment: Experiment, split: Artifact, folds: int, get: Get
) -> list[tuple[Artifact, Artifact]]:
    """Name or make (fold, score) of each fold: what a classifier of the others says of it."""
    from svpkit.classify.score import score
    from svpkit.classify.stage import classifier

    arm, _ = _judging(experiment)
    params = classifier_params(experiment, arm) | {"validations": 1}
    judging = {name: params[name] for name in ("classifier", "strategies", "prevalence")}
    made = []
    for i in range(folds):
        seed, at = experiment.recipe.seed, f"fold {i + 1} of {folds}"
        dealt = get(fold, {"fold": i, "folds": folds, "seed": seed}, split, label=f"fold: {at}")
        trained = get(classifier, params, dealt, label=f"classifier: {at}")
        made.append((dealt, get(score, judging, trained, dealt, label=f"score: {at}")))
    return made


def _out_of_fold(split: Artifact, folds: list[tuple[Artifact, Artifact]]) -> pd.DataFrame:
    """Return a row a train or val particle: what the model that never saw it says."""
    frames = []
    for dealt, scored in folds:
        positions = np.load(dealt.path / "val.npy", allow_pickle=False)
        frames.append(pd.read_parquet(scored.path / "val.parquet").assign(position=positions))
    rows = pd.concat(frames, ignore_index=True).sort_values("position", ignore_index=True)
    trained = np.load(split.path / "train.npy", allow_pickle=False)
    return rows.assign(set=np.where(rows["position"].isin(trained), "train", "val"))


def _tested(folds: list[tuple[Artifact, Artifact]], classes: tuple[str, ...]) -> pd.DataFrame:
    """Return a row a test particle: the mean of what the models of all folds say."""
    frames = [pd.read_parquet(scored.path / "test.parquet") for _, scored in folds]
    columns = [f"p_{name}" for name in classes]
    mean = np.mean([frame[columns].to_numpy(np.float64) for frame in frames], axis=0)
    rows = frames[0].assign(set="test", position=np.arange(len(mean)))
    return rows.assign(**{name: mean[:, k] for k, name in enumerate(columns)})


def _pictures(
    found: pd.DataFrame, split: Artifact, folds: list[tuple[Artifact, Artifact]]
) -> dict[int, np.ndarray]:
    """Return the pictures that the page shows, uint8 (C, H, W), by row of `found`.

    Of the test set, which stays shut, those that the scores kept of their worst errors.
    """
    sets = Split.open(split.path)
    particles = concat([sets.train(), sets.val()])
    names = (split.path / f"{name}.npy" for name in ("train", "val"))
    positions = np.concatenate([np.load(name, allow_pickle=False) for name in names])
    place = dict(zip(positions.tolist(), range(len(positions)), strict=True))
    fits, tested = shown(found), (found["set"] == "test").to_numpy()
    own = found.loc[fits & ~tested, "position"]
    images = particles.images([place[p] for p in own])
    pictures = dict(zip(own.index.tolist(), images, strict=True))
    kept: dict[int, np.ndarray] = {}
    for _, scored in folds:
        rows = read_json(scored.path / "worst.json", list)
        kept |= dict(zip(rows, np.load(scored.path / "worst.npy", allow_pickle=False), strict=True))
    reported = found.loc[fits & tested, "position"]
    return pictures | {int(i): kept[p] for i, p in reported.items() if p in kept}  # type: ignore[arg-type]


def _refuse_edited(folder: Path) -> None:
    path, record = folder / CSV, folder / RECORD
    if not path.exists():
        return
    said = read_json(record) if record.is_file() else {}
    # an interrupted audit has written what it meant to put in the place of the one before
    if file_digest(path) not in (said.get("csv"), said.get("csv_before")):
        raise SvpkitError(
            f"{path}: changed since it was written, and not to be lost; name another folder with "
            "--out, or move it"
        )


def _write(
    found: Audit,
    asked: Asked,
    run: Mapping[str, Any],
    pictures: Mapping[int, np.ndarray],
    made: list[Artifact],
) -> None:
    found.folder.mkdir(parents=True, exist_ok=True)
    places = [found.folder / CSV, found.folder / PAGE]
    new_rows, new_page = fresh = [path.with_name(f".{path.name}.tmp") for path in places]
    rows = found.flagged.astype({name: str for name in ("id", "label", "source", "group")})
    for name in ("p_label", "p_suggested", "quality"):
        rows[name] = rows[name].map("{:.4f}".format)
    write_rows(new_rows, COLUMNS, rows.to_dict("records"))
    record = {
        "run": run["recipe"]["name"],
        "simulated": found.simulated,
        "without": found.without,
        "folds": asked.folds,
        "images": asked.images or run["recipe"]["classifier"]["train"]["images"],
        "looked_at": found.counts,
        "flagged": {k: int(n) for k, n in found.flagged["set"].value_counts().items()},
        "artifacts": [artifact.name for artifact in made],
        "csv": file_digest(new_rows),
    }
    write_page(new_page, record, found.flagged, pictures)
    # someone may have opened it while the folds were trained
    _refuse_edited(found.folder)
    before = file_digest(places[0]) if places[0].exists() else None
    # the record first, with both digests: cut off between these, the next audit knows either file
    write_json(found.folder / RECORD, record | {"csv_before": before})
    for path, place in zip(fresh, places, strict=True):
        path.replace(place)
