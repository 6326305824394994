"""Particle lists of FlowCam runs, .lst files and .csv exports, read by their headers."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from svpkit.errors import SvpkitError, nearest
from svpkit.readers.flowcam_names import CSV_NAMES, our_name
from svpkit.safe import open_regular, read_bytes

VERSION = "017"
RECTANGLE = ("image_x", "image_y", "image_w", "image_h")
MOST_FIELDS = 1000
LONGEST_LINE = 2**20
# Held in memory, as others need not be.
MOST_UTF16 = 512 * 2**20
# What C programs print where there is no number.
_NONE = re.compile(r"|[+-]?(nan(\(.*\))?|inf(inity)?|1\.#(ind|qnan|snan|inf)0*)", re.IGNORECASE)


def number(text: str) -> float:
    """Return a number; NaN for none (empty, NaN, 1.#QNAN); raises ValueError for other text."""
    try:
        value = float(text)
    except ValueError:
        text = text.strip()
        return float("nan") if _NONE.fullmatch(text) else float(text.replace(",", "."))
    return value if isfinite(value) else float("nan")


def _int(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        value = number(text)
        return int(value) if value.is_integer() else value


_TYPES: dict[str, Callable[[str], Any]] = {"int32": _int, "double": number}


@dataclass(frozen=True)
class Index:
    """Where the rows of a list stand: offsets, ids and collages, (n,) each.

    A row that cannot be read has collage -1; an id that is no whole number is -1.
    """

    offsets: np.ndarray
    ids: np.ndarray
    collages: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """A particle list: its columns in order, how they are parted, and where the rows begin."""

    path: Path
    names: tuple[str, ...]
    types: tuple[str, ...]
    separator: str
    start: int
    first_line: int

    @cached_property
    def at(self) -> dict[str, int]:
        """The columns' positions by their .lst names."""
        ours = self.names if self.types else tuple(our_name(n) for n in self.names)
        return {name: i for i, name in reversed(list(enumerate(ours))) if name}

    @cached_property
    def _convert(self) -> tuple[Callable[[str], Any], ...]:
        return tuple(_TYPES.get(kind, str) for kind in self.types)

    def open(self) -> BinaryIO:
        """Open the file in bytes, at its beginning; UTF-16 is made UTF-8 on the way."""
        with open_regular(self.path) as file:
            if file.read(2) not in (b"\xff\xfe", b"\xfe\xff"):
                return open_regular(self.path)
        try:
            raw = read_bytes(self.path, MOST_UTF16)
        except ValueError as error:
            raise SvpkitError(f"{self.path}: {error} of UTF-16") from None
        return io.BytesIO(raw.decode("utf-16", "replace").encode())

    def values(self, line: bytes) -> list[str]:
        """Return the values of one line; raises SvpkitError where there are too few or many."""
        text = decoded(line)
        if self.separator == "|":
            found = text.split("|")
        else:
            found = self._parted(text)
        if len(found) != len(self.names):
            raise SvpkitError(f"{len(found)} values, the header names {len(self.names)}")
        return found

    def _parted(self, text: str) -> list[str]:
        try:
            return next(csv.reader([text], delimiter=self.separator), [])
        except csv.Error as error:
            raise SvpkitError(f"cannot be parted: {error}") from None

    def raw(self, values: list[str]) -> dict[str, Any]:
        """Return the values by the file's own names; of the types its header gives, else text.

        Raises SvpkitError for a value that is not of its type.
        """
        if not self.types:
            return dict(zip(self.names, values, strict=True))
        try:
            made = [make(v) for make, v in zip(self._convert, values, strict=True)]
        except ValueError:
            raise SvpkitError(self._wrong(values)) from None
        return dict(zip(self.names, made, strict=True))

    def _wrong(self, values: list[str]) -> str:
        for name, kind, make, value in zip(
            self.names, self.types, self._convert, values, strict=True
        ):
            try:
                make(value)
            except ValueError:
                return f"{name} is '{value}', the header says {kind}"
        return "not of the header's types"

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and bytes of each row that is not blank."""
        with self.open() as file:
            file.seek(self.start)
            offset = self.start
            while line := file.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise SvpkitError(f"{self.path}: a line is longer than {LONGEST_LINE} bytes")
                if line.strip():
                    yield offset, line
                offset += len(line)

    def index(self) -> Index:
        """Read the list once and return where its rows stand."""
        offsets, ids, codes, names = [], [], [], {}
        id_at, file_at = self.at.get("id"), self.at.get("collage_file")
        for offset, line in self.lines():
            offsets.append(offset)
            try:
                values = self.values(line)
            except SvpkitError:
                ids.append(-1)
                codes.append(-1)
                continue
            ids.append(-1 if id_at is None else _id(values[id_at]))
            name = "" if file_at is None else values[file_at].strip()
            codes.append(names.setdefault(name, len(names)))
        at, who = np.array(offsets, np.int64), np.array(ids, np.int64)
        return Index(at, who, np.array(codes, np.int32), tuple(names))


def _id(text: str) -> int:
    try:
        value = _int(text)
    except ValueError:
        return -1
    return value if isinstance(value, int) and 0 <= value < 2**62 else -1


def decoded(line: bytes) -> str:
    """Return a line as text, UTF-8 or else Latin-1, without its end and any byte order mark."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    return text.rstrip("\r\n")


def open_lst(path: Path) -> Listing:
    """Return the list in a .lst file of version 017.

    Raises SvpkitError where it is no such file: another version, a header that ends early, whose
    number of fields is wrong, or that lacks the file or rectangle of the images.
    """
    with _binary(path) as file:
        version = decoded(file.readline(1000)).strip()
        if version != VERSION:
            raise SvpkitError(f"{path}: version '{version[:40]}'; {VERSION} is read")
        names, types = _fields(path, file)
        listing = Listing(path, names, types, "|", file.tell(), len(names) + 3)
    return _checked(listing)


def _fields(path: Path, file: BinaryIO) -> tuple[tuple[str, ...], tuple[str, ...]]:
    head = decoded(file.readline(1000))
    found = re.fullmatch(r"num-fields\|(\d{1,4})", head.strip())
    if not found or not 0 < int(found[1]) <= MOST_FIELDS:
        raise SvpkitError(f"{path}: line 2 is '{head[:40]}'; 'num-fields|N' is wanted")
    lines = [decoded(file.readline(1000)).strip() for _ in range(int(found[1]))]
    pairs = [line.split("|") for line in lines]
    short = next((i for i, pair in enumerate(pairs) if len(pair) != 2), None)
    if short is not None:
        said = f"line {short + 3} is '{lines[short][:40]}'"
        raise SvpkitError(f"{path}: num-fields says {found[1]}, but {said}; 'name|type' is wanted")
    here = file.tell()
    after = decoded(file.readline(1000)).strip()
    if after.count("|") == 1 and len(pairs) != 2:
        raise SvpkitError(f"{path}: num-fields says {found[1]}, but more are named: '{after[:40]}'")
    file.seek(here)
    return tuple(n for n, _ in pairs), tuple(t for _, t in pairs)


def open_csv(path: Path) -> Listing:
    """Return the list in a CSV export: columns in any order, some left out, any encoding.

    Raises SvpkitError where it lacks the file or rectangle of the images.
    """
    return _checked(csv_header(path))


def csv_header(path: Path) -> Listing:
    """Return a CSV file as a list, whatever its columns."""
    with Listing(path, (), (), ",", 0, 2).open() if path.is_file() else _binary(path) as file:
        head = decoded(file.readline(1 << 16))
        start = file.tell()
    separator = max(",;\t", key=head.count)
    try:
        names = tuple(n.strip() for n in next(csv.reader([head], delimiter=separator), []))
    except csv.Error as error:
        raise SvpkitError(f"{path}: its header cannot be parted: {error}") from None
    return Listing(path, names, (), separator, start, 2)


def _binary(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None


def _checked(listing: Listing) -> Listing:
    lost = [n for n in ("collage_file", *RECTANGLE) if n not in listing.at]
    if lost and listing.types:
        hint = nearest(lost[0], listing.names)
        raise SvpkitError(f"{listing.path}: no field '{lost[0]}' in its header{hint}")
    if lost:
        wanted = next(theirs for theirs, ours in CSV_NAMES.items() if ours == lost[0])
        hint = nearest(wanted, listing.names)
        raise SvpkitError(f"{listing.path}: no column '{wanted}' in its header{hint}")
    return listing


class Joined:
    """Columns of a CSV export that the .lst has not, looked up by particle id."""

    def __init__(self, listing: Listing, known: Listing) -> None:
        self.listing, index = listing, listing.index()
        self.more = [i for i, n in enumerate(listing.names) if our_name(n) not in known.at]
        self._order = np.argsort(index.ids, kind="stable")
        self._ids, self._offsets = index.ids[self._order], index.offsets[self._order]
        self._file = listing.open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def columns(self, particle: int) -> dict[str, str]:
        """Return the further columns of a particle as text, "" where it has no row."""
        row = int(np.searchsorted(self._ids, particle))
        names = self.listing.names
        if row >= len(self._ids) or self._ids[row] != particle or particle < 0:
            return {names[i]: "" for i in self.more}
        self._file.seek(self._offsets[row])
        values = self.listing.values(self._file.readline())
        return {names[i]: values[i] for i in self.more}
