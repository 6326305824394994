"""The particles: what each class draws, from seeds to intensities and rows of truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svpkit.simulate import aggregates, scatter
from svpkit.simulate.optics import Optics

Array = NDArray[Any]
Rows = list[dict[str, Any]]

CROPS = 16  # neighbouring seeds that look at the same large bubble, when they draw a large one
BUBBLE = 1  # random stream of what the crops of one bubble share
SHAPE = 2  # random stream of an aggregate's shape

# Planes of focus: share, mean and sd in um.
PROTEIN_UM = ((0.45, 12.0, 10.0), (0.55, 0.0, 6.0))  # some deep in the cell, most in its middle
OIL_UM = ((0.3, -7.0, 3.0), (0.7, 20.0, 8.0))  # before the droplet, and behind it


def protein(seeds: Array, optics: Optics) -> tuple[Array, Rows]:
    """Draw protein aggregates: fractal clusters, and films and fibrils."""
    rngs = optics.random(seeds)
    shape = aggregates.draw(optics.random(seeds, SHAPE), optics)
    focus, at, aberration = optics.placement(rngs, *PROTEIN_UM)
    intensity = optics.image(shape.spectra, focus, at, aberration)
    truth = [
        {
            "subtype": shape.subtype[i],
            "radius_um": shape.ecd_um[i] / 2,
            "ecd_um": shape.ecd_um[i],
            "refractive_index": optics.instrument.medium_index + shape.contrast[i],
            "focus_um": focus[i],
            "x_um": at[i, 0],
            "y_um": at[i, 1],
        }
        for i in range(len(seeds))
    ]
    return intensity, truth


def silicone_oil(seeds: Array, optics: Optics) -> tuple[Array, Rows]:
    """Draw silicone oil droplets: single, in pairs (8 %), or on a protein aggregate (5 %)."""
    rngs = optics.random(seeds)
    radius = np.clip([rng.lognormal(np.log(1.6), 0.4) for rng in rngs], 0.5, 6.0)
    index = np.array([rng.uniform(1.39, 1.41) for rng in rngs])
    focus, at, aberration = optics.placement(rngs, *OIL_UM)
    kinds = np.array([rng.random() for rng in rngs])
    subtype = np.select([kinds < 0.08, kinds < 0.13], ["pair", "on_aggregate"], "single")
    spectra = optics.spheres(radius, index)
    ecd = 2 * radius
    for name, add in (("pair", _partner), ("on_aggregate", _carrier)):
        chosen = np.flatnonzero(subtype == name)
        if len(chosen):
            extra, area = add([rngs[i] for i in chosen], radius[chosen], index[chosen], optics)
            spectra[chosen] += extra
            ecd[chosen] = 2 * np.sqrt(radius[chosen] ** 2 + area / np.pi)
    intensity = optics.image(spectra, focus, at, aberration)
    return intensity, _sphere_rows(subtype, radius, ecd, index, focus, at)


def air_bubble(seeds: Array, optics: Optics) -> tuple[Array, Rows]:
    """Draw air bubbles: small whole ones, and (36 %) crops of ones larger than the crop.

    The large ones among `CROPS` seeds that follow each other are crops of one bubble, and share
    the row's `group`.
    """
    n = len(seeds)
    rngs = optics.random(seeds)
    large = np.array([rng.random() < 0.36 for rng in rngs])
    intensity = np.empty((n, optics.size, optics.size), np.float32)
    rows: Rows = [{}] * n
    for chosen, draw in ((~large, _small_bubbles), (large, _large_bubbles)):
        places = np.flatnonzero(chosen)
        if len(places):
            own = [rngs[i] for i in places]
            intensity[places], truths = draw(own, seeds[places], optics)
            for place, truth in zip(places, truths, strict=True):
                rows[place] = truth
    return intensity, rows


def _small_bubbles(
    rngs: list[np.random.Generator], seeds: Array, optics: Optics
) -> tuple[Array, Rows]:
    """Draw whole bubbles: most afloat at one depth, some (15 %) still in the stream, any depth."""
    profile = optics.instrument
    draws = np.array([(rng.random(), *rng.standard_normal(2)) for rng in rngs])
    stream = draws[:, 0] < 0.15
    radius = np.where(stream, 1.4, 2.0) * np.exp(np.where(stream, 0.3, 0.15) * draws[:, 1])
    radius = np.clip(radius, 0.5, 5.0)
    spread = np.where(stream, 12, 4) * profile.focus_spread
    focus = np.clip(np.where(stream, 12, 32) + spread * draws[:, 2], -20, 50) + profile.focus_um
    _, at, aberration = optics.placement(rngs)
    index = np.ones(len(rngs))
    intensity = optics.image(optics.spheres(radius, index), focus, at, aberration)
    subtype = np.where(stream, "in_stream", "small")
    return intensity, _sphere_rows(subtype, radius, 2 * radius, index, focus, at)


def _large_bubbles(
    rngs: list[np.random.Generator], seeds: Array, optics: Optics
) -> tuple[Array, Rows]:
    """Draw crops of large bubbles, each bubble imaged once."""
    block = np.uint64(CROPS)
    shared = seeds // block
    intensity = np.empty((len(rngs), optics.size, optics.size), np.float32)
    rows: Rows = [{}] * len(rngs)
    for bubble in np.unique(shared):
        parent = optics.random([bubble], BUBBLE)[0]
        radius = parent.uniform(10, 60)
        focus = parent.normal(30, 5) + optics.instrument.focus_um
        far, light = scatter.sphere_profile(optics.instrument, radius, 1.0, focus)
        for i in np.flatnonzero(shared == bubble):
            x, y = _view(rngs[i], radius)
            distance = np.hypot(optics.axis + x, optics.axis[:, None] + y)
            intensity[i] = np.interp(distance, far, light, right=1.0)
            truth = (["large"], [radius], [2 * radius], [1.0], [focus], np.array([[-x, -y]]))
            rows[i] = _sphere_rows(*truth)[0]
            rows[i]["group"] = f"{int(bubble) % 2**28:06d}"
    return intensity, rows


def _view(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """Return where a crop lies from the bubble's centre: half anywhere on it, half at its rim."""
    anywhere = rng.random() < 0.5
    far = radius * np.sqrt(rng.random()) if anywhere else radius + rng.uniform(-5, 4)
    angle = rng.uniform(0, 2 * np.pi)
    return far * np.cos(angle), far * np.sin(angle)


def _sphere_rows(subtype: Any, radius: Any, ecd: Any, index: Any, focus: Any, at: Array) -> Rows:
    """Return the rows of truth of spheres."""
    names = ("subtype", "radius_um", "ecd_um", "refractive_index", "focus_um", "x_um", "y_um")
    columns = zip(subtype, radius, ecd, index, focus, at[:, 0], at[:, 1], strict=True)
    return [
        dict(zip(names, [str(kind), *map(float, rest)], strict=True)) for kind, *rest in columns
    ]


def _partner(
    rngs: list[np.random.Generator], radius: Array, index: Array, optics: Optics
) -> tuple[Array, Array]:
    """Return what the second droplet of a pair scatters, and its area."""
    gap = radius * np.array([rng.uniform(2, 3) for rng in rngs])
    turn = np.array([rng.uniform(0, 2 * np.pi) for rng in rngs])
    share = np.array([rng.uniform(0.6, 1.0) for rng in rngs])
    at = np.stack([gap * np.cos(turn), gap * np.sin(turn), 0 * gap], 1)
    return optics.spheres(share * radius, index, at), np.pi * (share * radius) ** 2


def _carrier(
    rngs: list[np.random.Generator], radius: Array, index: Array, optics: Optics
) -> tuple[Array, Array]:
    """Return what the aggregate under a droplet scatters, and its area."""
    shape = aggregates.draw(rngs, optics)
    return shape.spectra, np.pi / 4 * shape.ecd_um**2
