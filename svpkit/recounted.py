"""The numbers of a run worked out again from its stored predictions, to the last digit."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from svpkit.auditlog import short
from svpkit.errors import SvpkitError
from svpkit.evaluate.evidence import SETS, compare_frames, evidence, promises, read_predictions
from svpkit.particles.split import Split
from svpkit.store import read_record

Found = Iterator[tuple[str, str | None]]
# Replicates of the bootstrap, as a recipe may ask for: the record may be a stranger's.
MOST = 100_000


def numbers(folder: Path, run: Mapping[str, Any], store: Path, results: Mapping[str, Any]) -> Found:
    """Yield (what, what is wrong with it) for the numbers of results.json.

    "" where they are equal to those worked out again; None, with no reason, where what they come
    from is not in the store any more. Raises SvpkitError for predictions that cannot be read, and
    whatever a changed file leads to: KeyError, TypeError, ValueError, IndexError.
    """
    scores = _scores(run, store)
    own = str(results["name"])
    arms = {own: results, **results["arms"]}
    found = _again(run, store) if scores else _alone(folder, run, own)
    again = _asked(run) | {"classes": list(results["test"]["n"])}
    yield "results.json: name, seed, arms, classes", _differs(again, _told(results))
    for name, arm in arms.items():
        for part in SETS:
            what = f"results.json: {part} of {name}"
            again = found.get(part, {}).get(name)
            yield what, None if again is None else _differs(_kept(again), arm[part])
    again = found.get("differences")
    what = "results.json: differences"
    yield what, None if again is None else _differs(again, results["differences"])
    yield from _copied(run, store, results)
    yield from _predictions(folder, scores, own)
    yield from _counts(folder, run, store, results)


def _asked(run: Mapping[str, Any]) -> dict[str, Any]:
    recipe = run["recipe"]
    arms = sorted(each["name"] for each in recipe.get("baselines") or ())
    return {"name": recipe["name"], "seed": recipe["seed"], "arms": arms}


def _told(results: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: results[name] for name in ("name", "seed", "classes")}
    return said | {"arms": sorted(results["arms"])}


def _kept(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    # curves are for drawing; results.json has none
    return {k: v for k, v in evaluation.items() if k != "curves"}


def _named(run: Mapping[str, Any], store: Path, stage: str) -> Path | None:
    names = (each["name"] for each in run["artifacts"].values())
    found = (store / name for name in names if name.rsplit("-", 1)[0] == stage)
    return next((path for path in found if (path / "artifact.json").is_file()), None)


def _scores(run: Mapping[str, Any], store: Path) -> dict[str, Path]:
    """Return the score artifact of each arm, {} where one of them is not there."""
    path = _named(run, store, "evidence")
    if path is None:
        return {}
    record = read_record(path)
    found = {
        arm: store / name
        for arm, name in zip(record["params"]["arms"], record["inputs"], strict=True)
    }
    return found if all((p / "test.parquet").is_file() for p in found.values()) else {}


def _again(run: Mapping[str, Any], store: Path) -> dict[str, Any]:
    path = _named(run, store, "evidence")
    assert path
    params, scores = read_record(path)["params"], _scores(run, store)
    _check_replicates(params["replicates"], path / "artifact.json")
    with tempfile.TemporaryDirectory() as place:
        evidence(Path(place), params, *scores.values())
        return json.loads((Path(place) / "evidence.json").read_text())


def _alone(folder: Path, run: Mapping[str, Any], own: str) -> dict[str, Any]:
    """Return the own arm's evidence from the run's folder, where the store holds no scores."""
    asked = run["recipe"]["evaluate"]
    _check_replicates(asked["replicates"], folder / "run.json")
    frames = {
        "test": read_predictions(folder / "predictions.parquet"),
        "val": read_predictions(folder / "model" / "val.parquet"),
    }
    params = {name: asked[name] for name in ("prevalence", "replicates")}
    found: dict[str, Any] = {
        name: compare_frames({own: frame}, **params)["arms"] for name, frame in frames.items()
    }
    if asked.get("precision"):
        more = params | {"precision": asked["precision"]}
        found["test"][own]["thresholds"] = promises(frames["val"], frames["test"], more)
    return json.loads(json.dumps(found))


def _check_replicates(n: Any, where: Path) -> None:
    if not isinstance(n, int) or n > MOST:
        raise SvpkitError(f"{where}: replicates is {short(n)}, up to {MOST} are worked out again")


def _copied(run: Mapping[str, Any], store: Path, results: Mapping[str, Any]) -> Found:
    # what results.json takes over as it is
    for stage, key in (("fidelity", "fidelity"), ("reference", "calibration")):
        if not results.get(key):
            continue
        path, what = _named(run, store, stage), f"results.json: {key}"
        if path is None:
            yield what, None
            continue
        there = json.loads((path / f"{stage}.json").read_text())
        kept = {k: there.get(k) for k in results[key]} if stage == "reference" else there
        yield what, _differs(kept, results[key])


def _predictions(folder: Path, scores: Mapping[str, Path], own: str) -> Found:
    for name, place in (("predictions.parquet", "test"), ("model/val.parquet", "val")):
        what = f"{name}: what was scored"
        if own not in scores:
            yield what, None
            continue
        mine = read_predictions(folder / name)
        there = read_predictions(scores[own] / f"{place}.parquet")
        yield what, "" if mine.equals(there) else "other than the score artifact's"


def _counts(folder: Path, run: Mapping[str, Any], store: Path, results: Mapping[str, Any]) -> Found:
    path = _named(run, store, "split")
    if path is None:
        yield "counts of particles", None
        return
    split = Split.open(path)
    for part in SETS:
        name = "predictions.parquet" if part == "test" else "model/val.parquet"
        labels = read_predictions(folder / name)["label"]
        counts = {c: int(n) for c, n in pd.Series(labels.astype(str)).value_counts().items()}
        wrong = _differs({k: v for k, v in split.counts[part].items() if v}, counts)
        yield f"counts of {part}: those of the split", wrong
    noted = {name: each["digest"] for name, each in split.record["sets"].items()}
    yield "run.json: digests of the data", _differs(noted, run["data"])


def _differs(again: Any, said: Any, at: str = "") -> str:
    """Return where two values differ first, "" where they are equal in every digit."""
    if isinstance(again, Mapping) and isinstance(said, Mapping):
        for key in [*again, *(k for k in said if k not in again)]:
            if key not in said or key not in again:
                return f"{at}{key}: only in {'one' if key in again else 'the file'}"
            if found := _differs(again[key], said[key], f"{at}{key}."):
                return found
        return ""
    if isinstance(again, list) and isinstance(said, list) and len(again) == len(said):
        pairs = enumerate(zip(again, said, strict=True))
        return next((f for i, (a, b) in pairs if (f := _differs(a, b, f"{at}{i}."))), "")
    same = again == said and isinstance(again, bool) == isinstance(said, bool)
    if same or (_is_nan(again) and _is_nan(said)):
        return ""
    return f"{at.rstrip('.')} is {said!r}, worked out again it is {again!r}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
