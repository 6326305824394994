"""Short measurements of how fast a model trains and draws here, for honest estimates."""

import inspect
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from svpkit import devices, draws
from svpkit.hookspecs import ImageSpec


def training_rate(model: Any, spec: ImageSpec, batch: int, seconds: float) -> float:
    """Return images trained a second: forward, backward and update, the first step not counted."""
    if not isinstance(model, nn.Module):
        return float("inf")
    device = devices.device()
    model = model.to(device).train()
    x = torch.rand(batch, spec.channels, spec.size, spec.size, device=device) * 2 - 1
    y = torch.zeros(batch, dtype=torch.int64, device=device)
    seeds = draws.seeds(0, "probe", index=range(batch)).to(device)
    generates = hasattr(model, "sample")

    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(x, y, seeds) if generates else nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return batch * _times(step, seconds)


@torch.no_grad()
def scoring_rate(model: Any, spec: ImageSpec, seconds: float, batch: int = 128) -> float:
    """Return images classified a second."""
    if not isinstance(model, nn.Module):
        return float("inf")
    device = devices.device()
    model = model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.rand(batch, spec.channels, spec.size, spec.size, device=device) * 2 - 1
    return batch * _times(lambda: model(x), seconds)


@torch.no_grad()
def drawing_rate(model: Any, sample: Mapping[str, Any], seconds: float, batch: int = 8) -> float:
    """Return images drawn a second, in small batches: a large one is a little quicker.

    Where `sample` counts network calls in `steps`, one is timed and the rest reckoned.
    """
    device = devices.device()
    if not isinstance(model, nn.Module):
        return float("inf")
    model = model.to(device).eval()
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    seeds = draws.seeds(0, "probe", index=range(batch)).to(device)
    counted = inspect.signature(model.sample).parameters.get("steps")
    steps = sample.get("steps", counted.default) if counted else 1
    one = {**sample, "steps": 1} if counted else dict(sample)
    return batch * _times(lambda: model.sample(labels, seeds, **one), seconds) / steps


def _times(work: Any, seconds: float) -> float:
    work()
    started, n = time.monotonic(), 0
    while n == 0 or time.monotonic() - started < seconds:
        work()
        n += 1
    return n / (time.monotonic() - started)
