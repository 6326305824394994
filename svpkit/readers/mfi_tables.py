"""The particle table of an MFI export: its header found, its columns by our names, its rows."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from svpkit.errors import SvpkitError, unknown
from svpkit.readers.exports import capped, cells, delimiter_of, early, number, refuse_outside, whole

# Our names of the columns that are used, and how the export's names look once folded.
COLUMNS = {
    "particle": ("#", "particle", "particlenumber", "particleid"),
    "frame": ("frame", "framenumber", "frameid"),
    "ecd_um": ("ecd", "equivalentcirculardiameter"),
    "left": ("xleft", "left"),
    "right": ("xright", "right"),
    "top": ("ytop", "top"),
    "bottom": ("ybottom", "bottom"),
    "edge": ("edgeparticle", "edge"),
}
BOX = ("left", "right", "top", "bottom")
_UNIT = re.compile(r"\s*[(\[][^)\]]*[)\]]\s*$|[\s_]+(um|µm|μm|px|pixels?|s|sec)\s*$", re.IGNORECASE)
_ENDINGS = (".csv", ".tsv", ".txt")
_BEFORE_HEADER = 100
_JOINT = "\x1f"


@dataclass(frozen=True)
class Table:
    """One particle table: its file, its header's line and names, and where our columns stand."""

    file: Path
    header: int
    names: tuple[str, ...]
    at: Mapping[str, int]
    comma: bool

    @classmethod
    def open(cls, file: Path, columns: Mapping[str, str], wanted: Iterable[str]) -> "Table":
        """Find the header; raises SvpkitError where a column of `wanted` is missing."""
        header, names = _header(file, cells(file), columns.values())
        at = _located(file, names, columns)
        for name in wanted:
            if name not in at:
                raise SvpkitError(
                    f"{file}: no column for '{name}'; name it in options.columns "
                    f"(there: {', '.join(names)})"
                )
        return cls(file, header, names, at, delimiter_of(file) == ";")

    @property
    def run(self) -> str:
        """The run's name: the file's, without its ending."""
        return self.file.stem

    @property
    def numbered(self) -> bool:
        """True where particles are numbered through the run (a column "#")."""
        return fold(self.names[self.at["particle"]]) == "#"

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the cells of each particle."""
        return ((line, row) for line, row in cells(self.file) if line > self.header)

    def by_frame(self) -> Iterable[tuple[int, list[str]]]:
        """Return the rows so that each frame's stand together: sorted only where they do not."""
        if "frame" not in self.at:
            return self.rows()
        frames = (self.whole(row, "frame") or 0 for _, row in self.rows())
        if all(a <= b for a, b in pairwise(frames)):
            return self.rows()
        # one string a row takes a quarter of the memory that its cells take
        joined = [(self.whole(r, "frame") or 0, n, _JOINT.join(r)) for n, r in self.rows()]
        joined.sort(key=lambda row: row[:2])
        return ((line, text.split(_JOINT)) for _, line, text in joined)

    def text(self, row: list[str], name: str) -> str:
        """Return a cell by our name, "" where there is none."""
        place = self.at.get(name, len(row))
        return capped(row[place]) if place < len(row) else ""

    def whole(self, row: list[str], name: str) -> int | None:
        """Return a cell as a whole number, None where it is none."""
        return whole(self.text(row, name), comma=self.comma)

    def number(self, row: list[str], name: str) -> float:
        """Return a cell as a number, NaN where it is none."""
        return number(self.text(row, name), comma=self.comma)


def fold(name: str) -> str:
    """Return a column's name without case, spaces and unit: "Frame #" is frame, "ECD(um)" ecd."""
    bare = _UNIT.sub("", name.strip()).casefold()
    return "#" if bare in ("#", "no", "no.", "nr") else re.sub(r"[\W_]+", "", bare)


def tables_of(path: Path, pattern: str | None) -> list[Path]:
    """Return a path's tables, sorted; raises SvpkitError where there is none, or two of a name."""
    if pattern is None:
        tables = tables_in(path)
    else:
        tables = _matching(path, pattern) if path.is_dir() else [path]
    if not tables:
        raise SvpkitError(f"{path}: no MFI table here ({pattern or 'CSV, TSV or TXT'})")
    names = [f.stem for f in tables]
    if len(set(names)) < len(names):
        raise SvpkitError(f"{path}: two tables of one name: {', '.join(sorted(names))}")
    return sorted(tables)


def _matching(path: Path, pattern: str) -> list[Path]:
    try:
        found = [f for f in path.glob(pattern) if f.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise SvpkitError(f"{path}: options.table: {error}") from None
    refuse_outside(path, found)
    return found


def tables_in(path: Path) -> list[Path]:
    """Return a folder's files (or the file) that look like MFI's by their first lines."""
    files = path.iterdir() if path.is_dir() else [path]
    found = []
    for file in (f for f in files if f.suffix.lower() in _ENDINGS and f.is_file()):
        try:
            _header(file, early(file))
        except SvpkitError:
            continue
        found.append(file)
    return sorted(found)


def _header(
    file: Path, rows: Iterable[tuple[int, list[str]]], named: Iterable[str] = ()
) -> tuple[int, tuple[str, ...]]:
    given = set(named)
    for line, row in islice(rows, _BEFORE_HEADER):
        known = {fold(name) for name in row}
        boxed = known >= {COLUMNS[name][0] for name in BOX}
        measured = bool(known & {*COLUMNS["ecd_um"]}) and bool(known & {"#", "edgeparticle"})
        if boxed or measured or (given and given <= set(row)):
            return line, tuple("\n".join(row).rstrip().split("\n"))
    raise SvpkitError(f"{file}: no header of an MFI table in its first {_BEFORE_HEADER} lines")


def _located(file: Path, names: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, int]:
    folded = [fold(name) for name in names]
    at: dict[str, int] = {}
    for ours, known in COLUMNS.items():
        there = next((k for k in known if k in folded), None)
        if there:
            at[ours] = folded.index(there)
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            raise unknown(f"{file}: options.columns", ours, COLUMNS)
        if theirs not in names:
            raise unknown(f"{file}: options.columns.{ours}: column", theirs, names)
        at[ours] = names.index(theirs)
    return at
