"""Particle tables of Micro-Flow Imaging (MFI), with full frames or a folder of crops."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from svpkit.errors import SvpkitError, unknown
from svpkit.readers.exports import capped, neutral, picture, refuse_outside
from svpkit.readers.mfi_tables import BOX, Table, tables_in, tables_of

_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d?)?\}")

# How the flag of a particle that no edge cuts may be written.
_INSIDE = ("", "0", "0.0", "false", "no")

Found = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """What the files of an export leave open, as `MfiReader.read` is given it."""

    frames: str | None
    crops: str | None
    inclusive: bool
    first_frame: int
    padding: int
    bits: int | None
    edge: Literal["keep", "drop"]


class MfiReader:
    """An MFI particle table (MVSS) with its frames or crops, one run per table.

    Written from a published list of the table's columns: no export of the instrument was at hand.
    What that list leaves open (which files hold the images and how they are numbered, whether a
    box includes its last row and column, grey levels, the scale) is an option: compare a few
    images with the vendor's software before you trust a run. Column names are taken whatever
    their case, spaces and units; lines above the header are skipped.
    """

    def read(
        self,
        path: Path | str,
        *,
        table: Annotated[
            str | None, "which tables of the folder, as a pattern; else all that look like one"
        ] = None,
        columns: Annotated[
            dict[str, str] | None,
            "its columns by our names (particle, frame, ecd_um, left, right, top, bottom, edge)",
        ] = None,
        frames: Annotated[
            str | None, "full frames in the folder, such as 'frames/{run}_{frame:05}.tif'"
        ] = None,
        crops: Annotated[
            str | None, "particles' own images in the folder, such as '{run}/{particle:06}.png'"
        ] = None,
        first_frame: Annotated[
            int, Ge(0), "number in the file name of the frame that the table calls 1"
        ] = 1,
        inclusive: Annotated[
            bool, "the column X Right and the row Y Bottom belong to the box"
        ] = True,
        padding: Annotated[
            int, Ge(0), Le(1024), "pixels of surroundings on each side of the box (frames only)"
        ] = 0,
        bits: Annotated[
            int | None, Ge(8), Le(16), "bits of a grey level: 10 scales 0..1023 to 0..255"
        ] = None,
        edge: Annotated[
            Literal["keep", "drop"], "what becomes of particles marked as cut by the frame's edge"
        ] = "keep",
        um_per_px: Annotated[float | None, Gt(0), "scale of all images, in um"] = None,
        volume_ml: Annotated[float | None, Gt(0), "volume analysed per run"] = None,
        dilution: Annotated[float, Gt(0), "factor by which the sample was diluted"] = 1.0,
    ) -> Iterator[Found]:
        """Yield (image, row), in the order of the frames; what cannot be read yields (reason, row).

        Images are as their files have them, or uint8 where `bits` is given. Each frame is decoded
        once. 1280 x 1024 frames at 1.25 um per px fit the published figures; neither is assumed.
        Raises SvpkitError where there is no table, a column is missing, or not just one of
        `frames` and `crops` is given.
        """
        tables = tables_of(Path(path), table)
        root = (Path(path) if Path(path).is_dir() else Path(path).parent).resolve()
        if Path(path).is_dir():
            refuse_outside(root, tables)
        layout = Layout(frames, crops, inclusive, first_frame, padding, bits, edge)
        _check(Path(path), layout)
        nan = float("nan")
        given = {"um_per_px": um_per_px or nan, "volume_ml": volume_ml or nan}
        given |= {"dilution": dilution, "instrument": "MFI"}
        wanted = ["particle", *(("frame", *BOX) if frames else ()), *(["edge"] * (edge == "drop"))]
        for file in tables:
            yield from _particles(root, Table.open(file, columns or {}, wanted), layout, given)

    def sniff(self, path: Path | str) -> bool:
        """Return whether this is a table with MFI's columns, or a folder that holds one."""
        return bool(tables_in(Path(path)))


def scaled(image: Any, bits: int | None) -> Any:
    """Return uint8 of grey levels 0..2**bits - 1; raises SvpkitError for levels beyond."""
    import numpy as np

    if bits is None or (bits == 8 and image.dtype == np.uint8):
        return image
    most = image.max(initial=0)
    if image.dtype == np.uint8 or most >= 2**bits:
        raise SvpkitError(f"options.bits = {bits} does not fit {image.dtype} levels up to {most}")
    levels = np.round(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
    return levels[image]


def _check(path: Path, layout: Layout) -> None:
    if bool(layout.frames) == bool(layout.crops):
        raise SvpkitError(
            f"{path}: name the images by one of options.frames ('frames/{{frame:05}}.tif') "
            "and options.crops ('{particle}.png')"
        )
    which, pattern = ("frames", layout.frames) if layout.frames else ("crops", layout.crops)
    fields = [name for name, _ in _FIELD.findall(pattern or "")]
    known = ("run", "frame") if layout.frames else ("run", "frame", "particle")
    for name in fields:
        if name not in known:
            raise unknown(f"{path}: options.{which}: field", name, known)
    if known[-1] not in fields:
        raise SvpkitError(f"{path}: options.{which}: '{pattern}' has no {{{known[-1]}}}")


def _named(pattern: str, **values: str) -> str:
    return _FIELD.sub(lambda m: values[m[1]].zfill(int(m[2] or 0)), pattern)


def _particles(root: Path, table: Table, layout: Layout, given: dict[str, Any]) -> Iterator[Found]:
    taken: set[str] = set()
    if next(iter(table.rows()), None) is None:
        yield None, neutral(table.run, "", **given)  # its volume counts all the same
    # rows come frame by frame: the last one is all that is kept
    frame_of = lru_cache(maxsize=1)(lambda name: _opened(root, name, layout.bits))
    for line, row in table.by_frame():
        if layout.edge == "drop" and table.text(row, "edge").lower() not in _INSIDE:
            continue
        known = _row(table, row, given)
        reason = _wrong(table, row, known["id"], taken)
        if reason:
            yield reason, known | {"id": f"{table.run}/line {line}"}
            continue
        taken.add(known["id"])
        if layout.frames:
            name = _named(layout.frames, run=table.run, frame=_file_number(table, row, layout))
            yield _cut(frame_of(name), table, row, layout), known
        else:
            values = {n: table.text(row, n) for n in ("frame", "particle")}
            name = _named(layout.crops or "", run=table.run, **values)
            yield _opened(root, name, layout.bits), known


def _row(table: Table, row: list[str], given: dict[str, Any]) -> dict[str, Any]:
    frame, particle = table.text(row, "frame"), table.text(row, "particle")
    raw = {n: capped(v) for n, v in zip(table.names, row, strict=False) if n}
    source, ecd = f"{table.run}/{frame or particle}", table.number(row, "ecd_um")
    found = neutral(table.run, particle, **given, source=source, ecd_um=ecd, raw=raw)
    # without a "#", particles may be numbered anew in each frame
    anew = {} if table.numbered or not frame else {"id": f"{table.run}/{frame}-{particle}"}
    return found | anew


def _wrong(table: Table, row: list[str], name: str, taken: set[str]) -> str:
    """Return what keeps a line from being a particle, "" where nothing does."""
    if len(row) < len(table.names) or any(row[len(table.names) :]):
        return f"the line has {len(row)} values, the header {len(table.names)}"
    if not table.text(row, "particle"):
        return "the line has no particle number"
    if name in taken:
        return f"particle {name} is there twice"
    return ""


def _file_number(table: Table, row: list[str], layout: Layout) -> str:
    frame = table.whole(row, "frame")
    return table.text(row, "frame") if frame is None else str(frame + layout.first_frame - 1)


def _opened(root: Path, name: str, bits: int | None) -> Any:
    found = picture(root, name)
    try:
        return found if isinstance(found, str) else scaled(found, bits)
    except SvpkitError as error:
        return f"{name}: {error}"


def _cut(frame: Any, table: Table, row: list[str], layout: Layout) -> Any:
    """Return the particle's box with its surroundings, or why there is none."""
    if isinstance(frame, str):
        return frame
    left, right, top, bottom = (table.whole(row, name) for name in BOX)
    if left is None or right is None or top is None or bottom is None:
        said = ", ".join(f"{name} {table.text(row, name)!r}" for name in BOX)
        return f"no whole numbers: {said}"
    last, pad = int(layout.inclusive), layout.padding
    right, bottom = right + last, bottom + last
    height, width = frame.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        return f"box {left}..{right} x {top}..{bottom} is not in the frame, {width} x {height} px"
    rows = slice(max(0, top - pad), bottom + pad)
    return frame[rows, max(0, left - pad) : right + pad].copy()
