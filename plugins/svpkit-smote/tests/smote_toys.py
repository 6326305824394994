"""The kit's toy particles: discs, rings and bars of 16 x 16 pixels."""

from svpkit import ImageSpec
from svpkit.testing import toys

CLASSES = ("disc", "ring", "bar")


def particles(counts, seed=0, channels=1):
    return toys.particles(counts, seed, ImageSpec(channels, 16, CLASSES))
