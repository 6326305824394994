"""Files and folders that are on the disk before they have their name, whole or not there."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from svpkit.safe import open_regular


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def forget(path: Path) -> None:
    """Remove a file that may be there, and wait until the disk knows of it no more."""
    if path.exists():
        path.unlink()
        sync(path.parent)


def settle(folder: Path) -> None:
    """Wait until a folder and all below it are on the disk, not only in its cache."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            sync(path)


def put(temporary: Path, target: Path) -> None:
    """Give what is settled its name, and wait until the name is on the disk as well."""
    temporary.replace(target)
    for folder in dict.fromkeys((target.parent, temporary.parent)):
        sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_size(path: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
