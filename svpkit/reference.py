"""The stage `reference`: what a classifier says of validation, for new input to be held to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from svpkit import ranks
from svpkit.classify.appearance import statistics
from svpkit.classify.model import Model
from svpkit.classify.score import shared_outputs
from svpkit.classify.shift import FEWEST, Shift
from svpkit.classify.strangeness import spread
from svpkit.classify.strangers import sources, strangers
from svpkit.classify.unknown import Seen, choose
from svpkit.disk import write_json
from svpkit.evaluate import calibration, conformal
from svpkit.evaluate.reliability import measures, reliability
from svpkit.particles.describe import diameters
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split
from svpkit.store import stage

FORMAT = 2
ARRAYS, RECORD = "reference.safetensors", "reference.json"
# Training particles that strangeness is measured by, and those that are harmed to make strangers.
SAMPLE, HARMED = 5_000, 1_000
ALPHA = 0.05


@stage(revision=3, everywhere=True)
def reference(
    out: Path, params: Mapping[str, Any], classifier: Path, split: Path, score: Path
) -> None:
    """Write `reference.json` and `reference.safetensors`: all that `predict` holds new input to.

    A calibrator chosen on val and how well it does (cross-fitted on val, and on test), conformal
    quantiles, the detector of unknown particles, what val looks like (for the test of shift), and
    of each val particle its size and whether it would be flagged. `params`: classifier (Use),
    strategies (Uses), prevalence, seed.
    """
    model = Model.load(classifier, params["classifier"], params["strategies"], params["prevalence"])
    sets, seed = Split.open(split), params["seed"]
    val, rows = sets.val(), pd.read_parquet(score / "val.parquet")
    labels, logits = rows["label_code"].to_numpy(), _logits(rows, model)
    seen = _seen(model, val, labels)
    known, strange = _examples(model, sets.train(), seed)
    if not ranks.main():
        # what is left is arithmetic on what all of them have seen
        return
    detector = choose(known, seen, strange, model.classes)
    shift = _shift(model, val, rows, seen)
    said, p = _calibration(rows, pd.read_parquet(score / "test.parquet"), model, labels, seed)
    quantiles = conformal.quantiles(labels, p, ALPHA)
    said |= {
        "format": FORMAT,
        "simulated": "simulated" in set(val.table["origin"].astype(str)),
        "conformal": {"alpha": ALPHA, "quantiles": [_finite(q) for q in quantiles]},
        "unknown": detector.to_json(),
        "shift": None if shift is None else shift.to_json(),
    }
    arrays = {f"unknown.{name}": a for name, a in detector.arrays().items()}
    arrays |= {} if shift is None else {f"shift.{name}": a for name, a in shift.arrays().items()}
    arrays["val.flagged"] = detector.flags(seen.features, logits).astype(np.uint8)
    arrays["val.ecd_um"] = sizes(val)
    arrays["seen"] = np.unique(np.concatenate([marks(sets.train()), marks(val)]))
    said["size_ratio"] = size_ratio(val)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, out / ARRAYS)
    write_json(out / RECORD, said)


def sizes(particles: ParticleSet) -> np.ndarray:
    """Return the ECD (N,) in um: the instrument's, else measured on the pixels where it gave none.

    NaN where the scale is not known either, or nothing stands out from the background.
    """
    found = particles.table["ecd_um"].to_numpy(float, copy=True)
    scale = particles.table["um_per_px"].to_numpy(float)
    wanted = np.flatnonzero(np.isnan(found) & (scale > 0))
    for block in np.array_split(wanted, max(1, len(wanted) // 4096)):
        if len(block):
            found[block] = diameters(particles.images(block), scale[block])
    return found


def marks(particles: ParticleSet) -> np.ndarray:
    """Return the first 64 bits of the digest of each picture, uint64 (N,)."""
    digests = particles.table["digest"] if len(particles) else ()
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)


def size_ratio(particles: ParticleSet, most: int = 500) -> float | None:
    """Return the instrument's ECD over that of the pixels, their median over particles at hand.

    Instruments mean different diameters by a size. 1 where sizes are those of the pixels, None
    where fewer than 20 have both.
    """
    given = particles.table["ecd_um"].to_numpy(float)
    scale = particles.table["um_per_px"].to_numpy(float)
    rows = np.flatnonzero((scale > 0) & (np.isnan(given) | (given > 0)))
    rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]
    if not len(rows):
        return None
    pixels = diameters(particles.images(rows), scale[rows])
    ratio = np.where(np.isnan(given[rows]), 1.0, given[rows] / pixels)
    ratio = ratio[np.isfinite(ratio) & np.isfinite(pixels)]
    return float(np.median(ratio)) if len(ratio) >= 20 else None


def _logits(rows: pd.DataFrame, model: Model) -> np.ndarray:
    return rows[[f"logit_{name}" for name in model.classes]].to_numpy(np.float32)


def _seen(model: Model, images: np.ndarray | ParticleSet, labels: np.ndarray | None = None) -> Seen:
    logits, features = shared_outputs(model, images)
    return Seen(features, logits, labels)


def _examples(model: Model, train: ParticleSet, seed: int) -> tuple[Seen, Seen]:
    # training particles, and strangers made of some of them
    some = train.take(spread(train.labels, SAMPLE))
    harmed = sources(some.labels, HARMED)
    seeds = np.random.Generator(np.random.Philox([seed, 0x57A])).integers(0, 2**62, len(harmed))
    strange = _seen(model, strangers(some.images(harmed), seeds))
    return _seen(model, some, some.labels), strange


def _shift(model: Model, val: ParticleSet, rows: pd.DataFrame, seen: Seen) -> Shift | None:
    if len(val) < 2 * FEWEST:
        return None
    pick = spread(np.asarray(seen.labels), SAMPLE)
    features = None if seen.features is None else seen.features[pick]
    groups = rows["group"].to_numpy(object)[pick] if "group" in rows else None
    return Shift.fit(
        features,
        np.asarray(seen.labels)[pick],
        seen.logits[pick].argmax(1),
        statistics(val.images(pick)),
        model.classes,
        groups=groups,
        um_per_px=val.table["um_per_px"].to_numpy(float)[pick],
    )


def _calibration(
    val: pd.DataFrame, test: pd.DataFrame, model: Model, labels: np.ndarray, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    logits = _logits(val, model)
    groups = _groups(val)
    chosen, tried = calibration.choose(logits, labels, seed=seed, groups=groups)
    p = calibration.cross_fit(logits, labels, chosen.kind, seed=seed, groups=groups)
    raw = calibration.fit(logits, labels, "none")
    found = {"val": (labels, p, raw(logits), groups)}
    if len(test):
        own, given = test["label_code"].to_numpy(), _logits(test, model)
        found["test"] = own, chosen(given), raw(given), _groups(test)
    said = {
        name: {
            "calibrated": measures(own, after, seed=seed, replicates=500, groups=group),
            "before": measures(own, before, seed=seed, replicates=500, groups=group),
            "reliability": reliability(own, after),
        }
        for name, (own, after, before, group) in found.items()
    }
    return {"calibrator": chosen.to_json(), "tried": tried, "calibration": said}, p


def _groups(rows: pd.DataFrame) -> np.ndarray | None:
    groups = rows["group"].astype(str).to_numpy(object)
    return groups if len(set(groups)) > 1 and len(set(groups)) < len(groups) else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
