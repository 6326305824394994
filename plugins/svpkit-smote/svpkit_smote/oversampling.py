"""New particles between neighbours: places by imbalanced-learn, pixels blended of the parents."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from svpkit import ParticleSet, SvpkitError, draws

from svpkit_smote.parents import parents
from svpkit_smote.space import points

NAME = "smote_pixels"
BLOCK = 1024


@dataclass(frozen=True)
class SmotePixels:
    """Fill classes up with blends of two of their images (SMOTE: Chawla et al. 2002, and its kin).

    Where new particles lie is for imbalanced-learn to say, in the space of `svpkit_smote.space`;
    its parents' own pixels are blended, a + step (b - a), so that nothing is lost that the
    components leave out.
    """

    kind: str = "smote"
    to: str | Mapping[str, int] | float = "largest"
    neighbours: int = 5
    pca: float | None = 0.9

    def particles(self, train: ParticleSet, context: Any) -> ParticleSet:
        """Return the training set with the new particles behind the others.

        Raises SvpkitError for a class that has too few particles, or none where `kind` can work.
        """
        wanted = self.wanted(train.counts)
        if not wanted:
            return train
        labels = train.labels
        places = points(train, self.pca, context.seed)
        made, of = self._places(places, labels, wanted, context)
        beyond = 0.5 if self.kind == "svm" else 0.0
        for name in (c for c in context.classes if c in wanted):
            k = context.classes.index(name)
            rows, new = np.flatnonzero(labels == k), made[of == k]
            if not len(new):
                raise SvpkitError(
                    f"balance.{NAME}.kind: '{self.kind}' adds nothing to class '{name}': none of "
                    "its particles lies where it looks; use 'smote'"
                )
            a, b, step = parents(new, places[rows], self.neighbours, beyond)
            train = self._blended(train, rows[a], rows[b], step, context)
        return train

    def wanted(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return how many particles the classes that grow are to have, from all the counts."""
        largest = max(counts.values())
        if isinstance(self.to, Mapping):
            for name in self.to:
                if name not in counts:
                    raise SvpkitError(
                        f"balance.{NAME}.to: no class '{name}' (known: {', '.join(counts)})"
                    )
            total = dict(self.to)
        elif isinstance(self.to, str):
            total = dict.fromkeys(counts, largest)
        else:
            total = {c: n + round(self.to * n) for c, n in counts.items() if n < largest}
        found = {c: n for c, n in total.items() if n > counts[c]}
        for name in found:
            if counts[name] <= self.neighbours:
                raise SvpkitError(
                    f"balance.{NAME}.neighbours: given {self.neighbours}, but class '{name}' has "
                    f"{counts[name]} training particles: fewer than that, or another strategy"
                )
        return found

    def _places(
        self, places: np.ndarray, labels: np.ndarray, wanted: Mapping[str, int], context: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        totals = {context.classes.index(name): n for name, n in wanted.items()}
        state = draws.key(context.seed, NAME, self.kind) & (2**32 - 1)
        sampler = sampler_of(self.kind, self.neighbours, totals, state)
        try:
            with warnings.catch_warnings():
                # what it has to say of a class that it adds nothing to is said by the counts
                warnings.simplefilter("ignore")
                x, y = sampler.fit_resample(places, labels)
        except (ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise SvpkitError(
                f"balance.{NAME}.kind: '{self.kind}' cannot work on these particles ({said})"
            ) from None
        return x[len(labels) :], y[len(labels) :]

    def _blended(
        self, train: ParticleSet, a: np.ndarray, b: np.ndarray, step: np.ndarray, context: Any
    ) -> ParticleSet:
        table, blocks = train.table, []
        for start in range(0, len(a), BLOCK):
            rows = slice(start, start + BLOCK)
            one, two = (train.images(each[rows]).astype(np.float32) for each in (a, b))
            mixed = one + step[rows, None, None, None].astype(np.float32) * (two - one)
            blocks.append(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
        said = {"strategy": NAME, "kind": self.kind, "seed": context.seed}
        ids = table["id"].astype(str).to_numpy()
        lines = [
            json.dumps({**said, "parents": [ids[i], ids[j]], "step": round(float(s), 6)})
            for i, j, s in zip(a, b, step, strict=True)
        ]
        columns = {name: table[name].to_numpy(float) for name in ("um_per_px", "ecd_um")}
        more = {name: each[a] + step * (each[b] - each[a]) for name, each in columns.items()}
        labels = table["label"].astype(str).to_numpy()[a].tolist()
        return train.with_made(np.concatenate(blocks), labels, NAME, lineage=lines, **more)


def sampler_of(kind: str, neighbours: int, totals: Mapping[int, int], state: int) -> Any:
    """Return imbalanced-learn's sampler of a kind, to reach `totals` {label: count}."""
    from imblearn import over_sampling

    asked = {"sampling_strategy": dict(totals), "random_state": state}
    if kind == "adasyn":
        return over_sampling.ADASYN(n_neighbors=neighbours, **asked)
    names = {"smote": "SMOTE", "borderline": "BorderlineSMOTE", "svm": "SVMSMOTE"}
    each = getattr(over_sampling, names.get(kind, "KMeansSMOTE"))
    return each(k_neighbors=neighbours, **asked)
