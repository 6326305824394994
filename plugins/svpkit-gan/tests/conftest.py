"""Toy particles, a recipe of them, and one thread, on which sums are equal to the bit."""

import contextlib
import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser):
    # the tests of svpkit itself have the same option
    with contextlib.suppress(ValueError):
        parser.addoption("--slow", action="store_true", help="run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow", default=False):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="run with --slow"))


RECIPE = """
name = "toy"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 30, ring = 30, bar = 30 }
test = { reader = "folder", path = "test" }
[generator]
plugin = "gan"
classes = ["ring", "bar"]
per_class = false
options = { width = 8, latent = 8 }
train = { images = 320, batch = 16, lr = 2e-3, ema = 0.9 }
[balance]
strategies = ["synthetic"]
[balance.synthetic]
to = "largest"
at_most = 30
gates = { background_shift_sd = 99 }
[classifier]
options = { model = "resnet10t", width = 16, stem = "half", norm = "group" }
train = { images = 320, batch = 32, lr = 2e-3, validations = 1 }
[fidelity]
plugin = "blocks"
[evaluate]
replicates = 100
"""

# Features that need no training: the means of 4 x 4 blocks, and their spread.
BLOCKS = '''
"""An extractor that has learnt nothing."""
from svpkit import hookimpl

@hookimpl
def register_extractors(register):
    register("blocks", blocks)

def blocks(spec):
    import torch
    from torch.nn.functional import avg_pool2d

    class Blocks(torch.nn.Module):
        def features(self, images):
            means = avg_pool2d(images, 4).flatten(1)
            return torch.cat([means, (avg_pool2d(images**2, 4).flatten(1) - means**2)], 1)

    return Blocks()
'''


@pytest.fixture
def place(tmp_path):
    """A folder with toy particles `toy.toml` and `blocks.py`, which its fidelity needs."""
    from svpkit import ImageSpec
    from svpkit.testing import toys

    classes = ("disc", "ring", "bar")
    sets = {
        "data": dict(zip(classes, (90, 60, 60), strict=True)),
        "test": dict.fromkeys(classes, 30),
    }
    for seed, (name, counts) in enumerate(sets.items()):
        found = toys.particles(counts, seed, ImageSpec(1, 16, classes))
        toys.write(tmp_path / name, found)
    (tmp_path / "toy.toml").write_text(RECIPE)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    return tmp_path
