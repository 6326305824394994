"""A run put to work: an export's particles named, counted per class, size and mL, and reported."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from svpkit.cells import safe_table
from svpkit.counted import as_record, propose, story
from svpkit.deployed import Deployed
from svpkit.disk import write_json
from svpkit.errors import SvpkitError
from svpkit.evaluate import counts
from svpkit.looked import Ask, Read, Source, gathered
from svpkit.named import Named, name_all, renamed, write_tables
from svpkit.particles.ingest import QUARANTINE
from svpkit.provenance import note_forced

if TYPE_CHECKING:
    from svpkit.plugins import Registry
    from svpkit.report.counts import Counted


def predict(
    run: Path, registry: "Registry", sources: Sequence[Source], out: Path, ask: Ask | None = None
) -> "Counted":
    """Name and count every particle of the sources and write the folder `out`.

    It gets predictions (parquet and CSV), counts.csv, report.html, prediction.json, quarantine.csv
    where files could not be read, and to-label.csv with a contact sheet where they are asked for.
    A run that is far from what the model was validated on and is not forced is left out, and named
    in the page's `warnings`. Raises SvpkitError, with nothing written, where the run holds no model
    for this, `out` is not empty, and where a blank or all that is to be counted is far.
    """
    ask = ask or Ask()
    deployed = Deployed.open(run / "model", registry)
    _refuse_used(out)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(
            dir=out, prefix=".particles-", ignore_cleanup_errors=True
        ) as place:
            found, left = gathered(sources, Path(place), deployed, ask)
            done = Path(place) / "done"
            done.mkdir()
            page = _written(run, deployed, found, left, done, Path(place), ask)
            note_forced(run, [each.name for each in found if each.shift.level == "far"])
            for file in done.iterdir():
                file.rename(out / file.name)
    except BaseException:
        if made and not any(p for p in out.iterdir() if not p.name.startswith(".particles-")):
            shutil.rmtree(out, ignore_errors=True)
        raise
    return page


def _written(
    run: Path,
    deployed: Deployed,
    found: Sequence[Read],
    left: Sequence[str],
    out: Path,
    place: Path,
    ask: Ask,
) -> "Counted":
    from svpkit.report.counts import write_page

    kept = [place / f"features-{i}.npy" if ask.to_label else None for i in range(len(found))]
    named = [name_all(deployed, r.particles, k) for r, k in zip(found, kept, strict=True)]
    if ask.pooled:
        pairs = zip(found, named, strict=True)
        rule = _rule(deployed, [own for read, own in pairs if not read.source.blank])
        named = [renamed(deployed, own, rule) for own in named]
    table = _count(deployed, found, named, ask)
    write_tables(out, deployed, found, named)
    safe_table(table).to_csv(out / "counts.csv", index=False)
    pairs = list(zip(found, named, strict=True))
    fresh = [pair for pair in pairs if not pair[0].source.blank]
    queue = propose(deployed, fresh, ask.to_label, out) if ask.to_label else None
    _keep_quarantine(out, place)
    page = story(run, deployed, pairs, table, queue, left)
    write_json(out / "prediction.json", as_record(page))
    write_page(out / "report.html", page)
    return page


def _refuse_used(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SvpkitError(f"{out}: this is a file, a folder is wanted")
    if out.exists() and any(out.iterdir()):
        raise SvpkitError(f"{out}: already there; name a new folder, nothing is overwritten")


def _rule(deployed: Deployed, named: Sequence[Named]) -> np.ndarray | None:
    # of all that is counted together
    return deployed.rule(np.concatenate([own.logits for own in named]))


def _count(
    deployed: Deployed, found: Sequence[Read], named: Sequence[Named], ask: Ask
) -> pd.DataFrame:
    pairs = list(zip(found, named, strict=True))
    fresh = [pair for pair in pairs if not pair[0].source.blank]
    blanks = [pair for pair in pairs if pair[0].source.blank]
    tables = []
    for together in [fresh] if ask.pooled else [[pair] for pair in fresh]:
        # a run, its blanks and validation are named by one rule: that of the run
        rule = _rule(deployed, [own for _, own in together])
        counted = [_run(deployed, each, own, ask) for each, own in together]
        blank = [_run(deployed, each, renamed(deployed, own, rule), ask) for each, own in blanks]
        known = deployed.alike(rule)
        tables.append(counts.count_table(known, counted, method=ask.method, blank=blank))
    table = pd.concat(tables, ignore_index=True)
    if deployed.limit is not None:
        # one row for both: of neither is known what it is
        aside = table["class"] == counts.UNKNOWN
        table.loc[aside, "note"] += "; with those that a required precision rejected"
    return table


def _run(deployed: Deployed, each: Read, own: Named, ask: Ask) -> counts.Run:
    volume = each.about["volume_ml"]
    return counts.Run(
        name=each.name,
        p=own.calibrated,
        named=np.minimum(own.codes, len(deployed.classes)),
        ecd_um=own.ecd_um,
        volume_ml=np.nan if volume is None else volume,
        dilution=each.about["dilution"],
        sample="all runs" if ask.pooled and not each.source.blank else "",
        admissible=each.admissible,
        reason=each.reason,
    )


def _keep_quarantine(out: Path, place: Path) -> None:
    paths = sorted(place.glob(f"*/{QUARANTINE}"))
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in paths]
    lines = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if len(lines):
        lines.to_csv(out / QUARANTINE, index=False)
