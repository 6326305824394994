"""A small made-up export, for tests and for `svpkit plugins check imagestream`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svpkit_imagestream.pictures import DESCRIPTION

LEVEL = 800  # background of the brightfield, of 4095
OME = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2013-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{w}" SizeY="{h}" SizeZ="1"'
    ' SizeC="1" SizeT="1" PhysicalSizeX="{um}" PhysicalSizeY="{um}">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/></Pixels>'
    "</Image></OME>"
)


def write(
    folder: Path,
    objects: int = 12,
    prefix: str = "sample",
    um_per_px: float | None = 0.5,
    table: bool = True,
    seed: int | None = None,
) -> Path:
    """Write discs in two channels and their features; return the folder.

    Object n is a disc of 3 + n / 2 um in diameter: dark on `LEVEL` in Ch1, bright on 20 in Ch2;
    with a seed, noise of 8 levels sd lies over all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = f"{prefix}_" if prefix else ""
    scale = um_per_px or 0.5
    lines = [
        "Population: All",
        f"File: {prefix}.daf",
        "Object Number\tArea_M01\tDiameter_M01\tkind",
    ]
    for number in range(objects):
        size = 3 + number / 2
        inside = disc(24 + number, size / 2 / scale)
        for channel, (inner, outer) in {1: (300, LEVEL), 2: (1500, 20)}.items():
            levels = np.where(inside, inner, outer) + _noise(inside.shape, seed, number, channel)
            save(
                folder / f"{start}{number}_Ch{channel}.ome.tif",
                levels.clip(0).astype(np.uint16),
                um_per_px,
            )
        lines.append(f"{number}\t{np.pi / 4 * size**2:.4f}\t{size:.4f}\t{'ab'[number % 2]}")
    if table:
        (folder / f"{prefix or 'all'}_features.txt").write_text("\n".join(lines) + "\n")
    return folder


def _noise(shape: tuple[int, ...], seed: int | None, number: int, channel: int) -> Any:
    if seed is None:
        return 0
    key = np.random.SeedSequence([seed, number, channel])
    return np.rint(np.random.Generator(np.random.Philox(key)).normal(0, 8, shape)).astype(int)


def disc(side: int, radius: float) -> NDArray[Any]:
    """Return which pixels of a square lie in a disc at its centre, bool (side, side)."""
    axis = np.arange(side) - (side - 1) / 2
    return np.hypot(axis, axis[:, None]) < radius


def save(file: Path, levels: NDArray[Any], um_per_px: float | None = None) -> None:
    """Write one TIFF, with OME-XML where the scale is given."""
    height, width = levels.shape[:2]
    said = {DESCRIPTION: OME.format(w=width, h=height, um=um_per_px)} if um_per_px else {}
    Image.fromarray(levels).save(file, format="TIFF", tiffinfo=said)
