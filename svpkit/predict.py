"""A run put to work: the particles of a folder or an export named, and counted per class."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError
from svpkit.evaluate.thresholds import REJECTED, assign, limits
from svpkit.keep import read_thresholds
from svpkit.particles.ingest import QUARANTINE, import_set
from svpkit.particles.particleset import ParticleSet, batches

if TYPE_CHECKING:
    from svpkit.classify.model import Model
    from svpkit.plugins import Registry, Use

BLOCK = 16_384
KEPT = ("id", "source", "group", "ecd_um", "um_per_px")


def predict_source(
    run: Path, registry: "Registry", reader: "Use", source: Path, out: Path
) -> pd.DataFrame:
    """Name every particle of `source` and write `out`: predictions (parquet, CSV) and counts.csv.

    What reaches no threshold is named "rejected", where the recipe requires a precision. Files that
    cannot be read are listed in quarantine.csv. Returns the counts per class. Raises SvpkitError
    where the run holds no model, thresholds of another one, or the input no particle.
    """
    from svpkit.classify.model import Model

    model = Model.open(run / "model", registry)
    limit = thresholds_of(run / "model", model.spec.classes)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=out, prefix=".particles-", ignore_cleanup_errors=True
    ) as place:
        folder = Path(place) / "set"
        particles = import_set(
            folder, reader, source, size=model.spec.size, channels=model.spec.channels
        )
        _write(out, model, particles, limit)
        if (folder / QUARANTINE).is_file():
            shutil.copyfile(folder / QUARANTINE, out / QUARANTINE)
    binned = () if limit is None else (REJECTED,)
    return _counts(out, (*model.spec.classes, *binned))


def thresholds_of(model: Path, classes: Sequence[str]) -> np.ndarray | None:
    """Return the threshold of each class (K,) that a model's names are held to; None where none.

    Raises SvpkitError where those in the folder were chosen for other weights.
    """
    found = read_thresholds(model)
    return None if found is None else limits(found, classes)


def names(p: np.ndarray, classes: Sequence[str], limit: np.ndarray | None = None) -> np.ndarray:
    """Return the likeliest class of each particle (N,) from probabilities p (N, K).

    With thresholds `limit` (K,), "rejected" where the class does not reach its own.
    """
    if limit is None:
        return np.asarray(classes)[p.argmax(1)]
    return np.asarray([*classes, REJECTED])[assign(p, limit)]


def named(
    model: "Model", particles: ParticleSet, limit: np.ndarray | None = None
) -> Iterator[pd.DataFrame]:
    """Yield predictions in blocks: the particle's columns, `predicted`, a probability a class.

    All particles are looked at before the first is named: strategies that estimate the mix at work
    (em, bbse) estimate it from the whole input.
    """
    classes = model.spec.classes
    probabilities = model.probabilities(particles)
    for block in batches(len(particles), BLOCK):
        p = probabilities[block]
        table = particles.table.iloc[block].reset_index(drop=True)[list(KEPT)]
        table.insert(1, "predicted", names(p, classes, limit))
        yield pd.concat([table, pd.DataFrame(p, columns=[f"p_{c}" for c in classes])], axis=1)


def _write(
    out: Path, model: "Model", particles: ParticleSet, limit: np.ndarray | None = None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not len(particles):
        raise SvpkitError(f"{out}: no particle to name")
    csv = out / "predictions.csv"
    csv.unlink(missing_ok=True)
    writer = None
    try:
        for table in named(model, particles, limit):
            table.to_csv(csv, mode="a", index=False, header=writer is None)
            rows = pa.Table.from_pandas(table.astype({c: str for c in KEPT[:3]}))
            writer = writer or pq.ParquetWriter(out / "predictions.parquet", rows.schema)
            writer.write_table(rows)
    finally:
        if writer:
            writer.close()


def _counts(out: Path, classes: tuple[str, ...]) -> pd.DataFrame:
    predicted = pd.read_parquet(out / "predictions.parquet", columns=["predicted"])["predicted"]
    n = predicted.value_counts().reindex(list(classes), fill_value=0)
    counts = pd.DataFrame({"class": list(classes), "particles": n.to_numpy()})
    counts["share"] = (counts["particles"] / max(len(predicted), 1)).round(5)
    counts.to_csv(out / "counts.csv", index=False)
    return counts
