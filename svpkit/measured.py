"""One cell of a suite, run and measured: a row of its results.csv."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svpkit.bind import Experiment, bind
from svpkit.errors import SvpkitError
from svpkit.plugins import Registry
from svpkit.report.numbers import value
from svpkit.safe import read_json
from svpkit.store import Artifact, Stage, Store, read_record
from svpkit.suite import METRICS, Cell

FIDELITY = ("kid_gap", "coverage", "copy_rate")


@dataclass(frozen=True)
class Places:
    """Where the runs, the artifacts and the results of a suite go, and where data may lie."""

    runs: Path
    store: Path
    out: Path
    data_root: Path | None = None


@dataclass(frozen=True)
class Task:
    """A cell to run: of which suite (`where` names it in errors), and whether it opens the test."""

    cell: Cell
    where: str
    folder: Path
    places: Places
    opens: bool
    configurations: int | None = None

    def row(self, error: str = "") -> dict[str, Any]:
        """Return what names the cell in results.csv, with the error that ended it."""
        cell = self.cell
        named = {"suite": Path(self.where).stem, "arm": cell.arm, **cell.at, "seed": cell.seed}
        tried = {"configurations": self.configurations} if self.configurations else {}
        return {**named, **tried, "digest": cell.digest, "error": " ".join(error.split())}


def bound(task: Task, registry: Registry) -> Experiment:
    """Return a cell's recipe bound to plugins and data, all of it checked."""
    cell, root = task.cell, task.places.data_root
    where = f"{task.where}: {cell.name}"
    return bind(cell.recipe, registry, where=where, folder=task.folder, data_root=root)


def measure(task: Task, registry: Registry) -> dict[str, Any]:
    """Run a cell and return its row; whatever goes wrong is the row's error, in one line."""
    _reset_peak()
    row = task.row()
    try:
        experiment = bound(task, registry)
        row |= _opened(task, experiment) if task.opens else _shut(task, experiment)
    except SvpkitError as error:
        row = task.row(str(error))
    except Exception as error:  # noqa: BLE001 - one cell that fails must not end the night's suite
        row = task.row(f"{type(error).__name__}: {error}")
    return row | {"peak_rss_mb": round(_peak_mb())}


def _opened(task: Task, experiment: Experiment) -> dict[str, Any]:
    from svpkit import api

    places = task.places
    done = api.execute(experiment, runs=places.runs, store=places.store, deploys=False)
    found = read_json(done.folder / "results.json")
    run = read_json(done.folder / "run.json")
    row = _scores("test", found["test"]) | _scores("val", found["val"])
    names = [each["name"] for each in run["artifacts"].values()]
    return row | _fidelity(found["fidelity"]) | _cost(places.store, names)


class _AtTheTest(Exception):
    """The walk is about to open the test set."""

    def __init__(self, params: Mapping[str, Any], inputs: Sequence[Artifact]) -> None:
        self.params, self.classifier, self.split = params, *inputs


def _shut(task: Task, experiment: Experiment) -> dict[str, Any]:
    # the walk as far as the stage that would open the test set: its place is taken by val alone
    from svpkit.checks import check_models, checking
    from svpkit.keep import note_artifacts
    from svpkit.pipeline import walk

    check_models(experiment)
    kept = Store(task.places.store)

    def get(function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str) -> Artifact:
        if function.__name__ == "score":
            raise _AtTheTest(params, inputs)
        return kept.get(function, params, *inputs, label=label)

    try:
        walk(experiment, checking(experiment, get))
        raise AssertionError("a walk without a score")
    except _AtTheTest as at:
        row = _scores("val", _validated(experiment, at))
    names = [artifact.name for artifact in kept.used]
    note_artifacts(task.places.runs / task.cell.name, names, done=True)
    return row | _fidelity(_read_fidelity(kept)) | _cost(task.places.store, names)


def _validated(experiment: Experiment, at: _AtTheTest) -> dict[str, Any]:
    from svpkit.classify.model import Model
    from svpkit.classify.score import predictions
    from svpkit.evaluate.evidence import compare_frames
    from svpkit.particles.split import Split, groups_of

    asked, params = experiment.recipe.evaluate, at.params
    trained = at.classifier.path
    model = Model.load(trained, params["classifier"], params["strategies"], params["prevalence"])
    sets = Split.open(at.split.path)
    rows = predictions(model, particles := sets.val())
    rows["group"] = groups_of(particles, sets.record["group"])
    found = compare_frames({"": rows}, prevalence=asked.prevalence, replicates=asked.replicates)
    return found["arms"][""]


def _scores(prefix: str, found: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in METRICS:
        row[f"{prefix}.{name}"] = found[name]["value"]
        row |= {f"{prefix}.{name}.{end}": found[name][end] for end in ("low", "high")}
    for label, each in found["per_class"].items():
        row[f"{prefix}.auprc.{label}"] = value(each["auprc"])
    for name in METRICS if found.get("at_prevalence") else ():
        row[f"{prefix}.at_prevalence.{name}"] = value(found["at_prevalence"][name])
    return row


def _fidelity(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"fidelity.{name}.{label}": value(each.get(name))
        for label, each in found.items()
        for name in FIDELITY
    }


def _read_fidelity(kept: Store) -> dict[str, Any]:
    paths = [a.path / "fidelity.json" for a in kept.used if a.stage == "fidelity"]
    return read_json(paths[0]) if paths else {}


def _cost(store: Path, names: Sequence[str]) -> dict[str, Any]:
    # of all its stages, as if nothing had been there: what an arm costs, not what was left to do
    def seen(*stages: str) -> int:
        histories = (store / n / "history.json" for n in names if n.rsplit("-", 1)[0] in stages)
        rows = [read_json(path, list) for path in histories if path.is_file()]
        return sum(each[-1]["images"] for each in rows if each)

    return {
        "images_seen": seen("classifier"),
        "images_generator": seen("generator", "pretrain"),
        "seconds": round(sum(read_record(store / name)["seconds"] for name in names), 1),
    }


def _reset_peak() -> None:
    # several cells may run in this process: each has its own peak, where Linux lets it
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (1024**2 if sys.platform == "darwin" else 1024)
