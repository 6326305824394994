"""Exports read, and looked at before they are counted: is a run like validation?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svpkit.deployed import Deployed
from svpkit.errors import SvpkitError
from svpkit.particles.ingest import import_set, readable
from svpkit.particles.particleset import ParticleSet, read_manifest
from svpkit.reference import size_ratio

if TYPE_CHECKING:
    from svpkit.classify.shift import ShiftReport
    from svpkit.plugins import Use

# Particles of a run that are looked at before the work begins: is it like validation?
LOOKED = 2_000
# Sizes of a run this many times validation's, for the same pixels, are another diameter.
OTHERWISE = 1.15


class Far(SvpkitError):
    """A run that is far from what the model was validated on."""


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


def gathered(
    sources: Sequence[Source], place: Path, deployed: Deployed, ask: Ask
) -> tuple[list[Read], list[str]]:
    """Return the runs to count, blanks among them, and why others are left out, a line each.

    Raises Far where a blank or all that is to be counted is far, SvpkitError for what cannot be
    read and for two runs of one name.
    """
    if not any(not source.blank for source in sources):
        raise SvpkitError("no export to count is given")
    found: list[Read] = []
    left: list[Far] = []
    for number, source in enumerate(sources):
        for each in _read(number, source, place, deployed, ask):
            if isinstance(each, Read):
                found.append(each)
            elif source.blank:
                raise each
            else:
                left.append(each)
    if not any(not each.source.blank for each in found):
        raise left[0]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise SvpkitError(f"run '{name}' is given twice; rename one of the exports")
    return found, [str(each) for each in left]


def _read(
    number: int, source: Source, place: Path, deployed: Deployed, ask: Ask
) -> Iterator["Read | Far"]:
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
        try:
            yield _looked(run or called, source, of_run, deployed, ask, said)
        except Far as far:
            yield far


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
        raise Far(
            f"{source.path}: run '{name}' is {error} (--force counts it all the same)"
        ) from None
    otherwise = _sized_otherwise(deployed, particles)
    if otherwise:
        allowed, reason = False, otherwise if allowed else f"{reason}; {otherwise}"
    bad = said["quarantined"]
    return Read(name, source, particles, _about(said, ask), report, allowed, reason, bad)


def _sized_otherwise(deployed: Deployed, particles: ParticleSet) -> str:
    there, here = deployed.record.get("size_ratio"), size_ratio(particles)
    if not there or not here or 1 / OTHERWISE < here / there < OTHERWISE:
        return ""
    return (
        f"its sizes are {here / there:.2g} times validation's for the same pixels: another "
        "diameter is meant, and bins are not the same"
    )


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
