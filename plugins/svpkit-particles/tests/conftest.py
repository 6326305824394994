"""The optics that a particle type is given, caught by a type that draws nothing."""

import numpy as np
import pytest
from svpkit.plugins import discover

INSTRUMENTS = ("mfi-like", "flowcam-like")


class Probe:
    def draw(self, seeds, optics):
        self.optics = optics
        return np.ones((len(seeds), optics.size, optics.size), np.float32), [{} for _ in seeds]


def make_optics(instrument, pixels=64, binning=1):
    probe = Probe()
    reader = discover(builtin_only=True).get("reader", "simulated").thing
    options = {"instrument": instrument, "pixels": pixels, "binning": binning}
    list(reader.read(None, particle_types={"probe": probe}, probe=1, **options))
    return probe.optics


@pytest.fixture(scope="session", params=INSTRUMENTS)
def optics(request):
    return make_optics(request.param, 32, 2)


@pytest.fixture(scope="session")
def fine():
    return make_optics("mfi-like")


@pytest.fixture(scope="session")
def wide():
    return make_optics("mfi-like", 192)


@pytest.fixture(scope="session")
def tiny():
    return make_optics("mfi-like", 8)
