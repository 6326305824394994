"""What one process works on among many: a run's folder, cells of a suite; its locks go with it."""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from svpkit import ranks
from svpkit.errors import SvpkitError
from svpkit.ledger import Row
from svpkit.legible import legible
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


@contextmanager
def held_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder against other runs of its name, which wait and say for whom.

    The main process holds it for all of its ranks. The lock lies beside the folder, in `.partial`,
    and is free again when its holder has ended, however. Raises SvpkitError where it cannot be
    written.
    """
    from filelock import FileLock, Timeout

    if not ranks.main():
        ranks.wait()
        yield
        return
    place = folder.parent / ".partial"
    lock, note = FileLock(place / f"{folder.name}.lock"), place / f"{folder.name}.holder"
    try:
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=ranks.PATIENCE)
        except Timeout:
            said = f"waiting for another run of this name: {_holder(note)} holds {folder}"
            print(said, file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise SvpkitError(f"{place}: cannot write here ({error.strerror or error})") from None
    # told to people alone: the lock is what counts
    with suppress(OSError):
        note.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    try:
        ranks.wait()
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def _holder(note: Path) -> str:
    try:
        return legible(note.read_text(encoding="utf-8", errors="replace")[:200])
    except OSError:
        return "a process"
