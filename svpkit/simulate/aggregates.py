"""The shapes of protein aggregates: fractal clusters, and films and fibrils out of noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svpkit.simulate.optics import Optics

Array = NDArray[Any]
Part = tuple[Array, Array, Array]  # which of the images, thickness (n, S, W, W) um, contrast (n,)

MONOMER_UM = 0.3  # radius of what an aggregate is built of, below what the microscope resolves
MOST = 360  # monomers: a larger aggregate is built of larger ones
PREFACTOR = 1.3  # k_f of N = k_f (Rg / a)^Df
SLAB_UM = 2.0  # thickness of the slabs of a cluster: 2 grey levels rms from slabs of 0.5 um
FRACTAL = 0.5  # share of fractal clusters; the others are films and fibrils


@dataclass(frozen=True)
class Aggregates:
    """Aggregates: what they scatter (n, J, K, K), and a truth (n,) each."""

    spectra: Array
    subtype: Array
    ecd_um: Array
    contrast: Array  # refractive index above the medium's


def draw(rngs: list[np.random.Generator], optics: Optics) -> Aggregates:
    """Draw one aggregate from each generator."""
    uniform = np.array([rng.random(6) for rng in rngs])
    fractal = uniform[:, 0] < FRACTAL
    spectra, ecd, contrast = None, np.empty(len(rngs)), np.empty(len(rngs))
    for chosen, build in ((fractal, _clusters), (~fractal, _films)):
        places = np.flatnonzero(chosen)
        if not len(places):
            continue
        own = [rngs[i] for i in places]
        for part, thickness, above in build(own, uniform[places], optics):
            where = places[part]
            answer = optics.slices(_transmission(thickness, above, optics), SLAB_UM)
            if spectra is None:
                spectra = np.empty((len(rngs), *answer.shape[1:]), np.complex64)
            spectra[where], contrast[where] = answer, above
            ecd[where] = _equivalent_diameter(thickness.sum(1), optics)
    assert spectra is not None
    return Aggregates(spectra, np.where(fractal, "fractal", "film"), ecd, contrast)


def _transmission(thickness: Array, contrast: Array, optics: Optics) -> Array:
    """Return exp(i phase) of slabs (n, S, W, W) um thick."""
    wave = (2 * np.pi / optics.instrument.wavelength_um * contrast).astype(np.float32)
    phase = thickness * wave[:, None, None, None]
    transmission = np.empty(phase.shape, np.complex64)
    transmission.real, transmission.imag = np.cos(phase), np.sin(phase)
    return transmission


def _equivalent_diameter(thickness: Array, optics: Optics) -> Array:
    """Return the diameter (um) of the circle as large as the shadow thicker than 0.15 um."""
    step = optics.object_axis[1] - optics.object_axis[0]
    area = step**2 * (thickness > 0.15).sum((1, 2))
    return np.maximum(2 * np.sqrt(area / np.pi), 2 * MONOMER_UM)


def _clusters(rngs: list[np.random.Generator], uniform: Array, optics: Optics) -> Iterator[Part]:
    """Yield fractal clusters, by the number of slabs that they need: thin ones need one.

    The coarse monomers of large clusters stand for clusters that hold water: less contrast.
    """
    dimension = 1.8 + 0.6 * uniform[:, 2]
    gyration = 0.6 * (3.5 / 0.6) ** uniform[:, 3]
    size = np.maximum(MONOMER_UM, gyration * (PREFACTOR / MOST) ** (1 / dimension))
    count = np.maximum(PREFACTOR * (gyration / size) ** dimension, 3).astype(int)
    centres = size[:, None, None] * grow(rngs, count, dimension)
    live = np.arange(count.max()) < count[:, None]
    centres -= ((centres * live[..., None]).sum(1) / count[:, None])[:, None]
    volume = np.where(live, 4 / 3 * np.pi * size[:, None] ** 3, 0)
    contrast = (0.03 + 0.025 * uniform[:, 1]) * MONOMER_UM / size
    layer = np.rint(centres[..., 2] / SLAB_UM).astype(int)
    reach = np.minimum((np.abs(layer) * live).max(1), 3)
    for depth in np.unique(reach):
        part = np.flatnonzero(reach == depth)
        slab = np.clip(layer[part], -depth, depth) + depth
        place = centres[part, :, :2]
        yield (
            part,
            _splat(place, volume[part], slab, 2 * depth + 1, optics.object_axis),
            contrast[part],
        )


def grow(rngs: list[np.random.Generator], count: Array, dimension: Array) -> Array:
    """Return the centres (n, max(count), 3) of aggregates of spheres of radius 1.

    Sequential tunable aggregation: monomer m is put at the distance from the centroid of those
    before that keeps N = k_f Rg^Df, touching one of them wherever the distance allows. Clusters
    grow side by side; after its own `count` one goes on, unused. Filippov, Zurita and Rosner
    (2000), J. Colloid Interface Sci. 229, 261, equation 14.
    """
    n, most = len(rngs), int(count.max())
    directions = np.zeros((most, n, 3))
    picks = np.zeros((most, n))
    for i, rng in enumerate(rngs):
        directions[: count[i], i] = rng.standard_normal((count[i], 3))
        picks[: count[i], i] = rng.random(count[i])
    centres = np.zeros((n, most, 3))
    every = np.arange(n)
    centres[:, 1] = 2 * directions[1] / np.sqrt((directions[1] ** 2).sum(1))[:, None]
    centroid = centres[:, 1] / 2
    for k in range(2, most):
        m = k + 1
        far = m**2 / k * (m / PREFACTOR) ** (2 / dimension) - m / k
        far = np.sqrt(np.maximum(far - m * (k / PREFACTOR) ** (2 / dimension), 1.0))
        old = centres[every, (picks[k] * k).astype(int)] - centroid
        place = _touching(old, far, directions[k])
        centres[:, k] = centroid + place
        centroid = centroid + place / m
    return centres


def _touching(old: Array, far: Array, direction: Array) -> Array:
    """Return points (n, 3) at distance `far` from 0 and 2 from `old`, or as near to 2 as may be."""
    length = np.maximum(np.sqrt((old**2).sum(1)), 1e-9)
    axis = old / length[:, None]
    cosine = (far**2 + length**2 - 4) / (2 * far * length)
    cosine = np.minimum(np.maximum(cosine, -1), 1)[:, None]
    side = direction - (direction * axis).sum(1)[:, None] * axis
    side /= np.maximum(np.sqrt((side**2).sum(1)), 1e-9)[:, None]
    return far[:, None] * (cosine * axis + np.sqrt(1 - cosine**2) * side)


def _splat(centres: Array, volume: Array, slab: Array, slabs: int, axis: Array) -> Array:
    """Return volumes (n, m) at centres (n, m, 2) as thickness (n, slabs, W, W), softened."""
    side, step = len(axis), axis[1] - axis[0]
    place = np.clip((centres - axis[0]) / step, 1, side - 3)
    low = place.astype(np.intp)
    part = place - low
    base = ((np.arange(len(centres))[:, None] * slabs + slab) * side + low[..., 1]) * side + low[
        ..., 0
    ]
    flat = np.zeros(len(centres) * slabs * side * side)
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dx - part[..., 0]) * np.abs(1 - dy - part[..., 1])
            index = (base + dy * side + dx).ravel()
            flat += np.bincount(index, (volume * share).ravel(), minlength=len(flat))
    grid = (flat / step**2).astype(np.float32).reshape(-1, slabs, side, side)
    grid[..., 1:-1, :] = (grid[..., :-2, :] + 3 * grid[..., 1:-1, :] + grid[..., 2:, :]) / 5
    grid[..., 1:-1] = (grid[..., :-2] + 3 * grid[..., 1:-1] + grid[..., 2:]) / 5
    return grid


def _films(rngs: list[np.random.Generator], uniform: Array, optics: Optics) -> Iterator[Part]:
    """Yield films and fibrils, one slab each.

    Power-law noise, (k + 0.05)^-1.6 with k in cycles a grid step, through a logistic step, inside
    an ellipse 1 to 6 times as long as wide.
    """
    axis = optics.object_axis
    side = len(axis)
    white = np.stack([rng.standard_normal((side, side), dtype=np.float32) for rng in rngs])
    power = (np.hypot(np.fft.rfftfreq(side), np.fft.fftfreq(side)[:, None]) + 0.05) ** -1.6
    noise = np.fft.irfft2(np.fft.rfft2(white) * power.astype(np.float32), s=(side, side))
    noise /= noise.std((1, 2), keepdims=True)
    stretch = 6 ** uniform[:, 2] ** 2
    mean = 0.8 * (3.5 / 0.8) ** uniform[:, 3]
    turn = np.pi * uniform[:, 4]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    long = (cos * axis + sin * axis[:, None]) / np.minimum(mean * np.sqrt(stretch), 7)[
        :, None, None
    ]
    wide = (cos * axis[:, None] - sin * axis) / (mean / np.sqrt(stretch))[:, None, None]
    inside = 1 - np.sqrt(long**2 + wide**2)
    height = (0.5 + 1.5 * uniform[:, 5])[:, None, None]
    level = (6 * inside + 1.2 * noise).astype(np.float32)
    thickness = height * (1 / (1 + np.exp(-np.clip(2 * level, -30, 30))))
    yield np.arange(len(rngs)), thickness[:, None], 0.025 + 0.055 * uniform[:, 1]
