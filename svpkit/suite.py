"""Suites: a recipe and a grid, read from TOML; every cell of it is a recipe of its own."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svpkit.errors import SvpkitError, choices, nearest, reason, unknown
from svpkit.overlay import DECIDED, flatten, overlay
from svpkit.places import toml_beside
from svpkit.recipe import Recipe, validate
from svpkit.toml import read_toml, spell

MOST_CELLS = 100_000
METRICS = ("macro_auprc", "macro_precision", "macro_recall", "macro_f1")


class Suite(BaseModel):
    """A recipe and a grid: what a suite's file may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recipe: str
    """the recipe that every cell starts from, against the suite's folder"""
    set: dict[str, Any] = {}
    """dotted keys of the recipe that all cells change"""
    arms: dict[str, dict[str, Any]] = {}
    """keys of the recipe that each arm changes; by default one arm, the recipe's own"""
    grid: dict[str, Any] = {}
    """dotted keys of the recipe, each with the list of values it takes"""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """seeds of the recipe: each its own real subset, split and training, shared by all arms"""
    folds: dict[str, Any] = {}
    """dotted keys of the recipe, each with one value a seed: cross-validation"""
    select: (
        Literal["val.macro_auprc", "val.macro_precision", "val.macro_recall", "val.macro_f1"] | None
    ) = None
    """a grid search: the winner by this, its mean over the seeds, is opened on test, no other"""
    draw: Annotated[int, Field(ge=1)] | None = None
    """grid search: so many configurations, by chance but the same each time; by default all"""
    per: tuple[str, ...] = ()
    """grid search: a winner for each value of these: `arm`, `seed` or keys of the grid"""
    baseline: str | None = None
    """arm that the others are compared with"""
    oracle: str | None = None
    """arm that stands for a perfect generator; shares of its gap to the baseline are told"""
    beside: tuple[str, ...] = ()
    """arms that are shown and never picked as the best"""


@dataclass(frozen=True)
class Cell:
    """One run of a suite: an arm, a point of the grid (dotted key: value as shown) and a seed."""

    arm: str
    at: dict[str, str]
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.recipe.name

    @property
    def digest(self) -> str:
        """What its row is known by: 16 hexadecimal digits of all that its recipe says but its name.

        What is left at its default does not count: a key that recipes learn later changes no row.
        """
        apart = {"name", "plugins"}  # where plugins come from is no part of what is asked
        said = self.recipe.model_dump(mode="json", exclude=apart, exclude_defaults=True)
        return _digest(said)

    def value(self, axis: str) -> str:
        """Return its value on an axis: `arm`, `seed` or a key of the grid."""
        return {"arm": self.arm, "seed": str(self.seed), **self.at}[axis]


def load(path: Path) -> Suite:
    """Read a suite; raises SvpkitError naming file, dotted key and the nearest right one."""
    values = read_toml(path)
    try:
        flat = {key: flatten(values.get(key, {})) for key in ("grid", "folds")}
        suite = Suite.model_validate({**values, **flat})
    except (ValidationError, AttributeError) as error:
        raise SvpkitError(f"{path}: {_say(error)}") from None
    arms = suite.arms or {Path(suite.recipe).stem: {}}
    for key, names in {
        "baseline": [suite.baseline],
        "oracle": [suite.oracle],
        "beside": suite.beside,
    }.items():
        for name in names:
            if name is not None and name not in arms:
                raise unknown(f"{path}: {key}: arm", name, arms)
    for axis in suite.per:
        if axis not in (axes := ["arm", "seed", *suite.grid]):
            raise unknown(f"{path}: per", axis, axes)
    if len(set(suite.seeds)) < len(suite.seeds):
        raise SvpkitError(f"{path}: seeds: one of them twice")
    for key, given in suite.folds.items():
        if key in suite.grid:
            raise SvpkitError(f"{path}: folds.{key}: is in the grid too")
        if not isinstance(given, list) or len(given) != len(suite.seeds):
            wanted = f"a list of {len(suite.seeds)} is wanted, a value for each of `seeds`"
            raise SvpkitError(f"{path}: folds.{key}: given {spell(given)}, {wanted}")
    for key in ("per", "draw"):
        if getattr(suite, key) and not suite.select:
            raise SvpkitError(f"{path}: {key}: a winner is only sought where `select` says by what")
    return suite


def cells(suite: Suite, path: Path) -> tuple[Cell, ...]:
    """Return every cell of the suite that `path` holds: seed by seed, all arms of a point together.

    Raises SvpkitError naming the file and the dotted key for changes that make no recipe, for one
    thing changed twice, and for two cells that would be the same.
    """
    base = read_toml(toml_beside(path, suite.recipe, "recipe"))
    base = {k: v for k, v in base.items() if k != "baselines"}
    base = overlay(base, suite.set, f"{path}: set")
    arms = suite.arms or {Path(suite.recipe).stem: {}}
    made = {arm: overlay(base, own, f"{path}: arms.{arm}") for arm, own in arms.items()}
    _check_many(suite, len(arms), path)
    points = _drawn(list(_points(suite, base, path)), suite)
    found: dict[str, Cell] = {}
    for (i, seed), (at, point), arm in product(enumerate(suite.seeds), points, arms):
        changes = point | {key: given[i] for key, given in suite.folds.items()}
        for dotted in flatten(arms[arm]):
            if dotted in flatten(changes):
                raise SvpkitError(f"{path}: arms.{arm}: '{dotted}' is in the grid or folds too")
        values = overlay(made[arm], changes, f"{path}: {arm}") | {"seed": seed}
        where = ", ".join([arm, *(f"{k} = {v}" for k, v in at.items()), f"seed {seed}"])
        recipe = validate({**values, "name": "cell"}, f"{path}: {where}")
        cell = Cell(arm, at, seed, recipe)
        if (twin := found.get(cell.digest)) is not None:
            raise SvpkitError(f"{path}: {where}: the same recipe as that of arm '{twin.arm}'")
        name = _slug("-".join([path.stem, arm, *at.values(), f"s{seed}"]), cell.digest)
        renamed = recipe.model_copy(update={"name": name})
        found[cell.digest] = Cell(arm, at, seed, renamed)
    return tuple(found.values())


def _check_many(suite: Suite, arms: int, path: Path) -> None:
    # before they are spelt out: a grid of few lines may have more points than memory holds
    n = arms * len(suite.seeds)
    for values in suite.grid.values():
        n *= max(len(values), 1) if isinstance(values, list) else 1
    if n > MOST_CELLS:
        raise SvpkitError(f"{path}: grid: {n:,} runs, a suite has up to {MOST_CELLS:,}")


def apart(suite: Suite) -> dict[str, list[str]]:
    """Return the dotted keys by which arms differ beyond how they meet imbalance.

    Remedies are `balance` and `generator`; an arm that changes data, classifier or scores beside
    them is not on equal terms with the others, unless that is the question.
    """
    found = {
        arm: [k for k in flatten(own) if k.split(".")[0] not in ("balance", "generator")]
        for arm, own in suite.arms.items()
    }
    return {arm: keys for arm, keys in found.items() if keys}


def _points(
    suite: Suite, base: Mapping[str, Any], path: Path
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    shown = {}
    for key, values in suite.grid.items():
        if not isinstance(values, list) or not values:
            raise SvpkitError(f"{path}: grid.{key}: given {spell(values)}, a list is wanted")
        short, full = [_short(v) for v in values], [spell(v) for v in values]
        shown[key] = short if len(set(short)) == len(values) else full
        if len(set(shown[key])) < len(values):
            raise SvpkitError(f"{path}: grid.{key}: one value twice")
        # not all arms may bear every value: the key alone is checked here
        for value in values if key.split(".")[0] in DECIDED else ():
            overlay(base, {key: value}, f"{path}: grid")
    for chosen in product(*(zip(shown[k], v, strict=True) for k, v in suite.grid.items())):
        pairs = list(zip(suite.grid, chosen, strict=True))
        yield {k: text for k, (text, _) in pairs}, {k: value for k, (_, value) in pairs}


def _drawn(points: list[Any], suite: Suite) -> list[Any]:
    # every group that `per` names is searched over the same configurations
    rest = [tuple(v for k, v in at.items() if k not in suite.per) for at, _ in points]
    known = list(dict.fromkeys(rest))
    if suite.draw is None or suite.draw >= len(known):
        return points
    rng = np.random.Generator(np.random.Philox(len(known)))
    chosen = {known[i] for i in rng.permutation(len(known))[: suite.draw]}
    return [point for point, own in zip(points, rest, strict=True) if own in chosen]


def _short(value: Any) -> str:
    # { silicone_oil = 50, air_bubble = 50 } is 50
    same = isinstance(value, Mapping) and len({spell(v) for v in value.values()}) == 1
    if same:
        return _short(next(iter(value.values())))
    return value if isinstance(value, str) else spell(value)


def _slug(text: str, digest: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")
    return f"{plain[:88] or 'cell'}-{digest[:8]}"


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _say(error: ValidationError | AttributeError) -> str:
    if isinstance(error, AttributeError):
        return "grid, folds: tables of dotted keys and lists are wanted"
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    dotted = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(Suite.model_fields)
        return f"{dotted}: unknown key{nearest(dotted, known)} (known: {choices(known)})"
    if first["type"] == "missing":
        return f"{dotted}: missing"
    if dotted == "select" and str(first["input"]).startswith("test"):
        return f"select: given '{first['input']}': the test set is not there to choose on"
    return f"{dotted}: given {first['input']!r}: {reason(first)}"
