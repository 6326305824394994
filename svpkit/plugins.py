"""Plugins: found, loaded one by one so that a broken one hurts nobody, and asked for their options.

Built-ins come through the same hooks as strangers. Listing imports the plugin modules only; their
factories import what is heavy inside.
"""

import copy
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError, choices, unknown
from svpkit.hookspecs import KINDS
from svpkit.options import Option, as_given, check_options, located
from svpkit.places import Located
from svpkit.plugin import Broken, Guarded, Plugin, guarded

__all__ = ["Broken", "Plugin", "Registry", "Use", "discover"]


def _each(plugin: Plugin, rows: Iterable[Any]) -> Iterator[Any]:
    with guarded(plugin):
        yield from rows


@dataclass(frozen=True)
class Use:
    """A plugin with the options that a recipe gives it: called, it builds the thing.

    `kinds` are the particle types that there are; `classes` those it draws that no option names.
    """

    plugin: Plugin
    options: dict[str, Any]
    kinds: Mapping[str, Plugin] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def hosted(self) -> dict[str, Any]:
        """What the host fills in: the particle types, by name, for a reader that wants them."""
        if not self.simulates:
            return {}
        kinds = self.kinds.items()
        return {"particle_types": {n: Guarded(k) if k.strange else k.thing for n, k in kinds}}

    @property
    def simulates(self) -> bool:
        """True when it wants the particle types."""
        return "particle_types" in inspect.signature(self.plugin.call).parameters

    @property
    def draws(self) -> tuple[Plugin, ...]:
        """The particle types that it draws: those that its options or `classes` name."""
        named = {*self.options, *self.classes} if self.simulates else set()
        return tuple(k for k in self.kinds.values() if k.name in named)

    @property
    def thing(self) -> Any:
        """What was registered, for readers and particle types."""
        return self.plugin.thing

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Call the factory (for a reader, `read`) with the options."""
        options = {name: as_given(value) for name, value in self.options.items()}
        with guarded(self.plugin):
            made = self.plugin.call(*args, **options, **self.hosted, **more)
        # a reader fails while it is read, not when it is called
        return _each(self.plugin, made) if self._reads else made

    def reopened(self) -> "Use":
        """Return it as it opens what it made before, whose files may be elsewhere or gone."""
        paths = {n: o.reopened for n, o in self.plugin.options.items() if o.is_path}
        return replace(self, options=self.options | paths)

    def describe(self) -> dict[str, Any]:
        """Return what an artifact's key holds of it: name, options and a stranger's version."""
        # at their defaults, options that came later leave the keys of before as they were
        later, known = getattr(self.plugin.thing, "later", ()), self.plugin.options
        # a file stands by the digest of its bytes, wherever it lies
        options = {
            name: value.describe() if isinstance(value, Located) else value
            for name, value in self.options.items()
            if name not in later or as_given(value) != known[name].default
        }
        told = {"plugin": self.plugin.name, "options": options}
        if self.plugin.strange:
            told["version"] = f"{self.plugin.package} {self.plugin.version}"
        used = {k.name: f"{k.package} {k.version}" for k in self.draws if k.strange}
        return told | ({"particle_types": used} if used else {})

    @property
    def _reads(self) -> bool:
        return self.plugin.strange and self.plugin.kind == "reader"


class Registry:
    """Every plugin by kind and name, and those that were set aside.

    `left_out` are those that a recipe's list `wanted` does not admit.
    """

    def __init__(self) -> None:
        self.plugins: dict[tuple[str, str], Plugin] = {}
        self.broken: list[Broken] = []
        self.wanted: tuple[str, ...] = ()
        self.left_out: dict[tuple[str, str], Plugin] = {}
        self.told: set[str] = set()
        self.roots: tuple[Path, ...] = (Path(),)

    def under(self, roots: Sequence[Path]) -> "Registry":
        """Return the same plugins; files that options name are looked for under these roots."""
        found = copy.copy(self)
        found.roots = tuple(roots) or self.roots
        return found

    def only(self, wanted: Sequence[str]) -> "Registry":
        """Return the built-ins and the plugins of the packages `wanted`; of none, all plugins.

        Raises SvpkitError where one of those is not installed in the version that is asked for.
        """
        if not wanted:
            return self
        from svpkit.requirements import admitted

        found, packages = copy.copy(self), admitted(self, wanted)
        inside = {k: not p.strange or p.package in packages for k, p in self.plugins.items()}
        found.plugins = {k: p for k, p in self.plugins.items() if inside[k]}
        found.left_out = {k: p for k, p in self.plugins.items() if not inside[k]}
        found.wanted = tuple(wanted)
        return found

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind, sorted."""
        return sorted(name for k, name in self.plugins if k == kind)

    def get(self, kind: str, name: str, where: str = "") -> Plugin:
        """Return a plugin; raises SvpkitError with the nearest name when there is none."""
        if (kind, name) in self.plugins:
            return self.plugins[kind, name]
        self.explain(kind, name, where or kind)
        raise self._unknown(where or kind, name, self.names(kind))

    def explain(self, kind: str, name: str, where: str) -> None:
        """Raise SvpkitError where a plugin of this name was set aside or is not admitted."""
        if (other := self.left_out.get((kind, name))) is not None:
            raise SvpkitError(
                f"{where}: '{name}' is not in the recipe's plugins: [{choices(self.wanted)}]; "
                f"add '{other.package}'"
            )
        for lost in self.broken:
            if (kind, name) in lost.things or (name == lost.name and not lost.things):
                raise SvpkitError(f"{where}: '{name}' was set aside: {lost.reason}")

    def knows(self, name: str, source: Path) -> bool:
        """Return True when a reader knows this by looking; one that fails does not, and is told."""
        reader = self.get("reader", name)
        try:
            with guarded(reader):
                return bool(reader.thing.sniff(source))
        except SvpkitError as error:
            if str(reader) not in self.told:
                print(f"svpkit: {source}: {error}", file=sys.stderr)
            self.told.add(str(reader))
            return False

    def find(self, name: str) -> list[Plugin]:
        """Return the plugins of any kind with this name; raises SvpkitError when none has it."""
        found = [self.plugins[kind, name] for kind in KINDS if (kind, name) in self.plugins]
        for lost in [] if found else self.broken:
            if name == lost.name or name in {n for _, n in lost.things}:
                raise SvpkitError(str(lost))
        if not found:
            raise self._unknown("plugin", name, sorted({name for _, name in self.plugins}))
        return found

    def refuse_given(self) -> None:
        """Raise SvpkitError where a file that was named by its path is set aside."""
        for lost in self.broken:
            if lost.given:
                raise SvpkitError(f"--plugin {lost.origin}: {lost.reason}")

    def _unknown(self, where: str, name: str, known: Sequence[str]) -> SvpkitError:
        # what was set aside before it said what it brings may have been it
        lost = "".join(f"; set aside: {b.package}: {b.reason}" for b in self.broken[:3])
        return SvpkitError(f"{unknown(where, name, known, 'svpkit plugins list')}{lost}")

    def use(self, kind: str, name: str, options: Mapping[str, Any], where: str) -> Use:
        """Return a plugin with checked options.

        `where` is the dotted key that names it: options stand in the table beside it, or, for a
        strategy, in the table of its own name.
        """
        plugin, key = self.get(kind, name, where), _key(kind, where)
        use = self._use(plugin, plugin.options, options, key)
        return replace(use, options=located(plugin.options, use.options, self.roots, key))

    def reopen(self, kind: str, name: str, options: Mapping[str, Any], where: str) -> Use:
        """Return a plugin as it opens what it made with the options that a config holds."""
        plugin = self.get(kind, name, where)
        known = {n: o for n, o in plugin.options.items() if not o.is_path}
        kept = {n: v for n, v in options.items() if n in known or n not in plugin.options}
        return self._use(plugin, known, kept, _key(kind, where)).reopened()

    def _use(
        self, plugin: Plugin, known: Mapping[str, Option], options: Mapping[str, Any], key: str
    ) -> Use:
        kinds = {n: self.plugins["particle_type", n] for n in self.names("particle_type")}
        more = tuple(kinds) if plugin.takes_more else ()
        for name in options if more else ():
            if name not in known and name not in more:
                self.explain("particle_type", name, f"{key}.{name}")
        return Use(plugin, check_options(known, options, key, more), kinds)


def discover(
    *, files: Sequence[Path] = (), builtin_only: bool = False, strict: bool = False
) -> Registry:
    """Load the built-ins, the entry points of group `svpkit`, and one-file plugins.

    A plugin that fails is kept in `Registry.broken` with one line of reason; `strict`, or a 1 in
    the environment's SVPKIT_STRICT_PLUGINS, raises it as a SvpkitError instead. Raises SvpkitError
    for two files of one name.
    """
    from svpkit import discovery

    strict = strict or os.environ.get("SVPKIT_STRICT_PLUGINS", "0") not in ("", "0")
    registry = Registry()
    for sources in discovery.sources(registry, files, builtin_only):
        discovery.load(registry, sources)
    if strict and registry.broken:
        raise SvpkitError(str(registry.broken[0]))
    return registry


def _key(kind: str, where: str) -> str:
    # where the options stand, from what names the plugin
    beside = "." in where and kind != "strategy"
    return where.rsplit(".", 1)[0] + ".options" if beside else where
