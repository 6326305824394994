"""A particle set written part by part, in bounded memory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError
from svpkit.particles.particleset import (
    FORMAT,
    RAW_ID,
    categorise,
    complete,
    pixel_digest,
    table_digest,
)

PART = 65_536
PART_BYTES = 256 * 2**20
# Columns of this prefix are an export's own: they go to a file beside the table, untouched.
RAW = "raw."


class Writer:
    """Writes a set part by part, in bounded memory; the manifest comes last."""

    def __init__(self, folder: Path, classes: Sequence[str], channels: int, size: int) -> None:
        self.folder, self.classes, self.shape = folder, tuple(classes), (channels, size, size)
        # a part is held in memory until it is full: of large images it has fewer
        self._part = max(1, min(PART, PART_BYTES // (channels * size * size)))
        self.parts: list[dict[str, Any]] = []
        self._images: list[np.ndarray] = []
        self._tables: list[pd.DataFrame] = []
        self._pending = 0
        self.extra: dict[str, Any] = {}

    def __enter__(self) -> "Writer":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
            self._finish()

    def add(self, images: np.ndarray, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> None:
        """Add images uint8 (n, C, H, W) and their n rows.

        Columns that begin with `raw.` are kept apart, in a file that only `read_raw` opens.
        """
        images = np.ascontiguousarray(images, dtype=np.uint8)
        if images.shape[1:] != self.shape:
            raise SvpkitError(f"images are {images.shape[1:]}, the set holds {self.shape}")
        table = complete(pd.DataFrame(rows).reset_index(drop=True))
        table["digest"] = [pixel_digest(image) for image in images]
        for start in range(0, len(images), self._part):
            self._images.append(images[start : start + self._part])
            self._tables.append(table.iloc[start : start + self._part])
            self._pending += len(self._tables[-1])
            if self._pending >= self._part:
                self._flush()

    def _flush(self) -> None:
        if not self._pending and self.parts:
            return
        stem = f"part-{len(self.parts):05d}"
        empty = np.empty((0, *self.shape), np.uint8)
        images = np.concatenate([empty, *self._images])
        # an empty table among them would turn the whole numbers of other columns into floats
        table = pd.concat(self._tables or [complete(pd.DataFrame())], ignore_index=True)
        np.save(self.folder / f"{stem}.npy", images, allow_pickle=False)
        raw = [name for name in table if str(name).startswith(RAW)]
        files = {"images": f"{stem}.npy", "table": f"{stem}.parquet"}
        if raw:
            files["raw"] = f"{stem}.raw.parquet"
            own = pd.DataFrame(table[raw])
            own.columns = [str(name).removeprefix(RAW) for name in raw]
            # a table that was ours before has the column already
            own = own.rename(columns={RAW_ID: f"{RAW}{RAW_ID}"})
            own.insert(0, RAW_ID, table["id"])
            categorise(own).to_parquet(self.folder / files["raw"], index=False)
            table = pd.DataFrame(table.drop(columns=raw))
        categorise(table).to_parquet(self.folder / files["table"], index=False)
        self.parts.append({**files, "n": len(images), "digest": table_digest(table)})
        self._images, self._tables, self._pending = [], [], 0

    def _finish(self) -> None:
        manifest = {
            "format": FORMAT,
            "shape": list(self.shape),
            "classes": list(self.classes),
            "n": sum(p["n"] for p in self.parts),
            "parts": self.parts,
            **self.extra,
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
