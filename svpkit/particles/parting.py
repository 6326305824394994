"""The sets of a split in the making, read anew by the column: no table of all is ever held."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svpkit.particles import corrections
from svpkit.particles.division import Division, groups_of
from svpkit.particles.particleset import NEUTRAL, ParticleSet, concat

SETS = ("train", "val", "test")


@dataclass(frozen=True)
class Parting:
    """Who goes where: `parts` are positions in `data`, those of test in `test`.

    Train has the particles of `also` behind its own; `found` are corrected labels of the data.
    """

    data: Path
    test: Path
    also: Sequence[Path]
    parts: Division
    found: Sequence[corrections.Correction]
    classes: tuple[str, ...]

    def read(self, name: str, *columns: str | None) -> ParticleSet:
        """Return one of the sets; its table has its labels and these columns alone."""
        own = self.own(name, *columns)
        return concat([own, self.more(*columns)]) if name == "train" and self.also else own

    def own(self, name: str, *columns: str | None) -> ParticleSet:
        """Return what `read` does, without the particles that only train."""
        folder = self.test if name == "test" else self.data
        positions: np.ndarray = getattr(self.parts, name)
        found = ParticleSet.open(folder, positions, ("label", *columns)).with_classes(self.classes)
        return found if name == "test" else corrections.relabelled(found, self.found)

    def more(self, *columns: str | None) -> ParticleSet:
        """Return the particles that only train: those of further sets that have a label."""
        sets = [ParticleSet.open(folder, columns=("label", *columns)) for folder in self.also]
        return concat([labelled(each.with_classes(self.classes)) for each in sets])


def labelled(particles: ParticleSet) -> ParticleSet:
    """Return the particles that have a label."""
    return particles.take(particles.labels >= 0)


def light(folder: Path, column: str | None) -> ParticleSet:
    """Open a set with what divides it alone: labels, groups (of `column` too), sources, origins.

    Raises SvpkitError, naming all columns that there are, where `column` is not among them.
    """
    found = ParticleSet.open(folder, columns=("label", "group", "source", "origin", column))
    if column is not None and column not in found.table and column not in NEUTRAL:
        groups_of(ParticleSet.open(folder), column)
    return found
