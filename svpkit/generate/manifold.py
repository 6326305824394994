"""Precision, recall, density and coverage: how much of one set lies within the other, and back."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from svpkit import draws
from svpkit.generate.resample import share
from svpkit.particles.particleset import batches

K = 5
BLOCK = 512
# Precision and density have a value a drawn image, recall and coverage one a real image.
OF_DRAWN = ("precision", "density")
MEASURES = ("precision", "recall", "density", "coverage")

Rows = tuple[np.ndarray, np.ndarray]


def manifold(drawn: Tensor, real: Tensor, k: int = K) -> dict[str, Tensor]:
    """Return each image's part in the four measures, which are the means: float64 (n,) or (N,).

    Features (n, F) and (N, F), both more than k. An image's ball reaches to its k-th nearest of its
    own set. precision: a drawn image lies in a real ball; recall: a real image lies in a drawn
    ball (Kynkaanniemi et al. 2019); density: in how many real balls a drawn image lies, over k;
    coverage: a real image has a drawn one in its ball (Naeem et al. 2020). No array holds more
    than 512 x 512 pairs.
    """
    drawn, real = drawn.double(), real.double()
    near_real, near_drawn = radii(real, k), radii(drawn, k)
    inside = torch.zeros(len(drawn), dtype=torch.float64)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64)
    for a in batches(len(real), BLOCK):
        for b in batches(len(drawn), BLOCK):
            apart = _apart(real[a], drawn[b])
            inside[b] += (apart < near_real[a, None]).sum(dim=0)
            recalled[a] |= (apart < near_drawn[b]).any(dim=1)
            nearest[a] = torch.minimum(nearest[a], apart.amin(dim=1))
    return {
        "precision": (inside > 0).double(),
        "recall": recalled.double(),
        "density": inside / k,
        "coverage": (nearest < near_real).double(),
    }


def radii(x: Tensor, k: int = K) -> Tensor:
    """Return the distance from each of the features (n, F) to its k-th nearest other: (n,)."""
    found = []
    for a in batches(len(x), BLOCK):
        best = torch.full((a.stop - a.start, k + 1), torch.inf, dtype=x.dtype)
        for b in batches(len(x), BLOCK):
            both = torch.cat([best, _apart(x[a], x[b])], dim=1)
            best = both.topk(k + 1, dim=1, largest=False).values
        found.append(best[:, k])
    return torch.cat(found)


def measured(
    drawn: Tensor,
    real: Tensor,
    pairs: Sequence[Rows],
    units: Rows,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return value, low and high of the four measures, over pairs of row numbers of both sets.

    The value is the mean over the pairs, all of one size, as the measures depend on it. The
    interval takes the rows that a measure is the mean of again (drawn ones for precision and
    density, real ones for recall and coverage), unit by unit, int64 (n,) and (N,); the set that
    they are held against stays as it is.
    """
    sums = {m: np.zeros(len(drawn if m in OF_DRAWN else real)) for m in MEASURES}
    counts = [np.zeros(len(drawn)), np.zeros(len(real))]
    for a, b in pairs:
        found = manifold(drawn[torch.from_numpy(a)], real[torch.from_numpy(b)])
        counts[0][a] += 1
        counts[1][b] += 1
        for m in MEASURES:
            sums[m][a if m in OF_DRAWN else b] += found[m].numpy()
    side = {m: 0 if m in OF_DRAWN else 1 for m in MEASURES}
    return {
        m: share(sums[m], counts[side[m]], units[side[m]], draws.rng(seed, m)) for m in MEASURES
    }


def _apart(a: Tensor, b: Tensor) -> Tensor:
    # never by products: the distance between equal rows is exactly 0
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
