"""The reader `ifcb`: bins of the Imaging FlowCytobot."""

from pathlib import Path
from typing import Any

from svpkit import hookimpl, tried
from svpkit.readers.ifcb import IfcbReader


def _example(folder: Path) -> Path:
    from svpkit.testing.exports import ifcb

    return ifcb(folder)


@hookimpl
def register_readers(register: Any) -> None:
    """Register `ifcb`."""
    register("ifcb", tried(example=_example)(IfcbReader)())
