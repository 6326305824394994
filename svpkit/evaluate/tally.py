"""What counts are made from: particles by stratum of size, class and name, posteriors in cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics, quantify

BINS = (2, 5, 10, 25)
"""Lower edges of the size bins, ECD in um."""

STRATA = len(BINS) + 2
"""Below the first edge, one from each edge on, and what has no size."""

PSEUDO = 10
"""Validation particles of a class that all sizes together lend to each stratum."""

FINE, FAR = 4, 48
"""Steps per unit of log odds, by which posteriors are pooled, and the last step."""


def strata(ecd_um: np.ndarray) -> np.ndarray:
    """Stratum of each particle, (N,) from ECD in um; the last one where the size is unknown."""
    return np.where(np.isnan(ecd_um), STRATA - 1, np.digitize(ecd_um, BINS))


@dataclass(frozen=True, eq=False)
class Reference:
    """Validation particles: what the classifier says of particles whose class is known.

    labels int (M,), p (M, K) calibrated under the mix of these particles, named int (M,) in 0..K
    with K for unknown and by the rule by which the runs are named, ecd_um (M,) with NaN for no
    size, groups (M,) of particles that may be alike: runs, vials, frames. Raises SvpkitError for
    what does not fit.
    """

    labels: np.ndarray
    p: np.ndarray
    named: np.ndarray
    ecd_um: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        metrics.check(self.labels, self.p, self.classes)
        fits("validation", self.p, self.named, self.ecd_um)
        if self.groups is not None and len(self.groups) != len(self.labels):
            raise SvpkitError(
                f"validation: {len(self.groups)} groups given for {len(self.labels)} particles"
            )

    @cached_property
    def n(self) -> np.ndarray:
        """Particles by class, (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def stratum(self, b: int) -> int:
        """Return b, or the one for all sizes where validation has none."""
        return STRATA - 1 if np.isnan(self.ecd_um).all() else b

    @cached_property
    def table(self) -> np.ndarray:
        """Particles by stratum, class and name, (STRATA, K, K + 1); all of them in the last."""
        k = len(self.classes)
        cell = (strata(self.ecd_um) * k + self.labels) * (k + 1) + self.named
        table = np.bincount(cell, minlength=STRATA * k * (k + 1)).reshape(STRATA, k, k + 1)
        table[-1] = table.sum(0)
        return table.astype(float)

    @cached_property
    def shrunk(self) -> np.ndarray:
        """The table with PSEUDO particles of each class, named as over all sizes.

        The mean of a Dirichlet prior's posterior (Agresti & Hitchcock 2005): a stratum with few
        validation particles of a class takes after all sizes, one with many speaks for itself.
        """
        lent = PSEUDO * quantify.rates(self.table[-1])
        own = np.concatenate([self.table[:-1] + lent, self.table[-1:]])
        return own[[self.stratum(b) for b in range(STRATA)]]

    @cached_property
    def rates(self) -> np.ndarray:
        """P(name | class) in each stratum, (STRATA, K, K + 1), shrunk."""
        return quantify.rates(self.shrunk)

    @cached_property
    def worth(self) -> np.ndarray:
        """How many independent particles one of each class is worth, (K,), up to 1.

        1 / (1 + rho (m - 1)): rho is the correlation of names within a group, by analysis of
        variance over all classes, and m the size of a particle's group, on average over particles
        of the class (Donner & Klar 2000, chapter 1). 1 without groups, or with one: not to be told.
        """
        k = len(self.classes)
        if self.groups is None:
            return np.ones(k)
        group = np.unique(self.groups, return_inverse=True)[1].reshape(-1)
        cell = (self.labels * (group.max(initial=0) + 1) + group) * (k + 1) + self.named
        n = k * (group.max(initial=0) + 1) * (k + 1)
        return 1 / _design(np.bincount(cell, minlength=n).reshape(k, -1, k + 1).astype(float))

    @cached_property
    def calibrated(self) -> tuple[Calibration, ...]:
        """What `em` needs of each stratum."""
        k = len(self.classes)
        own = self.named < k
        p, labels, where = self.p[own].astype(float), self.labels[own], strata(self.ecd_um)[own]
        cell = cells(p)[1] * k + labels
        found, cell = np.unique(cell, return_inverse=True)
        means = _by(cell, p, found.size) / np.bincount(cell)[:, None]
        lent = (PSEUDO / np.maximum(self.n, 1))[labels]
        weights = [np.bincount(cell, (where == b) + lent) for b in range(STRATA - 1)]
        weights.append(np.bincount(cell).astype(float))
        return tuple(Calibration.of(means, found % k, weight) for weight in weights)


@dataclass(frozen=True)
class Calibration:
    """Named validation particles of a stratum, in cells of probabilities and class.

    prior (K,) is the one by which `em` returns their shares (K,), labels (C,) and weight (C,) are
    of the cells, and moved (C, K) their probabilities at those shares.
    """

    prior: np.ndarray
    share: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    moved: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> Calibration:
        """Find the prior of cells of probabilities p (C, K)."""
        share = np.bincount(labels, weight, p.shape[1]) / max(weight.sum(), 1e-300)
        prior = quantify.settled_prior(p, share, weight)
        return cls(prior, share, labels, weight, quantify.tilted(p, share, prior))

    def again(self, rng: np.random.Generator, n: int, worth: np.ndarray) -> np.ndarray:
        """Draw n replicates of the prior (n, K): the Bayesian bootstrap within each class.

        worth (K,) is how many independent particles one of each class is worth.
        """
        drawn = rng.standard_gamma(self.weight * worth[self.labels], (n, self.weight.size))
        mean = np.zeros((n, self.share.size))
        for c, share in enumerate(self.share):
            own = self.labels == c
            total = drawn[:, own].sum(1)[:, None]
            mean += share * metrics.ratio(drawn[:, own] @ self.moved[own], total, 0.0)
        prior = self.prior * metrics.ratio(mean, self.share, 1.0)
        return prior / prior.sum(1, keepdims=True)


@dataclass(frozen=True)
class Tally:
    """What is needed of the particles of a run, or of several.

    counts (STRATA, K + 1) by name, sums and squares (STRATA, K) of the probabilities of what is
    named, p (C, K) mean probabilities in cells and weight (STRATA, C) the particles in each.
    """

    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    p: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, p: np.ndarray, named: np.ndarray, ecd_um: np.ndarray) -> Tally:
        """Count particles: p (N, K), named (N,), ecd_um (N,)."""
        k, where = p.shape[1], strata(ecd_um)
        counts = np.bincount(where * (k + 1) + named, minlength=STRATA * (k + 1))
        own = named < k
        p, where = p[own].astype(float), where[own]
        sums, squares = (_by(where, power, STRATA) for power in (p, p**2))
        means, cell = cells(p)
        weight = np.bincount(where * len(means) + cell, minlength=STRATA * len(means))
        shape = STRATA, len(means)
        counts = counts.reshape(STRATA, k + 1).astype(float)
        return cls(counts, sums, squares, means, weight.reshape(shape).astype(float))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.counts + other.counts,
            self.sums + other.sums,
            self.squares + other.squares,
            np.concatenate([self.p, other.p]),
            np.concatenate([self.weight, other.weight], 1),
        )


def cells(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pool probabilities p (N, K): cells' means (C, K) and the cell of each row (N,).

    A cell holds rows with the same two likeliest classes and the same log odds between them, in
    steps of 1 / FINE: some hundreds of cells stand for 500,000 particles.
    """
    if not len(p) or p.shape[1] < 2:
        return p[:1], np.zeros(len(p), int)
    first, second = np.argsort(p, 1)[:, -2:].T[::-1]
    row = np.arange(len(p))
    odds = np.log(p[row, first] + 1e-12) - np.log(p[row, second] + 1e-12)
    step = np.minimum(np.rint(FINE * odds), FAR).astype(int)
    key = (first * p.shape[1] + second) * (FAR + 1) + step
    found, cell = np.unique(key, return_inverse=True)
    return _by(cell, p, found.size) / np.bincount(cell)[:, None], cell


def _design(table: np.ndarray) -> np.ndarray:
    # how many times larger the variance of shares is than that of independent particles, (K,), of
    # particles counted by class, group and name (K, G, names): 1 or more
    n = table.sum(2)
    total, squares = n.sum(1), (n**2).sum(1)
    mean = metrics.ratio(squares, total, 1.0)
    share = metrics.ratio(table.sum(1), total[:, None], 0.0)[:, None]
    each = metrics.ratio(table, n[..., None], 0.0)
    free = np.maximum(np.count_nonzero(n, axis=1) - 1, 0).sum()
    rest = total.sum() - np.count_nonzero(n)
    if not free or not rest:
        return np.ones(len(table))
    between = (n[..., None] * (each - share) ** 2).sum() / free
    within = (n[..., None] * each * (1 - each)).sum() / rest
    both = between + ((total - mean).sum() / free - 1) * within
    rho = max(0.0, (between - within) / both) if both > 0 else 0.0
    return 1 + rho * np.maximum(mean - 1, 0)


def _by(where: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    # sums of the columns of values (N, K) by where (N,) in 0..n - 1, (n, K)
    return np.stack([np.bincount(where, column, n) for column in values.T], 1)


def fits(name: str, p: np.ndarray, named: np.ndarray, ecd_um: np.ndarray) -> None:
    """Refuse p (N, K), named (N,) in 0..K and ecd_um (N,) that do not fit one another."""
    n, k = p.shape
    if named.shape != (n,) or ecd_um.shape != (n,):
        raise SvpkitError(
            f"{name}: {n} rows of probabilities, {named.size} names and {ecd_um.size} sizes given: "
            "as many of each are needed"
        )
    if named.dtype.kind not in "iu":
        raise SvpkitError(f"{name}: names of type {named.dtype} given, integers are needed")
    if n and (named.min() < 0 or named.max() > k):
        raise SvpkitError(
            f"{name}: names run from {named.min()} to {named.max()}: 0 to {k} is allowed, {k} "
            "being unknown"
        )
    if not np.isfinite(p).all():
        raise SvpkitError(f"{name}: probabilities hold NaN or infinity")
