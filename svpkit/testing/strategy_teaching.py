"""Checks of strategies that change what is taught, or said: loss, second stage, adjusted logits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from svpkit import fit
from svpkit.classify.second import Head
from svpkit.testing.strategy_inputs import (
    batch,
    counts,
    equal,
    head,
    logits,
    method,
    near,
    plain,
    priors,
    seen,
    soft,
    verb,
)
from svpkit.testing.subject import Failed, NotAsked, Subject, expect

TIMES = (0.0, 0.5, 1.0)
# Training sets: as the toy's, a class of 1 particle, and means over a run, which are no integers.
SETS = ((24, 9, 5), (300, 20, 1), (12.7, 12.7, 12.6))


def live(subject: Subject) -> dict[str, np.ndarray]:
    """Return what a strategy teaches and says: {what: array}."""
    found = {}
    if make := verb(subject, "loss"):
        made, labels = make(counts(subject)), batch(subject)[1]
        found["loss"] = plain("loss", _loss(made, logits(subject), labels, 1.0))
    if again := verb(subject, "second_stage"):
        made = again(head(subject), seen(subject), subject.seed)
        found |= {"weight": plain("weight", made.weight), "bias": plain("bias", made.bias)}
    if adjust := verb(subject, "adjust"):
        found["adjust"] = plain("adjust", adjust(logits(subject).numpy(), priors(subject)))
    return found


def check_loss(subject: Subject) -> None:
    """The loss is one finite number with a finite gradient, at all times of the run."""
    make = method(subject, "loss")
    for n in SETS:
        made = make(counts(subject, *n))
        for time in TIMES:
            x = logits(subject).requires_grad_()
            value = _loss(made, x, batch(subject)[1], time)
            shape = tuple(value.shape)
            expect(shape == (), f"loss: one number is expected, a tensor of shape {shape} came")
            expect(
                bool(value.isfinite()), f"loss: a finite number is expected, {value.item()} came"
            )
            expect(value.requires_grad, "loss: it is cut from the logits, nothing can be learnt")
            value.backward()
            right = x.grad is not None and bool(x.grad.isfinite().all()) and bool(x.grad.any())
            expect(right, f"loss: a finite gradient is expected at {time:g} of a run")


def check_loss_mean(subject: Subject) -> None:
    """The loss is a mean: the batch in another order, or twice over, gives the same."""
    make = method(subject, "loss")
    made, x, y = make(counts(subject)), logits(subject), batch(subject)[1]
    for time in TIMES:
        once = _loss(made, x, y, time)
        turned = _loss(made, x.flip(0), y.flip(0), time)
        said = f"loss: {once.item():.6g} is expected"
        expect(near(once, turned), f"{said} in another order, {turned.item():.6g} came")
        twice = _loss(made, torch.cat([x, x]), torch.cat([y, y]), time)
        expect(near(once, twice), f"{said} of the batch twice over, {twice.item():.6g} came")


def check_loss_far(subject: Subject) -> None:
    """Logits of 100 and more, right or wrong, leave the loss and its gradient finite."""
    make = method(subject, "loss")
    made, y = make(counts(subject)), batch(subject)[1]
    k = len(subject.spec.classes)
    for sure in (y, (y + 1) % k):
        x = (100.0 * one_hot(sure, k)).requires_grad_()
        value = _loss(made, x, y, 1.0)
        value.backward()
        right = bool(value.isfinite()) and x.grad is not None and bool(x.grad.isfinite().all())
        expect(right, f"loss: finite is expected for logits of 100, {value.item()} came")


def check_loss_soft(subject: Subject) -> None:
    """It takes labels (B, K), hard ones at the same cost; or it says `soft = False`."""
    make = method(subject, "loss")
    if not getattr(subject.use(), "soft", True):
        raise NotAsked("soft = False")
    made, x, y = make(counts(subject)), logits(subject), batch(subject)[1]
    for time in TIMES:
        value = _loss(made, x, soft(subject), time)
        right = tuple(value.shape) == () and bool(value.isfinite())
        expect(
            right, "loss: labels (B, K) are expected to give one finite number; set soft = False"
        )
        hard, told = _loss(made, x, y, time), _loss(made, x, one_hot(y, x.shape[1]).float(), time)
        said = f"loss: {hard.item():.6g} is expected of hard labels written as (B, K)"
        expect(near(hard, told, 1e-4), f"{said}, {told.item():.6g} came")


def check_prior(subject: Subject) -> None:
    """The prior that a loss says it teaches is (K,) shares, 0 or more, that sum to 1."""
    make = method(subject, "loss")
    told = [getattr(make(counts(subject, *n)), "prior", None) for n in SETS]
    if all(prior is None for prior in told):
        raise NotAsked("its loss names no prior")
    for prior in (each for each in told if each is not None):
        _check_prior("loss", prior, len(subject.spec.classes))


def check_second_stage(subject: Subject) -> None:
    """The last layer that it returns has the shape of the one before, finite, with a prior."""
    again = method(subject, "second_stage")
    before = head(subject)
    made = again(before, seen(subject), subject.seed)
    right = all(hasattr(made, name) for name in ("weight", "bias", "prior", "said"))
    expect(right, f"second_stage: a head is expected, a {type(made).__name__} came")
    for name in ("weight", "bias"):
        want, got = getattr(before, name).shape, plain(name, getattr(made, name))
        expect(got.shape == want, f"second_stage: {name} {want} is expected, {got.shape} came")
        finite = bool(np.isfinite(got).all())
        expect(finite, f"second_stage: a finite {name} is expected, {got.ravel()[:1]} came first")
    if getattr(subject.use(), "prior_known", True):
        _check_prior("second_stage", made.prior, len(before.bias))


def check_second_stage_input(subject: Subject) -> None:
    """It changes nothing in the last layer and the features that it is given."""
    again = method(subject, "second_stage")
    given, told = head(subject), seen(subject)
    again(given, told, subject.seed)
    for name, one, other in _arrays(given, head(subject)) + _arrays(told, seen(subject)):
        expect(equal(one, other), f"second_stage: the given {name} is changed in place")


def check_second_stage_twice(subject: Subject) -> None:
    """The same seed gives the same last layer."""
    method(subject, "second_stage")
    one, two = (_trained(subject) for _ in range(2))
    same = equal(one.weight, two.weight) and equal(one.bias, two.bias)
    expect(same, "second_stage: the same seed is expected to give the same; another head came")


def check_adjust(subject: Subject) -> None:
    """Adjusted logits are finite floats of the same shape, for no particle too; given ones stay."""
    adjust = method(subject, "adjust")
    for n in (12, 1, 0):
        given = logits(subject, n).numpy()
        found = plain("adjust", adjust(given, priors(subject)))
        expect(equal(given, logits(subject, n)), "adjust: the given logits are changed in place")
        shape = given.shape
        expect(found.shape == shape, f"adjust: shape {shape} is expected, {found.shape} came")
        right = found.dtype.kind == "f" and bool(np.isfinite(found).all())
        expect(right, f"adjust: finite floats are expected, {found.dtype} {found.ravel()[:1]} came")


def check_adjust_rows(subject: Subject) -> None:
    """The order of the particles matters to none of them, and neither does being asked again."""
    adjust = method(subject, "adjust")
    given, told = logits(subject).numpy(), priors(subject)
    found = adjust(given, told)
    expect(equal(found, adjust(given, told)), "adjust: not the same when called again")
    turned = adjust(given[::-1].copy(), told)
    expect(near(found[::-1], turned), "adjust: in another order a particle's logits are others")


def check_adjust_prevalence(subject: Subject) -> None:
    """What says `wants_prevalence = False` adjusts where the mix at work is not stated."""
    adjust = method(subject, "adjust")
    if getattr(subject.use(), "wants_prevalence", True):
        raise NotAsked("it wants a prevalence")
    found = plain("adjust", adjust(logits(subject).numpy(), priors(subject, stated=False)))
    expect(bool(np.isfinite(found).all()), "adjust: finite is expected without a prevalence")


def _loss(made: Any, x: Tensor, y: Tensor, time: float) -> Tensor:
    value = made(x, y, progress=time) if fit.takes(made, "progress") else made(x, y)
    if not isinstance(value, Tensor):
        raise Failed(f"loss: a tensor is expected, a {type(value).__name__} came")
    return value


def _check_prior(name: str, prior: Any, k: int) -> None:
    found = plain("prior", prior)
    expect(found.shape == (k,), f"{name}: a prior of shape ({k},) is expected, {found.shape} came")
    right = bool((found >= 0).all()) and abs(found.sum() - 1) < 1e-6
    expect(right, f"{name}: a prior that sums to 1 is expected, {found.tolist()} came")


def _arrays(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    names = [name for name, value in vars(one).items() if isinstance(value, np.ndarray)]
    return [(name, getattr(one, name), getattr(other, name)) for name in names]


def _trained(subject: Subject) -> Head:
    return verb(subject, "second_stage")(head(subject), seen(subject), subject.seed)


CHECKS = (
    check_loss,
    check_loss_mean,
    check_loss_far,
    check_loss_soft,
    check_prior,
    check_second_stage,
    check_second_stage_input,
    check_second_stage_twice,
    check_adjust,
    check_adjust_rows,
    check_adjust_prevalence,
)
