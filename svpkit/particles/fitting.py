"""A crop made into an image of one kind: channels, scale, side and background."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from svpkit.errors import SvpkitError
from svpkit.particles.describe import background

# The grey level that a divided background gets: bright fringes have room above it.
FIELD = 160.0
# How much a crop may be enlarged or shrunk to get to one scale: beyond, a scale is mistaken.
ENLARGED, SHRUNK = 8.0, 32.0


@dataclass(frozen=True)
class Fit:
    """How crops become images of one kind.

    `size` in pixels; `channels` 1 or 3; `background`: "keep", or "divide" for I/I0 (`divided`);
    `um_per_px`: the one scale that all are resampled to, in um, None to keep each its own.
    """

    size: int
    channels: int
    background: str = "keep"
    um_per_px: float | None = None

    def __call__(self, image: np.ndarray, um_per_px: float) -> tuple[np.ndarray, float]:
        """Return the image uint8 (C, S, S) and the factor that its um_per_px grew by.

        Raises SvpkitError for an image that cannot be fitted, or has no scale where one is asked.
        """
        scale = 1.0
        if self.um_per_px is not None:
            if not um_per_px > 0:
                raise SvpkitError("its um_per_px is not known, and data.um_per_px asks for one")
            scale = self.um_per_px / um_per_px
            if not 1 / ENLARGED <= scale <= SHRUNK:
                raise SvpkitError(f"um_per_px is {um_per_px:g}, too far from {self.um_per_px:g}")
        fitted, factor = fit_image(image, self.size, self.channels, scale)
        return (divided(fitted) if self.background == "divide" else fitted), factor


def fit_image(
    image: np.ndarray, size: int, channels: int, scale: float = 1.0
) -> tuple[np.ndarray, float]:
    """Return the image at (channels, size, size), and the factor that its um_per_px grows by.

    Image uint8, or uint16 (divided by 257), of (h, w), (h, w, 3) or (h, w, 4 with alpha). A smaller
    one is padded, centred, with its background (median of the border); a larger one is shrunk by
    area, keeping its aspect, then padded; none is stretched. `scale` is what its um_per_px has to
    grow by first (below 1, it is enlarged; cubic, in either direction). Colour becomes luminance
    (ITU-R BT.601) for one channel, grey is repeated for three. Raises SvpkitError for any other
    type or shape.
    """
    crop = _in_channels(_opaque(_eight_bits(np.asarray(image))), channels)
    if scale != 1:
        crop = _resized(crop, scale, Image.Resampling.BICUBIC)
    factor = max(1.0, max(crop.shape[:2]) / size)
    if factor > 1:
        crop = _resized(crop, factor, Image.Resampling.BOX)
    return _padded(crop, size), scale * factor


def divided(image: np.ndarray) -> np.ndarray:
    """Return an image uint8 (C, H, W) divided by its background, which becomes grey `FIELD`.

    The background I0 is the median of its border, a channel; what is brighter than 1.59 I0 is cut.
    """
    level = np.maximum(background(image[None])[0], 1.0)[:, None, None]
    return np.clip(np.rint(image * (FIELD / level)), 0, 255).astype(np.uint8)


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


def _resized(crop: np.ndarray, factor: float, how: Image.Resampling) -> np.ndarray:
    height, width = (max(1, round(n / factor)) for n in crop.shape[:2])
    picture = Image.fromarray(np.squeeze(crop, 2) if crop.shape[2] == 1 else crop)
    small = np.asarray(picture.resize((width, height), how))
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
