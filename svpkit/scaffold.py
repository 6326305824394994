"""A whole plugin package, written from templates: it passes its own tests and lint at once."""

import importlib.metadata
import re
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import Any

from svpkit import __version__
from svpkit.errors import SvpkitError, unknown
from svpkit.hookspecs import KINDS
from svpkit.toml import spell

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".tmpl"
LONGEST = 30  # letters of a name: longer ones would break lines of the templates


def new(kind: str, name: str, into: Path) -> Path:
    """Write the package `svpkit-NAME` into a folder and return its own folder.

    Raises SvpkitError for an unknown kind, a name that is none, that a plugin of this kind has or
    whose package is installed, and where the package's folder is there already.
    """
    kind = _kind(kind)
    module = _module(kind, name)
    target = into / f"svpkit-{name}"
    if target.exists():
        raise SvpkitError(f"{target}: is there already; choose another name or folder")
    words = _words(kind, name, module)
    for root in (TEMPLATES / "every", TEMPLATES / kind):
        for source in sorted(root.rglob(f"*{SUFFIX}")):
            inside = str(source.relative_to(root)).removesuffix(SUFFIX)
            path = target / inside.replace("NAME", module)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = Template(source.read_text(encoding="utf-8")).substitute(words)
            path.write_text(text, encoding="utf-8")
    return target


def _kind(kind: str) -> str:
    """Return the kind as hooks spell it: a hyphen is an underscore."""
    spelt = kind.replace("-", "_")
    if spelt not in KINDS:
        raise unknown("kind of plugin", kind, KINDS)
    return spelt


def _module(kind: str, name: str) -> str:
    """Return the name as Python and recipes spell it, or say why it cannot be one."""
    from svpkit.plugins import discover

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*", name):
        raise SvpkitError(
            f"name of a plugin: given '{name}'; a letter, then letters, digits, single _ and - "
            "between them are allowed"
        )
    if len(name) > LONGEST:
        raise SvpkitError(f"name of a plugin: {len(name)} letters; {LONGEST} at most are allowed")
    module = name.replace("-", "_")
    if iskeyword(module):
        raise SvpkitError(f"name of a plugin: '{name}' is a word of Python's own")
    if (other := discover().plugins.get((kind, module))) is not None:
        there = f"comes with {other.source} already" if other.strange else "is built in"
        raise SvpkitError(f"name of a plugin: {kind} '{module}' {there}; choose another name")
    try:
        version = importlib.metadata.version(f"svpkit-{name}")
    except importlib.metadata.PackageNotFoundError:
        return module
    raise SvpkitError(
        f"name of a plugin: svpkit-{name} {version} is installed already; choose another name"
    )


def steps(folder: Path, name: str) -> list[str]:
    """Return the commands that come next: they install a package that is written, and try it."""
    module = name.replace("-", "_")
    return [
        f"uv pip install -e {folder} --group {folder}/pyproject.toml:dev",
        f"pytest {folder}",
        f"svpkit plugins check {module}",
    ]


def _words(kind: str, name: str, module: str) -> dict[str, str]:
    """Return what stands for each $word of the templates."""
    import tomllib

    about: dict[str, Any] = tomllib.loads((TEMPLATES / kind / "about.toml").read_text("utf-8"))
    host = ".".join(__version__.split(".")[:2])
    dependencies = sorted([*about["dependencies"], f"svpkit>={host}"])
    recipe = Template(about["recipe"].strip()).substitute(name=module)
    return {
        "given": name,
        "name": module,
        "about": about["about"],
        "dependencies": spell(dependencies),
        "recipe": recipe,
        "steps": "\n".join(steps(Path(f"svpkit-{name}"), name)),
    }
