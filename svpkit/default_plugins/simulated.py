"""The simulated data set: its reader and the three particle types that ship with svpkit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from svpkit.errors import SvpkitError, unknown
from svpkit.hookspecs import Register, hookimpl, tried

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from svpkit.simulate.optics import Optics

TRUTH: dict[str, Any] = {
    "ecd_um": float("nan"),
    "subtype": "",
    "radius_um": float("nan"),
    "focus_um": float("nan"),
    "refractive_index": float("nan"),
    "x_um": float("nan"),
    "y_um": float("nan"),
}
BATCH = 128  # particles drawn together by one thread


class Protein:
    """Protein aggregates, in and out of focus."""

    def draw(self, seeds: NDArray[Any], optics: Optics) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit.simulate import objects

        return objects.protein(seeds, optics)


class SiliconeOil:
    """Silicone oil droplets: single, in pairs, on aggregates."""

    def draw(self, seeds: NDArray[Any], optics: Optics) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit.simulate import objects

        return objects.silicone_oil(seeds, optics)


class AirBubble:
    """Air bubbles: small whole ones, and crops of large ones."""

    def draw(self, seeds: NDArray[Any], optics: Optics) -> tuple[Any, list[dict[str, Any]]]:
        """Return intensities (n, M, M) and truths."""
        from svpkit.simulate import objects

        return objects.air_bubble(seeds, optics)


@tried(
    options={"protein": 2, "air_bubble": 3, "pixels": 32, "binning": 2},
    example=lambda folder: folder,
    spared=dict.fromkeys(("sniff", "nothing_there"), "particles are drawn: it reads no files"),
)
class SimulatedReader:
    """Particles drawn by physics instead of read: every image with its truth."""

    def read(
        self,
        path: object = None,
        *,
        particle_types: Mapping[str, Any],
        instrument: Annotated[
            Literal["mfi-like", "flowcam-like"], "profile of optics, camera and crop"
        ] = "mfi-like",
        pixels: Annotated[int, Ge(8), Le(256), "side of the crops, after binning"] = 64,
        binning: Annotated[int, Ge(1), Le(8), "sensor pixels joined, a side"] = 1,
        seed: Annotated[int, Ge(0), "another seed, other particles"] = 0,
        start: Annotated[int, Ge(0), "number of the first particle of each class"] = 0,
        **counts: int,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield images uint8 (pixels, pixels) and rows, class after class.

        `path` is not used. `counts` says how many of each particle type, numbered from `start`;
        image i of a class is a function of (instrument, pixels, binning, seed, class, i) alone.
        `binning` joins sensor pixels: 2 with half the pixels shows the same field. Raises
        SvpkitError for an unknown instrument or type, and for counts below 0.
        """
        optics = _optics(instrument, pixels, binning)
        for name, value in {"seed": seed, "start": start, **counts}.items():
            if value < 0:
                raise SvpkitError(f"simulated.{name}: must be 0 or more, not {value}")
        for name in counts:
            if name not in particle_types:
                raise unknown(f"simulated.{name}: particle type", name, particle_types)
        return self._rows(optics, particle_types, seed, start, counts)

    def sniff(self, path: object) -> bool:
        """Return False: there is no file to know."""
        return False

    def _rows(
        self,
        optics: Optics,
        particle_types: Mapping[str, Any],
        seed: int,
        start: int,
        counts: Mapping[str, int],
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        for name, count in counts.items():
            index = start
            for crops, truths in _crops(particle_types[name], name, seed, start, count, optics):
                for crop, truth in zip(crops, truths, strict=True):
                    yield crop, _row(name, index, seed, truth, optics)
                    index += 1


def _optics(instrument: str, pixels: int, binning: int) -> Optics:
    """Return the optics, or say what is wrong with the options."""
    from svpkit.simulate.instruments import INSTRUMENTS
    from svpkit.simulate.optics import Optics

    if instrument not in INSTRUMENTS:
        raise unknown("simulated.instrument", instrument, INSTRUMENTS)
    for name, value, most in (("pixels", pixels, 256), ("binning", binning, 8)):
        if not 1 <= value <= most:
            raise SvpkitError(f"simulated.{name}: must be 1 to {most}, not {value}")
    return Optics(INSTRUMENTS[instrument], pixels, binning)


def _crops(
    kind: Any, name: str, seed: int, start: int, count: int, optics: Optics
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Yield batches of crops and truths, drawn by as many threads as there are processors."""
    import os
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from threadpoolctl import threadpool_limits

    from svpkit.simulate.camera import expose

    def draw(first: int) -> tuple[Any, list[dict[str, Any]]]:
        index = np.arange(first, min(first + BATCH, start + count), dtype=np.uint64)
        seeds = _stem(name, seed) + index
        intensity, truths = kind.draw(seeds, optics)
        return expose(intensity, seeds, optics), truths

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    one_each = threadpool_limits(1, user_api="blas")  # else every thread would ask for them all
    with one_each, ThreadPoolExecutor(workers) as pool:
        waiting: deque[Any] = deque()
        for first in range(start, start + count, BATCH):
            waiting.append(pool.submit(draw, first))
            if len(waiting) > 2 * (workers or 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _stem(name: str, seed: int) -> Any:
    """Return the seed's upper 32 bits: the run and the class; the lower 32 number the particle."""
    import hashlib

    import numpy as np

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:4], "big") << 32)


def _row(
    name: str, index: int, seed: int, truth: Mapping[str, Any], optics: Optics
) -> dict[str, Any]:
    """Return the table's row of one particle, with the same columns for every type."""
    own = f"{name}-{index:06d}-s{seed}"
    group = f"{name}-{truth['group']}-s{seed}" if truth.get("group") else own
    row = {
        "id": own,
        "label": name,
        "group": group,
        "source": f"simulated:{optics.instrument.name}",
        "um_per_px": optics.um_per_px,
        "origin": "simulated",
        "seed": seed,
    }
    extra = set(truth) - set(TRUTH) - {"group"}
    if extra:
        raise unknown(f"particle type {name}: truth", min(extra), TRUTH)
    return row | TRUTH | {key: value for key, value in truth.items() if key != "group"}


@hookimpl
def register_readers(register: Register) -> None:
    """Register the simulator as a reader."""
    register("simulated", SimulatedReader())


@hookimpl
def register_particle_types(register: Register) -> None:
    """Register what ships with svpkit."""
    register("protein", Protein())
    register("silicone_oil", SiliconeOil())
    register("air_bubble", AirBubble())
