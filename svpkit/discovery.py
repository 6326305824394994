"""Where plugins come from: built-ins, entry points, files; each loaded whole or set aside."""

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from svpkit import __version__
from svpkit.errors import SvpkitError
from svpkit.loading import (
    TOLD,
    collect,
    entry_loader,
    file_loader,
    importer,
    printable,
    quiet,
    said,
)
from svpkit.plugin import BUILT_IN, ENTRY_POINT, Broken, Plugin
from svpkit.plugins import Registry
from svpkit.vetting import check_name, vet

GROUP = "svpkit"
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
class Source:
    """One module of plugins: what loads it, and where it comes from."""

    name: str
    package: str
    version: str
    origin: str
    load: Callable[[], Any]


def sources(
    registry: Registry, files: Sequence[Path], builtin_only: bool
) -> Iterator[tuple[Source, ...]]:
    """Yield the modules of each package: built-ins first, then by name of entry point, then files.

    A package whose metadata cannot be read is set aside in `registry`, a file given twice is read
    once. Raises SvpkitError for two files of one name.
    """
    files = list({path.resolve(): path for path in reversed(files)}.values())[::-1]
    stems = [path.stem for path in files]
    for i, path in enumerate(files):
        if path.stem in stems[:i]:
            twin = files[stems.index(path.stem)]
            raise SvpkitError(f"--plugin: {twin} and {path} have one name; rename one")
    for name in DEFAULT_PLUGINS:
        module = f"svpkit.default_plugins.{name}"
        yield (Source(name, "svpkit", __version__, BUILT_IN, importer(module)),)
    found = [] if builtin_only else [_of_entry(entry) for entry in _entries(registry)]
    first = {s.package: s.name for s in sorted(found, key=lambda s: s.name, reverse=True)}
    found.sort(key=lambda s: (first[s.package], s.package, s.name))
    for _, package in groupby(found, key=lambda s: s.package):
        yield tuple(package)
    for path in files:
        # an edited file is another version: what the old one made is not taken for it
        version = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
        yield (Source(path.stem, path.name, version, str(path), file_loader(path)),)


def load(registry: Registry, package: Sequence[Source]) -> None:
    """Load all modules of one package into the registry, or set the package aside."""
    found: list[Plugin] = []
    for source in package:
        try:
            with quiet():
                _register(source, found)
                _refuse_doubles(registry, found)
                _vet(found)
        except TOLD:
            raise
        except BaseException as error:  # whatever a stranger's module raises, the rest goes on
            _set_aside(registry, package, source, found, said(error))
            return
    registry.plugins.update({(p.kind, p.name): p for p in found})


def _register(source: Source, found: list[Plugin]) -> None:
    def register(kind: str, name: Any, thing: Any) -> None:
        plugin = Plugin(kind, name, thing, source.package, source.version, source.origin)
        if plugin.strange:
            check_name(kind, name)
        found.append(plugin)

    collect(source.load(), register)


def _vet(found: Sequence[Plugin]) -> None:
    # svpkit's own are tested, and looking at them takes time
    for plugin in found:
        if plugin.strange:
            vet(plugin)


def _refuse_doubles(registry: Registry, found: Sequence[Plugin]) -> None:
    seen: set[tuple[str, str]] = set()
    for plugin in found:
        what, key = f"{plugin.kind} '{plugin.name}'", (plugin.kind, plugin.name)
        if key in seen:
            raise SvpkitError(f"{what} is registered twice by {plugin.package}")
        if (other := registry.plugins.get(key)) is not None:
            raise SvpkitError(
                f"{what} is already registered by {other.source}; "
                f"{plugin.source} registers it again"
            )
        seen.add(key)


def _set_aside(
    registry: Registry,
    package: Sequence[Source],
    bad: Source,
    found: Sequence[Plugin],
    reason: str,
) -> None:
    # nothing of a package is used where a part of it fails
    things = tuple(dict.fromkeys((p.kind, p.name) for p in found))
    for source in (bad, *(s for s in package if s is not bad)):
        told = reason if source is bad else f"'{bad.name}' of the same package: {reason}"
        registry.broken.append(
            Broken(source.name, source.package, told, source.version, source.origin, things)
        )


def _of_entry(entry: importlib.metadata.EntryPoint) -> Source:
    try:
        package = str(entry.dist.name) if entry.dist else entry.name
        version = str(entry.dist.version) if entry.dist else "?"
    except Exception:  # noqa: BLE001 - metadata of a stranger
        package, version = entry.name, "?"
    name, package, version = (printable(each) for each in (entry.name, package, version))
    return Source(name, package, version, ENTRY_POINT, entry_loader(entry))


def _entries(registry: Registry) -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=GROUP))
    except Exception:  # noqa: BLE001 - one file anywhere that cannot be read: look at each alone
        return _readable(registry)


def _readable(registry: Registry) -> list[importlib.metadata.EntryPoint]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for dist in importlib.metadata.distributions():
        try:
            found.setdefault(dist.name, list(dist.entry_points.select(group=GROUP)))
        except Exception as error:  # noqa: BLE001 - as above
            _unreadable(registry, dist, f"its entry_points.txt cannot be read: {said(error)}")
    return [entry for entries in found.values() for entry in entries]


def _unreadable(registry: Registry, dist: importlib.metadata.Distribution, reason: str) -> None:
    # a package that has nothing to do with svpkit is not svpkit's to name
    with contextlib.suppress(Exception):
        if f"[{GROUP}]" in (dist.read_text("entry_points.txt") or ""):
            registry.broken.append(Broken(dist.name, dist.name, reason, dist.version, ENTRY_POINT))
