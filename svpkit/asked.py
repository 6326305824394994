"""Processes of a launch that ask one another whether a signal came, about once a second."""

import time
from collections.abc import Callable

from svpkit import ranks

# Steps from one question to the next, at most.
MOST = 256


class Asked:
    """The signal that came to any process of a launch, asked at the same steps by all of them.

    A signal reaches processes at different steps, and one that ends while the others work on
    leaves them waiting. Process 0 measures how long a step takes; how many it is to the next
    question, about a second's worth, goes out with each. A single process is asked at every step.
    """

    def __init__(
        self, told: Callable[[], int], step: int = 0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._told, self._now = told, now
        self._last, self._next, self._since = step, step, now()

    def __call__(self, step: int, *, last: bool = False) -> int:
        """Return the number of the signal, 0 for none; the `last` time all are asked."""
        if not ranks.many():
            return self._told()
        if step < self._next and not last:
            return 0
        number, steps = ranks.largest(self._told(), self._steps(step) if ranks.main() else 0)
        self._last, self._next, self._since = step, step + steps, self._now()
        return number

    def _steps(self, step: int) -> int:
        # at most twice as many as before: a step may wait for a validation or the disk
        done, seconds = step - self._last, self._now() - self._since
        fit = done / seconds if seconds > 0 else MOST
        return max(1, min(int(fit), 2 * done, MOST))
