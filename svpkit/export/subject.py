"""What is exported of a run: its classifier, what follows it, and images to check the copy on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from svpkit import __version__
from svpkit.classify.model import Model, softmax
from svpkit.errors import SvpkitError
from svpkit.evaluate.calibration import Calibrator
from svpkit.keep import read_thresholds, weights_of
from svpkit.particles.split import Split
from svpkit.reference import RECORD
from svpkit.safe import opened, read_json, read_parquet
from svpkit.shapes import ModelRecord, read_run, shaped
from svpkit.store import root_of

if TYPE_CHECKING:
    from svpkit.api import Run

# Images that a written network is compared on.
MOST = 1_000
# The largest difference of a probability that is taken for rounding.
CLOSE = 1e-4
# The same, to what was recorded when the run was made: perhaps on a GPU, in its precision.
RECORDED = 1e-2


@dataclass(frozen=True)
class Subject:
    """A run's classifier and what it says, before it is written for others.

    `added` (K,) is what the strategies add to all logits, None where they find it in each input
    anew; `calibrator` and `thresholds` are None where the run has none. `images` uint8
    (N, C, S, S), those of validation where the store still holds them, else noise; `logits` (N, K)
    and `features` (N, F), or None, are what svpkit says of them.
    """

    folder: Path
    model: Model
    added: np.ndarray | None
    calibrator: Calibrator | None
    thresholds: dict[str, float | None] | None
    images: np.ndarray
    checked_on: str
    logits: np.ndarray
    features: np.ndarray | None

    @property
    def name(self) -> str:
        """The name of the classifier's plugin."""
        return self.model.config["classifier"]["plugin"]

    @property
    def card(self) -> Path:
        """The run's model card, which may not be there."""
        return self.folder / "README.md"

    def facts(self) -> dict[str, Any]:
        """Return what a user of the copy has to know, as plain JSON values."""
        calibrator = None if self.calibrator is None else self.calibrator.to_json()
        return {
            "svpkit": __version__,
            "classes": list(self.model.classes),
            "size": self.model.spec.size,
            "channels": self.model.spec.channels,
            "um_per_px": self.model.config.get("intake", {}).get("um_per_px"),
            "weights": weights_of(self.folder),
            "added_to_logits": None if self.added is None else self.added.tolist(),
            "calibrator": calibrator,
            "thresholds": self.thresholds,
        }


def subject(run: "Run") -> Subject:
    """Open what a run deploys; raises SvpkitError where its weights are not those of the run."""
    with opened(run.folder, "a run that cannot be exported"):
        return _opened(run)


def _opened(run: "Run") -> Subject:
    folder = run.folder / "model"
    noted = shaped(folder / "config.json", ModelRecord).get("digests")
    if noted is not None and noted != weights_of(folder):
        raise SvpkitError(f"{folder}: these weights are not those that the run wrote (SHA-256)")
    model = Model.open(folder, run.registry)
    images, checked_on, rows = _images(run, model)
    logits, features = _outputs(model, images)
    if rows is not None:
        _as_recorded(folder, model, rows, logits)
    return Subject(
        folder,
        model,
        added(model),
        _calibrator(folder),
        read_thresholds(folder),
        images,
        checked_on,
        logits,
        features,
    )


def added(model: Model) -> np.ndarray | None:
    """Return what the strategies add to any logits, float32 (K,).

    None where it is not the same for all: where they estimate the mix at work from each input.
    """
    k = len(model.classes)
    draw = np.random.Generator(np.random.Philox(0)).normal(0, 3, (64, k)).astype(np.float32)
    tries = [np.zeros((2, k), np.float32), draw, draw[:1]]
    moved = [model.balance.adjust(each, model.priors) - each for each in tries]
    same = all(np.allclose(each, moved[0][0], atol=1e-4) for each in moved)
    return moved[0][0] if same else None


def differences(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest difference of each output from what svpkit says, which may be NaN."""
    return {
        name: float(np.abs(found[name].astype(np.float64) - own).max())
        for name, own in wanted.items()
    }


def hold(found: dict[str, float], limited: tuple[str, ...], what: str) -> None:
    """Raise SvpkitError unless the differences of these outputs are those of rounding."""
    for name in limited:
        # not NaN either
        if not found[name] <= CLOSE:
            raise SvpkitError(
                f"{what}: its {name} differ by up to {found[name]:.2g} from svpkit's, at most "
                f"{CLOSE:g} is allowed; nothing is written"
            )


def _images(run: "Run", model: Model) -> tuple[np.ndarray, str, np.ndarray | None]:
    record = read_run(run.folder)
    made = record["artifacts"].get("split")
    path = None if made is None else (run.store or root_of(run.folder, record)) / made["name"]
    val = Split.open(path).val() if path is not None and path.is_dir() else None
    if val is not None and len(val):
        rows = np.linspace(0, len(val) - 1, min(len(val), MOST)).round().astype(int)
        return val.images(rows), "validation", rows
    shape = (256, model.spec.channels, model.spec.size, model.spec.size)
    rng = np.random.Generator(np.random.Philox(0))
    return rng.integers(0, 256, shape, dtype=np.uint8), "noise", None


def _outputs(model: Model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    # in whole single precision: TF32 would look like a fault
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        blocks = [(logits, features) for _, logits, features in model.outputs(images)]
    logits = np.concatenate([logits for logits, _ in blocks])
    features = [each for _, each in blocks if each is not None]
    return logits, np.concatenate(features) if len(features) == len(blocks) else None


def _as_recorded(folder: Path, model: Model, rows: np.ndarray, logits: np.ndarray) -> None:
    path = folder / "val.parquet"
    if not path.is_file():
        return
    table = read_parquet(path)[[f"logit_{name}" for name in model.classes]]
    if rows[-1] >= len(table):
        raise SvpkitError(f"{path}: has fewer particles than the run's validation set")
    there = softmax(table.to_numpy(np.float32)[rows])
    found = differences({"p": softmax(logits)}, {"p": there})["p"]
    if not found <= RECORDED:
        raise SvpkitError(
            f"{folder}: its probabilities of validation differ by up to {found:.2g} from those "
            "that the run recorded; the weights or the code are other ones"
        )


def _calibrator(folder: Path) -> Calibrator | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    return Calibrator.from_json(read_json(path)["calibrator"])
