"""Toy particles that a small model learns in seconds: discs, rings and bars on grey."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from svpkit import draws
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet

if TYPE_CHECKING:
    from svpkit.simulate.optics import Optics

GREY, CONTRAST, NOISE = 128, 80, 6


def particles(counts: Mapping[str, int], seed: int, spec: ImageSpec) -> ParticleSet:
    """Return toy particles, so many of each class of `spec`, in class order.

    Class k is a bright disc, a dark ring or a dark bar (k modulo 3), at a place and size of its
    own, in grey levels 0 .. 255 with noise; of three channels the last has half the contrast.
    """
    labels = [name for name in spec.classes for _ in range(counts.get(name, 0))]
    rng = draws.rng(seed, "toys")
    images = [_image(spec, spec.classes.index(name), rng) for name in labels]
    shape = (0, spec.channels, spec.size, spec.size)
    pixels = np.stack(images) if images else np.empty(shape, np.uint8)
    return ParticleSet.from_arrays(pixels, labels, spec.classes, um_per_px=0.5)


def write(folder: Path, found: ParticleSet) -> Path:
    """Write the particles of a grey set as class folders of PNG files, for the reader `folder`."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(found.images(), found.table["label"], strict=True)):
        path = folder / label / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder


def optics(
    instrument: Literal["mfi-like", "flowcam-like"] = "mfi-like", pixels: int = 32, binning: int = 2
) -> "Optics":
    """Return the optics of a small crop, `pixels` a side, for particle types to draw with."""
    from svpkit.simulate.instruments import INSTRUMENTS
    from svpkit.simulate.optics import Optics

    return Optics(INSTRUMENTS[instrument], pixels, binning)


def _image(spec: ImageSpec, k: int, rng: np.random.Generator) -> np.ndarray:
    lines = (np.arange(spec.size) - (spec.size - 1) / 2) * 16 / spec.size
    y, x = lines[:, None] - rng.uniform(-1, 1), lines[None] - rng.uniform(-1, 1)
    sign, inside = _SHAPES[k % 3](x, y, rng.uniform(0.9, 1.15), rng)
    weights = np.array([1.0, 0.75, 0.5])[: spec.channels, None, None]
    noise = rng.normal(0, NOISE, (spec.channels, spec.size, spec.size))
    return (GREY + sign * CONTRAST * weights * inside + noise).clip(0, 255).astype(np.uint8)


_Shape = Callable[..., tuple[int, np.ndarray]]


def _disc(x: np.ndarray, y: np.ndarray, by: float, rng: np.random.Generator) -> tuple:
    return 1, np.hypot(x, y) < 4 * by


def _ring(x: np.ndarray, y: np.ndarray, by: float, rng: np.random.Generator) -> tuple:
    radius = np.hypot(x, y) / by
    return -1, (radius > 3) & (radius < 5.5)


def _bar(x: np.ndarray, y: np.ndarray, by: float, rng: np.random.Generator) -> tuple:
    across, along = (x, y) if rng.integers(2) else (y, x)
    return -1, (np.abs(across) < 1.3) & (np.abs(along) < 6 * by)


_SHAPES: tuple[_Shape, ...] = (_disc, _ring, _bar)
