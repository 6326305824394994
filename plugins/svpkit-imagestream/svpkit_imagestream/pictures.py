"""One TIFF at a time: limits before it is decoded, its scale, and its grey levels on 0 to 255."""

from __future__ import annotations

import html
import math
import re
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from svpkit import SvpkitError

Array = NDArray[Any]

MOST_BYTES = 32 * 2**20
LONGEST_SIDE = 4096
MOST_PIXELS = 4 * 2**20
FIELD = 160.0  # grey of the background, as the host's own background = "divide" has it
SEEN = 64  # images from which the background of a run is measured
DARK = 100.0  # a brightfield is brighter, of 4095 levels
DESCRIPTION = 270  # the tag that holds OME-XML

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_SIZE = re.compile(r'\bPhysicalSize([XY])\s*=\s*["\']([^"\']{1,32})["\']')
_UNIT = re.compile(r'\bPhysicalSizeXUnit\s*=\s*["\']([^"\']{1,16})["\']')
_UM = {"\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}


def picture(root: Path, file: Path) -> tuple[Array, float] | str:
    """Return the levels uint16 (h, w) of one TIFF and its um per px (NaN: not said), or why not."""
    try:
        if not file.resolve().is_relative_to(root.resolve()) or not file.is_file():
            return f"{file.name}: no file of this folder"
        return _decoded(file)
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a broken file
        reason = f"{error}" if isinstance(error, SvpkitError) else f"cannot be read: {error}"
        return " ".join(f"{file.name}: {reason}".replace(str(file), "the file").split())


def _decoded(file: Path) -> tuple[Array, float]:
    size = file.stat().st_size
    if not 0 < size <= MOST_BYTES:
        raise SvpkitError(f"{size} bytes; up to {MOST_BYTES} are read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=("TIFF",)) as image:
            _refuse(image)
            scale = _scale(str(getattr(image, "tag_v2", {}).get(DESCRIPTION, "")))
            return np.asarray(image).astype(np.uint16), scale


def _refuse(image: Any) -> None:
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise SvpkitError(f"{width} x {height} px; up to {MOST_PIXELS} are read")
    if image.mode not in _DEEP:
        raise SvpkitError(f"levels are {image.mode}; 16-bit grey is read (an export for analysis)")
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise SvpkitError("holds several pictures, one is read")


def _scale(text: str) -> float:
    """Return um per px of OME-XML; NaN where it is not said, or pixels are not square.

    Looked for as text: no XML of a stranger is parsed.
    """
    text = html.unescape(text.encode("latin-1", "replace").decode("utf-8", "replace"))
    sizes = dict(reversed(_SIZE.findall(text)))  # the first of each counts
    unit = _UNIT.search(text)
    factor = _UM.get(unit[1] if unit else "um", math.nan)
    try:
        across, along = (float(sizes[side]) * factor for side in "XY")
    except (KeyError, ValueError):
        return math.nan
    square = math.isclose(across, along, rel_tol=0.01)
    return across if square and 0.01 <= across <= 10 else math.nan


def background_of(found: Iterable[tuple[Array, float] | str]) -> float:
    """Return the level of the background of a run; NaN where no image could be read.

    The median, over the first `SEEN` images that can be read, of the median of each one's border.
    """
    levels = (item[0] for item in found if not isinstance(item, str))
    borders = [np.median(_border(level)) for level in islice(levels, SEEN)]
    return float(np.median(borders)) if borders else math.nan


def _border(levels: Array) -> Array:
    return np.concatenate([levels[0], levels[-1], levels[1:-1, 0], levels[1:-1, -1]])


def greys(background: float) -> Array:
    """Return the grey uint8 (65536,) of every level: in proportion, `background` at `FIELD`."""
    return np.minimum(np.rint(np.arange(65536) * (FIELD / background)), 255).astype(np.uint8)
