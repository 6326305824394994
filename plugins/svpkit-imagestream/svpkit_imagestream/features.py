"""The table of features that IDEAS exports as text: found, indexed, read a line at a time."""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from svpkit import SvpkitError

KEY = "object number"
HEAD = 64  # lines in which the header has to come
LONGEST_LINE = 2**20
MOST_CELLS = 4096
LONGEST_CELL = 1000


@dataclass(frozen=True)
class Features:
    """A table of features: its columns, and where in the file each object's line begins."""

    path: Path
    names: tuple[str, ...]
    lines: dict[int, int]

    @classmethod
    def open(cls, path: Path) -> Features:
        """Index a table; raises SvpkitError where it is none, or names an object twice."""
        try:
            with path.open("rb") as file:
                names = _header(path, file)
                if names is None:
                    raise SvpkitError(f"{path}: no line among the first {HEAD} names Object Number")
                return cls(path, tuple(names), _index(path, file, _key(names)))
        except OSError as error:
            raise SvpkitError(f"{path}: {error.strerror or error}") from None

    def row(self, number: int) -> dict[str, str] | None:
        """Return an object's features as text; None where the table has no line of it."""
        if number not in self.lines:
            return None
        with self.path.open("rb") as file:
            file.seek(self.lines[number])
            cells = _cells(file.readline(LONGEST_LINE))
        return {name: _at(cells, i)[:LONGEST_CELL] for i, name in enumerate(self.names) if name}

    def column(self, name: str) -> str:
        """Return the column of this name, whatever its case; raises SvpkitError without one."""
        for known in self.names:
            if known.casefold() == name.strip().casefold():
                return known
        shown = ", ".join(sorted(n for n in self.names if n)[:12])
        raise SvpkitError(f"{self.path}: options.label_column: no column '{name}'; first: {shown}")


def is_table(path: Path) -> bool:
    """Return whether one of a text's first lines is the header of a table of features."""
    try:
        with path.open("rb") as file:
            return _header(path, file) is not None
    except OSError:
        return False


def diameter(row: dict[str, str], channel: int) -> float:
    """Return the diameter (um) of the circle as large as the channel's own mask; NaN without.

    `Diameter_M<k>`, um, else of `Area_M<k>`, um^2.
    """
    known = {name.casefold(): value for name, value in row.items()}
    for mask in (f"m{channel:02}", f"m{channel}"):
        if (size := number(known.get(f"diameter_{mask}", ""))) > 0:
            return size
        if (area := number(known.get(f"area_{mask}", ""))) > 0:
            return 2 * math.sqrt(area / math.pi)
    return math.nan


def number(text: str) -> float:
    """Return a finite number, with a decimal point or comma; NaN where the text is none."""
    try:
        value = math.nan if "_" in text else float(text if "." in text else text.replace(",", "."))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _header(path: Path, file: BinaryIO) -> list[str] | None:
    for i in range(HEAD):
        line = file.readline(LONGEST_LINE)
        if i == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return _refuse_wide(path, line + file.read(2**16))
        names = _cells(line)
        if KEY in (name.casefold() for name in names):
            return names
    return None


def _refuse_wide(path: Path, head: bytes) -> None:
    if KEY in head.decode("utf-16", errors="ignore").casefold():
        raise SvpkitError(f"{path}: features in UTF-16; save them as UTF-8")


def _index(path: Path, file: BinaryIO, key: int) -> dict[int, int]:
    lines: dict[int, int] = {}
    while True:
        start = file.tell()
        line = file.readline(LONGEST_LINE)
        if not line:
            return lines
        if len(line) == LONGEST_LINE:
            raise SvpkitError(f"{path}: not a table: a line is longer than {LONGEST_LINE}")
        value = number(_at(_cells(line), key))
        if value >= 0 and value == int(value) and lines.setdefault(int(value), start) != start:
            raise SvpkitError(f"{path}: object {int(value)} has two lines")


def _key(names: list[str]) -> int:
    return [name.casefold() for name in names].index(KEY)


def _at(cells: list[str], index: int) -> str:
    return cells[index] if index < len(cells) else ""


def _cells(line: bytes) -> list[str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    return [cell.strip().strip('"').strip() for cell in text.split("\t", MOST_CELLS)[:MOST_CELLS]]
