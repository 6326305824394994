"""What lies in a store, which runs name it, and clearing what no run names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from svpkit.errors import SvpkitError
from svpkit.store import folder_size, read_record, write_json

UNDER_WAY = "artifacts.json"
THRESHOLDS = "thresholds.json"


def artifacts(root: Path) -> list[Path]:
    """Return the folders of complete artifacts, sorted by name."""
    return sorted(p.parent for p in root.glob("*/artifact.json"))


def named(runs: Path) -> dict[str, list[str]]:
    """Return the artifacts that runs name: {artifact: [run, ...]}."""
    found: dict[str, list[str]] = {}
    for path in sorted(runs.glob(f"*/{UNDER_WAY}")):
        for name in _read(path)["artifacts"]:
            found.setdefault(name, []).append(path.parent.name)
    return found


def note_artifacts(folder: Path, names: list[str], *, done: bool) -> None:
    """Write which artifacts a run uses, from its start on, so that clearing spares them.

    Until it is done, those of the run that stood there before are kept too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / UNDER_WAY
    before = _read(path)["artifacts"] if path.is_file() and not done else []
    write_json(path, {"artifacts": list(dict.fromkeys([*before, *names]))})


def note_thresholds(folder: Path, evidence: Path, arm: str) -> None:
    """Write what `predict` holds an arm's names to; a run without a required precision has none.

    {"thresholds": {class: number, or null where nothing can be promised}, "required": {class:
    number}, "confidence"}, taken from the evidence.
    """
    found = _read(evidence / "evidence.json")["test"][arm].get("thresholds")
    if found is None:
        (folder / THRESHOLDS).unlink(missing_ok=True)
        return
    said = {
        key: {name: row[part] for name, row in found["per_class"].items()}
        for key, part in (("thresholds", "threshold"), ("required", "required"))
    }
    write_json(folder / THRESHOLDS, said | {"confidence": found["confidence"]})


def read_thresholds(folder: Path) -> dict[str, float | None] | None:
    """Return the thresholds that a run's names are held to, by class; None where none are."""
    path = folder / THRESHOLDS
    return _read(path)["thresholds"] if path.is_file() else None


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

    for folder in folders:
        lock = FileLock(root / ".partial" / f"{folder.name}.lock", timeout=0)
        lock_folder = Path(lock.lock_file).parent
        lock_folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock:
                shutil.rmtree(folder)
        except Timeout:
            raise SvpkitError(f"{folder}: another run is making it") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{path}: cannot be read ({error})") from None
