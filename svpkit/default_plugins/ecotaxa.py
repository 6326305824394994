"""The reader `ecotaxa`: EcoTaxa archives, unpacked."""

from typing import Any

from svpkit import hookimpl
from svpkit.readers.ecotaxa import EcotaxaReader


@hookimpl
def register_readers(register: Any) -> None:
    """Register `ecotaxa`."""
    register("ecotaxa", EcotaxaReader())
