"""TOML in and out: recipes that extend one another, overrides from the command line."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError, nearest


def read_toml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a TOML file as a dict, laid over the file that its `extends` names."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")])
        raise SvpkitError(f"{path}: no such recipe{near}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SvpkitError(f"{path}: cannot be read: {error}") from None
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise SvpkitError(f"{path}: extends: given {base!r}, the name of a recipe is wanted")
    parent = path.parent / base
    if parent.resolve() in [p.resolve() for p in (*seen, path)]:
        raise SvpkitError(f"{path}: extends: '{base}' comes back to itself")
    return _merge(read_toml(parent, (*seen, path)), values)


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
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
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
    return name if name.replace("_", "").replace("-", "").isalnum() else spell(name)


def spell(value: Any) -> str:
    """Return one value as TOML writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {spell(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(spell(v) for v in value) + "]"
    return str(value)
