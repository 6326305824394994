"""The options of a plugin: the keyword-only parameters of its factory, read and checked."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from svpkit.errors import SvpkitError, nearest, reason, unknown
from svpkit.loading import said
from svpkit.places import Located, locate
from svpkit.toml import spell

# Filled in by the host, so never an option of a recipe.
RESERVED = ("particle_types",)


@dataclass(frozen=True)
class Option:
    """One option of a plugin: a keyword-only parameter of its factory."""

    name: str
    type: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        """True when a recipe has to give it."""
        return self.default is inspect.Parameter.empty

    @property
    def is_path(self) -> bool:
        """True when it names a file or a folder: annotated `Path`, or that or None."""
        return _is_path(self.type)

    @property
    def reopened(self) -> Any:
        """What a path is where the thing that it made is opened again: its default, else None."""
        return None if self.required else self.default


def type_name(annotation: Any) -> str:
    """Return a type as the reader of a recipe would write it: "int", "list", "a" or "b"."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return "path" if annotation is Path else annotation.__name__
    if hasattr(annotation, "__metadata__"):
        return type_name(typing.get_args(annotation)[0])
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(spell(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in args if a is not type(None))
    return {tuple: "list", dict: "table"}.get(origin, str(annotation))


def options_of(call: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a factory: its keyword-only parameters.

    A string among the metadata of an `Annotated` type is the option's documentation.
    """
    target = written(call)
    parameters = inspect.signature(call).parameters
    wanted = [n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    # what else it takes or returns may be a heavy type that the module imports for checkers only
    types_of = getattr(target, "__annotations__", {})
    asked = {n: types_of[n] for n in wanted if n in types_of}
    alone = SimpleNamespace(__annotations__=asked)
    scope = getattr(inspect.unwrap(target), "__globals__", {})
    hints = typing.get_type_hints(alone, globalns=scope, include_extras=True)
    options = {}
    for name in wanted:
        if name not in RESERVED:
            kind = hints.get(name, Any)
            doc = next((m for m in getattr(kind, "__metadata__", ()) if isinstance(m, str)), "")
            options[name] = Option(name, kind, parameters[name].default, doc)
    return options


def written(call: Any) -> Any:
    """Return the function behind a callable: a class, a partial or an object has its own."""
    if isinstance(call, functools.partial):
        return written(call.func)
    if inspect.isclass(call):
        return call.__init__ if inspect.isfunction(call.__init__) else call.__new__
    return call if inspect.isroutine(call) else type(call).__call__


def check_options(
    known: Mapping[str, Option], given: Mapping[str, Any], where: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the options with defaults filled in; raises SvpkitError naming `where`.key."""
    for name in given:
        if name not in known and name not in more:
            raise unknown(where, name, [*known, *more])
    resolved = {n: _typed(int, given[n], f"{where}.{n}") for n in more if n in given}
    for name, option in known.items():
        if name in given:
            resolved[name] = _typed(option.type, given[name], f"{where}.{name}")
        elif option.required:
            raise SvpkitError(f"{where}.{name}: missing ({type_name(option.type)})")
        else:
            resolved[name] = option.default
    return resolved


def located(
    known: Mapping[str, Option], options: Mapping[str, Any], roots: Sequence[Path], where: str
) -> dict[str, Any]:
    """Return checked options with every path found under `roots`, as a `Located` with its digest.

    Raises SvpkitError naming `where`.key for a file or folder that is not there.
    """
    found = dict(options)
    for name, value in options.items():
        if value is not None and name in known and known[name].is_path:
            found[name] = locate(str(value), list(roots), f"{where}.{name}")
    return found


def as_given(value: Any) -> Any:
    """Return an option as its factory is given it: a `Located` as its `Path`."""
    return value.path if isinstance(value, Located) else value


def _is_path(kind: Any) -> bool:
    if hasattr(kind, "__metadata__"):
        return _is_path(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return len(inner) == 1 and _is_path(inner[0])
    return kind is Path


def _typed(kind: Any, value: Any, where: str) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    if kind is Any:
        return value
    try:
        try:
            adapter = TypeAdapter(kind, config=ConfigDict(strict=False))
        except PydanticUserError:  # a type that brings its own config
            adapter = TypeAdapter(kind)
        if isinstance(value, bool) and bool not in _plain(kind):
            raise SvpkitError(f"{where}: given {value!r}: {_in_words(kind)} is wanted")
        if value == "" and _is_path(kind):
            raise SvpkitError(f"{where}: given '', the path of a file or folder is wanted")
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        # a table tells which of its keys is wrong
        at = "".join(f".{part}" for part in first["loc"] if part != "[key]")
        wrong = first["input"] if isinstance(value, Mapping) else value
        hint = nearest(wrong, _literals(kind)) if isinstance(wrong, str) else ""
        at = at if isinstance(value, Mapping) else ""
        raise SvpkitError(f"{where}{at}: given {wrong!r}: {reason(first)}{hint}") from None
    except SvpkitError:
        raise
    except Exception as error:  # noqa: BLE001 - a type may bring a stranger's own check
        raise SvpkitError(f"{where}: given {value!r}: its check raised {said(error)}") from None


def _in_words(kind: Any) -> str:
    # what is no bool: "an integer", "a number or a text"
    words = {"int": "an integer", "float": "a number", "str": "a text", "path": "a path"}
    names = type_name(kind).split(" or ")
    return " or ".join(words.get(n, n if n[:1] in "\"'[0123456789" else f"a {n}") for n in names)


def _plain(kind: Any) -> set[Any]:
    inner = typing.get_args(kind)[:1] if hasattr(kind, "__metadata__") else typing.get_args(kind)
    return {kind}.union(*(_plain(k) for k in inner if isinstance(k, type) or typing.get_args(k)))


def _literals(kind: Any) -> list[str]:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return [str(a) for a in args]
    return [name for a in args for name in _literals(a)]
