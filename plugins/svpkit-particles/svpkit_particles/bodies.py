"""The shapes: each body says between which heights it lies over a point of the plane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Body(Protocol):
    """A solid that a line along the light enters once; lengths in um, z along the light."""

    @property
    def index(self) -> complex:
        """Refractive index; the imaginary part absorbs."""
        ...

    def surfaces(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the heights where the light enters and leaves; enters >= leaves: beside it."""
        ...


@dataclass(frozen=True)
class Polyhedron:
    """A convex solid: the points r with normals (F, 3) . r <= offsets (F,)."""

    index: complex
    normals: Array
    offsets: Array

    def surfaces(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the lowest and highest height inside every face."""
        low, high = np.full_like(x, -np.inf), np.full_like(x, np.inf)
        for (a, b, c), offset in zip(self.normals, self.offsets, strict=True):
            c = c if abs(c) > 1e-3 else 1e-3  # no wall stands exactly along the light
            height = (offset - a * x - b * y) / c
            if c > 0:
                np.minimum(high, height, out=high)
            else:
                np.maximum(low, height, out=low)
        return low, high


@dataclass(frozen=True)
class Arc:
    """A fibre: a bent, wavy cylinder along an arc of a circle, with round ends.

    It passes through (x, y, 0), where the crop looks at it, `seen` from its middle along its
    length, in direction `turn`. `flatness` is its thickness along the light over its width.
    """

    index: complex
    radius: float
    length: float
    seen: float
    bend: float  # radius of curvature of the middle line, the sign says to which side
    turn: float
    x: float
    y: float
    slope: float  # rise along the light for each um of length
    wave: tuple[float, float, float]  # amplitude (um), wave number (rad/um) and phase
    flatness: float

    @property
    def middle(self) -> tuple[float, float]:
        """Where the middle of its length lies (x, y), the wave left out."""
        angle = self.turn - np.pi / 2 - self.seen / self.bend
        centre_x, centre_y = self._centre
        return centre_x + self.bend * np.cos(angle), centre_y + self.bend * np.sin(angle)

    @property
    def shadow(self) -> float:
        """Projected area of the whole fibre, um^2; the round ends counted as half discs."""
        straight = self.length - 2 * self.radius
        return 2 * self.radius * straight + np.pi * self.radius**2

    @property
    def _centre(self) -> tuple[float, float]:
        """Centre of the circle."""
        return (
            self.x - self.bend * np.sin(self.turn),
            self.y + self.bend * np.cos(self.turn),
        )

    def along(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return position along the fibre from its middle, and distance beside its axis, um."""
        centre_x, centre_y = self._centre
        across, up = x - centre_x, y - centre_y
        cos, sin = np.cos(self.turn - np.pi / 2), np.sin(self.turn - np.pi / 2)
        sign = np.sign(self.bend)
        angle = np.arctan2(sign * (up * cos - across * sin), sign * (across * cos + up * sin))
        length = self.seen + self.bend * angle
        height, number, phase = self.wave
        beside = np.abs(self.bend) - np.hypot(across, up)
        return length, beside - height * np.sin(number * length + phase)

    def surfaces(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the two sides of the cylinder, and nothing beyond its ends."""
        length, beside = self.along(x, y)
        beyond = np.maximum(np.abs(length) - (self.length / 2 - self.radius), 0)
        inside = self.radius**2 - beside**2 - beyond**2
        half = self.flatness * np.sqrt(np.maximum(inside, 0)) * np.hypot(1, self.slope)
        axis = self.slope * (length - self.seen)
        return axis - half, axis + half


@dataclass(frozen=True)
class Chunk:
    """A compact body around the origin, its outline a rough ellipse.

    The outline's radius is that of an ellipse times 1 + sum_k a_k cos(k angle) + b_k sin(k angle),
    k from 2; inside, the half thickness is that of a rounded block.
    """

    index: complex
    radius: float
    stretch: float  # length over width
    turn: float
    height: float  # half thickness in the middle
    roughness: Array  # a_k and b_k, (2, count)

    @cached_property
    def _outline(self) -> tuple[Array, Array]:
        """Angles, and what the outline has there beyond 1."""
        table = np.linspace(-np.pi, np.pi, 361)
        turns = np.arange(2, 2 + self.roughness.shape[1])[:, None] * table
        return table, self.roughness[0] @ np.cos(turns) + self.roughness[1] @ np.sin(turns)

    def surfaces(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the lower and the upper side."""
        turned = (x + 1j * y) * np.exp(-1j * self.turn)
        root = np.sqrt(self.stretch)
        plane = turned.real / root + 1j * turned.imag * root
        angle = np.angle(plane)
        table, outline = self._outline
        edge = self.radius * np.maximum(1 + np.interp(angle, table, outline), 0.3)
        share = (plane.real**2 + plane.imag**2) / edge**2
        half = self.height * np.sqrt(np.sqrt(np.maximum(1 - share**2, 0)))
        return -half, half
