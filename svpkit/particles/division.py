"""Who goes where: a test set drawn first, then val, then what is left to train on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svpkit.draws import rng
from svpkit.errors import SvpkitError, choices, nearest, unknown
from svpkit.particles.grouping import FEW_GROUPS, choose, deal, n_groups, units_of
from svpkit.particles.particleset import NEUTRAL, ParticleSet, digest_heads


@dataclass
class Division:
    """Positions of each set, int64, and what was done, in sentences."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    notes: list[str] = field(default_factory=list)


def divide(
    particles: ParticleSet,
    params: Mapping[str, Any],
    corrected: ParticleSet | None = None,
    heads: np.ndarray | None = None,
) -> Division:
    """Return which particles go to which set; see `split`.

    The test set is drawn first, with a seed of its own, so that the recipe's seed never moves it.
    `corrected` are the same particles with corrected labels, which the counts to train on go by:
    test and val are drawn by the labels as they were read, so that a correction moves neither.
    `heads` are the `digest_heads` of a table that is without digests.
    The first n of a class to train on are those of one order: 20 of them are among the first 50.
    """
    labelled = np.flatnonzero(particles.labels >= 0)
    if not len(labelled):
        raise SvpkitError(
            "data: no particle has a label (class folders or options.labels give them)"
        )
    notes = _left(len(particles) - len(labelled), "without a label")
    known = _Known(
        particles.classes,
        particles.labels,
        groups_of(particles, params.get("group")),
        _text(particles.table["source"]),
        digest_heads(particles.table) if heads is None else heads,
    )
    if len(labelled) < len(particles):
        known = known.at(labelled)
    own = known.groups if params.get("group") else groups_of(particles, "group")[labelled]
    test = _test_mask(known, own, params, notes)
    val, spare = _val_masks(known, ~test, params, notes)
    other = corrected or particles
    named = known.labels if other is particles else other.labels[labelled]
    train = _capped(known.classes, named, ~(test | val | spare), params)
    sets = (labelled[np.flatnonzero(mask)] for mask in (train, val, test))
    return Division(*sets, notes=notes)


@dataclass(frozen=True)
class _Known:
    # what divides the labelled particles, (N,) each: a copy of it is small
    classes: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    sources: np.ndarray
    heads: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        return _counts(self.classes, self.labels)

    @property
    def units(self) -> np.ndarray:
        return units_of(self.groups, self.sources, self.heads)

    def at(self, rows: np.ndarray) -> "_Known":
        found = (each[rows] for each in (self.labels, self.groups, self.sources, self.heads))
        return _Known(self.classes, *found)


def _counts(classes: Sequence[str], labels: np.ndarray) -> dict[str, int]:
    found = np.bincount(labels[labels >= 0], minlength=len(classes))
    return dict(zip(classes, found.tolist(), strict=True))


def groups_of(particles: ParticleSet, column: str | None) -> np.ndarray:
    """Return the group of each particle, "" where it has none: object (N,).

    Raises SvpkitError for a column that the table does not have.
    """
    table = particles.table
    if column is not None and column not in table and column not in NEUTRAL:
        raise unknown("data.group: column", column, map(str, table.columns))
    if column is None or column not in table:
        return np.full(len(particles), "", object)
    return _text(table[column])


def _text(values: Any) -> np.ndarray:
    # each text once, however many rows have it
    codes, found = pd.factorize(values)
    texts = np.append(np.asarray(found, dtype=object).astype(str).astype(object), "")
    return texts[codes]


def _test_mask(
    known: _Known, column: np.ndarray, params: Mapping[str, Any], notes: list[str]
) -> np.ndarray:
    # `column` (N,) is what groups are named by, though they may not divide
    asked = params.get("test")
    if asked is None:
        return np.zeros(len(known.labels), bool)
    if isinstance(asked, Mapping) and "fold" in asked:
        _note_few(known.groups, "test", notes)
        units, random = known.units, partial(rng, 0, "split", "fold")
        test = deal(known.labels, units, asked["of"], random) == asked["fold"]
        if not test.any():
            n = len(np.unique(units))
            raise SvpkitError(
                f"data.test: fold {asked['fold']} of {asked['of']} is empty: {n} groups are there, "
                "and stay whole; ask for fewer"
            )
        return test
    if isinstance(asked, Mapping):
        return np.isin(column, _known_groups(asked["group"], column))
    # Never the recipe's seed: another seed must meet the same test set.
    target = _shares(known.counts, float(asked))
    _note_few(known.groups, "test", notes)
    return choose(known.labels, known.units, target, rng(0, "split", "test"))


def _known_groups(asked: Any, groups: np.ndarray) -> list[str]:
    names = [str(g) for g in ([asked] if isinstance(asked, (str, int)) else asked)]
    there = sorted(set(groups.tolist()) - {""})
    for name in names:
        if name not in there:
            shown = choices(there[:8]) + (", ..." if len(there) > 8 else "")
            near = nearest(name, there)
            raise SvpkitError(f"data.test.group: unknown '{name}'{near} (known: {shown})")
    return names


def _val_masks(
    known: _Known, free: np.ndarray, params: Mapping[str, Any], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    rest, asked = known.at(free), params["val"]
    exact = isinstance(asked, Mapping)
    target = _asked(asked, rest.counts) if exact else _shares(rest.counts, float(asked))
    random = rng(params["seed"], "split", "val")
    chosen = choose(rest.labels, rest.units, target, random, exact=exact)
    _note_few(rest.groups, "val", notes)
    surplus = _surplus(rest.labels, chosen, target, random) if exact else np.zeros_like(chosen)
    notes += _left(int(surplus.sum()), "because their group or picture is in val")
    val, spare = np.zeros_like(free), np.zeros_like(free)
    val[free], spare[free] = chosen & ~surplus, surplus
    return val, spare


def _shares(counts: Mapping[str, int], share: float) -> list[int]:
    return [max(round(share * n), 1) if n > 1 and share > 0 else 0 for n in counts.values()]


def _asked(asked: Mapping[str, int], there: Mapping[str, int]) -> list[int]:
    for name, n in asked.items():
        if name not in there:
            raise unknown("data.val", name, there)
        if n > there[name]:
            raise SvpkitError(f"data.val.{name}: asked {n}, only {there[name]} there")
    return [asked.get(name, 0) for name in there]


def _surplus(
    labels: np.ndarray, chosen: np.ndarray, target: list[int], random: np.random.Generator
) -> np.ndarray:
    out = np.zeros_like(chosen)
    for c, n in enumerate(target):
        members = random.permutation(np.flatnonzero(chosen & (labels == c)))
        out[members[n:]] = True
    return out


def _capped(
    classes: Sequence[str], labels: np.ndarray, train: np.ndarray, params: Mapping[str, Any]
) -> np.ndarray:
    caps, counts = params.get("train") or {}, _counts(classes, labels)
    there = _counts(classes, labels[train])
    for name in caps:
        if name not in classes:
            raise unknown("data.train", name, classes)
    for name, n in there.items():
        if not n:
            less = "; ask less for val and test" if counts[name] else ": it has no particle"
            raise SvpkitError(f"data: no '{name}' is left to train on{less}")
        if caps.get(name, 0) > n:
            raise SvpkitError(f"data.train.{name}: asked {caps[name]}, only {n} there")
    train, random = train.copy(), rng(params["seed"], "split", "train")
    order = random.permutation(len(labels)) if caps else np.empty(0, np.int64)
    for name, most in caps.items():
        members = order[train[order] & (labels[order] == classes.index(name))]
        train[members[most:]] = False
    return train


def _note_few(groups: np.ndarray, name: str, notes: list[str]) -> None:
    n = n_groups(groups)
    if 0 < n < FEW_GROUPS:
        notes.append(
            f"{n} group{'s' * (n > 1)} only: {name} is drawn inside by image source, and does not "
            f"tell how another group would do"
        )


def _left(n: int, why: str) -> list[str]:
    return [f"{n} particle{'s' * (n > 1)} left out {why}"] if n else []
