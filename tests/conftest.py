"""Options and fixtures that every test may use."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is loaded: sums are equal to the bit on one thread only.
os.environ["OMP_NUM_THREADS"] = "1"

REPO = Path(__file__).resolve().parents[1]
# Checks of the conformance kit that start processes of their own: for the packages, slow.
PROCESSES = ("-fresh_process]", "-two_processes]")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")
    parser.addoption("--gpu", action="store_true", help="run the tests that need a CUDA device")


def pytest_configure(config):
    # few examples, always the same; many more where they are asked for
    most = 500 if config.getoption("--slow") else 25
    plain = {"derandomize": True, "deadline": None, "database": None}
    settings.register_profile("svpkit", max_examples=most, **plain)
    settings.load_profile("svpkit")


def pytest_collection_modifyitems(config, items):
    for name in ("slow", "gpu"):
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"run with --{name}")
            for item in items:
                if name in item.keywords:
                    item.add_marker(skip)
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="starts other processes: run with --slow")
        for item in items:
            if "plugins" in item.path.parts and item.name.endswith(PROCESSES):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def offline():
    """No test reaches beyond this machine: other addresses than loopback are refused."""
    connect = socket.socket.connect

    def guarded(self, address):
        away = self.family in (socket.AF_INET, socket.AF_INET6)
        if away and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test wanted to reach {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images: SVPKIT_REAL_DATA, else ../shared/data beside the repository."""
    given = os.environ.get("SVPKIT_REAL_DATA")
    folder = Path(given) if given else REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: SVPKIT_REAL_DATA is {given or 'not set'}")
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a toy data set, its test set and a recipe that runs in seconds."""
    from toy import RECIPE, write_folder

    folder = tmp_path_factory.mktemp("walk")
    write_folder(folder / "data", {"disc": 140, "ring": 55, "bar": 55})
    write_folder(folder / "test", {"disc": 60, "ring": 30, "bar": 30}, seed=1)
    (folder / "toy.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="session")
def run(place):
    """The toy recipe, run once for all tests."""
    import svpkit

    return svpkit.run(place / "toy.toml", runs=place / "runs", store=place / "store")
