"""Which particles a step sees: a pure function of the step, the same on every process."""

from collections.abc import Callable

import numpy as np

from svpkit import draws
from svpkit.classify.sampling import Weights, at


def order(
    n: int, batch: int, seed: int, weights: Weights | None = None, images: int = 0
) -> Callable[[int], np.ndarray]:
    """Return `order(step) -> positions int64 (batch,)`, a pure function of the step.

    Without weights every epoch is a permutation of its own; with weights (N,) positions are drawn
    with replacement in proportion to them. Weights that are a function of the progress follow it
    over a run of `images`.
    """
    if weights is None:
        return draws.epochs(n, batch, seed)
    fixed = None if callable(weights) else np.cumsum(weights, dtype=np.float64)

    def drawn(step: int) -> np.ndarray:
        done = min(step * batch / max(images, 1), 1.0)
        ends = np.cumsum(at(weights, done)) if fixed is None else fixed
        chance = draws.rng(seed, "order", step).random(batch) * ends[-1]
        return np.minimum(np.searchsorted(ends, chance, side="right"), n - 1)

    return drawn
