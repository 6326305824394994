"""FlowCam runs found in folders: their particle lists, and what their settings say."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError
from svpkit.readers import flowcam_files as files
from svpkit.readers.exports import refuse_outside
from svpkit.readers.flowcam_tables import Listing, csv_header, open_csv, open_lst

# A CSV is taken for an export of this instrument where it has these columns, by .lst names.
_SIGN = {"collage_file", "image_x"}


@dataclass(frozen=True)
class Run:
    """One run: its name, its particle list, and the CSV that has more columns, if any."""

    name: str
    listing: Listing
    more: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return self.listing.path.parent

    @property
    def stem(self) -> str:
        """What the names of the run's files begin with."""
        return self.listing.path.stem

    def beside(self, ending: str) -> Path | None:
        """Return a file of the run by what follows its stem, if it is there."""
        path = self.folder / f"{self.stem}{ending}"
        return path if path.is_file() else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the .ctx and the summaries say; the summary.csv, whose numbers are finest, first."""
        said: dict[str, Any] = {}
        for ending in (".ctx", "_run_summary.txt", "_summary.csv"):
            path = self.beside(ending)
            said |= files.settings(path) if path else {}
        return said


def runs_of(path: Path) -> list[Run]:
    """Return the runs in a run's folder, a .lst or .csv, or a folder of run folders, by name.

    Raises SvpkitError where there is none, or a list is not one.
    """
    if not path.exists():
        raise SvpkitError(f"{path}: no such file or folder")
    lists = _all_lists(path)
    if not lists:
        raise SvpkitError(f"{path}: no FlowCam run: no .lst, and no .csv with its columns")
    if path.is_dir():
        refuse_outside(path, lists)
    stems = [found.stem for found in lists]
    return [
        _run(found, found.stem if stems.count(found.stem) == 1 else _longer(path, found))
        for found in lists
    ]


def _longer(path: Path, found: Path) -> str:
    return found.relative_to(path).with_suffix("").as_posix()


def _all_lists(path: Path) -> list[Path]:
    """Return the lists of a run, or, where there is none, of the runs one folder down."""
    lists = _lists(path)
    if lists or not path.is_dir():
        return lists
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [found for folder in inside for found in _lists(folder)]


def _lists(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".lst" or _is_export(path) else []
    visible = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    lists = [p for p in visible if p.suffix.lower() == ".lst"]
    return lists or [p for p in visible if p.suffix.lower() == ".csv" and _is_export(p)]


def _is_export(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and _columns(path) >= _SIGN


def _columns(path: Path) -> set[str]:
    try:
        return set(csv_header(path).at)
    except (SvpkitError, ValueError, OSError):
        return set()


def _run(path: Path, name: str) -> Run:
    if path.suffix.lower() == ".csv":
        return Run(name, open_csv(path))
    more = path.with_suffix(".csv")
    return Run(name, open_lst(path), more if "id" in _columns(more) else None)


def sniff(path: Path) -> bool:
    """Return whether a path holds a FlowCam run: a .lst of the right beginning, or their CSV."""
    try:
        return path.exists() and any(_opens(found) for found in _all_lists(path))
    except OSError:
        return False


def _opens(path: Path) -> bool:
    try:
        return bool(_run(path, path.stem))
    except (SvpkitError, OSError, ValueError):
        return False


def about(folder: Path | str) -> dict[str, Any]:
    """Return what is known of a run.

    `run`, `rows` (particles listed), `particle_count` (those counted, None where unknown: more than
    rows where particles were removed later), `volume_ml` (NaN unknown), `started` (ISO text),
    `magnification`, `um_per_px`. Raises SvpkitError for several runs in the folder.
    """
    runs = runs_of(Path(folder))
    if len(runs) > 1:
        raise SvpkitError(f"{folder}: {len(runs)} runs; name one of them")
    said = runs[0].settings
    return {
        "run": runs[0].name,
        "rows": sum(1 for _ in runs[0].listing.lines()),
        "particle_count": said.get("particle_count"),
        "volume_ml": said.get("volume_ml", float("nan")),
        "started": said.get("started", ""),
        "magnification": said.get("magnification", ""),
        "um_per_px": said.get("um_per_px", float("nan")),
    }
