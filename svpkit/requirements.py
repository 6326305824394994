"""The list `plugins` of a recipe: which packages it needs, in which versions, and no others."""

import importlib.metadata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from svpkit.errors import SvpkitError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from svpkit.plugins import Registry


def admitted(registry: "Registry", wanted: Sequence[str]) -> set[str]:
    """Return the packages, or names of files, that `wanted` lists, all of them loaded.

    An entry is a file such as "glass.py", or a name with version specifiers (PEP 508), such as
    "svpkit-glass>=0.2". Raises SvpkitError naming the entry that is not met.
    """
    found = set()
    for i, entry in enumerate(wanted):
        where = f"plugins[{i}]"
        look = _file if entry.endswith(".py") else _package
        found.add(look(registry, entry, where))
    return found


def _file(registry: "Registry", entry: str, where: str) -> str:
    loaded = {p.package for p in registry.plugins.values()}
    if entry not in loaded:
        _refuse_broken(registry, entry, where)
        raise SvpkitError(f"{where}: '{entry}' is not loaded; give --plugin PATH/{entry}")
    return entry


def _package(registry: "Registry", entry: str, where: str) -> str:
    from packaging.utils import canonicalize_name

    asked = _requirement(entry, where)
    name = canonicalize_name(asked.name)
    loaded = {p.package: p.version for p in registry.plugins.values()}
    for package, version in loaded.items():
        if canonicalize_name(package) == name:
            if not _fits(asked, version):
                raise SvpkitError(f"{where}: '{entry}' is wanted, {version} is installed")
            return package
    for lost in registry.broken:
        if canonicalize_name(lost.package) == name:
            _refuse_broken(registry, lost.package, where)
    try:
        version = importlib.metadata.version(asked.name)
    except importlib.metadata.PackageNotFoundError:
        raise SvpkitError(
            f"{where}: '{asked.name}' is not installed{_meant(asked.name, loaded)}"
        ) from None
    raise SvpkitError(
        f"{where}: '{asked.name}' {version} is installed, but no plugin of it is loaded"
    )


def _meant(name: str, loaded: Iterable[str]) -> str:
    # what all names begin with makes none of them near
    bare = {package.removeprefix("svpkit-"): package for package in loaded}
    if close := get_close_matches(name.removeprefix("svpkit-"), bare, n=1, cutoff=0.7):
        return f"; did you mean '{bare[close[0]]}'? If not: pip install {name}"
    return f"; pip install {name}"


def _requirement(entry: str, where: str) -> "Requirement":
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = Requirement(entry)
    except InvalidRequirement:
        asked = None
    if asked is None or asked.url or asked.marker or asked.extras:
        wanted = "a name with versions such as 'svpkit-glass>=0.2', or a file.py, is wanted"
        raise SvpkitError(f"{where}: given '{entry}': {wanted}")
    return asked


def _fits(asked: "Requirement", version: str) -> bool:
    from packaging.version import InvalidVersion

    try:
        return asked.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return not asked.specifier


def _refuse_broken(registry: "Registry", package: str, where: str) -> None:
    for lost in registry.broken:
        if lost.package == package:
            raise SvpkitError(f"{where}: '{package}' was set aside: {lost.reason}")
