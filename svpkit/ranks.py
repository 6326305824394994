"""One process or many: who is main, waiting, agreeing, and sharing out work."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError


def many() -> bool:
    """Return True inside a launch of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Return this process's number, 0 when it is alone."""
    return state().process_index if many() else 0


def size() -> int:
    """Return the number of processes."""
    return state().num_processes if many() else 1


def main() -> bool:
    """Return True on the process that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until every process is here."""
    if many():
        state().wait_for_everyone()


def agree(value: Any) -> Any:
    """Return the main process's value on every process."""
    if not many():
        return value
    from accelerate.utils import broadcast_object_list

    state()
    return broadcast_object_list([value])[0]


def on_main(work: Callable[[], Any]) -> None:
    """Do something on the main process while the others wait."""
    if main():
        work()
    wait()


def mine(items: Sequence[Any]) -> Sequence[Any]:
    """Return this process's share: every `size()`-th item."""
    return items[rank() :: size()]


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file against other runs; the main process holds it for all of its ranks."""
    from filelock import FileLock

    if main():
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SvpkitError(f"{lock.parent}: cannot write here ({error.strerror})") from None
    held = FileLock(lock) if main() else None
    if held:
        held.acquire()
    wait()
    try:
        yield
    finally:
        if held:
            held.release()


def state() -> Any:
    """Return accelerate's view of the processes and the device."""
    import torch
    from accelerate import PartialState

    # without `cpu`, processes launched on a machine with no GPU would each believe to be alone
    if not many():
        return PartialState()
    # the others may wait for hours while the main process reads data
    patient = timedelta(days=7)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=patient)
