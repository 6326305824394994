"""Every particle of a run named, calibrated and sized, in bounded memory; the tables of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit.cells import safe_table
from svpkit.classify.model import softmax
from svpkit.deployed import Deployed
from svpkit.particles.particleset import ParticleSet, batches
from svpkit.reference import sizes

if TYPE_CHECKING:
    from svpkit.looked import Read

BLOCK = 16_384
KEPT = ("id", "run", "particle_id", "source", "group", "timestamp", "um_per_px")


@dataclass(frozen=True)
class Named:
    """What a classifier says of N particles.

    logits float32 (N, K), before any adjustment; flagged bool (N,), what is unknown. `codes` int
    (N,) are positions in `Deployed.names`; p and calibrated float32 (N, K); members bool (N, K),
    the conformal sets; ecd_um (N,) in um, `measured` bool (N,) where it is of the pixels;
    `features` (N, F) in a file, or None where they were not asked for.
    """

    logits: np.ndarray
    flagged: np.ndarray
    codes: np.ndarray
    p: np.ndarray
    calibrated: np.ndarray
    members: np.ndarray
    ecd_um: np.ndarray
    measured: np.ndarray
    features: np.ndarray | None


def name_all(deployed: Deployed, particles: ParticleSet, keep: Path | None = None) -> Named:
    """Name all particles of a run; with a path to `keep` them in, their features too.

    All are looked at before the first is named: strategies that estimate the mix at work (em,
    bbse) estimate it from the whole run.
    """
    n, k, model = len(particles), len(deployed.classes), deployed.model
    logits, flagged = np.empty((n, k), np.float32), np.empty(n, bool)
    kept: Any = None
    for rows, own, features in model.outputs(particles):
        logits[rows] = own
        flagged[rows] = deployed.detector.flags(features, own)
        if keep and features is not None:
            if kept is None:
                shape = (n, features.shape[1])
                kept = np.lib.format.open_memmap(keep, "w+", np.float32, shape)
            kept[rows] = features
    p = model.adjusted(logits) if n else logits
    calibrated = deployed.calibrator(logits).astype(np.float32)
    found = sizes(particles)
    given = particles.table["ecd_um"].notna().to_numpy()
    codes = deployed.named(p, flagged)
    members = deployed.sets(calibrated)
    return Named(logits, flagged, codes, p, calibrated, members, found, ~given, kept)


def renamed(deployed: Deployed, own: Named, rule: np.ndarray | None) -> Named:
    """Return particles named by the rule of an input that they are counted with."""
    if rule is None:
        return own
    p = softmax(own.logits + rule)
    return replace(own, p=p, codes=deployed.named(p, own.flagged))


def write_tables(
    out: Path, deployed: Deployed, found: Sequence["Read"], named: Sequence[Named]
) -> None:
    """Write predictions.parquet and predictions.csv, a row a particle, in blocks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, csv = None, out / "predictions.csv"
    try:
        for read, own in zip(found, named, strict=True):
            for block in batches(len(read.particles), BLOCK):
                table = _block(deployed, read, own, block)
                safe_table(table).to_csv(csv, mode="a", index=False, header=writer is None)
                rows = pa.Table.from_pandas(table, preserve_index=False)
                writer = writer or pq.ParquetWriter(out / "predictions.parquet", rows.schema)
                writer.write_table(rows)
    finally:
        if writer:
            writer.close()


def _block(deployed: Deployed, read: "Read", own: Named, block: slice) -> pd.DataFrame:
    given = read.particles.table.iloc[block]
    table = {name: _text(given, name) for name in KEPT if name != "um_per_px"}
    table["run"] = np.full(len(given), read.name, object)
    table["predicted"] = np.array(deployed.names, object)[own.codes[block]]
    table["set"] = _sets(deployed.classes, own.members[block])
    table["ecd_um"] = own.ecd_um[block]
    known = np.isfinite(own.ecd_um[block])
    told = np.where(own.measured[block], "pixels", "instrument")
    table["size_from"] = np.where(known, told, "")
    table["um_per_px"] = given["um_per_px"].to_numpy(float)
    for kind, values in (("p", own.p), ("calibrated", own.calibrated)):
        for i, name in enumerate(deployed.classes):
            table[f"{kind}_{name}"] = values[block, i]
    return pd.DataFrame(table)


def _text(table: pd.DataFrame, name: str) -> np.ndarray:
    if name not in table:
        return np.full(len(table), "", object)
    return table[name].astype(str).to_numpy(object)


def _sets(classes: tuple[str, ...], members: np.ndarray) -> np.ndarray:
    # "protein|silicone_oil": which classes a particle may be, at the stated error of each
    kinds, which = np.unique(members, axis=0, return_inverse=True)
    words = ["|".join(c for c, there in zip(classes, kind, strict=True) if there) for kind in kinds]
    return np.array(words, object)[which.ravel()]
