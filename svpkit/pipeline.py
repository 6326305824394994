"""From a recipe to its results: the walk, in one function of plain calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from svpkit.bind import Arm, Experiment
from svpkit.plugins import Use
from svpkit.store import Artifact, Stage


class Get(Protocol):
    """Names or makes one artifact: `Store.get` to run, `Store.name` and a note to plan."""

    def __call__(
        self, function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str
    ) -> Artifact:
        """Return the artifact of a stage; `label` is what people are told it is."""
        ...


@dataclass(frozen=True)
class Walked:
    """The artifacts of one experiment, by what they are for."""

    data: Artifact
    split: Artifact
    generators: dict[str, Artifact]
    drawn: dict[str, dict[str, Artifact]]
    classifiers: dict[str, Artifact]
    scores: dict[str, Artifact]
    fidelity: Artifact | None
    evidence: Artifact


def walk(experiment: Experiment, get: Get) -> Walked:
    """Walk an experiment from its data to its evidence; what is made already costs nothing."""
    from svpkit.classify.score import score
    from svpkit.classify.stage import classifier
    from svpkit.evaluate.evidence import evidence

    data, split = _data(experiment, get)
    generators: dict[str, Artifact] = {}
    drawn: dict[str, dict[str, Artifact]] = {}
    trained: dict[str, Artifact] = {}
    scores: dict[str, Artifact] = {}
    for arm in experiment.arms:
        drawn[arm.name] = _draw(experiment, arm, split, generators, get)
        trained[arm.name] = get(
            classifier,
            classifier_params(experiment, arm),
            split,
            *drawn[arm.name].values(),
            label=f"classifier: {arm.name}",
        )
        params = {
            "classifier": experiment.classifier,
            "strategies": arm.strategies,
            "prevalence": _prevalence(experiment, arm.strategies),
        }
        scores[arm.name] = get(score, params, trained[arm.name], split, label=f"score: {arm.name}")
    fidelity = _fidelity(experiment, split, drawn, get)
    found = get(evidence, evidence_params(experiment), *scores.values(), label="evidence")
    return Walked(data, split, generators, drawn, trained, scores, fidelity, found)


def classifier_params(experiment: Experiment, arm: Arm) -> dict[str, Any]:
    """Return the params of one arm's classifier: all that its training depends on."""
    recipe = experiment.recipe
    train = recipe.classifier.train
    return {
        "classifier": experiment.classifier,
        "strategies": arm.training,
        "train": train,
        "validations": train.validations,
        "seed": recipe.seed,
        "precision": recipe.precision,
        "prevalence": _prevalence(experiment, arm.training),
    }


def generator_params(experiment: Experiment, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the params of one generator, which draws `classes`."""
    recipe = experiment.recipe
    assert recipe.generator
    return {
        "generator": experiment.generator,
        "classes": classes,
        "train": recipe.generator.train,
        "seed": recipe.seed,
        "precision": recipe.precision,
    }


def evidence_params(experiment: Experiment) -> dict[str, Any]:
    """Return what the evidence is asked for."""
    asked = experiment.recipe.evaluate
    return {
        "arms": [arm.name for arm in experiment.arms],
        "prevalence": asked.prevalence,
        "replicates": asked.replicates,
    }


def _data(experiment: Experiment, get: Get) -> tuple[Artifact, Artifact]:
    from svpkit.particles.ingest import ingest
    from svpkit.particles.split import split

    asked = experiment.recipe.data
    shape = {"size": asked.size, "channels": asked.channels, "classes": asked.classes}
    params = {"reader": experiment.reader, "path": experiment.path, **shape}
    inputs = [get(ingest, params, label="ingest")]
    if experiment.test:
        reader, path = experiment.test
        params = {"reader": reader, "path": path, **shape}
        inputs.append(get(ingest, params, label="ingest: test"))
    test = asked.test
    rules = {
        "seed": experiment.recipe.seed,
        "group": asked.group,
        "train": asked.train,
        "val": asked.val,
        "test": test.share if test.share else {"group": test.group} if test.group else None,
    }
    return inputs[0], get(split, rules, *inputs, label="split")


def _draw(
    experiment: Experiment,
    arm: Arm,
    split: Artifact,
    generators: dict[str, Artifact],
    get: Get,
) -> dict[str, Artifact]:
    from svpkit.generate.stage import generator, synthetic

    asked = experiment.recipe.generator
    if arm.drawing is None or asked is None:
        return {}
    models = [(c,) for c in asked.classes] if asked.per_class else [asked.classes]
    drawn = {}
    for classes in models:
        name = " + ".join(classes)
        params = generator_params(experiment, classes)
        generators[name] = get(generator, params, split, label=f"generator: {name}")
        params = {
            "generator": experiment.generator,
            "classes": classes,
            "sample": asked.sample,
            "rule": arm.drawing,
            "seed": experiment.recipe.seed,
        }
        label = f"synthetic: {name}"
        drawn[name] = get(synthetic, params, generators[name], split, label=label)
    return drawn


def _fidelity(
    experiment: Experiment, split: Artifact, drawn: Mapping[str, Mapping[str, Artifact]], get: Get
) -> Artifact | None:
    from svpkit.generate.extractor import extractor
    from svpkit.generate.fidelity import fidelity

    # arms often share their drawn sets; the recipe's own arm stands for what it draws
    sets = next((d for d in drawn.values() if d), None)
    if not sets:
        return None
    seed = {"seed": experiment.recipe.seed}
    seeing = get(extractor, seed, split, label="extractor")
    return get(fidelity, seed, seeing, split, *sets.values(), label="fidelity")


def _prevalence(experiment: Experiment, strategies: Sequence[Use]) -> dict[str, float] | None:
    # only where it is used: another mix at work must not train a network again
    adjusts = any(hasattr(s(), "adjust") for s in strategies)
    return experiment.recipe.evaluate.prevalence if adjusts else None
