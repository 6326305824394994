"""Cells of tables that people open in spreadsheets: no text of a stranger becomes a formula."""

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What a spreadsheet takes for the start of a formula, wide ones of East Asia too; the mark keeps a
# text a text, and stands for itself before another. Where a comma is the decimal sign, a cell
# begins behind a semicolon, and behind it no quote of a CSV counts.
_SIGN, _MARK = "[=+\\-@\uff1d\uff0b\uff0d\uff20']", "'"
_OPEN = re.compile(rf"\A(?={_SIGN}|[\t\r\n])|(?<=[;\t\r\n])(?={_SIGN})")
_MARKED = re.compile(rf"\A'(?={_SIGN}|[\t\r\n])|(?<=[;\t\r\n])'(?={_SIGN})")


def safe(text: Any) -> str:
    """Return a cell that no spreadsheet runs: `'` before what would begin a formula.

    That is a sign at its start and behind a semicolon, a tab or a line's end.
    """
    return _OPEN.sub(_MARK, str(text))


def safe_text(text: str) -> str:
    """Return a cell as `safe` does, but a number spelt out stays one: -1.5 is no formula."""
    return text if _is_number(text) else safe(text)


def safe_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table whose names of columns and cells of text are `safe`."""
    import pandas as pd

    numeric = pd.api.types.is_numeric_dtype  # bool too
    text = {str(c): table[c].map(safe) for c in table if not numeric(table[c])}
    return table.assign(**text).rename(columns=safe)


def unsafe(cell: str) -> str:
    """Return what `safe` was given."""
    return _MARKED.sub("", cell)


def _is_number(text: str) -> bool:
    try:
        return text[:1] in "+-" and text.isascii() and math.isfinite(float(text))
    except ValueError:
        return False
