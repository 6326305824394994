"""Glass, fibre and rubber told from the known classes, by a classifier that never saw them.

    uv run python benchmarks/unknown.py         # writes results/unknown.csv

Simulated particles of 32 x 32 pixels. The quickstart's classifier (even sampling, augmentation,
40,000 images seen), a seed each for split and training; then exports of its own seed: 10,000
proteins, 100 oil droplets and 100 air bubbles with none or 300 of one kind of stranger. Nothing of
a stranger is in training, validation or the choice of thresholds. `--runs` and `--store` are where
the runs go (a folder that is thrown away, by default).

A row is a score at the levels that were chosen for it: share of strangers flagged (`recall`),
AUROC of strangers against all known particles, and against those that bear the same name
(`auroc_alike`, the mean over strangers: what a threshold a class is up against), particles named
unknown, share of each class flagged (`lost`), and named / true - 1 of each class without the
detector (`before`) and with it (`after`). One score a run is the run's own (`chosen`); `level` is
empty where it flags nothing.
"""

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import svpkit
from svpkit.classify import strangeness
from svpkit.classify.unknown import Detector, Seen, thresholds_at
from svpkit.deployed import Deployed
from svpkit.particles.ingest import import_set
from svpkit.particles.split import Split
from svpkit.plugins import discover
from svpkit.reference import SAMPLE

HERE = Path(__file__).parent
RESULTS, RECIPE = HERE / "results" / "unknown.csv", HERE.parent / "recipes" / "quickstart.toml"
KNOWN = {"protein": 10_000, "silicone_oil": 100, "air_bubble": 100}
STRANGERS, MANY, SEEDS = ("none", "glass", "fibre", "rubber"), 300, (0, 1, 2)
OVERRIDES = ('balance.strategies=["oversample", "augment"]', "baselines=[]")
OVERRIDES += ("classifier.train.images=40000",)
HEAD = ["seed", "stranger", "score", "chosen", "recall", "auroc", "auroc_alike", "unknown"]
HEAD += [f"{what}_{c}" for what in ("level", "lost", "before", "after") for c in sorted(KNOWN)]


def export(folder, counts, seed, registry):
    """Return simulated particles of a seed."""
    options = counts | {"pixels": 32, "binning": 2, "seed": seed}
    return import_set(folder, registry.use("reader", "simulated", options, "reader"), None, size=32)


def look(model, particles, classes):
    """Return what the classifier says of particles; -1 is the label of what it does not know."""
    blocks = [(logits, features) for _, logits, features in model.outputs(particles)]
    logits, features = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    own = {name: i for i, name in enumerate(classes)}
    names = [own.get(name, -1) for name in particles.table["label"].astype(str)]
    return Seen(features, logits, np.array(names))


def detectors(run, deployed, registry):
    """Yield each score's detector, its level, and whether it is the run's own."""
    kept = json.loads((run.folder / "run.json").read_text())
    sets = Split.open(Path(kept["store"]) / kept["artifacts"]["split"]["name"])
    model, own, k = deployed.model, deployed.detector, len(deployed.classes)
    train = sets.train()
    train = look(model, train.take(strangeness.spread(train.labels, SAMPLE)), deployed.classes)
    val = look(model, sets.val(), deployed.classes)
    for name, found in own.found["tried"].items():
        fitted = strangeness.fit(name, train.features, train.logits, train.labels)
        tried = Detector(deployed.classes, name, np.full(k, np.inf), fitted)
        scores = tried.score(val.features, val.logits).astype(np.float64)
        level = np.array([found["level"][c] for c in deployed.classes])
        limit = thresholds_at(level, scores, val.labels, val.names, k)
        chosen = name == own.name and bool(np.isfinite(own.thresholds).all())
        if chosen:
            np.testing.assert_allclose(limit, own.thresholds, rtol=1e-5)
        useful = found["distortion"] < own.found["none"]["distortion"]
        yield replace(tried, thresholds=limit if useful else tried.thresholds), found, chosen


def error(names, labels, k):
    """Return named / true - 1 of each of k classes."""
    return np.bincount(names, minlength=k + 1)[:k] / np.bincount(labels[labels >= 0]) - 1


def alike(scores, odd, names):
    """Return the AUROC of strangers against what bears the same name, the mean over strangers."""
    there = [names == c for c in np.unique(names[odd])]
    each = [
        (odd[at].sum(), roc_auc_score(odd[at], scores[at])) for at in there if not odd[at].all()
    ]
    return np.average([area for _, area in each], weights=[n for n, _ in each])


def measure(detector, seen, strange):
    """Return recall, two AUROCs, how many are named unknown, lost, errors before and after."""
    k = len(detector.classes)
    both = Seen(
        np.concatenate([seen.features, strange.features]),
        np.concatenate([seen.logits, strange.logits]),
        np.concatenate([seen.labels, strange.labels]),
    )
    flagged = detector.flags(both.features, both.logits)
    odd, named = both.labels < 0, np.where(flagged, k, both.names)
    ranked = [""] * 3
    if odd.any():
        scores = detector.score(both.features, both.logits)
        areas = roc_auc_score(odd, scores), alike(scores, odd, both.names)
        ranked = [f"{x:.3f}" for x in (flagged[odd].mean(), *areas)]
    lost = [flagged[both.labels == c].mean() for c in range(k)]
    errors = [*error(both.names, both.labels, k), *error(named, both.labels, k)]
    return [*ranked, int(flagged.sum()), *(f"{x:.3f}" for x in (*lost, *errors))]


def rows_of(seed, place, runs, store, registry):
    """Yield the rows of one seed."""
    own = (f'name="unknown-{seed}"', f"seed={seed}", *OVERRIDES)
    run = svpkit.run(RECIPE, overrides=own, runs=runs, store=store, registry=registry)
    deployed = Deployed.open(run.folder / "model", registry)
    model, classes = deployed.model, deployed.classes
    assert list(classes) == sorted(KNOWN)
    seen = look(model, export(place / f"known-{seed}", KNOWN, 100 + seed, registry), classes)
    none = Seen(seen.features[:0], seen.logits[:0], seen.labels[:0])
    tried = list(detectors(run, deployed, registry))
    for name in STRANGERS:
        strange = none
        if name != "none":
            drawn = export(place / f"{name}-{seed}", {name: MANY}, 100 + seed, registry)
            strange = look(model, drawn, classes)
        for detector, found, chosen in tried:
            said = measure(detector, seen, strange)
            used = np.isfinite(detector.thresholds)
            levels = [found["level"][c] if u else "" for c, u in zip(classes, used, strict=True)]
            yield [seed, name, detector.name, int(chosen), *said[:4], *levels, *said[4:]]


def main():
    """Measure each seed and stranger, and write the table."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--runs", type=Path)
    asked.add_argument("--store", type=Path)
    given, registry, rows = asked.parse_args(), discover(), [HEAD]
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        runs, store = given.runs or place / "runs", given.store or place / "store"
        for seed in SEEDS:
            for row in rows_of(seed, place, runs, store, registry):
                rows.append(row)
                print(*row, flush=True)
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
