"""Changes laid over a recipe's values, key by key: how the cells of a suite come to be."""

import copy
from collections.abc import Mapping
from typing import Any

from svpkit.errors import SvpkitError
from svpkit.recipe import Classifier, Generator, validate

# What the suite itself decides, and how it is said there.
DECIDED = {"name": "a cell has its own", "seed": "`seeds` says it", "baselines": "`arms` says it"}
# A recipe holds its test set out in one of these ways.
WAYS = ("share", "group", "fold", "reader")


def overlay(values: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a recipe with changes laid over them, key by key, and check the result.

    Keys are dotted or nested; an empty table clears. Where another `plugin` is named, the options
    of the former one fall away, with what a generator is asked in `sample` and `pretrain`.
    """
    made, flat = copy.deepcopy(dict(values)), flatten(changes)
    for dotted, reason in DECIDED.items():
        if any(key.split(".")[0] == dotted for key in flat):
            raise SvpkitError(f"{where}: {dotted}: not to be given, {reason}")
    for table, default in (("generator", Generator), ("classifier", Classifier)):
        old = made.get(table, {}).get("plugin", default.model_fields["plugin"].default)
        if flat.get(f"{table}.plugin", old) != old:
            for key in ("options", "sample", "pretrain"):
                made.get(table, {}).pop(key, None)
    # one way to hold a test set out takes the place of another
    if any(f"data.test.{way}" in flat for way in WAYS):
        there = made.get("data", {}).get("test")
        if isinstance(there, Mapping):
            made["data"]["test"] = {k: v for k, v in there.items() if k == "of"}
        elif there is not None:
            del made["data"]["test"]
    for dotted, value in flat.items():
        *path, last = dotted.split(".")
        here = made
        for part in path:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise SvpkitError(f"{where}: {dotted}: '{part}' is not a table")
        here[last] = copy.deepcopy(value)
    validate({**made, "name": "cell"}, where)
    return made


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as dotted keys; an empty table stays one."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
