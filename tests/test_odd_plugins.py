"""Plugins that are odd: those that are right are taken, the others are told in one line."""

import functools
import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import kit_toys as toys
import pytest
from click.testing import CliRunner
from packages import build, install
from pydantic import BeforeValidator
from torch import nn

from svpkit import SvpkitError
from svpkit.cli import cli
from svpkit.errors import SvpkitError as Refused
from svpkit.plugin import Plugin, guarded
from svpkit.plugins import discover
from svpkit.testing import checks
from svpkit.vetting import vet

Width = Annotated[int, "channels"]


def plain(spec, *, width: Width = 3, mode: str = "x"):
    """Built."""


class Made:
    """Built."""

    def __new__(cls, spec, *, width: Width = 3):
        return nn.Identity()


class Called:
    """Built."""

    def __call__(self, spec, *, width: Width = 3):
        return nn.Identity()


@dataclass(frozen=True)
class Record:
    """Built."""

    depth: int = 2

    def __call__(self, spec, *, width: Width = 3):
        return nn.Identity()


class Several:
    def build(self, spec, *, width: Width = 3):
        """Built."""


FORMS = {
    "partial": functools.partial(plain, mode="y"),
    "class": Made,
    "object": Called(),
    "dataclass": Record(),
    "method": Several().build,
}


def classifier(thing, name="toy", origin="entry point"):
    return Plugin("classifier", name, thing, "strange", "1", origin)


@pytest.mark.parametrize("form", FORMS)
def test_a_factory_may_be_anything_that_is_called(form):
    plugin = classifier(FORMS[form])
    vet(plugin)
    assert plugin.options["width"].type == Width and plugin.options["width"].doc == "channels"
    assert plugin.doc == "Built."


async def later(spec):
    """Not now."""


class Later:
    async def __call__(self, spec):
        """Not now."""


@pytest.mark.parametrize("thing", [later, Later(), functools.partial(later)])
def test_what_is_async_is_set_aside(thing):
    with pytest.raises(SvpkitError, match="classifier 'toy': it is async, a plain function is"):
        vet(classifier(thing))


def fails(value):
    raise RuntimeError("not\n\x1b[31mthis")


def test_a_check_of_a_strangers_own_that_fails_is_one_line_with_the_key():
    def factory(spec, *, width: Annotated[int, BeforeValidator(fails)] = 3):
        """Built."""

    registry = discover(builtin_only=True)
    registry.plugins["classifier", "toy"] = classifier(factory)
    with pytest.raises(SvpkitError) as told:
        registry.use("classifier", "toy", {"width": 4}, "classifier.plugin")
    said = "classifier.options.width: given 4: its check raised RuntimeError: not [31mthis"
    assert str(told.value) == said


SHOWN = """
from typing import Annotated, Any
from svpkit import hookimpl
class Mute:
    def __repr__(self): raise RuntimeError
class Book:
    def __repr__(self): return "x" * 10_000
def shown(spec, *, a: Annotated[Any, "red \x1b[31m"] = Mute(), b: Annotated[Any, "b"] = Book()):
    "Steers \x1b[2J the terminal."
@hookimpl
def register_classifiers(register):
    register("shown", shown)
"""


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_show_outlives_defaults_without_a_text_and_steers_no_terminal(tmp_path, more):
    path = tmp_path / "shown.py"
    path.write_text(SHOWN)
    done = CliRunner().invoke(cli, ["--plugin", str(path), "plugins", "show", "shown", *more])
    assert done.exit_code == 0, done.exception
    assert "<Mute>" in done.output and "\x1b" not in done.output
    assert "xxx..." in done.output and max(map(len, done.output.splitlines())) < 400


MOVES = """
import io, os, sys
sys.stdout = sys.stderr = io.StringIO()
os.chdir("/")
from svpkit import hookimpl
kept = []
@hookimpl
def register_classifiers(register):
    register("mover", lambda spec: None)
    kept.append(register)
"""


def test_streams_and_folder_are_what_they_were_and_a_late_call_registers_nothing(tmp_path):
    path = tmp_path / "mover.py"
    path.write_text(MOVES)
    before = sys.stdout, sys.stderr, os.getcwd()
    registry = discover(files=[path], builtin_only=True)
    assert (sys.stdout, sys.stderr, os.getcwd()) == before
    known = dict(registry.plugins)
    assert ("classifier", "mover") in known
    sys.modules["svpkit_plugin_mover"].kept[0]("late", lambda spec: None)
    assert registry.plugins == known


def test_the_name_of_an_entry_point_steers_no_terminal(tmp_path, monkeypatch):
    wheel = build(tmp_path, "steers", "1.0", "1 / 0\n", "[svpkit]\nred\x1b[31m = steers\n")
    install([wheel], tmp_path / "site", unpack=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    [lost] = [b for b in discover().broken if b.package == "steers"]
    assert "\x1b" not in str(lost) and "red [31m" in str(lost)


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [Odd("a\nb"), SystemExit(3), Refused("two\nlines")])
def test_whatever_a_stranger_raises_is_one_line(error):
    with pytest.raises(SvpkitError) as told, guarded(classifier(plain)):
        raise error
    assert str(told.value).isprintable()
    with pytest.raises(KeyboardInterrupt), guarded(classifier(plain)):
        raise KeyboardInterrupt


def test_an_edit_shows_in_the_digest_of_the_code(tmp_path, monkeypatch):
    found = []
    for i, name in enumerate(("one_pack", "two_pack")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("from .inside import make\n")
        (tmp_path / name / "inside.py").write_text(f"def make(spec): return {i}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        found.append(classifier(__import__(name).make).code)
    assert len(set(found)) == 2 and {len(code) for code in found} == {64}


def only(base, test):
    """Return a factory that is for some images alone, and says so."""

    def factory(spec) -> Any:
        """For some images alone."""
        if not test(spec):
            raise SvpkitError(f"not for {spec.channels} channels, {len(spec.classes)} classes")
        return base(*((spec,) if issubclass(base, nn.Module) else ()))

    return factory


class Doubles(toys.Nearest):
    """Answers in float64."""

    def predict_proba(self, images):
        """Return shares in float64."""
        return super().predict_proba(images).astype("float64")


def colour(spec):
    return spec.channels == 3


CHOICES = {
    "colour generator": ("generator", only(toys.Means, colour)),
    "one class": ("generator", only(toys.Kept, lambda spec: len(spec.classes) == 1)),
    "colour classifier": ("classifier", only(toys.Linear, colour)),
    "two classes": ("classifier", only(toys.Linear, lambda spec: len(spec.classes) == 2)),
    "float64, no features": ("classifier", only(Doubles, lambda spec: True)),
    "colour extractor": ("extractor", only(toys.Coarse, colour)),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_odd_but_legal_choices_pass_the_kit(choice):
    kind, factory = CHOICES[choice]
    tried = checks(Plugin(kind, "toy", factory, "tests", "1", "toy.py"))
    # the factories are not to be found by name from another process; colour learns as grey does
    left = ("fresh_process", "two_processes", *(("learns", "labels") if kind[0] == "g" else ()))
    told = [(c.name, *c.outcome()) for c in tried if c.name not in left]
    assert [row for row in told if row[1] not in ("ok", "n/a")] == []


def test_one_that_refuses_everything_fails_with_what_it_says():
    refuses = only(toys.Linear, lambda spec: False)
    [found] = [c for c in checks(classifier(refuses, origin="toy.py")) if c.name == "builds"]
    assert found.outcome()[0] == "FAILED" and "not for 1 channels" in found.outcome()[1]


def test_a_plugin_that_ends_the_program_fails_its_check():
    def leaves(self, x):
        raise SystemExit(0)

    def factory(spec):
        """Leaves."""
        return type("Leaver", (toys.Linear,), {"forward": leaves})(spec)

    [found] = [c for c in checks(classifier(factory, origin="toy.py")) if c.name == "answers"]
    assert found.outcome() == ("FAILED", "SystemExit: 0")
