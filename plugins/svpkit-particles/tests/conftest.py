"""The optics that a particle type is given, as the kit makes them."""

import pytest
from svpkit.testing import toys

INSTRUMENTS = ("mfi-like", "flowcam-like")


@pytest.fixture(scope="session", params=INSTRUMENTS)
def optics(request):
    return toys.optics(request.param)


@pytest.fixture(scope="session")
def fine():
    return toys.optics("mfi-like", 64, 1)


@pytest.fixture(scope="session")
def wide():
    return toys.optics("mfi-like", 192, 1)


@pytest.fixture(scope="session")
def tiny():
    return toys.optics("mfi-like", 8, 1)
