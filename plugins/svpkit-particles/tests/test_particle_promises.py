"""What svpkit promises of every particle type, as its own kit checks it."""

from importlib import metadata

import pytest

try:
    metadata.distribution("svpkit-particles")
except metadata.PackageNotFoundError:
    pytest.skip("svpkit-particles is not installed", allow_module_level=True)

from svpkit.testing import parametrize_with_checks


@parametrize_with_checks("glass", "fibre", "rubber", "latex")
def test_promise(check):
    check()
