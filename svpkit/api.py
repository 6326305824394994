"""What notebooks use, and the commands too: run(), load(), and what they return."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svpkit.bind import Experiment, bind
from svpkit.disk import file_digest
from svpkit.errors import MOST, SvpkitError, choices, nearest, unknown
from svpkit.legible import legible
from svpkit.plugins import Registry, Use, discover
from svpkit.recipe import Recipe, validate
from svpkit.recipe import load as load_recipe
from svpkit.safe import opened, read_json
from svpkit.shapes import read_run
from svpkit.store import damaged, root_of
from svpkit.toml import override, read_toml

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from svpkit.classify.model import Model
    from svpkit.drawn import Drawn
    from svpkit.particles.particleset import ParticleSet
    from svpkit.report.counts import Counted
    from svpkit.store import Artifact, Store


@dataclass(frozen=True)
class Done:
    """A run that ended: its folder, the table that sums it up, and what people should know.

    The table is None off the main process of a distributed run.
    """

    folder: Path
    summary: "Table | None"
    notes: tuple[str, ...] = ()


def run(
    recipe: Path | str | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    runs: Path | str = "runs",
    store: Path | str = "store",
    data_root: Path | str | None = None,
    registry: Registry | None = None,
) -> "Run":
    """Run a recipe (a file, or plain values) and return the run.

    What the store holds already is not made again. Raises SvpkitError for whatever is wrong with
    the recipe or the data.
    """
    registry = registry or discover()
    root = Path(data_root) if data_root else None
    bound = experiment(recipe, overrides, data_root=root, registry=registry)
    done = execute(bound, runs=Path(runs), store=Path(store))
    return load(done.folder, registry=registry, store=Path(store))


def load(
    run: Path | str, *, registry: Registry | None = None, store: Path | str | None = None
) -> "Run":
    """Open a finished run by its folder, or its name in `runs`; raises SvpkitError without one."""
    folder = Path(run)
    if not folder.exists() and (Path("runs") / folder / "results.json").is_file():
        folder = Path("runs") / folder
    if not (folder / "results.json").is_file():
        raise SvpkitError(f"{folder}: no finished run here (no results.json)")
    return Run(folder, registry or discover(), Path(store) if store else None)


@dataclass(frozen=True)
class Run:
    """A finished run: its results, its classifier and its generators."""

    folder: Path
    registry: Registry
    store: Path | None = None

    @property
    def results(self) -> dict[str, Any]:
        """The content of results.json."""
        return read_json(self.folder / "results.json")

    @property
    def predictions(self) -> "pd.DataFrame":
        """The predictions on the test set, one row a particle."""
        from svpkit.evaluate.evidence import read_predictions

        return read_predictions(self.folder / "predictions.parquet")

    @property
    def model(self) -> "Model":
        """The classifier of the recipe's own arm."""
        from svpkit.classify.model import Model

        with opened(self.folder / "model", "a model that cannot be opened"):
            return Model.open(self.folder / "model", self.registry)

    def predict(self, images: "np.ndarray | ParticleSet") -> "pd.DataFrame":
        """Return a probability a class and the class named for uint8 images (N, C, H, W).

        "rejected" is named what reaches no threshold, where the recipe requires a precision. What
        counts, sizes and unknown particles are asked for is `count`.
        """
        import pandas as pd

        from svpkit.deployed import names, thresholds_of

        model = self.model
        limit = thresholds_of(self.folder / "model", model.spec.classes)
        p = model.probabilities(images)
        table = pd.DataFrame(p, columns=[f"p_{c}" for c in model.spec.classes])
        table.insert(0, "predicted", names(p, model.spec.classes, limit))
        return table

    def count(self, *sources: Path | str, out: Path | str, **ask: Any) -> "Counted":
        """Count the particles of exports per class, size bin and mL; writes the new folder `out`.

        `ask` are the fields of `svpkit.predict.Ask`. Returns what the page tells: `counts` is the
        table. Raises SvpkitError as `svpkit.predict.predict`.
        """
        from svpkit.predict import Ask, Source, predict

        read = [Source(reader_for(self.registry, Path(s), None, {}), Path(s)) for s in sources]
        return predict(self.folder, self.registry, read, Path(out), Ask(**ask))

    def generate(self, label: str, n: int, seed: int = 0) -> np.ndarray:
        """Draw n particles of a class: uint8 (n, C, H, W); image i depends on (label, seed, i)."""
        return self.draw(label, n, seed).images

    def draw(self, label: str, n: int, seed: int = 0) -> "Drawn":
        """Draw n particles of a class, with the record of what drew them."""
        from svpkit.drawn import draw_from

        with opened(self.folder / "run.json", "names no generator"):
            sample = dict(self._record["recipe"]["generator"]["sample"])
        return draw_from(self.generator(label), self.registry, label, n, seed, sample)

    def export(
        self, label: str | None = None, *, out: Path | str, to: str = "diffusers"
    ) -> dict[str, Any]:
        """Write the new folder `out`, which opens without svpkit; return its export.json.

        To "timm" the classifier for `timm.create_model`, to "onnx" the classifier, its adjustment
        and calibration as one graph, to "diffusers" the generator of the class `label` for
        `DDPMPipeline.from_pretrained`. Raises SvpkitError, with nothing written, for what has no
        such form and for a copy that says else than svpkit does.
        """
        if to not in (known := ("timm", "onnx", "diffusers")):
            raise unknown("export: to", to, known)
        if to == "diffusers" and label is None:
            raise SvpkitError("export: --to diffusers needs --class, whose generator is meant")
        if to != "diffusers" and label is not None:
            raise SvpkitError(f"export: --to {to} is the classifier of all classes: no --class")
        if label is not None:
            from svpkit.drawn import export_to

            card = self.folder / "model" / "README.md"
            return export_to(self.generator(label), self.registry, Path(out), card)
        from svpkit.export.subject import subject

        if to == "onnx":
            from svpkit.export.graph import write_graph as write
        else:
            from svpkit.export.timm_folder import write_timm as write
        return write(subject(self), Path(out))

    def generator(self, label: str) -> Path:
        """Return the folder of the generator that draws a class; raises SvpkitError without one."""
        record = self._record
        found = {
            c: g["artifact"] for g in record.get("generators", {}).values() for c in g["classes"]
        }
        if label not in found:
            raise unknown(f"{self.folder}: class that a generator draws", label, found)
        folder = (self.store or root_of(self.folder, record)) / found[label]
        if not folder.is_dir():
            raise SvpkitError(
                f"{folder}: the generator is not in this store (--store DIR names another)"
            )
        if (folder / "artifact.json").is_file() and (files := damaged(folder)):
            raise SvpkitError(
                f"{folder / files[0]}: damaged, its bytes are not those that were written "
                "(`svpkit run` with --fresh generator makes it again)"
            )
        return folder

    @property
    def _record(self) -> dict[str, Any]:
        return read_run(self.folder)


def experiment(
    recipe: Path | str | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    data_root: Path | None = None,
    registry: Registry | None = None,
) -> Experiment:
    """Return a recipe bound to plugins and data, all of it checked."""
    registry = registry or discover()
    if isinstance(recipe, (str, Path)):
        path = Path(recipe)
        loaded, where, folder = load_recipe(path, overrides), str(path), path.parent
        written: Mapping[str, Any] = read_toml(path) if overrides else {}
    else:
        values = dict(recipe) if isinstance(recipe, Mapping) else recipe.model_dump()
        written, values = values, copy.deepcopy(values)
        for change in overrides:
            override(values, change)
        loaded, where, folder = validate(values, "recipe"), "recipe", Path()
    given: dict[str, Any] = {"overrides": list(overrides)}
    if overrides:
        given["written"] = {n: written.get(n) for n in ("balance", "baselines")}
    if isinstance(recipe, (str, Path)):
        given["recipe_digest"] = file_digest(Path(recipe))
    bound = bind(loaded, registry, where=where, folder=folder, data_root=data_root)
    return replace(bound, asked=given)


def execute(
    experiment: Experiment,
    *,
    runs: Path,
    store: Path,
    fresh: Sequence[str] = (),
    deploys: bool = True,
    trackers: Sequence[str] = (),
) -> Done:
    """Run an experiment and write its folder `runs/<name>/`.

    A run that is only measured need not `deploys`: its model is then not for `predict`. What
    happens is written to `events.jsonl` and told to `trackers`, as `svpkit.trackers` knows them.
    Of runs of one name one works at a time, the next waits.
    """
    from svpkit.checks import check_known, check_models
    from svpkit.held import held_run
    from svpkit.plan import plan
    from svpkit.store import Store
    from svpkit.trackers import check_trackers, followed

    check_trackers(trackers)
    stages = plan(experiment, store, deploys=deploys)
    for name in fresh:
        if name not in (known := {each.artifact.stage for each in stages}):
            raise unknown("--fresh: stage", name, sorted(known))
    folder, planned = runs / experiment.recipe.name, [each.artifact for each in stages]
    if fresh or not all(each.made for each in planned):
        check_models(experiment)
        check_known(experiment, planned)
    with held_run(folder), followed(folder, experiment.recipe, trackers, fresh=list(fresh)):
        return _executed(experiment, folder, Store(store, fresh=tuple(fresh)), planned, deploys)


def _executed(
    experiment: Experiment,
    folder: Path,
    kept: "Store",
    planned: Sequence["Artifact"],
    deploys: bool,
) -> Done:
    from svpkit import events, ranks
    from svpkit.checks import checking
    from svpkit.keep import note_artifacts
    from svpkit.pipeline import walk
    from svpkit.provenance import note_refused, note_start
    from svpkit.record import write_run
    from svpkit.report.table import summary_table
    from svpkit.store import explained
    from svpkit.trackers import tell_results

    if ranks.main():
        note_artifacts(folder, [artifact.name for artifact in planned], done=False)
    started = note_start(kept.root, folder, experiment, planned, kept.fresh)
    try:
        with explained(lambda: kept.used, folder):
            walked = walk(experiment, checking(experiment, kept.get), deploys=deploys)
    except SvpkitError as error:
        said = str(error)
        note_refused(kept.root, folder, experiment, said)
        where = "" if said.startswith(experiment.where) else f"{experiment.where}: "
        raise SvpkitError(f"{where}{said}") from None
    if not ranks.main():
        return Done(folder, None)
    with explained(lambda: kept.used, folder):
        story = write_run(folder, experiment, walked, kept, started)
    summary = summary_table(story)
    note_artifacts(folder, [artifact.name for artifact in kept.used], done=True)
    tell_results(read_json(folder / "results.json"))
    for note in (notes := _notes(kept)):
        events.tell(events.NOTE, said=note)
    return Done(folder, summary, notes)


def _notes(store: "Store") -> tuple[str, ...]:
    if not store.stale:
        return ()
    labels = ", ".join(a.label for a in store.stale)
    return (f"made by other code of the same revision: {labels} (--fresh STAGE makes it again)",)


def run_folder(name: str, runs: Path) -> Path:
    """Return a run's folder by its path or by its name in `runs`."""
    for folder in (Path(name), runs / name):
        if (folder / "results.json").is_file():
            return folder
    known = sorted(p.parent.name for p in runs.glob("*/results.json"))
    there = choices(known[:MOST]) + (", ..." if len(known) > MOST else "")
    raise SvpkitError(
        f"no run '{name}' in {runs}{nearest(name, known)} (there are: {there}; "
        "--runs DIR names another folder)"
    )


def reader_for(
    registry: Registry, source: Path, name: str | None, options: Mapping[str, Any]
) -> Use:
    """Return the reader of an input: the one named, else the one that knows it by looking."""
    if not source.exists():
        raise SvpkitError(f"{source}: nothing here to read")
    if name is None:
        names = registry.names("reader")
        knows = [n for n in names if registry.knows(n, source)]
        if not knows:
            raise SvpkitError(
                f"{source}: no reader knows this (name one with --reader: {', '.join(names)})"
            )
        # a folder of pictures is what is left when no instrument knows it
        own = [known for known in knows if known != "folder"] or knows
        if len(own) > 1:
            both = " and ".join(own)
            raise SvpkitError(f"{source}: readers {both} know this: name one with --reader")
        name = own[0]
    return registry.use("reader", name, options, "reader")


def set_aside(folder: Path) -> list[str]:
    """Return a line on the files that could not be read, from `quarantine.csv`; none where none."""
    from svpkit.particles.ingest import QUARANTINE

    path = folder / QUARANTINE
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    return [f"{len(lines):,} files could not be read and are not counted: {path}"] if lines else []


def console() -> "Console":
    """Return a terminal to print tables to."""
    from rich.console import Console
    from rich.text import Text

    class Seen(Console):
        def render_str(self, text: str, **more: Any) -> Text:
            return super().render_str(legible(text), **more)

    wide = Seen()
    return wide if wide.is_terminal else Seen(width=120)


def as_table(frame: "pd.DataFrame", title: str) -> "Table":
    """Return a table of pandas as one for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title))
    for column in frame.columns:
        table.add_column(escape(str(column)), overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, float) and np.isnan(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
