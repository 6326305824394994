"""Tables from files, as text: UTF-8 or Latin-1, whatever parts their columns."""

import csv
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError


def read_table(path: Path) -> Any:
    """Return the table as text; UTF-8, else Latin-1; separated by comma, semicolon or tab.

    Raises SvpkitError for a file that cannot be read or holds no table.
    """
    import pandas as pd

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None
    try:
        raw.decode("utf-8")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "latin-1"
    header = raw.split(b"\n", 1)[0].decode(encoding)
    separator = max(",;\t", key=header.count)
    try:
        table = pd.read_csv(
            path, sep=separator, encoding=encoding, dtype=str, keep_default_na=False
        )
    except (ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise SvpkitError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    table.columns = table.columns.str.strip()
    return table.apply(lambda column: column.str.strip())


def numbers(table: Any) -> Any:
    """Return the table with every column a number that is one throughout; empty is NaN."""
    import pandas as pd

    for name in table.columns:
        try:
            table[name] = pd.to_numeric(table[name].replace("", "nan"))
        except (ValueError, TypeError):
            continue
    return table
