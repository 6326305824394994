"""The oracle: fresh particles from the simulator, what a perfect generator of these data gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from svpkit.errors import SvpkitError, unknown
from svpkit.hookspecs import ImageSpec, Register, hookimpl, tried

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from svpkit.particles.particleset import ParticleSet
    from svpkit.simulate.optics import Optics


class Oracle:
    """Particles of the simulator that no data set holds; learns nothing from the images.

    `kinds` are the particle types in label order. Their simulator seed is a digest of ("oracle",
    seed), so that no body is one of the data's, whatever seed those have: particle i of a seed is
    the same body under every profile.
    """

    oracle = True
    """Marks what it draws as no method's achievement: a reference, kept out of every election."""

    def __init__(
        self, kinds: Mapping[str, Any], channels: int, optics: Optics, seed: int = 0
    ) -> None:
        self.kinds, self.channels, self.optics, self.seed = dict(kinds), channels, optics, seed

    def fit(self, particles: ParticleSet, seed: int) -> None:
        """Look at nothing: the simulator knows it all."""

    def sample(self, labels: Tensor, seeds: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1]; image i depends on labels[i], seeds[i] alone."""
        import numpy as np
        import torch

        from svpkit import draws
        from svpkit.fit import to_float
        from svpkit.simulate.camera import expose

        # the lower 32 bits number the particle, the upper ones are the class's
        index = draws.integers(seeds.cpu(), (), 2**32, "oracle").numpy().astype(np.uint64)
        crops = np.empty((len(index), self.optics.pixels, self.optics.pixels), np.uint8)
        for k, (name, kind) in enumerate(self.kinds.items()):
            mine = np.flatnonzero(labels.cpu().numpy() == k)
            if len(mine):
                own = _first(name, self.seed) + index[mine]
                crops[mine] = expose(kind.draw(own, self.optics)[0], own, self.optics)
        images = torch.from_numpy(crops)[:, None].repeat(1, self.channels, 1, 1)
        return to_float(images)

    def state(self) -> dict[str, np.ndarray]:
        """Return `oracle` (1: these are no learned weights) and `seed`, int64 ()."""
        import numpy as np

        return {"oracle": np.array(1), "seed": np.array(self.seed)}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned."""
        self.seed = int(arrays["seed"])


@tried(
    options={"binning": 4},
    spared=dict.fromkeys(("learns", "labels"), "it draws the simulator's particles, not the toys"),
)
def simulated(
    spec: ImageSpec,
    *,
    particle_types: Mapping[str, Any],
    instrument: Annotated[
        Literal["mfi-like", "flowcam-like"], "profile of optics, camera and crop: the data's own"
    ] = "mfi-like",
    binning: Annotated[int, Ge(1), Le(8), "sensor pixels joined, a side: as for the data"] = 1,
    seed: Annotated[int, Ge(0), "another seed, other particles; never those of a data set"] = 0,
) -> Oracle:
    """Draw fresh simulated particles: the oracle of a trial on simulated data, no method."""
    from svpkit.simulate.instruments import INSTRUMENTS
    from svpkit.simulate.optics import Optics

    for name in spec.classes:
        if name not in particle_types:
            raise unknown("generator.classes: particle type", name, particle_types)
    if spec.size > 256:
        raise SvpkitError(f"data.size: given {spec.size}, the simulator draws at most 256 pixels")
    kinds = {name: particle_types[name] for name in spec.classes}
    return Oracle(kinds, spec.channels, Optics(INSTRUMENTS[instrument], spec.size, binning), seed)


def simulator_seed(seed: int) -> int:
    """Return the seed of the simulator that stands for an oracle's own: 0 to 2**48 - 1."""
    return int.from_bytes(hashlib.sha256(f"oracle {seed}".encode()).digest()[:6], "big")


def _first(name: str, seed: int) -> Any:
    # as the reader `simulated` numbers the particles of a seed and class
    from svpkit.default_plugins.simulated import _stem

    return _stem(name, simulator_seed(seed))


@hookimpl
def register_generators(register: Register) -> None:
    """Register the oracle."""
    register("simulated", simulated)
