"""The columns of tables of particles: narrow in memory, one type each, joined part by part."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

_AT_ONCE = 65_536
_CATEGORIES = ("label", "group", "source", "origin", "lineage")


def categorise(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it lies on disk: categories for what repeats, one type a column."""
    # a category a row costs a few bytes where a string costs sixty
    for name in _CATEGORIES:
        if name in table:
            table[name] = table[name].astype(str).astype("category")
    return one_type(table)


def one_type(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column of mixed types, which no file holds, as text."""
    # parquet holds one type a column: a reader's mixture becomes text
    for name in table:
        mixed = table[name].dtype == object and pd.api.types.infer_dtype(table[name])
        if mixed and mixed.startswith("mixed"):
            table[name] = table[name].astype(str)
    return table


def taken(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Return these rows of a part's table; its categories stay those of all its rows."""
    named = {name: _category(table[name]) for name in table if name in _CATEGORIES}
    return table.assign(**named).iloc[rows].reset_index(drop=True)


def alike(tables: Sequence[pd.DataFrame]) -> bool:
    """Return whether all tables have the same columns, each of one type that no row can change."""
    kinds = {tuple((name, _kind(table[name])) for name in table) for table in tables}
    return len(kinds) == 1 and all(kind for _, kind in kinds.pop())


def _kind(values: Any) -> str:
    # "" where the type of the whole hangs on what is in it
    if values.name in _CATEGORIES:
        return "category"
    plain = values.dtype == "str" or isinstance(values.dtype, np.dtype)
    return str(values.dtype) if plain and values.dtype != object else ""


def joined(tables: Sequence[pd.DataFrame], whole: bool = True) -> pd.DataFrame:
    """Return the rows of all tables as `categorise` would leave them; the tables lose their own.

    On the way no row is a text or an object of its own. Tables that are not `whole` are of `taken`
    and keep their categories. Raises ValueError without a table.
    """
    if not tables:
        raise ValueError("no parts")
    names = list(dict.fromkeys(name for table in tables for name in table))
    lengths = [len(table) for table in tables]
    found = {}
    for name in names:
        # each goes as it is joined: two whole tables at once would double what opening takes
        own = [table.pop(name) if name in table else None for table in tables]
        found[name] = _column(name, own, lengths, whole)
    return pd.DataFrame(found)


def _column(name: Any, found: Sequence[Any], lengths: Sequence[int], whole: bool) -> Any:
    there = all(each is not None for each in found)
    if there and name in _CATEGORIES:
        named = [_category(each) for each in found] if whole else found
        return pd.api.types.union_categoricals(named, sort_categories=True)
    if there and len({str(each.dtype) for each in found}) == 1:
        column = pd.concat(found, ignore_index=True)
        return column if whole else _one_piece(column)
    # types that differ, or a column that is not everywhere
    full = [
        pd.Series(np.nan, index=range(n)) if each is None else each
        for each, n in zip(found, lengths, strict=True)
    ]
    mixed = pd.concat([each.astype(object) for each in full], ignore_index=True).infer_objects()
    return _category(mixed) if name in _CATEGORIES else mixed


def _one_piece(values: Any) -> pd.Series:
    # as `take` leaves texts: in how many pieces they lie shows in the pages of a file that is
    # written at once, as those of small sets are
    if values.dtype != "str" or len(values) > _AT_ONCE:
        return values
    found: Any = pa.array(values.array)
    found = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    return pd.Series(pd.array(found.combine_chunks(), dtype="str"))


def _category(values: Any) -> pd.Series:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) and kind.categories.dtype == "str":
        if not kind.ordered:
            return values.cat.remove_unused_categories()
    return values.astype(str).astype("category")
