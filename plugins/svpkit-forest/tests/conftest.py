"""Fixtures of toy particles."""

import os

# before scikit-learn is loaded: sums are equal to the bit on one thread only
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from forest_toys import CLASSES, particles
from svpkit import ImageSpec


@pytest.fixture(scope="session")
def spec():
    return ImageSpec(1, 16, CLASSES)


@pytest.fixture(scope="session")
def train():
    return particles({"disc": 120, "ring": 40, "bar": 40})


@pytest.fixture(scope="session")
def fresh():
    return particles({"disc": 50, "ring": 50, "bar": 50}, seed=1)
