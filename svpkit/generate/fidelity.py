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
# Where the words change: share of the way to noise or another class, copies, background in sd.
VERDICTS = ((0.15, "Close to real"), (0.5, "Some way from real"))
MANY_COPIES, SHIFTED = 0.01, 0.25


@stage(revision=2)
def fidelity(
    out: Path, params: Mapping[str, Any], extractor: Path, split: Path, *synthetic: Path
) -> None:
    """Judge the drawn sets class by class against the validation images; writes fidelity.json.

    `params`: seed. For each class: kid, fid with low and high, the same for real training images
    (floor) and, for KID, for noise (ceiling); copy_rate and its floor; shifts of the background and of the mean
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
    # what the same test says of real images that cannot be copies, such as look-alike bubbles
    found["copy_rate_floor"] = copy_rate(val, train)
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
    """Return one plain sentence or two on what `judge` found of a class."""
    said = [_distance(found) if "kid" in found else _too_few(found)]
    copies, alike = found["copy_rate"] or 0, found["copy_rate_floor"] or 0
    if copies > MANY_COPIES + alike:
        said.append(f"{copies:.1%} of them pass for copies of training images (real: {alike:.1%}).")
    if abs(found["background_shift_sd"]) > SHIFTED:
        way = "brighter" if found["background_shift_sd"] > 0 else "darker"
        by = abs(found["background_shift_sd"])
        said.append(f"Their background is {by:.1f} standard deviations {way} than the real one.")
    return " ".join(said)


def _distance(found: Mapping[str, Any]) -> str:
    # KID is a squared distance: its root grows evenly on the way from real to something else
    floor, other = found["kid_floor"]["value"], found["kid_other_class"]
    marks = [("noise", found["kid_ceiling"]["value"])]
    marks += [("another class", other["value"])] if other else []
    name, mark = min(marks, key=lambda each: each[1])
    if mark <= found["kid_floor"]["high"]:
        return f"This measure cannot tell real images from {name} here: KID says nothing."
    way = (max(found["kid"]["value"] - floor, 0) / (mark - floor)) ** 0.5
    verdict = next((w for limit, w in VERDICTS if way < limit), "Still far from real")
    said = f"{verdict}: {min(way, 1):.0%} of the way from real images to {name}"
    n = found["n_compared"]
    if found["kid"]["value"] <= found["kid_floor"]["high"]:
        said += f", though within the scatter of {n} real images against {n} others"
    return f"{said}."


def _too_few(found: Mapping[str, Any]) -> str:
    return f"Too few images to compare: {found['n_drawn']} drawn, {found['n_real']} held-out real."
