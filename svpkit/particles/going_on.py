"""An ingest that was ended goes on behind its last whole part, if the input is still the same."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.disk import file_digest, write_json
from svpkit.safe import read_json

# Begins with a dot: work in progress, which no artifact keeps.
STATE = ".parts.json"


class Changed(Exception):
    """What the reader yields is not what the parts were made of."""


class Parts:
    """The whole parts of an ingest in `folder`, each noted once it is on the disk.

    Noted are how many items were read for them, a digest of those (their rows and pixels as the
    reader gave them), the digests of the parts' files and what the ingest counted so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.noted = _read(folder) or {"items": 0, "digest": "", "parts": [], "counted": {}}
        self._items, self._state = 0, hashlib.blake2b(digest_size=16)

    @property
    def items(self) -> int:
        """The number of items that the noted parts were made of."""
        return self.noted["items"]

    def same(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield (image, row) as they come; raises Changed where the first `items` are others."""
        for image, row in items:
            self._see(image, row)
            if self._items == self.items and self._state.hexdigest() != self.noted["digest"]:
                raise Changed
            yield image, row
        if self._items < self.items:
            raise Changed

    def note(self, parts: list[dict[str, Any]], counted: Mapping[str, Any]) -> None:
        """Note that these parts hold all that was read so far."""
        new = {name for part in parts[len(self.noted["parts"]) :] for name in _names(part)}
        for name in new:
            _settle(self.folder / name)
        files = self.noted.get("files", {}) | {n: file_digest(self.folder / n) for n in new}
        said = {"items": self._items, "digest": self._state.hexdigest(), "files": files}
        self.noted = {**said, "parts": list(parts), "counted": dict(counted)}
        write_json(self.folder / STATE, self.noted)

    def forget(self) -> None:
        """Remove the note, and with it the parts' claim to be gone on from."""
        (self.folder / STATE).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the note and the parts themselves."""
        self.forget()
        for file in self.folder.glob("part-*"):
            file.unlink()

    def _see(self, image: Any, row: Mapping[str, Any]) -> None:
        self._items += 1
        self._state.update(repr(sorted(row.items(), key=lambda pair: str(pair[0]))).encode())
        if isinstance(image, np.ndarray):
            self._state.update(f"{image.dtype} {image.shape} ".encode())
            self._state.update(image.tobytes())
        else:
            self._state.update(str(image).encode("utf-8", "backslashreplace"))


def _names(part: Mapping[str, Any]) -> list[str]:
    return [part[kind] for kind in ("images", "table", "raw") if kind in part]


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        noted = read_json(folder / STATE)
        whole = all(file_digest(folder / n) == d for n, d in noted["files"].items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return noted if whole else None


def _settle(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
