"""What svpkit promises of every reader, as its own kit checks it."""

from importlib import metadata

import pytest

try:
    metadata.distribution("svpkit-imagestream")
except metadata.PackageNotFoundError:
    pytest.skip("svpkit-imagestream is not installed", allow_module_level=True)

from svpkit.testing import parametrize_with_checks


@parametrize_with_checks("imagestream")
def test_promise(check):
    check()
