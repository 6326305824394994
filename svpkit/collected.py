"""What a data sheet tells, gathered from the artifacts of a run."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit import drawn_index
from svpkit.evaluate.evidence import read_predictions
from svpkit.particles.ingest import QUARANTINE
from svpkit.particles.particleset import read_manifest
from svpkit.particles.split import Split
from svpkit.pipeline import Walked
from svpkit.safe import read_json
from svpkit.store import Artifact, Store, read_record

_REASONS = 12


def collected(walked: Walked, store: Store, split: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the files of a run say of its data, as plain values.

    {"imports": [...], "sizes": {set: {class: um}}, "scales": {class: um_per_px}, "split",
    "drawn": [...], "index"}. The test set stays shut: its sizes are those of the predictions, its
    scale is not read.
    """
    sets = Split.open(walked.split.path)
    shown = {"train": sets.train().table, "val": sets.val().table}
    own = next(iter(walked.scores.values()))
    tested = read_predictions(own.path / "test.parquet")
    known = {name: each for name, each in drawn_index.described(store.root).items()}
    return {
        "imports": [_import(store, name) for name in _sources(sets.record)],
        "sizes": {k: _spread(t, "ecd_um") for k, t in {**shown, "test": tested}.items()},
        "scales": _spread(pd.concat(list(shown.values())), "um_per_px"),
        "origins": {name: _origins(table) for name, table in shown.items()},
        "split": split,
        "drawn": list(_drawn(walked, known)),
        "index": {"files": len(known), "images": sum(e["images"] for e in known.values())},
    }


def _sources(record: Mapping[str, Any]) -> list[str]:
    names = [record["data"], record["test"], *record.get("also", ())]
    return list(dict.fromkeys(filter(None, names)))


def _import(store: Store, name: str) -> dict[str, Any]:
    folder = store.root / name
    manifest, params = read_manifest(folder), read_record(folder)["params"]
    kept = ("counts", "unlabelled", "quarantined", "changed", "reader")
    return {
        "artifact": name,
        **{key: manifest.get(key) for key in kept},
        "options": (params.get("reader") or {}).get("options", {}),
        "digest": (params.get("path") or {}).get("digest"),
        "asked": {k: v for k, v in params.items() if k not in ("reader", "path", "classes")},
        "reasons": _reasons(folder / QUARANTINE),
    }


def _reasons(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        found = Counter(row["reason"] for row in csv.DictReader(file))
    return dict(found.most_common(_REASONS))


def _spread(table: pd.DataFrame, column: str) -> dict[str, dict[str, float]]:
    found = {}
    for name, values in table.groupby(table["label"].astype(str))[column]:
        known = values.to_numpy(float)
        known = known[np.isfinite(known)]
        if len(known):
            low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
            found[str(name)] = {"low": float(low), "value": float(middle), "high": float(high)}
    return found


def _origins(table: pd.DataFrame) -> dict[str, int]:
    return {str(k): int(n) for k, n in table["origin"].astype(str).value_counts().items()}


def _drawn(walked: Walked, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for name, artifact in ((n, a) for sets in walked.drawn.values() for n, a in sets.items()):
        if artifact.name in seen:
            continue
        seen.add(artifact.name)
        made = _made(artifact)
        said = read_json(made / "synthetic.json")
        record = read_record(made)
        yield {
            "name": name,
            "artifact": made.name,
            "images": said["images"],
            "model": said["model"],
            "seed": record["params"]["seed"],
            "generator": walked.generators[name].name,
            "used": read_manifest(artifact.path)["n"],
            "index": known.get(made.name),
        }


def _made(artifact: Artifact) -> Path:
    # a selection stands on the set that was drawn
    path = artifact.path
    while not (path / "synthetic.json").is_file():
        path = path.parent / read_record(path)["inputs"][-1]
    return path
