"""How far drawn particles are from real ones that their generator has not seen."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import draws
from svpkit.fit import seeded
from svpkit.generate.copies import copy_rate
from svpkit.generate.extractor import FEATURES, features, load_extractor
from svpkit.particles.describe import background
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.particles.split import Split
from svpkit.store import stage, write_json

# KID and FID compare random subsets of equal size, so that drawn, floor and ceiling have the same
# scatter and, for FID, the same bias.
SUBSETS, FID_SUBSETS = 100, 20
LARGEST = 500
FEWEST = 8
# A background may be as even as the camera's rounding: its sd never counts as less.
ROUNDING = 0.5


@stage(revision=1)
def fidelity(
    out: Path, params: Mapping[str, Any], extractor: Path, split: Path, *synthetic: Path
) -> None:
    """Judge the drawn sets class by class against the validation images; writes fidelity.json.

    `params`: seed. For each class: kid, fid with low and high, the same for real training images
    (floor) and, for KID, for noise (ceiling); copy_rate; shifts of the background and of the mean
    grey in real sd; and one sentence.
    """
    model, opened = load_extractor(extractor), Split.open(split)
    drawn = concat([ParticleSet.open(folder) for folder in synthetic])
    train, val = opened.train(), opened.val()
    real = {name: val.of(name).images() for name in val.classes}
    found = {}
    for name in (name for name, n in drawn.counts.items() if n):
        others = {other: images for other, images in real.items() if other != name}
        found[name] = judge(
            lambda images: features(model, images),
            drawn.of(name).images(),
            train.of(name).images(),
            real[name],
            others,
            params["seed"],
        )
    write_json(out / "fidelity.json", found)



def judge(
    see: Callable[[np.ndarray], Tensor],
    drawn: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    others: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, Any]:
    """Return what `fidelity.json` says of one class; images uint8 (N, C, H, W).

    `see` turns images into features (N, F); `val` are real images that the generator never saw,
    `others` those of the other classes.
    """
    found: dict[str, Any] = {"n_drawn": len(drawn), "n_real": len(val)}
    size = min(len(drawn), len(train), len(val), 2 * LARGEST) // 2
    if size >= FEWEST:
        held = see(val)
        sets = {"": see(drawn), "_floor": see(train), "_ceiling": see(noise_like(val, seed))}
        found["n_compared"] = size
        found |= {f"kid{k}": kid(x, held, size, seed) for k, x in sets.items()}
        found |= {f"fid{k}": fid(sets[k], held, size, seed) for k in ("", "_floor")}
        found["kid_other_class"] = _nearest_class(see, held, others, size, seed)
    real = np.concatenate([train, val])
    found["copy_rate"] = copy_rate(drawn, train)
    found["background_shift_sd"] = _shift(background(drawn), background(real))
    found["grey_shift_sd"] = _shift(drawn.mean(axis=(2, 3)), real.mean(axis=(2, 3)))
    return {**found, "words": words(found)}


def kid(a: Tensor, b: Tensor, size: int, seed: int) -> dict[str, float]:
    """Return KID (Binkowski et al. 2018) of two sets of features (N, F), with its scatter.

    The mean over random subsets of `size`, without bias; low and high are 1.96 standard deviations
    of the subsets away.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        # it keeps all features in memory: a few thousand rows of 64 numbers here
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")
        metric = KernelInceptionDistance(feature=_Given(), subsets=SUBSETS, subset_size=size)
    metric.update(a, real=False)
    metric.update(b, real=True)
    with seeded(seed, "kid"):
        mean, sd = (float(v) for v in metric.compute())
    return {"value": mean, "low": mean - 1.96 * sd, "high": mean + 1.96 * sd}


def fid(a: Tensor, b: Tensor, size: int, seed: int) -> dict[str, float]:
    """Return FID (Heusel et al. 2017) of two sets of features (N, F): the mean over subsets.

    It is biased upwards, the more the smaller `size` is: compare it with its floor alone. Low and
    high are the 2.5 and 97.5 % quantiles of the subsets.
    """
    rng = draws.rng(seed, "fid")
    each = [_fid(_pick(a, size, rng), _pick(b, size, rng)) for _ in range(FID_SUBSETS)]
    low, high = np.quantile(each, [0.025, 0.975])
    return {"value": float(np.mean(each)), "low": float(low), "high": float(high)}


def noise_like(images: np.ndarray, seed: int) -> np.ndarray:
    """Return as many images of noise with these images' mean and sd, a channel each."""
    mean, sd = images.mean(axis=(0, 2, 3)), images.std(axis=(0, 2, 3))
    noise = draws.rng(seed, "noise ceiling").standard_normal(images.shape, dtype=np.float32)
    grey = mean[:, None, None] + sd[:, None, None] * noise
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


class _Given(nn.Module):
    # what stands in for Inception: the features are computed already
    num_features = FEATURES

    def forward(self, x: Tensor) -> Tensor:
        return x


def _fid(a: Tensor, b: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given()).set_dtype(torch.float64)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return float(metric.compute())


def _pick(x: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    return x[torch.from_numpy(rng.permutation(len(x))[:size])]


def _nearest_class(
    see: Callable[[np.ndarray], Tensor],
    held: Tensor,
    others: Mapping[str, np.ndarray],
    size: int,
    seed: int,
) -> dict[str, Any] | None:
    found = [
        {"class": name, **kid(see(images), held, size, seed)}
        for name, images in others.items()
        if len(images) >= size
    ]
    return min(found, key=lambda each: each["value"], default=None)


def _shift(drawn: np.ndarray, real: np.ndarray) -> float:
    # both (N, C), in grey levels
    drawn, real = drawn.mean(axis=1), real.mean(axis=1)
    return float((drawn.mean() - real.mean()) / max(real.std(), ROUNDING))


def words(found: Mapping[str, Any]) -> str:
    return ""
