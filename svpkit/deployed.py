"""A run's model put to work: the classifier, and what new input is held to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from svpkit.classify.model import Model, read_config, softmax
from svpkit.classify.shift import Shift
from svpkit.classify.unknown import Detector
from svpkit.errors import SvpkitError
from svpkit.evaluate import tally
from svpkit.evaluate.calibration import Calibrator
from svpkit.evaluate.conformal import sets
from svpkit.evaluate.thresholds import REJECTED, assign, limits
from svpkit.keep import read_thresholds, weights_of
from svpkit.reference import ARRAYS, FORMAT, RECORD
from svpkit.safe import load_arrays, opened, read_json, read_parquet
from svpkit.shapes import ModelRecord, shaped

if TYPE_CHECKING:
    from svpkit.plugins import Registry

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Held:
    """What else is kept of the M validation particles: logits (M, K), flagged bool (M,).

    `measured` is the share of them that were sized on their pixels, for want of the instrument's;
    `seen` uint64, sorted, are the marks of the pictures that it learnt from or was chosen by.
    """

    logits: np.ndarray
    flagged: np.ndarray
    measured: float
    seen: np.ndarray


@dataclass(frozen=True)
class Deployed:
    """A classifier with its thresholds, calibrator, detector of unknown particles and shift test.

    `val` holds the validation particles that counts are corrected by.
    """

    model: Model
    limit: np.ndarray | None
    calibrator: Calibrator
    detector: Detector
    shift: Shift | None
    quantiles: np.ndarray
    val: tally.Reference
    held: Held
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, registry: "Registry") -> "Deployed":
        """Open a model folder; raises SvpkitError for one that is not whole, or of before."""
        with opened(folder, "a model that cannot be opened"):
            return cls._opened(folder, registry)

    @classmethod
    def _opened(cls, folder: Path, registry: "Registry") -> "Deployed":
        model = Model.open(folder, registry)
        shaped(folder / "config.json", ModelRecord)
        limit = thresholds_of(folder, model.classes)
        _check_weights(folder)
        record, arrays = _read(folder)
        calibrator = Calibrator.from_json(record["calibrator"])
        detector = Detector.from_state(record["unknown"], _own(arrays, "unknown"))
        said = record["shift"]
        shift = None if said is None else Shift.from_state(said, _own(arrays, "shift"))
        quantiles = np.array([q if q is not None else np.inf for q in _quantiles(record)])
        val, held = _val(folder, model, limit, calibrator, arrays)
        return cls(model, limit, calibrator, detector, shift, quantiles, val, held, record)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in label order."""
        return self.model.classes

    @property
    def names(self) -> tuple[str, ...]:
        """What a particle may be named: the classes, "unknown", and "rejected" where it may be."""
        return (*self.classes, UNKNOWN, *(() if self.limit is None else (REJECTED,)))

    def named(self, p: np.ndarray, flagged: np.ndarray) -> np.ndarray:
        """Return positions in `names` (N,) from probabilities p (N, K) and what is flagged (N,)."""
        k = len(self.classes)
        found = p.argmax(1) if self.limit is None else assign(p, self.limit)
        return np.where(flagged, k, np.where(found == k, k + 1, found))

    def rule(self, logits: np.ndarray) -> np.ndarray | None:
        """Return what the strategies add to all logits (N, K) of an input, (K,).

        Strategies that estimate the mix at work (em, bbse) add what they find in the input. None
        where there is no particle, and where logits are moved one by one: in validation too.
        """
        if not len(logits):
            return None
        moved = self.model.balance.adjust(logits, self.model.priors) - logits
        return None if np.ptp(moved, axis=0).max() > 1e-3 else moved.mean(0)

    def alike(self, rule: np.ndarray | None) -> tally.Reference:
        """Return `val` named by an input's rule: another one's confusion would not be the input's.

        At 98:1.5:0.5, named by the mix found there, the confusion by validation's own mix
        corrects counts to nothing.
        """
        if rule is None:
            return self.val
        k, p = len(self.classes), softmax(self.held.logits + rule)
        return replace(self.val, named=np.minimum(self.named(p, self.held.flagged), k))

    def sets(self, p: np.ndarray) -> np.ndarray:
        """Return which classes are in each conformal set, bool (N, K), from calibrated p."""
        return sets(p, self.quantiles)


def thresholds_of(model: Path, classes: tuple[str, ...]) -> np.ndarray | None:
    """Return the threshold of each class (K,) that a model's names are held to; None where none.

    Raises SvpkitError where those in the folder were chosen for other weights.
    """
    found = read_thresholds(model)
    return None if found is None else limits(found, classes)


def names(p: np.ndarray, classes: Sequence[str], limit: np.ndarray | None = None) -> np.ndarray:
    """Return the likeliest class of each particle (N,) from probabilities p (N, K).

    With thresholds `limit` (K,), "rejected" where the class does not reach its own.
    """
    if limit is None:
        return np.asarray(classes)[p.argmax(1)]
    return np.asarray([*classes, REJECTED])[assign(p, limit)]


def _check_weights(folder: Path) -> None:
    # a flipped bit in weights is a number too, and nothing else would tell
    noted, found = read_config(folder).get("digests") or {}, weights_of(folder)
    for name in sorted(noted):
        if found.get(name) != noted[name]:
            raise SvpkitError(
                f"{folder / name}: damaged, its bytes are not those that were written "
                "(`svpkit run` of the recipe writes it again)"
            )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not (folder / RECORD).exists():
        raise SvpkitError(
            f"{folder / RECORD}: not here, and new input cannot be held to validation without it: "
            "`svpkit run` of the recipe writes it (suites do not, nor did earlier versions)"
        )
    try:
        record, arrays = read_json(folder / RECORD), load_arrays(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
        raise SvpkitError(f"{folder}: reference that cannot be read ({error})") from None
    if record.get("format") != FORMAT:
        raise SvpkitError(
            f"{folder / RECORD}: format {record.get('format')}, this version reads {FORMAT}"
        )
    return record, arrays


def _own(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{part}."): a for k, a in arrays.items() if k.startswith(f"{part}.")}


def _quantiles(record: dict[str, Any]) -> list[float | None]:
    return record["conformal"]["quantiles"]


def _val(
    folder: Path,
    model: Model,
    limit: np.ndarray | None,
    calibrator: Calibrator,
    arrays: dict[str, np.ndarray],
) -> tuple[tally.Reference, Held]:
    rows = read_parquet(folder / "val.parquet")
    p, logits = (
        rows[[f"{kind}_{name}" for name in model.classes]].to_numpy() for kind in ("p", "logit")
    )
    flagged = arrays["val.flagged"].astype(bool)
    if len(flagged) != len(rows):
        raise SvpkitError(f"{folder}: val.parquet is not the one that reference.json was made of")
    k = len(model.classes)
    named = p.argmax(1) if limit is None else assign(p, limit)
    val = tally.Reference(
        labels=rows["label_code"].to_numpy(),
        p=calibrator(logits),
        named=np.where(flagged, k, named),
        ecd_um=arrays["val.ecd_um"],
        classes=model.classes,
        groups=rows["group"].astype(str).to_numpy(object) if "group" in rows else None,
    )
    return val, Held(
        logits, flagged, float(rows["ecd_um"].isna().to_numpy().mean()), arrays["seen"]
    )
