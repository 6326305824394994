"""What a folder of pictures holds besides those that are read."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from svpkit.readers.pictures import SUFFIXES

MOST_FILES, NAMED = 1_000_000, 5


def passed_over(root: Path, pattern: str = "**/*") -> list[str]:
    """Return a line on the class folders of `root` that have no picture, one on what is no picture.

    `pattern` as for the reader `folder`. Hidden files are nobody's; of a folder without end, the
    first million entries are looked at.
    """
    found = [f for f in islice(root.glob(pattern), MOST_FILES) if not _is_hidden(f, root)]
    files = [f.relative_to(root) for f in found if not f.is_dir()]
    pictures = [f for f in files if f.suffix.lower() in SUFFIXES]
    full = {f.parts[0] for f in pictures if len(f.parts) > 1}
    folders = [p.name for p in root.iterdir() if p.is_dir() and not _is_hidden(p, root)]
    empty = sorted(set(folders) - full)
    others = sorted(f.as_posix() for f in files if f.suffix.lower() not in SUFFIXES)
    kinds = ", ".join(SUFFIXES)
    lines = [f"folders without a picture, no class: {_some(empty)}"] if empty else []
    return lines + (
        [f"{len(others):,} other files passed over: {_some(others)} (read: {kinds})"]
        if others
        else []
    )


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
