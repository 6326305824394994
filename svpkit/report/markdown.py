"""Markdown that shows what it is given and obeys none of it."""

from collections.abc import Iterable, Sequence
from typing import Any

from svpkit.report.numbers import plain


def text(each: Any) -> str:
    """Write text so that Markdown, or HTML within it, is shown and not obeyed."""
    found = plain(each).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\`*[]|" else c for c in found)


def points(lines: Iterable[str]) -> str:
    """Write a list."""
    return "\n".join(f"- {text(line)}" for line in lines)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(text(cell) for cell in line) + " |" for line in lines)
