"""What is checked and how: a plugin with small options, its checks, and a failure in one line."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec, Trial
from svpkit.options import check_options, located
from svpkit.plugins import Plugin, Use, discover

# Built-in particle types, so that what draws by the name of a class can be tried too.
CLASSES = ("air_bubble", "protein", "silicone_oil")
SIZE = 16
Thing = TypeVar("Thing")


class Failed(AssertionError):
    """A check that did not hold, in one line: what was expected, what came."""


class NotAsked(Exception):
    """A check has nothing to look at in this plugin, and why."""


@dataclass(frozen=True)
class Subject:
    """A plugin on trial: `use` holds it with the trial's options."""

    plugin: Plugin
    trial: Trial
    use: Use
    seed: int = 0
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, plugin: Plugin, trial: Trial | None = None) -> "Subject":
        """Put a plugin on trial, by default as its mark `tried` says.

        Raises SvpkitError for options that it does not take.
        """
        trial = trial_of(plugin) if trial is None else trial
        wanted = "particle_types" in inspect.signature(plugin.call).parameters
        found = discover(builtin_only=True) if wanted or plugin.takes_more else None
        kinds = {} if found is None else {n: found.get(_TYPE, n) for n in found.names(_TYPE)}
        more = tuple(kinds) if plugin.takes_more else ()
        options = check_options(plugin.options, trial.options, plugin.name, more)
        options = located(plugin.options, options, (Path(),), plugin.name)
        return cls(plugin, trial, Use(plugin, options, kinds))

    @property
    def spec(self) -> ImageSpec:
        """The toy images: grey, 16 pixels, three classes, or the next that the plugin is for."""
        return self.once("spec", _taken)

    def build(self, spec: ImageSpec | None = None, seed: int | None = None) -> Any:
        """Return what a factory of (spec, *, ...) builds, torch seeded for it as a run does."""
        seed = self.seed if seed is None else seed
        with draws.seeded(seed, "kit"):
            return self.use(self.spec if spec is None else spec)

    def once(self, name: str, make: Callable[["Subject"], Thing]) -> Thing:
        """Return what `make` makes of this subject, made the first time that it is asked for."""
        if name not in self.kept:
            self.kept[name] = make(self)
        return self.kept[name]


@dataclass(frozen=True)
class Check:
    """One promise of a plugin: `run` raises Failed where it is broken.

    It returns why there is nothing to check in this plugin, None where there is.
    `spared` is the reason why it cannot hold for this plugin; empty where it has to.
    """

    name: str
    about: str
    run: Callable[[], str | None]
    spared: str = ""

    def outcome(self) -> tuple[str, str]:
        """Return ("ok", ""), ("FAILED", what came), ("spared", why) or ("n/a", why)."""
        if self.spared:
            return "spared", self.spared
        try:
            idle = self.run()
        except Failed as failure:
            return "FAILED", str(failure).removeprefix(f"{self.name}: ")
        return ("n/a", idle) if idle else ("ok", "")


def trial_of(plugin: Plugin, **overrides: Any) -> Trial:
    """Return the trial of a plugin's mark `tried`; tables given here join those of the mark."""
    mark = getattr(plugin.thing, "tried", None)
    mark = mark if isinstance(mark, Trial) else Trial()
    given = {n: v for n, v in overrides.items() if v is not None}
    for name, value in given.items():
        if isinstance(value, Mapping):
            given[name] = {**getattr(mark, name), **value}
    return replace(mark, **given)


def check_of(function: Callable[[Subject], None], subject: Subject) -> Check:
    """Return a check function, applied to a subject, whatever it raises told in one line."""
    name = function.__name__.removeprefix("check_")
    about = (inspect.getdoc(function) or "").splitlines()[0]

    def run() -> str | None:
        try:
            function(subject)
        except NotAsked as idle:
            return str(idle)
        except Failed:
            raise
        except (Exception, SystemExit) as error:  # whatever a stranger's plugin raises is a failure
            kind = "" if isinstance(error, SvpkitError) else f"{type(error).__name__}: "
            said = " ".join(f"{kind}{error}".split())
            raise Failed(f"{name}: {said[:400]}") from error
        return None

    return Check(name, about, run, subject.trial.spared.get(name, ""))


def expect(holds: bool, said: str) -> None:
    """Raise Failed with this line where something does not hold."""
    if not holds:
        raise Failed(said)


def refuses(error: SvpkitError) -> bool:
    """Return True where the plugin itself says no in one line, and did not merely fail."""
    return "\n" not in str(error) and error.__cause__ is None


def built(subject: Subject, fewest: int) -> Iterator[tuple[ImageSpec, str, Any]]:
    """Yield what a factory builds for grey and colour, 16 and 32 pixels, `fewest` and 3 classes.

    Each as (spec, how it was asked for, what was built); a spec other than the subject's own that
    the factory refuses in one line is left out. Raises Failed for any other refusal.
    """
    for channels, size, classes in ((1, 16, 3), (3, 16, 3), (1, 32, fewest), (3, 32, 3)):
        spec = ImageSpec(channels, size, CLASSES[:classes])
        said = f"builds: for {channels} x {size} x {size}, {classes} classes"
        try:
            model = subject.build(spec)
        except SvpkitError as error:
            expect(spec != subject.spec and refuses(error), f"{said}: {error}")
        else:
            yield spec, said, model


def _taken(subject: Subject) -> ImageSpec:
    # one for colour alone, for large images or for few classes is right too, where it says so
    first, *others = (
        ImageSpec(channels, size, CLASSES[:classes])
        for classes, size, channels in product((3, 2, 1), (SIZE, 2 * SIZE, 4 * SIZE), (1, 3))
    )
    takes_spec = subject.plugin.kind in ("generator", "classifier", "extractor")
    return next((s for s in (first, *others) if _takes(subject, s)), first) if takes_spec else first


def _takes(subject: Subject, spec: ImageSpec) -> bool:
    try:
        subject.build(spec)
    except SvpkitError as error:
        return not refuses(error)
    except Exception:  # noqa: BLE001 - a fault, which the checks are to find
        return True
    return True


_TYPE = "particle_type"
