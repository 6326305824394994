"""What a stranger registers is looked at once, so that a wrong shape is told before it is used."""

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svpkit.errors import SvpkitError
from svpkit.loading import said
from svpkit.options import written

if TYPE_CHECKING:
    from svpkit.plugins import Plugin

# What the host passes by position.
TAKES = {
    "reader": ("path",),
    "particle_type": ("seeds", "optics"),
    "generator": ("spec",),
    "classifier": ("spec",),
    "strategy": (),
    "extractor": ("spec",),
}
VERBS = {"reader": ("read", "sniff"), "particle_type": ("draw",)}
# In a table of strategies these keys mean something else.
TAKEN = {"strategy": ("strategies", "name")}


def check_name(kind: str, name: Any) -> None:
    """Raise SvpkitError unless a recipe can write the name bare: a-z, 0-9 and _."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name):
        raise SvpkitError(f"{kind} {name!r}: a name is made of a-z, 0-9 and _")
    if name in TAKEN.get(kind, ()):
        raise SvpkitError(f"{kind} '{name}': [balance] has a key of that name")


def vet(plugin: "Plugin") -> None:
    """Raise SvpkitError where the thing registered cannot be what its kind has to be."""
    what = f"{plugin.kind} '{plugin.name}'"
    verbs = VERBS.get(plugin.kind, ())
    for verb in verbs:
        if not callable(getattr(plugin.thing, verb, None)):
            raise SvpkitError(f"{what}: a thing with {_listed(verbs)} is wanted, it has no {verb}")
    if verbs and inspect.isclass(plugin.thing):
        raise SvpkitError(f"{what}: register {plugin.thing.__name__}(), not the class")
    if not callable(plugin.call):
        shown = type(plugin.thing).__name__
        raise SvpkitError(f"{what}: a factory is wanted, not {_article(shown)}")
    _refuse_async(plugin.call, what)
    _check_parameters(plugin.call, what, TAKES[plugin.kind], plugin.kind)
    _check_options(plugin, what)
    if plugin.kind == "reader":
        _accepts(plugin.thing.sniff, f"{what}: sniff", ("path",))


def _refuse_async(call: Callable[..., Any], what: str) -> None:
    function = written(call)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise SvpkitError(f"{what}: it is async, a plain function is wanted")


def _check_parameters(
    call: Callable[..., Any], what: str, wanted: tuple[str, ...], kind: str
) -> None:
    parameters = _accepts(call, what, wanted)
    extra = [p for p in _positional(parameters) if p.name != "particle_types"][len(wanted) :]
    if extra:
        names = ", ".join(p.name for p in extra)
        raise SvpkitError(f"{what}: write {_shown(wanted)}: {names} stand before the *")
    # a recipe may leave the path out where a reader has a default for it
    if kind == "reader" and "path" not in parameters:
        raise SvpkitError(f"{what}: the first parameter of `read` has to be called path")


def _accepts(
    call: Callable[..., Any], what: str, wanted: tuple[str, ...]
) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable that can be given `wanted` by position."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError) as error:
        raise SvpkitError(f"{what}: its parameters cannot be read ({said(error)})") from None
    try:
        signature.bind_partial(*wanted)
    except TypeError:
        given = f"({', '.join(wanted)})"
        raise SvpkitError(f"{what}: has to take {given}, it takes {_plain(signature)}") from None
    return dict(signature.parameters)


def _check_options(plugin: "Plugin", what: str) -> None:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        options = plugin.options
    except Exception as error:  # noqa: BLE001 - annotations are code of a stranger
        raise SvpkitError(f"{what}: its options cannot be read: {said(error)}") from None
    for option in options.values():
        if option.type is Any:
            continue
        try:
            try:
                TypeAdapter(option.type, config=ConfigDict(strict=False))
            except PydanticUserError:  # a type that brings its own config
                TypeAdapter(option.type)
        except Exception as error:  # noqa: BLE001 - as above
            short = said(error).split(". ")[0]
            raise SvpkitError(
                f"{what}: option '{option.name}' cannot be checked: {short}"
            ) from None


def _positional(parameters: dict[str, inspect.Parameter]) -> list[inspect.Parameter]:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in parameters.values() if p.kind in plain]


def _shown(wanted: tuple[str, ...]) -> str:
    return f"({', '.join([*wanted, '*', '...'])}), options after the *"


def _plain(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _listed(verbs: tuple[str, ...]) -> str:
    return " and ".join(f"`{verb}`" for verb in verbs)


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
