"""The four particle types: from seeds to intensities and rows of truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svpkit_particles.bodies import Arc, Chunk, Polyhedron
from svpkit_particles.light import scatter

Array = NDArray[Any]
Rows = list[dict[str, Any]]
Random = np.random.Generator

BEADS_UM = (2.0, 5.0, 10.0)  # nominal diameters of the latex beads
BEAD_SPREAD = 0.01  # sd over mean of a calibration standard
OPAQUE = (1.0, 3.0)  # absorption of filled rubber, 1/um of intensity


def glass(seeds: Array, optics: Any) -> tuple[Array, Rows]:
    """Draw glass: plates (0.5 to 2.5 um thick) and lamellae (0.15 to 0.5 um)."""
    rngs = optics.random(seeds)
    lamella = [rng.random() < 0.4 for rng in rngs]
    bodies = [flake(rng, thin) for rng, thin in zip(rngs, lamella, strict=True)]
    spectra, shadow = scatter(bodies, optics)
    focus, at, aberration = optics.placement(rngs, (0.65, 0, 6), (0.35, 14, 9))
    subtype = np.where(lamella, "lamella", "plate")
    ecd = 2 * np.sqrt(shadow / np.pi)
    index = [body.index.real for body in bodies]
    truth = _rows(subtype, ecd / 2, ecd, index, focus, at)
    return optics.image(spectra, focus, at, aberration), truth


def fibre(seeds: Array, optics: Any) -> tuple[Array, Rows]:
    """Draw fibres: round ones, and flattened ones such as of cellulose."""
    rngs = optics.random(seeds)
    flat = [rng.random() < 0.5 for rng in rngs]
    shapes = [_fibre_shape(rng, ribbon) for rng, ribbon in zip(rngs, flat, strict=True)]
    focus, at, aberration = optics.placement(rngs, (0.7, 0, 6), (0.3, 12, 10))
    bodies = [Arc(x=x, y=y, **shape) for shape, (x, y) in zip(shapes, at, strict=True)]
    spectra, _ = scatter(bodies, optics)
    subtype = np.where(flat, "ribbon", "round")
    radius = np.array([body.radius for body in bodies])
    ecd = 2 * np.sqrt(np.array([body.shadow for body in bodies]) / np.pi)
    index = [body.index.real for body in bodies]
    middle = np.array([body.middle for body in bodies])
    truth = _rows(subtype, radius, ecd, index, focus, middle)
    return optics.image(spectra, focus, None, aberration), truth


def rubber(seeds: Array, optics: Any) -> tuple[Array, Rows]:
    """Draw rubber: compact chunks that let next to no light through."""
    rngs = optics.random(seeds)
    bodies = [chunk(rng, optics.instrument.wavelength_um) for rng in rngs]
    spectra, shadow = scatter(bodies, optics)
    focus, at, aberration = optics.placement(rngs, (0.8, 0, 5), (0.2, 8, 6))
    ecd = 2 * np.sqrt(shadow / np.pi)
    index = [body.index.real for body in bodies]
    truth = _rows(["chunk"] * len(rngs), ecd / 2, ecd, index, focus, at)
    return optics.image(spectra, focus, at, aberration), truth


def latex(seeds: Array, optics: Any) -> tuple[Array, Rows]:
    """Draw polystyrene beads of the nominal diameters, exact Lorenz-Mie spheres."""
    rngs = optics.random(seeds)
    nominal = np.array([BEADS_UM[rng.integers(len(BEADS_UM))] for rng in rngs])
    radius = nominal / 2 * (1 + BEAD_SPREAD * np.array([rng.standard_normal() for rng in rngs]))
    index = np.full(len(rngs), polystyrene(optics.instrument.wavelength_um))
    focus, at, aberration = optics.placement(rngs, (0.4, -6, 5), (0.6, 12, 9))
    subtype = [f"{size:g}um" for size in nominal]
    truth = _rows(subtype, radius, 2 * radius, index, focus, at)
    return optics.image(optics.spheres(radius, index), focus, at, aberration), truth


def polystyrene(wavelength_um: float) -> float:
    """Return the index of polystyrene at 0.44 to 1.05 um: 1.592 at 0.588 um, 1.609 at 0.47 um.

    One-term Sellmeier formula of the measurements by Sultanova, Kasarova and Nikolov (2009), Acta
    Phys. Pol. A 116, 585.
    """
    square = wavelength_um**2
    return float(np.sqrt(1 + 1.4435 * square / (square - 0.020216)))


def flake(rng: Random, thin: bool) -> Polyhedron:
    """Return a glass flake: a convex polygon of 3 to 7 sides, slanted walls, tilted to 65 deg."""
    sides = int(rng.integers(3, 8))
    jitter = 0.15 if sides == 3 else 0.25
    angle = 2 * np.pi / sides * (np.arange(sides) + rng.uniform(-jitter, jitter, sides))
    scale = float(np.clip(rng.lognormal(np.log(2.4), 0.4), 1.0, 5.0))
    out = scale * rng.uniform(0.6, 1.0, sides)
    stretch = np.sqrt(2.5 ** rng.random())
    thick = rng.uniform(0.15, 0.5) if thin else rng.uniform(0.5, 2.5)
    slant = rng.uniform(-0.3, 0.3, sides)  # broken walls do not stand upright
    walls = np.stack([np.cos(angle) / stretch, np.sin(angle) * stretch, slant], 1)
    lids = np.array([[0, 0, 1.0], [0, 0, -1.0]])
    normals = np.concatenate([walls, lids]) @ _turned(
        rng.uniform(0, np.radians(65)), rng.uniform(0, 2 * np.pi)
    )
    return Polyhedron(
        complex(rng.uniform(1.48, 1.53)), normals, np.array([*out, thick / 2, thick / 2])
    )


def _turned(tilt: float, turn: float) -> Array:
    """Return the matrix that tilts row vectors around x, then turns them around z."""
    c, s = np.cos(tilt), np.sin(tilt)
    d, t = np.cos(turn), np.sin(turn)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]]) @ np.array(
        [[d, t, 0], [-t, d, 0], [0, 0, 1]]
    )


def _fibre_shape(rng: Random, ribbon: bool) -> dict[str, Any]:
    """Return what makes a fibre, but for its place."""
    radius = 0.75 * 4 ** rng.random()
    length = 20 * 10 ** rng.random()
    bend = max(10 * 15 ** rng.random(), length / 3) * (1 if rng.random() < 0.5 else -1)
    return {
        "index": complex(rng.uniform(1.50, 1.53) if ribbon else rng.uniform(1.47, 1.53)),
        "radius": radius,
        "length": length,
        "seen": length * (rng.random() - 0.5),
        "bend": bend,
        "turn": rng.uniform(0, 2 * np.pi),
        "slope": float(np.clip(rng.normal(0, 0.12), -0.3, 0.3)),
        "wave": (
            0.5 * radius * rng.random(),
            2 * np.pi / rng.uniform(15, 40),
            rng.uniform(0, 2 * np.pi),
        ),
        "flatness": rng.uniform(0.3, 0.7) if ribbon else 1.0,
    }


def chunk(rng: Random, wavelength_um: float) -> Chunk:
    """Return a piece of filled rubber; its absorption at the wavelength of the light."""
    radius = float(np.clip(rng.lognormal(np.log(3.0), 0.35), 1.6, 6.5))
    orders = np.arange(2, 26)
    roughness = 0.09 * rng.standard_normal((2, len(orders))) * (orders / 2.0) ** -1.0
    absorption = rng.uniform(*OPAQUE) * wavelength_um / (4 * np.pi)
    return Chunk(
        index=complex(rng.uniform(1.51, 1.53), absorption),
        radius=radius,
        stretch=1.7 ** rng.random(),
        turn=rng.uniform(0, np.pi),
        height=radius * rng.uniform(0.6, 1.0),
        roughness=roughness,
    )


def _rows(subtype: Any, radius: Any, ecd: Any, index: Any, focus: Any, at: Array) -> Rows:
    """Return the rows of truth."""
    names = ("subtype", "radius_um", "ecd_um", "refractive_index", "focus_um", "x_um", "y_um")
    columns = zip(subtype, radius, ecd, index, focus, at[:, 0], at[:, 1], strict=True)
    return [
        dict(zip(names, [str(kind), *map(float, rest)], strict=True)) for kind, *rest in columns
    ]
