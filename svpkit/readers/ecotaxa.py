"""EcoTaxa archives, unpacked: tables ecotaxa_*.tsv and the images that they name."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from svpkit.errors import SvpkitError, unknown
from svpkit.legible import checked
from svpkit.readers.exports import capped, cells, early, neutral, number, picture, refuse_outside

STATUSES = ("validated", "predicted", "dubious")
_TYPES = {"[t]", "[f]", ""}
# A unit in a column's name settles it; `process_pixel` alone does not.
_SIZE = re.compile(r"(process|acq)_.*pixel.*_(um|µm|mm)(_size)?", re.IGNORECASE)
_BARE = ("process_pixel", "process_pixel_size", "acq_pixel", "acq_pixel_size")
_MM = 1000.0

Found = tuple[Any, dict[str, Any]]
Record = dict[str, str]


@dataclass(frozen=True)
class Wanted:
    """What `EcotaxaReader.read` is asked for that every row is looked at with."""

    status: tuple[str, ...]
    classes: tuple[str, ...]
    um_per_px: float | None
    pixel_unit: Literal["um", "mm"] | None
    ecd: str | None


class EcotaxaReader:
    """EcoTaxa import or export archives, unpacked in a folder: ecotaxa_*.tsv with their images.

    One particle per object (object_id of a sample_id, which is the run); of several images that
    with the lowest img_rank. The line of types ([t], [f]) is skipped. Images stand beside their
    table or in folders there, as img_file_name says.
    """

    def read(
        self,
        path: Path | str,
        *,
        table: Annotated[str, "which tables of the folder, as a pattern"] = "**/ecotaxa_*.tsv",
        status: Annotated[
            tuple[Literal["validated", "predicted", "dubious"], ...],
            "annotations that count as labels; objects of another status have none",
        ] = ("validated",),
        classes: Annotated[
            list[str] | None, "the classes to read, in label order; else all, unlabelled ones too"
        ] = None,
        um_per_px: Annotated[float | None, Gt(0), "scale of all images, in um"] = None,
        pixel_unit: Annotated[
            Literal["um", "mm"] | None, "unit of process_pixel or acq_pixel, which name none"
        ] = None,
        ecd: Annotated[str | None, "column with the equivalent circular diameter in um"] = None,
        volume_ml: Annotated[float | None, Gt(0), "volume analysed per sample"] = None,
        dilution: Annotated[float, Gt(0), "factor by which the sample was diluted"] = 1.0,
    ) -> Iterator[Found]:
        """Yield (image, row), in the order of the tables; what cannot be read yields (reason, row).

        The label is object_annotation_category, where the status counts or the table has no
        status. The scale is `um_per_px`, else a column whose name holds its unit (such as
        process_particle_pixel_size_mm), else process_pixel or acq_pixel where `pixel_unit` says
        what it means: PlanktoScope and FlowCam write um there, UVP and ZooScan projects mm, and the
        files do not tell. Raises SvpkitError for a folder, table, column or class that is not
        there.
        """
        root, tables = _tables(Path(path), table)
        wanted = Wanted(status, tuple(classes or ()), um_per_px, pixel_unit, ecd)
        given = {"volume_ml": volume_ml or math.nan, "dilution": dilution}
        best: dict[str, tuple[float, int]] = {}
        seen: set[str] = set()
        for i, file in enumerate(tables):
            names = _names(file, ecd)
            seen |= _rank(file, names, i, best, "object_annotation_category" in names)
        for name in wanted.classes:
            if name not in seen:
                raise unknown(f"{root}: options.classes", name, sorted(seen))
        for i, file in enumerate(tables):
            yield from _objects(root, file, i, best, wanted, given)

    def sniff(self, path: Path | str) -> bool:
        """Return whether this is such a table, or a folder with one, at most one level down."""
        path = Path(path)
        found = (f for p in ("ecotaxa_*.tsv", "*/ecotaxa_*.tsv") for f in path.glob(p))
        files = found if path.is_dir() else [path] if path.suffix.lower() == ".tsv" else []
        return any({"img_file_name", "object_id"} <= set(r) for f in files for _, r in early(f)[:1])


def scale(record: Mapping[str, str], unit: Literal["um", "mm"] | None) -> float:
    """Return um per px by a column that names its unit, or by `process_pixel` in `unit`; or NaN."""
    for name, value in record.items():
        match = _SIZE.fullmatch(name)
        if match and number(value) > 0:
            return number(value) * (_MM if match[2].lower() == "mm" else 1)
    for name in _BARE if unit else ():
        if number(record.get(name, "")) > 0:
            return number(record[name]) * (_MM if unit == "mm" else 1)
    return math.nan


def timestamp(record: Mapping[str, str]) -> str:
    """Return ISO text of object_date (YYYYMMDD) and object_time (HHMMSS); "" where unreadable."""
    day = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)", record.get("object_date", ""))
    if not day:
        return ""
    text = record.get("object_time", "").removesuffix("Z")
    hour = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d)?", text.zfill(6) if text.isdigit() else text)
    clock = f"T{hour[1]}:{hour[2]}:{hour[3] or '00'}" if hour else ""
    try:
        datetime.fromisoformat("-".join(day.groups()) + clock)
    except ValueError:
        return ""
    return "-".join(day.groups()) + clock


def _tables(path: Path, pattern: str) -> tuple[Path, list[Path]]:
    """Return the resolved folder and its tables, sorted."""
    if path.is_file() and path.suffix.lower() == ".zip":
        raise SvpkitError(f"{path}: unpack the archive first, and name its folder")
    if path.is_file():
        return path.parent.resolve(), [path]
    if not path.is_dir():
        raise SvpkitError(f"{path}: no such folder")
    try:
        tables = sorted(f for f in path.glob(pattern) if f.is_file())
    except (ValueError, NotImplementedError) as error:
        raise SvpkitError(f"{path}: options.table: {error}") from None
    if not tables:
        raise SvpkitError(f"{path}: options.table: no file is named {pattern}")
    refuse_outside(path, tables)
    return path.resolve(), tables


def _names(file: Path, ecd: str | None) -> list[str]:
    names = next((row for _, row in cells(file, "\t")), [])
    for name in ("img_file_name", "object_id"):
        if name not in names:
            raise SvpkitError(f"{file}: no column {name}: not a table of EcoTaxa")
    if ecd and ecd not in names:
        raise unknown(f"{file}: options.ecd: column", ecd, names)
    return names


def _records(file: Path, names: list[str]) -> Iterator[tuple[int, Record | str]]:
    """Yield each object's line as text by column, or why it is none."""
    for i, (line, row) in enumerate(cells(file, "\t")):
        if i == 0 or (i == 1 and set(row) <= _TYPES):
            continue
        if len(row) != len(names):
            yield line, f"the line has {len(row)} values, the header {len(names)}"
        else:
            yield line, {n: capped(v) for n, v in zip(names, row, strict=True) if n}


def _key(file: Path, record: Record) -> tuple[str, str]:
    return record.get("sample_id") or file.stem.removeprefix("ecotaxa_"), record["object_id"]


def _rank(
    file: Path, names: list[str], place: int, best: dict[str, tuple[float, int]], labelled: bool
) -> set[str]:
    """Note each object's lowest rank, with its table and line; return the categories seen."""
    seen = set()
    for line, record in _records(file, names):
        if isinstance(record, str):
            continue
        key = "/".join(_key(file, record))
        rank = number(record.get("img_rank", ""))
        rank = rank if rank == rank else 0.0
        if key not in best or rank < best[key][0]:
            best[key] = (rank, place << 32 | line)
        if labelled:
            seen.add(record["object_annotation_category"])
    return seen


def _objects(
    root: Path,
    file: Path,
    place: int,
    best: Mapping[str, tuple[float, int]],
    wanted: Wanted,
    given: Mapping[str, Any],
) -> Iterator[Found]:
    names = _names(file, None)
    below = file.parent.resolve()
    inside = "" if below == root else f"{below.relative_to(root).as_posix()}/"
    for line, record in _records(file, names):
        lost = f"{inside}{file.stem} line {line}"
        if isinstance(record, str):
            yield record, neutral(file.stem, f"{inside}line {line}")
            continue
        run, particle = _key(file, record)
        label = _label(record, wanted)
        if wanted.classes and label not in wanted.classes:
            continue
        if not particle:
            yield "the line has no object_id", neutral(run, lost)
            continue
        first = best[f"{run}/{particle}"][1]
        if first >> 32 != place and not record.get("sample_id"):
            # tables of one name whose samples are not named: it may well be another object
            yield f"object '{particle}' of '{run}' is in another table too", neutral(run, lost)
        elif first == place << 32 | line:
            known = {**given, **_said(run, record, wanted), "label": label, "raw": record}
            name = record["img_file_name"]
            yield picture(root, inside + name if name else ""), neutral(run, particle, **known)


def _label(record: Record, wanted: Wanted) -> str:
    status = record.get("object_annotation_status")
    counts = status is None or status.lower() in wanted.status
    label = record.get("object_annotation_category", "") if counts else ""
    return checked(label, "object_annotation_category")


def _said(run: str, record: Record, wanted: Wanted) -> dict[str, Any]:
    return {
        # what shares a frame is not told: what shares an acquisition surely holds it
        "source": f"{run}/{record.get('acq_id', '')}".rstrip("/"),
        "um_per_px": wanted.um_per_px or scale(record, wanted.pixel_unit),
        "ecd_um": number(record[wanted.ecd]) if wanted.ecd else math.nan,
        "timestamp": timestamp(record),
        "instrument": record.get("acq_instrument") or "EcoTaxa",
    }
