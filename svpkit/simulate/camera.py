"""The camera: from intensity on the simulation grid to the 8-bit crop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svpkit.simulate.optics import Optics

Array = NDArray[Any]

STREAM = 1000  # the camera's own random stream, which no particle type draws from


def expose(intensity: Array, seeds: Array, optics: Optics) -> Array:
    """Return crops (n, pixels, pixels) uint8 of intensities (n, M, M), 1 in the empty field.

    Stray light, shading, integration over the pixel with motion along x, noise of photons, sensor
    and what neighbouring pixels share, 8 bit. Crop i depends on intensity i and seeds[i] alone.
    """
    profile, pixels, n = optics.instrument, optics.pixels, len(seeds)
    shape = (pixels, pixels)
    scalars, white, shared = np.empty((n, 5)), np.empty((n, *shape), "f4"), np.empty((n, *shape))
    for i, rng in enumerate(optics.random(seeds, STREAM)):
        scalars[i] = rng.random(5)
        white[i] = rng.standard_normal(shape, dtype=np.float32)
        shared[i] = rng.standard_normal(shape, dtype=np.float32)
    level, stray, slope_x, slope_y, motion = scalars.T[:, :, None, None]
    crop = _integrate(intensity, motion * profile.motion_um, optics)
    stray = profile.stray[0] + stray * (profile.stray[1] - profile.stray[0])
    across = np.linspace(-1, 1, pixels)
    shading = 1 + profile.shading * ((slope_x - 0.5) * across + (slope_y - 0.5) * across[:, None])
    background = profile.background + profile.background_sd * np.sqrt(12) * (level - 0.5)
    grey = background * shading * ((1 - stray) * crop + stray)
    shot = np.sqrt(profile.shot**2 * grey / profile.background + profile.read**2)
    grey += (shot * white + profile.mottle * _share(shared)) / optics.binning
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _integrate(intensity: Array, motion_um: Array, optics: Optics) -> Array:
    """Return the mean over each pixel's area and the path moved, without the grid's border.

    A box of width w has variance w^2 / 12, and so has a three-tap filter whose outer taps are
    w^2 / 24 steps.
    """
    over = optics.oversampling
    step = optics.um_per_px / over
    side = 1 / 24 + (motion_um / step) ** 2 / 24
    side = np.minimum(side, 1 / 3)
    rows = intensity[:, 1:-1] + (
        intensity[:, :-2] + intensity[:, 2:] - 2 * intensity[:, 1:-1]
    ) * np.float32(1 / 24)
    grid = rows[:, :, 1:-1] + (rows[..., :-2] + rows[..., 2:] - 2 * rows[..., 1:-1]) * side
    extra = over - 1
    grid = grid[:, extra : grid.shape[1] - extra, extra : grid.shape[2] - extra]
    n, pixels = len(grid), optics.pixels
    return grid.reshape(n, pixels, over, pixels, over).mean((2, 4)) if over > 1 else grid


def _share(noise: Array) -> Array:
    """Return white noise blurred by the binomial filter (1, 2, 1) / 4, with unit variance."""
    for axis in (1, 2):
        noise = 2 * noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return noise / 6
