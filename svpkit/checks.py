"""Models built once and looked at before anything runs, so that a bad option costs no data."""

from svpkit.bind import Experiment
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec


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
            from svpkit.generate.stage import check_sample_options

            assert experiment.generator
            spec = ImageSpec(*shape, recipe.generator.classes)
            sample = recipe.generator.sample
            check_sample_options(experiment.generator, spec, sample, "generator.sample")
    except SvpkitError as error:
        raise SvpkitError(f"{experiment.where}: {error}") from None
