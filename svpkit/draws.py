"""Random numbers as pure functions of (seed, role, index): the same on one process or many.

Models never touch a global generator: each sample carries a 64-bit seed, and every number drawn for
it is a hash of that seed, the stream's name and a counter (splitmix64: Steele, Lea & Flood 2014).
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def key(seed: int, *role: str | int) -> int:
    """Return a signed 64-bit number that stands for (seed, role...)."""
    text = "\x1f".join(str(part) for part in (seed, *role))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def rng(seed: int, *role: str | int) -> np.random.Generator:
    """Return a numpy generator that belongs to (seed, role...) alone."""
    return np.random.Generator(np.random.Philox(key=key(seed, *role) & (2**64 - 1)))


def seeds(seed: int, *role: str | int, index: Sequence[int] | np.ndarray) -> Tensor:
    """Return one 64-bit seed for each of the indices: int64 (B,)."""
    counter = torch.as_tensor(np.asarray(index, dtype=np.int64))
    return _mix(key(seed, *role) + counter * _GOLDEN)


def bits(seeds: Tensor, n: int, stream: str) -> Tensor:
    """Return n hashed 64-bit numbers per seed: int64 (B, n)."""
    start = _mix(seeds ^ key(0, stream))
    counter = torch.arange(1, n + 1, device=seeds.device, dtype=torch.int64)
    return _mix(start[:, None] + counter * _GOLDEN)


def uniform(seeds: Tensor, shape: Sequence[int], stream: str) -> Tensor:
    """Return uniform numbers in (0, 1): float32 (B, *shape), 23 random bits each."""
    raw = bits(seeds, math.prod(shape), stream)
    value = (_shift(raw, 41).to(torch.float32) + 0.5) * 2.0**-23
    return value.view(len(seeds), *shape)


def integers(seeds: Tensor, shape: Sequence[int], high: int, stream: str) -> Tensor:
    """Return integers in [0, high): int64 (B, *shape)."""
    raw = bits(seeds, math.prod(shape), stream)
    return (_shift(raw, 1) % high).view(len(seeds), *shape)


def normal(seeds: Tensor, shape: Sequence[int], stream: str) -> Tensor:
    """Return standard normal numbers: float32 (B, *shape), by Box and Muller (1958)."""
    n = math.prod(shape)
    raw = bits(seeds, (n + 1) // 2, stream)
    u = (_shift(raw, 32).to(torch.float32) + 0.5) * 2.0**-32
    angle = (raw & 0xFFFFFFFF).to(torch.float32) * (2 * math.pi * 2.0**-32)
    radius = torch.sqrt(-2 * torch.log(u.clamp(max=1 - 2.0**-24)))
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :n].reshape(len(seeds), *shape)


def epochs(n: int, batch: int, seed: int) -> Callable[[int], np.ndarray]:
    """Return `order(step)`: positions (batch,) in 0 .. n - 1, each image once an epoch."""

    @lru_cache(maxsize=4)
    def shuffled(epoch: int) -> np.ndarray:
        return rng(seed, "epoch", epoch).permutation(n)

    def order(step: int) -> np.ndarray:
        place = step * batch + np.arange(batch)
        epoch = place // n
        found = [shuffled(e)[place[epoch == e] % n] for e in range(epoch[0], epoch[-1] + 1)]
        return np.concatenate(found)

    return order


@contextlib.contextmanager
def seeded(seed: int, *role: str | int) -> Iterator[None]:
    """Lend torch's global generator a state that belongs to (seed, role...), then restore it."""
    with torch.random.fork_rng():
        torch.manual_seed(key(seed, *role) & (2**63 - 1))
        yield


def _shift(x: Tensor, k: int) -> Tensor:
    # a logical right shift: torch's is arithmetic on signed numbers
    return (x >> k) & ((1 << (64 - k)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)
