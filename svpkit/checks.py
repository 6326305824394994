"""Checks before the long work: models are built once, classes compared to those of the data."""

from collections.abc import Mapping, Sequence
from typing import Any

from svpkit.bind import Experiment
from svpkit.errors import SvpkitError, unknown
from svpkit.hookspecs import ImageSpec
from svpkit.pipeline import Get
from svpkit.recipe import Generator
from svpkit.store import Artifact, Stage


def check_models(experiment: Experiment) -> None:
    """Build the classifier and generator of an experiment; raises SvpkitError naming the key.

    The classes are not known before the data are read: three stand in for them.
    """
    from svpkit.devices import device, resolve_precision

    recipe = experiment.recipe
    shape = recipe.data.channels, recipe.data.size
    try:
        resolve_precision(recipe.precision, device())
        experiment.classifier(ImageSpec(*shape, ("a", "b", "c")))
        if recipe.generator and any(arm.drawing for arm in experiment.arms):
            _check_generator(experiment, recipe.generator, shape)
            _check_extractor(experiment, shape)
        _check_promises(experiment)
    except SvpkitError as error:
        raise SvpkitError(f"{experiment.where}: {error}") from None


def _check_generator(experiment: Experiment, asked: Generator, shape: tuple[int, int]) -> None:
    from svpkit.generate.training import check_sample_options

    assert experiment.generator
    classes = asked.classes[:1] if asked.per_class else asked.classes
    spec = ImageSpec(*shape, classes)
    check_sample_options(experiment.generator, spec, asked.sample, "generator.sample")
    if asked.train.looks:
        looks = "generator.train.looks: 0 is wanted, as looks draw with the sampler's defaults"
        check_sample_options(experiment.generator, spec, {}, looks)
    if asked.pretrain and not hasattr(experiment.generator(spec), "parameters"):
        raise SvpkitError(
            f"generator.pretrain: '{asked.plugin}' has no weights to train beforehand"
        )


def _check_promises(experiment: Experiment) -> None:
    asked = experiment.recipe.evaluate.precision
    for strategy in [s for arm in experiment.arms for s in arm.strategies] if asked else []:
        estimated = getattr(strategy(), "prevalence", "stated")
        if estimated != "stated":
            raise SvpkitError(
                f"evaluate.precision: thresholds chosen on val do not hold where the mix is "
                f"estimated anew from every input (balance.{strategy.plugin.name}.prevalence = "
                f"'{estimated}'); state it"
            )


def _check_extractor(experiment: Experiment, shape: tuple[int, int]) -> None:
    if experiment.extractor:
        from svpkit.generate.given import build

        build(experiment.extractor, ImageSpec(*shape, ("a", "b", "c")))
    if experiment.weights:
        from svpkit.generate.backbone import check_backbone

        model = experiment.recipe.fidelity.model
        assert model
        check_backbone(model, experiment.weights.path)


def checking(experiment: Experiment, get: Get) -> Get:
    """Return `get` with one check more: once data are split, the recipe's classes must be there."""

    def checked(
        function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str
    ) -> Artifact:
        artifact = get(function, params, *inputs, label=label)
        if artifact.stage == "split":
            from svpkit.particles.split import Split

            check_classes(experiment, Split.open(artifact.path).classes)
        return artifact

    return checked


def check_known(experiment: Experiment, planned: Sequence[Artifact]) -> None:
    """Check the classes that a recipe names before any work, where those of the data are known.

    They are where the recipe gives their order and where the data are read already. Raises
    SvpkitError as `check_classes`, and for one that a table of `data` names.
    """
    given = experiment.recipe.data.classes or experiment.reader.options.get("classes")
    read = next((each for each in planned if each.stage == "ingest"), None)
    if not given and read is not None and read.made:
        from svpkit.particles.particleset import read_manifest

        given = read_manifest(read.path)["classes"]
    if not given:
        return
    try:
        check_classes(experiment, given)
    except SvpkitError as error:
        raise SvpkitError(f"{experiment.where}: {error}") from None


def check_classes(experiment: Experiment, classes: Sequence[str]) -> None:
    """Raise SvpkitError where the recipe names a class that the data do not have.

    Also where a precision is required and a class is called as the bin of thresholds is.
    """
    recipe = experiment.recipe
    if recipe.evaluate.precision is not None:
        from svpkit.evaluate.thresholds import required

        required(recipe.evaluate.precision, classes)
    named = {"generator.classes": recipe.generator.classes if recipe.generator else ()}
    on = recipe.generator.pretrain.on if recipe.generator and recipe.generator.pretrain else ()
    if isinstance(on, tuple) or not (on == "train" or experiment.pretraining):
        named["generator.pretrain.on"] = (on,) if isinstance(on, str) else on
    named["evaluate.prevalence"] = tuple(recipe.evaluate.prevalence or ())
    named["data.train"] = tuple(recipe.data.train or ())
    named["data.val"] = tuple(recipe.data.val) if isinstance(recipe.data.val, dict) else ()
    for key, names in named.items():
        more = ("train", "simulated:PROFILE") if key == "generator.pretrain.on" else ()
        for name in names:
            if name not in classes:
                raise unknown(key, name, [*more, *classes])
    for arm in experiment.arms:
        rule = arm.drawing.options.get("to") if arm.drawing else None
        for name in rule if isinstance(rule, Mapping) else ():
            if recipe.generator and name not in recipe.generator.classes:
                key = "balance.synthetic.to: class that generator.classes draws"
                raise unknown(key, name, recipe.generator.classes)
    missing = set(classes) - set(recipe.evaluate.prevalence or classes)
    if missing:
        raise SvpkitError(f"evaluate.prevalence.{min(missing)}: missing, every class needs one")
