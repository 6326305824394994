"""What lies in an export's folders: runs, and which file is which object's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from svpkit import SvpkitError

from svpkit_imagestream.features import Features, is_table

NAME = re.compile(
    r"(?:(?P<prefix>.+)_)?(?P<object>[0-9]{1,12})_Ch(?P<channel>[0-9]{1,2})(?:\.ome)?\.tiff?",
    re.IGNORECASE,
)
LOOKED_AT = 10_000  # entries of a folder, to say whether it is an export


@dataclass
class Run:
    """The objects of one prefix in one folder: file names in the channel that is asked for."""

    name: str
    folder: Path
    features: Features | None = None
    files: dict[int, str] = field(default_factory=dict)
    objects: set[int] = field(default_factory=set)  # in any channel
    double: dict[int, str] = field(default_factory=dict)  # a second file of one object


def runs_of(root: Path, channel: int, pattern: str | None) -> Iterator[Run]:
    """Yield the runs of a folder, then of the folders in it, a folder at a time.

    `pattern` names the tables of features, in each folder. Raises SvpkitError where there is no
    run, two have one name, or it is not clear of which run a table is.
    """
    if not root.is_dir():
        raise SvpkitError(f"{root}: an export is a folder of TIFFs; there is none")
    names: set[str] = set()
    for folder in _folders(root):
        found = _by_prefix(folder, channel)
        tables = _tables(root, folder, sorted(found), pattern) if found else {}
        for prefix in sorted(found):
            run = found[prefix]
            run.name, run.features = _name(root, folder, prefix, len(found)), tables.get(prefix)
            if run.name in names:
                raise SvpkitError(f"{folder}: two runs are called '{run.name}': rename a folder")
            names.add(run.name)
            yield run
    if not names:
        raise SvpkitError(f"{root}: no file is called [PREFIX_]OBJECT_Ch{channel}.ome.tif")


def sniff(root: Path) -> bool:
    """Return whether a folder, or one in it, holds a TIFF with an export's whole name."""
    try:
        return root.is_dir() and any(_is_export(folder) for folder in _folders(root))
    except OSError:
        return False


def _is_export(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        for _, entry in zip(range(LOOKED_AT), entries, strict=False):
            name = entry.name.lower()
            if NAME.fullmatch(name) and ".ome.tif" in name and entry.is_file():
                with open(entry.path, "rb") as file:
                    return file.read(4) in (b"II*\0", b"MM\0*")
    return False


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        inner = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    return [root, *(root / name for name in inner)]


def _by_prefix(folder: Path, channel: int) -> dict[str, Run]:
    found: dict[str, Run] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if NAME.fullmatch(entry.name))
    for name in names:
        match = NAME.fullmatch(name)
        assert match
        run = found.setdefault(match["prefix"] or "", Run("", folder))
        number = int(match["object"])
        run.objects.add(number)
        if int(match["channel"]) == channel and run.files.setdefault(number, name) != name:
            run.double[number] = name
    return found


def _name(root: Path, folder: Path, prefix: str, prefixes: int) -> str:
    if folder == root:
        return prefix or root.resolve().name
    return f"{folder.name}/{prefix}" if prefixes > 1 and prefix else folder.name


def _tables(
    root: Path, folder: Path, prefixes: list[str], pattern: str | None
) -> dict[str, Features]:
    """Return the table of features of each prefix that has one."""
    if pattern and (Path(pattern).is_absolute() or ".." in Path(pattern).parts):
        raise SvpkitError(f"{root}: options.features: '{pattern}' leaves the folder")
    files = sorted(f for f in folder.glob(pattern or "*.txt") if f.is_file())
    if pattern and not files:
        raise SvpkitError(f"{folder}: options.features: no file is called '{pattern}'")
    found: dict[str, Features] = {}
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise SvpkitError(f"{file}: leaves the folder {root}")
        if not pattern and not is_table(file):
            continue
        owner = _owner(file, prefixes)
        if owner in found:
            both = f"{found[owner].path.name} and {file.name}"
            raise SvpkitError(
                f"{folder}: {both} are features of one run: options.features names it"
            )
        found[owner] = Features.open(file)
    return found


def _owner(file: Path, prefixes: list[str]) -> str:
    """Return the prefix that a table's name begins with; a lone run owns whatever is there."""
    if len(prefixes) == 1:
        return prefixes[0]
    stem = file.stem
    fits = [p for p in prefixes if p and stem.startswith(p) and not stem[len(p) :][:1].isalnum()]
    if not fits:
        said = ", ".join(p or "(none)" for p in prefixes)
        raise SvpkitError(f"{file}: of which run? Begin its name with one of the prefixes: {said}")
    return max(fits, key=len)
