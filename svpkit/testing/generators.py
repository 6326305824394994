"""Checks of generators: the loss, the images drawn, what is learned, and the weights kept."""

import copy
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import draws
from svpkit.fit import to_float
from svpkit.generate.training import check_sample_options, load_generator, save_generator
from svpkit.testing.common import Given
from svpkit.testing.generator_loss import (
    check_gradients,
    check_loss,
    check_loss_seeds,
    check_parts,
    parts_of,
)
from svpkit.testing.learning import batch, toys, trained
from svpkit.testing.processes import check_two_processes
from svpkit.testing.states import check_state, flat
from svpkit.testing.subject import NotAsked, Subject, built, expect

# An eighth of a grey level: what other sums of the same numbers may come to in a few network calls.
ROUNDING = 1e-3
DRAWN = 20


def live(subject: Subject) -> Given:
    """Build, learn a little or take one loss, and draw: all that came of it."""
    model, found = _ready(subject), {}
    if isinstance(model, nn.Module):
        images, labels, seeds = batch(subject)
        for part in parts_of(model):
            found[f"loss {part}"] = model(images, labels, seeds, part=part).detach().numpy()
        model.eval()
    found["images"] = _draw(subject, model, 4).numpy()
    return found | {f"state {name}": value for name, value in flat(model).items()}


def check_builds(subject: Subject) -> None:
    """It is built for 1 and 3 channels, 16 and 32 pixels, 1 and 3 classes, or says why not."""
    for _, said, model in built(subject, fewest=1):
        needed = ("fit", "sample", "state", "load_state")
        missing = [n for n in needed if not hasattr(model, n)]
        if isinstance(model, nn.Module):
            missing = [n for n in ("sample",) if not hasattr(model, n)]
            expect(model.training, f"{said}: it is not in training mode")
        expect(not missing, f"{said}: it has no {', '.join(missing)}")


def check_images(subject: Subject) -> None:
    """What it draws is finite float32 (B, C, S, S) in [-1, 1]."""
    spec = subject.spec
    images = _draw(subject, subject.once("ready", _ready), 5)
    wanted = (5, spec.channels, spec.size, spec.size)
    expect(tuple(images.shape) == wanted, f"images: {tuple(images.shape)}, {wanted} is wanted")
    expect(images.dtype == torch.float32, f"images: {images.dtype}, float32 is wanted")
    expect(bool(torch.isfinite(images).all()), "images: some are not finite")
    low, high = float(images.min()), float(images.max())
    expect(-1 <= low and high <= 1, f"images: {low:.3g} .. {high:.3g}, -1 .. 1 is wanted")


def check_seeds(subject: Subject) -> None:
    """The same seed draws the same image, another seed another one."""
    model = subject.once("ready", _ready)
    first, again = (_draw(subject, model, 6) for _ in range(2))
    expect(torch.equal(first, again), "seeds: the same seeds draw other images the second time")
    other = _draw(subject, model, 6, seed=1)
    alike = int((first == other).flatten(1).all(dim=1).sum())
    expect(alike < 6, "seeds: other seeds draw the same images")


def check_batches(subject: Subject) -> None:
    """An image is the same alone, among others and in another order, within 1e-3 of 2."""
    model = subject.once("ready", _ready)
    labels, seeds = _asked(subject, 7)
    whole = _sample(subject, model, labels, seeds)
    each = torch.cat(
        [_sample(subject, model, labels[i : i + 1], seeds[i : i + 1]) for i in range(7)]
    )
    back = _sample(subject, model, labels.flip(0), seeds.flip(0)).flip(0)
    for how, images in (("one by one", each), ("in another order", back)):
        apart = float((whole - images).abs().max())
        expect(
            apart <= ROUNDING, f"batches: {how} images differ by {apart:.3g}, {ROUNDING} allowed"
        )


def check_untouched(subject: Subject) -> None:
    """Drawing changes nothing in the model, nor whether it is in training mode."""
    model = subject.once("ready", _ready)
    before = {name: value.copy() for name, value in flat(model).items()}
    training = getattr(model, "training", False)
    with torch.no_grad():
        model.sample(*_asked(subject, 4), **subject.trial.sample)
    after = flat(model)
    changed = [n for n in before if not np.array_equal(before[n], after[n], equal_nan=True)]
    expect(not changed, f"untouched: drawing changes {', '.join(changed[:3])}")
    expect(getattr(model, "training", False) == training, "untouched: drawing changes its mode")


def check_sample(subject: Subject) -> None:
    """`sample` takes the trial's options, and refuses one that it does not have."""
    use, spec = subject.use, subject.spec
    check_sample_options(use, spec, subject.trial.sample, "sample")
    given = inspect.signature(subject.build().sample).parameters.values()
    swallows = any(p.kind is p.VAR_KEYWORD for p in given)
    expect(not swallows, "sample_options: `**` of sample takes every misspelt option")


def check_saved(subject: Subject) -> None:
    """Written and loaded, as a run does it, it draws the same images to the bit."""
    model, train = subject.once("ready", _ready), toys(subject, 4)
    with tempfile.TemporaryDirectory() as folder:
        save_generator(Path(folder), model, subject.use, subject.spec, train, [])
        loaded, again = (load_generator(Path(folder), subject.use) for _ in range(2))
    images = _draw(subject, loaded, 6)
    expect(torch.equal(images, _draw(subject, again, 6)), "saved: loaded twice, two models")
    apart = float((images - _draw(subject, _folded(model), 6)).abs().max())
    expect(apart == 0, f"saved: the loaded model's images differ by {apart:.3g} from the model's")


def check_fold(subject: Subject) -> None:
    """`fold()`, where it has one, changes no image by more than 1e-3 of 2."""
    model = subject.once("ready", _ready)
    if not hasattr(model, "fold"):
        raise NotAsked("it has no fold")
    apart = float((_draw(subject, model, 6) - _draw(subject, _folded(model), 6)).abs().max())
    expect(apart <= ROUNDING, f"fold: images differ by {apart:.3g}, {ROUNDING} allowed")


def check_learns(subject: Subject) -> None:
    """After a toy training the loss is lower and each class's mean image nearer than plain grey."""
    model, losses = subject.once("trained", trained)
    if losses and len(parts_of(model)) == 1:
        first, last = losses[0], float(np.mean(losses[-5:]))
        expect(last < first, f"learns: the loss began at {first:.4g} and ended at {last:.4g}")
    drawn, means = _by_class(subject, model)
    off = (drawn.mean(dim=1) - means).square().mean(dim=(1, 2, 3)).sqrt()
    blank = means.square().mean(dim=(1, 2, 3)).sqrt()
    ratio = float((off / blank).max())
    expect(ratio < 1, f"learns: a class's mean image is {ratio:.2f} times as far as plain grey is")


def check_labels(subject: Subject) -> None:
    """After a toy training, drawn images are nearest to the mean of the class that was asked."""
    if len(subject.spec.classes) == 1:
        raise NotAsked("it is for one class")
    drawn, means = _by_class(subject, subject.once("trained", trained)[0])
    k = len(means)
    apart = torch.cdist(drawn.reshape(k * DRAWN, -1), means.reshape(k, -1))
    named = apart.argmin(dim=1).view(k, DRAWN)
    right = float((named == torch.arange(k)[:, None]).float().mean())
    said = f"labels: {right:.0%} of the drawn are nearest to their class, chance is {1 / k:.0%}"
    expect(right > 1 / k + 0.17, said)


CHECKS = (
    check_builds,
    check_loss,
    check_parts,
    check_gradients,
    check_loss_seeds,
    check_images,
    check_seeds,
    check_batches,
    check_untouched,
    check_sample,
    check_state,
    check_saved,
    check_fold,
    check_learns,
    check_labels,
    check_two_processes,
)


def _ready(subject: Subject) -> Any:
    # prepared on toys as a run does, or, an object, fitted: in training mode
    model, train = subject.build(), toys(subject, 30)
    if not isinstance(model, nn.Module):
        model.fit(train, subject.seed)
    elif hasattr(model, "prepare"):
        model.prepare(train)  # type: ignore[operator]
    return model


def _folded(model: Any) -> Any:
    # as it is when a run has loaded it
    if not isinstance(model, nn.Module):
        return model
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if hasattr(model, "fold"):
        model.fold()  # type: ignore[operator]
    return model


def _asked(subject: Subject, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % len(subject.spec.classes)
    return labels, draws.seeds(seed, "kit", "drawn", index=np.arange(n))


def _sample(subject: Subject, model: Any, labels: Tensor, seeds: Tensor) -> Tensor:
    # as drawing does: in evaluation mode, with no gradients
    training = getattr(model, "training", False)
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        images = torch.as_tensor(model.sample(labels, seeds, **subject.trial.sample))  # type: ignore[operator]
    if training:
        model.train()
    return images


def _draw(subject: Subject, model: Any, n: int, seed: int = 0) -> Tensor:
    return _sample(subject, model, *_asked(subject, n, seed))


def _by_class(subject: Subject, model: Any) -> tuple[Tensor, Tensor]:
    # drawn images (K, DRAWN, C, S, S), and the mean image (K, C, S, S) of fresh toys of each class
    fresh, k = toys(subject, seed=2), len(subject.spec.classes)
    labels = torch.arange(k).repeat_interleave(DRAWN)
    seeds = draws.seeds(0, "kit", "learned", index=np.arange(len(labels)))
    drawn = _sample(subject, model, labels, seeds)
    means = [to_float(torch.from_numpy(fresh.of(n).images())).mean(dim=0) for n in fresh.classes]
    return drawn.reshape(k, DRAWN, *drawn.shape[1:]), torch.stack(means)
