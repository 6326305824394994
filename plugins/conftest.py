"""Where all packages are tested together, checks that start processes of their own are slow."""

from typing import Any

import pytest

PROCESSES = ("-fresh_process]", "-two_processes]")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave those checks out unless --slow is given."""
    if config.getoption("--slow", default=False):
        return
    skip = pytest.mark.skip(reason="starts other processes: run with --slow")
    for item in items:
        if item.name.endswith(PROCESSES):
            item.add_marker(skip)
