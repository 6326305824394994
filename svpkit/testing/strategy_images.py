"""Checks of strategies that change images on the way to the network: augment, mix."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from svpkit.testing.strategy_inputs import (
    batch,
    counts,
    equal,
    method,
    near,
    plain,
    seeds,
    verb,
)
from svpkit.testing.subject import Failed, Subject, expect

SLACK = 1e-4  # what rounding may add to the grey range


def live(subject: Subject) -> dict[str, np.ndarray]:
    """Return what a strategy makes of a batch: {what: array}."""
    found = {}
    if move := verb(subject, "augment"):
        images, labels = move(*batch(subject))
        found |= {"augment": plain("augment", images), "augment labels": plain("labels", labels)}
    if verb(subject, "mix"):
        images, labels = _mixed(subject, _pairs(subject))
        found |= {"mix": plain("mix", images), "mix labels": plain("labels", labels)}
    return found


def check_augment(subject: Subject) -> None:
    """Images keep shape, type and the range [-1, 1]; labels stay, or become soft (B, K)."""
    move = method(subject, "augment")
    for n in (12, 1):
        images, labels, own = batch(subject, n)
        found = _two("augment", move(images, labels, own))
        _check_images("augment", found[0], images)
        if found[1].dim() == 2:
            _check_soft("augment", found[1], (n, len(subject.spec.classes)))
        else:
            expect(equal(found[1], labels), "augment: labels are expected as given, others came")


def check_augment_input(subject: Subject) -> None:
    """It changes nothing in the batch that it is given."""
    move = method(subject, "augment")
    given = batch(subject)
    kept = [each.clone() for each in given]
    move(*given)
    for name, one, other in zip(("images", "labels", "seeds"), kept, given, strict=True):
        expect(equal(one, other), f"augment: the given {name} are changed in place")


def check_augment_alone(subject: Subject) -> None:
    """Image i is made of image i, label i and seed i alone, whoever shares the batch."""
    move = method(subject, "augment")
    given = batch(subject)
    _check_alone("augment", move(*given)[0], lambda rows: move(*(g[rows] for g in given))[0])


def check_augment_seed(subject: Subject) -> None:
    """The same seeds give the same images, and other seeds move some of them otherwise."""
    move = method(subject, "augment")
    images, labels, own = batch(subject, 32)
    first, again = (verb(subject, "augment")(images, labels, own)[0] for _ in range(2))
    same = equal(first, again) and equal(first, move(images, labels, own)[0])
    expect(same, "augment: the same seeds are expected to give the same images; others came")
    other = move(images, labels, seeds(subject, 32, "others"))[0]
    changed = not equal(first, images)
    expect(not changed or not equal(first, other), "augment: other seeds change nothing")


def check_mix(subject: Subject) -> None:
    """Mixed images keep shape, type and range, and labels (B, K) sum to 1, from a batch of 1 on."""
    method(subject, "mix")
    for n in (12, 2, 1):
        given = _pairs(subject, n)
        images, labels = _two("mix", _mixed(subject, given))
        _check_images("mix", images, given[0])
        _check_soft("mix", labels, (n, len(subject.spec.classes)))


def check_mix_input(subject: Subject) -> None:
    """It changes nothing in the batch and the partners that it is given."""
    method(subject, "mix")
    given = _pairs(subject)
    kept = [each.clone() for each in given]
    _mixed(subject, given)
    names = ("images", "labels", "partners", "partner labels", "seeds")
    for name, one, other in zip(names, kept, given, strict=True):
        expect(equal(one, other), f"mix: the given {name} are changed in place")


def check_mix_alone(subject: Subject) -> None:
    """Sample i is made of sample i, partner i and seed i alone, whoever shares the batch."""
    method(subject, "mix")
    given = _pairs(subject)
    for part in (0, 1):
        whole = _mixed(subject, given)[part]
        _check_alone("mix", whole, lambda r, p=part: _mixed(subject, [g[r] for g in given])[p])


def check_mix_seed(subject: Subject) -> None:
    """The same seeds mix alike, and other seeds mix some of the images otherwise."""
    method(subject, "mix")
    given = _pairs(subject, 32)
    first, again = (_mixed(subject, given)[0] for _ in range(2))
    expect(equal(first, again), "mix: the same seeds are expected to give the same; others came")
    other = _mixed(subject, [*given[:4], seeds(subject, 32, "others")])[0]
    expect(not equal(first, other), "mix: other seeds change nothing")


def _pairs(subject: Subject, n: int = 12) -> list[Tensor]:
    images, labels, own = batch(subject, n)
    told = one_hot(labels, len(subject.spec.classes)).float()
    # the partner is the sample before in the batch
    return [images, told, images.roll(1, 0), told.roll(1, 0), own]


def _mixed(subject: Subject, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    return verb(subject, "mix")(counts(subject))(*given)


def _two(name: str, found: Any) -> tuple[Tensor, Tensor]:
    right = isinstance(found, tuple) and len(found) == 2
    if not right or not all(isinstance(each, Tensor) for each in found):
        raise Failed(f"{name}: images and labels are expected, a {type(found).__name__} came")
    return found


def _check_images(name: str, found: Tensor, given: Tensor) -> None:
    for what in ("shape", "dtype"):
        want, got = getattr(given, what), getattr(found, what)
        want, got = (tuple(want), tuple(got)) if what == "shape" else (want, got)
        expect(want == got, f"{name}: images of {what} {want} are expected, {got} came")
    low, high = float(found.min()), float(found.max())
    inside = bool(torch.isfinite(found).all()) and -1 - SLACK <= low and high <= 1 + SLACK
    expect(inside, f"{name}: images in -1 .. 1 are expected, {low:.4g} .. {high:.4g} came")


def _check_soft(name: str, labels: Tensor, shape: tuple[int, int]) -> None:
    got = tuple(labels.shape)
    expect(got == shape, f"{name}: labels of shape {shape} are expected, {got} came")
    kind = labels.is_floating_point()
    expect(kind, f"{name}: labels (B, K) of floats are expected, {labels.dtype} came")
    sums = labels.double().sum(1)
    right = bool((labels >= 0).all()) and bool((sums - 1).abs().max() < SLACK)
    expect(right, f"{name}: labels that sum to 1 are expected, {float(sums[0]):.4g} came first")


def _check_alone(name: str, whole: Tensor, call: Any) -> None:
    n = len(whole)
    for rows in (torch.arange(n).flip(0), torch.tensor([n - 1]), torch.arange(0, n, 3)):
        right = near(call(rows), whole[rows])
        expect(
            right, f"{name}: image i is expected to depend on no other; in another batch it does"
        )


CHECKS = (
    check_augment,
    check_augment_input,
    check_augment_alone,
    check_augment_seed,
    check_mix,
    check_mix_input,
    check_mix_alone,
    check_mix_seed,
)
