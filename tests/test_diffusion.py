"""The options of `ddpm`: objectives, weights, labels left unsaid, guidance, folding, samplers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from svpkit import draws
from svpkit.default_plugins.ddpm import ddpm
from svpkit.errors import SvpkitError
from svpkit.generate import drawing, objective, schedules
from svpkit.generate.samplers import SAMPLERS
from svpkit.generate.schedules import GRIDS
from svpkit.hookspecs import ImageSpec
from svpkit.plugins import discover

ONE, TWO = ImageSpec(1, 16, ("disc",)), ImageSpec(1, 16, ("disc", "bar"))
LEAN = {"architecture": "lean", "width": 8, "mults": (1, 2), "blocks": 1}
REFERENCE = {**LEAN, "architecture": "reference"}


def model(spec=TWO, **options):
    """A small model with something to say in every layer."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = ddpm(spec, **{**LEAN, **options}).eval()
        for p in net.network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def batch(n):
    seeds = draws.seeds(0, "test", index=range(n))
    return draws.uniform(seeds, (1, 16, 16), "image") * 2 - 1, torch.arange(n) % 2, seeds


class Spy(torch.nn.Module):
    """Remembers what it is asked and answers with a fixed function of it."""

    def forward(self, x, time, labels):
        self.x, self.time, self.labels = x, time, labels
        return torch.sin(3 * x)


def asked(net, n=256):
    """Return what a network is asked in training, the noise it was given, and the loss."""
    net.network = Spy()
    images, labels, seeds = batch(n)
    loss = net(images, labels, seeds)
    return images, draws.normal(seeds, (1, 16, 16), "noise"), net.network, float(loss)


def at(net, spy):
    alpha, sigma = schedules.levels(net._levels(batch(len(spy.x))[2])[1].double())
    return alpha[:, None, None, None], sigma[:, None, None, None]


def test_edm_loss_is_karrass():
    # Karras et al. 2022, table 1 and equation 8, in their own terms: y = x + sigma n
    net = model(ONE, prediction="edm", augment=False)
    sd, centre = 0.3, 0.1
    net.scale.fill_(sd)
    net.centre.fill_(centre)
    images, noise, spy, loss = asked(net)
    alpha, root = at(net, spy)
    sigma = sd * root / alpha
    x, noise = images.double() - centre, noise.double()
    y = x + sigma * noise
    c_skip = sd**2 / (sigma**2 + sd**2)
    c_out = sigma * sd / (sigma**2 + sd**2).sqrt()
    c_in = 1 / (sigma**2 + sd**2).sqrt()
    torch.testing.assert_close(spy.x.double(), c_in * y, atol=1e-5, rtol=0)
    # the sign of the network's answer is a convention
    found = -torch.sin(3 * c_in * y)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    expected = (weight * (c_skip * y + c_out * found - x) ** 2).mean()
    assert loss == pytest.approx(float(expected), abs=1e-5)
    # and drawing sees the image that their preconditioning sees
    image = objective.image("edm", spy.x.double(), -found, alpha, root)
    torch.testing.assert_close(sd * image, c_skip * y + c_out * found, atol=1e-5, rtol=0)


def test_edm_trains_on_karrass_levels():
    net = model(ONE, prediction="edm", schedule="cosine", timesteps=1000)
    _, lam = net._levels(draws.seeds(0, "levels", index=range(20_000)))
    # ln sigma is normal of mean -1.2 and sd 1.2 for data of sd 0.5
    log_sigma = np.log(0.5) - lam.numpy()
    assert np.median(log_sigma) == pytest.approx(-1.2, abs=0.03)
    low, high = np.quantile(log_sigma, [0.16, 0.84])
    assert (high - low) / 2 == pytest.approx(1.2, abs=0.04)


@pytest.mark.parametrize("prediction", ["noise", "image", "v", "edm"])
def test_the_image_behind_the_target_is_the_image(prediction):
    x, noise = draws.normal(batch(4)[2], (2, 1, 16, 16), "both").double().unbind(1)
    alpha, sigma = (v.view(4, 1, 1, 1) for v in schedules.levels(torch.linspace(-2, 2, 4).double()))
    told = objective.target(prediction, x, noise, alpha, sigma)
    found = objective.image(prediction, alpha * x + sigma * noise, told, alpha, sigma)
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize(
    ("prediction", "loss", "distance"),
    [
        ("noise", "auto", F.l1_loss),
        ("image", "auto", F.l1_loss),
        ("v", "auto", F.l1_loss),
        ("edm", "auto", F.mse_loss),
        ("edm", "l1", F.l1_loss),
        ("v", "l2", F.mse_loss),
        ("v", "huber", F.smooth_l1_loss),
    ],
)
def test_losses(prediction, loss, distance):
    net = model(ONE, prediction=prediction, loss=loss, augment=False)
    images, noise, spy, found = asked(net)
    alpha, sigma = at(net, spy)
    targets = {"noise": noise, "image": images}
    target = targets.get(prediction, alpha * noise - sigma * images).float()
    torch.testing.assert_close(spy.x.double(), alpha * images + sigma * noise, atol=1e-5, rtol=0)
    assert found == pytest.approx(float(distance(torch.sin(3 * spy.x), target)), abs=1e-5)


@pytest.mark.parametrize("prediction", ["noise", "image", "v"])
def test_min_snr_weights(prediction):
    # Hang et al. 2023: whatever is predicted, it comes to min(snr, gamma) on the image's error
    net = model(ONE, prediction=prediction, loss="l2", augment=False, min_snr=5)
    images, _, spy, loss = asked(net)
    alpha, sigma = at(net, spy)
    behind = objective.image(
        prediction, spy.x.double(), torch.sin(3 * spy.x).double(), alpha, sigma
    )
    weight = (alpha / sigma).square().clamp(max=5)
    expected = (weight * (behind - images.double()).square()).mean()
    assert loss == pytest.approx(float(expected), rel=1e-3)


def test_min_snr_of_any_size_is_no_weight_for_noise():
    plain, weighted = (model(ONE, min_snr=g, loss="l2") for g in (0, 1e12))
    assert asked(plain)[-1] == pytest.approx(asked(weighted)[-1], rel=1e-6)


def test_labels_are_left_unsaid_by_seed():
    net = model(label_dropout=0.25)
    _, _, spy, _ = asked(net, 4000)
    told, labels = spy.labels, batch(4000)[1]
    assert float((told == 2).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(told[told != 2], labels[told != 2])
    again = asked(net, 400)[2].labels
    assert torch.equal(again, told[:400])
    assert torch.equal(asked(model(), 400)[2].labels, labels[:400])


@pytest.mark.parametrize("options", [LEAN, REFERENCE])
def test_label_dropout_costs_one_row(options):
    plain, dropped = (dict(model(**options, label_dropout=p).state_dict()) for p in (0.0, 0.1))
    name = "network.condition.labels.weight"
    assert plain.pop(name).shape == (2, 32) and dropped.pop(name).shape == (3, 32)
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in dropped.items()}


class Constant(torch.nn.Module):
    """Believes in one grey level a label: 0, 0.2, and 0.1 where the label is unsaid."""

    def forward(self, x, time, labels):
        level = torch.tensor([0.0, 0.2, 0.1])[labels]
        return level.view(-1, 1, 1, 1).expand_as(x)


def test_guidance_goes_from_unsaid_past_said():
    net = model(prediction="image", label_dropout=0.1)
    net.network = Constant()
    labels, seeds = torch.tensor([0, 1]), batch(2)[2]
    for guidance, levels in ((0, (0.1, 0.1)), (1, (0, 0.2)), (3, (-0.2, 0.4))):
        out = net.sample(labels, seeds, steps=3, guidance=guidance)
        expected = torch.tensor(levels).view(2, 1, 1, 1).expand_as(out)
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_guidance_needs_unsaid_labels():
    net = model()
    with pytest.raises(SvpkitError, match=r"here.guidance: given 2.*generator.options.label_drop"):
        net.check_sample({"steps": 3, "guidance": 2.0}, "here")
    model(label_dropout=0.1).check_sample({"steps": 3, "guidance": 2.0}, "here")


def test_label_dropout_needs_several_classes():
    net = model(ONE, label_dropout=0.1)
    with pytest.raises(SvpkitError, match="generator.options.label_dropout: given 0.1.*one class"):
        net.check_sample({"steps": 3, "guidance": 1.0}, "here")


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (ONE, {"zero_terminal": True}, "generator.options.zero_terminal: .* 'v' or 'image'"),
        (ONE, {"min_snr": 5.0, "prediction": "edm"}, "generator.options.min_snr: given 5.0"),
        (ONE, {"min_snr": 5.0, "loss": "l1"}, "generator.options.loss: given 'l1', min_snr"),
        (
            ONE,
            {"min_snr": 5.0, "zero_terminal": True, "prediction": "v"},
            "generator.options.min_snr: given 5.0, which leaves",
        ),
        (ONE, {"zero_terminal": True, "prediction": "edm"}, "zero_terminal: .* 'v' or 'image'"),
    ],
)
def test_options_that_do_not_go_together(spec, options, said):
    with pytest.raises(SvpkitError, match=said):
        model(spec, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prediction": "eps"}, "generator.options.prediction: given 'eps'"),
        ({"levels": "uniform"}, "unknown 'levels'"),
        ({"schedule": "sigmoyd"}, "did you mean 'sigmoid'"),
        ({"min_snr": -1}, "generator.options.min_snr: given -1"),
        ({"label_dropout": 1.0}, "generator.options.label_dropout: given 1.0"),
        ({"loss": "l3"}, "generator.options.loss: given 'l3'"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(SvpkitError, match=said):
        discover(builtin_only=True).use("generator", "ddpm", options, "generator.plugin")


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("grid", sorted(GRIDS))
@pytest.mark.parametrize("schedule", sorted(schedules.SCHEDULES))
def test_pure_noise_is_a_start_for_every_sampler(sampler, grid, schedule):
    net = model(prediction="v", zero_terminal=True, schedule=schedule, timesteps=60)
    loss = net(*batch(64))
    assert bool(torch.isfinite(loss))
    for steps in (1, 2, 7):
        out = net.sample(*batch(2)[1:], sampler=sampler, grid=grid, steps=steps)
        assert bool(torch.isfinite(out).all())


def test_pure_noise_with_another_prediction():
    net = model(zero_terminal=True, prediction="image")
    assert bool(torch.isfinite(net(*batch(64))))
    assert bool(torch.isfinite(net.sample(*batch(2)[1:], steps=5)).all())


@pytest.mark.parametrize("schedule", sorted(schedules.SCHEDULES))
def test_edm_is_not_asked_beyond_the_levels_that_it_trains_on(schedule):
    net = model(prediction="edm", schedule=schedule)
    assert float(net.lam.min()) >= -np.log(160) - 1e-4
    assert float(model(prediction="v", schedule="cosine").lam.min()) < -np.log(160)


def test_the_grid_is_the_samplers_own_or_the_one_asked_for():
    net, (_, labels, seeds) = model(), batch(2)

    def drawn(**options):
        return net.sample(labels, seeds, steps=6, **options)

    assert torch.equal(drawn(), drawn(grid="lambda"))
    assert torch.equal(drawn(sampler="ancestral"), drawn(sampler="ancestral", grid="time"))
    for grid in ("time", "karras"):
        assert not torch.equal(drawn(), drawn(grid=grid))


def test_folded_weights_draw_the_same():
    net = model(**REFERENCE).to(memory_format=torch.channels_last)
    images, labels, seeds = batch(4)
    time = torch.tensor([0.0, 100.0, 300.0, 499.0])
    with torch.no_grad():
        plain = net.network(images, time, labels)
        drawn = net.sample(labels, seeds, steps=6)
        before = net.network.last.first.weight.clone()
        for _ in range(2):  # folding what is folded changes nothing
            net.fold()
            torch.testing.assert_close(net.network(images, time, labels), plain, atol=1e-5, rtol=0)
            again = net.sample(labels, seeds, steps=6)
            torch.testing.assert_close(again, drawn, atol=1e-5, rtol=0)
    folded = net.network.last.first.weight
    assert not torch.equal(folded, before)
    # each filter has mean 0 and variance 1, in plain weights
    flat = folded.detach().flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(len(flat)), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        flat.var(dim=1, correction=0), torch.ones(len(flat)), rtol=0.01, atol=0
    )
    assert folded.is_contiguous(memory_format=torch.channels_last)


def test_a_lean_network_has_nothing_to_fold():
    net = model()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.fold()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_image_depends_on_its_seed_alone(sampler, guidance):
    net = model(label_dropout=0.1)
    labels, seeds = np.arange(12) % 2, drawing.seeds_of(3, "disc", np.arange(12))
    sample = {"sampler": sampler, "steps": 8, "guidance": guidance}
    every = drawing.draw(net, labels, seeds, sample, chunk=4)
    assert np.array_equal(every[:6], drawing.draw(net, labels[:6], seeds[:6], sample, chunk=4))
    assert np.array_equal(every[8:], drawing.draw(net, labels[8:], seeds[8:], sample, chunk=4))
    for chunk in (1, 5, 12):
        other = drawing.draw(net, labels, seeds, sample, chunk=chunk).astype(int)
        assert (np.abs(other - every) <= 1).mean() >= 0.999
    assert len({x.tobytes() for x in every}) == 12
