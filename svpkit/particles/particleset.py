"""A set of particles: memory-mapped uint8 images and one table row a particle."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError

FORMAT = 1
PART = 65_536
PART_BYTES = 256 * 2**20
# Columns that every set has, with the value of a particle that does not say.
NEUTRAL: dict[str, Any] = {
    "id": "",
    "label": "",
    "group": "",
    "source": "",
    "um_per_px": float("nan"),
    "ecd_um": float("nan"),
    "origin": "real",
    "lineage": "",
}
ORIGINS = ("real", "simulated", "synthetic")
_CATEGORIES = ("label", "group", "source", "origin", "lineage")


@dataclass(frozen=True)
class ParticleSet:
    """Images uint8 (N, C, H, W) in memory-mapped parts, and a table of N rows.

    `classes` gives the label order; `rows` are positions in the parts, so that a subset copies no
    pixels. The table has the neutral columns (id, label, group, source, um_per_px in um, ecd_um in
    um, origin, lineage), `digest` of the pixels, and whatever else the reader kept.
    """

    parts: tuple[np.ndarray, ...]
    table: pd.DataFrame
    classes: tuple[str, ...]
    rows: np.ndarray

    @classmethod
    def open(cls, folder: Path | str) -> "ParticleSet":
        """Open a set on disk; raises SvpkitError where the folder holds none."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        parts = tuple(np.load(folder / p["images"], mmap_mode="r") for p in manifest["parts"])
        tables = [pd.read_parquet(folder / p["table"]) for p in manifest["parts"]]
        table = _categorise(pd.concat(tables, ignore_index=True))
        return cls(parts, table, tuple(manifest["classes"]), np.arange(len(table)))

    @classmethod
    def from_arrays(
        cls, images: np.ndarray, labels: Sequence[str], classes: Sequence[str], **columns: Any
    ) -> "ParticleSet":
        """Make a set in memory from uint8 images (N, C, H, W) and N class names."""
        table = pd.DataFrame({**NEUTRAL, "label": list(labels), **columns})
        if "id" not in columns:
            table["id"] = [f"particle-{i:06d}" for i in range(len(table))]
        table["digest"] = [pixel_digest(image) for image in images]
        return cls((images,), _categorise(table), tuple(classes), np.arange(len(table)))

    @classmethod
    def from_folder(
        cls, path: Path | str, *, size: int = 64, channels: int = 1, **options: Any
    ) -> "ParticleSet":
        """Read class folders, or a folder with a labels CSV, into memory (options: see `folder`).

        `size` is the side in pixels; crops are padded with their background. Files that cannot be
        read are left out.
        """
        from svpkit.particles.ingest import from_folder

        return from_folder(Path(path), size=size, channels=channels, **options)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (C, H, W)."""
        return self.parts[0].shape[1:]

    @property
    def labels(self) -> np.ndarray:
        """Positions of the labels in `classes`: int64 (N,); -1 where a label is not among them."""
        names = self.table["label"].astype("category").cat
        place = pd.Index(self.classes, dtype=object).get_indexer(names.categories.astype(object))
        return place[names.codes].astype(np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """The number of particles of each class, in class order."""
        found = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, found, strict=True)}

    @property
    def digest(self) -> str:
        """A digest of every image, label and id, in order."""
        return table_digest(self.table)

    def images(self, index: np.ndarray | Sequence[int] | slice = slice(None)) -> np.ndarray:
        """Return a copy of the images at these positions: uint8 (n, C, H, W)."""
        rows = self.rows[index]
        out = np.empty((len(rows), *self.shape), np.uint8)
        ends = np.cumsum([len(part) for part in self.parts])
        which = np.searchsorted(ends, rows, side="right")
        for k in np.unique(which):
            here = which == k
            start = ends[k] - len(self.parts[k])
            out[here] = self.parts[k][rows[here] - start]
        return out

    def take(self, index: np.ndarray | Sequence[int]) -> "ParticleSet":
        """Return the subset at these positions, in this order."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        table = self.table.iloc[index].reset_index(drop=True)
        return replace(self, table=table, rows=self.rows[index])

    def of(self, name: str) -> "ParticleSet":
        """Return the particles of one class; raises SvpkitError for a class that is not here."""
        if name not in self.classes:
            raise SvpkitError(f"no class '{name}' here (known: {', '.join(self.classes)})")
        return self.take(np.flatnonzero(self.table["label"] == name))

    def with_classes(self, classes: Sequence[str]) -> "ParticleSet":
        """Return the same particles with another label order."""
        return replace(self, classes=tuple(classes))

    def save(self, folder: Path) -> None:
        """Write the set to a new folder."""
        channels, height, _ = self.shape
        with Writer(folder, self.classes, channels, height) as writer:
            for start in range(0, len(self), 4096):
                block = self.images(slice(start, start + 4096))
                writer.add(block, self.table.iloc[start : start + 4096])


def concat(sets: Sequence[ParticleSet]) -> ParticleSet:
    """Return the particles of several sets of one shape as one, with the first one's classes."""
    first, offset, rows = sets[0], 0, []
    for each in sets:
        if each.shape != first.shape:
            raise SvpkitError(f"particles of {each.shape} cannot join particles of {first.shape}")
        rows.append(each.rows + offset)
        offset += sum(len(part) for part in each.parts)
    parts = tuple(part for each in sets for part in each.parts)
    table = pd.concat([each.table.astype(object) for each in sets], ignore_index=True)
    return ParticleSet(
        parts, _categorise(table.infer_objects()), first.classes, np.concatenate(rows)
    )


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
        """Add images uint8 (n, C, H, W) and their n rows."""
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
        _categorise(table).to_parquet(self.folder / f"{stem}.parquet", index=False)
        files = {"images": f"{stem}.npy", "table": f"{stem}.parquet"}
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a set on disk; raises SvpkitError where there is none to read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{folder}: no particle set here ({error})") from None
    if manifest.get("format") != FORMAT:
        raise SvpkitError(
            f"{folder}: particle set of format {manifest.get('format')}, "
            f"this version reads {FORMAT}"
        )
    return manifest


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every neutral column, filled where the reader said nothing."""
    table = table.copy()
    for name, default in NEUTRAL.items():
        if name not in table:
            table[name] = pd.Series([default] * len(table), dtype=type(default), index=table.index)
        elif isinstance(default, float):
            table[name] = pd.Series(pd.to_numeric(table[name], errors="coerce"), dtype=float)
        else:
            table[name] = table[name].astype(object).fillna(default).astype(str)
    return table.reindex(columns=[*NEUTRAL, *(name for name in table if name not in NEUTRAL)])


def pixel_digest(image: np.ndarray) -> str:
    """Return a digest of one image's shape and pixels: 32 hexadecimal digits."""
    head = "x".join(map(str, image.shape)).encode()
    return hashlib.blake2b(head + image.tobytes(), digest_size=16).hexdigest()


def table_digest(table: pd.DataFrame) -> str:
    """Return a digest of the ids, labels and pixel digests of a table, in order."""
    state = hashlib.blake2b(digest_size=16)
    for column in ("id", "label", "digest"):
        values = table[column].astype(str) if column in table else []
        state.update("\x1f".join(values).encode() + b"\x1e")
    return state.hexdigest()


def batches(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover n in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _categorise(table: pd.DataFrame) -> pd.DataFrame:
    # a category a row costs a few bytes where a string costs sixty
    for name in _CATEGORIES:
        if name in table:
            table[name] = table[name].astype(str).astype("category")
    # parquet holds one type a column: a reader's mixture becomes text
    for name in table:
        mixed = table[name].dtype == object and pd.api.types.infer_dtype(table[name])
        if mixed and mixed.startswith("mixed"):
            table[name] = table[name].astype(str)
    return table
