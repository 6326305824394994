"""Options that no other test says by name."""

import pytest
import torch

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.plugins import discover


def test_operations_says_how_many_changes_randaugment_makes():
    registry = discover(builtin_only=True)
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 2:5, 3:4] = 1.0
    seeds = draws.seeds(0, "operations", index=range(200))

    def share_changed(n):
        use = registry.use("strategy", "randaugment", {"operations": n}, "balance.randaugment")
        changed, _ = use().augment(images, torch.zeros(200, dtype=torch.int64), seeds)
        return float((changed != images).flatten(1).any(1).float().mean())

    assert share_changed(1) < share_changed(2) < share_changed(6)
    for wrong in (0, 17):
        options = {"operations": wrong}
        with pytest.raises(SvpkitError, match=r"balance\.randaugment\.operations"):
            registry.use("strategy", "randaugment", options, "balance.randaugment")
