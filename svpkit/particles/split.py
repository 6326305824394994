"""Train, validation and test: grouped, stratified, and the test set locked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svpkit import auditlog
from svpkit.drawn_index import READ, Index
from svpkit.errors import SvpkitError, unknown
from svpkit.particles import corrections
from svpkit.particles.division import divide, groups_of
from svpkit.particles.duplicates import exact_pairs, near_pairs
from svpkit.particles.grouping import among
from svpkit.particles.particleset import ParticleSet, concat, digest_heads, read_heads
from svpkit.particles.parting import SETS, Parting, labelled, light
from svpkit.shapes import SplitRecord, shaped
from svpkit.store import stage

MIN_VAL = 30
_LISTED = 200


@stage(revision=2)
def split(out: Path, params: Mapping[str, Any], data: Path, *others: Path) -> None:
    """Write which particles train, choose and test: `{train,val,test}.npy` and `split.json`.

    The arrays are int64 positions in `data` (test: in the first of `others`, where it is a set of
    its own). The last `also` of `others` are sets that only train, whole.
    `params`: seed; group (a column or None); val (a share or counts per class); test (None, a
    share, {"group": names} or {"fold": i, "of": k}); train (None or counts per class that cap the
    real images); min_val; corrections (`corrections.Filled`: corrected labels for train and val,
    applied in order; none by default); also (how many of `others` only train; none by default).
    Raises SvpkitError for drawn particles, counts that are not there, unknown classes or groups,
    one picture in two sets, and corrections that do not fit the particles.
    """
    own = others[: len(others) - params.get("also", 0)]
    test, also = (own[0] if own else None), others[len(own) :]
    index, column = Index(auditlog.store_of(out)), params.get("group")
    particles = _real(light(data, column), data, "data", index)
    other = None
    if test is not None:
        other = _like(_real(light(test, column), test, "data.test", index), particles, "data.test")
    for folder in also:
        _like(_real(light(folder, None), folder, "data.also", index), particles, "data.also")
    asked = params.get("corrections")
    found = corrections.located(asked, *_named(data, test)) if asked else []
    named = corrections.relabelled(particles, found)
    rules = params if other is None else {**params, "test": None}
    parts = divide(particles, rules, named, read_heads(data))
    used = np.concatenate([parts.train, parts.val])
    corrections.check(found, particles, used)
    if other is not None:
        parts.test = np.flatnonzero(other.labels >= 0)
    parting = Parting(data, test or data, also, parts, found, particles.classes)
    # each set is read anew: beside them all particles would only take room
    del particles, other, named
    for name in SETS:
        np.save(out / f"{name}.npy", getattr(parts, name).astype(np.int64), allow_pickle=False)
    record = {"data": data.name, "test": None if test is None else test.name}
    record |= {"also": [folder.name for folder in also]} if also else {}
    record |= _record(parting, params, separate=test is not None)
    if asked:
        held = parts.test if test is None else ()
        record["corrections"] = corrections.recorded(asked, found, used, held)
        _log_corrections(out, record["corrections"])
    (out / "split.json").write_text(json.dumps(record, indent=1, allow_nan=False))


@dataclass(frozen=True)
class Split:
    """A split on disk: its folder and what `split.json` says; the test set stays shut in it."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> "Split":
        """Open a split; raises SvpkitError where the folder holds none."""
        folder = Path(folder)
        try:
            return cls(folder, shaped(folder / "split.json", SplitRecord))
        except SvpkitError as error:
            raise SvpkitError(f"{folder}: no split here ({error})") from None

    @property
    def classes(self) -> tuple[str, ...]:
        """The label order of all three sets."""
        return tuple(self.record["classes"])

    @property
    def choose_on_val(self) -> bool:
        """False when a class has too few validation images to choose anything on."""
        return self.record["choose_on_val"]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The number of particles by set and class; the test set's too, without opening it."""
        return {name: each["counts"] for name, each in self.record["sets"].items()}

    def train(self) -> ParticleSet:
        """Return the particles to learn from, those of further sets last."""
        found = self._taken("train", self.record["data"])
        more = [labelled(self._open(name)) for name in self.record.get("also", ())]
        return concat([found, *more]) if more else found

    def val(self) -> ParticleSet:
        """Return the particles to choose on."""
        return self._taken("val", self.record["data"])

    def test(self, **by: Any) -> ParticleSet:
        """Return the locked test set, for `score` alone; `by` says what opens it.

        The audit log of the store gets a line first. Raises SvpkitError when it is not the one that
        was locked.
        """
        locked = self.record["sets"]["test"]["digest"]
        said = {"set": locked, "n": self.record["sets"]["test"]["n"]}
        auditlog.append(self.store, auditlog.OPENED, test=said, split=self.folder.name, **by)
        found = self._taken("test", self.record["test"] or self.record["data"])
        if found.digest != locked:
            raise SvpkitError(f"{self.folder}: the test set is not the one that was locked here")
        return found

    @property
    def store(self) -> Path:
        """The folder that the split and its sets lie in."""
        return auditlog.store_of(self.folder) or self.folder.parent

    def _taken(self, name: str, artifact: str) -> ParticleSet:
        positions = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        found = self._open(artifact, positions)
        if name != "test":
            found = corrections.replayed(found, self.record.get("corrections"))
        return found

    def _open(self, artifact: str, rows: np.ndarray | None = None) -> ParticleSet:
        # beside the split in the store, or one above while it is still partial
        places = [up / artifact for up in (self.folder.parent, self.folder.parent.parent)]
        place = next((p for p in places if p.is_dir()), places[0])
        return ParticleSet.open(place, rows).with_classes(self.classes)


def _real(found: ParticleSet, folder: Path, where: str, index: Index) -> ParticleSet:
    # names and digests are read where there is something to tell by them
    if index or "synthetic" in set(found.table["origin"].unique()):
        named = ParticleSet.open(folder, columns=("id", "origin", "digest", READ))
        refuse_drawn(named, where, index)
    return found


def _named(data: Path, test: Path | None) -> tuple[ParticleSet, ParticleSet | None]:
    own, other = (f and ParticleSet.open(f, columns=("id", "label")) for f in (data, test))
    assert own is not None
    return own, other


def _like(other: ParticleSet, data: ParticleSet, where: str) -> ParticleSet:
    if other.shape != data.shape:
        raise SvpkitError(f"{where}: images are {other.shape}, the data's are {data.shape}")
    for name in other.table["label"].astype(str).unique():
        if name and name not in data.classes:
            raise unknown(f"{where}: class", name, data.classes)
    return other.with_classes(data.classes)


def refuse_drawn(particles: ParticleSet, name: str, index: Index | None = None) -> None:
    """Raise SvpkitError naming the drawn particles of a set that splits or measures.

    Known by the tags that they were read with and, where an `index` of drawn pictures is given, by
    their pixels (see `drawn_index.Index` for what that finds).
    """
    drawn = particles.table.loc[particles.table["origin"] == "synthetic", "id"]
    if len(drawn):
        shown = ", ".join(f"'{each}'" for each in drawn.iloc[:5])
        raise SvpkitError(
            f"{name}: {len(drawn)} drawn (synthetic) particles, such as {shown}: "
            "they may never stand in train, val or test"
        )
    if index:
        index.refuse(particles, name)


def _log_corrections(out: Path, said: Mapping[str, Any]) -> None:
    if root := auditlog.store_of(out):
        kept = {key: said[key] for key in ("files", "counts", "applied")}
        auditlog.append(root, auditlog.CORRECTED, split=out.name, **kept)


def _refuse_missing(sets: Mapping[str, ParticleSet]) -> None:
    for name, particles in sets.items():
        for label, n in particles.counts.items():
            # a split without any test set serves those who measure elsewhere
            if not n and (len(particles) or name != "test"):
                raise SvpkitError(
                    f"data: no particle of class '{label}' in {name} "
                    f"({len(particles)} particles there); every set needs every class"
                )


def _shared_groups(parting: Parting, column: str | None) -> list[str]:
    names = {name: _texts(parting.read(name, column), column) for name in SETS}
    both = sorted((names["train"] | names["val"]) & names["test"])
    if not both:
        return []
    shown = ", ".join(f"'{g}'" for g in both[:5])
    return [f"{len(both)} groups stand in the data and in the test set too, such as {shown}"]


def _shared_with(parting: Parting, column: str | None) -> list[str]:
    # another picture of a particle that judges is no copy of it, and gives it away all the same
    notes = []
    for name in ("val", "test"):
        for what, of in (("groups", column), ("ids", "id")):
            here, there = _texts(parting.more(of), of), _texts(parting.read(name, of), of)
            if both := sorted(here & there):
                shown = ", ".join(f"'{each}'" for each in both[:5])
                notes.append(f"{len(both)} {what} stand in data.also and in {name} too: {shown}")
    return notes


def _texts(particles: ParticleSet, column: str | None) -> set[str]:
    return set(pd.unique(groups_of(particles, column))) - {""}


def _refuse_copies(heads: Mapping[str, np.ndarray], parting: Parting) -> None:
    for a, b in combinations(SETS, 2):
        # whole digests, and names, only where halves of them are the same
        if not among(heads[a], heads[b]).any():
            continue
        one, two = (parting.read(name, "id", "digest") for name in (a, b))
        pairs = exact_pairs(one, two)
        if pairs:
            named = ", ".join(f"'{x}' = '{y}'" for x, y in pairs)
            raise SvpkitError(f"data: the same picture stands in {a} and {b}: {named}; remove one")


def _record(parting: Parting, params: Mapping[str, Any], *, separate: bool) -> dict[str, Any]:
    column, notes = params.get("group"), parting.parts.notes
    sets = {name: parting.own(name, "origin", "hash") for name in SETS}
    _refuse_missing(sets)
    if parting.also:
        notes += _shared_with(parting, column)
        sets["train"] = concat([sets["train"], parting.more("origin", "hash")])
    said, heads = {}, {}
    for name in SETS:
        whole = parting.read(name, "id", "digest", column)
        said[name], heads[name] = described(whole, column), digest_heads(whole.table)
    _refuse_copies(heads, parting)
    notes += _shared_groups(parting, column) if separate else []
    lowest = min(sets["val"].counts.values(), default=0)
    min_val = params.get("min_val", MIN_VAL)
    return {
        "classes": list(parting.classes),
        "seed": params["seed"],
        "group": column,
        "origins": sorted({o for each in sets.values() for o in each.table["origin"].unique()}),
        "separate_test": separate,
        "choose_on_val": lowest >= min_val,
        "min_val": min_val,
        "sets": said,
        "near_duplicates": _near(sets, parting),
        "notes": notes,
    }


def described(particles: ParticleSet, column: str | None) -> dict[str, Any]:
    """Return what a record says of one set: counts, digest and groups."""
    names = sorted(_texts(particles, column))
    return {
        "n": len(particles),
        "counts": particles.counts,
        "digest": particles.digest,
        "n_groups": len(names),
        "groups": names[:_LISTED],
    }


def _near(sets: Mapping[str, ParticleSet], parting: Parting) -> dict[str, Any]:
    pairs, unsearched = [], 0
    for a, b in combinations(sets, 2):
        found = near_pairs(sets[a], sets[b])
        unsearched += found.unsearched
        if not len(found.correlation):
            continue
        two = ((a, found.first), (b, found.second))
        ids = (parting.read(name, "id").table["id"].iloc[at] for name, at in two)
        pairs += [
            {"sets": [a, b], "ids": [str(x), str(y)], "correlation": round(float(r), 4)}
            for x, y, r in zip(*ids, found.correlation, strict=True)
        ]
    pairs.sort(key=lambda pair: -pair["correlation"])
    return {"n": len(pairs), "unsearched": unsearched, "pairs": pairs[:_LISTED]}
