"""The cells of a suite side by side, a process each, that end with the process they belong to."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from svpkit.measured import Task, measure
from svpkit.plugins import Registry, discover
from svpkit.signals import Ended, end_in_order

# Seconds that a cell's process has to write a checkpoint once its parent is gone.
GRACE = 60.0


def spawned(
    tasks: Iterator[Task], workers: int, registry: Registry
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yield each task with its row as it is done; one that dies has a row that says so.

    A task is asked for when there is a worker free to take it.
    Left early, the processes that still work are told to end, and waited for.
    """
    # a process a cell: one that dies takes no other with it, and peak memory is the cell's own
    context = multiprocessing.get_context("spawn")
    running: dict[Any, tuple[BaseProcess, Task]] = {}
    threads = max(1, (os.cpu_count() or 1) // workers)
    try:
        while True:
            for task in islice(tasks, workers - len(running)):
                ours, theirs = context.Pipe(duplex=False)
                work = (theirs, task, *_plugins(registry), threads)
                process = context.Process(target=_in_process, args=work)
                process.start()
                theirs.close()
                running[ours] = process, task
            if not running:
                return
            for ready in wait(list(running)):
                process, task = running.pop(ready)
                yield task, _received(ready, process, task)
    finally:
        _end([process for process, _ in running.values()])


def _end(processes: Sequence[BaseProcess]) -> None:
    # told once, they write their checkpoints; who is told again, as we may be, ends them at once
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
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
    _bind()
    try:
        import torch

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        to.send(measure(task, discover(files=files, builtin_only=builtin_only)))
        to.close()
    except Ended as told:
        sys.exit(told.code)


def _bind() -> None:
    # ctrl-c reaches the whole terminal: who tells this process is its parent, or its parent's end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_in_order()
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)


def _plugins(registry: Registry) -> tuple[tuple[Path, ...], bool]:
    # what a new process needs to find the same plugins
    origins = {plugin.origin for plugin in registry.plugins.values()}
    files = tuple(Path(o) for o in sorted(origins - {"built-in", "entry point"}))
    return files, "entry point" not in origins
