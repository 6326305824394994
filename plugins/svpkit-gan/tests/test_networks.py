"""The layers, the augmentation and the losses, each against another road."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from svpkit import ImageSpec, SvpkitError, draws
from torch import nn

from svpkit_gan import augment, base_of, gan, model
from svpkit_gan.networks import Discriminator, Styled

SEEDS = draws.seeds(0, "test", index=range(400))


def build(classes=("a", "b"), size=16, channels=1, **options):
    with draws.seeded(0, "build"):
        return gan(ImageSpec(channels, size, classes), **{"width": 8, "latent": 8, **options})


def normal(*shape, stream="x"):
    return draws.normal(SEEDS[: shape[0]], shape[1:], stream)


class Plane(nn.Module):
    """A discriminator whose gradient is known: <w_label, x>."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.stack([torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), 2.0)]))

    def forward(self, images, labels):
        return (self.w[labels] * images).sum(dim=(1, 2, 3))


def test_a_styled_convolution_is_one_with_weights_of_its_own_for_each_image():
    layer = Styled(3, 5, 4)
    x, style = normal(6, 3, 8, 8), normal(6, 4, stream="style")
    by = style @ layer.style.weight.T * layer.style.scale + 1
    weights = layer.weight[None] * by[:, None, :, None, None]
    weights = weights / weights.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    hand = [F.conv2d(x[i : i + 1], weights[i], padding=1)[0] for i in range(6)]
    torch.testing.assert_close(layer(x, style), torch.stack(hand), rtol=1e-4, atol=1e-5)


def test_the_label_is_an_inner_product_with_the_features():
    net = Discriminator((1, 16, 4), 3, 8)
    x = normal(5, 1, 16, 16)
    each = torch.stack([net(x, torch.full((5,), k)) for k in range(3)], dim=1)
    h = net.features(x)
    plain = h @ net.psi.weight.T / math.sqrt(h.shape[1]) + net.psi.bias
    torch.testing.assert_close(each, plain + h @ net.label.T / math.sqrt(h.shape[1]))


def test_r1_of_a_plane_is_half_its_squared_slope():
    plane, labels = Plane(), torch.tensor([0, 1, 1])
    found = model.r1_penalty(plane, normal(3, 1, 4, 4), labels)
    assert found.tolist() == pytest.approx([0.5 * 16 * 0.25, 0.5 * 16 * 4, 0.5 * 16 * 4])
    found.sum().backward()
    # d/dw of |w|^2 / 2, once for each image of the class
    torch.testing.assert_close(plane.w.grad[0], plane.w[0].detach())
    torch.testing.assert_close(plane.w.grad[1], 2 * plane.w[1].detach())


def test_r1_of_the_network_is_what_differences_say():
    net, labels = Discriminator((1, 16, 4), 2, 8).double(), torch.tensor([0, 1])
    x = normal(2, 1, 16, 16).double()
    steps = 1e-6 * torch.eye(256, dtype=torch.double).view(256, 1, 16, 16)
    with torch.no_grad():
        for i in range(2):
            y = labels[i].expand(256)
            slope = (net(x[i] + steps, y) - net(x[i] - steps, y)) / 2e-6
            found = model.r1_penalty
            with torch.enable_grad():
                penalty = found(net, x[i : i + 1], labels[i : i + 1])
            assert float(penalty.detach()) == pytest.approx(
                float(slope.square().sum() / 2), rel=1e-4
            )


def test_the_loss_is_logistic_and_r1_counts_one_image_of_four(monkeypatch):
    net = build(augment=(), r1=3.0)
    net.discriminator = plane = Plane()
    drawn = normal(400, 1, 4, 4, stream="drawn")
    monkeypatch.setattr(net, "_drawn", lambda labels, seeds, stream: drawn)
    x, labels = normal(400, 1, 4, 4), torch.arange(400) % 2
    real, fake = plane(x, labels), plane(drawn, labels)
    chosen = draws.integers(SEEDS, (), 4, "r1") == 0
    assert 70 < int(chosen.sum()) < 130
    half = plane.w.square().sum(dim=(1, 2, 3))[labels] / 2
    logistic = torch.log1p(torch.exp(-real)).mean() + torch.log1p(torch.exp(fake)).mean()
    hand = logistic + 3.0 * 4 * (half * chosen).mean()
    found = net(x, labels, SEEDS, part="discriminator")
    assert float(found.detach()) == pytest.approx(float(hand.detach()), rel=1e-5)
    found = net(x, labels, SEEDS, part="generator")
    hand = torch.log1p(torch.exp(-fake)).mean()
    assert float(found.detach()) == pytest.approx(float(hand.detach()), rel=1e-5)


@pytest.mark.parametrize("part", ["discriminator", "generator"])
def test_a_batch_is_the_mean_of_its_halves(part):
    net, x, labels = build(), normal(32, 1, 16, 16), torch.arange(32) % 2
    whole = net(x, labels, SEEDS[:32], part=part)
    halves = [
        net(x[at], labels[at], SEEDS[:32][at], part=part) for at in (slice(16), slice(16, 32))
    ]
    torch.testing.assert_close(whole, torch.stack(halves).mean(), rtol=1e-5, atol=1e-5)
    elsewhere = net(x, labels, SEEDS[32:64], part=part)
    assert abs(float((whole - elsewhere).detach())) > 1e-4


def test_a_part_reaches_its_own_network_and_an_unknown_one_is_refused():
    net, x, labels = build(), normal(8, 1, 16, 16), torch.arange(8) % 2
    net(x, labels, SEEDS[:8], part="discriminator").backward()
    assert all(p.grad is None for p in net.generator.parameters())
    assert all(p.grad is not None for p in net.discriminator.parameters())
    with pytest.raises(SvpkitError, match="no part 'main', it has discriminator and generator"):
        net(x, labels, SEEDS[:8])


def test_the_parts_hold_every_parameter_once():
    net = build(discriminator_rate=0.5)
    parts = net.parts()
    ids = [id(p) for groups in parts.values() for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(map(id, net.parameters())) and len(set(ids)) == len(ids)
    assert [parts[n][0]["rate"] for n in ("discriminator", "generator")] == [0.5, 1.0]


@pytest.mark.parametrize("kind", augment.KINDS)
def test_an_image_is_changed_by_its_seed_alone_and_lets_gradients_through(kind):
    x = normal(40, 2, 16, 16).requires_grad_()
    out = augment.augmented(x, SEEDS[:40], [kind], "s")
    some = [31, 5, 6]
    alone = augment.augmented(x[some], SEEDS[some], [kind], "s")
    assert out.shape == x.shape and torch.equal(out[some], alone)
    assert not torch.equal(out, augment.augmented(x, SEEDS[:40], [kind], "other"))
    out.sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_turns_are_the_eight_of_a_square_about_equally_often():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    out = augment.turn(image.expand(400, -1, -1, -1), SEEDS, "s")
    eight = [torch.rot90(i, k, (2, 3)) for i in (image, image.flip(3)) for k in range(4)]
    counts = [sum(torch.equal(o[None], e) for o in out) for e in eight]
    assert sum(counts) == 400 and min(counts) > 25


def test_a_shift_moves_whole_pixels_and_mirrors_the_border():
    image = np.arange(16.0 * 16).reshape(16, 16)
    padded = np.pad(image, 2, mode="reflect")
    ways = {padded[i : i + 16, j : j + 16].tobytes() for i in range(5) for j in range(5)}
    x = torch.from_numpy(image)[None, None].expand(400, -1, -1, -1)
    found = {o[0].numpy().tobytes() for o in augment.shift(x, SEEDS, "s")}
    assert found == ways


def test_a_cutout_hides_at_most_a_quarter_and_light_is_a_straight_line():
    ones = torch.ones(400, 1, 16, 16)
    share = 1 - augment.cutout(ones, SEEDS, "s").mean(dim=(1, 2, 3))
    assert 0.05 < float(share.min()) and float(share.max()) <= 81 / 256
    at = [augment.light(level * ones, SEEDS, "s")[:, 0, 0, 0] for level in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(at[2] - at[1], at[1] - at[0])
    assert float(at[0].abs().max()) <= 0.3 and abs(float((at[1] - at[0]).mean()) - 1) < 0.03


@pytest.mark.parametrize(("size", "base"), [(16, 4), (20, 5), (28, 7), (48, 6), (128, 4)])
def test_sizes_are_a_few_pixels_doubled(size, base):
    assert base_of(size) == base
    if size < 50:
        images = build(size=size, channels=3).sample(torch.tensor([0, 1]), SEEDS[:2])
        assert images.shape == (2, 3, size, size)


@pytest.mark.parametrize(("size", "near"), [(8, 16), (50, 48), (256, 128)])
def test_another_size_is_refused_in_a_line(size, near):
    with pytest.raises(SvpkitError, match=f"data.size is {size} .nearest: {near}."):
        gan(ImageSpec(1, size, ("a",)))
