"""Size, shape, grey and sharpness of drawn particles against those of real ones."""

import numpy as np
import pandas as pd
from scipy import stats

from svpkit import draws
from svpkit.generate.resample import REPLICATES, TAILS, again
from svpkit.particles.describe import describe

# The column that each is measured in, the power of its length, and its unit where that is 0.
NAMES = {
    "area": ("area_px", 2, ""),
    "ecd": ("ecd_px", 1, ""),
    "aspect": ("aspect", 0, "1"),
    "circularity": ("circularity", 0, "1"),
    "grey": ("grey", 0, "grey levels"),
    "sharpness": ("sharpness", -1, ""),
}
FEWEST = 8


def measure(images: np.ndarray) -> pd.DataFrame:
    """Return the six descriptors, in pixels, of images uint8 (N, C, H, W); NaN without an object.

    See `svpkit.particles.describe.describe`.
    """
    table = describe(images)
    table = pd.DataFrame({name: table[column] for name, (column, _, _) in NAMES.items()})
    return table.where(table["area"] > 0)


def scales(drawn: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return um_per_px of each drawn (n,) and real (N,) image, or None where a scale is unknown.

    Drawn images that say nothing have the one scale that all real ones share.
    """
    if not len(real) or not np.isfinite(real).all():
        return None
    if np.isnan(drawn).all() and np.ptp(real) <= 1e-6 * real.max():
        return np.full(len(drawn), real[0]), real
    return (drawn, real) if np.isfinite(drawn).all() else None


def physical(
    drawn: pd.DataFrame,
    real: pd.DataFrame,
    units: np.ndarray,
    seed: int,
    um: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, dict[str, object]]:
    """Compare what `measure` found, name by name: both medians, Wasserstein distance and KS.

    `um` gives the scale of every image, in um per pixel; without it lengths are in pixels. The
    Wasserstein distance, also over the real standard deviation, has the 95 % interval of drawn
    images taken again one by one and real ones by unit, int64 (N,), moved onto the value. Of any
    finite sets it is above 0: its floor is the mean, with the 2.5 and 97.5 % quantiles, where as
    many drawn ones were taken from the real ones themselves. The p value takes images as
    independent. Images without an object are left out; a name with under eight on a side too.
    """
    found = {}
    for k, (name, (_, power, unit)) in enumerate(NAMES.items()):
        a, b = drawn[name].to_numpy(float), real[name].to_numpy(float)
        if um is not None:
            a, b = a * um[0] ** power, b * um[1] ** power
        seen = np.isfinite(a), np.isfinite(b)
        if min(seen[0].sum(), seen[1].sum()) >= FEWEST:
            row = _compared(a[seen[0]], b[seen[1]], units[seen[1]], seed, k)
            found[name] = {"unit": unit or _unit("px" if um is None else "um", power), **row}
    return found


def _compared(
    a: np.ndarray, b: np.ndarray, units: np.ndarray, seed: int, k: int
) -> dict[str, object]:
    rng = draws.rng(seed, "descriptors", k)
    value = float(stats.wasserstein_distance(a, b))
    each = [
        stats.wasserstein_distance(a, b, v, w)
        for v, w in zip(again(np.arange(len(a)), rng), again(units, rng), strict=True)
    ]
    low, middle, high = np.quantile(each, [TAILS[0], 0.5, TAILS[1]])
    floor = _floor(b, units, len(a), rng)
    sd = float(b.std())
    ks = stats.ks_2samp(a, b, method="asymp")
    return {
        "real": float(np.median(b)),
        "drawn": float(np.median(a)),
        "wasserstein": {
            "value": value,
            "low": max(0.0, value + float(low - middle)),
            "high": value + float(high - middle),
        },
        "wasserstein_floor": floor,
        "wasserstein_sd": value / sd if sd else None,
        "ks": float(ks.statistic),  # type: ignore[attr-defined]
        "p": float(ks.pvalue),  # type: ignore[attr-defined]
    }


def _floor(
    real: np.ndarray, units: np.ndarray, n: int, rng: np.random.Generator
) -> dict[str, float]:
    # n of the real values, one by one, against as many units of them as there are
    drawn = rng.multinomial(n, np.full(len(real), 1 / len(real)), size=REPLICATES).astype(float)
    each = [
        stats.wasserstein_distance(real, real, v, w)
        for v, w in zip(drawn, again(units, rng), strict=True)
    ]
    low, high = np.quantile(each, TAILS)
    return {"value": float(np.mean(each)), "low": float(low), "high": float(high)}


def _unit(length: str, power: int) -> str:
    return {2: f"{length}^2", 1: length, -1: f"1/{length}"}[power]
