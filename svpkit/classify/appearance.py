"""What images look like whatever is on them: background, noise, contrast, sharpness and size."""

import numpy as np

from svpkit.particles.describe import background

STATISTICS = ("background", "noise", "dark", "bright", "sharpness", "size")
"""Names of the columns of `statistics`."""

_BLOCK = 512


def statistics(images: np.ndarray) -> np.ndarray:
    """Return simple statistics of uint8 images (N, C, S, S): float32 (N, 6), no NaN.

    Channels are averaged. `background`: median of the border, in grey levels. `noise`: sigma of the
    quieter half of the pixels, by their Laplacian (Immerkaer 1996), constant padding left out, in
    grey levels. `dark` and `bright`: how far the darkest and brightest 2 % of the pixels lie from
    the background, over it. `sharpness`: root mean square of the gradient over that of the change
    from background. `size`: side in px of a square as large as what stands out from the background.
    """
    found = np.zeros((len(images), len(STATISTICS)), np.float32)
    for start in range(0, len(images), _BLOCK):
        found[start : start + _BLOCK] = _of_block(images[start : start + _BLOCK])
    return found


def _of_block(images: np.ndarray) -> np.ndarray:
    grey = images.mean(1, dtype=np.float64)
    level = background(images).mean(1)
    change = (grey - level[:, None, None]).reshape(len(grey), -1)
    low, high = np.percentile(change, [2, 98], axis=1)
    over = np.maximum(level, 1)
    noise = np.array([_noise(each) for each in grey])
    slope = (np.diff(grey, axis=2) ** 2).mean((1, 2)) + (np.diff(grey, axis=1) ** 2).mean((1, 2))
    power = (change**2).mean(1)
    sharp = np.sqrt(np.divide(slope, power, out=np.zeros_like(power), where=power > 0))
    least = np.maximum(3 * noise, 0.25 * np.abs(change).max(1))
    area = (np.abs(change) > least[:, None]).sum(1)
    return np.stack([level, noise, -low / over, high / over, sharp, np.sqrt(area)], axis=1)


def _noise(grey: np.ndarray) -> float:
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    second = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    flat = grey[1:-1, 1:-1]
    same = (flat == grey[:-2, 1:-1]) & (flat == grey[2:, 1:-1])
    same &= (flat == grey[1:-1, :-2]) & (flat == grey[1:-1, 2:])
    there = np.sort(second[~same])
    quiet = there[: (len(there) + 1) // 2]
    # the Laplacian of unit noise has sigma 6; the lower half of |normal| has mean 0.325
    return float(quiet.mean() / (6 * 0.325)) if len(quiet) else 0.0
