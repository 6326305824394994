"""One process or many: who is main, waiting, agreeing, and sharing out work."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError

PATIENCE = 2.0  # seconds to wait for a lock before saying so
# Seconds that another machine's cache of a shared folder may lag behind, and then some.
LAG = 90.0
# The exit code of a process whose fellows are gone: it is not the one to blame.
LOST = 75
# Set for processes whose launcher says itself what became of them.
LAUNCHED = "SVPKIT_LAUNCHED"
# By what a launcher tells a process that it is not alone.
_TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PLACE = ("RANK", "MASTER_ADDR", "MASTER_PORT")
# What gloo and NCCL say when a fellow is gone.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "gloo", "NCCL", "recvValue failed")


def many() -> bool:
    """Return True inside a launch of several processes.

    Raises SvpkitError where WORLD_SIZE is no number.
    """
    said = os.environ.get("WORLD_SIZE") or "1"
    if not said.strip().isdecimal():
        raise SvpkitError(f"WORLD_SIZE: given {said!r}; it is a launch's number of processes")
    return int(said) > 1


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


def largest(*values: int) -> list[int]:
    """Return the largest of the processes' values, each by itself, on every process."""
    if not many():
        return list(values)
    import torch

    found = torch.tensor(values, device=state().device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found.tolist()


def on_main(work: Callable[[], Any]) -> None:
    """Do something on the main process while the others wait."""
    if main():
        work()
    wait()


def mine(items: Sequence[Any]) -> Sequence[Any]:
    """Return this process's share: every `size()`-th item."""
    return items[rank() :: size()]


def share(n: int, block: int) -> slice:
    """Return this process's rows of n: whole blocks, so that a block is done alike by however many.

    The shares of all processes, in their order, are all the rows.
    """
    blocks, k = math.ceil(n / block), rank()
    first, last = (blocks * each // size() * block for each in (k, k + 1))
    return slice(min(first, n), min(last, n))


def gather(value: Any) -> list[Any]:
    """Return every process's value, in their order, on every process."""
    if not many():
        return [value]
    from accelerate.utils import gather_object

    state()
    return gather_object([value])


def same(model: Any) -> None:
    """Give a network (an nn.Module) the main process's weights and buffers on every process.

    Weights agree anyway; what batch norm averaged is each process's own.
    """
    if not many():
        return
    import torch

    place = state().device
    with torch.no_grad():
        for tensor in model.state_dict().values():
            sent = tensor.detach().to(place).contiguous().clone()
            torch.distributed.broadcast(sent, 0)
            if not main():
                tensor.copy_(sent)


def see(path: Path) -> None:
    """Wait until a file that the main process wrote is seen here, on a shared folder perhaps."""
    started = time.monotonic()
    while many() and not path.exists() and time.monotonic() - started < LAG:
        time.sleep(0.2)
        # reading the folder asks the server again what is in it
        os.listdir(path.parent.parent)


def lost(error: BaseException) -> bool:
    """Return True for what is raised because another process of the launch is gone."""
    return many() and isinstance(error, RuntimeError) and any(said in str(error) for said in _GONE)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let this process work as if it were the only one, while the others wait.

    What it comes to is then that of one process to the bit. Nothing in it may ask for the others.
    """
    if not many():
        yield
        return
    from accelerate.state import AcceleratorState, PartialState

    together = dict(vars(state()))
    told = {name: os.environ.pop(name) for name in _TOLD if name in os.environ}
    PartialState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        # back to what it was told at the launch, without joining the others once more
        PartialState._shared_state.update(together)
        os.environ.update(told)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file against other runs; the main process holds it for all of its ranks."""
    from filelock import FileLock, Timeout

    if main():
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SvpkitError(f"{lock.parent}: cannot write here ({error.strerror})") from None
    held = FileLock(lock) if main() else None
    if held:
        try:
            held.acquire(timeout=PATIENCE)
        except Timeout:
            print(f"waiting for another run: it makes {lock.stem}", file=sys.stderr, flush=True)
            held.acquire()
    wait()
    try:
        yield
    finally:
        if held:
            held.release()


def state() -> Any:
    """Return accelerate's view of the processes and the device.

    Raises SvpkitError for a process that was told only in part which one it is.
    """
    import torch
    from accelerate import PartialState

    # without `cpu`, processes launched on a machine with no GPU would each believe to be alone
    if not many():
        return PartialState()
    if missing := [name for name in _PLACE if not os.environ.get(name)]:
        raise SvpkitError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} without {', '.join(missing)}: start several "
            "processes by --processes, torchrun or accelerate launch, or unset it"
        )
    # the others may wait for hours while the main process reads data
    patient = timedelta(days=7)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=patient)
