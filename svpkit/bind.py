"""A recipe bound to plugins and places: names, options and paths are checked before all else."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit.classify import conflicts
from svpkit.errors import SvpkitError, unknown
from svpkit.places import Located, environment_root, locate
from svpkit.plugins import Registry, Use
from svpkit.recipe import Balance, Recipe

if TYPE_CHECKING:
    from svpkit.particles.corrections import Filled

# How pre-training on simulated particles is asked for, and how many of each class there are.
SIMULATED, PARTICLES = "simulated:", 5_000


@dataclass(frozen=True)
class Arm:
    """One way to meet imbalance, by name: strategies in order."""

    name: str
    strategies: tuple[Use, ...]

    @property
    def drawing(self) -> Use | None:
        """The strategy that asks for drawn particles, or None."""
        return next((_drawing(s) for s in self.strategies if hasattr(s(), "draws")), None)

    @property
    def training(self) -> tuple[Use, ...]:
        """The strategies that change training; the others only adjust what a model says."""
        return tuple(_ungated(s) for s in self.strategies if _verbs(s()) - {"adjust"})

    @property
    def scoring(self) -> tuple[Use, ...]:
        """All strategies, as what is scored depends on them."""
        return tuple(_ungated(s) for s in self.strategies)

    @property
    def gates(self) -> dict[str, float]:
        """What drawn particles must measure up to before they are used: {measure: limit}."""
        return {k: v for s in self.strategies for k, v in getattr(s(), "gates", {}).items()}


@dataclass(frozen=True)
class Experiment:
    """A recipe with everything it names: the first arm is the recipe's own.

    `pretraining` reads the simulated particles that the generator learns from first, `weights` are
    those of a ready-made feature extractor, `extractor` is the plugin that brings one; None where
    there are none. `corrections` are the filled-in rows of files of corrected labels, in order;
    `also` are further sets that only train. `asked` is how the recipe was given: the digest of its
    file, the overrides, and `balance` and `baselines` as they were written before these.
    """

    recipe: Recipe
    where: str
    reader: Use
    path: Located | None
    test: tuple[Use, Located | None] | None
    generator: Use | None
    classifier: Use
    arms: tuple[Arm, ...]
    pretraining: Use | None = None
    weights: Located | None = None
    corrections: "Filled | None" = None
    also: tuple[tuple[Use, Located | None], ...] = ()
    extractor: Use | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)


def bind(
    recipe: Recipe,
    registry: Registry,
    *,
    where: str = "recipe",
    folder: Path | None = None,
    data_root: Path | None = None,
) -> Experiment:
    """Return the recipe bound to plugins; paths resolve against `folder`, then `data_root`.

    Raises SvpkitError naming the recipe's file, the dotted key and the nearest right name.
    """
    roots = [r for r in (folder, data_root or environment_root()) if r]
    try:
        return _bind(recipe, registry.only(recipe.plugins).under(roots), where, roots)
    except SvpkitError as error:
        raise SvpkitError(f"{where}: {error}") from None


def trained_by(recipe: Recipe, registry: Registry, where: str) -> Experiment:
    """Return a recipe bound to plugins alone, for work on data that a store holds already."""
    data, classifier = recipe.data, recipe.classifier
    try:
        registry = registry.only(recipe.plugins)
        # nothing is read again: files that the reader was given may be gone
        reader = registry.reopen("reader", data.reader, data.options, "data.reader")
        named = registry.use(
            "classifier", classifier.plugin, classifier.options, "classifier.plugin"
        )
        arms = _arms(recipe, registry)
    except SvpkitError as error:
        raise SvpkitError(f"{where}: {error}") from None
    return Experiment(recipe, where, reader, None, None, None, named, arms)


def _bind(recipe: Recipe, registry: Registry, where: str, roots: list[Path]) -> Experiment:
    data, test = recipe.data, recipe.data.test
    reader = registry.use("reader", data.reader, data.options, "data.reader")
    place = _place(reader, data.path, roots, "data.path")
    own = None
    if test.reader:
        use = registry.use("reader", test.reader, test.options, "data.test.reader")
        own = use, _place(use, test.path, roots, "data.test.path")
    generator = _generator(recipe, registry)
    classifier, weights = recipe.classifier, recipe.fidelity.weights
    return Experiment(
        recipe,
        where,
        reader,
        place,
        own,
        generator,
        registry.use("classifier", classifier.plugin, classifier.options, "classifier.plugin"),
        _arms(recipe, registry),
        _pretraining(recipe, registry),
        locate(weights, roots, "fidelity.weights") if weights else None,
        _corrections(data.corrections, roots),
        _also(recipe, registry, roots),
        _extractor(recipe, registry),
    )


def _also(
    recipe: Recipe, registry: Registry, roots: list[Path]
) -> tuple[tuple[Use, Located | None], ...]:
    found = []
    for i, each in enumerate(recipe.data.also):
        use = registry.use("reader", each.reader, each.options, f"data.also[{i}].reader")
        found.append((use, _place(use, each.path, roots, f"data.also[{i}].path")))
    return tuple(found)


def _corrections(given: str | tuple[str, ...] | None, roots: list[Path]) -> "Filled | None":
    from svpkit.particles.corrections import filled

    if not given:
        return None
    paths = (given,) if isinstance(given, str) else given
    return filled([locate(path, roots, "data.corrections").path for path in paths])


def _place(reader: Use, path: str | None, roots: list[Path], where: str) -> Located | None:
    if path:
        return locate(path, roots, where)
    wants = inspect.signature(reader.plugin.call).parameters["path"]
    if wants.default is inspect.Parameter.empty:
        raise SvpkitError(f"{where}: missing; reader '{reader.plugin.name}' needs a place to read")
    return None


def _generator(recipe: Recipe, registry: Registry) -> Use | None:
    asked = recipe.generator
    if asked is None:
        return None
    use = registry.use("generator", asked.plugin, asked.options, "generator.plugin")
    # a generator that simulates draws its classes' particle types
    return replace(use, classes=asked.classes) if use.simulates else use


def _extractor(recipe: Recipe, registry: Registry) -> Use | None:
    asked = recipe.fidelity
    if asked.plugin is None:
        return None
    return registry.use("extractor", asked.plugin, asked.options, "fidelity.plugin")


def _pretraining(recipe: Recipe, registry: Registry) -> Use | None:
    asked = recipe.generator.pretrain if recipe.generator else None
    if asked is None or not isinstance(asked.on, str) or not asked.on.startswith(SIMULATED):
        if asked and asked.options:
            raise SvpkitError("generator.pretrain.options: only for particles that are simulated")
        return None
    assert recipe.generator
    instrument, kinds = asked.on.removeprefix(SIMULATED), registry.names("particle_type")
    # without a class of its own, what svpkit draws by itself: no plugin installed changes a recipe
    own = [n for n in kinds if registry.get("particle_type", n).origin == "built-in"]
    drawn = [name for name in recipe.generator.classes if name in kinds] or own
    for name in ("instrument", "seed"):
        if name in asked.options:
            said = "`on` names it" if name == "instrument" else "the host sees to it"
            raise SvpkitError(f"generator.pretrain.options.{name}: not to be given, {said}")
    for reader, options in ((r.reader, r.options) for r in (recipe.data, recipe.data.test)):
        if reader == "simulated" and options.get("instrument", "mfi-like") == instrument:
            raise SvpkitError(
                f"generator.pretrain.on: '{instrument}' makes the data of this recipe too: that is "
                "the oracle, not pre-training; name another profile"
            )
    if not any(asked.options.get(name, 1) for name in drawn):
        raise SvpkitError("generator.pretrain.options: no particles are asked for")
    # particle i of a seed is the same body under every profile: a seed that no data have
    seed = int.from_bytes(hashlib.sha256(f"pretrain {recipe.seed}".encode()).digest()[:6])
    given = {"instrument": instrument, "pixels": recipe.data.size, "seed": seed}
    given |= dict.fromkeys(drawn, PARTICLES) | asked.options
    return registry.use("reader", "simulated", given, "generator.pretrain.on")


def _arms(recipe: Recipe, registry: Registry) -> tuple[Arm, ...]:
    own = recipe.balance.model_extra or {}
    arms = [_arm(recipe.name, recipe.balance, own, registry, "balance")]
    for i, baseline in enumerate(recipe.baselines):
        tables = {**own, **(baseline.model_extra or {})}
        arms.append(_arm(baseline.name, baseline, tables, registry, f"baselines[{i}]"))
    for i, arm in enumerate(arms):
        _check_arm(arm, recipe, f"baselines[{i - 1}]" if i else "balance")
    return tuple(arms)


def _arm(
    name: str, balance: Balance, tables: Mapping[str, Any], registry: Registry, key: str
) -> Arm:
    known = registry.names("strategy")
    for table, options in tables.items():
        if table not in known:
            registry.explain("strategy", table, f"{key}.{table}")
            raise unknown(key, table, ["strategies", *known])
        if not isinstance(options, Mapping):
            raise SvpkitError(f"{key}.{table}: given {json.dumps(options)}, a table is wanted")
    for strategy in balance.strategies:
        registry.get("strategy", strategy, f"{key}.strategies")
    uses = (
        registry.use("strategy", strategy, tables.get(strategy, {}), f"{key}.{strategy}")
        for strategy in balance.strategies
    )
    return Arm(name, tuple(uses))


def _check_arm(arm: Arm, recipe: Recipe, key: str) -> None:
    if arm.drawing and recipe.generator is None:
        raise SvpkitError(
            f"{key}.strategies: '{arm.drawing.plugin.name}' wants drawn particles, "
            "but the recipe has no [generator]"
        )
    conflicts.check([(s.plugin.name, s()) for s in arm.strategies])
    adjusting = [
        s.plugin.name
        for s in arm.strategies
        if "adjust" in _verbs(s()) and getattr(s(), "wants_prevalence", True)
    ]
    if adjusting and recipe.evaluate.prevalence is None:
        raise SvpkitError(
            f"{key}.strategies: '{adjusting[0]}' wants the mix expected at work: "
            "evaluate.prevalence is missing"
        )


def _ungated(use: Use) -> Use:
    # gates judge drawn particles and change nothing in them: they stay out of keys
    return replace(use, options={**use.options, "gates": {}}) if "gates" in use.options else use


def _drawing(use: Use) -> Use:
    # how often drawn particles are seen changes nothing in them: such arms share their sets
    own = {n: use.plugin.options[n].default for n in ("weight", "real_last") if n in use.options}
    return replace(_ungated(use), options=_ungated(use).options | own)


def _verbs(strategy: Any) -> set[str]:
    verbs = ("draws", "particles", "sampler", "augment", "mix", "loss")
    verbs += ("factors", "second_stage", "adjust")
    return {verb for verb in verbs if hasattr(strategy, verb)}
