"""What a classifier is asked of a batch of images: logits, features, or both of one pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from svpkit import devices
from svpkit.classify.faster import both, faster
from svpkit.classify.workers import in_order
from svpkit.fit import to_float
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet, batches

# Pixels that a core takes at a time: 64 images of 64 x 64. Fewer keep the last layers waiting for
# their weights, more leave the cache.
PIXELS = 64 * 64 * 64
LEAST, MOST = 8, 128

Call = Callable[[np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Passes:
    """Calls that take uint8 images (B, C, S, S) and return arrays float32 of B rows.

    `logits` returns (B, K) alone, `features` (B, F) alone and is None where there are none, `each`
    both. `at_once` is how many images a core takes at a time; 0 where the calls are not shared out.
    """

    logits: Call
    features: Call | None
    each: Call
    at_once: int = 0


def passes(network: nn.Module, spec: ImageSpec) -> Passes:
    """Return the calls of a network in evaluation mode, made quick where it is on a CPU."""
    at_once = min(max(PIXELS // spec.size**2, LEAST), MOST)
    noise = torch.rand(
        (at_once, spec.channels, spec.size, spec.size), generator=torch.Generator().manual_seed(0)
    )
    usual = noise.mul_(2).sub_(1).to(devices.device())
    shared = at_once if usual.device.type == "cpu" else 0
    one = both(network, usual[:2])
    if one is not None:
        quick = faster(one, usual)
        first, second = (lambda x: said(quick, x)[:1]), (lambda x: said(quick, x)[1:])
        return Passes(first, second, lambda x: said(quick, x), shared)
    alone, find = faster(network, usual), getattr(network, "features", None)
    if find is None:
        return Passes(lambda x: said(alone, x), None, lambda x: said(alone, x), shared)
    return Passes(
        lambda x: said(alone, x),
        lambda x: said(find, x),
        lambda x: said(alone, x) + said(find, x),
        shared,
    )


def run(
    call: Call, images: np.ndarray | ParticleSet, batch: int, at_once: int = 0
) -> Iterator[tuple[slice, tuple[np.ndarray, ...]]]:
    """Yield slices of at most `batch` images, in order, and what the call says of them.

    With `at_once`, the cores of a CPU share the work, each at most so many images at a time.
    """

    def work(block: tuple[slice, np.ndarray]) -> tuple[slice, tuple[np.ndarray, ...]]:
        return block[0], call(block[1])

    blocks = batches(len(images), min(batch, at_once) if at_once else batch)
    read = ((block, pixels(images, block)) for block in blocks)
    yield from in_order(work, read) if at_once else map(work, read)


def pixels(images: np.ndarray | ParticleSet, block: slice) -> np.ndarray:
    """Return the uint8 images (B, C, S, S) of these rows."""
    return images.images(block) if isinstance(images, ParticleSet) else images[block]


def said(call: Any, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what a network says of uint8 images (B, C, S, S): a tuple of arrays float32."""
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(images)).to(devices.device())
        found = call(to_float(x).contiguous(memory_format=torch.channels_last))
        found = found if isinstance(found, tuple) else (found,)
        return tuple(each.float().cpu().numpy() for each in found)
