"""What a reader yields made into a particle set: fitted to one size, numbered, bad ones aside."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from svpkit.errors import SvpkitError, unknown
from svpkit.particles.describe import background
from svpkit.particles.duplicates import picture_hash
from svpkit.particles.particleset import ParticleSet, Writer
from svpkit.store import stage

if TYPE_CHECKING:
    from svpkit.plugins import Use

BLOCK = 4096
_BLOCK_BYTES = 32 * 2**20
QUARANTINE = "quarantine.csv"


@stage(revision=1)
def ingest(out: Path, params: Mapping[str, Any]) -> None:
    """Read particles into a set on disk; what cannot be read is listed in `quarantine.csv`.

    `params`: reader (a plugin with its options), path (str or None), size (px), channels (1 or 3),
    classes (the label order, or None: the reader's, or that of first appearance). Raises
    SvpkitError for an id given twice, a label outside the classes, no image at all, or more than
    half of them unreadable.
    """
    use, size, channels = params["reader"], params["size"], params["channels"]
    intake = Intake(size, channels, params.get("classes") or use.options.get("classes"))
    with Writer(out, (), channels, size) as writer:
        for images, table in intake.blocks(use(params.get("path"))):
            writer.add(images, table)
        intake.check(params.get("path") or use.plugin.name)
        writer.classes = intake.classes
        writer.extra = {"reader": use.plugin.name, **intake.summary()}
    _write_quarantine(out / QUARANTINE, intake.bad)


def import_set(
    out: Path,
    reader: "Use",
    path: Path | str | None,
    *,
    size: int = 64,
    channels: int = 1,
    classes: Sequence[str] | None = None,
) -> ParticleSet:
    """Read particles into a new folder, as the stage does, and open it.

    Raises SvpkitError as `ingest`, and where the folder already holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SvpkitError(f"{out}: already there; name a new folder, sets are never changed")
    place = None if path is None else str(path)
    params = {"reader": reader, "path": place, "size": size, "channels": channels}
    ingest(out, params | {"classes": classes})
    return ParticleSet.open(out)


def from_folder(path: Path, *, size: int, channels: int, **options: Any) -> ParticleSet:
    """Read a folder into memory; see `ParticleSet.from_folder`."""
    from svpkit.default_plugins.folder import FolderReader

    intake = Intake(size, channels, options.get("classes"))
    blocks = list(intake.blocks(FolderReader().read(path, **options)))
    intake.check(str(path))
    images = np.concatenate([images for images, _ in blocks])
    table = pd.concat([table for _, table in blocks], ignore_index=True)
    columns = {str(name): table[name] for name in table.columns if name != "label"}
    return ParticleSet.from_arrays(images, list(table["label"]), intake.classes, **columns)


class Intake:
    """One pass over what a reader yields: blocks of fitted images, and what was set aside."""

    def __init__(self, size: int, channels: int, classes: Sequence[str] | None) -> None:
        self.size, self.channels = size, channels
        self.bad: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self._classes = tuple(classes) if classes else None
        self._ids: dict[str, int] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """The label order: as given, else as the labels first appeared."""
        return self._classes or tuple(name for name in self.counts if name)

    def blocks(self, items: Iterable[Any]) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        """Yield images uint8 (n, C, S, S) and their n rows, in bounded memory."""
        one = self.channels * self.size**2
        n = max(1, min(BLOCK, _BLOCK_BYTES // one))
        fitted = self._fitted(items)
        while block := list(islice(fitted, n)):
            images = np.stack([image for image, _ in block])
            yield images, pd.DataFrame([row for _, row in block]).assign(hash=picture_hash(images))

    def check(self, where: str) -> None:
        """Raise SvpkitError when nothing, or less than half, could be read."""
        good, bad = sum(self.counts.values()), len(self.bad)
        first = f"; the first: {self.bad[0]['id']}: {self.bad[0]['reason']}" if bad else ""
        if not good:
            raise SvpkitError(f"{where}: no image could be read{first}")
        if bad > good:
            raise SvpkitError(f"{where}: {bad} of {good + bad} images cannot be read{first}")

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says of the pass."""
        counts = {name: self.counts[name] for name in self.classes}
        said = {"counts": counts, "unlabelled": self.counts[""], "quarantined": len(self.bad)}
        return said | {"changed": dict(self.changed)}

    def _fitted(self, items: Iterable[Any]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        for position, (image, given) in enumerate(items):
            row = {"label": "", "note": "", **given}
            row["id"] = self._named(row, position)
            try:
                if isinstance(image, (str, Exception)):
                    raise SvpkitError(str(image) or type(image).__name__)
                fitted, factor = fit_image(image, self.size, self.channels)
                row["um_per_px"] = _number(row.get("um_per_px")) * factor
            except SvpkitError as error:
                reason = " ".join(str(error).split())
                self.bad.append({"id": row["id"], "label": str(row["label"]), "reason": reason})
                continue
            self._note(row, image, factor)
            self._count(row)
            yield fitted, row

    def _named(self, row: Mapping[str, Any], position: int) -> str:
        name = str(row.get("id") or f"particle-{position:06d}")
        first = self._ids.setdefault(name, position)
        if first != position:
            raise SvpkitError(
                f"id '{name}' is given by rows {first} and {position}: name each once"
            )
        return name

    def _count(self, row: Mapping[str, Any]) -> None:
        label = str(row["label"])
        if self._classes and label and label not in self._classes:
            raise unknown(f"label of particle '{row['id']}'", label, self._classes)
        self.counts[label] += 1

    def _note(self, row: dict[str, Any], image: np.ndarray, factor: float) -> None:
        notes = [str(row["note"])] if row["note"] else []
        if np.asarray(image).dtype == np.uint16:
            self.changed["16-bit"] += 1
            notes.append("16-bit, divided by 257")
        if factor > 1:
            self.changed["shrunk"] += 1
            notes.append(f"shrunk {factor:.3g} times")
        row["note"] = "; ".join(notes)


def fit_image(image: np.ndarray, size: int, channels: int) -> tuple[np.ndarray, float]:
    """Return the image at (channels, size, size), and the factor that its um_per_px grows by.

    Image uint8, or uint16 (divided by 257), of (h, w), (h, w, 3) or (h, w, 4 with alpha). A smaller
    one is padded, centred, with its background (median of the border); a larger one is shrunk by
    area, keeping its aspect, then padded; none is stretched. Colour becomes luminance (ITU-R
    BT.601) for one channel, grey is repeated for three. The factor is 1 or more. Raises
    SvpkitError for any other type or shape.
    """
    crop = _in_channels(_opaque(_eight_bits(np.asarray(image))), channels)
    factor = max(1.0, max(crop.shape[:2]) / size)
    return _padded(_shrunk(crop, factor) if factor > 1 else crop, size), factor


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        raise SvpkitError(f"um_per_px is {value!r}; a number is wanted") from None


def _eight_bits(image: np.ndarray) -> np.ndarray:
    colour = image.ndim == 3 and image.shape[2] in (3, 4)
    if not (image.ndim == 2 or colour) or 0 in image.shape:
        raise SvpkitError(f"image of shape {image.shape}; (h, w), (h, w, 3) or (h, w, 4) is read")
    if image.dtype == np.uint16:
        return np.rint(image / 257.0).astype(np.uint8)
    if image.dtype != np.uint8:
        raise SvpkitError(f"image of type {image.dtype}; uint8 or uint16 is read")
    return image


def _opaque(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return image[:, :, None]
    if image.shape[2] != 4:
        return image
    colour, alpha = image[:, :, :3], image[:, :, 3:] / 255.0
    seen = colour[image[:, :, 3] > 127]
    # What is transparent holds any colour: the median of what is seen stands in for it.
    behind = np.median(seen, axis=0) if len(seen) else np.zeros(3)
    return np.rint(colour * alpha + behind * (1 - alpha)).astype(np.uint8)


def _in_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return np.rint(image @ np.array([[0.299], [0.587], [0.114]])).astype(np.uint8)


def _shrunk(crop: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, round(n / factor)) for n in crop.shape[:2])
    picture = Image.fromarray(np.squeeze(crop, 2) if crop.shape[2] == 1 else crop)
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
    return small.reshape(height, width, crop.shape[2])


def _padded(crop: np.ndarray, size: int) -> np.ndarray:
    height, width, channels = crop.shape
    first = np.moveaxis(crop, 2, 0)
    if (height, width) == (size, size):
        return np.ascontiguousarray(first)
    out = np.empty((channels, size, size), np.uint8)
    out[:] = np.rint(background(first[None]))[0, :, None, None]
    top, left = (size - height) // 2, (size - width) // 2
    out[:, top : top + height, left : left + width] = first
    return out


def _write_quarantine(path: Path, bad: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["id", "label", "reason"])
        table.writeheader()
        table.writerows(bad)
