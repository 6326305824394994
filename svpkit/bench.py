"""A suite put to work: its cells run once each, measured, and its winners opened on test."""

import math
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit import ledger, pairs, ranks
from svpkit.errors import SvpkitError
from svpkit.ledger import Row
from svpkit.measured import Places, Task, bound, measure
from svpkit.plugins import Registry, discover
from svpkit.suite import Cell, Suite, cells, load

if TYPE_CHECKING:
    from rich.table import Table

RESULTS = "results.csv"
Say = Callable[[str], None]


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
        ledger.put(self.results, row, self.places.store / ".partial" / f"{self.path.stem}.lock")


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
    say: Say = lambda line: None,
) -> None:
    """Run the cells that have no row yet; with `again` those too that failed.

    `only` keeps the cells whose name holds it. A grid search opens its winners on test as soon as
    every configuration that they stood against has a row. Last, arms are paired with the baseline
    on the test particles of their subset (see `pairs`).
    """
    opens = bench.suite.select is None
    left = todo(bench, only=only, again=again)
    _work(bench, [bench.task(cell, opens=opens) for cell in left], workers, say)
    if not opens:
        _open_winners(bench, workers, say)
    if done := pairs.add(bench):
        say(f"{done} differences to {bench.suite.baseline} paired on the test particles")


def todo(bench: Bench, *, only: str = "", again: bool = False) -> list[Cell]:
    """Return the cells that are left to run."""
    rows = bench.rows
    chosen = [cell for cell in bench.cells if only in cell.name]
    if not chosen:
        raise SvpkitError(f"{bench.path}: --only {only}: no cell's name holds it")
    return [c for c in chosen if (row := rows.get(c.digest)) is None or (again and "error" in row)]


def plan_table(bench: Bench, *, only: str = "", again: bool = False) -> "Table":
    """Return the cells as a table: arm, point, seed and state; below, the stages left to make."""
    from rich.table import Table

    from svpkit.plan import plan

    rows, left = bench.rows, todo(bench, only=only, again=again)
    table = Table(title=f"{bench.path.stem}: {len(bench.cells)} cells", caption_justify="left")
    for column in ("arm", *bench.suite.grid, "seed", "state"):
        table.add_column(column, overflow="fold")
    for cell in (cell for cell in bench.cells if only in cell.name):
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
    _work(bench, tasks, workers, say)


def _work(bench: Bench, tasks: Sequence[Task], workers: int, say: Say) -> None:
    number, rows = count(1), bench.rows
    alone = ((task, measure(task, bench.registry)) for task in tasks)
    for task, row in alone if workers <= 1 else _spawned(tasks, workers, bench.registry):
        # a winner keeps what it won by, whatever becomes of its opening
        bench.put((rows[task.cell.digest] if task.configurations else {}) | row)
        key = "test.macro_auprc" if task.opens else str(bench.suite.select)
        told = row["error"] or f"{key} {ledger.spelt(row.get(key))}, {row['seconds']:,.0f} s"
        failed = "failed: " if row["error"] else ""
        say(f"[{next(number)}/{len(tasks)}] {task.cell.name}: {failed}{told}")


def _spawned(
    tasks: Sequence[Task], workers: int, registry: Registry
) -> Iterator[tuple[Task, dict[str, Any]]]:
    # a process a cell: one that dies takes no other with it, and peak memory is the cell's own
    context = multiprocessing.get_context("spawn")
    waiting, running = deque(tasks), {}
    threads = max(1, (os.cpu_count() or 1) // workers)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                ours, theirs = context.Pipe(duplex=False)
                task = waiting.popleft()
                work = (theirs, task, *_plugins(registry), threads)
                process = context.Process(target=_in_process, args=work)
                process.start()
                theirs.close()
                running[ours] = process, task
            for ready in wait(list(running)):
                process, task = running.pop(ready)
                yield task, _received(ready, process, task)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _received(ready: Any, process: Any, task: Task) -> dict[str, Any]:
    try:
        row = ready.recv()
    except EOFError:
        row = None
    process.join()
    ready.close()
    return row or task.row(f"the process died (exit code {process.exitcode})")


def _in_process(
    to: Connection, task: Task, files: tuple[Path, ...], builtin_only: bool, threads: int
) -> None:
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    to.send(measure(task, discover(files=files, builtin_only=builtin_only)))
    to.close()


def _plugins(registry: Registry) -> tuple[tuple[Path, ...], bool]:
    # what a new process needs to find the same plugins
    origins = {plugin.origin for plugin in registry.plugins.values()}
    files = tuple(Path(o) for o in sorted(origins - {"built-in", "entry point"}))
    return files, "entry point" not in origins
