"""Plugins: found, loaded one by one so that a broken one hurts nobody, and asked for their options.

Built-ins come through the same hooks as strangers. Listing imports the plugin modules only; their
factories import what is heavy inside.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pluggy

from svpkit.errors import SvpkitError, choices, nearest, unknown
from svpkit.hookspecs import API, HOOKS, KINDS, Hooks

DEFAULT_PLUGINS = ("folder", "simulated", "ddpm", "timm_models", "strategies")
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
    def type_name(self) -> str:
        """The type as a reader of a recipe would write it."""
        shown = typing.get_args(self.type)[0] if hasattr(self.type, "__metadata__") else self.type
        if typing.get_origin(shown) is typing.Literal:
            return " or ".join(repr(each) for each in typing.get_args(shown))
        plain = isinstance(shown, type) and not typing.get_args(shown)
        return shown.__name__ if plain else str(shown).replace("typing.", "")


@dataclass(frozen=True)
class Plugin:
    """A name and what was registered under it, with where it came from."""

    kind: str
    name: str
    thing: Any
    package: str
    version: str
    origin: str

    @property
    def call(self) -> Callable[..., Any]:
        """What takes the options: a reader's `read`, a particle type's `draw`, else the factory."""
        verb = {"reader": "read", "particle_type": "draw"}.get(self.kind)
        return getattr(self.thing, verb) if verb else self.thing

    @cached_property
    def options(self) -> dict[str, Option]:
        """The options by name, read from the signature."""
        return options_of(self.call)

    @cached_property
    def takes_more(self) -> bool:
        """True when it takes names beyond its options (`**counts` of the simulator)."""
        found = inspect.signature(self.call).parameters.values()
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found)

    @property
    def doc(self) -> str:
        """The docstring of the thing registered."""
        return inspect.getdoc(self.thing) or inspect.getdoc(type(self.thing)) or ""


@dataclass(frozen=True)
class Broken:
    """A plugin set aside, and why, in one line."""

    name: str
    package: str
    reason: str


@dataclass(frozen=True)
class Use:
    """A plugin with the options that a recipe gives it: called, it builds the thing."""

    plugin: Plugin
    options: dict[str, Any]
    kinds: Mapping[str, Plugin] = field(default_factory=dict)

    @property
    def hosted(self) -> dict[str, Any]:
        """What the host fills in: the particle types, by name, for a reader that wants them."""
        wants = "particle_types" in inspect.signature(self.plugin.call).parameters
        return {"particle_types": {n: k.thing for n, k in self.kinds.items()}} if wants else {}

    @property
    def thing(self) -> Any:
        """What was registered, for readers and particle types."""
        return self.plugin.thing

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Call the factory (for a reader, `read`) with the options."""
        return self.plugin.call(*args, **self.options, **self.hosted, **more)

    def describe(self) -> dict[str, Any]:
        """Return what an artifact's key holds of it: name, options and a stranger's version."""
        said = {"plugin": self.plugin.name, "options": self.options}
        if self.plugin.origin != "built-in":
            said["version"] = f"{self.plugin.package} {self.plugin.version}"
        strange = [k for k in self.kinds.values() if k.origin != "built-in"]
        used = {k.name: f"{k.package} {k.version}" for k in strange if k.name in self.options}
        return said | ({"particle_types": used} if used else {})


class Registry:
    """Every plugin by kind and name, and those that were set aside."""

    def __init__(self) -> None:
        self.plugins: dict[tuple[str, str], Plugin] = {}
        self.broken: list[Broken] = []

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind, sorted."""
        return sorted(name for k, name in self.plugins if k == kind)

    def get(self, kind: str, name: str, where: str = "") -> Plugin:
        """Return a plugin; raises SvpkitError with the nearest name when there is none."""
        if (kind, name) in self.plugins:
            return self.plugins[kind, name]
        lost = [b for b in self.broken if b.name == name]
        if lost:
            raise SvpkitError(f"{where or kind}: '{name}' was set aside: {lost[0].reason}")
        raise unknown(where or kind, name, self.names(kind))

    def find(self, name: str) -> list[Plugin]:
        """Return the plugins of any kind with this name; raises SvpkitError when none has it."""
        found = [self.plugins[kind, name] for kind in KINDS if (kind, name) in self.plugins]
        if not found:
            raise unknown("plugin", name, sorted({name for _, name in self.plugins}))
        return found

    def use(self, kind: str, name: str, options: Mapping[str, Any], where: str) -> Use:
        """Return a plugin with checked options.

        `where` is the dotted key that names it: options stand in the table beside it, or, for a
        strategy, in the table of its own name.
        """
        plugin = self.get(kind, name, where)
        kinds = {n: self.plugins["particle_type", n] for n in self.names("particle_type")}
        more = tuple(kinds) if plugin.takes_more else ()
        beside = "." in where and kind != "strategy"
        key = where.rsplit(".", 1)[0] + ".options" if beside else where
        return Use(plugin, check_options(plugin.options, options, key, more), kinds)


def discover(
    *, files: Sequence[Path] = (), builtin_only: bool = False, strict: bool = False
) -> Registry:
    """Load the built-ins, the entry points of group `svpkit`, and one-file plugins.

    A plugin that fails is kept in `Registry.broken` with one line of reason; `strict` raises it as
    a SvpkitError instead.
    """
    registry = Registry()
    for name in DEFAULT_PLUGINS:
        _load(registry, name, _importer(f"svpkit.default_plugins.{name}"), ("svpkit", "", ""))
    for entry in [] if builtin_only else importlib.metadata.entry_points(group="svpkit"):
        package = entry.dist.name if entry.dist else entry.name
        version = entry.dist.version if entry.dist else "?"
        _load(registry, entry.name, entry.load, (package, version, "entry point"))
    for path in files:
        # an edited file is another version: what the old one made is not taken for it
        version = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
        _load(registry, path.stem, _file_importer(path), (path.name, version, str(path)))
    if strict and registry.broken:
        lost = registry.broken[0]
        raise SvpkitError(f"plugin '{lost.name}' ({lost.package}): {lost.reason}")
    return registry


def options_of(call: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a factory: its keyword-only parameters.

    A string among the metadata of an `Annotated` type is the option's documentation.
    """
    target = call.__init__ if inspect.isclass(call) else call
    parameters = inspect.signature(call).parameters
    wanted = [n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    # what else it takes or returns may be a heavy type that the module imports for checkers only
    asked = {n: target.__annotations__[n] for n in wanted if n in target.__annotations__}
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
            raise SvpkitError(f"{where}.{name}: missing ({option.type_name})")
        else:
            resolved[name] = option.default
    return resolved


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
            raise SvpkitError(f"{where}: given {value!r}, a {_shown(kind)} is wanted")
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        hint = nearest(value, _literals(kind)) if isinstance(value, str) else ""
        raise SvpkitError(f"{where}: given {value!r}: {first['msg'].lower()}{hint}") from None


def _plain(kind: Any) -> set[Any]:
    inner = typing.get_args(kind)[:1] if hasattr(kind, "__metadata__") else typing.get_args(kind)
    return {kind}.union(*(_plain(k) for k in inner if isinstance(k, type) or typing.get_args(k)))


def _shown(kind: Any) -> str:
    return Option("", kind, None, "").type_name


def _literals(kind: Any) -> list[str]:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return [str(a) for a in args]
    return [name for a in args for name in _literals(a)]


def _importer(module: str) -> Callable[[], ModuleType]:
    return lambda: importlib.import_module(module)


def _file_importer(path: Path) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"svpkit_plugin_{path.stem}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FileNotFoundError(f"no Python file {path}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def _load(
    registry: Registry, name: str, load: Callable[[], Any], source: tuple[str, str, str]
) -> None:
    package, version, origin = source
    found: list[Plugin] = []
    try:
        for kind, thing_name, thing in _registrations(load(), name):
            found.append(Plugin(kind, thing_name, thing, package, version, origin or "built-in"))
        _refuse_doubles(registry, found)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's module raises, the rest goes on
        said = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {said}".removesuffix(": ")
        registry.broken.append(Broken(name, package, reason))
        return
    registry.plugins.update({(p.kind, p.name): p for p in found})


def _registrations(module: Any, name: str) -> list[tuple[str, str, Any]]:
    api = getattr(module, "api", API)
    if api != API:
        raise SvpkitError(f"written for plugin api {api}, this is api {API}")
    manager = pluggy.PluginManager("svpkit")
    manager.add_hookspecs(Hooks)
    manager.register(module, name)
    manager.check_pending()
    found: list[tuple[str, str, Any]] = []
    for hook, kind in HOOKS.items():
        caller = getattr(manager.hook, hook)
        caller(register=lambda n, thing, kind=kind: found.append((kind, n, thing)))
    return found


def _refuse_doubles(registry: Registry, found: Sequence[Plugin]) -> None:
    for plugin in found:
        other = registry.plugins.get((plugin.kind, plugin.name))
        if other:
            raise SvpkitError(
                f"{plugin.kind} '{plugin.name}' is already registered by {other.package}; "
                f"{plugin.package} registers it again ({choices(p.name for p in found)})"
            )
