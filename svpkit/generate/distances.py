"""KID and FID of two sets of features, and where real images and noise come out."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import draws
from svpkit.generate.gap import halves, kid_gap
from svpkit.generate.manifold import Rows

# How many times KID and FID compare a random half of the held-out images with as many others.
TIMES = {"kid": 100, "fid": 20}


def kid(a: Tensor, b: Tensor) -> float:
    """Return KID (Binkowski et al. 2018) of two sets of features (n, F): unbiased, 0 if alike."""
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        # it keeps all features in memory: a few hundred rows here
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")
        given = _Given(a.shape[1])
        metric = KernelInceptionDistance(
            feature=given, subsets=1, subset_size=len(a), distributed_available_fn=_alone
        )
    metric.update(a, real=False)
    metric.update(b, real=True)
    with draws.seeded(0, "kid"):  # it shuffles, to no effect on sets this large
        return float(metric.compute()[0])


def fid(a: Tensor, b: Tensor) -> float:
    """Return FID (Heusel et al. 2017) of two sets of features (n, F).

    It is biased upwards, the more the smaller n is: compare it with its floor alone.
    """
    if a.shape[1] > len(a):
        return _wide_fid(a.double(), b.double())
    from torchmetrics.image.fid import FrechetInceptionDistance

    given = _Given(a.shape[1])
    metric = FrechetInceptionDistance(feature=given, distributed_available_fn=_alone)
    metric.set_dtype(torch.float64)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return float(metric.compute())


def compare(
    measure: str,
    a: Tensor,
    b: Tensor | None,
    size: int,
    seed: int,
    units: np.ndarray | None = None,
) -> dict[str, float]:
    """Return "kid" or "fid" of random `size` rows of a against as many of b: mean, 95 % of them.

    Low and high are the scatter of the subsets, not an interval of the mean. Without b, two halves
    of a that part no unit, int64 (N,), are compared: what real images give against real ones. The
    extractor knows the training images, so that they would look further from the others.
    """
    rng, each = draws.rng(seed, measure), []
    pairs = halvings(np.arange(len(a)) if units is None else units, seed) if b is None else []
    for k in range(TIMES[measure]):
        first, other = pairs[k] if b is None else (rng.permutation(len(x)) for x in (a, b))
        rows = [torch.from_numpy(x[:size]) for x in (first, other)]
        pair = a[rows[0]], (a if b is None else b)[rows[1]]
        each.append({"kid": kid, "fid": fid}[measure](*pair))
    low, high = np.quantile(each, [0.025, 0.975])
    return {"value": float(np.mean(each)), "low": float(low), "high": float(high)}


def distances(
    drawn: Tensor,
    held: Tensor,
    noise: Tensor,
    others: Mapping[str, Tensor],
    units: np.ndarray,
    size: int,
    seed: int,
) -> dict[str, Any]:
    """Return kid and fid with floor and ceiling, kid_gap and kid_other_class, of features (., F).

    `held` are real images' features, `units` int64 which of them belong together, `noise` those of
    noise, `others` those of the other classes; `size` rows of a side are compared.
    """
    found: dict[str, Any] = {}
    for measure in TIMES:
        for end, x in {"": drawn, "_ceiling": noise}.items():
            found[measure + end] = compare(measure, x, held, size, seed)
        found[f"{measure}_floor"] = compare(measure, held, None, size, seed, units)
    found["kid_gap"] = kid_gap(drawn, held, units, seed)
    away = [
        {"class": name, **compare("kid", x, held, size, seed)}
        for name, x in others.items()
        if len(x) >= size
    ]
    found["kid_other_class"] = min(away, key=lambda each: each["value"], default=None)
    return found


def halvings(units: np.ndarray, seed: int) -> list[Rows]:
    """Return the random halves that every floor compares; see `gap.halves`."""
    rng = draws.rng(seed, "halves")
    return [halves(units, rng) for _ in range(max(TIMES.values()))]


def subsets(n: int, m: int, size: int, times: int, seed: int, role: str) -> Sequence[Rows]:
    """Return pairs of `size` random rows of n and of m."""
    rng = draws.rng(seed, role)
    return [(rng.permutation(n)[:size], rng.permutation(m)[:size]) for _ in range(times)]


def noise_like(images: np.ndarray, seed: int) -> np.ndarray:
    """Return as many images of noise with these images' mean and sd, a channel each."""
    mean, sd = images.mean(axis=(0, 2, 3)), images.std(axis=(0, 2, 3))
    noise = draws.rng(seed, "noise ceiling").standard_normal(images.shape, dtype=np.float32)
    grey = mean[:, None, None] + sd[:, None, None] * noise
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _wide_fid(a: Tensor, b: Tensor) -> float:
    # with fewer images than features both covariances are of low rank: the trace of the root of
    # their product is the sum of the singular values of a small matrix, not of an F x F one
    means = a.mean(dim=0) - b.mean(dim=0)
    a, b = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    shared = torch.linalg.svdvals(a @ b.T).sum()
    return float(means.square().sum() + a.square().sum() + b.square().sum() - 2 * shared)


def _alone() -> bool:
    # each process has all the features: what others hold must not be added, nor waited for
    return False


class _Given(nn.Module):
    # what stands in for Inception: the features are computed already

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x
