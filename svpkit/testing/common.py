"""Checks that hold for plugins of every kind: options, randomness, network, pickle, settings."""

import contextlib
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.options import Option, check_options, options_of
from svpkit.testing import watch
from svpkit.testing.subject import Failed, NotAsked, Subject, expect

Given = dict[str, np.ndarray]
FACTORIES = ("generator", "classifier", "strategy", "extractor")


def live(subject: Subject) -> Given:
    """Let a plugin of any kind live once, small; returns all that it gave as {name: array}."""
    from svpkit.testing.kit import MODULES

    return import_module(f"svpkit.testing.{MODULES[subject.plugin.kind]}").live(subject)


def same(a: Given, b: Given, of: str, tolerance: float = 0.0) -> None:
    """Raise Failed where two lives differ by more than `tolerance`, naming what differs."""
    expect(a.keys() == b.keys(), f"{of}: gave {sorted(a)} once and {sorted(b)} then")
    for name, first in a.items():
        apart = difference(first, b[name])
        expect(apart <= tolerance, f"{of}: {name} differs by {apart:.3g}, {tolerance:g} allowed")


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two arrays; infinite where shapes or types differ."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    if a.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(a, b) else np.inf
    x, y = a.astype(np.float64), b.astype(np.float64)
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    apart = np.abs(np.where(equal, 0, x) - np.where(equal, 0, y))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0))


def check_documented(subject: Subject) -> None:
    """The plugin has a docstring, and every option a type and a text that says what it is."""
    expect(bool(subject.plugin.doc), "documented: it has no docstring")
    for name, option in _options(subject).items():
        expect(option.type is not Any, f"documented: option '{name}' has no type")
        expect(bool(option.doc), f"documented: option '{name}' says nothing: Annotated[type, text]")


def check_defaults(subject: Subject) -> None:
    """The default of every option is a value that the option itself takes."""
    for name, option in _some(subject).items():
        if not option.required:
            with _refusal(f"defaults: option '{name}' refuses its own default"):
                check_options({name: option}, {name: option.default}, "options")


def check_unknown_option(subject: Subject) -> None:
    """An option that does not exist is refused in one line that names the key and the nearest."""
    plugin = subject.plugin
    if plugin.takes_more and plugin.kind != "reader":
        raise Failed("unknown_option: `**` takes every misspelt option without a word")
    wrong = f"{next(iter(plugin.options), 'wrong')}_"
    try:
        check_options(plugin.options, {wrong: 1}, "options")
    except SvpkitError as error:
        near = not plugin.options or "did you mean" in str(error)
        expect(wrong in str(error) and near, f"unknown_option: '{wrong}' is met with: {error}")
    else:
        raise Failed(f"unknown_option: '{wrong}', which does not exist, is taken without a word")


def check_wrong_type(subject: Subject) -> None:
    """A value that an option cannot have is refused in one line with its key, no traceback."""
    for name, option in _some(subject).items():
        try:
            check_options({name: option}, {name: _Strange()}, "options")
        except SvpkitError as error:
            one = "\n" not in str(error) and f"options.{name}" in str(error)
            expect(one, f"wrong_type: option '{name}': no line with its key, but {error!r}")
        else:
            raise Failed(f"wrong_type: option '{name}' takes any value; give it a type")


def check_global_randomness(subject: Subject) -> None:
    """It neither uses nor seeds the global generators of random, numpy and torch."""
    with watch.seeded_globally(7):
        before = watch.randomness()
        again = live(subject)
        after = watch.randomness()
    moved = [name for name in before if before[name] != after[name]]
    expect(not moved, f"global_randomness: it moved the global generator of {' and '.join(moved)}")
    same(subject.once("live", live), again, "global_randomness: under another global seed")
    if subject.plugin.kind in FACTORIES:
        _reseeds(subject)


def check_same_twice(subject: Subject) -> None:
    """Built and used twice from the same seed it gives the same, to the bit."""
    same(subject.once("live", live), live(subject), "same_twice")


def check_no_network(subject: Subject) -> None:
    """It opens no connection and looks up no name."""
    with _blamed("no_network: it tried"), watch.no_network() as seen:
        live(subject)
        expect(not seen, f"no_network: it tried {'; '.join(seen)}")


def check_no_pickle(subject: Subject) -> None:
    """It neither writes nor reads pickle, which runs code that a file brings."""
    with _blamed("no_pickle: it tried"), watch.no_pickle() as seen:
        live(subject)
        expect(not seen, f"no_pickle: it tried {'; '.join(seen)}")


def check_settings(subject: Subject) -> None:
    """It leaves the global settings of torch and numpy, and the working folder, as they are."""
    with watch.settings_kept():
        before = watch.settings()
        live(subject)
        after = watch.settings()
    for name, value in before.items():
        said = f"settings: it left {name} at {after[name]}, it was {value}"
        expect(after[name] == value, said)


def check_no_warnings(subject: Subject) -> None:
    """It gives no warning: a user cannot mend what a plugin does."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        live(subject)
    if heard:
        first = heard[0]
        raise Failed(f"no_warnings: {first.category.__name__}: {str(first.message)[:200]}")


COMMON = (
    check_documented,
    check_defaults,
    check_unknown_option,
    check_wrong_type,
    check_same_twice,
    check_global_randomness,
    check_settings,
    check_no_network,
    check_no_pickle,
    check_no_warnings,
)


class _Strange:
    """A value of no type that an option could have."""

    def __repr__(self) -> str:
        return "<strange>"


def _options(subject: Subject) -> dict[str, Option]:
    # what a generator's `sample` takes is given in a recipe too
    own = dict(subject.plugin.options)
    if subject.plugin.kind != "generator":
        return own
    return own | {f"sample.{n}": o for n, o in options_of(subject.build().sample).items()}


def _some(subject: Subject) -> dict[str, Option]:
    if not (found := _options(subject)):
        raise NotAsked("it has no options")
    return found


def _reseeds(subject: Subject) -> None:
    with draws.seeded(subject.seed, "kit"):
        lent = torch.initial_seed()
        subject.use(*((subject.spec,) if subject.plugin.kind != "strategy" else ()))
        expect(torch.initial_seed() == lent, "global_randomness: building it seeds torch anew")


@contextlib.contextmanager
def _refusal(said: str) -> Iterator[None]:
    try:
        yield
    except SvpkitError as error:
        raise Failed(f"{said}: {error}") from None


@contextlib.contextmanager
def _blamed(said: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        chain: BaseException | None = error
        while chain and not isinstance(chain, watch.Seen):
            chain = chain.__cause__ or chain.__context__
        if chain is None:
            raise
        raise Failed(f"{said} {chain}") from None
