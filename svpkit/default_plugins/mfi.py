"""The reader `mfi`: particle tables of Micro-Flow Imaging, with frames or crops."""

from pathlib import Path
from typing import Any

from svpkit import hookimpl, tried
from svpkit.readers.mfi import MfiReader


def _example(folder: Path) -> Path:
    from svpkit.testing.exports import mfi

    return mfi(folder)


@hookimpl
def register_readers(register: Any) -> None:
    """Register `mfi`."""
    register("mfi", tried(example=_example, options={"crops": "{particle}.png"})(MfiReader)())
