"""Human labels from a CSV, joined to an export by particle id, image name or GUID."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError, unknown
from svpkit.legible import checked
from svpkit.readers import tables

# The names that are looked for where none is given; the first that is there is taken.
LABEL = ("label", "class")
ID = ("particle_id", "Particle ID", "id")
IMAGE = ("image", "image_id", "file")
RUN = ("run",)

Key = tuple[str, str]


class Labels:
    """Labels by particle id or image, and by run where the table names runs."""

    def __init__(self, path: Path, labels: dict[Key, str], column: str, *, by_run: bool) -> None:
        self.path, self.column, self.by_run = path, column, by_run
        self._labels = labels
        self._met: dict[Key, str] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def find(self, run: str, *names: str) -> str:
        """Return the label of a particle by any of its names; "" where the table has none.

        The names are the particle's id, the GUID or file name of its image; `run` counts where the
        table has a column of runs. Raises SvpkitError where one row is met in two runs.
        """
        for name in names:
            key = (run if self.by_run else "", same(name))
            if name and key in self._labels:
                self._once(key, run)
                return self._labels[key]
        return ""

    def _once(self, key: Key, run: str) -> None:
        # particles are numbered anew in each run: one row is no label of both
        first = self._met.setdefault(key, run)
        if first != run:
            raise SvpkitError(
                f"{self.path}: {self.column} '{key[1]}' is of run '{first}' and of run '{run}'; "
                "say which in a column 'run'"
            )

    def check(self, runs: Iterable[str]) -> None:
        """Raise SvpkitError for names in the table that the export, once read, did not have.

        Rows of runs other than `runs`, those that were read, are let be; not if all are of others.
        """
        read = {run if self.by_run else "" for run in runs}
        asked = [key for key in self._labels if key[0] in read]
        if self._labels and not asked:
            named = sorted({run for run, _ in self._labels})
            raise unknown(f"{self.path}: no label is of run", ", ".join(sorted(read)), named)
        lost = [key for key in asked if key not in self._met]
        if lost:
            run, name = lost[0]
            where = f" of run '{run}'" if run else ""
            raise SvpkitError(
                f"{self.path}: {len(lost)} of {len(asked)} labelled particles are not in the "
                f"export; the first: {self.column} '{name}'{where}"
            )


def read_labels(
    path: Path,
    *,
    label_column: str | None = None,
    id_column: str | None = None,
    image_column: str | None = None,
    run_column: str | None = None,
    runs: int = 1,
) -> Labels:
    """Read a table of labels; rows without a label are left out.

    Columns that are not named are looked for: LABEL, RUN, and ID or, without that, IMAGE.
    `runs` is how many the export has: with more than one, ids need a column of runs. Raises
    SvpkitError for a column that is not there, no label, and two labels of one particle.
    """
    if not path.is_file():
        raise SvpkitError(f"{path}: options.labels: no such file")
    table = tables.read_table(path)
    label = _column(path, table, "label_column", label_column, LABEL)
    run = _column(path, table, "run_column", run_column, RUN, needed=False)
    if id_column and image_column:
        raise SvpkitError(f"{path}: options.id_column and image_column: name one of them")
    by_image = bool(image_column) or not (id_column or _first(table, ID))
    kind, given, usual = (
        ("image_column", image_column, IMAGE) if by_image else ("id_column", id_column, ID)
    )
    key = _column(path, table, kind, given, usual)
    if runs > 1 and not run and not by_image:
        said = "options.run_column: name the column that says which run an id is of"
        raise SvpkitError(f"{path}: {said} ({runs} runs are read)")
    found = _collect(path, table[run] if run else [""] * len(table), table[key], table[label])
    if not found:
        raise SvpkitError(f"{path}: no row has a label in column '{label}'")
    return Labels(path, found, key, by_run=bool(run))


def _collect(path: Path, runs: Any, keys: Any, labels: Any) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for run, key, label in zip(runs, keys, labels, strict=True):
        if label and found.setdefault((run, same(key)), checked(label, path)) != label:
            both = f"'{found[run, same(key)]}' and '{label}'"
            where = f" of run '{run}'" if run else ""
            raise SvpkitError(f"{path}: two labels for '{key}'{where}: {both}")
    return found


def same(name: str) -> str:
    """Return a name as it is compared: 007, 7 and 7.0 are one id; case and braces do not count."""
    bare = name.strip().strip("{}").replace("\\", "/").casefold()
    digits = bare.removesuffix(".0")
    return digits.lstrip("0") or "0" if digits.isdecimal() else bare


def _column(
    path: Path,
    table: Any,
    option: str,
    given: str | None,
    usual: tuple[str, ...],
    *,
    needed: bool = True,
) -> str:
    if given is not None and given not in table.columns:
        raise unknown(f"{path}: options.{option}", given, table.columns)
    found = given or _first(table, usual)
    if needed and not found:
        known = ", ".join(table.columns)
        raise SvpkitError(f"{path}: options.{option}: name it; the columns are {known}")
    return found


def _first(table: Any, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in table.columns), "")
