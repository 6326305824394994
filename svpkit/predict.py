"""A run put to work: an export's particles named, counted per class, size and mL, and reported."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit.counted import as_record, propose, story
from svpkit.deployed import Deployed
from svpkit.errors import SvpkitError
from svpkit.evaluate import counts
from svpkit.named import Named, name_all, renamed, write_tables
from svpkit.particles.corrections import safe_table
from svpkit.particles.ingest import QUARANTINE, import_set, readable
from svpkit.particles.particleset import ParticleSet, read_manifest
from svpkit.store import write_json

if TYPE_CHECKING:
    from svpkit.classify.shift import ShiftReport
    from svpkit.plugins import Registry, Use
    from svpkit.report.counts import Counted

# Particles of a run that are looked at before the work begins: is it like validation?
LOOKED = 2_000


@dataclass(frozen=True)
class Source:
    """An export to count and the reader that knows it; a `blank` is counted to be subtracted."""

    reader: "Use"
    path: Path
    blank: bool = False


@dataclass(frozen=True)
class Ask:
    """How to count: what is not given is the export's own, else unknown.

    `volume_ml` analysed and `dilution` of every run; `pooled`: all runs are replicates of one
    sample; `method` as in `counts.METHODS`; `force` counts even what is far from validation;
    `to_label`: how many particles to propose for labelling.
    """

    volume_ml: float | None = None
    dilution: float | None = None
    pooled: bool = False
    method: str = "auto"
    force: bool = False
    to_label: int = 0


@dataclass(frozen=True)
class Read:
    """One run of an export: its particles, what is known of it, and whether it is alike."""

    name: str
    source: Source
    particles: ParticleSet
    about: Mapping[str, Any]
    shift: "ShiftReport"
    admissible: bool
    reason: str
    quarantined: int


def predict(
    run: Path, registry: "Registry", sources: Sequence[Source], out: Path, ask: Ask | None = None
) -> "Counted":
    """Name and count every particle of the sources and write the folder `out`.

    It gets predictions (parquet and CSV), counts.csv, report.html, prediction.json, quarantine.csv
    where files could not be read, and to-label.csv with a contact sheet where they are asked for.
    Raises SvpkitError, with nothing written, where the run holds no model for this, `out` is not
    empty, and where a run is far from what the model was validated on and is not forced.
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
            found = [r for s in _numbered(sources) for r in _read(*s, Path(place), deployed, ask)]
            _refuse_twins(found)
            done = Path(place) / "done"
            done.mkdir()
            page = _written(run, deployed, found, done, Path(place), ask)
            for file in done.iterdir():
                file.rename(out / file.name)
    except BaseException:
        if made and not any(p for p in out.iterdir() if not p.name.startswith(".particles-")):
            shutil.rmtree(out, ignore_errors=True)
        raise
    return page


def _written(
    run: Path, deployed: Deployed, found: Sequence[Read], out: Path, place: Path, ask: Ask
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
    page = story(run, deployed, pairs, table, queue)
    write_json(out / "prediction.json", as_record(page))
    write_page(out / "report.html", page)
    return page


def _refuse_used(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SvpkitError(f"{out}: this is a file, a folder is wanted")
    if out.exists() and any(out.iterdir()):
        raise SvpkitError(f"{out}: already there; name a new folder, nothing is overwritten")


def _refuse_twins(found: Sequence[Read]) -> None:
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise SvpkitError(f"run '{name}' is given twice; rename one of the exports")


def _numbered(sources: Sequence[Source]) -> Iterator[tuple[int, Source]]:
    if not any(not source.blank for source in sources):
        raise SvpkitError("no export to count is given")
    return enumerate(sources)


def _read(number: int, source: Source, place: Path, deployed: Deployed, ask: Ask) -> Iterator[Read]:
    spec = deployed.model.spec
    intake = {k: v for k, v in deployed.model.config.get("intake", {}).items() if v is not None}
    particles = import_set(
        place / str(number),
        source.reader,
        source.path,
        size=spec.size,
        channels=spec.channels,
        may_be_empty=True,
        **intake,
    )
    known = read_manifest(place / str(number))["runs"]
    own = particles.table["run"].astype(str).to_numpy(object) if "run" in particles.table else None
    # what names no run is one of its own, called as its file or folder is
    called = readable(source.path.resolve().name)
    for run, said in sorted(known.items()) or [("", {"particles": 0, "quarantined": 0})]:
        alone = own is None or len(known) < 2
        of_run = particles if alone else particles.take(np.flatnonzero(own == run))
        if said["quarantined"] > said["particles"]:
            bad, whole = said["quarantined"], said["quarantined"] + said["particles"]
            said_so = f"{bad} of {whole} images cannot be read"
            raise SvpkitError(f"{source.path}: run '{run}': {said_so}")
        yield _looked(run or called, source, of_run, deployed, ask, said)


def _looked(
    name: str,
    source: Source,
    particles: ParticleSet,
    deployed: Deployed,
    ask: Ask,
    said: Mapping[str, Any],
) -> Read:
    from svpkit.classify.shift import admissible

    report = _shift(deployed, particles)
    try:
        allowed, reason = admissible(report, force=ask.force)
    except SvpkitError as error:
        raise SvpkitError(
            f"{source.path}: run '{name}' is {error} (--force counts it all the same)"
        ) from None
    bad = said["quarantined"]
    return Read(name, source, particles, _about(said, ask), report, allowed, reason, bad)


def _shift(deployed: Deployed, particles: ParticleSet) -> "ShiftReport":
    from svpkit.classify.appearance import statistics
    from svpkit.classify.shift import ShiftReport

    if deployed.shift is None:
        said = "validation has too few particles to tell whether this input is like it"
        return ShiftReport("none", (said,), False, len(particles))
    n = len(particles)
    some = particles.take(np.linspace(0, n - 1, min(n, LOOKED)).round().astype(int))
    blocks = [(logits, features) for _, logits, features in deployed.model.outputs(some)]
    k = len(deployed.classes)
    logits = np.concatenate([np.empty((0, k), np.float32), *(block[0] for block in blocks)])
    width = len(deployed.shift.held["mean"])
    seen = statistics(some.images()) if n else np.empty((0, 6), np.float32)
    features = None
    if not blocks or blocks[0][1] is not None:
        none = np.empty((0, width), np.float32)
        features = np.concatenate([none, *(np.asarray(block[1]) for block in blocks)])
    scale = some.table["um_per_px"].to_numpy(float)
    return deployed.shift.test(features, logits.argmax(1), seen, scale)


def _about(said: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    volume = ask.volume_ml if ask.volume_ml is not None else said.get("volume_ml")
    dilution = ask.dilution if ask.dilution is not None else said.get("dilution")
    return {
        "volume_ml": volume,
        "dilution": 1.0 if dilution is None else dilution,
        "timestamp": said.get("timestamp") or "",
        "instrument": said.get("instrument") or "",
        "n_reported": said.get("n_reported"),
    }


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
