"""Labels that a person corrected: a CSV written for spreadsheets, read back, checked, applied."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit.cells import safe, unsafe
from svpkit.disk import file_digest
from svpkit.errors import SvpkitError, choices, nearest, unknown
from svpkit.particles.particleset import ParticleSet
from svpkit.safe import open_regular

NEEDED = ("id", "label", "corrected")
APPLIED, CONFIRMED, UNUSED = "applied", "label confirmed", "in no set, not applied"
TEST = "test: reported, not applied"
_SHUT, _NEAR = -1, 5_000
_LONGEST_LINE = 2**20


@dataclass(frozen=True)
class Row:
    """A filled-in row of a file: `where` it stands, `set` is "" where the file does not say."""

    where: str
    id: str
    set: str
    label: str
    corrected: str


@dataclass(frozen=True)
class Filled:
    """The filled-in rows of corrections files: `rows` by file, in order.

    `files` are {name, digest} each. A key holds neither, so that a file renamed or saved anew by a
    spreadsheet makes nothing again.
    """

    files: tuple[Mapping[str, str], ...]
    rows: tuple[tuple[Row, ...], ...]

    def describe(self) -> list[list[str]]:
        """Return what a key holds: id, set, label, corrected of all rows but those of test."""
        rows = (row for each in self.rows for row in each if row.set != "test")
        return [[row.id, row.set, row.label, row.corrected] for row in rows]


@dataclass(frozen=True)
class Correction:
    """One corrected label: `position` in the data, -1 where it is of the test set.

    That is where the file's column `set` says test, or where the test set is one of its own; those
    of a test set cut from the data are known by their positions once that is drawn.
    """

    position: int
    id: str
    label: str
    corrected: str
    where: str = ""


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV whose cells are `safe`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows([safe(row[name]) for name in columns] for row in rows)


def filled(paths: Sequence[Path]) -> Filled:
    """Return the filled-in rows of files, in order.

    Raises SvpkitError for a file that is no CSV in UTF-8, or has no column id, label or corrected.
    """
    rows = tuple(tuple(_rows(path)) for path in paths)
    return Filled(tuple({"name": p.name, "digest": file_digest(p)} for p in paths), rows)


def located(
    asked: Filled, particles: ParticleSet, own_test: ParticleSet | None
) -> list[Correction]:
    """Return the corrections in order, each with its particle.

    Raises SvpkitError for an unknown class or id, an id corrected twice in a file, and a label that
    the particle has never had: neither as it was read nor by an earlier row.
    """
    desk = _Desk(particles, own_test)
    return [each for rows in asked.rows for each in desk.taken(rows)]


def relabelled(particles: ParticleSet, found: Sequence[Correction]) -> ParticleSet:
    """Return all or some of the data's particles with their corrected labels."""
    own = [c for c in found if c.position != _SHUT]
    return _set_labels(particles, [c.position for c in own], [c.corrected for c in own])


def check(
    found: Sequence[Correction], particles: ParticleSet, used: Sequence[int] | np.ndarray
) -> None:
    """Raise SvpkitError for a correction of a particle in `used` that was written for other labels.

    Each must start from the label that those before it leave. `used` are the positions of train
    and val: a row that is not applied moves no label, and nothing has to follow from it.
    """
    names, inside, now = particles.table["label"], _among(found, used), {}
    for each in found:
        if each.position in inside:
            _refuse_other(each, [now.get(each.position, str(names.iloc[each.position]))])
            now[each.position] = each.corrected


def replayed(particles: ParticleSet, record: Mapping[str, Any] | None) -> ParticleSet:
    """Return some of the data's particles with the labels that a split's record says apply."""
    rows = [row for row in (record or {}).get("rows", ()) if row["what"] == APPLIED]
    return _set_labels(particles, [r["position"] for r in rows], [r["corrected"] for r in rows])


def recorded(
    asked: Filled,
    found: Sequence[Correction],
    used: Sequence[int] | np.ndarray,
    held: Sequence[int] | np.ndarray,
) -> dict[str, Any]:
    """Return what a split says of corrections: files, how many by (from -> to), and every row.

    `used` are the positions of train and val, `held` those of a test set cut from the data. Names
    and digests of the files, and the rows that they say are of test, are those of the files that
    the split was first made with: other files whose rows to apply are the same share it.
    """
    inside, shut = _among(found, used), _among(found, held) | {_SHUT}
    kept = ("position", "id", "label", "corrected")
    rows = [{k: getattr(c, k) for k in kept} | {"what": _fate(c, inside, shut)} for c in found]
    applied = Counter((r["label"], r["corrected"]) for r in rows if r["what"] == APPLIED)
    said = Counter(r["what"] for r in rows)
    return {
        "files": [dict(file) for file in asked.files],
        "applied": [{"from": a, "to": b, "n": n} for (a, b), n in sorted(applied.items())],
        "counts": {what: said[what] for what in (APPLIED, CONFIRMED, TEST, UNUSED)},
        "rows": rows,
    }


def _among(found: Sequence[Correction], positions: Sequence[int] | np.ndarray) -> set[int]:
    # only of what is corrected: a set of all positions would be the largest thing here
    own = np.array([each.position for each in found], np.int64)
    return set(own[np.isin(own, positions)].tolist())


def _fate(each: Correction, used: set[int], held: set[int]) -> str:
    if each.position in held:
        return TEST
    if each.position not in used:
        return UNUSED
    return CONFIRMED if each.corrected == each.label else APPLIED


def _set_labels(
    particles: ParticleSet, positions: Sequence[int], labels: Sequence[str]
) -> ParticleSet:
    if not positions:
        return particles
    names = particles.table["label"].astype(str).to_numpy(object)
    places = pd.Index(particles.rows).get_indexer(np.asarray(positions))
    for place, label in zip(places, labels, strict=True):
        if place >= 0:
            names[place] = label
    table = particles.table.assign(label=names)
    return replace(particles, table=table.astype({"label": "category"}))


class _Desk:
    """The particles by id, with every label that each has stood with so far."""

    def __init__(self, particles: ParticleSet, own_test: ParticleSet | None) -> None:
        self.classes = particles.classes
        self.data = _by_id(particles)
        self.test = _by_id(own_test) if own_test else {}
        self.stood: dict[tuple[bool, str], list[str]] = {}

    def taken(self, rows: Iterable[Row]) -> list[Correction]:
        """Return a file's corrections."""
        found, seen = [], set()
        for row in rows:
            tested = self._tested(row)
            if (tested, row.id) in seen:
                raise SvpkitError(f"{row.where}: id '{row.id}' is corrected twice in this file")
            seen.add((tested, row.id))
            found.append(self._checked(row, tested))
        return found

    def _checked(self, row: Row, tested: bool) -> Correction:
        if row.corrected not in self.classes:
            raise unknown(f"{row.where}: corrected", row.corrected, self.classes)
        place, label = (self.test if tested else self.data)[row.id]
        stood = self.stood.setdefault((tested, row.id), [label])
        shut = tested or row.set == "test"
        each = Correction(_SHUT if shut else place, row.id, row.label, row.corrected, row.where)
        _refuse_other(each, stood)
        stood.append(row.corrected)
        return each

    def _tested(self, row: Row) -> bool:
        # whether the row is about a particle of a test set of its own
        here, there = row.id in self.data, row.id in self.test
        if not (here or there):
            near = nearest(row.id, list(self.data)[:_NEAR])
            raise SvpkitError(f"{row.where}: no particle has the id '{row.id}'{near}")
        if here and there and row.set not in ("train", "val", "test"):
            raise SvpkitError(
                f"{row.where}: id '{row.id}' stands in the data and in the test set; the column "
                "'set' must say which (train, val or test)"
            )
        return there and (not here or row.set == "test")


def _refuse_other(each: Correction, labels: Sequence[str]) -> None:
    if each.label not in labels:
        raise SvpkitError(
            f"{each.where}: particle '{each.id}' is labelled '{labels[-1]}', the file says "
            f"'{each.label}': it was written for other labels"
        )


def _by_id(particles: ParticleSet) -> dict[str, tuple[int, str]]:
    names, labels = (particles.table[name].astype(str) for name in ("id", "label"))
    return {name: (i, label) for i, (name, label) in enumerate(zip(names, labels, strict=True))}


def _rows(path: Path) -> list[Row]:
    """Return the rows that name a corrected label."""
    where = f"data.corrections: {path.name}"
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
            head = file.readline(_LONGEST_LINE)
            file.seek(0)
            # spreadsheets of many countries write semicolons
            mark = max(",;\t", key=head.count)
            table = csv.DictReader(file, delimiter=mark, restval="", strict=True)
            there = [name.strip() for name in table.fieldnames or ()]
            table.fieldnames = there
            rows = [(f"{where}, line {table.line_num}", row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise SvpkitError(f"{where}: no CSV in UTF-8 to read ({error})") from None
    for name in NEEDED:
        if name not in there:
            raise SvpkitError(f"{where}: column '{name}' is missing (columns: {choices(there)})")
    cells = [(at, {k: unsafe((row[k] or "").strip()) for k in there}) for at, row in rows]
    return [
        Row(at, row["id"], row.get("set", ""), row["label"], row["corrected"])
        for at, row in cells
        if row["corrected"]
    ]
