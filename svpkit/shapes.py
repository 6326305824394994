"""What the records of runs and artifacts must look like before anything is taken from them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from svpkit.errors import SvpkitError, reason
from svpkit.safe import check_plain, read_json


def _one_part(name: str) -> str:
    # it is looked for in a store, and nowhere else
    if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
        raise ValueError("the name of a folder is wanted")
    return name


def _spelt(recipe: dict[str, Any]) -> dict[str, Any]:
    check_plain(recipe)
    return recipe


Folder = Annotated[str, AfterValidator(_one_part)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Made(_Shape):
    name: Folder
    key: str = ""


class _Drawing(_Shape):
    artifact: Folder
    classes: list[str]


class RunRecord(_Shape):
    """What run.json holds, as far as anything but people reads it."""

    artifacts: dict[str, _Made]
    generators: dict[str, _Drawing] = {}
    recipe: Annotated[dict[str, Any], AfterValidator(_spelt)] = {}
    data: dict[str, str] = {}
    files: dict[str, str] = {}
    versions: dict[str, str] | None = None
    store: str | None = None
    svpkit: str = ""
    seed: int | None = None
    started: str | None = None
    ended: str | None = None
    commit: str | None = None
    processes: int = 1


class Inputs(_Shape):
    """What artifact.json says of what an artifact was made from."""

    inputs: list[Folder]


class ArtifactRecord(Inputs):
    """What artifact.json holds."""

    stage: str
    key: str
    revision: int
    params: dict[str, Any]
    code: str
    seconds: float
    files: dict[str, str]


class Sources(_Shape):
    """What split.json says of the sets that were split."""

    data: Folder
    test: Folder | None = None
    also: list[Folder] = []


class SplitRecord(Sources):
    """What split.json holds, as far as a split is opened by it."""

    classes: list[str]
    sets: dict[str, dict[str, Any]]
    choose_on_val: bool = False


class UnderWay(_Shape):
    """What artifacts.json holds: the artifacts that a run uses."""

    artifacts: list[str]


class Audited(_Shape):
    """What audit-artifacts.json holds: those that audits of a run made, by folder."""

    folders: dict[str, list[str]]


class Limits(_Shape):
    """What thresholds.json holds: what a model's names are held to."""

    thresholds: dict[str, float | None]
    weights: dict[str, str] = {}


class _Intake(_Shape):
    background: Literal["keep", "divide"] | None = None
    um_per_px: Annotated[float, Field(gt=0)] | None = None


class ModelRecord(_Shape):
    """What the config.json of a model's folder says beside what opens it."""

    intake: _Intake = _Intake()
    digests: dict[str, str] | None = None


class _Spec(_Shape):
    channels: Literal[1, 3]
    size: Annotated[int, Field(ge=1, le=4096)]
    classes: Annotated[list[str], Field(min_length=1, max_length=10_000)]


class GeneratorRecord(_Shape):
    """What the config.json of a generator's folder holds."""

    plugin: str
    options: dict[str, Any]
    spec: _Spec


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run's run.json says; raises SvpkitError where it is none."""
    return shaped(folder / "run.json", RunRecord)


def shaped(path: Path, shape: type[BaseModel]) -> dict[str, Any]:
    """Return what a JSON file says; raises SvpkitError, naming the key, where it has other types.

    Keys that the shape does not name are let be.
    """
    found = read_json(path)
    try:
        shape.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join(str(part)[:80] for part in first["loc"])
        raise SvpkitError(f"{path}: {dotted}: {reason(first)}") from None
    return found
