"""Progress a person can read: a bar with rate and time left on a terminal, else plain lines."""

import contextlib
import sys
import time
from types import TracebackType

from svpkit import ranks

QUIET_SECONDS = 15.0


class Progress:
    """Counts up to `total` units; use it as a context and call it with how many are done."""

    def __init__(self, label: str, total: int, unit: str = "images", done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.start_at = done
        self.note = ""
        self._bar = self._task = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        if ranks.main() and sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and time.monotonic() - self._started > QUIET_SECONDS:
            self._say()

    def __call__(self, n: int, note: str = "") -> None:
        """Count n more units done, `total` at most."""
        # the last batch is counted whole, and may reach beyond what was asked for
        self.done = min(self.done + n, self.total)
        self.note = note or self.note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=self.note)
        elif time.monotonic() - self._said > QUIET_SECONDS:
            self._say()

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(
            self.label, total=self.total, completed=self.done, rate="", note=""
        )
        self._bar.start()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = (self.done - self.start_at) / max(self._said - self._started, 1e-9)
        left = max(self.total - self.done, 0) / rate if rate > 0 else float("nan")
        tell(
            f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s, "
            f"{left:,.0f} s left{self.note}"
        )


def tell(line: str) -> None:
    """Print a line of the main process to the terminal, or to the log that takes its place."""
    if not ranks.main():
        return
    # a log on a full disk, or a reader of it that is gone, ends no training
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
