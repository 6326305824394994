"""What lies in a store, which runs name it, and clearing what no run names."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from svpkit.disk import file_digest, folder_size, put, write_json
from svpkit.errors import SvpkitError
from svpkit.safe import read_json
from svpkit.shapes import Audited, Limits, UnderWay, shaped
from svpkit.store import read_record

UNDER_WAY = "artifacts.json"
# What audits of a run made, by the folder they wrote: a file of its own, as a run rewrites its own.
AUDITED = "audit-artifacts.json"
THRESHOLDS = "thresholds.json"


def artifacts(root: Path) -> list[Path]:
    """Return the folders of complete artifacts, sorted by name."""
    return sorted(p.parent for p in root.glob("*/artifact.json"))


def named(runs: Path) -> dict[str, list[str]]:
    """Return the artifacts that runs and their audits name: {artifact: [run, ...]}."""
    said = [(p, shaped(p, UnderWay)["artifacts"]) for p in sorted(runs.glob(f"*/{UNDER_WAY}"))]
    for path in sorted(runs.glob(f"*/{AUDITED}")):
        said += [(path, names) for names in shaped(path, Audited)["folders"].values()]
    found: dict[str, list[str]] = {}
    for path, name in ((path, name) for path, names in said for name in names):
        runs_of = found.setdefault(name, [])
        runs_of += [] if path.parent.name in runs_of else [path.parent.name]
    return found


def note_artifacts(folder: Path, names: list[str], *, done: bool) -> None:
    """Write which artifacts a run uses, from its start on, so that clearing spares them.

    Until it is done, those of the run that stood there before are kept too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / UNDER_WAY
    before = shaped(path, UnderWay)["artifacts"] if path.is_file() and not done else []
    write_json(path, {"artifacts": list(dict.fromkeys([*before, *names]))})


def note_audit(run: Path, out: Path, names: list[str], *, done: bool) -> None:
    """Write in a run's folder which artifacts the audit in `out` stands on, as `note_artifacts`."""
    path, key = run / AUDITED, str(out.resolve())
    folders = shaped(path, Audited)["folders"] if path.is_file() else {}
    before = [] if done else folders.get(key, [])
    folders[key] = list(dict.fromkeys([*before, *names]))
    write_json(path, {"folders": folders})


def note_thresholds(
    model: Path, found: Mapping[str, Any] | None, weights: Mapping[str, str]
) -> None:
    """Write beside a model's weights what its names are held to; nothing where `found` is None.

    `found` is an arm's "thresholds" as the evidence holds them, `weights` {file: SHA-256}. Writes
    {"thresholds": {class: number, or null where nothing can be promised}, "required": {class:
    number}, "confidence", "weights"}.
    """
    if found is None:
        return
    said = {
        key: {name: row[part] for name, row in found["per_class"].items()}
        for key, part in (("thresholds", "threshold"), ("required", "required"))
    }
    more = {"confidence": found["confidence"], "weights": dict(weights)}
    write_json(model / THRESHOLDS, said | more)


def read_thresholds(model: Path) -> dict[str, float | None] | None:
    """Return the thresholds that a model's names are held to, by class; None where none are.

    Raises SvpkitError where they were chosen for other weights than lie beside them, or are lost.
    """
    path = model / THRESHOLDS
    if not path.exists():
        config = model / "config.json"
        if config.is_file() and read_json(config).get("held_to_thresholds"):
            raise SvpkitError(f"{path}: not here, though the model is held to thresholds")
        return None
    found = shaped(path, Limits)
    if found.get("weights") != weights_of(model):
        raise SvpkitError(
            f"{path}: chosen for other weights than lie beside it; copy a run's model as a whole"
        )
    return found["thresholds"]


def weights_of(model: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a model's folder."""
    return {path.name: file_digest(path) for path in sorted(model.glob("*.safetensors"))}


def listing(root: Path, runs: Path) -> pd.DataFrame:
    """Return one row an artifact: name, MB, seconds, the runs that name it."""
    who = named(runs)
    rows = []
    for path in artifacts(root):
        size = f"{folder_size(path) / 1e6:,.1f}"
        names = ", ".join(sorted(set(who.get(path.name, [])))) or "-"
        seconds = read_record(path)["seconds"]
        rows.append({"artifact": path.name, "MB": size, "seconds": seconds, "runs": names})
    return pd.DataFrame(rows, columns=["artifact", "MB", "seconds", "runs"])


def unnamed(root: Path, runs: Path) -> list[tuple[Path, int]]:
    """Return (folder, bytes) of artifacts and unfinished work that no run names."""
    if not runs.is_dir():
        raise SvpkitError(f"{runs}: no folder of runs; --runs DIR names the one to spare")
    who = named(runs)
    made = [p for p in artifacts(root) if p.name not in who]
    partial = [p for p in sorted((root / ".partial").glob("*")) if p.is_dir()]
    return [(p, folder_size(p)) for p in [*made, *partial]]


def remove(root: Path, folders: list[Path]) -> None:
    """Remove artifact folders of this store; unfinished work only when nobody is at it."""
    from filelock import FileLock, Timeout

    partial = root / ".partial"
    partial.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        name = folder.name.removesuffix(".old")
        aside = partial / f"{name}.old"
        try:
            with FileLock(partial / f"{name}.lock", timeout=0):
                if aside.exists():
                    shutil.rmtree(aside)
                if folder.exists():
                    # one rename: what is half gone must not pass for an artifact
                    put(folder, aside)
                    shutil.rmtree(aside)
        except Timeout:
            raise SvpkitError(f"{folder}: another run is making it") from None
