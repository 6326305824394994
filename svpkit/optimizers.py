"""Optimizers of a model's parts, and what holds the other parts still meanwhile."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from svpkit.plans import Plan

Group = dict[str, Any]


def parts_of(model: nn.Module) -> dict[str, list[Group]]:
    """Return the parameter groups of each part of a model, those alone that learn."""
    named = model.parts() if hasattr(model, "parts") else {"main": model.parameters()}  # type: ignore[operator]
    return {name: _groups(some) for name, some in named.items()}


def _groups(some: Iterable[nn.Parameter] | Iterable[Group]) -> list[Group]:
    items = list(some)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    return [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]  # type: ignore[dict-item]


def members(groups: list[Group]) -> list[nn.Parameter]:
    """Return the parameters of groups."""
    return [p for group in groups for p in group["params"]]


def others(model: nn.Module, own: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of a model that learn and are not among its `own`."""
    mine = {id(p) for p in own}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in mine]


@contextlib.contextmanager
def still(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Hold parameters still: what a part's loss goes through gets no gradients from it."""
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def optimizer_of(plan: Plan, parameters: list[Group]) -> torch.optim.Optimizer:
    """Return the optimizer that a plan names, for these groups."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, plan.lr, momentum=0.9, nesterov=True, weight_decay=plan.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.optimizer]
    return kind(parameters, plan.lr, weight_decay=plan.weight_decay)
