"""One plugin module: loaded, its hooks checked and called, whatever it does told in one line."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from svpkit.errors import SvpkitError, choices, nearest
from svpkit.hookspecs import API, HOOKS, Hooks
from svpkit.signals import Ended

LONGEST = 300  # characters of a reason
TOLD = (KeyboardInterrupt, Ended)  # the program is told to end: no plugin's fault


def said(error: BaseException) -> str:
    """Return an exception in one line: its type and message, of a SvpkitError the message alone."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception of a stranger may not even be printed
        text = ""
    text = " ".join(printable(text).split())
    if len(text) > LONGEST:
        text = text[: LONGEST - 3] + "..."
    if isinstance(error, SvpkitError):
        return text
    lacks = " (is a dependency missing?)" if isinstance(error, ModuleNotFoundError) else ""
    return f"{type(error).__name__}: {text}".removesuffix(": ") + lacks


def printable(text: str) -> str:
    """Return a stranger's text with a blank for each character that would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what strangers print to stderr: stdout is for what was asked.

    Both streams and the working folder are afterwards what they were.
    """
    stderr, here = sys.stderr, _here()
    try:
        with contextlib.redirect_stdout(stderr):
            yield
    finally:
        sys.stderr = stderr
        if here is not None and _here() != here:
            os.chdir(here)


def _here() -> Path | None:
    # a shell may stand in a folder that is gone
    try:
        return Path.cwd()
    except OSError:
        return None


def importer(module: str) -> Callable[[], ModuleType]:
    """Return what imports a module by name."""
    return partial(importlib.import_module, module)


def entry_loader(entry: importlib.metadata.EntryPoint) -> Callable[[], Any]:
    """Return what loads an entry point; a target that is not there is told apart from its own."""

    def load() -> Any:
        module, _, attributes = (part.strip() for part in entry.value.partition(":"))
        try:
            target: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if f"{module}.".startswith(f"{error.name}."):
                said = f"entry point '{entry.value}' leads nowhere: no module '{error.name}'"
                raise SvpkitError(said) from None
            raise
        for name in filter(None, attributes.split(".")):
            if not hasattr(target, name):
                raise SvpkitError(f"entry point '{entry.value}' leads nowhere: no '{name}' in it")
            target = getattr(target, name)
        return target

    return load


def file_loader(path: Path) -> Callable[[], ModuleType]:
    """Return what runs a file as a module of its own."""

    def load() -> ModuleType:
        if not path.is_file():
            raise SvpkitError("this is a folder" if path.is_dir() else "there is no such file")
        name = f"svpkit_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise SvpkitError("not a Python file, its name has to end in .py")
        module = importlib.util.module_from_spec(spec)
        # dataclasses look their module up by its name
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return load


def collect(module: Any, note: Callable[[str, Any, Any], None]) -> None:
    """Call every hook of a module; `note(kind, name, thing)` is told what it registers.

    Raises SvpkitError for another `api`, for hooks that are misspelt, unmarked or take something
    else, for an exception inside one, and where nothing is registered.
    """
    _check_api(getattr(module, "api", API))
    marked = _check_hooks(module)
    manager = pluggy.PluginManager("svpkit")
    manager.add_hookspecs(Hooks)
    registered: list[str] = []

    def register(kind: str, name: Any, thing: Any) -> None:
        registered.append(kind)
        note(kind, name, thing)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager.register(module, "plugin")
        manager.check_pending()
        for hook in HOOKS:
            _call(manager, hook, partial(register, HOOKS[hook]))
    if not registered:
        raise SvpkitError(f"registers nothing: {choices(marked)} made no call of `register`")


def _check_api(api: Any) -> None:
    if api != API or isinstance(api, bool):
        newer = isinstance(api, int) and api > API
        mend = "a newer svpkit is wanted" if newer else "a newer version of it is wanted"
        raise SvpkitError(f"written for plugin api {api!r}, this is api {API}: {mend}")


def _call(manager: pluggy.PluginManager, hook: str, register: Callable[..., None]) -> None:
    try:
        getattr(manager.hook, hook)(register=register)
    except TOLD:
        raise
    except BaseException as error:  # whatever a stranger's hook raises, sys.exit() too
        raise SvpkitError(f"{hook} raised {said(error)}") from error


def _check_hooks(module: Any) -> list[str]:
    """Return the names of the hooks that a module implements; raises SvpkitError for a bad one."""
    marked, unmarked = [], []
    for name in dir(module):
        function = getattr(module, name, None)
        if not inspect.isroutine(function):
            continue
        marks = getattr(function, "svpkit_impl", None)
        if not isinstance(marks, dict):
            unmarked.append(name)
            continue
        hook = marks.get("specname") or name
        if hook in HOOKS:
            _check_signature(hook, function)
            marked.append(hook)
        elif not marks.get("optionalhook"):
            raise SvpkitError(f"no hook '{hook}'{nearest(hook, HOOKS)} (hooks: {choices(HOOKS)})")
    for name in unmarked:
        if name in HOOKS:
            raise SvpkitError(f"'{name}' is not marked with @hookimpl of svpkit: it is not called")
    if not marked:
        raise SvpkitError(f"registers nothing: {_nearly(unmarked)}")
    return marked


def _nearly(unmarked: list[str]) -> str:
    for name in unmarked:
        if close := get_close_matches(name, HOOKS, n=1, cutoff=0.8):
            said = f"'{name}' is no hook and not marked with @hookimpl"
            return f"{said}; did you mean '{close[0]}'?"
    return "no function of it is marked with @hookimpl of svpkit"


def _check_signature(hook: str, function: Callable[..., Any]) -> None:
    # pluggy gives a hook what it names as a positional parameter without a default
    found = inspect.signature(function).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = [p.name for p in found if p.kind in plain and p.default is p.empty]
    needs = [p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if given != ["register"] or needs:
        has = ", ".join([*given, *(f"*, {n}" for n in needs)])
        raise SvpkitError(f"{hook}({has}): its signature has to be {hook}(register)")
