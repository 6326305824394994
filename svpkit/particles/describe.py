"""Size, shape and grey of particles, measured on their pixels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import perimeter_crofton, regionprops

COLUMNS = ("area_px", "ecd_px", "ecd_um", "aspect", "circularity", "grey", "sharpness")
# A threshold under this many sigmas of the border's noise would outline the background.
_NOISE = 3.0


def background(images: np.ndarray) -> np.ndarray:
    """Return the median of the one-pixel border of each channel.

    Images uint8 (N, C, H, W); returns float64 (N, C), in grey levels.
    """
    edges = (images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1])
    return np.median(np.concatenate(edges, axis=-1), axis=-1)


def segment(images: np.ndarray) -> np.ndarray:
    """Return the largest object of each image, its holes filled: bool (N, H, W).

    Images uint8 (N, C, H, W). The object is where |I - background| (mean over channels, smoothed
    over a pixel) exceeds Otsu's threshold (Otsu 1979) and three sigmas of the noise on the
    crop's border; an image with nothing above both has an empty mask.
    """
    if not len(images):
        return np.zeros((0, *images.shape[2:]), bool)
    return np.stack([_largest(change) for change in _change(images)])


def describe(
    images: np.ndarray, um_per_px: float | Sequence[float] | np.ndarray | None = None
) -> pd.DataFrame:
    """Return one row of descriptors an image; an image without an object has area 0 and NaN.

    Images uint8 (N, C, H, W); um_per_px one number or N, in um, NaN or None where unknown. Columns:
    `area_px`; `ecd_px` and `ecd_um`, the equivalent circular diameter 2 sqrt(area / pi), up to
    0.6 px large by the smoothing (um: NaN where the scale is unknown); `aspect`, minor over major
    axis of the ellipse of equal moments, 0 to 1; `circularity`, 4 pi area / perimeter^2 (Crofton
    perimeter), 1 for a disc; `grey`, mean grey level over the object minus the background;
    `sharpness`, mean gradient along the outline over the object's contrast, per px:
    1 / (sigma sqrt(2 pi)) for an edge blurred by sigma.
    """
    scale = np.nan if um_per_px is None else um_per_px
    scales = np.broadcast_to(np.asarray(scale, float), (len(images),))
    grey = images.mean(1) - background(images).mean(1)[:, None, None]
    masks = segment(images)
    rows = [_measure(mask, level) for mask, level in zip(masks, grey, strict=True)]
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "ecd_um"], dtype=float)
    return table.assign(ecd_um=table["ecd_px"] * scales).reindex(columns=list(COLUMNS))


def diameters(images: np.ndarray, um_per_px: np.ndarray) -> np.ndarray:
    """Return the column `ecd_um` of `describe` alone, (N,), in a third of the time."""
    area = segment(images).sum((1, 2))
    return np.where(area > 0, 2 * np.sqrt(area / np.pi), np.nan) * um_per_px


def _change(images: np.ndarray) -> np.ndarray:
    back = background(images)[:, :, None, None]
    return np.abs(images.astype(np.float32) - back.astype(np.float32)).mean(1)


def _largest(change: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(change, 0.7)
    if smooth.max() - smooth.min() < 1:
        return np.zeros(change.shape, bool)
    floor = _NOISE * _noise(change)
    solid = ndimage.binary_fill_holes(smooth > max(threshold_otsu(smooth), floor))
    parts = np.empty(change.shape, np.int32)
    ndimage.label(solid, np.ones((3, 3)), output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (parts == sizes.argmax()) & (sizes.max() > 0)


def _noise(change: np.ndarray) -> float:
    """Return sigma of the noise on the border of the crop, inside any padding."""
    crop = change[change.any(1)][:, change.any(0)]
    level = float(background(crop[None, None])[0, 0])
    # a crop that the object fills has no background left to tell its noise
    return level / 0.67 if level < crop.max() / 4 else 0.0


def _measure(mask: np.ndarray, grey: np.ndarray) -> tuple[float, ...]:
    area = float(mask.sum())
    if not area:
        return (0.0, *[np.nan] * 5)
    shape = regionprops(mask.astype(np.uint8))[0]
    major, minor = shape.axis_major_length, shape.axis_minor_length
    around = float(perimeter_crofton(mask))
    return (
        area,
        2 * np.sqrt(area / np.pi),
        minor / major if major else 1.0,
        min(1.0, 4 * np.pi * area / around**2) if around else 1.0,
        float(grey[mask].mean()),
        _sharpness(mask, grey),
    )


def _sharpness(mask: np.ndarray, grey: np.ndarray) -> float:
    outline = mask ^ ndimage.binary_erosion(mask) | ndimage.binary_dilation(mask) ^ mask
    slope = np.hypot(*np.gradient(grey))
    contrast = np.percentile(np.abs(grey[mask]), 90)
    return float(slope[outline].mean() / contrast) if contrast else 0.0
