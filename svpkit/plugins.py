"""Plugins: found, loaded one by one so that a broken one hurts nobody, and asked for their options.

Built-ins come through the same hooks as strangers. Listing imports the plugin modules only; their
factories import what is heavy inside.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from svpkit.errors import SvpkitError, choices, unknown
from svpkit.hookspecs import API, HOOKS, KINDS, Hooks
from svpkit.options import Option, check_options, options_of

DEFAULT_PLUGINS = (
    "folder",
    "imported",
    "simulated",
    "ddpm",
    "diffusers_unet",
    "references",
    "oracle",
    "timm_models",
    "cifar",
    "strategies",
    "ifcb",
    "mfi",
    "ecotaxa",
    "flowcam",
)


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
        # at their defaults, options that came later leave the keys of before as they were
        later, known = getattr(self.plugin.thing, "later", ()), self.plugin.options
        options = {n: v for n, v in self.options.items() if n not in later or v != known[n].default}
        said = {"plugin": self.plugin.name, "options": options}
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
