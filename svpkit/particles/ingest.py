"""What a reader yields made into a particle set: fitted to one size, numbered, bad ones aside."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit import auditlog
from svpkit.drawn_index import READ, Index
from svpkit.errors import SvpkitError, unknown
from svpkit.legible import checked
from svpkit.particles.corrections import write_rows
from svpkit.particles.duplicates import picture_hash
from svpkit.particles.fitting import Fit
from svpkit.particles.going_on import Changed, Parts
from svpkit.particles.names import Seen
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.writer import RAW, Writer
from svpkit.store import stage

if TYPE_CHECKING:
    from svpkit.plugins import Use

BLOCK = 4096
_BLOCK_BYTES = 32 * 2**20
QUARANTINE = "quarantine.csv"
# What counts are made of: other than numbers, or none, is no particle that can be counted.
_NUMBERS = ("um_per_px", "volume_ml", "dilution")
# What a reader says of a whole run, on each of its rows.
_OF_RUN = ("volume_ml", "dilution", "timestamp", "instrument", "n_reported")


@stage(revision=1, resumes=True)
def ingest(out: Path, params: Mapping[str, Any]) -> None:
    """Read particles into a set on disk; what cannot be read is listed in `quarantine.csv`.

    `params`: reader (a plugin with its options), path (str or None), size (px), channels (1 or 3),
    classes (the label order, or None: the reader's, or that of first appearance), and where they
    are asked for `background` ("divide") and `um_per_px` (um), as `Fit` has them. Raises
    SvpkitError for an id given twice, a label outside the classes, no image at all, or more than
    half of them unreadable. A row whose image is None is no particle: it tells of a run that has
    none. The manifest's `runs` says of each run what its rows do, and how many were read. In a
    store, pictures that are drawn ones under another name are refused (`drawn_index.Index`).
    Where `out` holds whole parts of an ingest that was ended, what they were made of is read again
    and compared, and the work goes on behind them; where it is not the same, it begins again.
    """
    try:
        _ingest(out, params, Parts(out))
    except Changed:
        Parts(out).clear()
        _ingest(out, params, Parts(out))


def _ingest(out: Path, params: Mapping[str, Any], parts: Parts) -> None:
    use, size, channels = params["reader"], params["size"], params["channels"]
    fit = Fit(size, channels, params.get("background", "keep"), params.get("um_per_px"))
    intake = Intake(fit, params.get("classes") or use.options.get("classes"))
    intake.go_on(parts.items, parts.noted["counted"])
    where, root = params.get("path") or use.plugin.name, auditlog.store_of(out)
    with Writer(out, (), channels, size) as writer:
        writer.parts = list(parts.noted["parts"])
        items = Index(root).watched(parts.same(_read(use, params)), str(where))
        for images, table in intake.blocks(items):
            before = len(writer.parts)
            writer.add(images, table)
            if len(writer.parts) > before:
                parts.note(writer.parts, intake.counted())
        intake.check(where, params.get("may_be_empty", False))
        writer.classes = intake.classes
        writer.extra = {"reader": use.plugin.name, **intake.summary()}
    write_rows(out / QUARANTINE, ("id", "label", "reason"), intake.bad)
    parts.forget()
    if root:
        read, digest = use.plugin.name, getattr(params.get("path"), "digest", None)
        said = {k: writer.extra[k] for k in ("counts", "unlabelled", "quarantined")}
        auditlog.append(root, auditlog.IMPORTED, set=out.name, reader=read, path=digest, **said)


def _read(use: "Use", params: Mapping[str, Any]) -> Iterator[Any]:
    labels, runs = params.get("labels"), set()
    for image, row in use(params.get("path")):
        if labels is not None:
            runs.add(run := str(row.get("run", "")))
            names = (str(row.get(name, "")) for name in ("particle_id", "id", "file"))
            row = {**row, "label": labels.find(run, *names)}
        yield image, row
    if labels is not None:
        labels.check(runs)


def import_set(
    out: Path,
    reader: "Use",
    path: Path | str | None,
    *,
    size: int = 64,
    channels: int = 1,
    classes: Sequence[str] | None = None,
    labels: Any = None,
    **normal: Any,
) -> ParticleSet:
    """Read particles into a new folder, as the stage does, and open it.

    `labels` (`readers.labels.Labels`) take the place of the reader's. `normal` may hold background
    and um_per_px, as `Fit` has them, and may_be_empty. Raises SvpkitError as `ingest`,
    and where the folder already holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SvpkitError(f"{out}: already there; name a new folder, sets are never changed")
    place = None if path is None else str(path)
    params = {"reader": reader, "path": place, "size": size, "channels": channels}
    made = not out.exists()
    try:
        ingest(out, params | {"classes": classes, "labels": labels} | normal)
    except BaseException:
        _emptied(out, made)
        raise
    return ParticleSet.open(out)


def _emptied(out: Path, made: bool) -> None:
    # half a set would stand in the way of the next try
    for file in out.glob("*") if out.is_dir() else ():
        file.unlink()
    if made and out.is_dir():
        out.rmdir()


def from_folder(path: Path, *, size: int, channels: int, **options: Any) -> ParticleSet:
    """Read a folder into memory; see `ParticleSet.from_folder`."""
    from svpkit.default_plugins.folder import FolderReader

    intake = Intake(Fit(size, channels), options.get("classes"))
    blocks = list(intake.blocks(FolderReader().read(path, **options)))
    intake.check(str(path))
    images = np.concatenate([images for images, _ in blocks])
    table = pd.concat([table for _, table in blocks], ignore_index=True)
    columns = {str(name): table[name] for name in table.columns if name != "label"}
    return ParticleSet.from_arrays(images, list(table["label"]), intake.classes, **columns)


class Intake:
    """One pass over what a reader yields: blocks of fitted images, and what was set aside."""

    def __init__(self, fit: Fit, classes: Sequence[str] | None) -> None:
        self.fit = fit
        self.bad: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.runs: dict[str, dict[str, Any]] = {}
        self._classes = tuple(classes) if classes else None
        self._seen = Seen()
        self._done = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The label order: as given, else as the labels first appeared."""
        return self._classes or tuple(name for name in self.counts if name)

    def counted(self) -> dict[str, Any]:
        """Return all that `go_on` needs, in JSON's types."""
        told = {"bad": self.bad, "runs": self.runs}
        return told | {"counts": dict(self.counts), "changed": dict(self.changed)}

    def go_on(self, items: int, counted: Mapping[str, Any]) -> None:
        """Skip the first items of those to come, which were `counted` before."""
        self._done, self.bad = items, list(counted.get("bad", ()))
        self.runs = dict(counted.get("runs", {}))
        self.counts = Counter(counted.get("counts", {}))
        self.changed = Counter(counted.get("changed", {}))

    def blocks(self, items: Iterable[Any]) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        """Yield images uint8 (n, C, S, S) and their n rows, in bounded memory."""
        one = self.fit.channels * self.fit.size**2
        n = max(1, min(BLOCK, _BLOCK_BYTES // one))
        fitted = self._fitted(items)
        while block := list(islice(fitted, n)):
            images = np.stack([image for image, _ in block])
            table = pd.DataFrame([row for _, row in block]).assign(hash=picture_hash(images))
            if READ in table:
                # one type in every part, whatever the numbers are
                table[READ] = np.array([row.get(READ, 0) for _, row in block], np.uint64)
            yield images, table

    def check(self, where: str, may_be_empty: bool = False) -> None:
        """Raise SvpkitError when nothing, or less than half, could be read.

        A blank may well hold no particle at all.
        """
        good, bad = sum(self.counts.values()), len(self.bad)
        first = f"; the first: {self.bad[0]['id']}: {self.bad[0]['reason']}" if bad else ""
        if not good and (bad or not may_be_empty):
            raise SvpkitError(f"{where}: no image could be read{first}")
        if bad > good:
            raise SvpkitError(f"{where}: {bad} of {good + bad} images cannot be read{first}")

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says of the pass."""
        counts = {name: self.counts[name] for name in self.classes}
        said = {"counts": counts, "unlabelled": self.counts[""], "quarantined": len(self.bad)}
        return said | {"changed": dict(self.changed), "runs": self.runs}

    def _fitted(self, items: Iterable[Any]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        for position, (image, given) in enumerate(items):
            row = {k: readable(v) for k, v in {"label": "", "note": "", **given}.items()}
            run = self._run(row)
            if image is None:
                continue
            row["id"] = self._named(row, position)
            if position < self._done:
                continue
            row |= {f"{RAW}{name}": value for name, value in row.pop("raw", {}).items()}
            try:
                if isinstance(image, (str, Exception)):
                    said = " ".join(readable(str(image)).split())
                    raise SvpkitError(said or type(image).__name__)
                row |= {name: _number(row[name], name) for name in _NUMBERS if name in row}
                row["ecd_um"] = _size(row.get("ecd_um"))
                scale = row.get("um_per_px", math.nan)
                fitted, factor = self.fit(image, scale)
                row["um_per_px"] = scale * factor
            except SvpkitError as error:
                reason = " ".join(str(error).split())
                self.bad.append({"id": row["id"], "label": str(row["label"]), "reason": reason})
                run["quarantined"] += 1
                continue
            self._note(row, image, factor)
            self._count(row)
            run["particles"] += 1
            yield fitted, row

    def _run(self, row: Mapping[str, Any]) -> dict[str, Any]:
        given = row.get("run")
        name = "" if given is None else str(given)
        if name not in self.runs:
            said = {key: _known(row.get(key)) for key in _OF_RUN}
            self.runs[name] = {**said, "particles": 0, "quarantined": 0}
        return self.runs[name]

    def _named(self, row: Mapping[str, Any], position: int) -> str:
        name = str(row.get("id") or f"particle-{position:06d}")
        first = self._seen.first(name, position)
        if first != position:
            raise SvpkitError(
                f"id '{name}' is given by rows {first} and {position}: name each once"
            )
        return name

    def _count(self, row: Mapping[str, Any]) -> None:
        label = checked(str(row["label"]), f"particle '{row['id']}'")
        if self._classes and label and label not in self._classes:
            raise unknown(f"label of particle '{row['id']}'", label, self._classes)
        self.counts[label] += 1

    def _note(self, row: dict[str, Any], image: np.ndarray, factor: float) -> None:
        notes = [str(row["note"])] if row["note"] else []
        if np.asarray(image).dtype == np.uint16:
            self.changed["16-bit"] += 1
            notes.append("16-bit, divided by 257")
        if factor > 1:
            self.changed["shrunk"] += 1
            notes.append(f"shrunk {factor:.3g} times")
        if factor < 1:
            self.changed["enlarged"] += 1
            notes.append(f"enlarged {1 / factor:.3g} times")
        row["note"] = "; ".join(notes)


def _number(value: Any, name: str) -> float:
    try:
        return math.nan if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        raise SvpkitError(f"{name} is {value!r}; a number is wanted") from None


def _known(value: Any) -> Any:
    # in JSON's types; None for what is not known
    if value is None or value == "" or value != value:
        return None
    return value if isinstance(value, str) else float(value)


def _size(value: Any) -> float:
    # what is no size is measured on the pixels, where one is needed
    try:
        size = _number(value, "ecd_um")
    except SvpkitError:
        return math.nan
    return size if 0 < size < math.inf else math.nan


def readable(value: Any) -> Any:
    """Return a value; of text, what is none spelt out: file names may hold bytes no table takes."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode()
