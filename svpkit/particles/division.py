"""Who goes where: a test set drawn first, then val, then what is left to train on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    particles: ParticleSet, params: Mapping[str, Any], corrected: ParticleSet | None = None
) -> Division:
    """Return which particles go to which set; see `split`.

    The test set is drawn first, with a seed of its own, so that the recipe's seed never moves it.
    `corrected` are the same particles with corrected labels, which the counts to train on go by:
    test and val are drawn by the labels as they were read, so that a correction moves neither.
    The first n of a class to train on are those of one order: 20 of them are among the first 50.
    """
    labelled = np.flatnonzero(particles.labels >= 0)
    if not len(labelled):
        raise SvpkitError(
            "data: no particle has a label (class folders or options.labels give them)"
        )
    notes = _left(len(particles) - len(labelled), "without a label")
    known = _narrow(particles, params.get("group")).take(labelled)
    groups = groups_of(particles, params.get("group"))[labelled]
    test = _test_mask(known, groups, params, notes)
    val, spare = _val_masks(known, groups, ~test, params, notes)
    named = known
    if corrected is not None and corrected is not particles:
        named = _narrow(corrected, params.get("group")).take(labelled)
    train = _capped(named, ~(test | val | spare), params)
    sets = (labelled[np.flatnonzero(mask)] for mask in (train, val, test))
    return Division(*sets, notes=notes)


def _narrow(particles: ParticleSet, column: str | None) -> ParticleSet:
    # what divides: the table's copies below are then small
    wanted = {"label", "group", "source", "digest", column}
    table = particles.table
    return replace(particles, table=table[[name for name in table if name in wanted]])


def groups_of(particles: ParticleSet, column: str | None) -> np.ndarray:
    """Return the group of each particle, "" where it has none: object (N,).

    Raises SvpkitError for a column that the table does not have.
    """
    table = particles.table
    if column is not None and column not in table and column not in NEUTRAL:
        raise unknown("data.group: column", column, map(str, table.columns))
    if column is None or column not in table:
        return np.full(len(particles), "", object)
    return _text(table, column)


def _text(table: pd.DataFrame, name: str) -> np.ndarray:
    # each text once, however many rows have it
    codes, found = pd.factorize(table[name])
    texts = np.append(np.asarray(found, dtype=object).astype(str).astype(object), "")
    return texts[codes]


def _units(particles: ParticleSet, groups: np.ndarray) -> np.ndarray:
    table = particles.table
    return units_of(groups, _text(table, "source"), digest_heads(table))


def _test_mask(
    particles: ParticleSet, groups: np.ndarray, params: Mapping[str, Any], notes: list[str]
) -> np.ndarray:
    asked = params.get("test")
    if asked is None:
        return np.zeros(len(particles), bool)
    if isinstance(asked, Mapping) and "fold" in asked:
        _note_few(groups, "test", notes)
        units, random = _units(particles, groups), partial(rng, 0, "split", "fold")
        test = deal(particles.labels, units, asked["of"], random) == asked["fold"]
        if not test.any():
            n = len(np.unique(units))
            raise SvpkitError(
                f"data.test: fold {asked['fold']} of {asked['of']} is empty: {n} groups are there, "
                "and stay whole; ask for fewer"
            )
        return test
    if isinstance(asked, Mapping):
        column = groups if params.get("group") else groups_of(particles, "group")
        return np.isin(column, _known_groups(asked["group"], column))
    # Never the recipe's seed: another seed must meet the same test set.
    target = _shares(particles.counts, float(asked))
    _note_few(groups, "test", notes)
    return choose(particles.labels, _units(particles, groups), target, rng(0, "split", "test"))


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
    particles: ParticleSet,
    groups: np.ndarray,
    free: np.ndarray,
    params: Mapping[str, Any],
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    rest, asked = particles.take(free), params["val"]
    exact = isinstance(asked, Mapping)
    target = _asked(asked, rest.counts) if exact else _shares(rest.counts, float(asked))
    random = rng(params["seed"], "split", "val")
    units = _units(rest, groups[free])
    chosen = choose(rest.labels, units, target, random, exact=exact)
    _note_few(groups[free], "val", notes)
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


def _capped(particles: ParticleSet, train: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    caps, labels = params.get("train") or {}, particles.labels
    there = dict(zip(particles.counts, np.bincount(labels[train], minlength=1), strict=False))
    order = rng(params["seed"], "split", "train").permutation(len(labels))
    for name in caps:
        if name not in particles.classes:
            raise unknown("data.train", name, particles.classes)
    for c, name in enumerate(particles.classes):
        n = int(there.get(name, 0))
        if not n:
            less = (
                "; ask less for val and test" if particles.counts[name] else ": it has no particle"
            )
            raise SvpkitError(f"data: no '{name}' is left to train on{less}")
        if caps.get(name, 0) > n:
            raise SvpkitError(f"data.train.{name}: asked {caps[name]}, only {n} there")
        members = order[train[order] & (labels[order] == c)]
        train = train.copy()
        train[members[caps.get(name, n) :]] = False
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
