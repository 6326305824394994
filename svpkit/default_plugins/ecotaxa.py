"""The reader `ecotaxa`: EcoTaxa archives, unpacked."""

from pathlib import Path
from typing import Any

from svpkit import hookimpl, tried
from svpkit.readers.ecotaxa import EcotaxaReader


def _example(folder: Path) -> Path:
    from svpkit.testing.exports import ecotaxa

    return ecotaxa(folder)


@hookimpl
def register_readers(register: Any) -> None:
    """Register `ecotaxa`."""
    register("ecotaxa", tried(example=_example)(EcotaxaReader)())
