"""Pictures from files: what is read, its limits before anything is decoded, and its tags."""

import stat
import warnings
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
LONGEST_SIDE = 16_384
MOST_PIXELS = 64 * 2**20
MOST_BYTES = 512 * 2**20
# Pages of a file are counted so far: a small one may claim a million, each of which is looked up.
MOST_PAGES = 16
# Text chunks of a PNG that `svpkit generate` drew: read back, it stays known as drawn.
ORIGIN_TAG, LINEAGE_TAG = "svpkit-origin", "svpkit-lineage"
# Pillow's modes and what they are read as; others (CMYK, float, ...) are set aside.
_MODES = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGBA", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


def decode(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return one picture, and what its tags say of its origin.

    uint8 or uint16 of (h, w), (h, w, 3) or (h, w, 4). Raises SvpkitError for what is no regular
    file, an empty one, bytes, sides or pixels beyond the limits, several pictures in one file and
    colours that are not read; what Pillow raises for a broken file goes through.
    """
    from PIL import Image

    _refuse_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # beyond our own limit anyway, and said before anything is decoded
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            _refuse(image)
            return _pixels(image), _tags(image)


def _refuse_file(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        # a pipe would be waited for, a device never ends
        raise SvpkitError("not a regular file")
    if not found.st_size:
        raise SvpkitError("empty file")
    if found.st_size > MOST_BYTES:
        raise SvpkitError(f"{found.st_size} bytes, up to {MOST_BYTES} are read")


def _refuse(image: Any) -> None:
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise SvpkitError(
            f"{width} x {height} px: sides up to {LONGEST_SIDE}, up to {MOST_PIXELS} px are read"
        )
    frames = _frames(image)
    if frames > 1:
        many = f"{frames}" if frames < MOST_PAGES else f"{MOST_PAGES} or more"
        raise SvpkitError(f"holds {many} pictures, one is read")
    if image.mode not in _MODES and image.mode not in _DEEP:
        raise SvpkitError(f"colours are {image.mode}; grey, RGB and 16-bit grey are read")


def _frames(image: Any) -> int:
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    page = 0
    try:
        while page + 1 < MOST_PAGES:
            image.seek(page + 1)
            page += 1
    except EOFError:
        image.seek(0)
    return page + 1


def _pixels(image: Any) -> Any:
    import numpy as np

    if image.mode in _DEEP:
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert(_MODES[image.mode]))


def _tags(image: Any) -> dict[str, Any]:
    if image.info.get(ORIGIN_TAG) != "synthetic":
        return {}
    return {"origin": "synthetic", "lineage": str(image.info.get(LINEAGE_TAG, ""))}
