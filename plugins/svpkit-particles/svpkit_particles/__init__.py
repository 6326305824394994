"""Particle types for the simulator of svpkit: glass, fibres, rubber and latex beads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svpkit import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__version__ = "0.1.0"


class Glass:
    """Glass flakes: plates and thin lamellae with straight edges, tilted; index 1.48 to 1.53."""

    def draw(self, seeds: NDArray[Any], optics: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit_particles import draw

        return draw.glass(seeds, optics)


class Fibre:
    """Fibres 1.5 to 6 um thick, most of them longer than the crop; index 1.47 to 1.53."""

    def draw(self, seeds: NDArray[Any], optics: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit_particles import draw

        return draw.fibre(seeds, optics)


class Rubber:
    """Rubber: compact opaque chunks with a rough edge."""

    def draw(self, seeds: NDArray[Any], optics: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit_particles import draw

        return draw.rubber(seeds, optics)


class Latex:
    """Polystyrene beads of 2, 5 and 10 um, 1 % of spread: calibration standards."""

    def draw(self, seeds: NDArray[Any], optics: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit_particles import draw

        return draw.latex(seeds, optics)


@hookimpl
def register_particle_types(register: Callable[[str, Any], None]) -> None:
    """Register the four types."""
    register("glass", Glass())
    register("fibre", Fibre())
    register("rubber", Rubber())
    register("latex", Latex())
