"""The moving average of weights, against values worked by hand."""

import pytest
import torch
from torch import nn

from svpkit.ema import Ema


class Three(nn.Module):
    """One weight, one float buffer and one counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def set(self, weight, mean, count):
        with torch.no_grad():
            self.weight.fill_(weight)
            self.mean.fill_(mean)
            self.count.fill_(count)


def read(module):
    return [module.weight.item(), module.mean.item(), module.count.item()]


def test_three_steps_by_hand():
    model = Three()
    ema = Ema(model, decay=0.8)
    # decay 1 - 1^(-2/3) = 0; 1 - 8^(-2/3) = 3/4; min(0.8, 1 - 27^(-2/3) = 8/9) = 0.8
    for step, now, expected in (
        (1, (4, 1, 3), (4, 1, 3)),
        (8, (8, 3, 7), (5, 1.5, 7)),
        (27, (2, -2, 11), (4.4, 0.8, 11)),
    ):
        model.set(*now)
        ema.update(step)
        assert read(ema.module) == pytest.approx(expected)
        assert read(model) == list(now)
    assert ema.module.count.dtype == torch.int64


def test_the_first_steps_follow_the_model():
    model = Three()
    ema = Ema(model, decay=0.999)
    for step, weight in enumerate((6.0, 2.0, 4.0)):
        model.set(weight, 0, step)
        ema.update(step)
        # steps 0 and 1 keep nothing of the past; step 2 keeps 1 - 2^(-2/3) = 0.370039
        assert ema.module.weight.item() == pytest.approx((6, 2, 4 - 0.370039 * 2)[step], abs=1e-5)


def test_the_average_is_a_frozen_model_of_its_own():
    model = Three().train()
    ema = Ema(model, decay=0.9)
    assert not ema.module.training and not ema.module.weight.requires_grad
    assert model.training and model.weight.requires_grad
    # weights put in later, as after a stop, are the ones that go on
    ema.module.load_state_dict(
        {"weight": torch.ones(1), "mean": torch.ones(1), "count": torch.tensor(5)}
    )
    ema.update(1000)
    assert read(ema.module) == pytest.approx([0.9, 0.9, 0])
