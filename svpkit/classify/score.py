"""The stage `score`: a trained classifier meets the locked test set, here and nowhere else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit import ranks
from svpkit.classify.model import Model
from svpkit.drawn_index import Index
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split, groups_of, refuse_drawn
from svpkit.store import stage, write_json

# Errors whose pictures are kept for the report.
WORST = 48


@stage(revision=2, everywhere=True)
def score(out: Path, params: Mapping[str, Any], classifier: Path, split: Path) -> None:
    """Write `test.parquet` and `val.parquet`: a row a particle, in the set's order.

    Columns: id, label, label_code, p_<class> (probabilities, adjusted as the strategies say),
    logit_<class> (before), ecd_um (um), group, source. The pictures of the errors on the test set
    that the classifier was surest of lie beside them in `worst.npy`, their rows in `worst.json`.
    `params`: classifier (Use), strategies (Uses), prevalence. Raises SvpkitError when a drawn
    particle stands in either set.
    """
    model = Model.load(classifier, params["classifier"], params["strategies"], params["prevalence"])
    sets = Split.open(split)
    index, by = Index(sets.store), {"stage": "score", "artifact": out.name}
    test = sets.test(**by, classifier=classifier.name)
    for name, particles in (("val", sets.val()), ("test", test)):
        refuse_drawn(particles, name, index)
        rows = predictions(model, particles)
        rows["group"] = groups_of(particles, sets.record["group"])
        ranks.on_main(lambda rows=rows, name=name: rows.to_parquet(out / f"{name}.parquet"))
    worst = worst_errors(rows, model.classes)
    pictures = particles.take(worst).images()
    ranks.on_main(lambda: np.save(out / "worst.npy", pictures, allow_pickle=False))
    ranks.on_main(lambda: write_json(out / "worst.json", worst.tolist()))


def predictions(model: Model, particles: ParticleSet) -> pd.DataFrame:
    """Return a table of predictions, a row a particle; the processes of a launch share the work."""
    logits = shared_logits(model, particles)
    probabilities = model.adjusted(logits)
    table, labels = particles.table, particles.with_classes(model.classes).labels
    columns = {"id": table["id"], "label": table["label"].astype(str), "label_code": labels}
    for k, name in enumerate(model.classes):
        columns[f"p_{name}"] = probabilities[:, k]
    for k, name in enumerate(model.classes):
        columns[f"logit_{name}"] = logits[:, k]
    more = {name: table[name] for name in ("ecd_um", "source")}
    return pd.DataFrame(columns | more)


def worst_errors(rows: pd.DataFrame, classes: Sequence[str], most: int = WORST) -> np.ndarray:
    """Return the rows int64 (n,) of the errors that the classifier was surest of, worst first."""
    p = rows[[f"p_{name}" for name in classes]].to_numpy()
    wrong = np.flatnonzero(p.argmax(1) != rows["label_code"].to_numpy())
    return wrong[np.argsort(-p[wrong].max(1), kind="stable")][:most]


def shared_logits(model: Model, particles: ParticleSet) -> np.ndarray:
    """Return the logits float32 (N, K), every process having done its share of the rows."""
    return np.concatenate(ranks.gather(model.logits(_mine(model, particles))))


def shared_outputs(
    model: Model, images: np.ndarray | ParticleSet
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return logits float32 (N, K) and features float32 (N, F) or None; every process did a share.

    `images` are a set or uint8 (N, C, S, S).
    """
    own = [(logits, features) for _, logits, features in model.outputs(_mine(model, images))]
    blocks = [block for each in ranks.gather(own) for block in each]
    logits = np.concatenate([block[0] for block in blocks])
    if any(block[1] is None for block in blocks):
        return logits, None
    return logits, np.concatenate([np.asarray(block[1]) for block in blocks])


def _mine(model: Model, images: Any) -> Any:
    if not ranks.many():
        return images
    rows = ranks.share(len(images), model.block)
    of_set = isinstance(images, ParticleSet)
    return images.take(np.arange(rows.start, rows.stop)) if of_set else images[rows]
