"""The reader `mfi`: particle tables of Micro-Flow Imaging, with frames or crops."""

from typing import Any

from svpkit import hookimpl
from svpkit.readers.mfi import MfiReader


@hookimpl
def register_readers(register: Any) -> None:
    """Register `mfi`."""
    register("mfi", MfiReader())
