"""Experiment trackers, fed by accelerate's from a run's events: curves, scores, the recipe."""

import contextlib
import importlib.util
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from svpkit import events, ranks
from svpkit.errors import SvpkitError, unknown
from svpkit.recipe import Recipe

# What each needs installed, which is what pip calls it too.
KNOWN = ("tensorboard", "trackio", "wandb", "mlflow")
FOLDER = "trackers"
# Keys of a recipe that name places of this machine, or may hold what is nobody's business.
_PRIVATE = re.compile(r"path|root|folder|file|weights|token|secret|password|key", re.IGNORECASE)


def check_trackers(names: Sequence[str]) -> None:
    """Raise SvpkitError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in KNOWN:
            raise unknown("--tracker", name, KNOWN)
        if importlib.util.find_spec(name) is None:
            raise SvpkitError(f"--tracker {name}: not installed (pip install {name})")


@contextlib.contextmanager
def followed(folder: Path, recipe: Recipe, names: Sequence[str], **said: Any) -> Iterator[None]:
    """Write the events of a run to its folder and tell them to trackers; the main process does."""
    if not ranks.main():
        yield
        return
    listeners: list[events.Listener] = [events.Log(folder / events.LOG)]
    if names:
        plain = recipe.model_dump(mode="json")
        listeners.append(Trackers(names, folder / FOLDER, recipe.name, plain))
    with events.heard(*listeners, run=recipe.name, seed=recipe.seed, **said):
        yield


def tell_results(found: Mapping[str, Any]) -> None:
    """Tell what results.json holds: the scores of every arm on the test set, and fidelity."""
    for name, arm in {found["name"]: found, **found["arms"]}.items():
        events.tell(events.SCORED, arm=name, test=arm["test"])
    if found["fidelity"]:
        events.tell(events.FIDELITY, fidelity=found["fidelity"])


class Trackers:
    """A listener that hands a run's events to trackers; their files lie in `folder`.

    One that fails later on is told no more, with a warning. Raises SvpkitError for one that cannot
    be started. Step is the number of images trained on. `parameters` are the recipe's, flattened.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, run: str, recipe: Mapping[str, Any]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        values = dict(parameters(recipe))
        self.trackers = {name: _begun(name, folder, run, values) for name in dict.fromkeys(names)}
        self._step = 0
        self._named: set[str] = set()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Hand over the numbers of one event, if it has any."""
        event = line["event"]
        if event == events.TRAINING:
            self._step = int(line["images"])
            row = {name: line[name] for name in ("loss", "lr", "losses", "val") if name in line}
            self._log(tag(line["label"]), numbers(row))
        elif event == events.SCORED:
            self._log(tag(f"test: {line['arm']}"), numbers(line["test"]))
        elif event == events.FIDELITY:
            self._log("fidelity", numbers(line["fidelity"]))
        elif event == events.RUN_ENDED:
            self._each(lambda name, tracker: tracker.finish())

    def _log(self, prefix: str, found: Iterator[tuple[str, float]]) -> None:
        values = {f"{prefix}/{name}": value for name, value in found}

        def log(name: str, tracker: Any) -> None:
            if name == "wandb":
                # its own step may never go back, and the next training begins at 0 again
                self._define(tracker, prefix)
                tracker.log(values | {f"{prefix}/images": self._step})
            else:
                tracker.log(values, step=self._step)

        if values:
            self._each(log)

    def _each(self, tell: Callable[[str, Any], None]) -> None:
        for name, tracker in tuple(self.trackers.items()):
            try:
                tell(name, tracker)
            except Exception as error:  # noqa: BLE001 - a run is worth more than its curves
                del self.trackers[name]
                said = f"--tracker {name}: {_why(error)}; it is told no more, the run goes on"
                warnings.warn(said, stacklevel=2)

    def _define(self, tracker: Any, prefix: str) -> None:
        if prefix not in self._named:
            tracker.tracker.define_metric(f"{prefix}/*", step_metric=f"{prefix}/images")
            self._named.add(prefix)


def parameters(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a recipe's values by dotted key, without places of this machine and secrets."""
    for name, value in recipe.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from parameters(value, f"{key}.")
        elif value is not None and not _PRIVATE.search(name) and not _is_place(value):
            plain = value if isinstance(value, bool | int | float | str) else str(value)
            yield key, plain


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of nested tables by their names, parted by "/".

    A number with its interval is named by the table that holds it, as {"value", "low", "high"}.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            inner = name if key == "value" else "/".join(filter(None, (name, tag(str(key)))))
            yield from numbers(each, inner)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value


def tag(label: str) -> str:
    """Return a label as all trackers take it: "classifier: none" is "classifier/none"."""
    return re.sub(r"[^-/\w.]+", "_", label.replace(": ", "/"))


def _is_place(value: Any) -> bool:
    each = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(v, PurePath) or (isinstance(v, str) and os.sep in v) for v in each)


def _begun(name: str, folder: Path, run: str, values: dict[str, Any]) -> Any:
    try:
        tracker = _opened(name, folder, run)
        tracker.store_init_configuration(values)
    except Exception as error:
        raise SvpkitError(f"--tracker {name}: cannot be started ({_why(error)})") from error
    return tracker


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _opened(name: str, folder: Path, run: str) -> Any:
    from accelerate import tracking

    # its state must be there before the first of them asks which process it is on
    from accelerate.state import PartialState

    PartialState()
    tracker = {
        "tensorboard": lambda: tracking.TensorBoardTracker(run, logging_dir=folder / name),
        "trackio": lambda: _trackio(folder / name, run),
        "wandb": lambda: _wandb(folder, run),
        "mlflow": lambda: _mlflow(folder / name, run),
    }[name]()
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def _trackio(folder: Path, run: str) -> Any:
    from accelerate import tracking

    # read when it is first imported
    os.environ.setdefault("TRACKIO_DIR", str(folder.resolve()))
    return tracking.TrackioTracker(run, embed=False)


def _wandb(folder: Path, run: str) -> Any:
    from accelerate import tracking

    # nothing is sent unless WANDB_MODE=online says so; `wandb sync` sends it later
    mode = os.environ.get("WANDB_MODE", "offline")
    return tracking.WandBTracker(run, dir=str(folder), mode=mode)


def _mlflow(folder: Path, run: str) -> Any:
    import mlflow  # pyright: ignore[reportMissingImports]
    from accelerate import tracking

    if "MLFLOW_TRACKING_URI" not in os.environ:
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    return tracking.MLflowTracker(run)
