"""The batches of a training: which places of one are this process's, fetched a step ahead."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from svpkit import ranks
from svpkit.plans import Plan, Task


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8, rounded and clipped."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def places(plan: Plan, task: Task) -> np.ndarray:
    """Return this process's places in a batch; with partners, the one before its first leads."""
    share = plan.batch // ranks.size()
    start = ranks.rank() * share
    return np.arange(start - bool(task.mix), start + share) % plan.batch


@contextlib.contextmanager
def prefetched(
    plan: Plan, task: Task, steps: int, *, pin: bool
) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
    """Yield `batch(step)`: the next is gathered from disk while the network works on this one.

    What goes wrong in fetching is raised by the call that asks for the batch.
    """
    mine = places(plan, task)

    def gather(step: int) -> tuple[Tensor, Tensor]:
        images, labels = task.fetch(task.order(step)[mine])
        pair = torch.from_numpy(images), torch.from_numpy(labels)
        return (pair[0].pin_memory(), pair[1]) if pin else pair

    with ThreadPoolExecutor(1) as pool:
        ahead = {}

        def batch(step: int) -> tuple[Tensor, Tensor]:
            now = ahead.pop(step, None) or pool.submit(gather, step)
            if step + 1 < steps:
                ahead[step + 1] = pool.submit(gather, step + 1)
            return now.result()

        yield batch
