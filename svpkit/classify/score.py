"""The stage `score`: a trained classifier meets the locked test set, here and nowhere else."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from svpkit import ranks
from svpkit.classify.model import Model
from svpkit.disk import write_json
from svpkit.drawn_index import Index
from svpkit.particles.particleset import ParticleSet, batches
from svpkit.particles.split import Split, groups_of, refuse_drawn
from svpkit.store import stage

# Errors whose pictures are kept for the report.
WORST = 48
# Particles looked at between two files that a score which was ended goes on from.
PART, CHUNKS = 65_536, "chunks"


@stage(revision=2, everywhere=True, resumes=True)
def score(out: Path, params: Mapping[str, Any], classifier: Path, split: Path) -> None:
    """Write `test.parquet` and `val.parquet`: a row a particle, in the set's order.

    Columns: id, label, label_code, p_<class> (probabilities, adjusted as the strategies say),
    logit_<class> (before), ecd_um (um), group, source. The pictures of the errors on the test set
    that the classifier was surest of lie beside them in `worst.npy`, their rows in `worst.json`.
    `params`: classifier (Use), strategies (Uses), prevalence. Raises SvpkitError when a drawn
    particle stands in either set. What was looked at stays in `chunks` until all is: a score that
    was ended goes on there.
    """
    model = Model.load(classifier, params["classifier"], params["strategies"], params["prevalence"])
    sets = Split.open(split)
    index, by = Index(sets.store), {"stage": "score", "artifact": out.name}
    test = sets.test(**by, classifier=classifier.name)
    for name, particles in (("val", sets.val()), ("test", test)):
        refuse_drawn(particles, name, index)
        logits = shared_logits(model, particles, out / CHUNKS / name)
        p = model.adjusted(logits)
        blocks = _tables(model, particles, p, logits, sets.record["group"])
        path = out / f"{name}.parquet"
        ranks.on_main(lambda path=path, blocks=blocks: _write(path, blocks))
    worst = _worst(p, particles.with_classes(model.classes).labels)
    pictures = particles.take(worst).images()
    ranks.on_main(lambda: np.save(out / "worst.npy", pictures, allow_pickle=False))
    ranks.on_main(lambda: write_json(out / "worst.json", worst.tolist()))


def predictions(model: Model, particles: ParticleSet) -> pd.DataFrame:
    """Return a table of predictions, a row a particle; the processes of a launch share the work."""
    logits = shared_logits(model, particles)
    return _table(model, particles, model.adjusted(logits), logits)


def _table(
    model: Model, particles: ParticleSet, probabilities: np.ndarray, logits: np.ndarray
) -> pd.DataFrame:
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
    return _worst(p, rows["label_code"].to_numpy(), most)


def _worst(p: np.ndarray, labels: np.ndarray, most: int = WORST) -> np.ndarray:
    wrong = np.flatnonzero(p.argmax(1) != labels)
    return wrong[np.argsort(-p[wrong].max(1), kind="stable")][:most]


def shared_logits(model: Model, particles: ParticleSet, folder: Path | None = None) -> np.ndarray:
    """Return the logits float32 (N, K), every process having done its share of the rows.

    In `folder` they are kept part by part: what is there already is not looked at again.
    """
    if folder is None:
        return np.concatenate(ranks.gather(model.logits(_mine(model, particles))))
    rows = ranks.share(len(particles), model.block)
    folder.mkdir(parents=True, exist_ok=True)
    # whole blocks, which come out alike wherever they are done
    step = max(PART // model.block, 1) * model.block
    starts = range(rows.start, rows.stop, step) or [rows.start]
    parts = [slice(at, min(at + step, rows.stop)) for at in starts]
    own = [_kept(model, particles, part, folder) for part in parts]
    return np.concatenate(ranks.gather(np.concatenate(own)))


def _kept(model: Model, particles: ParticleSet, part: slice, folder: Path) -> np.ndarray:
    path = folder / f"{part.start:012d}-{part.stop:012d}.npy"
    if not path.is_file():
        found = model.logits(particles.take(np.arange(part.start, part.stop)))
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, found, allow_pickle=False)
            # a name that outlives a power cut must not stand for an empty file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return np.load(path, allow_pickle=False)


def _tables(
    model: Model, particles: ParticleSet, p: np.ndarray, logits: np.ndarray, group: str | None
) -> Iterator[pd.DataFrame]:
    # never all rows at once: the texts of millions would be the largest thing here
    for block in list(batches(len(particles), PART)) or [slice(0, 0)]:
        some = particles.take(np.arange(block.start, block.stop))
        yield _table(model, some, p[block], logits[block]).assign(group=groups_of(some, group))


def _write(path: Path, tables: Iterator[pd.DataFrame]) -> None:
    first = pa.Table.from_pandas(next(tables), preserve_index=False)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for each in tables:
            writer.write_table(pa.Table.from_pandas(each, first.schema, preserve_index=False))


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
