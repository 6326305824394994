"""A suite put to work: its cells run once each, measured, and its winners opened on test."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit import ledger, pairs, ranks
from svpkit.errors import SvpkitError
from svpkit.held import Held, Wanted
from svpkit.ledger import Row
from svpkit.measured import Places, Task, bound, measure
from svpkit.plugins import Registry
from svpkit.spawned import spawned
from svpkit.suite import Cell, Suite, cells, load

if TYPE_CHECKING:
    from rich.table import Table

RESULTS = "results.csv"
Say = Callable[[str], None]
Shard = tuple[int, int]
WHOLE: Shard = (1, 1)


@dataclass(frozen=True)
class Bench:
    """A suite at its places: every cell checked, and the file that its results go to."""

    suite: Suite
    path: Path
    cells: tuple[Cell, ...]
    places: Places
    registry: Registry

    @property
    def results(self) -> Path:
        """The file of results, a row a cell."""
        return self.places.out / RESULTS

    @property
    def rows(self) -> dict[str, Row]:
        """The rows there are by digest, those of other or older suites too."""
        return ledger.read(self.results)

    def task(self, cell: Cell, *, opens: bool, configurations: int | None = None) -> Task:
        """Return the task of a cell."""
        folder = (self.path.parent / self.suite.recipe).parent
        return Task(cell, str(self.path), folder, self.places, opens, configurations)

    def put(self, row: Mapping[str, Any]) -> None:
        """Write a row, against other processes that write here too."""
        # beside the file: suites of other names, and of other stores, may write to it too
        ledger.put(self.results, row, self.places.out / ".partial" / f"{RESULTS}.lock")


def open_bench(path: Path, registry: Registry, places: Places) -> Bench:
    """Read a suite and check all its cells; raises SvpkitError before anything is run."""
    if ranks.many():
        raise SvpkitError(f"{path}: a suite runs its cells in processes of its own: --workers N")
    suite = load(path)
    bench = Bench(suite, path, cells(suite, path), places, registry)
    for cell in bench.cells:
        # other seeds name the same plugins and places, and digests of large folders take time
        if cell.seed == suite.seeds[0]:
            bound(bench.task(cell, opens=False), registry)
    return bench


def run(
    bench: Bench,
    *,
    workers: int = 1,
    only: str = "",
    again: bool = False,
    shard: Shard = WHOLE,
    say: Say = lambda line: None,
) -> None:
    """Run the cells that have no row yet; with `again` those too that failed.

    `only` keeps the cells whose name holds it, `shard` (i, n) each n-th cell of the suite from the
    i-th on. Others may work on the suite at the same time, on any machine that shares the store
    and results.csv: a cell is run by the one that takes it first. A grid search opens its winners
    on test as soon as every configuration that they stood against has a row. Last, arms are paired
    with the baseline on the test particles of their subset (see `pairs`).
    """
    opens, rows = bench.suite.select is None, bench.rows
    left = todo(bench, only=only, again=again, shard=shard)

    def wanted(task: Task, row: Row | None) -> bool:
        # what failed is tried again once, not by everyone who was asked to
        return row is None or (again and "error" in row and row == rows.get(task.cell.digest))

    _work(bench, [bench.task(cell, opens=opens) for cell in left], wanted, workers, say)
    if not opens:
        _open_winners(bench, workers, say)
    if done := pairs.add(bench):
        say(f"{done} differences to {bench.suite.baseline} paired on the test particles")


def todo(bench: Bench, *, only: str = "", again: bool = False, shard: Shard = WHOLE) -> list[Cell]:
    """Return the cells that are left to run."""
    rows, (i, n) = bench.rows, shard
    chosen = [cell for cell in bench.cells[i - 1 :: n] if only in cell.name]
    if not any(only in cell.name for cell in bench.cells):
        raise SvpkitError(f"{bench.path}: --only {only}: no cell's name holds it")
    return [c for c in chosen if (row := rows.get(c.digest)) is None or (again and "error" in row)]


def plan_table(
    bench: Bench, *, only: str = "", again: bool = False, shard: Shard = WHOLE
) -> "Table":
    """Return the cells as a table: arm, point, seed and state; below, the stages left to make."""
    from rich.table import Table

    from svpkit.plan import plan

    rows, left = bench.rows, todo(bench, only=only, again=again, shard=shard)
    i, n = shard
    table = Table(title=f"{bench.path.stem}: {len(bench.cells)} cells", caption_justify="left")
    for column in ("arm", *bench.suite.grid, "seed", "state"):
        table.add_column(column, overflow="fold")
    for cell in (cell for cell in bench.cells[i - 1 :: n] if only in cell.name):
        row = rows.get(cell.digest)
        state = "to run" if row is None else f"failed: {row['error']}" if "error" in row else "done"
        table.add_row(cell.arm, *cell.at.values(), str(cell.seed), state)
    experiments = (bound(bench.task(cell, opens=False), bench.registry) for cell in left)
    planned = [p.artifact for e in experiments for p in plan(e, bench.places.store, deploys=False)]
    made = Counter(a.stage for a in {a.name: a for a in planned}.values() if not a.made)
    stages = ", ".join(f"{n} x {stage}" for stage, n in made.items()) or "nothing"
    table.caption = f"{len(left)} cells to run; left to make: {stages}"
    return table


def winners(suite: Suite, every: Sequence[Cell], rows: Mapping[str, Row]) -> dict[str, int]:
    """Return the digests of a grid search's winners, each with the configurations it was tried of.

    A configuration is all that tells cells apart but the seed and what `per` names; the winner has
    the highest mean over its seeds. One with a failed cell is counted and cannot win; while a cell
    of a group has no row, the group has no winner.
    """
    axes = ["arm", *suite.grid]
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[Cell]]] = {}
    for cell in every:
        group = groups.setdefault(tuple(cell.value(axis) for axis in suite.per), {})
        rest = tuple(cell.value(axis) for axis in axes if axis not in suite.per)
        group.setdefault(rest, []).append(cell)
    found: dict[str, int] = {}
    for group in groups.values():
        if all(cell.digest in rows for own in group.values() for cell in own):
            means = [
                (math.fsum(ledger.number(rows[c.digest], suite.select or "") for c in own), own)
                for own in group.values()
            ]
            whole = [(total, own) for total, own in means if math.isfinite(total)]
            best = max(whole, key=lambda each: each[0], default=(0.0, []))[1]
            found |= dict.fromkeys((cell.digest for cell in best), len(group))
    return found


def _open_winners(bench: Bench, workers: int, say: Say) -> None:
    rows = bench.rows
    won = winners(bench.suite, bench.cells, rows)
    for cell in bench.cells:
        row = rows.get(cell.digest, {})
        shown = [k for k in row if k.startswith("test.") or k == "configurations"]
        if shown and cell.digest not in won:
            # another has won since: the figures of a loser are not shown
            bench.put({k: v for k, v in row.items() if k not in shown})
    tasks = [
        bench.task(cell, opens=True, configurations=won[cell.digest])
        for cell in bench.cells
        if cell.digest in won and rows[cell.digest].get("configurations") != str(won[cell.digest])
    ]

    def wanted(task: Task, row: Row | None) -> bool:
        return row is not None and row.get("configurations") != str(task.configurations)

    _work(bench, tasks, wanted, workers, say)


def _work(bench: Bench, tasks: Sequence[Task], wanted: Wanted, workers: int, say: Say) -> None:
    number, held = count(1), Held(bench.places.store / ".partial", lambda: bench.rows, wanted)
    free = held.take(tasks)
    alone = ((task, measure(task, bench.registry)) for task in free)
    try:
        for task, row in alone if workers <= 1 else spawned(free, workers, bench.registry):
            # a winner keeps what it won by, whatever becomes of its opening
            won = bench.rows.get(task.cell.digest, {}) if task.configurations else {}
            bench.put(won | row)
            held.release(task)
            key = "test.macro_auprc" if task.opens else str(bench.suite.select)
            told = row["error"] or f"{key} {ledger.spelt(row.get(key))}, {row['seconds']:,.0f} s"
            failed = "failed: " if row["error"] else ""
            say(f"[{next(number)}/{len(tasks)}] {task.cell.name}: {failed}{told}")
    finally:
        held.release(*tasks)
    if held.others:
        say(f"{held.others} of {len(tasks)} cells are worked on by others")
