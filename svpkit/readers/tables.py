"""Tables from files, as text: UTF-8, UTF-16 or Latin-1, whatever parts their columns."""

import codecs
import csv
import io
import warnings
from pathlib import Path
from typing import Any

from svpkit.cells import unsafe
from svpkit.errors import SvpkitError
from svpkit.safe import read_bytes

MOST_BYTES = 2**30
MOST_COLUMNS = 4096
LONGEST_CELL = 100_000
_HEAD = 2**20


def read_table(path: Path) -> Any:
    """Return the table as text; UTF-8, UTF-16 with its mark, else Latin-1.

    Its cells are parted by comma, semicolon or tab; `'` before what would begin a formula, as
    svpkit writes it, is taken away. Raises SvpkitError for what is no regular file or no table, for
    more than 1 GiB, 4096 columns or 100,000 characters a cell, two columns of one name, rows longer
    than the header, and zero bytes in it.
    """
    try:
        raw = read_bytes(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        table = _parsed(_utf8(raw))
    except (ValueError, csv.Error, Warning, OverflowError) as error:
        # pandas' parser errors are ValueErrors
        raise SvpkitError(f"{path}: not a table: {' '.join(str(error).split())[:300]}") from None
    table.columns = [str(name).strip() for name in table.columns]
    for name in table.columns:
        if table[name].map(len).max() > LONGEST_CELL:
            raise SvpkitError(f"{path}: not a table: a cell of more than {LONGEST_CELL} characters")
    return table.apply(lambda column: column.str.strip().map(unsafe))


def _utf8(raw: bytes) -> bytes:
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raw = raw.decode("utf-16").encode()
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode()
    return raw


def _parsed(raw: bytes) -> Any:
    import pandas as pd

    head = raw[:_HEAD].decode(errors="replace").lstrip("\r\n").splitlines()
    header = head[0] if head else ""
    separator = max(",;\t", key=header.count)
    if header.count(separator) >= MOST_COLUMNS:
        raise ValueError(f"more than {MOST_COLUMNS} columns")
    if "\0" in header:
        raise ValueError("zero bytes in its header")
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    twice = next((n for i, n in enumerate(names) if n and n in names[:i]), None)
    if twice is not None:
        raise ValueError(f"two columns are called '{twice[:80]}'")
    with warnings.catch_warnings():
        # a row longer than the header is no row of it: nothing may move one column on
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            io.BytesIO(raw), sep=separator, dtype=str, keep_default_na=False, index_col=False
        )


def numbers(table: Any) -> Any:
    """Return the table with every column a number that is one throughout; empty is NaN."""
    import pandas as pd

    for name in table.columns:
        try:
            table[name] = pd.to_numeric(table[name].replace("", "nan"))
        except (ValueError, TypeError):
            continue
    return table
