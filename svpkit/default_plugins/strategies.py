"""The built-in strategies: how imbalance is met."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from svpkit.hookspecs import Register, hookimpl

Power = Annotated[float, Ge(0), "weight n_c ** -power: 1 evens the classes out, 0 leaves them"]

Measure = Literal[
    "copy_rate",
    "kid_gap",
    "c2st",
    "memorised",
    "background_shift_sd",
    "grey_shift_sd",
    "precision",
    "recall",
    "density",
    "coverage",
]


@hookimpl
def register_strategies(register: Register) -> None:
    """Register the strategies."""
    register("none", none)
    register("class_weights", class_weights)
    register("oversample", oversample)
    register("augment", augment)
    register("prior_correction", prior_correction)
    register("synthetic", synthetic)


def none() -> Any:
    """Nothing: particles as they are, plain cross-entropy."""
    from svpkit.classify.strategies import Nothing

    return Nothing()


def class_weights(*, power: Power = 1.0) -> Any:
    """Weigh each particle's loss by the inverse frequency of its class."""
    from svpkit.classify.strategies import ClassWeights

    return ClassWeights(power)


def oversample(*, power: Power = 1.0) -> Any:
    """Show the particles of rare classes more often."""
    from svpkit.classify.strategies import Oversample

    return Oversample(power)


def augment(
    *,
    flips: Annotated[bool, "mirror at random"] = True,
    turns: Annotated[bool, "turn by 0, 90, 180 or 270 degrees"] = True,
    shift: Annotated[float, Ge(0), Le(0.5), "largest shift, as a share of the side"] = 0.0625,
    fill: Annotated[Literal["background", "reflect"], "what a shift brings into view"] = (
        "background"
    ),
    brightness: Annotated[
        float, Ge(0), Le(1), "largest change of grey, as a share of the range"
    ] = 0.0,
) -> Any:
    """Show each particle flipped, turned and shifted at random."""
    from svpkit.classify.strategies import Augment

    return Augment(flips, turns, shift, fill, brightness)


def prior_correction(
    *, tau: Annotated[float, Ge(0), "strength; 1 is Bayes' rule, 0 nothing"] = 1.0
) -> Any:
    """Move the logits to `evaluate.prevalence`, where the model will be used."""
    from svpkit.classify.strategies import PriorCorrection

    return PriorCorrection(tau)


def synthetic(
    *,
    to: Annotated[
        Literal["largest"] | dict[str, Annotated[int, Ge(0)]] | Annotated[float, Ge(0)],
        "fill up to the largest class, or to counts per class; or a share of the real particles",
    ] = "largest",
    at_most: Annotated[int | None, Ge(0), "the most particles drawn for a class"] = None,
    gates: Annotated[
        dict[Measure, Annotated[float, Ge(0), Le(1e6)]] | None,
        "limits that stop the run; at most: copy_rate, kid_gap, c2st, memorised, "
        "background_shift_sd, grey_shift_sd; at least: precision, recall, density, coverage",
    ] = None,
) -> Any:
    """Add particles that the generator draws to the real ones."""
    from svpkit.classify.strategies import Synthetic

    return Synthetic(to, at_most, {str(name): limit for name, limit in (gates or {}).items()})
