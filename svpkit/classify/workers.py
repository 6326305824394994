"""Work on batches shared out to the cores: a thread a core, each alone with its batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield work(item) of each item, in their order, worked on by as many threads as torch has.

    Every thread computes on one core: cores that share a batch wait for one another after every
    layer, which costs most on small pictures. Items are fetched by the caller's thread ahead of the
    work, at most twice as many as there are threads.
    """
    cores = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(cores, "batch", torch.set_num_threads, (1,))
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # a thread's setting is also that of every thread that begins later
        torch.set_num_threads(cores)
