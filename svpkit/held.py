"""Cells of a suite taken by one process among many: a lock each, which goes with the process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from svpkit.ledger import Row
from svpkit.measured import Task

# Told the row of a task's cell as it is by now (None: there is none): is it still to be run?
Wanted = Callable[[Task, Row | None], bool]


class Held:
    """The cells that this process works on; `others` counts those that others hold.

    `folder` is for the locks, `rows` reads what there is by digest.
    """

    def __init__(self, folder: Path, rows: Callable[[], Mapping[str, Row]], wanted: Wanted) -> None:
        self.folder, self.rows, self.wanted = folder, rows, wanted
        self.others = 0
        self._locks: dict[str, Any] = {}

    def take(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Yield the tasks that nobody else works on or is done with, each held from then on."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            digest = task.cell.digest
            lock = FileLock(self.folder / f"cell-{digest}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                self.others += 1
                continue
            # read only now: who held it before has written its row
            if self.wanted(task, self.rows().get(digest)):
                self._locks[digest] = lock
                yield task
            else:
                lock.release()

    def release(self, *tasks: Task) -> None:
        """Let go of those of the tasks that are held."""
        for task in tasks:
            if lock := self._locks.pop(task.cell.digest, None):
                lock.release()
