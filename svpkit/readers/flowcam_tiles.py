"""Tiles cut from the collages of a FlowCam run by their rectangles, with masks and flat fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from svpkit.errors import SvpkitError
from svpkit.readers.flowcam_tables import RECTANGLE, number
from svpkit.readers.pictures import decode

# The mask is widened by this many pixels: the rim of diffraction belongs to the particle.
RIM = 2


@dataclass(frozen=True)
class Page:
    """A collage, uint8 (H, W) or (H, W, 3), and its mask, bool (H, W), where it is asked for."""

    name: str
    pixels: np.ndarray
    mask: np.ndarray | None = None


class Cutter:
    """Cuts tiles of one run; holds its flat-field images, and of the collages none."""

    def __init__(self, folder: Path, *, flat_field: bool = False) -> None:
        self.folder, self.flat_field = folder, flat_field
        self._fields: dict[int, np.ndarray] = {}
        if flat_field and not any(folder.glob("cal_image_*.tif")):
            raise SvpkitError(f"{folder}: options.flat_field: no cal_image_NNNNNN.tif in it")

    def page(self, name: str, *, mask: bool) -> Page | str:
        """Return a decoded collage, or the reason why there is none."""
        try:
            pixels = self._decoded(name)
            return Page(name, pixels, self._mask(name, pixels) if mask else None)
        except SvpkitError as error:
            return str(error)

    def _mask(self, name: str, pixels: np.ndarray) -> np.ndarray:
        place = Path(name)
        masked = self._decoded(f"{place.stem}_bin{place.suffix}")
        if masked.shape[:2] != pixels.shape[:2]:
            raise SvpkitError(f"{place.stem}_bin{place.suffix}: not of the collage's size")
        return (masked if masked.ndim == 2 else masked.max(2)) > 0

    def _decoded(self, name: str) -> np.ndarray:
        path = inside(self.folder, name)
        try:
            pixels = decode(path)[0]
        except SvpkitError as error:
            raise SvpkitError(f"{name}: {error}") from None
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a broken file
            said = " ".join(str(error).replace(str(path), name).split())
            raise SvpkitError(f"{name}: cannot be read: {said}") from None
        return pixels[..., :3] if pixels.ndim == 3 else pixels

    def pair(self, page: Page, values: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tile as it is in the collage, and its mask."""
        where = _slices(values, page.pixels.shape, RECTANGLE, page.name)
        if page.mask is None:
            raise SvpkitError(f"{page.name}: no mask was asked for")
        return page.pixels[where].copy(), page.mask[where].copy()

    def tile(self, page: Page, values: Mapping[str, str], *, mask: bool) -> np.ndarray:
        """Return a particle's tile, flat-fielded and masked as asked.

        Raises SvpkitError for a rectangle that is none or leaves the collage, or has no flat field.
        """
        where = _slices(values, page.pixels.shape, RECTANGLE, page.name)
        found = page.pixels[where].copy()
        if self.flat_field:
            found = self._flattened(found, values)
        if mask and page.mask is not None:
            found = outside_removed(found, page.mask[where])
        return found

    def _flattened(self, tile: np.ndarray, values: Mapping[str, str]) -> np.ndarray:
        index = _whole(values, "cal_image")
        if index not in self._fields:
            self._fields[index] = self._field(index)
        field = self._fields[index]
        sides = ("src_x", "src_y", "image_w", "image_h")
        gain = field[_slices(values, field.shape, sides, f"cal_image_{index:06d}.tif")]
        if tile.ndim == 3:
            gain = gain[:, :, None]
        flat = tile / gain
        top = np.iinfo(tile.dtype).max
        return np.clip(np.rint(flat), 0, top).astype(tile.dtype)

    def _field(self, index: int) -> np.ndarray:
        """Return a flat-field image over its median, float64 (H, W)."""
        name = f"cal_image_{index:06d}.tif"
        found = self._decoded(name)
        field = np.maximum(found if found.ndim == 2 else found.mean(2), 1.0)
        return field / np.median(field)


def outside_removed(tile: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the tile with its background's grey wherever it is further than RIM from the mask.

    Tile (h, w) or (h, w, 3), mask bool (h, w); the background is the median of the one-pixel
    border, channel by channel.
    """
    if not mask.any():
        return tile
    around = ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=RIM)
    edges = (tile[0], tile[-1], tile[1:-1, 0], tile[1:-1, -1])
    grey = np.rint(np.median(np.concatenate(edges), axis=0)).astype(tile.dtype)
    out = tile.copy()
    out[np.logical_not(around)] = grey
    return out


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a row names; raises SvpkitError where it leaves the folder."""
    slashed = name.replace("\\", "/")
    if not name:
        raise SvpkitError("no collage is named")
    if Path(slashed).is_absolute() or ":" in name or "\0" in name or ".." in slashed.split("/"):
        raise SvpkitError(f"collage '{name}' leaves the folder")
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise SvpkitError(f"collage '{name}' leaves the folder")
        there = path.is_file()
    except OSError as error:  # a name longer than names may be
        raise SvpkitError(f"{name[:40]}: {error.strerror}") from None
    if not there:
        raise SvpkitError(f"{name}: no such file")
    return path


def _slices(
    values: Mapping[str, str], shape: tuple[int, ...], names: tuple[str, ...], where: str
) -> tuple[slice, slice]:
    x, y, w, h = (_whole(values, name) for name in names)
    if w < 1 or h < 1 or x < 0 or y < 0 or x + w > shape[1] or y + h > shape[0]:
        raise SvpkitError(
            f"rectangle {w} x {h} at ({x}, {y}) leaves {where} of {shape[1]} x {shape[0]} px"
        )
    return slice(y, y + h), slice(x, x + w)


def _whole(values: Mapping[str, Any], name: str) -> int:
    text = values.get(name, "")
    try:
        value = number(text)
        return round(value)
    except (ValueError, OverflowError):
        raise SvpkitError(f"{name} is '{text}'; a number of pixels is wanted") from None
