"""The same picture twice: exact copies by digest, near ones by hash and then by correlation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

import numpy as np

from svpkit.particles.grouping import among
from svpkit.particles.particleset import ParticleSet, batches, digest_heads

BITS = 64
CORRELATION = 0.995
# At a correlation of 0.995 two of the 64 bits differ on average, and more than 8 almost never.
_DISTANCE = 8
_WORDS = [np.uint64(0xFFFF << shift) for shift in range(0, BITS, 16)]
# Bounds of the search: a word shared by too many says nothing (blank images, all of one shape).
_BUCKET = 256
_COMPARED = 10_000_000
_AT_ONCE = 2_000_000
_CANDIDATES = 200_000


@dataclass(frozen=True)
class NearPairs:
    """Positions in two sets (P,), their correlations (P,), and how many could not be searched."""

    first: np.ndarray
    second: np.ndarray
    correlation: np.ndarray
    unsearched: int


def picture_hash(images: np.ndarray) -> np.ndarray:
    """Return 64 bits an image that stay alike where pictures correlate: uint64 (N,).

    Images uint8 (N, C, H, W). The bits are the signs of the mean-free grey image on 64 random
    directions (Charikar 2002): images that correlate by r differ in arccos(r) / pi of them,
    whatever the particle's size; a difference hash would see the padding of small crops only.
    """
    grey = images.astype(np.float32).mean(1).reshape(len(images), -1)
    grey -= grey.mean(1, keepdims=True)
    signs = grey @ _directions(grey.shape[1]) > 0
    return np.packbits(signs, axis=1).view(">u8").ravel().astype(np.uint64)


def hashes(particles: ParticleSet) -> np.ndarray:
    """Return the hash of every particle, from the table where it holds them: uint64 (N,)."""
    if "hash" in particles.table and particles.table["hash"].dtype == np.uint64:
        return particles.table["hash"].to_numpy()
    found = [picture_hash(particles.images(block)) for block in batches(len(particles), 4096)]
    return np.concatenate([np.empty(0, np.uint64), *found])


def exact_pairs(a: ParticleSet, b: ParticleSet, most: int = 5) -> list[tuple[str, str]]:
    """Return the ids of up to `most` pairs of one picture that stands in both sets."""
    # only what shares half a digest is looked at whole: a dictionary of all would be the largest
    # thing here
    own, other = digest_heads(a.table), digest_heads(b.table)
    a_rows, b_rows = among(own, other), among(other, own)
    one, two = (each.table.loc[rows, ["digest", "id"]] for each, rows in ((a, a_rows), (b, b_rows)))
    first = dict(zip(one["digest"], one["id"], strict=True))
    there = zip(two["digest"], two["id"], strict=True)
    return list(islice(((first[d], name) for d, name in there if d in first), most))


def near_pairs(a: ParticleSet, b: ParticleSet, correlation: float = CORRELATION) -> NearPairs:
    """Return the pairs of near-identical pictures between two sets of one shape.

    Pixels are compared only where the hashes share one of four 16-bit words and differ in at most
    8 bits: over 97 % of the pairs at a correlation of 0.995, nearly all above 0.998. Time is
    bounded: where too many share a word (256, more where the smaller set is small) two words must
    agree, and the particles of the smaller set that still meet too many are counted in
    `unsearched`: some of their near copies are missed (among 500,000 much alike, 1 % of those at a
    correlation of 0.9997 and 17 % at 0.998).
    """
    if len(a) > len(b):
        swapped = near_pairs(b, a, correlation)
        return NearPairs(swapped.second, swapped.first, swapped.correlation, swapped.unsearched)
    first, second, unsearched = _candidates(hashes(a), hashes(b))
    found = np.concatenate(
        [np.empty(0)]
        + [_correlate(a.images(first[k]), b.images(second[k])) for k in batches(len(first), 512)]
    )
    near = found >= correlation
    return NearPairs(first[near], second[near], found[near], unsearched)


@lru_cache(maxsize=4)
def _directions(pixels: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=pixels))
    return rng.standard_normal((pixels, BITS), dtype=np.float32)


def _candidates(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    pairs, crowded = [np.empty((0, 3), np.int64)], np.arange(len(a))
    # one word in common; for those whose words too many share, two in common
    for masks in (_WORDS, [x | y for x, y in combinations(_WORDS, 2)]):
        asked, over = crowded, np.zeros(len(crowded), bool)
        for mask in masks:
            for first, second in _alike(a[asked] & mask, b & mask, over):
                apart = np.bitwise_count(a[asked[first]] ^ b[second])
                close = apart <= _DISTANCE
                found = (apart[close], asked[first[close]], second[close])
                pairs.append(np.stack(found, axis=1).astype(np.int64))
        crowded = asked[over]
    unique = np.unique(np.concatenate(pairs), axis=0)
    missed = np.union1d(crowded, unique[_CANDIDATES:, 1])
    return unique[:_CANDIDATES, 1], unique[:_CANDIDATES, 2], len(missed)


def _alike(
    a: np.ndarray, b: np.ndarray, crowded: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    order = np.argsort(b, kind="stable")
    start = np.searchsorted(b[order], a, side="left")
    n = np.searchsorted(b[order], a, side="right") - start
    most = max(_BUCKET, _COMPARED // max(len(a), 1))
    crowded |= n > most
    n[n > most] = 0
    for block in batches(len(a), max(1, _AT_ONCE // most)):
        many = n[block]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        yield (
            np.repeat(np.arange(len(a))[block], many),
            order[np.repeat(start[block], many) + within],
        )


def _correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    x, y = (each.reshape(len(each), -1).astype(np.float32) for each in (a, b))
    x -= x.mean(1, keepdims=True)
    y -= y.mean(1, keepdims=True)
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    # A blank image has no correlation; its exact copies are found by their digest.
    return (x * y).sum(1) / np.where(size > 0, size, np.inf)
