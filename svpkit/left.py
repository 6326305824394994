"""What a walk left in the store, read back for results, reports and people."""

from typing import Any

import numpy as np

from svpkit.bind import Experiment
from svpkit.evaluate.evidence import classes_of, probabilities, read_predictions
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split
from svpkit.pipeline import Walked
from svpkit.safe import read_json
from svpkit.store import Artifact

GALLERY = 24
WORST = 24


def read_evidence(walked: Walked) -> dict[str, Any]:
    """Return the evidence of an experiment."""
    return read_json(walked.evidence.path / "evidence.json")


def read_calibration(walked: Walked) -> dict[str, Any]:
    """Return the calibrator of the recipe's own arm and its measures, empty where not deployed."""
    if walked.reference is None:
        return {}
    found = read_json(walked.reference.path / "reference.json")
    return {name: found[name] for name in ("calibrator", "calibration")}


def read_fidelity(walked: Walked) -> dict[str, Any]:
    """Return the fidelity of the drawn particles by class, empty where none were drawn."""
    if walked.fidelity is None:
        return {}
    return read_json(walked.fidelity.path / "fidelity.json")


def read_copies(walked: Walked) -> list[dict[str, Any]]:
    """Return the drawn particles most like copies, each with its training image."""
    if walked.fidelity is None:
        return []
    folder = walked.fidelity.path
    pictures = np.load(folder / "copies.npy", allow_pickle=False)
    rows = read_json(folder / "copies.json", list)
    pairs = zip(rows, pictures, strict=True)
    return [{**row, "drawn": both[0], "train": both[1]} for row, both in pairs]


def read_selection(walked: Walked, name: str) -> dict[str, Any]:
    """Return what was set aside of a generator's drawn particles, empty where nothing was."""
    sets = next((d for d in walked.drawn.values() if d), {})
    path = sets[name].path / "selection.json" if name in sets else None
    return read_json(path) if path and path.is_file() else {}


def gallery(split: Split, walked: Walked, experiment: Experiment) -> dict[str, Any]:
    """Return a few real training images of each class, and drawn ones where there are any."""
    train = split.train()
    sets = next((d for d in walked.drawn.values() if d), {})
    drawn = [ParticleSet.open(a.path) for a in sets.values()]
    shown = {}
    for name in train.classes:
        real = np.flatnonzero(train.table["label"] == name)[:GALLERY]
        made = [d.of(name) for d in drawn if name in d.classes and d.counts[name]]
        few = made[0].images(slice(GALLERY)) if made else None
        shown[name] = {"real": train.images(real), "drawn": few}
    return shown


def worst_errors(score: Artifact) -> list[dict[str, Any]]:
    """Return the most confident errors on the test set, with their pictures."""
    table = read_predictions(score.path / "test.parquet")
    pictures = np.load(score.path / "worst.npy", allow_pickle=False)
    rows = read_json(score.path / "worst.json", list)
    classes, p = classes_of(table), probabilities(table)
    found = []
    for row, image in list(zip(rows, pictures, strict=True))[:WORST]:
        k = int(p[row].argmax())
        said = {"predicted": classes[k], "probability": float(p[row, k]), "image": image}
        found.append({**table.loc[row, ["id", "label", "ecd_um"]].to_dict(), **said})
    return found
