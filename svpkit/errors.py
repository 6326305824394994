"""Errors that the user can mend: one clear line, exit code 2, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class SvpkitError(Exception):
    """Bad input, said in one line: where, what was given, what is allowed, the nearest name."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `known`, or an empty string."""
    close = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def choices(known: Iterable[str]) -> str:
    """Return the allowed names as a readable list: "a, b, c"."""
    return ", ".join(str(k) for k in known) or "none"


def unknown(what: str, name: str, known: Iterable[str]) -> SvpkitError:
    """Return the error for a name that is not among `known`, with the nearest one."""
    known = list(known)
    return SvpkitError(f"{what}: unknown '{name}'{nearest(name, known)} (known: {choices(known)})")
