"""Labels that a person corrected: a CSV written for spreadsheets, read back, checked, applied."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError, choices, nearest, unknown
from svpkit.particles.particleset import ParticleSet
from svpkit.store import file_digest

NEEDED = ("id", "label", "corrected")
APPLIED, CONFIRMED, UNUSED = "applied", "label confirmed", "in no set, not applied"
TEST = "test: reported, not applied"
# What a spreadsheet takes for the start of a formula; the mark keeps a text a text.
_FORMULA, _MARK = ("=", "+", "-", "@", "\t", "\r", "\n", "'"), "'"
_OWN_TEST, _NEAR = -1, 5_000


@dataclass(frozen=True)
class Correction:
    """One corrected label: `position` in the data, -1 for a particle of a test set of its own."""

    position: int
    id: str
    label: str
    corrected: str


def safe(text: Any) -> str:
    """Return a cell that no spreadsheet runs: `'` before what would begin a formula."""
    text = str(text)
    return _MARK + text if text.startswith(_FORMULA) else text


def unsafe(cell: str) -> str:
    """Return what `safe` was given."""
    return cell[1:] if cell.startswith(_MARK) and cell[1:].startswith(_FORMULA) else cell


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV whose cells are `safe`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows([safe(row[name]) for name in columns] for row in rows)


def read(
    paths: Sequence[Any], particles: ParticleSet, own_test: ParticleSet | None
) -> list[Correction]:
    """Return the corrections of the files, in order, all of them checked.

    Raises SvpkitError for a file that is no such CSV, an unknown class or id, an id corrected twice
    in a file, and a label that is not the particle's (for a later file: after the earlier ones).
    """
    if not paths:
        return []
    desk = _Desk(particles, own_test)
    return [each for path in paths for each in desk.taken(Path(path))]


def relabelled(particles: ParticleSet, found: Sequence[Correction]) -> ParticleSet:
    """Return the particles with the corrections of the data (a test set of its own stays)."""
    own = [c for c in found if c.position != _OWN_TEST]
    return _set_labels(particles, [c.position for c in own], [c.corrected for c in own])


def replayed(particles: ParticleSet, record: Mapping[str, Any] | None) -> ParticleSet:
    """Return the data's particles with the labels that a split's record says were applied."""
    rows = [row for row in (record or {}).get("rows", ()) if row["what"] == APPLIED]
    return _set_labels(particles, [r["position"] for r in rows], [r["corrected"] for r in rows])


def recorded(
    paths: Sequence[Any],
    found: Sequence[Correction],
    used: Sequence[int] | np.ndarray,
    held: Sequence[int] | np.ndarray,
) -> dict[str, Any]:
    """Return what a split says of corrections: files, how many by (from -> to), and every row.

    `used` are the positions of train and val, `held` those of a test set cut from the data.
    """
    inside, shut = set(np.asarray(used).tolist()), {*np.asarray(held).tolist(), _OWN_TEST}
    rows = [{**vars(each), "what": _fate(each, inside, shut)} for each in found]
    applied = Counter((r["label"], r["corrected"]) for r in rows if r["what"] == APPLIED)
    said = Counter(r["what"] for r in rows)
    return {
        "files": [{"name": Path(p).name, "digest": file_digest(Path(p))} for p in paths],
        "applied": [{"from": a, "to": b, "n": n} for (a, b), n in sorted(applied.items())],
        "counts": {what: said[what] for what in (APPLIED, CONFIRMED, TEST, UNUSED)},
        "rows": rows,
    }


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
    for position, label in zip(positions, labels, strict=True):
        names[position] = label
    table = particles.table.assign(label=names)
    return replace(particles, table=table.astype({"label": "category"}))


class _Desk:
    """The particles by id, with their labels as they stand after the rows taken so far."""

    def __init__(self, particles: ParticleSet, own_test: ParticleSet | None) -> None:
        self.classes = particles.classes
        self.places = _by_id(particles)
        self.labels = particles.table["label"].astype(str).tolist()
        self.test = dict.fromkeys(_by_id(own_test)) if own_test else {}
        if own_test:
            labels = own_test.table["label"].astype(str)
            self.test = dict(zip(self.test, labels, strict=True))

    def taken(self, path: Path) -> list[Correction]:
        """Return a file's corrections and change the labels that they change."""
        found, seen = [], set()
        for where, row in _rows(path):
            name = row["id"]
            position = self._place(where, name, row.get("set", ""))
            if (position, name) in seen:
                raise SvpkitError(f"{where}: id '{name}' is corrected twice in this file")
            seen.add((position, name))
            found.append(self._checked(where, row, position))
            if position != _OWN_TEST:
                self.labels[position] = row["corrected"]
            else:
                self.test[name] = row["corrected"]
        return found

    def _checked(self, where: str, row: Mapping[str, str], position: int) -> Correction:
        name, label, corrected = (row[column] for column in NEEDED)
        if corrected not in self.classes:
            raise unknown(f"{where}: corrected", corrected, self.classes)
        now = self.test[name] if position == _OWN_TEST else self.labels[position]
        if now != label:
            raise SvpkitError(
                f"{where}: particle '{name}' is labelled '{now}', the file says '{label}': it was "
                "written for other labels"
            )
        return Correction(position, name, label, corrected)

    def _place(self, where: str, name: str, stated: str) -> int:
        here, there = name in self.places, name in self.test
        if not (here or there):
            near = nearest(name, list(self.places)[:_NEAR])
            raise SvpkitError(f"{where}: no particle has the id '{name}'{near}")
        if here and there and stated not in ("train", "val", "test"):
            raise SvpkitError(
                f"{where}: id '{name}' stands in the data and in the test set; the column 'set' "
                "must say which (train, val or test)"
            )
        return _OWN_TEST if there and (not here or stated == "test") else self.places[name]


def _by_id(particles: ParticleSet) -> dict[str, int]:
    return {name: i for i, name in enumerate(particles.table["id"].astype(str))}


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Return (where, row) of the rows that name a corrected label."""
    where = f"data.corrections: {path.name}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            # spreadsheets of many countries write semicolons
            mark = max(",;\t", key=head.count)
            table = csv.DictReader(file, delimiter=mark, restval="", strict=True)
            there = [name.strip() for name in table.fieldnames or ()]
            table.fieldnames = there
            rows = [(f"{where}, line {table.line_num}", row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SvpkitError(f"{where}: no CSV in UTF-8 to read ({error})") from None
    for name in NEEDED:
        if name not in there:
            raise SvpkitError(f"{where}: column '{name}' is missing (columns: {choices(there)})")
    cells = [(at, {k: unsafe((row[k] or "").strip()) for k in there}) for at, row in rows]
    return [(at, row) for at, row in cells if row["corrected"]]
