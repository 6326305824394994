"""One command as several processes of this machine, told from one another as torch's launcher does.

They live and die together: where one fails the others are ended, and a signal reaches them all.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

from svpkit.errors import SvpkitError
from svpkit.ranks import LAUNCHED, LOST
from svpkit.signals import SAME, SIGNALS

# Seconds that processes have to end by themselves once one of them is gone, before they are killed.
GRACE = 30.0
_POLL, _SETTLE = 0.1, 1.0
_LAST = 8192


@dataclass(frozen=True)
class Rank:
    """A process of a launch, and the file of what it says on stderr (None where that is shown)."""

    number: int
    process: subprocess.Popen[Any]
    said: IO[bytes] | None

    @property
    def failed(self) -> bool:
        """True for one that ended otherwise than in success."""
        return bool(self.process.poll())

    @property
    def to_blame(self) -> bool:
        """True for one that failed by itself, not for want of its fellows nor by our signal."""
        return self.failed and self.process.returncode not in (LOST, *_TOLD)

    def words(self, of: int) -> str:
        """Return in one line how it ended and the last that it said."""
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        last = self._last()
        return f"process {self.number} of {of} {how}" + (f": {last}" if last else "")

    def _last(self) -> str:
        if self.said is None:
            return ""
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - _LAST))
        lines = [x.strip() for x in self.said.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[:500]


# How a process ends that was told to: by the signal itself where it was not ready for it yet.
_TOLD = (-signal.SIGTERM, 128 + signal.SIGTERM)


def launch(processes: int, command: Sequence[str]) -> int:
    """Run a command as so many processes of this machine; return the exit code.

    Each takes the GPU of its number where there are GPUs, else a share of the cores. stdin, stdout
    and stderr are those of process 0; of the others the last words are told where one fails, on
    stderr in one line. The code is that of the process to blame (128 + n where signal n killed it),
    128 + n where this process was told to end by signal n: they end in order, however long that
    takes; told again, those that have not ended within `GRACE` seconds are killed. Raises
    SvpkitError for more processes than GPUs.
    """
    check(processes)
    port, told = free_port(), []
    hear = _hearing(told)
    before = {number: signal.signal(number, hear) for number in SIGNALS}
    ranks = []
    try:
        ranks = [_start(k, processes, port, command) for k in range(processes)]
        return _watch(ranks, told)
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def check(processes: int) -> None:
    """Refuse more processes than GPUs, where there are GPUs, and a launch inside of a launch."""
    import torch

    if running := os.environ.get("WORLD_SIZE"):
        raise SvpkitError(
            f"--processes {processes}: this is a process of a launch of {running} already; leave "
            "--processes to its launcher"
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else processes
    if processes > gpus:
        raise SvpkitError(
            f"--processes {processes}: here are {gpus} GPUs, at most one process each (an empty "
            "CUDA_VISIBLE_DEVICES runs them on the CPU)"
        )


def environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return what tells a process which one it is, as torch's launcher does, on one machine."""
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)},
        **{"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"},
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _start(rank: int, processes: int, port: int, command: Sequence[str]) -> Rank:
    own = environment(rank, processes, port) | {LAUNCHED: "1"}
    # the cores are shared too: as many threads each as there are cores, and all would wait
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    env = threads | os.environ | own
    said = tempfile.TemporaryFile() if rank else None
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    more = {**quiet, "stderr": said} if rank else {}
    # a session of its own: ctrl-c reaches them once, through this process
    process = subprocess.Popen(
        list(command), env=env, start_new_session=True, preexec_fn=_bound(), **more
    )
    return Rank(rank, process, said)


def _bound() -> Callable[[], None] | None:
    # what a new process calls so that it is told to end when this one is gone; Linux alone can
    if sys.platform != "linux":
        return None
    import ctypes

    call, set_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: call(set_death_signal, signal.SIGTERM)


def _hearing(told: list[int]) -> Callable[[int, FrameType | None], None]:
    last = -math.inf

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > SAME:
            told.append(number)
        last = time.monotonic()

    return hear


def _watch(ranks: Sequence[Rank], told: list[int]) -> int:
    sent, blamed = 0, None
    while sent < 2 and not any(rank.failed for rank in ranks):
        if all(rank.process.poll() == 0 for rank in ranks):
            return 0
        for number in told[sent:]:
            _signal(ranks, number)
        sent = len(told)
        time.sleep(_POLL)
    if not told:
        # those that break with the first do so at once, the one to blame among them
        _wait(ranks, _SETTLE, told)
        blamed = next((rank for rank in ranks if rank.to_blame), None)
        _signal(ranks, signal.SIGTERM)
    _wait(ranks, GRACE, told)
    return 128 + told[0] if told else _blame(ranks, blamed)


def _wait(ranks: Sequence[Rank], seconds: float, told: list[int]) -> None:
    # until all have ended, or for so long; told again, they have no time left
    started, before = time.monotonic(), len(told)
    while any(rank.process.poll() is None for rank in ranks):
        if time.monotonic() - started > seconds or len(told) > before:
            return
        time.sleep(_POLL)


def _signal(ranks: Sequence[Rank], number: int) -> None:
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(number)


def _blame(ranks: Sequence[Rank], blamed: Rank | None) -> int:
    rank = blamed or next((r for r in ranks if r.to_blame), None)
    rank = rank or next(r for r in ranks if r.failed)
    code = rank.process.returncode
    # what process 0 says is shown already, when it still had the time to
    if rank.number or code < 0:
        said = f"svpkit: {rank.words(len(ranks))}; the others were ended"
        print(said, file=sys.stderr, flush=True)
    return code if code > 0 else 128 - code
