"""Options and fixtures that every test may use."""

import os
from pathlib import Path

import pytest

# Before torch is loaded: sums are equal to the bit on one thread only.
os.environ["OMP_NUM_THREADS"] = "1"

REPO = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")
    parser.addoption("--gpu", action="store_true", help="run the tests that need a CUDA device")


def pytest_collection_modifyitems(config, items):
    for name in ("slow", "gpu"):
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"run with --{name}")
            for item in items:
                if name in item.keywords:
                    item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images: SVPKIT_REAL_DATA, else ../shared/data beside the repository."""
    given = os.environ.get("SVPKIT_REAL_DATA")
    folder = Path(given) if given else REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: SVPKIT_REAL_DATA is {given or 'not set'}")
    return folder
