"""Fixtures of toy particles."""

import os

# before scikit-learn is loaded: sums are equal to the bit on one thread only
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from smote_toys import particles
from svpkit import ParticleSet


@pytest.fixture(scope="session")
def train():
    return particles({"disc": 120, "ring": 30, "bar": 20})


@pytest.fixture(scope="session")
def noisy(train):
    """The same under so much noise that classes are neighbours."""
    noise = np.random.default_rng(3).normal(0, 120, (len(train), 1, 16, 16))
    images = (train.images() + noise).clip(0, 255).astype(np.uint8)
    return ParticleSet.from_arrays(images, list(train.table["label"]), train.classes)
