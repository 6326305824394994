"""Text of strangers as people may be shown it."""

import unicodedata
from pathlib import Path

from svpkit.errors import SvpkitError

# Line ends of our own, and the joiners that some scripts are spelt with.
_KEPT = "\n\t\u200c\u200d"


def legible(text: str) -> str:
    r"""Return a text with what is not seen, or turns the order of the rest, spelt out: "\x1b"."""
    if text.isprintable():
        return text
    return "".join(c if _is_seen(c) else ascii(c)[1:-1] for c in text)


def hidden(text: str) -> str:
    r"""Return the first character that `legible` spells out, as "U+001B"; "" where there is none.

    Line ends and tabs count too; halves of surrogates, as names of files hold them, do not.
    """
    found = (c for c in text if c in "\n\t" or not _is_seen(c))
    return next((f"U+{ord(c):04X}" for c in found if unicodedata.category(c) != "Cs"), "")


def checked(label: str, where: Path | str) -> str:
    """Return a label; raises SvpkitError for one with characters that nobody sees.

    It names a class on every page and terminal, and two that look alike would be two classes.
    """
    if label.isascii() and label.isprintable():
        return label
    if why := hidden(label):
        raise SvpkitError(
            f"{where}: the label '{label[:40]}' holds the character {why}: rename that class"
        )
    return label


def _is_seen(c: str) -> bool:
    return c.isprintable() or c in _KEPT or unicodedata.category(c) in ("Zs", "Co", "Cn")
