"""From a recipe to its results: the walk, in one function of plain calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from svpkit.bind import Arm, Experiment
from svpkit.plugins import Use
from svpkit.recipe import Data, Test
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
    reference: Artifact | None = None


def walk(experiment: Experiment, get: Get, *, deploys: bool = True) -> Walked:
    """Walk an experiment from its data to its evidence; what is made already costs nothing.

    Where the recipe's own model is to be put to work it `deploys` what new input is held to.
    """
    from svpkit.classify.score import score
    from svpkit.classify.stage import classifier
    from svpkit.evaluate.evidence import evidence

    data, split = _data(experiment, get)
    generators: dict[str, Artifact] = {}
    drawn: dict[str, dict[str, Artifact]] = {}
    trained: dict[str, Artifact] = {}
    scores: dict[str, Artifact] = {}
    judged: dict[str, Artifact] = {}
    for arm in experiment.arms:
        drawn[arm.name] = _draw(experiment, arm, split, generators, get)
        # arms often share their drawn sets; the first that draws stands for what is drawn
        if drawn[arm.name] and (arm.gates or not judged):
            judged[arm.name] = _judge(experiment, arm, split, drawn[arm.name], get)
        trained[arm.name] = get(
            classifier,
            classifier_params(experiment, arm),
            split,
            *drawn[arm.name].values(),
            label=f"classifier: {arm.name}",
        )
        params = _scored(experiment, arm)
        scores[arm.name] = get(score, params, trained[arm.name], split, label=f"score: {arm.name}")
    fidelity = next(iter(judged.values()), None)
    found = get(evidence, evidence_params(experiment), *scores.values(), label="evidence")
    kept = _reference(experiment, get, trained, split, scores) if deploys else None
    return Walked(data, split, generators, drawn, trained, scores, fidelity, found, kept)


def _reference(
    experiment: Experiment,
    get: Get,
    trained: Mapping[str, Artifact],
    split: Artifact,
    scores: Mapping[str, Artifact],
) -> Artifact:
    from svpkit.reference import reference

    arm = experiment.arms[0]
    params = _scored(experiment, arm) | {"seed": experiment.recipe.seed}
    return get(reference, params, trained[arm.name], split, scores[arm.name], label="reference")


def _scored(experiment: Experiment, arm: Arm) -> dict[str, Any]:
    return {
        "classifier": experiment.classifier,
        "strategies": arm.scoring,
        "prevalence": _prevalence(experiment, arm.strategies),
    }


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
        "pretrained": recipe.generator.pretrain is not None,
        **({"source": recipe.generator.source} if recipe.generator.source else {}),
    }


def pretrain_params(experiment: Experiment) -> dict[str, Any]:
    """Return the params of the pre-training, which all generators of a recipe share."""
    recipe = experiment.recipe
    assert recipe.generator and recipe.generator.pretrain
    asked, train = recipe.generator.pretrain, recipe.generator.train
    every = asked.on == "train" or experiment.pretraining
    on = (asked.on,) if isinstance(asked.on, str) else asked.on
    return {
        "generator": experiment.generator,
        "on": None if every else on,
        "train": train.model_copy(update={"images": asked.images, "looks": 0, "patience": 0}),
        "seed": recipe.seed,
        "precision": recipe.precision,
    }


def evidence_params(experiment: Experiment) -> dict[str, Any]:
    """Return what the evidence is asked for."""
    asked = experiment.recipe.evaluate
    params = {
        "arms": [arm.name for arm in experiment.arms],
        "prevalence": asked.prevalence,
        "replicates": asked.replicates,
    }
    return params | ({"precision": asked.precision} if asked.precision else {})


def _data(experiment: Experiment, get: Get) -> tuple[Artifact, Artifact]:
    from svpkit.particles.ingest import ingest
    from svpkit.particles.split import split

    asked = experiment.recipe.data
    shape = _shape(asked) | {"classes": asked.classes}
    params = {"reader": experiment.reader, "path": experiment.path, **shape}
    inputs = [get(ingest, params, label="ingest")]
    if experiment.test:
        reader, path = experiment.test
        params = {"reader": reader, "path": path, **shape}
        inputs.append(get(ingest, params, label="ingest: test"))
    for i, (reader, path) in enumerate(experiment.also):
        params = {"reader": reader, "path": path, **shape}
        inputs.append(get(ingest, params, label=f"ingest: also {i + 1}"))
    rules = {
        "seed": experiment.recipe.seed,
        "group": asked.group,
        "train": asked.train,
        "val": asked.val,
        "test": _held_out(asked.test),
    }
    # nothing to apply changes nothing: not even the key
    if experiment.corrections and experiment.corrections.describe():
        rules["corrections"] = experiment.corrections
    if experiment.also:
        rules["also"] = len(experiment.also)
    return inputs[0], get(split, rules, *inputs, label="split")


def _shape(asked: Data) -> dict[str, Any]:
    # what is left as it is stands in no key
    shape: dict[str, Any] = {"size": asked.size, "channels": asked.channels}
    if asked.background != "keep":
        shape["background"] = asked.background
    return shape | ({"um_per_px": asked.um_per_px} if asked.um_per_px else {})


def _held_out(test: Test) -> Any:
    # how the split is asked for a test set; None where it is a set of its own
    if test.fold is not None:
        return {"fold": test.fold, "of": test.of}
    return {"group": test.group} if test.group else test.share


def _draw(
    experiment: Experiment,
    arm: Arm,
    split: Artifact,
    generators: dict[str, Artifact],
    get: Get,
) -> dict[str, Artifact]:
    from svpkit.generate.selection import selected
    from svpkit.generate.stage import generator, synthetic

    asked = experiment.recipe.generator
    if arm.drawing is None or asked is None:
        return {}
    before = [_extractor(experiment, split, get, own=True)] if asked.train.looks else []
    before += [_pretrain(experiment, split, get)] if asked.pretrain else []
    models = [(c,) for c in asked.classes] if asked.per_class else [asked.classes]
    drawn = {}
    for classes in models:
        name = " + ".join(classes)
        params = generator_params(experiment, classes)
        generators[name] = get(generator, params, split, *before, label=f"generator: {name}")
        params = {
            "generator": experiment.generator,
            "classes": classes,
            "sample": asked.sample,
            "rule": arm.drawing,
            "keep": asked.select.keep if asked.select else 1.0,
            "seed": experiment.recipe.seed,
        }
        label = f"synthetic: {name}"
        drawn[name] = get(synthetic, params, generators[name], split, label=label)
        if asked.select:
            seeing = _extractor(experiment, split, get, own=True)
            by = {"by": asked.select.by}
            label = f"selected: {name}"
            drawn[name] = get(selected, by, seeing, split, drawn[name], label=label)
    return drawn


def _pretrain(experiment: Experiment, split: Artifact, get: Get) -> Artifact:
    from svpkit.generate.pretrain import pretrain
    from svpkit.particles.ingest import ingest

    source, data = split, experiment.recipe.data
    if experiment.pretraining:
        shape = _shape(data) | {"classes": None}
        params = {"reader": experiment.pretraining, "path": None, **shape}
        source = get(ingest, params, label="ingest: pretrain")
    return get(pretrain, pretrain_params(experiment), source, label="pretrain")


def _judge(
    experiment: Experiment, arm: Arm, split: Artifact, sets: Mapping[str, Artifact], get: Get
) -> Artifact:
    from svpkit.generate.fidelity import fidelity
    from svpkit.generate.gates import gate

    seeing = _extractor(experiment, split, get)
    params: dict[str, Any] = {"seed": experiment.recipe.seed}
    # a plugin is needed to open what it made
    params |= {"extractor": experiment.extractor} if experiment.extractor else {}
    judged = get(fidelity, params, seeing, split, *sets.values(), label="fidelity")
    if arm.gates:
        get(gate, {"gates": arm.gates}, judged, label=f"gate: {arm.name}")
    return judged


def _extractor(experiment: Experiment, split: Artifact, get: Get, *, own: bool = False) -> Artifact:
    # `own`: the small network of this split, which knows its classes
    from svpkit.generate.extractor import extractor

    params: dict[str, Any] = {"seed": experiment.recipe.seed}
    if experiment.weights and not own:
        params |= {"model": experiment.recipe.fidelity.model, "weights": experiment.weights}
        return get(extractor, params, split, label="extractor: given")
    if experiment.extractor and not own:
        params |= {"extractor": experiment.extractor}
        return get(extractor, params, split, label="extractor: given")
    return get(extractor, params, split, label="extractor")


def _prevalence(experiment: Experiment, strategies: Sequence[Use]) -> dict[str, float] | None:
    # only where it is used: another mix at work must not train a network again
    adjusts = any(hasattr(s(), "adjust") for s in strategies)
    return experiment.recipe.evaluate.prevalence if adjusts else None
