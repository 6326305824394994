"""Cells of tables that people open in spreadsheets: no text of a stranger becomes a formula."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What a spreadsheet takes for the start of a formula; the mark keeps a text a text.
_FORMULA, _MARK = ("=", "+", "-", "@", "\t", "\r", "\n", "'"), "'"


def safe(text: Any) -> str:
    """Return a cell that no spreadsheet runs: `'` before what would begin a formula."""
    text = str(text)
    return _MARK + text if text.startswith(_FORMULA) else text


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
    return cell[1:] if cell.startswith(_MARK) and cell[1:].startswith(_FORMULA) else cell


def _is_number(text: str) -> bool:
    try:
        return text[:1] in "+-" and text.isascii() and math.isfinite(float(text))
    except ValueError:
        return False
