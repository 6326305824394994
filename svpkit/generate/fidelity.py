"""How far drawn particles are from real ones that their generator has not seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svpkit import draws, ranks
from svpkit.disk import write_json
from svpkit.generate.copies import (
    copy_interval,
    copy_rate,
    copy_recall,
    memorised,
    worst_pairs,
)
from svpkit.generate.detector import c2st
from svpkit.generate.diffusion import spaced
from svpkit.generate.distances import distances, halvings, noise_like, subsets
from svpkit.generate.extractor import features, load_extractor
from svpkit.generate.manifold import measured
from svpkit.generate.nearest import Near, nearest
from svpkit.generate.physical import measure, physical, scales
from svpkit.generate.resample import TAILS, again, units_of
from svpkit.generate.verdict import verdict, words
from svpkit.particles.describe import background
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.particles.split import Split
from svpkit.safe import read_json
from svpkit.store import stage

LARGEST, FEWEST = 500, 8
# Drawn images whose descriptors are measured, at most.
DESCRIBED = 500
# Images of another class that are looked at, at most.
OTHERS = 1000
# Pairs of subsets: for precision, recall, density and coverage, and for the classifier.
SUBSETS, TRIALS = 20, 3
COPIES = ("copy_rate", "copy_interval", "copy_rate_floor", "copy_recall", "memorised")
# A background may be as even as the camera's rounding: its sd never counts as less.
ROUNDING = 0.5

See = Callable[[np.ndarray], Tensor]
# What is said of a class, and the pairs most like copies: rows, pictures (n, 2, C, H, W) or None.
Looked = tuple[dict[str, Any], list[dict[str, Any]], np.ndarray | None]


@stage(revision=6, everywhere=True)
def fidelity(
    out: Path, params: Mapping[str, Any], extractor: Path, split: Path, *synthetic: Path
) -> None:
    """Judge the drawn sets class by class against the validation images; writes fidelity.json.

    `params`: seed; extractor (the plugin that made it, where one did); trained_on (True: the first
    of the sets is what the generator learned from, instead of the split's training images; None:
    that is not known, so that nothing is said of copies). For each class: the digest of the
    extractor; kid and fid, the same between two halves of the real images that part no group
    (floor), against noise (ceiling) and the nearest other class; their low and high are the scatter
    of random subsets, not an interval of the value. kid_gap: KID above its floor with a 95 %
    interval, without pairs of one group. precision, recall, density, coverage and c2st, each with
    its floor; physical descriptors; copy_rate, a lower bound, its floor and its recall; memorised;
    shifts of the background and of the mean grey in real sd; a verdict, "close", "some way", "far"
    or "cannot tell", and the same in words. The pairs most like copies are rows of copies.json and
    pictures uint8 (n, 2, C, H, W) of copies.npy.
    """
    model, opened = load_extractor(extractor, params.get("extractor")), Split.open(split)
    sets = [ParticleSet.open(folder) for folder in synthetic]
    train = sets.pop(0) if params.get("trained_on") else opened.train()
    drawn, val = concat(sets), opened.val()
    known = params.get("trained_on", False) is not None
    digest = read_json(extractor / "extractor.json")["digest"]
    images = {name: val.of(name).images() for name in val.classes}
    owned = {"train": units_of(train), "val": units_of(val)}

    def look(name: str) -> Looked:
        ours, learned = Sort.of(drawn, name), Sort.of(train, name, owned["train"])
        near = _near(ours, learned) if known else None
        others = {other: x for other, x in images.items() if other != name}
        held = Sort.of(val, name, owned["val"])
        said = {"extractor": digest} | judge(
            lambda x: features(model, x), ours, learned, held, others, params["seed"], near
        )
        if near is None:
            return said, [], None
        rows, both = worst_pairs(near, ours.images, learned.images)
        return said, [_named(row, name, drawn, train) for row in rows], both

    names = [name for name, n in drawn.counts.items() if n]
    # the processes of a launch take a class each in turn, whose figures are its own alone
    every = ranks.gather({name: look(name) for name in ranks.mine(names)})
    if ranks.main():
        looked = {name: each for found in every for name, each in found.items()}
        _write(out, {name: looked[name] for name in names}, val.shape)


def _write(out: Path, looked: Mapping[str, Looked], shape: tuple[int, int, int]) -> None:
    write_json(out / "fidelity.json", {name: said for name, (said, _, _) in looked.items()})
    write_json(out / "copies.json", [row for _, rows, _ in looked.values() for row in rows])
    pictures = [both for _, _, both in looked.values() if both is not None]
    none = np.empty((0, 2, *shape), np.uint8)
    np.save(out / "copies.npy", np.concatenate([none, *pictures]), allow_pickle=False)


@dataclass(frozen=True)
class Sort:
    """Particles of one class: images uint8 (N, C, H, W), um_per_px (N,) or NaN, units int64 (N,).

    Units are equal for particles that belong together.
    """

    images: np.ndarray
    um_per_px: np.ndarray
    units: np.ndarray

    @classmethod
    def of(cls, particles: ParticleSet, name: str, units: np.ndarray | None = None) -> "Sort":
        """Take a class out of a set, whose units are those of all its rows, or each its own."""
        if name not in particles.classes:
            return cls(np.empty((0, *particles.shape), np.uint8), np.empty(0), np.empty(0, int))
        here = np.flatnonzero(particles.table["label"] == name)
        scale = particles.table["um_per_px"].to_numpy(float)[here]
        return cls(particles.images(here), scale, here if units is None else units[here])


def judge(
    see: See,
    drawn: Sort,
    train: Sort,
    val: Sort,
    others: Mapping[str, np.ndarray],
    seed: int,
    near: Near | None = None,
) -> dict[str, Any]:
    """Return what `fidelity.json` says of one class.

    `see` turns images uint8 (N, C, H, W) into features (N, F); `val` are real images that the
    generator never saw, `others` those of the other classes; `near` the training images nearest to
    the drawn ones, None where nothing is to be said of copies.
    """
    found: dict[str, Any] = {"n_drawn": len(drawn.images), "n_real": len(val.images)}
    pairs = halvings(val.units, seed)
    size = min(len(drawn.images), LARGEST, *(len(half) for pair in pairs for half in pair))
    if size >= FEWEST:
        noise, ours, held = noise_like(val.images, seed), see(drawn.images), see(val.images)
        rest = {k: see(x[spaced(len(x), OTHERS)]) for k, x in others.items() if len(x) >= size}
        found["n_compared"] = size
        found |= distances(ours, held, see(noise), rest, val.units, size, seed)
        found |= _variety(ours, held, val.units, size, seed)
        found |= _looks(ours, held, drawn, val, seed)
    found |= _copies(drawn, train, val, near, seed) | _shifts(drawn, train, val, seed)
    return {**found, "verdict": verdict(found)[0], "words": words(found)}


def _variety(
    drawn: Tensor, held: Tensor, units: np.ndarray, size: int, seed: int
) -> dict[str, dict[str, float]]:
    pairs = subsets(len(drawn), len(held), size, SUBSETS, seed, "manifold")
    found = measured(drawn, held, pairs, (np.arange(len(drawn)), units), seed)
    two = [(a[:size], b[:size]) for a, b in halvings(units, seed)[:SUBSETS]]
    floor = measured(held, held, two, (units, units), seed)
    return found | {f"{name}_floor": row for name, row in floor.items()}


def _looks(ours: Tensor, held: Tensor, drawn: Sort, val: Sort, seed: int) -> dict[str, Any]:
    # descriptors, and the classifier that has them beside the features
    some = np.sort(draws.rng(seed, "described").permutation(len(ours))[:DESCRIBED])
    tables = measure(drawn.images[some]), measure(val.images)
    um = scales(drawn.um_per_px[some], val.um_per_px)
    a, b = (
        np.concatenate([x.double().numpy(), table.to_numpy(float)], axis=1)
        for x, table in zip((ours[torch.from_numpy(some)], held), tables, strict=True)
    )
    pairs = subsets(len(a), len(b), min(len(a), len(b), LARGEST), TRIALS, seed, "c2st")
    two = [tuple(x[: min(map(len, pair))] for x in pair) for pair in halvings(val.units, seed)]
    return {
        "c2st": c2st(a, b, pairs, (np.arange(len(a)) + 1 + int(val.units.max()), val.units), seed),
        "c2st_floor": c2st(b, b, two[:TRIALS], (val.units, val.units), seed),  # type: ignore[arg-type]
        "physical": physical(*tables, val.units, seed, um),
        "unsegmented": {
            side: float(np.isnan(table["area"].to_numpy(float)).mean())
            for side, table in zip(("drawn", "real"), tables, strict=True)
        },
    }


def _copies(drawn: Sort, train: Sort, val: Sort, near: Near | None, seed: int) -> dict[str, Any]:
    if near is None:
        return dict.fromkeys(COPIES)
    images, units = (drawn.images, train.images, val.images), (train.units, val.units)
    return {
        "copy_rate": float(near.copied().mean()),
        "copy_interval": copy_interval(near),
        # what the same test says of real images that cannot be copies, such as look-alike bubbles
        "copy_rate_floor": copy_rate(val.images, train.images),
        "copy_recall": copy_recall(train.images, seed),
        "memorised": memorised(*images, units, seed),
    }


def _near(drawn: Sort, real: Sort) -> Near | None:
    return nearest(drawn.images, real.images) if len(real.images) > 1 else None


def _shifts(drawn: Sort, train: Sort, val: Sort, seed: int) -> dict[str, Any]:
    real = np.concatenate([train.images, val.images])
    units = np.concatenate([train.units, val.units + 1 + int(train.units.max(initial=0))])
    found: dict[str, Any] = {}
    for name, level in (("background", background), ("grey", _grey)):
        a, b = level(drawn.images).mean(axis=1), level(real).mean(axis=1)
        rng = draws.rng(seed, "shift", name)
        found[f"{name}_shift_sd"] = _shift(a, b)
        each = [
            _shift(a, b, v, w)
            for v, w in zip(again(np.arange(len(a)), rng), again(units, rng), strict=True)
        ]
        low, high = np.quantile(each, TAILS)
        row = {"value": found[f"{name}_shift_sd"], "low": float(low), "high": float(high)}
        found[f"{name}_shift"] = row
    return found


def _grey(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(2, 3))


def _shift(
    drawn: np.ndarray,
    real: np.ndarray,
    v: np.ndarray | None = None,
    w: np.ndarray | None = None,
) -> float:
    # levels (N,), weighted by how often each image counts
    middle = np.average(real, weights=w)
    sd = np.sqrt(np.average((real - middle) ** 2, weights=w))
    return float((np.average(drawn, weights=v) - middle) / max(sd, ROUNDING))


def _named(
    row: Mapping[str, Any], name: str, drawn: ParticleSet, train: ParticleSet
) -> dict[str, Any]:
    ids = {
        side: str(each.table.loc[each.table["label"] == name, "id"].iloc[row[side]])
        for side, each in (("drawn", drawn), ("train", train))
    }
    return {"class": name, **row, **ids}
