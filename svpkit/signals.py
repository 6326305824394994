"""Signals that end a run: a training told to end writes a checkpoint first; told twice, it ends."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which a signal that comes again is the same one: a scheduler tells every process, and
# the launcher hands it on.
SAME = 1.0
HEARD = b"told to end: a checkpoint is written first (told again, it ends at once)\n"


class Ended(BaseException):
    """The process was told to end by a signal that is not ctrl-c; `code` is its exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def end(number: int, frame: FrameType | None = None) -> NoReturn:
    """Raise what ends a program: KeyboardInterrupt for SIGINT, else `Ended`."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Ended(number)


def end_in_order() -> None:
    """Let SIGTERM unwind the program, as ctrl-c does, so that what is half written is removed."""
    signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def held() -> Iterator[Callable[[], int]]:
    """Hold the first signal back, for work that ends in order by itself; a second one ends it.

    Yields a function: the number of the signal that came, or 0. Threads other than the main one
    get no signals: there it is always 0.
    """
    came: list[tuple[int, float]] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            return end(number) if time.monotonic() - came[0][1] > SAME else None
        came.append((number, time.monotonic()))
        # print() may be in the middle of a line, and the log may be gone
        with contextlib.suppress(OSError):
            os.write(2, HEARD)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: came[0][0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        # after the work looked for the last time: still somebody wants the program to end
        end(came[0][0])
