"""One fold of a split: its training and validation particles dealt out anew, the test set kept."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.draws import rng
from svpkit.errors import SvpkitError
from svpkit.particles import grouping
from svpkit.particles.grouping import units_of
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.particles.split import Split, described, groups_of
from svpkit.store import stage


@stage(revision=1)
def fold(out: Path, params: Mapping[str, Any], split: Path) -> None:
    """Write one fold of a split's train and val as a split: val is the fold, train the others.

    `params`: fold (0 .. folds - 1), folds, seed. Groups stay whole and classes are dealt evenly;
    the test set is the one locked before. Nothing may be chosen on val, so that what is said of it
    is out of fold. Raises SvpkitError where a fold would be empty, or would hold all of a class.
    """
    whole = Split.open(split)
    if whole.record.get("also"):
        raise SvpkitError("data.also: particles that only train are in no fold; leave them out")
    particles = concat([whole.train(), whole.val()])
    names = ("train.npy", "val.npy", "test.npy")
    train, val, test = (np.load(split / name, allow_pickle=False) for name in names)
    positions = np.concatenate([train, val])
    columns = (whole.record["group"], "source", "digest")
    together = units_of(*(groups_of(particles, name) for name in columns))
    dealt = deal(particles, together, params["folds"], params["seed"])
    here = dealt == params["fold"]
    for name, mask in (("train", ~here), ("val", here)):
        np.save(out / f"{name}.npy", positions[mask], allow_pickle=False)
    np.save(out / "test.npy", test, allow_pickle=False)
    sets = {
        name: described(particles.take(mask), whole.record["group"])
        for name, mask in (("train", ~here), ("val", here))
    }
    record = whole.record | {
        "choose_on_val": False,
        "sets": sets | {"test": whole.record["sets"]["test"]},
        "near_duplicates": {"n": 0, "unsearched": 0, "pairs": []},
        "notes": [f"fold {params['fold'] + 1} of {params['folds']} of another split"],
    }
    (out / "split.json").write_text(json.dumps(record, indent=1, allow_nan=False))


def deal(particles: ParticleSet, together: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each particle as `grouping.deal` does: int64 (N,).

    Raises SvpkitError where a fold stays empty or a class stands in one fold alone.
    """
    random = partial(rng, seed, "audit", "fold")
    dealt = grouping.deal(particles.labels, together, folds, random)
    _check(particles, dealt, folds)
    return dealt


def _check(particles: ParticleSet, dealt: np.ndarray, folds: int) -> None:
    empty = folds - len(np.unique(dealt))
    if empty:
        raise SvpkitError(f"{folds} folds: {empty} would be empty; ask for fewer")
    for c, name in enumerate(particles.classes):
        n = np.bincount(dealt[particles.labels == c], minlength=folds)
        if np.count_nonzero(n) < 2:
            raise SvpkitError(
                f"{folds} folds: all {n.sum()} '{name}' are of one group or picture, so that "
                "nothing would be left to learn the class from"
            )
