"""Recipes: one experiment each, read from TOML, fully spelt out, frozen, every key checked."""

import typing
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from svpkit.errors import SvpkitError, choices, nearest, reason
from svpkit.places import unfit
from svpkit.toml import override, read_toml

Options = dict[str, Any]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
LONGEST_NAME = 200
# Beyond what any machine does in a life, and within what numbers of 64 bits hold.
_MOST_IMAGES, _MOST_BATCH, _MOST_SEED = 10**12, 2**20, 2**63 - 1


def _fit_to_show(name: str) -> str:
    said = [c for c in name if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    if said or not name.strip() or len(name) > LONGEST_NAME:
        why = f"holds the character U+{ord(said[0]):04X}" if said else "wants 1 to 200 characters"
        raise ValueError(why)
    return name


# What people read: of any script, but nothing that is not seen or turns the order of the rest.
Name = Annotated[str, AfterValidator(_fit_to_show)]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Test(_Frozen):
    """The test set: a share of the data, a fold of it, held-out groups, or a set of its own."""

    share: Share | None = None
    """share of the groups; the same for every seed"""
    group: str | tuple[str, ...] | None = None
    """value or values of the group column that are held out"""
    fold: Annotated[int, Field(ge=0)] | None = None
    """cross-validation: which of `of` parts is held out, 0 the first; groups stay whole"""
    of: Annotated[int, Field(ge=2, le=100)] = 5
    """how many parts there are"""
    reader: str | None = None
    """reader of a set of its own"""
    path: str | None = None
    """where that set lies, against the recipe's folder or the data root"""
    options: Options = {}
    """options of that reader"""

    @model_validator(mode="before")
    @classmethod
    def _number_is_a_share(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError("wants a share, { group = ... }, { fold = ... } or { reader = ... }")
        return {"share": value} if isinstance(value, (int, float)) else value

    @model_validator(mode="after")
    def _one_way(self) -> "Test":
        ways = (self.share, self.group, self.fold, self.reader)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("wants one of a share, `group`, `fold` or `reader`")
        if self.fold is not None and self.fold >= self.of:
            raise ValueError(f"fold {self.fold} of {self.of}: the first is 0")
        # a recipe that was written out names the default too
        if self.fold is None and self.of != type(self).model_fields["of"].default:
            raise ValueError(f"`of` {self.of} is for `fold`, which is not given")
        return self


class Source(_Frozen):
    """One more place that training particles come from."""

    reader: str
    """reader by name"""
    path: str | None = None
    """where it reads, against the recipe's folder or the data root"""
    options: Options = {}
    """options of the reader"""


class Data(_Frozen):
    """Where the particles come from and how they are split."""

    reader: str
    """reader by name: `svpkit plugins list`"""
    path: str | None = None
    """folder or file, against the recipe's folder or the data root"""
    options: Options = {}
    """options of the reader: `svpkit plugins show NAME`"""
    size: int = Field(default=64, ge=8, le=1024)
    """side of the images in pixels; crops are padded, only larger ones shrink"""
    channels: Literal[1, 3] = 1
    """1 keeps grey native, 3 keeps colour"""
    background: Literal["keep", "divide"] = "keep"
    """divide: each image by its background (median of its border), which becomes grey 160"""
    um_per_px: Annotated[float, Field(gt=0)] | None = None
    """one scale in um that all images are resampled to; by default each keeps its own"""
    classes: tuple[Name, ...] | None = None
    """label order; by default as the reader finds them"""
    group: str | None = "group"
    """column whose values stay in one set; with under five values, val and test cut inside them"""
    train: dict[str, Count] | None = None
    """how many real training images of a class to keep, drawn by the seed; the rest is unused"""
    val: Share | dict[str, Count] = 0.1
    """share of the data for validation, or counts per class"""
    test: Test = Field(default_factory=lambda: Test(share=0.2))
    """share of the data, held-out groups, or a set of its own; opened once, by the score stage"""
    also: tuple[Source, ...] = ()
    """further sets that only train: particles of another instrument, run or lot"""
    corrections: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """CSV of corrected labels, as `svpkit audit` writes; several are applied one after the other"""


class Train(_Frozen):
    """How long and how to train; counted in images, so that a batch size changes no meaning."""

    images: int = Field(default=100_000, ge=1, le=_MOST_IMAGES)
    """images seen in all"""
    batch: int = Field(default=64, ge=1, le=_MOST_BATCH)
    """images a step, over all processes"""
    lr: float = Field(default=1e-3, gt=0)
    """learning rate at its highest"""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """what follows the warm-up; step: a hundredth of the rate at 80 % of the run, again at 90 %"""
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """share of the run with a rising rate"""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """optimizer"""
    weight_decay: float = Field(default=0.0, ge=0)
    """weight decay"""
    clip: float = Field(default=1.0, ge=0)
    """gradient norm to clip at; 0 = off"""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """decay of the moving average of the weights; 0 = off"""


class GeneratorTrain(Train):
    """How a generator is trained; `images` counts per model."""

    images: int = Field(default=1_000_000, ge=1, le=_MOST_IMAGES)
    """images seen by one model"""
    batch: int = Field(default=32, ge=1, le=_MOST_BATCH)
    """images a step, over all processes"""
    lr: float = Field(default=1e-4, gt=0)
    """learning rate at its highest"""
    schedule: Literal["cosine", "constant", "step"] = "constant"
    """what follows the warm-up; step: a hundredth of the rate at 80 % of the run, again at 90 %"""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """optimizer"""
    ema: float = Field(default=0.9999, ge=0, lt=1)
    """decay of the moving average of the weights; 0 = off"""
    looks: int = Field(default=8, ge=0, le=1000)
    """how often KID to the validation images is measured on the way; 0 = never"""
    patience: int = Field(default=0, ge=0)
    """stop after so many looks without a lower KID and keep the best; 0 = keep the last"""

    @model_validator(mode="after")
    def _patience_needs_looks(self) -> "GeneratorTrain":
        if self.patience and not self.looks:
            raise ValueError("patience needs looks above 0")
        return self


class Pretrain(_Frozen):
    """What a generator learns from before its own few images; one artifact, shared by recipes."""

    on: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    """`train` (every real training image), classes by name, or `simulated:PROFILE`"""
    images: int = Field(default=200_000, ge=1, le=_MOST_IMAGES)
    """images seen; the rest of the plan is that of `generator.train`"""
    options: Options = {}
    """simulated: options of the reader `simulated`, such as counts per class"""


class Select(_Frozen):
    """Which of the drawn particles are used; more are drawn, so that as many are left."""

    by: Literal["agreement", "density", "diversity"]
    """agreement: named as their class; density: near real ones; diversity: far from one another"""
    keep: float = Field(default=0.5, gt=0, le=1)
    """share of the drawn particles that is kept"""


class Generator(_Frozen):
    """What draws particles; trained only where a strategy asks for drawn ones."""

    plugin: str = "ddpm"
    """generator by name"""
    classes: tuple[Name, ...] = Field(min_length=1)
    """the classes it draws"""
    source: str | None = None
    """learn from the training particles with this value in the column `source` alone"""
    per_class: bool = True
    """one model a class, as in the paper; false = one conditional model"""
    options: Options = {}
    """options of the generator"""
    train: GeneratorTrain = GeneratorTrain()
    """how long and how to train"""
    pretrain: Pretrain | None = None
    """what it learns from first"""
    sample: Options = {}
    """parameters of its `sample`"""
    select: Select | None = None
    """which of the drawn particles are used; all of them by default"""


class Balance(BaseModel):
    """How imbalance is met: strategies in order, and a table of options for any of them."""

    model_config = ConfigDict(
        extra="allow", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    strategies: tuple[str, ...] = ("none",)
    """strategies by name, composed in this order; `[balance.NAME]` holds a strategy's options"""


class Baseline(Balance):
    """Another arm of the same experiment, beside the recipe's own in the report."""

    name: Name
    """what the arm is called"""


class ClassifierTrain(Train):
    """How a classifier is trained."""

    images: int = Field(default=2_000_000, ge=1, le=_MOST_IMAGES)
    """images seen in all"""
    batch: int = Field(default=128, ge=1, le=_MOST_BATCH)
    """images a step, over all processes"""
    weight_decay: float = Field(default=0.01, ge=0)
    """weight decay"""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """decay of the moving average of the weights; 0 = off"""
    validations: int = Field(default=8, ge=1, le=1000)
    """how often the validation set is looked at"""


class Classifier(_Frozen):
    """What names particles."""

    plugin: str = "timm"
    """classifier by name"""
    options: Options = {}
    """options of the classifier"""
    train: ClassifierTrain = ClassifierTrain()
    """how long and how to train"""


class Fidelity(_Frozen):
    """What drawn particles are compared with real ones by."""

    model: str | None = None
    """model of timm whose features are compared; by default a small network trained on this data"""
    weights: str | None = None
    """its weights, a .safetensors file, against the recipe's folder or the data root"""
    plugin: str | None = None
    """extractor by name, in place of `model` and `weights`"""
    options: Options = {}
    """options of the extractor: `svpkit plugins show NAME`"""

    @model_validator(mode="after")
    def _one_or_none(self) -> "Fidelity":
        if (self.model is None) != (self.weights is None):
            raise ValueError("wants `model` and `weights` together, or neither")
        if self.plugin is not None and self.model is not None:
            raise ValueError(f"wants `plugin` ('{self.plugin}') or `model` and `weights`, not both")
        if self.options and self.plugin is None:
            raise ValueError("`options` are those of `plugin`, which is not given")
        return self


class Evaluate(_Frozen):
    """What the scores are asked for."""

    prevalence: dict[str, float] | None = None
    """expected mix of classes at work: for prior correction and for re-weighted scores alike"""
    precision: Share | dict[str, Share] | None = None
    """precision to hold, for every class or {class = number}; what cannot is named `rejected`"""
    replicates: int = Field(default=2000, ge=100, le=100_000)
    """bootstrap replicates of the intervals"""


class Recipe(_Frozen):
    """One experiment, frozen and fully spelt out."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """name of the run's folder"""
    seed: int = Field(default=0, ge=0, le=_MOST_SEED)
    """drives subset, split and training; the test set has its own and never moves"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto = bf16 where a GPU has it, else fp32"""
    plugins: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """packages whose plugins it needs, as "svpkit-glass>=0.2", or files; () = all that are there"""
    data: Data
    """where the particles come from"""
    generator: Generator | None = None
    """what draws particles"""
    balance: Balance = Balance()
    """how imbalance is met"""
    classifier: Classifier = Classifier()
    """what names particles"""
    fidelity: Fidelity = Fidelity()
    """what drawn particles are compared with real ones by"""
    evaluate: Evaluate = Evaluate()
    """what is asked of the scores"""
    baselines: tuple[Baseline, ...] = ()
    """other arms of the same experiment"""

    @field_validator("name")
    @classmethod
    def _is_a_folder_everywhere(cls, name: str) -> str:
        if unfit(name) or name.endswith("."):
            raise ValueError("no name of a folder on every system")
        return name

    @model_validator(mode="after")
    def _arms_have_their_own_names(self) -> "Recipe":
        names = [self.name, *(b.name for b in self.baselines)]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"two arms are called '{min(twice)}'")
        return self


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `overrides` are "dotted.key=value" with a TOML value or a bare string.

    Raises SvpkitError naming the file, the dotted key and the nearest right one.
    """
    path = Path(path)
    values = read_toml(path)
    for change in overrides:
        override(values, change)
    return validate(values, str(path))


def validate(values: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe that plain values spell out; `where` names them in errors."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        # a misspelt key explains a missing one, so it comes first
        first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
        raise SvpkitError(f"{where}: {_say(first)}") from None


def _say(error: Any) -> str:
    kind, (*first, last) = error["type"], error["loc"] or ("",)
    # a key that nobody knows is the user's own, whatever it looks like
    ends = [last] if kind == "extra_forbidden" or not _is_type_tag(last) else []
    where = [part for part in first if not _is_type_tag(part)] + ends
    dotted = ""
    for part in where:
        dotted += f"[{part}]" if isinstance(part, int) else f".{part}" if dotted else str(part)
    if kind == "extra_forbidden":
        known = _fields_at(where[:-1])
        table = dotted.rpartition(".")[0] or "the top level"
        return (
            f"{dotted}: unknown key{nearest(str(where[-1]), known)} (in {table}: {choices(known)})"
        )
    if kind == "missing":
        return f"{dotted}: missing"
    message = reason(error)
    if not dotted:
        return message
    given = error["input"]
    if not isinstance(given, (str, int, float, bool, type(None))):
        return f"{dotted}: {message}"
    hint = nearest(str(given), error.get("ctx", {}).get("expected", "").replace("'", "").split())
    return f"{dotted}: given {given!r}: {message}{hint.replace(',', '')}"


def _is_type_tag(part: str | int) -> bool:
    # pydantic names the member of a union that failed, which is no key of the recipe
    tags = ("float", "int", "str", "constrained-float")
    return isinstance(part, str) and (part in tags or "[" in part)


def _fields_at(path: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] | None = Recipe
    for part in path:
        if isinstance(part, str) and model:
            entry = model.model_fields.get(part)
            model = model_in(entry.annotation) if entry else None
    return [*model.model_fields, *(["extends"] if model is Recipe else [])] if model else []


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the table that a field holds, or None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (model_in(a) for a in typing.get_args(annotation))
    return next((m for m in found if m), None)
