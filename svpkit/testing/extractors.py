"""Checks of extractors: features of each image alone, finite, that tell images apart."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit.testing.common import Given
from svpkit.testing.learning import batch
from svpkit.testing.subject import Subject, built, expect

ROUNDING = 1e-4


def live(subject: Subject) -> Given:
    """Build and look at images: the features."""
    return {"features": _features(_frozen(subject), batch(subject)[0])}


def check_builds(subject: Subject) -> None:
    """It is built, as a module, for 1 and 3 channels, 16 and 32 pixels, or says why not."""
    for spec, said, model in built(subject, fewest=3):
        expect(isinstance(model, nn.Module), f"{said}: {type(model).__name__} is no nn.Module")
        frozen = model.eval().requires_grad_(False)
        _look(_features(frozen, batch(subject, spec=spec)[0]), said)


def check_extremes(subject: Subject) -> None:
    """Features of black, white and plain grey images are finite too."""
    shape = (subject.spec.channels, subject.spec.size, subject.spec.size)
    plain = torch.stack([torch.full(shape, value) for value in (-1.0, 0.0, 1.0)])
    found = _features(_frozen(subject), plain)
    expect(bool(np.isfinite(found).all()), "extremes: plain images have features not finite")


def check_batches(subject: Subject) -> None:
    """Row i belongs to image i alone: the same by itself, among others and in another order."""
    model, images = _frozen(subject), batch(subject)[0]
    whole = _features(model, images)
    each = np.concatenate([_features(model, images[i : i + 1]) for i in range(len(images))])
    back = _features(model, images.flip(0))[::-1]
    for how, found in (("one by one", each), ("in another order", back)):
        apart = float(np.abs(whole - found).max())
        said = f"batches: features {how} differ by {apart:.3g}, {ROUNDING} allowed"
        expect(apart <= ROUNDING * max(1, float(np.abs(whole).max())), said)


def check_tells_apart(subject: Subject) -> None:
    """Different images have different features."""
    found = _features(_frozen(subject), batch(subject)[0])
    alike = len(found) - len(np.unique(found, axis=0))
    expect(alike == 0, f"tells_apart: {alike} of {len(found)} images have another one's features")


def check_untouched(subject: Subject) -> None:
    """Looking changes nothing in it, and leaves the images as they were."""
    model, images = _frozen(subject), batch(subject)[0]
    before = {n: v.clone() for n, v in model.state_dict().items()}
    kept = images.clone()
    _features(model, images)
    changed = [n for n, v in model.state_dict().items() if not torch.equal(before[n], v)]
    expect(not changed, f"untouched: looking changes {', '.join(changed[:3])}")
    expect(torch.equal(kept, images), "untouched: it writes into the images that it is given")


CHECKS = (check_builds, check_extremes, check_batches, check_tells_apart, check_untouched)


def _frozen(subject: Subject) -> Any:
    model = subject.build()
    return model.eval().requires_grad_(False) if isinstance(model, nn.Module) else model


def _features(model: Any, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.features(images).float().numpy()


def _look(found: np.ndarray, said: str) -> None:
    right = found.ndim == 2 and len(found) == 6
    expect(right, f"{said}: features are {found.shape}, (6, F) is wanted")
    expect(bool(np.isfinite(found).all()), f"{said}: features are not finite")
