"""Multinomial counts of very many cells at once: what a stratum's replicates are drawn from.

Independent Poisson counts, given their sum, are multinomial. Counts of slightly too small a rate
are therefore drawn for all cells at once, and the few draws that miss to the whole singly; columns
that hold too many are drawn again. The result is multinomial exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

SHORT = 3.0
"""By how many standard deviations of their sum the Poisson counts are meant to fall short."""

GUIDED = 128
"""Cells of more members are drawn by numpy's own Poisson generator."""

MANY = 16
"""From this many on, cells of one size are looked up in a table."""

BITS = 16
"""Random bits that a count is looked up by."""

_OPEN = 255  # what these bits leave open


@dataclass(frozen=True)
class Guide:
    """Poisson counts of one rate by inversion.

    Random bits settle nearly every draw by `table` (2**BITS,); what they leave open is told by a
    uniform number from `rest` (255,), the running sum of the chance that the table has not.
    """

    table: np.ndarray
    rest: np.ndarray

    @classmethod
    def of(cls, rate: float) -> Guide:
        """Return the guide of a rate, of at most GUIDED."""
        k = np.arange(_OPEN)
        chance = stats.poisson.pmf(k, rate)
        settled = np.floor(chance * 2**BITS).astype(np.int64)
        table = np.full(2**BITS, _OPEN, np.uint8)
        table[: settled.sum()] = np.repeat(k, settled)
        return cls(table, (chance - settled / 2**BITS).cumsum())

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Draw counts, uint8 of a shape."""
        n = shape[0] * shape[1]
        bits = rng.bit_generator.random_raw(-(-n // 4)).view(np.uint16)[:n]
        counts = self.table[bits]
        open_ = np.flatnonzero(counts == _OPEN)
        drawn = self.rest[-1] * rng.random(open_.size)
        counts[open_] = np.searchsorted(self.rest, drawn, side="right")
        return counts.reshape(shape)


@dataclass(frozen=True)
class Cells:
    """Cells that hold n members, `size` (M,) each, made ready to be drawn from.

    `guided` are the cells (rows) of one size with their guide, `other` all other cells; `rate` (M,)
    is their Poisson rate and `owner` (n,) the cell of each member.
    """

    rate: np.ndarray
    owner: np.ndarray
    guided: list[tuple[np.ndarray, Guide]]
    other: np.ndarray

    @classmethod
    def of(cls, size: np.ndarray) -> Cells:
        """Make cells of size int (M,), above 0, ready."""
        rate = size * max(0.0, 1 - SHORT / np.sqrt(size.sum()))
        kind = np.minimum(size, GUIDED + 1)
        many = np.bincount(kind, minlength=GUIDED + 2) >= MANY
        many[-1] = False
        rows = [np.flatnonzero(size == members) for members in np.flatnonzero(many)]
        guided = [(own, Guide.of(float(rate[own[0]]))) for own in rows]
        return cls(rate, np.repeat(np.arange(size.size), size), guided, np.flatnonzero(~many[kind]))

    def draw(self, rng: np.random.Generator, counts: np.ndarray) -> None:
        """Draw n members with replacement, as often as int32 counts (M, R) has columns."""
        n = self.owner.size
        self.poisson(rng, counts)
        missing = n - counts.sum(0, dtype=np.int32)
        while (over := np.flatnonzero(missing < 0)).size:
            again = np.empty((len(counts), over.size), np.int32)
            self.poisson(rng, again)
            counts[:, over] = again
            missing[over] = n - again.sum(0, dtype=np.int32)
        hit = self.owner[rng.integers(n, size=missing.sum(), dtype=np.uint32)]
        place = hit * missing.size + np.repeat(np.arange(missing.size), missing)
        # of the array's own type: any other makes this many times slower
        np.add.at(counts.reshape(-1), place, np.int32(1))

    def poisson(self, rng: np.random.Generator, counts: np.ndarray) -> None:
        """Draw independent Poisson counts of the cells' rates into counts (M, R)."""
        n = counts.shape[1]
        for rows, guide in self.guided:
            counts[rows] = guide.draw(rng, (rows.size, n))
        counts[self.other] = rng.poisson(self.rate[self.other, None], (self.other.size, n))
