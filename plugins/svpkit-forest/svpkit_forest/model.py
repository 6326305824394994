"""The classifier: descriptors, filled and standardised, named by the trees."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from svpkit import ImageSpec, ParticleSet, SvpkitError, draws

from svpkit_forest.descriptors import BLOCK, NAMES, described
from svpkit_forest.trees import Trees


@dataclass(frozen=True)
class Growth:
    """How the trees are grown: the options of scikit-learn's forest that a recipe may set."""

    trees: int = 200
    depth: int | None = None
    leaf: int = 1
    share: Literal["sqrt"] | float = "sqrt"
    balanced: str | None = None


class Forest:
    """A random forest (Breiman 2001) on descriptors of each particle.

    A descriptor that an image has none of is filled with the median of the training set; all are
    scaled to mean 0 and spread 1. Nothing of scikit-learn is kept: `state` is arrays alone.
    """

    def __init__(self, spec: ImageSpec, growth: Growth, names: Sequence[str] | None = None) -> None:
        self.spec, self.growth = spec, growth
        self.names = tuple(dict.fromkeys(NAMES if names is None else names))
        if not self.names:
            raise SvpkitError("classifier.options.features: given [], at least one is needed")
        self.fill, self.mean = (np.zeros(len(self.names)) for _ in range(2))
        self.scale = np.ones(len(self.names))
        self.trees: Trees | None = None
        self._last: tuple[bytes, np.ndarray] = (b"", np.empty(0))

    def fit(self, particles: ParticleSet, seed: int) -> None:
        """Grow the trees on the particles; every number drawn belongs to the seed."""
        from sklearn.ensemble import RandomForestClassifier

        starts = range(0, len(particles), BLOCK)
        blocks = (particles.images(slice(start, start + BLOCK)) for start in starts)
        raw = np.concatenate([described(block, self.names) for block in blocks])
        self._scale(raw)
        own = self.growth
        model = RandomForestClassifier(
            own.trees,
            max_depth=own.depth,
            min_samples_leaf=own.leaf,
            max_features=own.share,
            class_weight=own.balanced,
            random_state=draws.key(seed, "forest") & (2**32 - 1),
            n_jobs=1,
        )
        model.fit(self._standard(raw), particles.labels)
        self.trees = Trees.of(model, len(self.spec.classes))

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Return the share of each class in the leaves reached, float64 (N, K), mean over trees.

        Images are uint8 (N, C, S, S). Raises SvpkitError before it was fitted.
        """
        if self.trees is None:
            raise SvpkitError("classifier 'forest': it was not fitted yet")
        return self.trees.shares(self.features(images))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the filled and standardised descriptors, float32 (N, F), of uint8 images."""
        # the host asks for features right after the names of the same images
        digest = hashlib.blake2b(np.ascontiguousarray(images), digest_size=16).digest()
        if self._last[0] != digest or len(self._last[1]) != len(images):
            self._last = digest, described(images, self.names)
        return self._standard(self._last[1])

    def state(self) -> dict[str, np.ndarray]:
        """Return what was learnt, as arrays; raises SvpkitError before it was fitted."""
        if self.trees is None:
            raise SvpkitError("classifier 'forest': it was not fitted yet")
        scaling = {"fill": self.fill, "mean": self.mean, "scale": self.scale}
        return scaling | self.trees.arrays()

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what `state` gave; raises ValueError where it is of another forest."""
        width = len(self.names)
        for name in ("fill", "mean", "scale"):
            if arrays[name].shape != (width,):
                raise ValueError(f"{name} {arrays[name].shape}, {width} descriptors are looked at")
        self.trees = Trees.from_arrays(arrays, width, len(self.spec.classes))
        self.fill, self.mean, self.scale = (arrays[n] for n in ("fill", "mean", "scale"))

    def _scale(self, raw: np.ndarray) -> None:
        known = [column[~np.isnan(column)] for column in raw.T]
        self.fill = np.array([np.median(column) if len(column) else 0.0 for column in known])
        filled = np.where(np.isnan(raw), self.fill, raw)
        self.mean, spread = filled.mean(0), filled.std(0)
        self.scale = np.where(spread > 0, spread, 1.0)

    def _standard(self, raw: np.ndarray) -> np.ndarray:
        # float32 is what scikit-learn's trees compare
        filled = np.where(np.isnan(raw), self.fill, raw)
        return ((filled - self.mean) / self.scale).astype(np.float32)
