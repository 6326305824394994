"""What a trained model is made of, as arrays, and the check that it can be kept."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from svpkit.testing.learning import toys
from svpkit.testing.subject import Failed, Subject, expect


def state_of(model: Any) -> dict[str, Any]:
    """Return what a run keeps of a module or an object, as it gives it."""
    return dict(model.state_dict() if isinstance(model, nn.Module) else model.state())


def flat(model: Any) -> dict[str, np.ndarray]:
    """Return the state as arrays by name."""
    found = state_of(model)
    return {n: v.detach().numpy() if isinstance(v, Tensor) else v for n, v in found.items()}


def check_state(subject: Subject) -> None:
    """Its state is arrays of numbers by name: all that safetensors hold."""
    model = subject.build()
    if not isinstance(model, nn.Module):
        model.fit(toys(subject, 30), subject.seed)
    found = state_of(model)
    expect(bool(found), "state: it is empty")
    for name, value in found.items():
        shown = type(value).__name__
        if not isinstance(value, np.ndarray | Tensor):
            raise Failed(f"state: '{name}' is a {shown}, an array is wanted")
        numbers = isinstance(value, Tensor) or value.dtype.kind in "fiub"
        expect(numbers, f"state: '{name}' is not of numbers but of {value.dtype}")
