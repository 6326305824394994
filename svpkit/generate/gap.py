"""KID above its floor, with an interval from particles drawn again, group by group."""

import numpy as np
import torch
from torch import Tensor

from svpkit import draws
from svpkit.generate.resample import TAILS, again

# Images of a set in the kernel's matrices, at most.
LARGEST = 1000


def halves(units: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two random sets of positions, about as many in each, that part no unit.

    Units int64 (N,), equal for particles that belong together.
    """
    names, which, sizes = np.unique(units, return_inverse=True, return_counts=True)
    side, filled = np.zeros(len(names), bool), [0, 0]
    for k in rng.permutation(len(names)):
        side[k] = filled[1] < filled[0] or (filled[0] == filled[1] and rng.random() < 0.5)
        filled[int(side[k])] += int(sizes[k])
    order = rng.permutation(len(units))
    second = side[which[order]]
    return order[~second], order[second]


def gap(drawn: Tensor, val: Tensor, units: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the interval of `kid_gap` alone."""
    found = kid_gap(drawn, val, units, seed)
    return found["low"], found["high"]


def kid_gap(drawn: Tensor, val: Tensor, units: np.ndarray, seed: int) -> dict[str, float]:
    """Return KID above its floor and the 95 % interval, for features (n, F) and (N, F).

    Both sets are drawn again 200 times with replacement: drawn images one by one, real ones by
    unit, int64 (N,). An image is never compared with itself, nor within its set with one of its own
    unit: images of a unit, and copies that drawing again makes, would look like a set of little
    variety. So the floor is 0 and is not taken off: halves of the real images that part no unit
    differ by 0 on average, as pairs within and across them are then of two units alike. At most
    1000 images of a set are looked at.
    """
    rng = draws.rng(seed, "kid gap")
    drawn, _ = _some(drawn, np.arange(len(drawn)), rng)
    val, units = _some(val, units, rng)
    codes = np.unique(units, return_inverse=True)[1]
    one = torch.zeros(len(codes), int(codes.max()) + 1, dtype=torch.float64)
    one[torch.arange(len(codes)), torch.from_numpy(codes)] = 1
    size = one.sum(dim=0)
    # the first row of weights is the sets as they are, the others are draws
    first = _weights(len(drawn), rng)
    real = _weights(len(size), rng)
    across = (first @ (_kernel(drawn, val) @ one) * real).sum(dim=1)
    across = across / (first.sum(dim=1) * (real @ size))
    here = _within(first, _kernel(drawn, drawn), torch.ones(len(drawn), dtype=torch.float64))
    kernel = one.T @ _kernel(val, val) @ one
    each = here + _within(real, kernel, size) - 2 * across
    low, high = np.nanquantile(each[1:].numpy(), TAILS)
    return {"value": float(each[0]), "low": float(low), "high": float(high)}


def _some(x: Tensor, units: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    keep = np.sort(rng.permutation(len(x))[:LARGEST])
    return x[torch.from_numpy(keep)].double(), units[keep]


def _weights(n: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(np.concatenate([np.ones((1, n)), again(np.arange(n), rng)]))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    # the polynomial kernel of KID (Binkowski et al. 2018)
    return (a @ b.T / a.shape[1] + 1) ** 3


def _within(weight: Tensor, kernel: Tensor, size: Tensor) -> Tensor:
    # weights (R, U) of units of so many rows, kernel (U, U) summed over their rows: pairs of two
    # units alone
    own = kernel.diagonal()
    total = ((weight @ kernel) * weight).sum(dim=1) - weight.square() @ own
    pairs = (weight @ size).square() - weight.square() @ size.square()
    # no pair where a draw holds one unit alone
    return (total / pairs).where(pairs > 0.5, torch.nan)
