"""Checks of classifiers: logits and features, what is learned, and the weights kept."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from svpkit.fit import to_float, to_uint8
from svpkit.testing.common import Given
from svpkit.testing.learning import batch, toys, trained
from svpkit.testing.processes import check_two_processes
from svpkit.testing.states import check_state, flat
from svpkit.testing.subject import NotAsked, Subject, built, expect

ROUNDING = 1e-4


def live(subject: Subject) -> Given:
    """Build, learn where it learns by itself, and name particles: all that came of it."""
    model, found = _ready(subject), {}
    images, _, _ = batch(subject)
    found["says"] = _says(model, images)
    if hasattr(model, "features"):
        found["features"] = _features(model, images)
    return found | {f"state {name}": value for name, value in flat(model).items()}


def check_builds(subject: Subject) -> None:
    """It is built for 1 and 3 channels, 16 and 32 pixels, 2 and 3 classes, or says why not."""
    for spec, said, model in built(subject, fewest=2):
        if not isinstance(model, nn.Module):
            needed = ("fit", "predict_proba", "state", "load_state")
            missing = [n for n in needed if not hasattr(model, n)]
            expect(not missing, f"{said}: it has no {', '.join(missing)}")
            continue
        expect(model.training, f"{said}: it is not in training mode")
        found = _says(model.eval(), batch(subject, spec=spec)[0]).shape
        wanted = (6, len(spec.classes))
        expect(found == wanted, f"{said}: logits are {found}, {wanted} is wanted")


def check_answers(subject: Subject) -> None:
    """It answers float (B, K), finite; an object's are probabilities, each row summing to 1."""
    model = subject.once("ready", _ready)
    found = _says(model, batch(subject)[0])
    wanted = (6, len(subject.spec.classes))
    expect(found.shape == wanted, f"answers: {found.shape}, {wanted} is wanted")
    expect(found.dtype.kind == "f", f"answers: {found.dtype}, float is wanted")
    expect(bool(np.isfinite(found).all()), "answers: some are not finite")
    if isinstance(model, nn.Module):
        expect(found.dtype == np.float32, f"answers: {found.dtype}, float32 is wanted")
        return
    inside = found.min() >= 0 and found.max() <= 1
    expect(inside, f"answers: {found.min():.3g} .. {found.max():.3g}, 0 .. 1 is wanted")
    off = float(np.abs(found.sum(axis=1) - 1).max())
    expect(off <= ROUNDING, f"answers: a row's probabilities are {off:.3g} off the sum of 1")


def check_features(subject: Subject) -> None:
    """Features, which a module must have, are finite float (B, F)."""
    model = subject.once("ready", _ready)
    if not hasattr(model, "features"):
        expect(not isinstance(model, nn.Module), "features: it has none")
        raise NotAsked("an object without features")
    found = _features(model, batch(subject)[0])
    told = f"{found.dtype} {found.shape}"
    right = found.ndim == 2 and len(found) == 6 and found.dtype.kind == "f"
    expect(right, f"features: {told}, float (6, F) is wanted")
    expect(bool(np.isfinite(found).all()), "features: some are not finite")


def check_head(subject: Subject) -> None:
    """`head`, where it has one, is the linear layer that makes the logits of the features."""
    model = subject.once("ready", _ready)
    head = getattr(model, "head", None)
    if not isinstance(model, nn.Module) or not isinstance(head, nn.Linear):
        raise NotAsked("it has no linear head")
    images = batch(subject)[0]
    with torch.no_grad():
        made = linear(torch.from_numpy(_features(model, images)), head.weight, head.bias).numpy()
    apart = float(np.abs(made - _says(model, images)).max())
    expect(apart <= ROUNDING, f"head: its logits of the features differ by {apart:.3g}")


def check_batches(subject: Subject) -> None:
    """An image is named the same alone, among others and in another order."""
    model = subject.once("ready", _ready)
    images = batch(subject)[0]
    asked = {"answers": _says} | ({"features": _features} if hasattr(model, "features") else {})
    for what, ask in asked.items():
        whole = ask(model, images)
        each = np.concatenate([ask(model, images[i : i + 1]) for i in range(len(images))])
        back = ask(model, images.flip(0))[::-1]
        for how, found in (("one by one", each), ("in another order", back)):
            apart = float(np.abs(whole - found).max())
            said = f"batches: {what} {how} differ by {apart:.3g}, {ROUNDING} allowed"
            expect(apart <= ROUNDING * max(1, float(np.abs(whole).max())), said)


def check_untouched(subject: Subject) -> None:
    """Naming particles changes nothing in the model, and leaves the images as they were."""
    model = subject.once("ready", _ready)
    before = {name: value.copy() for name, value in flat(model).items()}
    images = batch(subject)[0]
    kept = images.clone()
    _says(model, images)
    changed = [n for n, v in flat(model).items() if not np.array_equal(before[n], v)]
    expect(not changed, f"untouched: naming particles changes {', '.join(changed[:3])}")
    expect(torch.equal(kept, images), "untouched: it writes into the images that it is given")


def check_gradients(subject: Subject) -> None:
    """The loss reaches every trainable parameter with a finite gradient."""
    model = subject.build()
    if not isinstance(model, nn.Module):
        raise NotAsked("an object has no gradients")
    images, labels, _ = batch(subject)
    cross_entropy(model(images), labels).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            expect(p.grad is not None, f"gradients: the loss does not reach {name}")
            finite = bool(torch.isfinite(p.grad).all())  # type: ignore[arg-type]
            expect(finite, f"gradients: that of {name} is not finite")


def check_saved(subject: Subject) -> None:
    """Written and loaded into a fresh one, it answers the same to the bit."""
    model, fresh = subject.once("ready", _ready), subject.build(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({n: np.ascontiguousarray(v) for n, v in flat(model).items()}, path)
        arrays = load_file(path)
    if isinstance(fresh, nn.Module):
        fresh.load_state_dict({n: torch.from_numpy(v) for n, v in arrays.items()})
        fresh.eval()
    else:
        fresh.load_state(arrays)
    images = batch(subject)[0]
    apart = float(np.abs(_says(model, images) - _says(fresh, images)).max())
    expect(apart == 0, f"saved: the loaded model's answers differ by {apart:.3g}")


def check_learns(subject: Subject) -> None:
    """After a toy training it names most of the fresh toy particles."""
    model, fresh = subject.once("trained", trained)[0], toys(subject, 40, seed=3)
    named = np.concatenate([_bytes(model, fresh.images(slice(i, i + 40))) for i in (0, 40, 80)])
    right = float((named.argmax(axis=1) == fresh.labels).mean())
    chance = 1 / len(fresh.classes)
    wanted = chance + 0.5 * (1 - chance)
    given = (
        "" if isinstance(model, nn.Module) else "; predict_proba is given uint8 images, 0 .. 255"
    )
    said = f"learns: it names {right:.0%} of fresh toys, {wanted:.0%} is wanted{given}"
    expect(right >= wanted, said)


CHECKS = (
    check_builds,
    check_answers,
    check_features,
    check_head,
    check_batches,
    check_untouched,
    check_gradients,
    check_state,
    check_saved,
    check_learns,
    check_two_processes,
)


def _ready(subject: Subject) -> Any:
    model = subject.build()
    if not isinstance(model, nn.Module):
        model.fit(toys(subject, 30), subject.seed)
        return model
    return model.eval()


def _says(model: Any, images: Tensor) -> np.ndarray:
    if not isinstance(model, nn.Module):
        return np.asarray(model.predict_proba(to_uint8(images).numpy()))
    with torch.no_grad():
        return model(images).numpy()


def _bytes(model: Any, images: np.ndarray) -> np.ndarray:
    return _says(model, to_float(torch.from_numpy(images)))


def _features(model: Any, images: Tensor) -> np.ndarray:
    if not isinstance(model, nn.Module):
        return np.asarray(model.features(to_uint8(images).numpy()))
    with torch.no_grad():
        return model.features(images).numpy()  # type: ignore[operator]
