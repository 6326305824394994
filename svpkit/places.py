"""Files and folders that a recipe names: found under its roots, named by their bytes."""

import errno
import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from svpkit.disk import file_digest
from svpkit.errors import SvpkitError, choices
from svpkit.safe import open_regular


@dataclass(frozen=True)
class Located:
    """A file or folder that is read, named in keys by the digest of its bytes."""

    path: Path
    digest: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def describe(self) -> dict[str, str]:
        """Return what an artifact's key holds of it."""
        return {"digest": self.digest}

    def check(self) -> None:
        """Raise SvpkitError where its bytes are no longer those that the digest is of."""
        if path_digest(self.path) != self.digest:
            raise SvpkitError(
                f"{self.path}: changed before or while it was read; run again when it is at rest"
            )


LONGEST_PATH = 4096
# Bytes above which holes are looked for; one of so many shares may be written.
_LARGE, _SHARE, _BLOCK = 2**30, 16, 2**20
# Names that are devices on Windows, whatever follows a point.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|//|\\\\", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)


def environment_root() -> Path | None:
    """Return the data root that the environment names (SVPKIT_REAL_DATA), or None."""
    root = os.environ.get("SVPKIT_REAL_DATA")
    return Path(root) if root else None


def unfit(name: str) -> str:
    """Return what keeps a text from being the name of a local file, "" where nothing does.

    Refused are addresses, shares, streams and devices of Windows, characters that are not seen or
    turn the order of others, and what is longer than a path may be.
    """
    if len(name) > LONGEST_PATH:
        return "longer than a path may be"
    if not name.isascii() or not name.isprintable():
        for c in name:
            if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
                return f"holds the character U+{ord(c):04X}"
    if _REMOTE.match(name):
        return "an address or a share, local files are read"
    if ":" in _DRIVE.sub("", name, count=1):
        return "holds a ':', which no file's name may everywhere"
    device = next((p for p in re.split(r"[\\/]", name) if _DEVICE.fullmatch(p.strip())), "")
    return f"'{device}' is a device's name" if device else ""


def toml_beside(path: Path, name: str, key: str) -> Path:
    """Return the TOML file that the file `path` names, relative to it; links are followed.

    Raises SvpkitError for an absolute path, another ending, and what `unfit` refuses.
    """
    wrong = unfit(name)
    if not wrong and (Path(name).is_absolute() or _DRIVE.match(name)):
        wrong = "an absolute path, one relative to this file is wanted"
    if not wrong and Path(name).suffix != ".toml" and (path.parent / name).exists():
        wrong = "a .toml file is wanted"
    if wrong:
        raise SvpkitError(f"{path}: {key}: given {name[:80]!r}: {wrong}")
    return path.parent / name


def locate(path: str, roots: list[Path], where: str) -> Located:
    """Return a file or folder under one of the roots, with its digest; absolute paths stay.

    A relative path may not climb out of its root. Raises SvpkitError for one that does, for what
    `unfit` refuses, and for a file that is no regular one.
    """
    if wrong := unfit(path):
        raise SvpkitError(f"{where}: given {path[:80]!r}: {wrong}")
    tried = [Path(path)] if Path(path).is_absolute() else [root / path for root in roots]
    if not Path(path).is_absolute() and os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise SvpkitError(
            f"{where}: given '{path}': leaves the recipe's folder and the data root; give "
            "--data-root DIR, or an absolute path"
        )
    for found in tried:
        if found.is_dir() and not any(f.is_file() for f in found.rglob("*")):
            raise SvpkitError(f"{where}: there is no file in '{found}'")
        if found.exists() and not found.is_dir() and not found.is_file():
            raise SvpkitError(f"{where}: '{found}' is not a regular file")
        if found.exists():
            return Located(found, path_digest(found))
    looked = choices(str(t.parent) for t in tried)
    raise SvpkitError(
        f"{where}: nothing called '{path}' in {looked} (--data-root DIR or SVPKIT_REAL_DATA "
        "names another place)"
    )


def path_digest(path: Path) -> str:
    """Return a digest of a file, or of every file below a folder with its name."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    state = hashlib.sha256()
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            content = _holes(file) or file_digest(file)
        except OSError as error:  # the reader will set it aside, with the reason
            content = error.strerror or "unreadable"
        state.update(f"{name}\x1f{content}\x1e".encode())
    return state.hexdigest()


def _holes(path: Path) -> str:
    """Return a digest of what a large file of little but holes holds, and where; "" of others.

    Such a file may claim any size at no cost. No data are kept so; of all others each byte counts.
    """
    try:
        if path.stat().st_size <= _LARGE or not hasattr(os, "SEEK_DATA"):
            return ""
        with open_regular(path) as file:
            return _written(file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError:
        return ""


def _written(file: int, size: int) -> str:
    state, at, written = hashlib.sha256(b"%d" % size), 0, 0
    while (at := _sought(file, at, size, os.SEEK_DATA)) < size:
        stop = _sought(file, at, size, os.SEEK_HOLE)
        written += stop - at
        if written > size // _SHARE:
            return ""
        state.update(b"\x1f%d\x1f" % at)
        while at < stop and (read := os.pread(file, min(_BLOCK, stop - at), at)):
            state.update(read)
            at += len(read)
        at = stop
    return state.hexdigest()


def _sought(file: int, at: int, size: int, what: int) -> int:
    try:
        return min(os.lseek(file, at, what), size)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size  # nothing is written behind it
