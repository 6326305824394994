"""A grown forest as plain arrays, and the walk from root to leaf that makes probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Pairs of particle and tree that are walked at a time: 16 MB of places in the trees.
PAIRS = 1 << 21


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees, one after the other; `roots` (T,) says where each tree begins.

    A particle at node i goes to `left[i]` where its descriptor `feature[i]` is at most
    `threshold[i]`, else to `right[i]`; `feature` is -1 at a leaf. `value` (M, K) are the class
    shares at each node.
    """

    roots: np.ndarray
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, forest: Any, k: int) -> "Trees":
        """Return the trees of a fitted scikit-learn forest, its classes placed among k."""
        grown = [each.tree_ for each in forest.estimators_]
        sizes = [tree.node_count for tree in grown]
        roots = np.cumsum([0, *sizes[:-1]])
        parts: dict[str, list[np.ndarray]] = {name: [] for name in cls.__annotations__}
        for root, tree in zip(roots, grown, strict=True):
            inner = tree.children_left >= 0
            parts["left"].append(np.where(inner, tree.children_left + root, 0))
            parts["right"].append(np.where(inner, tree.children_right + root, 0))
            parts["feature"].append(np.where(inner, tree.feature, -1))
            parts["threshold"].append(tree.threshold)
            parts["value"].append(_shares(tree.value[:, 0], forest.classes_, k))
        joined = {name: np.concatenate(p) for name, p in parts.items() if p}
        whole = ("left", "right", "feature")
        return cls(
            roots.astype(np.int32),
            *(joined[name].astype(np.int32) for name in whole),
            joined["threshold"],
            joined["value"],
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], width: int, k: int) -> "Trees":
        """Return the trees that lie in arrays; raises ValueError where they cannot be walked.

        `width` is the number of descriptors, `k` that of classes. What comes from a file may lead
        nowhere: children have to lie behind their parents, which ends every walk.
        """
        found = cls(*(np.asarray(arrays[name]) for name in cls.__annotations__))
        n, here = len(found.feature), np.arange(len(found.feature))
        inner = found.feature >= 0
        for child in (found.left, found.right):
            if child.shape != (n,) or np.any(inner & ((child <= here) | (child >= n))):
                raise ValueError("the forest's nodes lead nowhere")
        if found.threshold.shape != (n,) or found.value.shape != (n, k):
            raise ValueError(f"the forest's values are not those of {n} nodes and {k} classes")
        if np.any(found.feature >= width) or np.any((found.roots < 0) | (found.roots >= n)):
            raise ValueError(f"the forest looks at more than its {width} descriptors")
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in self.__annotations__}

    def shares(self, x: np.ndarray) -> np.ndarray:
        """Return the mean class shares of the leaves that x reaches: float64 (N, K).

        x is float32 (N, F), as the trees were grown on. Row i depends on row i alone.
        """
        found = np.zeros((len(x), self.value.shape[1]))
        rows = max(1, PAIRS // len(self.roots))
        for start in range(0, len(x), rows):
            leaves = self._leaves(x[start : start + rows])
            block = found[start : start + rows]
            for own in leaves.T:
                block += self.value[own]
        return found / len(self.roots)

    def _leaves(self, x: np.ndarray) -> np.ndarray:
        at = np.tile(self.roots, (len(x), 1)).ravel()
        going = np.flatnonzero(self.feature[at] >= 0)
        while len(going):
            node = at[going]
            low = x[going // len(self.roots), self.feature[node]] <= self.threshold[node]
            node = np.where(low, self.left[node], self.right[node])
            at[going] = node
            going = going[self.feature[node] >= 0]
        return at.reshape(len(x), -1)


def _shares(values: np.ndarray, classes: np.ndarray, k: int) -> np.ndarray:
    # counts in scikit-learn before 1.3, shares since
    found = np.zeros((len(values), k))
    found[:, classes] = values / values.sum(1, keepdims=True)
    return found
