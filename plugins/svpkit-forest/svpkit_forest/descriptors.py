"""What the forest looks at: size, shape and grey of each particle, in pixels and grey levels."""

from collections.abc import Sequence

import numpy as np
from svpkit import describe

SHAPE = ("area_px", "ecd_px", "aspect", "circularity", "grey", "sharpness")
GREY = ("darkest", "brightest", "spread")
NAMES = (*SHAPE, *GREY)
BLOCK = 1024


def described(images: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return descriptors float64 (N, F) of uint8 images (N, C, S, S), in the order of `names`.

    `area_px` to `sharpness` are those of `svpkit.describe`, NaN where no object stands out;
    `darkest`, `brightest` and `spread` are the 1st and 99th percentile and the standard deviation
    of the grey level (mean over channels) about the median of the border, over the whole crop.
    """
    found = np.empty((len(images), len(names)))
    shape = [name for name in names if name in SHAPE]
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        columns = _grey(block)
        if shape:
            table = describe(block)
            columns |= {name: table[name].to_numpy(float) for name in shape}
        found[start : start + BLOCK] = np.column_stack([columns[name] for name in names])
    return found


def _grey(images: np.ndarray) -> dict[str, np.ndarray]:
    mean = images.mean(1)
    edges = (mean[:, 0], mean[:, -1], mean[:, 1:-1, 0], mean[:, 1:-1, -1])
    change = mean - np.median(np.concatenate(edges, axis=1), axis=1)[:, None, None]
    flat = change.reshape(len(images), -1)
    low, high = np.percentile(flat, (1, 99), axis=1)
    return {"darkest": low, "brightest": high, "spread": np.sqrt((flat**2).mean(1))}
