"""FlowCam runs read: a row of each particle listed, and its tile from the collage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.legible import checked
from svpkit.readers import flowcam_files as files
from svpkit.readers import flowcam_tiles as tiles
from svpkit.readers.flowcam_runs import Run, runs_of
from svpkit.readers.flowcam_tables import Index, Joined, csv_header, number
from svpkit.readers.labels import Labels, read_labels

Found = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """What may be asked of the reader; each is explained at the plugin `flowcam`."""

    mask: bool = False
    flat_field: bool = False
    classes_from_instrument: bool = False
    volume_ml: float | None = None
    dilution: float = 1.0
    size: str = "abd"
    labels: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    image_column: str | None = None
    run_column: str | None = None


def read(path: Path, options: Options) -> Iterator[Found]:
    """Yield (tile, row) of each particle, or (reason, row) where it cannot be cut.

    Tiles are uint8 (h, w) or (h, w, 3). Particles come collage by collage, in the list's order;
    one collage is in memory. Raises SvpkitError for what is no run, a stale .cla, a missing
    flat-field image, and labels that do not fit.
    """
    runs = runs_of(path)
    labels = _labels(path, options, len(runs))
    for run in runs:
        yield from _Reading(run, options, labels).particles()
    if labels:
        labels.check(run.name for run in runs)


def _labels(path: Path, options: Options, runs: int) -> Labels | None:
    if not options.labels:
        return None
    if options.classes_from_instrument:
        raise SvpkitError(f"{path}: options.labels and classes_from_instrument: choose one")
    return read_labels(
        (path if path.is_dir() else path.parent) / options.labels,
        label_column=options.label_column,
        id_column=options.id_column,
        image_column=options.image_column,
        run_column=options.run_column,
        runs=runs,
    )


class _Reading:
    """One pass over one run."""

    def __init__(self, run: Run, options: Options, labels: Labels | None) -> None:
        self.run, self.options, self.labels = run, options, labels
        self.index: Index = run.listing.index()
        self.classes = self._instrument_classes() if options.classes_from_instrument else {}
        self.cutter = tiles.Cutter(run.folder, flat_field=options.flat_field)
        said = run.settings
        self._scale = float(said.get("um_per_px", "nan"))
        self._started = said.get("started", "")
        own = said.get("volume_ml", float("nan"))
        self._same = {
            "group": run.name,
            "run": run.name,
            "volume_ml": float(options.volume_ml or own),
            "dilution": options.dilution,
            "instrument": f"FlowCam {said.get('magnification', '')}".strip(),
            # more than are listed where particles were removed later
            "n_reported": float(said.get("particle_count") or "nan"),
        }
        self._seen: set[str] = set()

    def _instrument_classes(self) -> dict[int, str]:
        path = self.run.beside(".cla")
        if not path:
            missing = self.run.folder / f"{self.run.stem}.cla"
            raise SvpkitError(f"{missing}: options.classes_from_instrument: no such file")
        found = files.classes(path)
        files.check_classes(path, found, self.index.ids)
        return found

    def particles(self) -> Iterator[Found]:
        """Yield each particle's tile, or the reason why there is none, and its row.

        A run without particles yields None and what is known of it: its volume counts all the same.
        """
        if not len(self.index.offsets):
            yield None, {**self._same, "timestamp": self._started}
        for page, values, row in self.rows():
            if isinstance(page, str):
                yield page, row
                continue
            try:
                yield self.cutter.tile(page, values, mask=self.options.mask), row
            except SvpkitError as error:
                yield str(error), row

    def rows(self) -> Iterator[tuple[tiles.Page | str, dict[str, str], dict[str, Any]]]:
        """Yield (collage or reason, the list's values by .lst names, row), collage by collage."""
        more = Joined(csv_header(self.run.more), self.run.listing) if self.run.more else None
        codes = self.index.collages
        order = np.argsort(codes, kind="stable")
        bounds = np.flatnonzero(np.diff(codes[order])) + 1
        with self.run.listing.open() as file:
            for block in np.split(order, bounds) if len(order) else []:
                code = int(codes[block[0]])
                name = self.index.names[code] if code >= 0 else None
                page = self.cutter.page(name, mask=self.options.mask) if name is not None else ""
                for i in block:
                    file.seek(int(self.index.offsets[i]))
                    yield self._row(page, int(i), file.readline(), more)
        if more:
            more.close()

    def _row(
        self, page: tiles.Page | str, i: int, line: bytes, more: Joined | None
    ) -> tuple[tiles.Page | str, dict[str, str], dict[str, Any]]:
        listing = self.run.listing
        values: dict[str, str] = {}
        try:
            found = listing.values(line)
            values = {name: found[at].strip() for name, at in listing.at.items()}
            raw = listing.raw(found)
        except SvpkitError as error:
            page, raw = f"line {i + listing.first_line}: {error}", {}
        if more and raw:
            raw |= more.columns(int(self.index.ids[i]))
        row, problem = self._neutral(values, i)
        row["raw"] = raw
        return problem or page, values, row

    def _neutral(self, values: dict[str, str], i: int) -> tuple[dict[str, Any], str]:
        """Return the neutral columns, and what is wrong with the particle's id, if anything."""
        name = values.get("id") or f"line-{i + self.run.listing.first_line}"
        key, problem = name, ""
        if name in self._seen:
            line = i + self.run.listing.first_line
            key, problem = f"{name}#line-{line}", f"line {line}: id '{name}' is given twice"
        self._seen.add(key)
        run, frame = self.run.name, values.get("src_image") or values.get("collage_file", "")
        scale = _number(values.get("cal_const", ""))
        row = {
            "id": f"{run}/{key}",
            "particle_id": name,
            "label": self._label(i, name, values) if not problem else "",
            "source": f"{run}/{frame}",
            "um_per_px": scale if scale > 0 else self._scale,
            "ecd_um": self._ecd(values, scale if scale > 0 else self._scale),
            "timestamp": files.iso(values.get("timestamp", "")) or self._started,
            **self._same,
        }
        return row, problem

    def _ecd(self, values: dict[str, str], scale: float) -> float:
        if self.options.size == "mask":
            return 2 * (_number(values.get("raw_area", "")) / math.pi) ** 0.5 * scale
        return _number(values.get(f"{self.options.size}_diameter", ""))

    def _label(self, i: int, name: str, values: dict[str, str]) -> str:
        if self.labels:
            run = self.run.name
            return self.labels.find(
                run, name, values.get("image_id", ""), f"{self.run.stem}_{name}"
            )
        return checked(self.classes.get(int(self.index.ids[i]), ""), self.run.name)


def _number(text: str) -> float:
    try:
        return number(text)
    except ValueError:
        return float("nan")


def tiles_with_masks(folder: Path | str) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Yield (tile, mask, row) of each particle of a folder that has both.

    Tile uint8 (h, w) or (h, w, 3) as it is in the collage; mask bool (h, w), what the instrument
    took for the particle. Particles without either are left out.
    """
    for run in runs_of(Path(folder)):
        reading = _Reading(run, Options(mask=True), None)
        for page, values, row in reading.rows():
            try:
                if not isinstance(page, str):
                    yield *reading.cutter.pair(page, values), row
            except SvpkitError:
                continue
