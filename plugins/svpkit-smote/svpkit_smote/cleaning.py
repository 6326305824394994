"""Particles of the largest class left out where they lie among others."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from svpkit import ParticleSet, SvpkitError

from svpkit_smote.space import points


@dataclass(frozen=True)
class Cleaning:
    """Thin out the largest class at its borders, by imbalanced-learn.

    `tomek` leaves out its half of each Tomek link, two particles of different classes that are each
    other's nearest (Tomek 1976); `enn` each particle that one of its `neighbours` is not of the
    class of (edited nearest neighbours, Wilson 1972).
    """

    rule: str = "tomek"
    neighbours: int = 3
    pca: float | None = 0.9

    def particles(self, train: ParticleSet, context: Any) -> ParticleSet:
        """Return those that stay, in the order they had; raises SvpkitError for too few at all."""
        labels = train.labels
        if len(np.unique(labels)) < 2:
            return train
        if len(train) <= self.neighbours:
            raise SvpkitError(
                f"balance.tomek.neighbours: given {self.neighbours}, but there are {len(train)} "
                "training particles"
            )
        cleaner = cleaner_of(self.rule, self.neighbours, int(np.bincount(labels).argmax()))
        cleaner.fit_resample(points(train, self.pca, context.seed), labels)
        return train.take(np.sort(cleaner.sample_indices_))


def cleaner_of(rule: str, neighbours: int, largest: int) -> Any:
    """Return imbalanced-learn's cleaner of a rule, which takes from the class `largest` alone."""
    from imblearn import under_sampling

    if rule == "tomek":
        return under_sampling.TomekLinks(sampling_strategy=[largest])
    return under_sampling.EditedNearestNeighbours(
        sampling_strategy=[largest], n_neighbors=neighbours
    )
