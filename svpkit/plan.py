"""What a run would do: its stages, which are made and why not, and how long the rest may take."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit.bind import Experiment
from svpkit.errors import unknown
from svpkit.hookspecs import ImageSpec
from svpkit.keep import artifacts
from svpkit.pipeline import walk
from svpkit.plugins import Use
from svpkit.store import Artifact, Stage, Store, identity, read_record

if TYPE_CHECKING:
    from rich.table import Table

PROBE_SECONDS = 4.0
# The plugin that does a stage's work, as a difference names it.
_OTHER = re.compile(r"(reader|generator|classifier|extractor)\.plugin:")


@dataclass(frozen=True)
class Planned:
    """One stage of a plan: its artifact and what named it."""

    artifact: Artifact
    function: Stage
    params: Mapping[str, Any]
    inputs: tuple[Artifact, ...]


def plan(experiment: Experiment, root: Path, *, deploys: bool = True) -> list[Planned]:
    """Return the stages of an experiment in order, each once, without running any."""
    store, found = Store(root), {}

    def note(function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str) -> Artifact:
        artifact = store.name(function, params, *inputs, label=label)
        found.setdefault(artifact.name, Planned(artifact, function, params, inputs))
        return artifact

    walk(experiment, note, deploys=deploys)
    return list(found.values())


def plan_table(experiment: Experiment, root: Path) -> "Table":
    """Return the plan as a table: stage, cached or why not, images, estimated time."""
    from rich.table import Table

    table = Table(title=f"{experiment.recipe.name}: plan", caption_justify="left")
    for name in ("stage", "state", "images", "estimate"):
        table.add_column(name, justify="right" if name in ("images", "estimate") else "left")
    stages = plan(experiment, root)
    rates = _Rates(experiment, _train_counts(experiment, stages))
    total = 0.0
    for planned in stages:
        made = planned.artifact.made
        images, seconds = (0, 0.0) if made else rates.cost(planned)
        total += seconds
        state = "made" if made else reason(planned, root)
        shown = "known after the split" if images is None else f"{images:,}" if images else ""
        table.add_row(planned.artifact.label, state, shown, _span(seconds) if seconds else "")
    table.add_section()
    table.add_row("in all", "", "", f"about {_span(total)}")
    table.caption = (
        f"estimates: on this machine ({rates.device}), by a short probe; "
        "looks, fidelity and report not counted"
    )
    if total > 6 * 3600:
        table.caption += "; recipes/quickstart.toml shows the same walk in minutes"
    return table


def explain(experiment: Experiment, root: Path, stage: str) -> Iterator[str]:
    """Yield one or more lines on each artifact of a stage: made, or what differs."""
    planned = plan(experiment, root)
    stages = list(dict.fromkeys(p.artifact.stage for p in planned))
    labels = [p.artifact.label for p in planned]
    if stage not in (*stages, *labels):
        raise unknown("stage", stage, [*stages, *labels])
    for each in planned:
        if stage in (each.artifact.stage, each.artifact.label):
            yield f"{each.artifact.label} ({each.artifact.name}): {reason(each, root)}"


def reason(planned: Planned, root: Path) -> str:
    """Return why an artifact is there or what keeps it from being so, in one line."""
    from svpkit.store import code_digest

    artifact = planned.artifact
    if artifact.made:
        other = read_record(artifact.path)["code"] != code_digest(planned.function)
        return "made" + (", by other code of the same revision" if other else "")
    if (root / ".partial" / artifact.name).is_dir():
        return "begun" + (", goes on where it was" if planned.function.resumes else "")  # type: ignore[attr-defined]
    wanted = identity(planned.function, planned.params, [i.name for i in planned.inputs])
    made = [read_record(p) for p in artifacts(root) if p.name.startswith(f"{artifact.stage}-")]
    if not made:
        return "not made yet"
    found = (_differences(old, wanted) for old in made)
    # of another reader or model every option differs too, and none of that tells anything
    near = [each for each in found if not any(_OTHER.match(change) for change in each)]
    if not near:
        return "not made yet"
    changes = min(near, key=len)
    own = [c for c in changes if not c.startswith("inputs")]
    if not own:
        return "not made yet; what it is made from is another"
    changes = own
    shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
    return f"not made yet; nearest differs in {shown}"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    parts = ("revision", "params", "inputs")
    before, after = (dict(_leaves({k: d[k] for k in parts})) for d in (old, new))
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [
        f"{k.removeprefix('params.')}: {_short(before.get(k))} -> {_short(after.get(k))}"
        for k in keys
    ]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for k, v in value.items():
            yield from _leaves(v, f"{prefix}.{k}" if prefix else str(k))
    elif isinstance(value, list) and value:
        for i, v in enumerate(value):
            yield from _leaves(v, f"{prefix}[{i}]")
    else:
        yield prefix, value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else text[:37] + "..."


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


class _Rates:
    """Images a second of each kind of work, each measured once by a short probe."""

    def __init__(self, experiment: Experiment, train: Mapping[str, int] | None) -> None:
        from svpkit import devices

        self.experiment, self.train = experiment, train
        self.scored = sum(_asked(experiment.test[0]).values()) if experiment.test else None
        self.device = devices.describe()["name"]
        self._found: dict[str, float] = {}

    def cost(self, planned: Planned) -> tuple[int | None, float]:
        """Return the images that a stage works on (None: not known yet) and its seconds."""
        stage, params = planned.artifact.stage, planned.params
        if stage == "ingest":
            n = sum(_asked(params["reader"]).values()) or _files(params["path"])
            return n, n / self._rate("read " + params["reader"].plugin.name, params)
        if stage in ("generator", "classifier", "pretrain"):
            n = params["train"].images
            rate = self._rate("generator" if stage == "pretrain" else stage, params)
            # an object learns in its own way, whatever `train` says
            return (n, n / rate) if math.isfinite(rate) else (0, 0.0)
        if stage == "score":
            n = self.scored
            return n, n / self._rate(stage, params) if n else 0.0
        if stage == "synthetic":
            n = self._draws(params)
            return n, n / self._rate(stage, params) if n else 0.0
        return 0, 0.0

    def _draws(self, params: Mapping[str, Any]) -> int | None:
        if self.train is None:
            return None
        draws = params["rule"]().draws(self.train)
        return math.ceil(sum(draws.get(name, 0) for name in params["classes"]) / params["keep"])

    def _rate(self, work: str, params: Mapping[str, Any]) -> float:
        if work not in self._found:
            probes = {
                "generator": self._training,
                "classifier": self._training,
                "synthetic": self._drawing,
                "score": self._scoring,
            }
            self._found[work] = probes.get(work, self._reading)(work, params)
        return self._found[work]

    def _reading(self, work: str, params: Mapping[str, Any]) -> float:
        started = time.monotonic()
        n = sum(1 for _ in islice(params["reader"](params["path"]), 256))
        return max(n, 1) / (time.monotonic() - started)

    def _training(self, work: str, params: Mapping[str, Any]) -> float:
        from svpkit.probe import training_rate

        spec = self._spec(params.get("classes", ("a", "b", "c")))
        return training_rate(params[work](spec), spec, params["train"].batch, PROBE_SECONDS)

    def _scoring(self, work: str, params: Mapping[str, Any]) -> float:
        from svpkit.probe import scoring_rate

        spec = self._spec(("a", "b", "c"))
        return scoring_rate(params["classifier"](spec), spec, PROBE_SECONDS)

    def _drawing(self, work: str, params: Mapping[str, Any]) -> float:
        from svpkit.probe import drawing_rate

        spec = self._spec(params["classes"])
        return drawing_rate(params["generator"](spec), params["sample"], PROBE_SECONDS)

    def _spec(self, classes: tuple[str, ...]) -> ImageSpec:
        data = self.experiment.recipe.data
        return ImageSpec(data.channels, data.size, tuple(classes))


def _asked(reader: Use) -> dict[str, int]:
    kinds = reader.hosted.get("particle_types", {})
    return {name: n for name, n in reader.options.items() if name in kinds}


def _files(path: Any) -> int:
    return sum(1 for f in path.path.rglob("*") if f.is_file()) if path else 0


def _train_counts(experiment: Experiment, stages: Sequence[Planned]) -> dict[str, int] | None:
    """Return how many of each class will train, as far as that is known before the split."""
    from svpkit.particles.split import Split

    split = next(p.artifact for p in stages if p.artifact.stage == "split")
    if split.made:
        return Split.open(split.path).counts["train"]
    asked, data = _asked(experiment.reader), experiment.recipe.data
    if not asked or experiment.test is None or not isinstance(data.val, dict):
        return None
    left = {name: n - data.val.get(name, 0) for name, n in asked.items()}
    return {name: min(n, (data.train or {}).get(name, n)) for name, n in left.items()}
