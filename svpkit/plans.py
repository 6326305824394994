"""What a training is asked for: how long, at what rate, on what, and judged by what."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

Loss = Callable[..., Tensor]
Augment = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Fetch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Mix = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
# The shares of the run after which the schedule "step" goes on at a hundredth (Cao et al. 2019).
STEPS = (0.8, 0.9)


@dataclass(frozen=True)
class Plan:
    """How long and how to train: what the `train` table of a recipe holds too."""

    images: int
    batch: int
    lr: float
    schedule: str = "cosine"
    warmup: float = 0.05
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0


@dataclass
class Task:
    """What is trained on what.

    `order(step)` gives the positions of one batch, a pure function of the step; `fetch(positions)`
    their images uint8 (B, C, H, W) and labels int64 (B,). `loss(model, images, labels, seeds,
    part=)` defaults to the model's own forward, and is given `progress=`, the share of the run that
    is done, where it takes that. `mix(images, labels, partners, partner_labels, seeds)` comes after
    `augment`: a partner is the sample before it in the whole batch, the first one's the last, on
    however many processes. `validate(model)` gives scores; the weights of the best `select` (the
    highest, or the lowest where `lowest`) are kept when `choose` is true, else the last; before
    the share `choose_from` of the run nothing is chosen. `patience` validations without a better
    one end the training; 0 = none do.
    """

    order: Callable[[int], np.ndarray]
    fetch: Fetch
    loss: Loss | None = None
    augment: Augment | None = None
    mix: Mix | None = None
    validate: Callable[[nn.Module], dict[str, Any]] | None = None
    validations: int = 8
    select: str = "macro_auprc"
    lowest: bool = False
    choose: bool = False
    choose_from: float = 0.0
    patience: int = 0
    label: str = "training"


def learning_rate(plan: Plan, images: int) -> float:
    """Return the rate after `images`: linear warm-up over a share of the run, then the schedule."""
    start = plan.warmup * plan.images
    if images < start:
        return plan.lr * (images + plan.batch) / (start + plan.batch)
    if plan.schedule == "constant":
        return plan.lr
    if plan.schedule == "step":
        return plan.lr * 0.01 ** sum(images >= share * plan.images for share in STEPS)
    done = (images - start) / max(plan.images - start, 1)
    return plan.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def progress(plan: Plan, step: int) -> float:
    """Return the share of the run that is done before this step, in 0 .. 1."""
    return min(step * plan.batch / plan.images, 1.0)


def takes(call: Callable[..., Any], name: str) -> bool:
    """Return True when a function names this parameter."""
    return name in inspect.signature(call).parameters
