"""The reader `ifcb`: bins of the Imaging FlowCytobot."""

from typing import Any

from svpkit import hookimpl
from svpkit.readers.ifcb import IfcbReader


@hookimpl
def register_readers(register: Any) -> None:
    """Register `ifcb`."""
    register("ifcb", IfcbReader())
