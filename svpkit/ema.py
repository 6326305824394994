"""The moving average of a model's weights."""

import copy

import torch
from torch import nn


class Ema:
    """Moving average of all weights and float buffers; `module` is the averaged model.

    The decay of step t is 1 - t^(-2/3), at most `decay`: short at first, so that a short training
    is not held back by its start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        mean, now = self.module.state_dict().values(), model.state_dict().values()
        pairs = list(zip(mean, now, strict=True))
        smooth = [p for p in pairs if p[0].is_floating_point()]
        # looked up once: walking the modules at every step would cost as much as a small network
        self._means, self._now = [m for m, _ in smooth], [n for _, n in smooth]
        self._counts = [p for p in pairs if not p[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's weights after `step` (from 0) into the average."""
        decay = min(self.decay, 1 - max(step, 1) ** (-2 / 3))
        torch._foreach_lerp_(  # type: ignore[attr-defined]
            self._means, self._now, 1 - decay
        )
        for mean, now in self._counts:
            mean.copy_(now)
