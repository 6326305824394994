"""Errors that the user can mend: one clear line, exit code 2, no traceback."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

MOST = 12  # names that a line can hold


class SvpkitError(Exception):
    """Bad input, said in one line: where, what was given, what is allowed, the nearest name."""

    def __str__(self) -> str:
        # what a stranger's file is quoted with may hold line ends, or orders for a terminal
        said = super().__str__()
        shown = (c if c.isprintable() else ascii(c)[1:-1] for c in said)
        return said if said.isprintable() else "".join(shown)


# What pydantic says of a value of another type, in the words of recipes.
WANTED = {
    "int": "an integer is wanted",
    "float": "a number is wanted",
    "bool": "true or false is wanted",
    "string": "a text is wanted",
    "list": "a list is wanted",
    "tuple": "a list is wanted",
    "dict": "a table is wanted",
    "model": "a table is wanted",
}


def reason(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors in plain words, as the end of a line."""
    kind, _, how = error["type"].partition("_")
    if kind in WANTED and how in ("type", "parsing", "from_float"):
        return WANTED[kind]
    said = " ".join(error["msg"].removeprefix("Value error, ").split())
    return said[:1].lower() + said[1:]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `known`, or an empty string."""
    close = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def choices(known: Iterable[str]) -> str:
    """Return the allowed names as a readable list: "a, b, c"."""
    return ", ".join(str(k) for k in known) or "none"


def unknown(what: str, name: str, known: Iterable[str], see: str = "") -> SvpkitError:
    """Return the error for a name that is not among `known`, with the nearest one.

    Of many names the three nearest are told, and `see`, which says where all of them are.
    """
    known = [str(k) for k in known]
    told = f"known: {choices(known)}"
    if len(known) > MOST:
        few = get_close_matches(str(name), known, n=3, cutoff=0)
        told = f"nearest of {len(known)}: {choices(few)}{f'; {see}' if see else ''}"
    return SvpkitError(f"{what}: unknown '{name}'{nearest(name, known)} ({told})")
