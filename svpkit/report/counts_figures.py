"""The figures of the page of counts: size distributions by class, and pictures of particles."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from svpkit.report import figures
from svpkit.report.counts_cells import clean, shown
from svpkit.report.numbers import value

if TYPE_CHECKING:
    from svpkit.report.counts import Counted

PER_DECADE = 12
BOUNDS = (2, 5, 10, 25)
_TICKS = (0.5, 1, 2, 5, 10, 25, 50, 100, 200, 500, 1000)
_FINE = (0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 25, 35, 50, 70, 100, 150, 200)
_PICTURE_BYTES = 900_000


def size_panels(found: "Counted", mark: str = "") -> list[figures.Panel]:
    """Draw how many particles of each class have which size: a panel a class, axes in common.

    Bins are twelve a decade of ECD; the height is particles per mL in a bin where the volume of
    every run is known, else particles. Up to six runs have a line each, more are a median and the
    range of the middle 80 %. Classes without a known size have no panel.
    """
    sizes = {name: [_known(each, name) for each in found.inputs] for name in _drawn(found)}
    sizes = {name: own for name, own in sizes.items() if any(len(block) for block in own)}
    if not sizes:
        return []
    edges = _edges([block for own in sizes.values() for block in own])
    scale, unit = _scales(found.inputs)
    heights = {
        name: np.stack([np.histogram(block, edges)[0] for block in own]) * scale[:, None]
        for name, own in sizes.items()
    }
    top = max(float(each.max()) for each in heights.values())
    limits = (0.5 * float(scale.min()), 2 * top)
    return [
        figures.Panel(
            _panel(edges, each, f"{unit} in a bin", limits, mark), _alt(name, sizes[name]), name
        )
        for name, each in heights.items()
    ]


def legend(found: "Counted") -> list[tuple[int, str]]:
    """Return (colour, run) for the lines of the size panels; empty for one run, or a band."""
    runs = [str(each["run"]) for each in found.inputs]
    return list(enumerate(runs)) if 1 < len(runs) <= len(figures.ARMS) else []


def gallery(pictures: Mapping[str, np.ndarray], order: Sequence[str]) -> dict[str, list[str]]:
    """Encode the pictures of each class over one grey range, fewer where classes are many.

    pictures uint8 (n, C, S, S) by class.
    """
    kept = {name: pictures[name] for name in [*order, *pictures] if name in pictures}
    kept = {name: np.asarray(block) for name, block in kept.items() if len(block)}
    greys = figures.grey_range(kept.values())
    size = max((block[0].size for block in kept.values()), default=1)
    most = int(np.clip(_PICTURE_BYTES / (size * max(1, len(kept))), 2, 32))
    return {
        name: [figures.png(image, greys) for image in block[:most]] for name, block in kept.items()
    }


def _drawn(found: "Counted") -> list[str]:
    names = (str(name) for each in found.inputs for name in each.get("sizes") or {})
    return list(dict.fromkeys([*found.classes, *names]))


def _known(each: Mapping[str, Any], name: str) -> np.ndarray:
    sizes = np.asarray((each.get("sizes") or {}).get(name, ()), float)
    return sizes[np.isfinite(sizes) & (sizes > 0)]


def _edges(blocks: Sequence[np.ndarray]) -> np.ndarray:
    least = min(float(block.min()) for block in blocks if len(block))
    most = max(float(block.max()) for block in blocks if len(block))
    low = math.floor(max(math.log10(least), -1) * PER_DECADE + 1e-9)
    high = math.ceil(min(math.log10(most), 4) * PER_DECADE - 1e-9)
    return 10.0 ** (np.arange(low, max(high, low + 1) + 1) / PER_DECADE)


def _scales(inputs: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, str]:
    # what one particle of each run counts for
    volumes = [value(each.get("volume_ml")) or 0.0 for each in inputs]
    if not all(volume > 0 for volume in volumes):
        return np.ones(len(inputs)), "particles"
    dilutions = [value(each.get("dilution")) or 1.0 for each in inputs]
    return np.array(dilutions) / np.array(volumes), "per mL"


def _panel(
    edges: np.ndarray, heights: np.ndarray, label: str, limits: tuple[float, float], mark: str
) -> str:
    # names stay out of the picture: the page writes them, and any of them may be hostile
    with matplotlib.rc_context(figures._STYLE):
        figure, axes = figures._panel("ECD, µm", label, mark)
        axes.set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]), ylim=limits)
        _steps(axes, edges, heights, limits[0])
        for bound in BOUNDS:
            if edges[0] < bound < edges[-1]:
                axes.axvline(bound, color=figures.INKS["soft"][0], lw=0.8, ls=":")
        wide = edges[-1] > 12 * edges[0]
        ticks = [tick for tick in (_TICKS if wide else _FINE) if edges[0] <= tick <= edges[-1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.yaxis.set_major_formatter(lambda x, _: f"{x:,g}")
        axes.minorticks_off()
        axes.grid(False, axis="x")
        return figures.svg(figure)


def _steps(axes: Axes, edges: np.ndarray, heights: np.ndarray, floor: float) -> None:
    raised = np.maximum(heights, floor)
    blue = figures.ARMS[0][0]
    if len(heights) == 1:
        axes.stairs(raised[0], edges, baseline=floor, fill=True, color=blue, alpha=0.3, lw=0)
        axes.stairs(raised[0], edges, baseline=floor, color=blue, lw=1.4)
    elif len(heights) <= len(figures.ARMS):
        for i, row in enumerate(raised):
            colour, dash = figures.ARMS[i][0], figures.DASHES[i % len(figures.DASHES)]
            axes.stairs(row, edges, baseline=None, color=colour, ls=dash, lw=1.5)
    else:
        low, middle, high = np.percentile(raised, (10, 50, 90), axis=0)
        axes.stairs(high, edges, baseline=low, fill=True, color=blue, alpha=0.25, lw=0)
        axes.stairs(middle, edges, baseline=None, color=blue, lw=1.6)


def _alt(name: str, blocks: Sequence[np.ndarray]) -> str:
    sizes = np.concatenate([block for block in blocks if len(block)])
    low, middle, high = np.percentile(sizes, (5, 50, 95))
    return (
        f"Size distribution of {shown(clean(name))}: {len(sizes):,} particles, median "
        f"{middle:.1f} µm, nine tenths between {low:.1f} and {high:.1f} µm."
    )
