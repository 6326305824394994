"""The built-in strategies: how imbalance is met."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from svpkit.hookspecs import Register, hookimpl, later, tried

Power = Annotated[float, Ge(0), "weight n_c ** -power: 1 evens the classes out, 0 leaves them"]

Share = Annotated[float, Ge(0), Le(1)]
Gamma = Annotated[float, Ge(0), "weight (1 - p) ** gamma: 0 is cross-entropy"]
Beta = Annotated[float, Ge(0), Lt(1), "weight (1 - beta) / (1 - beta ** n_c): 0 leaves all alike"]
Alpha = Annotated[float, Gt(0), "shares come from Beta(alpha, alpha); 1 is uniform"]
Images = Annotated[int, Ge(1), "features seen in the second stage"]
Rate = Annotated[float, Gt(0), "learning rate of the second stage"]
Decay = Annotated[float, Ge(0), "weight decay of the second stage"]

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
    for factory in (
        none,
        *(class_weights, oversample, undersample, progressive, synthetic),
        *(focal, cb_focal, ldam, balanced_softmax, logit_adjustment),
        *(augment, randaugment, mixup, cutmix, remix),
        *(crt, tau_norm, lws, smote, prior_correction),
    ):
        register(factory.__name__, factory)


@tried(spared={"verbs": "what the others are measured against: it does nothing"})
def none() -> Any:
    """Nothing: particles as they are, plain cross-entropy."""
    from svpkit.classify.strategies import Nothing

    return Nothing()


@later("rule", "beta", "after")
def class_weights(
    *,
    power: Power = 1.0,
    rule: Annotated[
        Literal["power", "effective"], "by `power`, or by `beta` (effective number of particles)"
    ] = "power",
    beta: Beta = 0.9999,
    after: Annotated[Share, "share of the run up to which all weigh alike"] = 0.0,
) -> Any:
    """Weigh each particle's loss by the inverse frequency of its class."""
    from svpkit.classify.loss_strategies import ClassWeights

    return ClassWeights(power, rule, beta, after)


def oversample(*, power: Power = 1.0) -> Any:
    """Show the particles of rare classes more often."""
    from svpkit.classify.sampling import Oversample

    return Oversample(power)


def undersample(
    *,
    ratio: Annotated[float, Ge(1), "a class keeps at most this many times the smallest"] = 1.0,
) -> Any:
    """Keep a random subset of the larger classes, the same for the whole run."""
    from svpkit.classify.sampling import Undersample

    return Undersample(ratio)


def progressive() -> Any:
    """Go from particles as they are to even classes over the run."""
    from svpkit.classify.sampling import Progressive

    return Progressive()


def focal(*, gamma: Gamma = 2.0) -> Any:
    """Focal loss: give particles that are told well already less weight."""
    from svpkit.classify.loss_strategies import FocalLoss

    return FocalLoss(gamma)


def cb_focal(*, gamma: Gamma = 2.0, beta: Beta = 0.9999) -> Any:
    """Focal loss, class-balanced by the effective number of particles."""
    from svpkit.classify.loss_strategies import FocalLoss

    return FocalLoss(gamma, beta)


def ldam(
    *,
    margin: Annotated[float, Ge(0), Le(2), "largest margin, in cosines"] = 0.5,
    scale: Annotated[float, Gt(0), "logits are this many times cosines"] = 30.0,
    after: Annotated[Share, "share of the run from which class-balanced weights act"] = 0.8,
    beta: Beta = 0.9999,
) -> Any:
    """Larger margins for rarer classes (LDAM) with deferred re-weighting."""
    from svpkit.classify.loss_strategies import Ldam

    return Ldam(margin, scale, after, beta)


def balanced_softmax() -> Any:
    """Balanced softmax: the class frequencies in the loss, so that an even prior is learnt."""
    from svpkit.classify.loss_strategies import LogitAdjustment

    return LogitAdjustment(1.0)


def logit_adjustment(
    *, tau: Annotated[float, Ge(0), "strength; 1 is the balanced softmax, 0 nothing"] = 1.0
) -> Any:
    """Logit-adjusted loss: tau times the log class frequencies added in training."""
    from svpkit.classify.loss_strategies import LogitAdjustment

    return LogitAdjustment(tau)


def augment(
    *,
    flips: Annotated[
        bool | Literal["horizontal"], "mirror at random; horizontal: left and right alone"
    ] = True,
    turns: Annotated[bool, "turn by 0, 90, 180 or 270 degrees"] = True,
    shift: Annotated[float, Ge(0), Le(0.5), "largest shift, as a share of the side"] = 0.0625,
    fill: Annotated[
        Literal["background", "reflect", "black"], "what a shift brings into view"
    ] = "background",
    brightness: Annotated[
        float, Ge(0), Le(1), "largest change of grey, as a share of the range"
    ] = 0.0,
) -> Any:
    """Show each particle flipped, turned and shifted at random."""
    from svpkit.classify.strategies import Augment

    return Augment(flips, turns, shift, fill, brightness)


def randaugment(
    *,
    operations: Annotated[int, Ge(1), Le(16), "changes an image"] = 2,
    magnitude: Annotated[Share, "largest change, as a share of what is safe"] = 0.3,
) -> Any:
    """Show each particle changed at random: turns, shifts, blur, noise, brightness, contrast."""
    from svpkit.classify.strategies import RandAugment

    return RandAugment(operations, magnitude)


def mixup(*, alpha: Alpha = 1.0) -> Any:
    """Show blends of two particles, labels blended alike."""
    from svpkit.classify.mixing import Mixup

    return Mixup(alpha)


def cutmix(*, alpha: Alpha = 1.0) -> Any:
    """Paste a rectangle of another particle's image, labels by area."""
    from svpkit.classify.mixing import CutMix

    return CutMix(alpha)


def remix(
    *,
    alpha: Alpha = 1.0,
    kappa: Annotated[float, Ge(1), "how many times as frequent a class has to be"] = 3.0,
    tau: Annotated[Share, "the rarer class labels an image with over 1 - tau of it"] = 0.5,
) -> Any:
    """Mixup whose labels favour the rarer class."""
    from svpkit.classify.mixing import Remix

    return Remix(alpha, kappa, tau)


def crt(*, images: Images = 100_000, lr: Rate = 0.1, weight_decay: Decay = 5e-4) -> Any:
    """Train the last layer anew with class-balanced sampling, on frozen features."""
    from svpkit.classify.second import Crt

    return Crt(images, lr, weight_decay)


def tau_norm(
    *,
    tau: Annotated[
        Literal["val"] | Annotated[float, Ge(0), Le(10)],
        "divide by length ** tau; or the one with the highest macro recall on val",
    ] = "val",
) -> Any:
    """Even out the lengths of the last layer's weights."""
    from svpkit.classify.second import TauNorm

    return TauNorm(None if tau == "val" else tau)


def lws(*, images: Images = 100_000, lr: Rate = 0.1) -> Any:
    """Learn a scale for each class's logit with class-balanced sampling."""
    from svpkit.classify.second import Lws

    return Lws(images, lr)


def smote(
    *,
    neighbours: Annotated[int, Ge(1), "nearest features that a new one may lie towards"] = 5,
    images: Images = 100_000,
    lr: Rate = 0.1,
    weight_decay: Decay = 5e-4,
) -> Any:
    """Train the last layer anew on features that SMOTE evens out."""
    import importlib.util

    from svpkit.errors import SvpkitError

    if importlib.util.find_spec("imblearn") is None:
        raise SvpkitError(
            "balance.smote: imbalanced-learn is not installed; pip install 'svpkit[smote]'"
        )
    from svpkit.classify.second import Smote

    return Smote(neighbours, images, lr, weight_decay)


@later("prevalence")
def prior_correction(
    *,
    tau: Annotated[float, Ge(0), "strength; 1 is Bayes' rule, 0 nothing"] = 1.0,
    prevalence: Annotated[
        Literal["stated", "em", "bbse"],
        "the mix at work: `evaluate.prevalence`, or estimated from the particles named together",
    ] = "stated",
) -> Any:
    """Move the logits to `evaluate.prevalence`, where the model will be used."""
    from svpkit.classify.strategies import PriorCorrection

    return PriorCorrection(tau, prevalence)


@later("weight", "real_last")
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
    weight: Annotated[float, Ge(0), Le(1e3), "how often a drawn one is seen, to a real one's 1"] = (
        1.0
    ),
    real_last: Annotated[Share, "share of the run, at its end, that sees real ones alone"] = 0.0,
) -> Any:
    """Add particles that the generator draws to the real ones."""
    from svpkit.classify.strategies import Synthetic

    limits = {str(name): limit for name, limit in (gates or {}).items()}
    return Synthetic(to, at_most, limits, weight, real_last)
