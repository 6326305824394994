"""The conformance kit: sound toys pass every check, and each check catches a planted fault."""

import io
import itertools
import pickle
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import kit_toys as toys
import numpy as np
import pytest
import torch
from annotated_types import Ge
from torch import nn

from svpkit import SvpkitError, Trial, tried
from svpkit.plugins import Plugin, discover
from svpkit.testing import Failed, checks, parametrize_with_checks, table, trial_of
from svpkit.testing.strategy_inputs import VERBS

FILE = Path(toys.__file__)
KINDS = ("generator", "classifier", "extractor")
SLOW = ("fresh_process", "two_processes")


def plugin(kind, factory, name="toy"):
    return Plugin(kind, name, factory, "tests", "1", str(FILE))


def outcome(kind, name, factory, called="toy"):
    found = {c.name: c for c in checks(plugin(kind, factory, called))}
    return found[name].outcome()


def faulty(base, **methods):
    """Return a documented factory of a class with these methods in place of the sound ones."""

    def factory(spec):
        """Broken on purpose."""
        return type("Broken", (base,), methods)(*((spec,) if issubclass(base, nn.Module) else ()))

    return factory


def undocumented(spec, *, width: int = 8):
    """Its option says nothing."""
    return toys.Means(spec)


def own_default(spec, *, width: Annotated[int, Ge(1), "channels"] = 0):
    """Its default is out of range."""
    return toys.Means(spec)


def swallows(spec, **more):
    """Takes anything by name."""
    return toys.Means(spec)


def anything(spec, *, width: Annotated[Any, "channels"] = 8):
    """Takes any value."""
    return toys.Means(spec)


def does(work, base=toys.Means):
    """Return a factory that does this before it builds."""

    def factory(spec):
        """Does what it must not."""
        work()
        return base(spec)

    return factory


def tries(work):
    """Return the work with its errors kept quiet, as a fallback would."""

    def quiet():
        try:
            work()
        except OSError:
            pass

    return quiet


def moved_image(by):
    """Return a sample method whose images are moved by what `by(seeds)` says."""
    return lambda self, labels, seeds: toys.Means.sample(self, labels, seeds) * 0.5 + by(seeds)


def unused(base):
    """Return a constructor that adds a parameter which nothing uses."""

    def init(self, spec):
        base.__init__(self, spec)
        self.idle = nn.Parameter(torch.zeros(1))

    return init


def counted(base):
    """Return a constructor that adds a buffer."""

    def init(self, spec):
        base.__init__(self, spec)
        self.register_buffer("asked", torch.zeros(1))

    return init


def after_counting(base, name):
    """Return a method that counts its calls in the buffer, then does its work."""

    def method(self, *args, **more):
        self.asked += 1
        return getattr(base, name)(self, *args, **more)

    return method


def of_spec(base):
    """Return a factory that fails on colour with a traceback."""

    def factory(spec):
        """Grey alone."""
        assert spec.channels == 1, "grey images alone"
        return base(spec)

    return factory


count = itertools.count()
listed = {"state": lambda self: {"kept": [1, 2]}}
COMMON = [
    ("documented", undocumented),
    ("defaults", own_default),
    ("unknown_option", swallows),
    ("wrong_type", anything),
    ("same_twice", faulty(toys.Means, sample=moved_image(lambda s: next(count) * 1e-3))),
    ("global_randomness", faulty(toys.Means, sample=moved_image(lambda s: 0.1 * torch.rand(())))),
    ("global_randomness", does(lambda: np.random.rand())),
    ("global_randomness", does(lambda: torch.manual_seed(0))),
    ("settings", does(lambda: np.seterr(divide="ignore"))),
    ("settings", does(lambda: torch.set_default_dtype(torch.float64))),
    ("no_network", does(tries(lambda: socket.create_connection(("127.0.0.1", 9), 1)))),
    ("no_network", does(tries(lambda: socket.getaddrinfo("localhost", 80)))),
    ("no_pickle", does(tries(lambda: pickle.loads(pickle.dumps(1))))),
    ("no_pickle", does(tries(lambda: torch.save({}, io.BytesIO())))),
    ("no_warnings", does(lambda: warnings.warn("deprecated", stacklevel=2))),
]
GENERATOR = [
    ("builds", of_spec(toys.Means)),
    ("loss", faulty(toys.Means, forward=lambda s, x, y, seeds, part="main": s.mean[y] - x)),
    ("parts", faulty(toys.Means, parts=lambda self: {"main": [self.mean]})),
    ("gradients", faulty(toys.Means, __init__=unused(toys.Means))),
    ("loss_seeds", toys.ranked),
    (
        "loss_seeds",
        faulty(
            toys.Means, forward=lambda s, x, y, seeds, part="main": s.shift.sum() * torch.rand(())
        ),
    ),
    ("images", faulty(toys.Means, sample=lambda s, y, seeds: 2 + s.mean[y].detach())),
    ("images", faulty(toys.Means, sample=lambda s, y, seeds: s.mean[y].detach().double())),
    ("seeds", faulty(toys.Means, sample=lambda s, y, seeds: s.mean[y].detach())),
    ("batches", faulty(toys.Means, sample=moved_image(lambda s: 0.01 * len(s)))),
    (
        "untouched",
        faulty(
            toys.Means, __init__=counted(toys.Means), sample=after_counting(toys.Means, "sample")
        ),
    ),
    ("sample", faulty(toys.Means, sample=lambda s, y, seeds, **more: s.mean[y])),
    ("state", faulty(toys.Kept, **listed)),
    (
        "saved",
        faulty(toys.Kept, load_state=lambda s, a: setattr(s, "images", a["images"][::-1].copy())),
    ),
    ("fold", faulty(toys.Means, fold=lambda self: self.shift.data.add_(0.01))),
    ("learns", faulty(toys.Means, forward=lambda s, x, y, seeds, part="main": s.shift.sum())),
    ("labels", faulty(toys.Means, sample=lambda s, y, z: toys.Means.sample(s, y * 0, z))),
]
CLASSIFIER = [
    ("builds", of_spec(toys.Linear)),
    ("answers", faulty(toys.Linear, forward=lambda s, x: s.head(s.features(x)) * float("nan"))),
    ("answers", faulty(toys.Nearest, predict_proba=lambda s, x: np.full((len(x), 3), 0.5))),
    (
        "features",
        faulty(
            toys.Linear,
            features=lambda s, x: x,
            forward=lambda s, x: s.head(x[:, 0, :8, :8].flatten(1)),
        ),
    ),
    ("head", faulty(toys.Linear, forward=lambda s, x: 2 * s.head(s.features(x)))),
    ("batches", faulty(toys.Linear, forward=lambda s, x: s.head(s.features(x - x.mean())))),
    (
        "untouched",
        faulty(
            toys.Linear,
            __init__=counted(toys.Linear),
            forward=after_counting(toys.Linear, "forward"),
        ),
    ),
    ("gradients", faulty(toys.Linear, __init__=unused(toys.Linear))),
    ("state", faulty(toys.Nearest, **listed)),
    ("saved", faulty(toys.Nearest, load_state=lambda s, a: setattr(s, "means", a["means"] + 9))),
    ("learns", faulty(toys.Linear, features=lambda s, x: 0 * toys.Linear.features(s, x))),
]
EXTRACTOR = [
    ("builds", of_spec(toys.Coarse)),
    (
        "extremes",
        faulty(
            toys.Coarse,
            features=lambda s, x: toys.Coarse.features(s, x / x.std(dim=(1, 2, 3), keepdim=True)),
        ),
    ),
    ("batches", faulty(toys.Coarse, features=lambda s, x: toys.Coarse.features(s, x - x.mean()))),
    ("tells_apart", faulty(toys.Coarse, features=lambda s, x: 0 * toys.Coarse.features(s, x))),
    (
        "untouched",
        faulty(
            toys.Coarse,
            __init__=counted(toys.Coarse),
            features=after_counting(toys.Coarse, "features"),
        ),
    ),
]
PLANTED = [
    *(("generator", *fault) for fault in COMMON + GENERATOR),
    *(("classifier", *fault) for fault in CLASSIFIER),
    *(("extractor", *fault) for fault in EXTRACTOR),
]
# caught in other processes, where a plugin is found by its name in its file
ELSEWHERE = [
    ("generator", "fresh_process", "toy_hashed"),
    ("generator", "two_processes", "toy_ranked"),
    ("classifier", "two_processes", "toy_ranked"),
]
SOUND = [
    ("generator", toys.means),
    ("generator", toys.kept),
    ("classifier", toys.linear),
    ("classifier", toys.nearest),
    ("extractor", toys.coarse),
]


@pytest.mark.parametrize(("kind", "factory"), SOUND, ids=lambda x: getattr(x, "__name__", x))
def test_a_sound_toy_passes_every_check(kind, factory):
    told = [(c.name, *c.outcome()) for c in checks(plugin(kind, factory)) if c.name not in SLOW]
    assert [row for row in told if row[1] not in ("ok", "n/a")] == []


@pytest.mark.parametrize(
    ("kind", "name", "factory"),
    PLANTED,
    ids=[f"{k}-{n}-{i}" for i, (k, n, _) in enumerate(PLANTED)],
)
def test_a_planted_fault_is_caught_in_one_line(kind, name, factory):
    found, reason = outcome(kind, name, factory)
    assert found == "FAILED" and reason and "\n" not in reason


def test_every_check_has_a_planted_fault():
    planted = {(kind, name) for kind, name, _ in PLANTED + ELSEWHERE}
    common = {name for name, _ in COMMON} | {"fresh_process"}
    for kind in KINDS:
        names = {f.__name__.removeprefix("check_") for f in table()[kind]} - common
        assert {name for name in names if (kind, name) not in planted} == set()


def test_every_check_says_in_a_line_what_it_is_about():
    for functions in table().values():
        assert all((f.__doc__ or "").strip().split("\n")[0].endswith(".") for f in functions)
        assert len({f.__name__ for f in functions}) == len(functions)


def test_a_trial_joins_the_tables_of_the_mark():
    @tried(options={"width": 4, "depth": 1}, images=10)
    def factory(spec, *, width: int = 8, depth: int = 2):
        """Marked."""

    found = trial_of(plugin("generator", factory), options={"width": 2}, images=None)
    assert found == Trial(options={"width": 2, "depth": 1}, images=10)


def test_a_spared_check_is_told_with_its_reason():
    trial = Trial(spared={"learns": "it does not"})
    found = {c.name: c for c in checks(plugin("generator", toys.means), trial)}
    assert found["learns"].outcome() == ("spared", "it does not")


class Plain:
    """An object without features; it takes grey levels for numbers in -1 .. 1."""

    def __init__(self, spec):
        self.k = len(spec.classes)

    def fit(self, particles, seed):
        pass

    def predict_proba(self, images):
        return np.eye(self.k)[(images.mean((1, 2, 3)) > 0).astype(int)]

    def state(self):
        return {"k": np.array([self.k])}

    def load_state(self, arrays):
        self.k = int(arrays["k"][0])


def test_what_does_not_apply_is_told_as_such_and_not_as_kept():
    found = {c.name: c for c in checks(plugin("generator", toys.kept))}
    for name in ("loss", "parts", "gradients", "loss_seeds"):
        assert found[name].outcome() == ("n/a", "an object has no loss"), name
        assert found[name].run() == "an object has no loss"
    assert found["fold"].outcome() == ("n/a", "it has no fold")
    assert found["two_processes"].outcome()[0] == "n/a"
    assert found["images"].outcome() == ("ok", "") and found["images"].run() is None
    found = {c.name: c for c in checks(plugin("classifier", Plain))}
    for name in ("features", "head", "gradients", "defaults", "wrong_type"):
        assert found[name].outcome()[0] == "n/a", name
    assert found["learns"].outcome()[1].endswith("; predict_proba is given uint8 images, 0 .. 255")
    own = {c.name: c for c in checks(discover(builtin_only=True).get("strategy", "class_weights"))}
    told = {name: own[name].outcome() for name in own if name.split("_")[0] in VERBS}
    assert {n for n, (how, _) in told.items() if how == "ok"} >= {"loss", "loss_mean"}
    for name in (n for n in told if not n.startswith("loss")):
        assert told[name] == ("n/a", f"it has no {name.split('_')[0]}")


def test_an_option_that_is_not_there_is_refused_before_any_check():
    with pytest.raises(SvpkitError, match="toy: unknown 'widht'"):
        checks(plugin("generator", toys.means), Trial(options={"widht": 3}))


@parametrize_with_checks(
    plugin("generator", toys.kept, "toy_kept"), spared=dict.fromkeys(SLOW, "tried below")
)
def test_a_plugin_is_a_test_with_a_case_for_each_check(check):
    check()


TEST = """
from pathlib import Path
from svpkit.testing import parametrize_with_checks

@parametrize_with_checks(Path({file!r}), spared={{"fresh_process": "slow"}})
def test_it(check):
    check()
"""


@pytest.mark.slow
def test_pytest_names_plugin_and_check_in_its_report(tmp_path):
    (tmp_path / "loud.py").write_text(
        "from svpkit import hookimpl\n\ndef loud(*, strength: int = 1):\n    '''Shouts.'''\n"
        "    return type('Loud', (), {'draws': lambda self, counts: dict(counts)})()\n\n"
        "@hookimpl\ndef register_strategies(register):\n    register('loud', loud)\n"
    )
    (tmp_path / "test_loud.py").write_text(TEST.format(file=str(tmp_path / "loud.py")))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfs",
        "-p",
        "no:cacheprovider",
        "test_loud.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "test_it[strategy:loud-documented]" in done.stdout
    assert "option 'strength' says nothing" in done.stdout and "spared: slow" in done.stdout


@pytest.mark.slow
def test_faults_that_show_in_other_processes_alone():
    for kind, name, called in ELSEWHERE:
        factory = (toys.GENERATORS if kind == "generator" else toys.CLASSIFIERS)[called]
        found, reason = outcome(kind, name, factory, called)
        assert found == "FAILED" and "differ" in reason, (called, reason)


@pytest.mark.slow
def test_sound_toys_are_the_same_in_other_processes():
    mark = parametrize_with_checks(FILE).args[1]
    for bound in mark:
        if bound.check.name in SLOW and "hashed" not in str(bound) and "ranked" not in str(bound):
            bound()


def test_a_failure_is_an_assertion():
    assert issubclass(Failed, AssertionError)
