"""KID above its floor, with an interval from particles drawn again, group by group."""

import numpy as np
import torch
from torch import Tensor

from svpkit import draws
from svpkit.generate.resample import again

HALVINGS = 8
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
    """Return the 95 % interval of KID minus its floor, for features (n, F) and (N, F).

    Both sets are drawn again 200 times with replacement: drawn images one by one, real ones by
    unit, int64 (N,). Each time the floor is the mean over random halves of the real images. An
    image is never compared with itself, nor within its set with one of its own unit: copies that
    drawing again makes would look like a set of little variety.
    """
    rng = draws.rng(seed, "kid gap")
    drawn, _ = _some(drawn, np.arange(len(drawn)), rng)
    val, units = _some(val, units, rng)
    codes = np.unique(units, return_inverse=True)[1]
    apart = torch.from_numpy(codes[:, None] != codes).double()
    own = torch.ones(len(drawn), len(drawn), dtype=torch.float64).fill_diagonal_(0)
    first = torch.from_numpy(again(np.arange(len(drawn)), rng))
    real = torch.from_numpy(again(codes, rng))
    across = _mean(first, _kernel(drawn, val), real)
    within = _within(first, _kernel(drawn, drawn), own)
    kernel = _kernel(val, val)
    here = within + _within(real, kernel, apart) - 2 * across
    floor = torch.stack([_floor(real, kernel, apart, codes, rng) for _ in range(HALVINGS)])
    low, high = np.nanquantile((here - floor.nanmean(dim=0)).numpy(), [0.025, 0.975])
    return float(low), float(high)


def _some(x: Tensor, units: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    keep = np.sort(rng.permutation(len(x))[:LARGEST])
    return x[torch.from_numpy(keep)].double(), units[keep]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    # the polynomial kernel of KID (Binkowski et al. 2018)
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean(left: Tensor, kernel: Tensor, right: Tensor) -> Tensor:
    return ((left @ kernel) * right).sum(dim=1) / (left.sum(dim=1) * right.sum(dim=1))


def _within(weight: Tensor, kernel: Tensor, apart: Tensor) -> Tensor:
    total = ((weight @ (kernel * apart)) * weight).sum(dim=1)
    return total / ((weight @ apart) * weight).sum(dim=1)


def _floor(
    real: Tensor, kernel: Tensor, apart: Tensor, codes: np.ndarray, rng: np.random.Generator
) -> Tensor:
    side = torch.zeros(len(codes), dtype=torch.float64)
    side[torch.from_numpy(halves(codes, rng)[0])] = 1
    a, b = real * side, real * (1 - side)
    return _within(a, kernel, apart) + _within(b, kernel, apart) - 2 * _mean(a, kernel, b)
