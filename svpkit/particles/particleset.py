"""A set of particles: memory-mapped uint8 images and one table row a particle."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError, unknown
from svpkit.particles.columns import alike, categorise, joined, one_type, taken
from svpkit.safe import load_array, read_json, read_parquet

FORMAT = 1
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
# What a particle is called in the table of the export's own columns, which may have an `id` too.
RAW_ID = "svpkit_id"
ORIGINS = ("real", "simulated", "synthetic")


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
    def open(
        cls,
        folder: Path | str,
        rows: np.ndarray | None = None,
        columns: Container[str] | None = None,
    ) -> "ParticleSet":
        """Open a set on disk; raises SvpkitError where the folder holds none.

        `rows`, positions int64 (n,), give what `take` of the whole would, and `columns` those of
        the table that are read: what is not asked for takes no memory.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        try:
            parts = tuple(_images(folder, each, manifest["shape"]) for each in manifest["parts"])
            files = [_inside(folder, each["table"]) for each in manifest["parts"]]
            table = _table(list(zip(files, map(len, parts), strict=True)), rows, columns)
            rows = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
            return cls(parts, table, tuple(manifest["classes"]), rows)
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise SvpkitError(f"{folder}: particle set that cannot be read ({said})") from None

    @classmethod
    def from_arrays(
        cls, images: np.ndarray, labels: Sequence[str], classes: Sequence[str], **columns: Any
    ) -> "ParticleSet":
        """Make a set in memory from uint8 images (N, C, H, W) and N class names."""
        table = pd.DataFrame({**NEUTRAL, "label": list(labels), **columns})
        if "id" not in columns:
            table["id"] = [f"particle-{i:06d}" for i in range(len(table))]
        table["digest"] = [pixel_digest(image) for image in images]
        return cls((images,), categorise(table), tuple(classes), np.arange(len(table)))

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

    def with_made(
        self, images: np.ndarray, labels: Sequence[str], maker: str, **columns: Any
    ) -> "ParticleSet":
        """Return these particles and, behind them, made ones: uint8 (n, C, H, W), n class names.

        `maker` stands in their ids, and is their source; `columns` are more of their table, such
        as `lineage` and `um_per_px`. Their origin is "synthetic", so that they may only train.
        Raises SvpkitError for images of another shape or type and for a class that is not here.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise SvpkitError(
                f"{maker}: made {images.dtype} images of {images.shape[1:]}, the training set's "
                f"are uint8 of {self.shape}"
            )
        for name in set(labels) - set(self.classes):
            raise unknown(f"{maker}: class", name, self.classes)
        start = int(np.count_nonzero(self.table["source"].to_numpy() == maker))
        ids = [f"{maker}-{start + i:06d}" for i in range(len(labels))]
        given = {"id": ids, "group": ids, "source": maker} | columns | {"origin": "synthetic"}
        made = ParticleSet.from_arrays(images, labels, self.classes, **given)
        return concat([self, made]) if len(made) else self

    def save(self, folder: Path) -> None:
        """Write the set to a new folder."""
        from svpkit.particles.writer import Writer

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
    table = one_type(joined([each.table.copy(deep=False) for each in sets]))
    return ParticleSet(parts, table, first.classes, np.concatenate(rows))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a set on disk; raises SvpkitError where there is none to read."""
    try:
        manifest: Any = read_json(folder / "manifest.json")
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{folder}: no particle set here ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        manifest = manifest if isinstance(manifest, dict) else {}
        raise SvpkitError(
            f"{folder}: particle set of format {manifest.get('format')}, "
            f"this version reads {FORMAT}"
        )
    return manifest


def _inside(folder: Path, name: str) -> Path:
    # a manifest may come from anywhere: its files lie beside it
    if Path(name).name != name:
        raise ValueError(f"'{name}' is no file's name")
    return folder / name


def _images(folder: Path, part: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
    found = load_array(_inside(folder, part["images"]))
    if found.dtype != np.uint8 or found.shape[1:] != tuple(shape):
        raise ValueError(f"{part['images']}: {found.dtype} of {found.shape}")
    return found


def _table(
    files: Sequence[tuple[Path, int]], rows: np.ndarray | None, columns: Container[str] | None
) -> pd.DataFrame:
    # of the tables of a set's parts, each with its number of rows
    tables, start, total = [], 0, sum(n for _, n in files)
    order = None if rows is None else np.sort(rows)
    if order is not None and np.array_equal(order, np.arange(total)):
        order = None
    for path, n in files:
        table = read_parquet(path, n, None if columns is None else columns.__contains__)
        if order is not None:
            own = order[slice(*np.searchsorted(order, (start, start + n)))]
            table = taken(table, own - start)
        tables.append(table)
        start += n
    if order is not None and not alike(tables):
        # what type a column has, all its rows say
        return _table(files, None, columns).iloc[rows].reset_index(drop=True)
    table = one_type(joined(tables, whole=order is None))
    if len(table) != (total if order is None else len(order)):
        raise ValueError(f"{len(table)} rows of {total} particles")
    if rows is None or (rows[1:] > rows[:-1]).all():
        return table
    places = rows if order is None else np.searchsorted(order, rows)
    return table.iloc[places].reset_index(drop=True)


def read_raw(folder: Path) -> pd.DataFrame | None:
    """Return the export's own columns as the reader found them, a row a particle; None without.

    `svpkit_id` is the particle's `id` in the set's table; the others are named as in the export.
    """
    names = [part["raw"] for part in read_manifest(folder)["parts"] if "raw" in part]
    if not names:
        return None
    return pd.concat([read_parquet(_inside(folder, name)) for name in names], ignore_index=True)


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
        # block by block: a column of millions as one text would be the largest thing here
        for block in batches(len(table) if column in table else 0, 65_536):
            values = "\x1f".join(table[column].iloc[block].astype(str))
            state.update((("\x1f" if block.start else "") + values).encode())
        state.update(b"\x1e")
    return state.hexdigest()


def digest_heads(table: pd.DataFrame) -> np.ndarray:
    """Return the first eight bytes of the pixel digests of a table: uint64 (N,)."""
    digests = table["digest"]
    heads = (int(d[:16], 16) for at in batches(len(table), 65_536) for d in digests.iloc[at])
    return np.fromiter(heads, np.uint64, len(table))


def read_heads(folder: Path) -> np.ndarray:
    """Return `digest_heads` of a set on disk, whose digests are read a part at a time."""
    names = [_inside(folder, part["table"]) for part in read_manifest(folder)["parts"]]
    found = (digest_heads(read_parquet(name, wanted="digest".__eq__)) for name in names)
    return np.concatenate([np.empty(0, np.uint64), *found])


def batches(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover n in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
