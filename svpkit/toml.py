"""TOML in and out: recipes that extend one another, overrides from the command line."""

import json
import re
import tomllib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError, nearest
from svpkit.places import toml_beside
from svpkit.safe import DEEPEST, check_plain, read_bytes

MOST_BYTES = 2**20
MOST_FILES = 16
# One part of a dotted key, as it stands between two points.
_PART = re.compile(r"""[ \t]*(?:[\w-]{1,200}|"[^"\n]{0,200}"|'[^'\n]{0,200}')[ \t]*""")
_NEAR = 1000


def read_toml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a TOML file as a dict, laid over the file that its `extends` names.

    Raises SvpkitError for what is no TOML, more than 1 MiB, tables more than 32 deep, control
    characters, and files that extend one another in a ring or more than 16 times.
    """
    try:
        values = parsed(read_bytes(path, MOST_BYTES).decode())
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in islice(path.parent.glob("*.toml"), _NEAR)])
        raise SvpkitError(f"{path}: no such recipe{near}") from None
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise SvpkitError(f"{path}: is a folder; a recipe is a .toml file") from None
        said = " ".join(str(error).split())[:300]
        raise SvpkitError(f"{path}: cannot be read: {said}") from None
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise SvpkitError(f"{path}: extends: given {base!r}, the name of a recipe is wanted")
    parent = toml_beside(path, base, "extends")
    if len(seen) + 1 >= MOST_FILES:
        raise SvpkitError(f"{path}: extends: more than {MOST_FILES} files one after the other")
    if parent.resolve() in [p.resolve() for p in (*seen, path)]:
        raise SvpkitError(f"{path}: extends: '{base}' comes back to itself")
    return _merge(read_toml(parent, (*seen, path)), values)


def parsed(text: str) -> dict[str, Any]:
    """Return TOML as a dict; raises ValueError for what is none, is too deep or has controls."""
    run = 0
    # the parser takes time with the square of a dotted key's parts
    for part in text.split("."):
        run = run + 1 if _PART.fullmatch(part) else 0
        if run > DEEPEST:
            raise ValueError(f"a key of more than {DEEPEST} parts")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check_plain(values)
    return values


def to_toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return plain values as TOML text; None is left out."""
    values = {k: v for k, v in values.items() if v is not None}
    tables = {k: v for k, v in values.items() if isinstance(v, Mapping) and v}
    arrays = {k: v for k, v in values.items() if _is_tables(v)}
    lines = [f"{_key(k)} = {spell(v)}" for k, v in values.items() if k not in tables | arrays]
    for k, v in tables.items():
        lines += ["", f"[{prefix}{_key(k)}]", to_toml(v, f"{prefix}{_key(k)}.")]
    for k, rows in arrays.items():
        for row in rows:
            lines += ["", f"[[{prefix}{_key(k)}]]", to_toml(row, f"{prefix}{_key(k)}.")]
    return "\n".join(lines)


def override(values: dict[str, Any], change: str) -> None:
    """Set one "dotted.key=value" in place; the value is TOML, else a bare string."""
    dotted, equals, text = change.partition("=")
    if not equals or not dotted.strip():
        raise SvpkitError(f"-o {change}: wants dotted.key=value")
    *path, last = dotted.strip().split(".")
    if len(path) >= DEEPEST:
        raise SvpkitError(f"-o {change[:80]}...: a key of more than {DEEPEST} parts")
    try:
        value = parsed(f"x = {text}")["x"]
    except ValueError:
        value = text.strip()
    here = values
    for part in path:
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            raise SvpkitError(f"-o {change}: '{part}' is not a table")
    here[last] = value


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(name), Mapping)
        merged[name] = _merge(base[name], value) if both else value
    return merged


def _is_tables(value: Any) -> bool:
    rows = isinstance(value, (list, tuple)) and bool(value)
    return rows and all(isinstance(v, Mapping) for v in value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else spell(name)


def spell(value: Any) -> str:
    """Return one value as TOML writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for one
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {spell(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(spell(v) for v in value) + "]"
    return str(value)
