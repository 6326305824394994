import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from svpkit.classify import losses
from svpkit.classify.balance import compose, deployment
from svpkit.classify.stage import order
from svpkit.classify.strategies import (
    Augment,
    ClassWeights,
    Context,
    Oversample,
    PriorCorrection,
    Priors,
    Synthetic,
)
from svpkit.default_plugins import strategies as registered
from svpkit.errors import SvpkitError
from svpkit.options import check_options
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import Plugin, Use

CLASSES = ("protein", "oil", "bubble")
COUNTS = {"protein": 80, "oil": 16, "bubble": 4}


def use(name, **options):
    plugin = Plugin("strategy", name, getattr(registered, name), "svpkit", "", "built-in")
    return Use(plugin, check_options(plugin.options, options, f"balance.{name}"))


def particles(counts, origin="real", seed=0):
    labels = [name for name, n in counts.items() for _ in range(n)]
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 8, 8)).astype(np.uint8)
    ids = [f"{origin}-{i}" for i in range(len(labels))]
    return ParticleSet.from_arrays(images, labels, CLASSES, origin=origin, id=ids)


def prior(uses, drawn=None):
    prepared = compose(uses).prepare(particles(COUNTS), Context(CLASSES, drawn=drawn))
    return prepared.prior


def test_class_weights_by_hand():
    # shares .8 .16 .04; 1/share, scaled to a mean of 1 over particles: 1/(3 share)
    loss = ClassWeights().loss(COUNTS)
    assert loss.weights == pytest.approx([1 / 2.4, 1 / 0.48, 1 / 0.12])
    assert loss.prior == pytest.approx([1 / 3] * 3)
    root = ClassWeights(0.5).loss(COUNTS)
    assert root.prior == pytest.approx(np.sqrt([80, 16, 4]) / np.sqrt([80, 16, 4]).sum())
    assert ClassWeights(0).loss(COUNTS).prior == pytest.approx([0.8, 0.16, 0.04])


def test_weighted_loss_is_torchs_over_a_whole_epoch():
    rng = np.random.default_rng(0)
    labels = torch.tensor(np.repeat([0, 1, 2], [80, 16, 4]))
    logits = torch.tensor(rng.normal(size=(100, 3)), dtype=torch.float32)
    loss = ClassWeights().loss(COUNTS)
    theirs = torch.nn.functional.cross_entropy(
        logits, labels, weight=torch.tensor([1 / 80, 1 / 16, 1 / 4])
    )
    assert float(loss(logits, labels)) == pytest.approx(float(theirs), rel=1e-6)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert float(losses.cross_entropy(COUNTS)(logits, labels)) == pytest.approx(float(plain))


def test_a_class_without_particles_weighs_nothing():
    loss = ClassWeights().loss({"protein": 6, "oil": 0, "bubble": 2})
    assert loss.weights == pytest.approx([8 / 12, 0, 8 / 4])
    assert loss.prior == pytest.approx([0.5, 0, 0.5])


def test_oversampling_evens_the_classes_out():
    labels = particles(COUNTS).labels
    weights = Oversample().sampler(labels)
    assert weights[[0, 80, 96]] == pytest.approx([1 / 80, 1 / 16, 1 / 4])
    assert Oversample(0.5).sampler(labels)[96] == pytest.approx(0.5)
    at = np.concatenate([order(100, 50, 1, weights)(step) for step in range(400)])
    assert np.bincount(labels[at]) / 20_000 == pytest.approx([1 / 3] * 3, abs=0.02)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["none"], [0.8, 0.16, 0.04]),
        (["augment"], [0.8, 0.16, 0.04]),
        (["prior_correction", "augment"], [0.8, 0.16, 0.04]),
        (["oversample"], [1 / 3] * 3),
        (["class_weights"], [1 / 3] * 3),
        (["oversample", "class_weights", "none"], [1 / 3] * 3),
    ],
)
def test_the_prior_that_training_saw(names, expected):
    assert prior([use(name) for name in names]) == pytest.approx(expected)


def test_the_prior_counts_drawn_particles_and_half_corrections():
    drawn = particles({"oil": 64, "bubble": 36}, "synthetic")
    assert prior([use("synthetic")], drawn) == pytest.approx([0.4, 0.4, 0.2])
    # 80, 80, 40 particles, each seen with weight n ** -0.5: class mass n ** 0.5
    half = np.sqrt([80, 80, 40])
    assert prior([use("synthetic"), use("oversample", power=0.5)], drawn) == pytest.approx(
        half / half.sum()
    )
    # weights n ** -0.5 of what resampling shows: mass n ** 0.25 in the end
    quarter = np.sqrt(half)
    both = [use("synthetic"), use("oversample", power=0.5), use("class_weights", power=0.5)]
    assert prior(both, drawn) == pytest.approx(quarter / quarter.sum())


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Synthetic(), {"oil": 64, "bubble": 76}),
        (Synthetic(at_most=70), {"oil": 64, "bubble": 70}),
        (Synthetic(to={"oil": 20, "bubble": 2}), {"oil": 4}),
        (Synthetic(to=0.5), {"oil": 8, "bubble": 2}),
        (Synthetic(to=5.0, at_most=30), {"oil": 30, "bubble": 20}),
        (Synthetic(to=0.0), {}),
    ],
)
def test_how_many_are_drawn(strategy, expected):
    assert strategy.draws(COUNTS) == expected


def test_drawn_particles_follow_the_real_ones():
    train, drawn = particles(COUNTS), particles({"oil": 3}, "synthetic")
    both = compose([use("synthetic")]).prepare(train, Context(CLASSES, drawn=drawn)).train
    assert both.counts == {"protein": 80, "oil": 19, "bubble": 4}
    assert both.table["id"].tolist() == [*train.table["id"], *drawn.table["id"]]
    assert np.array_equal(both.images(slice(100, 103)), drawn.images())
    with pytest.raises(SvpkitError, match="no drawn particles"):
        compose([use("synthetic")]).prepare(train, Context(CLASSES))


def test_prior_correction_is_bayes_rule():
    # three Gaussians: the log-likelihoods plus the training prior are the ideal logits
    means, x = np.array([-1.0, 0.5, 2.0]), np.linspace(-4, 5, 50)[:, None]
    train, there = np.array([0.2, 0.3, 0.5]), np.array([1000, 1, 2]) / 1003
    likelihood = norm.pdf(x, means)
    logits = np.log(likelihood) + np.log(train) + 7.0
    moved = PriorCorrection().adjust(logits, Priors(train, there))
    posterior = likelihood * there / (likelihood * there).sum(1, keepdims=True)
    ours = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
    assert ours == pytest.approx(posterior, rel=1e-9)
    assert PriorCorrection(0.0).adjust(logits, Priors(train, there)) == pytest.approx(logits)


def test_prior_correction_from_even_training_to_1000_to_1():
    moved = PriorCorrection().adjust(
        np.zeros((1, 3), np.float32), Priors(np.full(3, 1 / 3), np.array([1000, 1, 1]) / 1002)
    )
    assert moved.dtype == np.float32
    assert moved[0, 0] - moved[0, 1] == pytest.approx(math.log(1000), rel=1e-6)


@pytest.mark.parametrize(
    ("prevalence", "message"),
    [
        ({"protein": 1, "oil": 1}, "prevalence.bubble: given nothing, above 0"),
        ({"protein": 1, "oil": 0, "bubble": 1}, "prevalence.oil: given 0, above 0"),
        ({"protein": 1, "oyl": 1}, "unknown 'oyl'; did you mean 'oil'"),
    ],
)
def test_a_wrong_prevalence_is_one_line(prevalence, message):
    with pytest.raises(SvpkitError, match=message):
        deployment(prevalence, CLASSES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["prior_correction", "none", "prior_correction"], "both move the logits"),
        (
            ["class_weights", "class_weights"],
            "'class_weights' and 'class_weights' both set the los",
        ),
        (["oversample", "oversample"], "both choose how often"),
        (["synthetic", "augment", "synthetic"], "both ask for drawn particles"),
    ],
)
def test_strategies_that_get_in_each_others_way_are_refused(names, message):
    with pytest.raises(SvpkitError, match=message):
        compose([use(name) for name in names])


def test_a_loss_of_another_name_is_refused_by_both_names():
    class Focal:
        def loss(self, counts):
            return None

    focal = Use(Plugin("strategy", "focal", Focal, "x", "1", "entry point"), {})
    with pytest.raises(SvpkitError, match="'class_weights' and 'focal' both set the loss; one may"):
        compose([use("class_weights"), focal])


def test_prior_correction_asks_for_a_prevalence():
    with pytest.raises(SvpkitError, match=r"evaluate\.prevalence: missing"):
        PriorCorrection().adjust(np.zeros((1, 3)), Priors(np.ones(3) / 3))


def test_synthetic_names_the_class_that_it_does_not_know():
    with pytest.raises(SvpkitError, match="unknown 'oils'; did you mean 'oil'"):
        Synthetic(to={"oils": 10}).draws(COUNTS)


def batch(n=64, side=8, channels=1):
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.uniform(-1, 1, (n, channels, side, side)), dtype=torch.float32)
    return images, torch.arange(n) % 3, torch.arange(n, dtype=torch.int64) * 7919 + 3


def orientations(image, flips=True, turns=True):
    some = [torch.rot90(image, k, (-2, -1)) for k in range(4 if turns else 1)]
    if not flips:
        return some
    mirrored = [*some, *(o.flip(-1) for o in some)]
    return mirrored if turns else [*mirrored, *(o.flip(-2) for o in mirrored)]


@pytest.mark.parametrize(("flips", "turns"), [(True, True), (True, False), (False, True)])
def test_turns_and_flips_are_exact_and_equally_likely(flips, turns):
    image, _, _ = batch(1, channels=2)
    seeds = torch.arange(4000)
    moved, _ = Augment(flips, turns, shift=0).augment(
        image.expand(4000, -1, -1, -1), seeds * 0, seeds
    )
    known = orientations(image[0], flips, turns)
    which = torch.stack([(moved == o).flatten(1).all(1) for o in known])
    assert (which.sum(0) == 1).all()
    shares = which.float().mean(1).numpy()
    assert shares == pytest.approx(np.full(len(known), 1 / len(known)), abs=0.03)


def test_nothing_asked_nothing_done():
    images, labels, seeds = batch()
    moved, _ = Augment(False, False, 0.0).augment(images, labels, seeds)
    assert torch.equal(moved, images)


def test_shifts_fill_with_the_background_or_the_mirror_image():
    images = torch.full((200, 1, 8, 8), -0.25)
    images[:, :, 3:5, 3:5] = 0.75
    labels, seeds = torch.zeros(200, dtype=torch.int64), torch.arange(200)
    moved, _ = Augment(False, False, shift=0.25).augment(images, labels, seeds)
    assert set(moved.unique().tolist()) == {-0.25, 0.75}
    assert ((moved == 0.75).flatten(1).sum(1) == 4).all()
    corners = {tuple((m[0] == 0.75).nonzero()[0].tolist()) for m in moved}
    assert corners == {(y, x) for y in range(1, 6) for x in range(1, 6)}
    one = torch.arange(64.0).view(1, 1, 8, 8).expand(200, -1, -1, -1) / 64
    mirrored, _ = Augment(False, False, 0.25, "reflect").augment(one, labels, seeds)
    padded = np.pad(one[0, 0].numpy(), 2, mode="reflect")
    views = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert all(any(np.array_equal(m[0].numpy(), v) for v in views) for m in mirrored)


def test_augment_keeps_labels_and_the_grey_range_and_follows_the_seeds():
    images, labels, seeds = batch()
    strategy = Augment(brightness=0.3)
    moved, kept = strategy.augment(images, labels, seeds)
    assert torch.equal(kept, labels)
    assert moved.min() >= -1
    assert moved.max() <= 1
    # each image by its own seed alone, whatever else is in the batch
    alone, _ = strategy.augment(images[5:6], labels[5:6], seeds[5:6])
    assert torch.equal(alone[0], moved[5])
    assert not torch.equal(strategy.augment(images, labels, seeds + 1)[0], moved)


def test_the_order_is_a_function_of_the_step():
    at = order(10, 4, 3)
    epoch = np.concatenate([at(step) for step in range(5)])
    assert sorted(epoch[:10]) == sorted(epoch[10:]) == list(range(10))
    assert np.array_equal(order(10, 4, 3)(4), at(4))
    assert not np.array_equal(order(10, 10, 4)(0), order(10, 10, 3)(0))
    assert len(order(3, 8, 0)(0)) == 8
    weights = np.array([0.0, 1.0, 0.0, 3.0])
    drawn = np.concatenate([order(4, 8, 0, weights)(step) for step in range(500)])
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0, 0.25, 0, 0.75], abs=0.03)
    assert np.array_equal(order(4, 8, 0, weights)(7), order(4, 8, 0, weights)(7))


def test_options_are_checked():
    with pytest.raises(SvpkitError, match=r"balance.oversample.power: given -1"):
        use("oversample", power=-1)
    with pytest.raises(SvpkitError, match="did you mean 'shift'"):
        use("augment", shifts=1)
    with pytest.raises(SvpkitError, match=r"balance\.synthetic\.to"):
        use("synthetic", to="smallest")
    assert use("synthetic", to={"oil": 5})().to == {"oil": 5}
    assert use("synthetic", to=1)().to == 1.0
