"""One plugin: what was registered under a name, where it comes from, and what it takes."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError
from svpkit.loading import TOLD, said
from svpkit.options import Option, options_of, written

BUILT_IN, ENTRY_POINT = "built-in", "entry point"


@dataclass(frozen=True)
class Plugin:
    """A name and what was registered under it, with where it came from."""

    kind: str
    name: str
    thing: Any
    package: str
    version: str
    origin: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' ({self.source})"

    @property
    def source(self) -> str:
        """Its package and version in one."""
        return f"{self.package} {self.version}".strip()

    @property
    def strange(self) -> bool:
        """True when it is no part of svpkit."""
        return self.origin != BUILT_IN

    @property
    def code(self) -> str:
        """A digest of the Python files that it comes with: an edit shows where a version does not.

        Empty where they cannot be found.
        """
        function = written(self.thing) if callable(self.thing) else type(self.thing)
        top = sys.modules.get(str(getattr(function, "__module__", "")).split(".")[0])
        state, roots = hashlib.sha256(), sorted(map(Path, getattr(top, "__path__", ())))
        files = [path for root in roots for path in sorted(root.rglob("*.py")) if path.is_file()]
        if not files and (own := getattr(top, "__file__", None)):
            files = [Path(own)]
        for path in files:
            state.update(path.read_bytes())
        return state.hexdigest() if files else ""

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
        """The docstring of the thing registered, or of what a partial is of."""
        if isinstance(self.thing, functools.partial):
            return inspect.getdoc(written(self.thing)) or ""
        return inspect.getdoc(self.thing) or inspect.getdoc(type(self.thing)) or ""


@dataclass(frozen=True)
class Broken:
    """A plugin set aside, and why, in one line; `things` (kind, name) are what it brought."""

    name: str
    package: str
    reason: str
    version: str = ""
    origin: str = ""
    things: tuple[tuple[str, str], ...] = ()

    @property
    def given(self) -> bool:
        """True for a file that was named by its path."""
        return self.origin not in ("", BUILT_IN, ENTRY_POINT)

    def __str__(self) -> str:
        source = f"{self.package} {self.version}".strip()
        return f"plugin '{self.name}' ({source}) was set aside: {self.reason}"


@contextmanager
def guarded(plugin: Plugin) -> Iterator[None]:
    """Turn what a stranger raises inside into a SvpkitError of one line that names the plugin.

    Errors of built-ins pass as they are: they are svpkit's own.
    """
    try:
        yield
    except (*TOLD, GeneratorExit):
        raise
    except SvpkitError as error:
        if not plugin.strange or str(error).isprintable():
            raise
        raise SvpkitError(said(error)) from error
    except BaseException as error:  # whatever it is that a stranger raises
        if not plugin.strange:
            raise
        raise SvpkitError(f"{plugin} raised {said(error)}") from error


@dataclass(frozen=True)
class Guarded:
    """A stranger's particle type as the simulator is given it."""

    plugin: Plugin

    def draw(self, seeds: Any, optics: Any) -> Any:
        """Draw; raises SvpkitError naming the plugin where it fails."""
        with guarded(self.plugin):
            return self.plugin.thing.draw(seeds, optics)
