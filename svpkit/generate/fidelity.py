"""How far drawn particles are from real ones that their generator has not seen."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import draws
from svpkit.generate.copies import copy_rate, copy_recall
from svpkit.generate.extractor import FEATURES, features, load_extractor
from svpkit.generate.gap import gap, halves
from svpkit.particles.describe import background
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.particles.split import Split
from svpkit.store import stage, write_json

# How many times KID and FID compare a random half of the held-out images with as many others.
TIMES = {"kid": 100, "fid": 20}
LARGEST, FEWEST = 500, 8
# With fewer groups than this, neither halves nor new draws of whole groups say anything.
FEW_GROUPS = 5
# A background may be as even as the camera's rounding: its sd never counts as less.
ROUNDING = 0.5
# Where the words change: share of the way to noise or another class, copies, background in sd.
VERDICTS = (
    (0.15, "close", "Close to real"),
    (0.5, "some way", "Some way from real"),
    (np.inf, "far", "Still far from real"),
)
MANY_COPIES, SHIFTED = 0.01, 0.25


@stage(revision=4)
def fidelity(
    out: Path, params: Mapping[str, Any], extractor: Path, split: Path, *synthetic: Path
) -> None:
    """Judge the drawn sets class by class against the validation images; writes fidelity.json.

    `params`: seed. For each class: kid and fid, the same between two halves of the real images that
    part no group (floor), against noise (ceiling) and the nearest other class; their low and high
    are the scatter of random subsets, not an interval of the value. kid_gap: KID minus its floor
    with a 95 % interval. copy_rate, a lower bound, its floor and its recall; shifts of the
    background and of the mean grey in real sd; a verdict, "close", "some way", "far" or "cannot
    tell", and the same in words.
    """
    model, opened = load_extractor(extractor), Split.open(split)
    drawn = concat([ParticleSet.open(folder) for folder in synthetic])
    train, val = opened.train(), opened.val()
    real = {name: val.of(name).images() for name in val.classes}
    units = _units(val)
    found = {}
    for name in (name for name, n in drawn.counts.items() if n):
        others = {other: images for other, images in real.items() if other != name}
        found[name] = judge(
            lambda images: features(model, images),
            drawn.of(name).images(),
            train.of(name).images(),
            real[name],
            units[val.labels == val.classes.index(name)],
            others,
            params["seed"],
        )
    write_json(out / "fidelity.json", found)


def judge(
    see: Callable[[np.ndarray], Tensor],
    drawn: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    units: np.ndarray,
    others: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, Any]:
    """Return what `fidelity.json` says of one class; images uint8 (N, C, H, W).

    `see` turns images into features (N, F); `val` are real images that the generator never saw,
    `units` int64 (N,) which of them belong together, `others` those of the other classes.
    """
    found: dict[str, Any] = {"n_drawn": len(drawn), "n_real": len(val)}
    pairs = _halvings(units, seed)
    size = min(len(drawn), LARGEST, *(len(half) for pair in pairs for half in pair))
    if size >= FEWEST:
        found |= {"n_compared": size, **_distances(see, drawn, val, units, others, size, seed)}
    real = np.concatenate([train, val])
    found["copy_rate"] = copy_rate(drawn, train)
    # what the same test says of real images that cannot be copies, such as look-alike bubbles
    found["copy_rate_floor"] = copy_rate(val, train)
    found["copy_recall"] = copy_recall(train, seed)
    found["background_shift_sd"] = _shift(background(drawn), background(real))
    found["grey_shift_sd"] = _shift(drawn.mean(axis=(2, 3)), real.mean(axis=(2, 3)))
    return {**found, "verdict": verdict(found)[0], "words": words(found)}


def kid(a: Tensor, b: Tensor) -> float:
    """Return KID (Binkowski et al. 2018) of two sets of features (n, F): unbiased, 0 if alike."""
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        # it keeps all features in memory: a few hundred rows of 64 numbers here
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")
        metric = KernelInceptionDistance(feature=_Given(), subsets=1, subset_size=len(a))
    metric.update(a, real=False)
    metric.update(b, real=True)
    with draws.seeded(0, "kid"):  # it shuffles, to no effect on sets this large
        return float(metric.compute()[0])


def fid(a: Tensor, b: Tensor) -> float:
    """Return FID (Heusel et al. 2017) of two sets of features (n, F).

    It is biased upwards, the more the smaller n is: compare it with its floor alone.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given()).set_dtype(torch.float64)
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
    pairs = _halvings(np.arange(len(a)) if units is None else units, seed) if b is None else []
    for k in range(TIMES[measure]):
        first, other = pairs[k] if b is None else (rng.permutation(len(x)) for x in (a, b))
        rows = [torch.from_numpy(x[:size]) for x in (first, other)]
        pair = a[rows[0]], (a if b is None else b)[rows[1]]
        each.append({"kid": kid, "fid": fid}[measure](*pair))
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


def _distances(
    see: Callable[[np.ndarray], Tensor],
    drawn: np.ndarray,
    val: np.ndarray,
    units: np.ndarray,
    others: Mapping[str, np.ndarray],
    size: int,
    seed: int,
) -> dict[str, Any]:
    held, noise, ours = see(val), see(noise_like(val, seed)), see(drawn)
    found: dict[str, Any] = {}
    for measure in TIMES:
        for end, x in {"": ours, "_ceiling": noise}.items():
            found[measure + end] = compare(measure, x, held, size, seed)
        found[f"{measure}_floor"] = compare(measure, held, None, size, seed, units)
    value = found["kid"]["value"] - found["kid_floor"]["value"]
    low, high = gap(ours, held, units, seed)
    found["kid_gap"] = {"value": value, "low": min(low, value), "high": max(high, value)}
    away = [
        {"class": name, **compare("kid", see(images), held, size, seed)}
        for name, images in others.items()
        if len(images) >= size
    ]
    found["kid_other_class"] = min(away, key=lambda each: each["value"], default=None)
    return found


def _units(val: ParticleSet) -> np.ndarray:
    # which particles of a class belong together: of a group, or of a picture in one of few groups
    group, source = (val.table[c].astype(str).to_numpy(object) for c in ("group", "source"))
    named = group != ""
    if len(set(group[named])) < FEW_GROUPS:
        group, named = group + "\x1f" + source, named & (source != "")
    codes = np.unique(group, return_inverse=True)[1]
    codes[~named] = len(codes) + np.flatnonzero(~named)
    few = [k for k in set(val.labels) if len(set(codes[val.labels == k])) < FEW_GROUPS]
    alone = np.isin(val.labels, few)
    codes[alone] = len(codes) + np.flatnonzero(alone)
    return codes


def _halvings(units: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = draws.rng(seed, "halves")
    return [halves(units, rng) for _ in range(max(TIMES.values()))]


def _shift(drawn: np.ndarray, real: np.ndarray) -> float:
    # both (N, C), in grey levels
    drawn, real = drawn.mean(axis=1), real.mean(axis=1)
    return float((drawn.mean() - real.mean()) / max(real.std(), ROUNDING))


def words(found: Mapping[str, Any]) -> str:
    """Return one plain sentence or two on what `judge` found of a class."""
    said = [verdict(found)[1]]
    copies, alike = found["copy_rate"] or 0, found["copy_rate_floor"] or 0
    if copies > MANY_COPIES + alike:
        said.append(
            f"At least {copies:.1%} of them pass for copies of training images (real ones: "
            f"{alike:.1%}; of planted copies {found['copy_recall']:.0%} are found)."
        )
    if abs(found["background_shift_sd"]) > SHIFTED:
        way = "brighter" if found["background_shift_sd"] > 0 else "darker"
        by = abs(found["background_shift_sd"])
        said.append(f"Their background is {by:.1f} standard deviations {way} than the real one.")
    return " ".join(said)


def verdict(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return "close", "some way", "far" or "cannot tell", and a sentence that says why."""
    if "kid" not in found:
        n = f"{found['n_drawn']} drawn, {found['n_real']} held-out real"
        return "cannot tell", f"Too few images to compare: {n}."
    # KID is a squared distance: its root grows evenly on the way from real to something else
    floor, other = found["kid_floor"]["value"], found["kid_other_class"]
    marks = [("noise", found["kid_ceiling"]["value"])]
    marks += [(other["class"].replace("_", " "), other["value"])] if other else []
    name, mark = min(marks, key=lambda each: each[1])
    if mark <= found["kid_floor"]["high"]:
        said = f"This measure cannot tell real images from {name} here: KID says nothing."
        return "cannot tell", said
    way = (max(found["kid"]["value"] - floor, 0) / (mark - floor)) ** 0.5
    kind, said = next(v[1:] for v in VERDICTS if way < v[0])
    said = f"{said}: {min(way, 1):.0%} of the way from real images to {name}"
    n = found["n_compared"]
    if found["kid"]["value"] <= found["kid_floor"]["high"]:
        said += f", within the scatter of {n} real images against {n} others"
    return kind, f"{said}."
