"""Looks at a generator in training: planted faults must each be told, and patience must end it."""

import re

import numpy as np
import pytest
import torch
import toy
from torch import nn

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.fit import Plan, Task, fit, to_float
from svpkit.generate.extractor import Extractor
from svpkit.generate.looks import Looks, concerns
from svpkit.particles.particleset import ParticleSet


def particles(n, seed):
    pixels, labels = toy.images({"disc": n}, seed)
    return ParticleSet.from_arrays(pixels, labels, ("disc",))


class Fixed(nn.Module):
    """Draws from a set of images, changed on the way."""

    def __init__(self, images, change=lambda x: x):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.images, self.change = to_float(torch.from_numpy(images)), change

    def sample(self, labels, seeds):
        which = draws.integers(seeds, (), len(self.images), "which")
        return self.change(self.images[which])


@pytest.fixture(scope="module")
def looks():
    with draws.seeded(0, "test"):
        eye = Extractor(1, 1).eval()
    train, val = particles(80, 0), particles(60, 1)
    with torch.no_grad():
        eye.measure([eye.pooled(to_float(torch.from_numpy(train.images())))])
    return lambda: Looks(eye, train, val, 0, "generator disc")


def test_real_images_give_no_concern(looks):
    found = looks()(Fixed(particles(400, 2).images()))
    assert "warnings" not in found
    assert abs(found["kid"]) < 0.2 and abs(found["background_shift_sd"]) < 0.5
    assert found["contrast"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x + 0.3, "the background is [+].* real sd off"),
        (lambda x: x.mean() + 0.2 * (x - x.mean()), "the contrast is 2.% of the real one"),
    ],
)
def test_a_planted_fault_is_told(looks, capsys, change, said):
    found = looks()(Fixed(particles(400, 2).images(), change))
    assert any(re.search(said, line) for line in found["warnings"])
    assert "generator disc: " in capsys.readouterr().err
    plain = looks()(Fixed(particles(400, 2).images()))
    assert found["kid"] > plain["kid"]


def test_numbers_that_are_none_end_the_training(looks):
    with pytest.raises(SvpkitError, match="generator disc: .*not finite"):
        looks()(Fixed(particles(40, 2).images(), lambda x: x * torch.nan))


def test_an_average_that_stands_still_is_told(looks):
    look, model = looks(), Fixed(particles(400, 2).images())
    assert "warnings" not in look(model)
    assert "averaged weights do not move" in look(model)["warnings"][0]
    with torch.no_grad():
        model.weight += 1
    assert "warnings" not in look(model)


def test_few_held_out_images_give_no_kid(looks):
    few = looks()
    few.val = particles(5, 1)
    found = few(Fixed(particles(40, 2).images()))
    assert found["kid"] is None and found["fid"] is None and concerns(found) == []


def counted(values):
    """A task whose validations give these values in turn."""
    left = list(values)
    task = Task(
        order=lambda step: np.zeros(4, int),
        fetch=lambda at: (np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, int)),
        loss=lambda model, x, y, seeds, part: (model.weight - 1).square().sum(),
        validate=lambda model: {"kid": left.pop(0)},
        validations=len(left),
        select="kid",
        lowest=True,
        choose=True,
        patience=2,
    )
    return task, left


def test_patience_stops_and_keeps_the_lowest(tmp_path):
    task, left = counted([5.0, 3.0, 4.0, 3.5, 1.0, 0.5])
    net, seen, ask = nn.Module(), [], task.validate
    net.weight = nn.Parameter(torch.zeros(1))

    def watched(model):
        seen.append(float(model.weight.detach()))
        return ask(model)

    task.validate = watched
    model, history = fit(net, Plan(96, 4, 1e-2), task, out=tmp_path, seed=0)
    assert left == [1.0, 0.5]
    assert [row["val"]["kid"] for row in history if "val" in row] == [5.0, 3.0, 4.0, 3.5]
    # the weights are those of the second look
    assert float(model.weight.detach()) == pytest.approx(seen[1]) and seen[1] < seen[3]
