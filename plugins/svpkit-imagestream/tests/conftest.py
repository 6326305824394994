"""One made-up export, for all tests that only read."""

import pytest

from svpkit_imagestream.example import write


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    return write(tmp_path_factory.mktemp("export"))
