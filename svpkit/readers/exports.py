"""What the exports of instruments share: rows of a table one at a time, pictures, neutral rows."""

import codecs
import csv
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from svpkit.errors import SvpkitError
from svpkit.readers.pictures import decode
from svpkit.safe import open_regular

LONGEST_CELL = 1000
LONGEST_LINE = 2**20
MOST_CELLS = 4096
_HEAD = 2**18
_DELIMITERS = "\t;,|"


def cells(path: Path, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells, stripped text, of each line that is not empty.

    The encoding is UTF-8 or UTF-16 with its mark, UTF-8, else Latin-1; the file is never held
    whole. Raises SvpkitError for a file that cannot be read, and for lines longer than 1 MiB, rows
    of more than 4096 cells and quotes that never close.
    """
    try:
        delimiter = delimiter or delimiter_of(path)
        with path.open(encoding=_encoding(path), newline="") as file:
            rows = csv.reader(_lines(path, file), delimiter=delimiter)
            for row in rows:
                if len(row) > MOST_CELLS:
                    raise SvpkitError(f"{path}: line {rows.line_num}: {len(row)} cells")
                if any(row):
                    yield rows.line_num, [cell.strip() for cell in row]
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None
    except (csv.Error, UnicodeError) as error:
        raise SvpkitError(f"{path}: not a table: {error}") from None


def early(path: Path) -> list[tuple[int, list[str]]]:
    """Return what `cells` yields of the first 256 KiB, for a look; less where it is no table."""
    found = []
    with suppress(OSError, csv.Error):
        lines = _head(path)
        rows = csv.reader(lines, delimiter=_delimiter(lines))
        for row in rows:
            if any(row):
                found.append((rows.line_num, [cell.strip() for cell in row]))
    return found


def delimiter_of(path: Path) -> str:
    """Return what parts the cells: the tab, ;, comma or | that is most often in one early line."""
    try:
        return _delimiter(_head(path))
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None


def capped(text: str) -> str:
    """Return a cell as it stands, cut at 1000 characters."""
    return text[:LONGEST_CELL]


def number(text: str, *, comma: bool = False) -> float:
    """Return a finite number, NaN where the text is none; `comma`: decimals follow a comma."""
    if comma and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def whole(text: str, *, comma: bool = False) -> int | None:
    """Return a whole number ("12" or "12.0"), None where the text is none."""
    value = number(text, comma=comma)
    return int(value) if value == value and value == int(value) else None


def picture(root: Path, name: str) -> Any:
    """Return the picture of this name in the resolved folder `root`, or why there is none.

    Raises SvpkitError for one whose tag says that it was drawn: no instrument exported it.
    """
    try:
        found, tags = decode(_inside(root, name))
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a broken file
        reason = f"{error}" if isinstance(error, SvpkitError) else f"cannot be read: {error}"
        return " ".join(f"{capped(name)}: {reason}".replace(str(root), ".").split())
    if tags.get("origin") == "synthetic":
        raise SvpkitError(
            f"{root}: '{capped(name)}' is a drawn (synthetic) image: none may stand in an export"
        )
    return found


def refuse_outside(root: Path, files: Iterable[Path]) -> None:
    """Raise SvpkitError for a file that is not in the folder `root`, by its name or by a link."""
    inside = root.resolve()
    for file in files:
        if not all(p.resolve().is_relative_to(inside) for p in (file, file.parent)):
            raise SvpkitError(f"{file}: leaves the folder {root}")


def neutral(run: str, particle: str, **known: Any) -> dict[str, Any]:
    """Return a particle's row with every column that instruments have in common.

    Text is "" and a number NaN where the export does not say; dilution is then 1.
    """
    nan = math.nan
    text = {"label": "", "group": run, "source": run, "run": run, "timestamp": ""}
    numbers = {"um_per_px": nan, "ecd_um": nan, "volume_ml": nan, "dilution": 1.0}
    named = {"id": f"{run}/{particle}", "particle_id": particle}
    return {**named, **text, **numbers, "instrument": "", "raw": {}, **known}


def _head(path: Path) -> list[str]:
    with open_regular(path) as file:
        raw = file.read(_HEAD)
    marked = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = raw.decode("utf-16" if marked else "utf-8-sig", errors="replace")
    return text.splitlines(keepends=True)


def _delimiter(lines: list[str]) -> str:
    most = {d: max((line.count(d) for line in lines[:20]), default=0) for d in _DELIMITERS}
    return max(_DELIMITERS, key=lambda d: most[d])


def _encoding(path: Path) -> str:
    with open_regular(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while chunk := file.read(2**20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise SvpkitError(f"{path}: not a table: a line is longer than {LONGEST_LINE}")
        yield line


def _inside(root: Path, name: str) -> Path:
    if not name:
        raise SvpkitError("no file is named")
    inside = name.replace("\\", "/")
    try:
        target = (root / inside).resolve()
        if Path(inside).is_absolute() or not target.is_relative_to(root):
            raise SvpkitError("leaves the folder")
        if not target.is_file():
            raise SvpkitError("no such file")
    except (OSError, ValueError):  # names too long, or with a zero byte
        raise SvpkitError("no such file") from None
    return target
