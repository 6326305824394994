"""Predictions of every arm made into evidence: scores with intervals, arms paired."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError
from svpkit.evaluate import thresholds
from svpkit.evaluate.rejection import judge
from svpkit.evaluate.statistics import evaluate_paired
from svpkit.safe import read_parquet
from svpkit.store import stage

SETS = ("test", "val")
_JUDGED = ("id", "label", "group", "ecd_um")


@stage(revision=2)
def evidence(out: Path, params: Mapping[str, Any], *scores: Path) -> None:
    """Write `evidence.json`: {"test", "val": {arm: evaluation}, "differences": [...]}.

    `params`: arms (names, in the order of `scores`; the first is compared with each of the others),
    prevalence, replicates, precision (a number or {class: number}, missing where none is required).
    `scores` hold test.parquet and val.parquet. The same resampled particles serve all arms. Where a
    precision is required, what came of it is the test evaluation's "thresholds" (see `promises`).
    """
    found: dict[str, Any] = {}
    seen: dict[str, Mapping[str, pd.DataFrame]] = {}
    for name in SETS:
        # differences are later minus earlier: the recipe's own arm goes last
        arms = dict(zip(params["arms"], scores, strict=True))
        frames = {arm: read_judged(path / f"{name}.parquet") for arm, path in arms.items()}
        seen[name] = frames
        found[name] = compare_frames(
            dict(reversed(frames.items())),
            prevalence=params["prevalence"],
            replicates=params["replicates"],
        )
    record = {name: found[name]["arms"] for name in SETS}
    for arm, val in seen["val"].items() if params.get("precision") else ():
        record["test"][arm]["thresholds"] = promises(val, seen["test"][arm], params)
    record["differences"] = found["test"]["differences"]
    (out / "evidence.json").write_text(json.dumps(record, indent=1, allow_nan=False))


def compare_frames(
    frames: Mapping[str, pd.DataFrame],
    *,
    prevalence: Mapping[str, float] | None,
    replicates: int = 2000,
) -> dict[str, Any]:
    """Evaluate arms on the same particles: predictions by arm, rows in the same order.

    Raises SvpkitError where the arms saw different particles.
    """
    first = next(iter(frames.values()))
    classes = classes_of(first)
    for name, frame in frames.items():
        if classes_of(frame) != classes or not frame["id"].equals(first["id"]):
            raise SvpkitError(f"{name}: scored on other particles or classes than the first arm")
    return evaluate_paired(
        codes(first["label"], classes),
        {name: probabilities(frame) for name, frame in frames.items()},
        classes,
        groups=alone(_texts(first["group"])),
        prevalence=prevalence,
        ecd_um=first["ecd_um"].to_numpy(float),
        replicates=replicates,
    )


def promises(val: pd.DataFrame, test: pd.DataFrame, params: Mapping[str, Any]) -> dict[str, Any]:
    """Choose thresholds for a required precision on val and apply them once to test.

    `params`: precision, prevalence, replicates. Returns {"confidence", "per_class": {class: what
    `thresholds.choose` says, and "val" and "test" as `judge` measures them}, "rejected": {"val",
    "test": share of all particles}}; measured at the prevalence where one is stated.
    """
    classes, prevalence = classes_of(val), params["prevalence"]
    asked = thresholds.required(params["precision"], classes)
    labels = codes(val["label"], classes)
    chosen = thresholds.choose(labels, probabilities(val), classes, asked, prevalence)
    limit = thresholds.limits({c: row["threshold"] for c, row in chosen.items()}, classes)
    measured = {
        name: judge(
            codes(frame["label"], classes),
            thresholds.assign(probabilities(frame), limit),
            classes,
            prevalence=prevalence,
            groups=alone(_texts(frame["group"])),
            replicates=params["replicates"],
        )
        for name, frame in (("val", val), ("test", test))
    }
    return {
        "confidence": thresholds.CONFIDENCE,
        "per_class": {
            name: row | {part: each["per_class"][name] for part, each in measured.items()}
            for name, row in chosen.items()
        },
        "rejected": {part: each["rejected"] for part, each in measured.items()},
    }


def alone(groups: np.ndarray) -> np.ndarray | None:
    """Return group names with each nameless particle a group of its own; None where all are."""
    nameless = np.flatnonzero(groups == "")
    if len(nameless) == len(groups):
        return None
    groups = groups.copy()
    groups[nameless] = [f"\x1f{i}" for i in nameless]
    return groups


def _texts(values: Any) -> np.ndarray:
    # each text once, however many rows have it
    place, found = pd.factorize(values.astype(str))
    return np.asarray(found, dtype=object)[place]


def read_judged(path: Path) -> pd.DataFrame:
    """Return of predictions, as `read_predictions` does, what `compare_frames` looks at."""
    return read_predictions(path, lambda name: name in _JUDGED or name.startswith("p_"))


def read_predictions(path: Path, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
    """Return predictions as a table, of the columns that are `wanted`.

    Raises SvpkitError where the file cannot be read.
    """
    try:
        return read_parquet(path, wanted=wanted)
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{path}: no predictions here ({error})") from None


def classes_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes that predictions have a probability for, in label order."""
    return tuple(c.removeprefix("p_") for c in predictions.columns if c.startswith("p_"))


def probabilities(predictions: pd.DataFrame) -> np.ndarray:
    """Return the probabilities of a table of predictions: float32 (N, K)."""
    names = [f"p_{c}" for c in classes_of(predictions)]
    return predictions[names].to_numpy(np.float32)


def codes(labels: Any, classes: tuple[str, ...]) -> np.ndarray:
    """Return labels as positions in `classes`: int64 (N,)."""
    place, found = pd.factorize(labels)
    known = pd.Index(classes, dtype=object).get_indexer(pd.Index(found, dtype=object))
    return np.append(known, -1)[place].astype(np.int64)
