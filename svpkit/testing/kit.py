"""The checks of every kind in one table, those of one plugin, and pytest's parameters of them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from svpkit.hookspecs import KINDS, Trial
from svpkit.plugins import Plugin, Registry, discover
from svpkit.testing.subject import Check, Subject, check_of, trial_of

CheckFunction = Callable[[Subject], None]
# Each module of a kind has CHECKS, its own check functions, and `live(subject)`, the plugin's whole
# life once, small: {name: array} of all that it gave. The common checks watch over that.
MODULES = {kind: "strategies" if kind == "strategy" else f"{kind}s" for kind in KINDS}


def table() -> dict[str, tuple[CheckFunction, ...]]:
    """Return the check functions of every kind, the common ones first."""
    from svpkit.testing.common import COMMON
    from svpkit.testing.processes import check_fresh_process

    own = {kind: f"svpkit.testing.{module}" for kind, module in MODULES.items()}
    there = {kind: import_module(name) for kind, name in own.items() if find_spec(name)}
    return {k: (*COMMON, *module.CHECKS, check_fresh_process) for k, module in there.items()}


def checks(plugin: Plugin, trial: Trial | None = None) -> list[Check]:
    """Return the checks of one plugin, by default on the trial that its mark `tried` tells.

    Raises SvpkitError for options that the plugin does not take.
    """
    return _checks(Subject.of(plugin, trial))


@dataclass(frozen=True)
class Bound:
    """A check of one plugin: called, it runs, or is skipped with the reason why it cannot."""

    plugin: Plugin
    check: Check

    def __call__(self) -> None:
        """Run it; raises Failed."""
        import pytest

        if self.check.spared:
            pytest.skip(f"spared: {self.check.spared}")
        if idle := self.check.run():
            pytest.skip(f"not applicable: {idle}")

    def __str__(self) -> str:
        return f"{self.plugin.kind}:{self.plugin.name}-{self.check.name}"


def parametrize_with_checks(*names: str | Path | Plugin, **trial: Any) -> Any:
    """Return a pytest decorator: the test runs once for each check of these plugins.

    A name is a plugin's, "kind:name" where kinds share it, the path of a one-file plugin, or a
    `Plugin`. Fields of `Trial` given here join those of the plugin's mark. The test's one argument
    is `check`, called with nothing.
    """
    import pytest

    found = [plugin for name in names for plugin in _plugins(name)]
    subjects = [Subject.of(p, trial_of(p, **trial)) for p in found]
    for subject in subjects:
        # other processes are started once for all of them
        subject.kept["fellows"] = subjects
    bound = [Bound(s.plugin, c) for s in subjects for c in _checks(s)]
    return pytest.mark.parametrize("check", bound, ids=str)


def _checks(subject: Subject) -> list[Check]:
    return [check_of(function, subject) for function in table().get(subject.plugin.kind, ())]


def _plugins(name: str | Path | Plugin) -> list[Plugin]:
    if isinstance(name, Plugin):
        return [name]
    if isinstance(name, Path):
        registry = discover(files=[name], builtin_only=True, strict=True)
        return [p for p in registry.plugins.values() if p.origin == str(name)]
    kind, _, alone = name.rpartition(":")
    registry: Registry = discover()
    return [registry.get(kind, alone)] if kind else registry.find(alone)
