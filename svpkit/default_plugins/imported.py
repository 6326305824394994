"""The reader `imported`: a particle set that `svpkit data import` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from svpkit import hookimpl, tried
from svpkit.errors import unknown
from svpkit.safe import read_json

BLOCK = 1024
# What the set itself works out again.
_OWN = ("digest", "hash")


def _example(folder: Path) -> Path:
    from svpkit.testing.exports import imported

    return imported(folder)


@tried(
    example=_example,
    spared={"links": "a set is svpkit's own, no export: its parts may lie on another disk"},
)
class ImportedReader:
    """A folder that `svpkit data import` wrote: its images as they lie there, with their rows."""

    def read(
        self,
        path: Path | str,
        *,
        classes: Annotated[
            list[str] | None, "the classes to read, in label order; else all"
        ] = None,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield images uint8 (S, S) or (S, S, 3) and their rows, block by block.

        Raises SvpkitError where the folder holds no set, or not the classes asked for.
        """
        from svpkit.particles.particleset import ParticleSet

        particles = ParticleSet.open(path)
        for name in classes or ():
            if name not in particles.classes:
                raise unknown(f"{path}: options.classes", name, particles.classes)
        return _rows(particles, classes)

    def sniff(self, path: Path | str) -> bool:
        """Return whether a folder holds the manifest of a set."""
        try:
            found = read_json(Path(path) / "manifest.json")
        except (OSError, ValueError):
            return False
        return {"format", "shape", "parts"} <= set(found)


def _rows(particles: Any, classes: list[str] | None) -> Iterator[tuple[Any, dict[str, Any]]]:
    import numpy as np

    from svpkit.particles.particleset import batches

    table = particles.table.drop(columns=[c for c in _OWN if c in particles.table])
    wanted = table["label"].isin(classes).to_numpy() if classes else np.ones(len(table), bool)
    for block in batches(len(table), BLOCK):
        images, rows = particles.images(block), table.iloc[block].astype(object)
        for image, row, there in zip(images, rows.to_dict("records"), wanted[block], strict=True):
            if there:
                yield (image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)), row


@hookimpl
def register_readers(register: Any) -> None:
    """Register `imported`."""
    register("imported", ImportedReader())
