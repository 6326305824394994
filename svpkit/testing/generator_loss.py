"""Checks of a generator's loss: a number, of each seed alone, that reaches what is to learn."""

import copy
from typing import Any

import torch
from torch import nn

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.testing import watch
from svpkit.testing.learning import batch
from svpkit.testing.subject import NotAsked, Subject, expect, refuses


def check_loss(subject: Subject) -> None:
    """Each part's loss is one finite number, for 1 and 3 channels where it is for both."""
    for channels in (1, 3):
        spec = ImageSpec(channels, subject.spec.size, subject.spec.classes)
        try:
            model = module_of(subject, spec)
        except SvpkitError as error:
            expect(spec != subject.spec and refuses(error), f"loss: {error}")
            continue
        for part in parts_of(model):
            loss = model(*batch(subject, spec=spec), part=part).detach()
            shape = tuple(loss.shape)
            expect(shape == (), f"loss: part '{part}' gives {shape}, () is wanted")
            expect(bool(torch.isfinite(loss)), f"loss: part '{part}' is {loss.item()}")


def check_parts(subject: Subject) -> None:
    """`parts()` names every trainable parameter, and each once."""
    model = module_of(subject)
    named = [id(p) for part in parts_of(model).values() for p in part]
    every = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    left = [name for key, name in every.items() if key not in named]
    expect(not left, f"parts: no part has {', '.join(left[:3])}: it never learns")
    expect(len(named) == len(set(named)), "parts: a parameter is in two parts")


def check_gradients(subject: Subject) -> None:
    """Each part's loss reaches every parameter of that part with a finite gradient."""
    model = module_of(subject)
    names = {id(p): name for name, p in model.named_parameters()}
    for part, parameters in parts_of(model).items():
        model.zero_grad(set_to_none=True)
        model(*batch(subject), part=part).backward()
        for p in parameters:
            said = f"gradients: the loss of '{part}' does not reach {names[id(p)]}"
            expect(p.grad is not None, said)
            expect(bool(torch.isfinite(p.grad).all()), f"{said}: it is not finite")  # type: ignore[union-attr]


def check_loss_seeds(subject: Subject) -> None:
    """The loss belongs to (images, labels, seeds): no other chance, whatever a sample's place."""
    model = module_of(subject)
    for part in parts_of(model):
        images, labels, seeds = batch(subject)
        losses = []
        for k, order in enumerate((slice(None), slice(None), torch.arange(6).flip(0))):
            with watch.seeded_globally(k):
                given = (x[order] for x in (images, labels, seeds))
                losses.append(copy.deepcopy(model)(*given, part=part).item())  # type: ignore[misc]
        first, again, turned = losses
        expect(first == again, f"loss_seeds: the same batch gives {first:.6g}, then {again:.6g}")
        near = abs(first - turned) <= 1e-4 * max(1, abs(first))
        expect(near, f"loss_seeds: {first:.6g}, in another order {turned:.6g}: not of each seed")


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the trainable parameters of each part; of a model that names none, all as "main"."""
    found = model.parts() if hasattr(model, "parts") else {"main": model.parameters()}  # type: ignore[operator]
    return {name: [p for p in _members(some) if p.requires_grad] for name, some in found.items()}


def _members(some: Any) -> list[nn.Parameter]:
    # parameters, or groups of them with a rate of their own
    items = list(some)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    return [p for group in groups for p in group["params"]]


def module_of(subject: Subject, spec: ImageSpec | None = None) -> nn.Module:
    """Return the module that is built; raises NotAsked for an object: it has no loss."""
    model = subject.build(spec)
    if not isinstance(model, nn.Module):
        raise NotAsked("an object has no loss")
    return model
