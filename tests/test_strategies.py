import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, gaussian_filter, rotate
from scipy.stats import kstest, norm

from svpkit import draws, fit
from svpkit.classify import losses, mixing, prevalence, randaugment
from svpkit.classify.balance import compose, deployment
from svpkit.classify.context import Context, Priors
from svpkit.classify.loss_strategies import ClassWeights
from svpkit.classify.mixing import CutMix, Mixup, Remix
from svpkit.classify.order import order
from svpkit.classify.sampling import Oversample, Progressive, Undersample, at
from svpkit.classify.strategies import Augment, PriorCorrection, RandAugment, Synthetic
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


def test_undersampling_keeps_a_subset_by_the_seed():
    train = particles(COUNTS)
    kept = Undersample().particles(train, Context(CLASSES))
    assert kept.counts == dict.fromkeys(CLASSES, 4)
    assert Undersample(5).particles(train, Context(CLASSES)).counts == {
        **{"protein": 20, "oil": 16},
        **{"bubble": 4},
    }
    ids, all_ids = list(kept.table["id"]), list(train.table["id"])
    assert ids == sorted(ids, key=all_ids.index)
    again = Undersample().particles(train, Context(CLASSES))
    other = Undersample().particles(train, Context(CLASSES, seed=1))
    assert list(again.table["id"]) == ids != list(other.table["id"])
    few = particles({"protein": 5, "bubble": 2})
    assert Undersample().particles(few, Context(CLASSES)).counts["protein"] == 2
    assert prior([use("undersample")]) == pytest.approx([1 / 3] * 3)


def test_progressive_sampling_by_hand():
    labels = particles(COUNTS).labels
    weights = Progressive().sampler(labels)
    for t in (0.0, 0.25, 1.0):
        mass = np.bincount(labels, at(weights, t))
        expected = (1 - t) * np.array([0.8, 0.16, 0.04]) + t / 3
        assert mass / mass.sum() == pytest.approx(expected)
    assert prior([use("progressive")]) == pytest.approx([1 / 3] * 3)


def test_a_progressive_order_is_a_function_of_the_step_alone():
    labels = particles(COUNTS).labels
    weights = Progressive().sampler(labels)
    one, two = (order(100, 64, 3, weights, 64 * 500) for _ in range(2))
    # whichever steps were asked for before, and whoever asks: each takes its slice of the same
    steps = [0, 499, 3, 250]
    whole = {step: one(step) for step in steps}
    for step in reversed(steps):
        halves = [two(step)[:32], two(step)[32:]]
        assert np.array_equal(np.concatenate(halves), whole[step])
    early = np.concatenate([one(step) for step in range(100)])
    late = np.concatenate([one(step) for step in range(400, 500)])
    assert np.bincount(labels[early])[0] / 6400 == pytest.approx(0.8 - 0.1 * 0.467, abs=0.02)
    assert np.bincount(labels[late])[0] / 6400 == pytest.approx(0.8 - 0.9 * 0.467, abs=0.02)


def test_drawn_particles_may_count_less_and_be_left_out_last():
    train, drawn = particles(COUNTS), particles({"oil": 64, "bubble": 76}, "synthetic")
    context = Context(CLASSES, drawn=drawn)
    plain = compose([use("synthetic")]).prepare(train, context)
    assert plain.weights is None and plain.prior == pytest.approx([1 / 3] * 3)
    half = compose([use("synthetic", weight=0.5)]).prepare(train, context)
    assert half.prior == pytest.approx(np.array([80, 48, 42]) / 170)
    last = compose([use("synthetic", real_last=0.2, weight=0.5)]).prepare(train, context)
    assert last.prior == pytest.approx([0.8, 0.16, 0.04])
    assert np.array_equal(at(last.weights, 0.79), half.weights)
    at_end = order(240, 50, 0, last.weights, 5000)
    assert max(at_end(80)) < 100 <= max(at_end(79))
    both = [use("synthetic", real_last=0.2), use("progressive")]
    mixed = compose(both).prepare(train, context).weights
    even = Progressive().sampler(np.r_[train.labels, drawn.labels])
    assert at(mixed, 0.5) == pytest.approx(even(0.5))
    # the sampler's shares stay: what drawn particles lose, the real ones of their class gain
    labels = np.r_[train.labels, drawn.labels]
    assert not at(mixed, 0.9)[100:].any()
    shares = [np.bincount(labels, w) for w in (at(mixed, 0.9), even(0.9))]
    assert shares[0] == pytest.approx(shares[1])
    light = compose([use("synthetic", weight=0.1), use("oversample")]).prepare(train, context)
    assert light.prior == pytest.approx([1 / 3] * 3)
    oil = light.weights[labels == 1]
    assert oil[0] == pytest.approx(10 * oil[-1]) and oil[0] > oil[-1] > 0


def test_weights_are_chosen_only_where_what_is_taught_has_settled():
    asked = {
        "ldam": 0.8,
        "progressive": 1.0,
        "oversample": 0.0,
        "augment": 0.0,
    }
    for name, share in asked.items():
        assert compose([use(name)]).settles == share
    assert compose([use("class_weights", after=0.4)]).settles == 0.4
    last = [use("synthetic", real_last=0.3), use("class_weights", after=0.2)]
    assert compose(last).settles == pytest.approx(0.7)
    assert compose([]).settles == 0.0


def planted(n, shares, seed=0):
    # Gaussians of known likelihood: logits are exact under the training prior
    rng = np.random.default_rng(seed)
    means, train = np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.3, 0.5])
    labels = rng.choice(3, n, p=shares)
    x = rng.normal(means[labels], 0.7)[:, None]
    return norm.logpdf(x, means, 0.7) + np.log(train) + rng.normal(0, 3, (n, 1)), labels, train


def test_em_finds_a_planted_prevalence_as_a_plain_loop_does():
    shares = np.array([0.9, 0.07, 0.03])
    logits, _, train = planted(20_000, shares)
    found = prevalence.em(logits, train)
    assert found == pytest.approx(shares, abs=0.01)
    posterior = np.exp(logits - logits.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    there = train.copy()
    for _ in range(300):
        moved = posterior * there / train
        there = (moved / moved.sum(1, keepdims=True)).mean(0)
    assert found == pytest.approx(there, abs=1e-7)
    adjusted = PriorCorrection(prevalence="em").adjust(logits, Priors(train))
    assert adjusted == pytest.approx(PriorCorrection().adjust(logits, Priors(train, there)), 1e-5)


def test_bbse_finds_a_planted_prevalence_from_vals_confusion():
    val_logits, val_labels, train = planted(30_000, [1 / 3] * 3, 1)
    table = prevalence.answers(val_logits, val_labels)
    shares = np.array([0.9, 0.07, 0.03])
    logits, _, _ = planted(30_000, shares, 2)
    assert prevalence.bbse(logits, table) == pytest.approx(shares, abs=0.02)
    # the answers' own shares are far off
    assert abs(np.bincount(logits.argmax(1)) / 30_000 - shares).max() > 0.05
    # whatever val's shares, its rates are what counts
    assert prevalence.bbse(logits, table * [[5], [1], [2]]) == pytest.approx(
        prevalence.bbse(logits, table)
    )
    # from sure answers it is the estimate by counts
    counts = np.zeros((3, 3))
    np.add.at(counts, (val_labels, val_logits.argmax(1)), 1)
    assert prevalence.answers(1e4 * val_logits, val_labels) == pytest.approx(counts, abs=1)
    said = np.bincount(logits.argmax(1)) / 30_000
    by_counts = np.linalg.solve((counts / counts.sum(1, keepdims=True)).T, said)
    assert prevalence.bbse(1e4 * logits, counts) == pytest.approx(by_counts, abs=1e-3)
    priors = Priors(train, confusion=table)
    moved = PriorCorrection(prevalence="bbse").adjust(logits, priors)
    there = prevalence.bbse(logits, table)
    assert moved == pytest.approx(
        PriorCorrection().adjust(logits, replace(priors, deployment=there))
    )


def test_estimates_that_cannot_be_are_refused_or_kept_above_nothing():
    logits = np.log(np.array([[0.8, 0.1, 0.1]] * 10))
    with pytest.raises(SvpkitError, match="no record of it"):
        PriorCorrection(prevalence="bbse").adjust(logits, Priors(np.ones(3) / 3))
    with pytest.raises(SvpkitError, match="val particles of every class"):
        prevalence.bbse(logits, np.diag([3, 2, 0]))
    with pytest.raises(SvpkitError, match="tell the classes apart"):
        prevalence.bbse(logits, np.ones((3, 3)))
    assert prevalence.bbse(logits, np.diag([9, 9, 9])) == pytest.approx([0.8, 0.1, 0.1])
    sure = np.array([[9.0, 0, 0], [1, 8, 0], [1, 0, 8]])
    assert prevalence.bbse(logits + [99, 0, 0], sure) == pytest.approx([1, 0, 0])
    assert prevalence.at_least(np.array([1.0, 0, 0]), 10) == pytest.approx(
        np.array([1, 0.05, 0.05]) / 1.1
    )
    for kind in ("em", "bbse"):
        strategy = PriorCorrection(prevalence=kind)
        assert not strategy.wants_prevalence
        assert strategy.adjust(np.empty((0, 3)), Priors(np.ones(3) / 3)).shape == (0, 3)


def pairs(n=64, side=8):
    x, labels, seeds = batch(n, side)
    y = torch.nn.functional.one_hot(labels, 3).float()
    return x, y, x.roll(1, 0), y.roll(1, 0), seeds


def test_mixup_blends_images_and_labels_alike():
    x, y, px, py, seeds = pairs()
    mixed, soft = Mixup(0.4).mix(COUNTS)(x, y, px, py, seeds)
    lam = mixing.beta(seeds, 0.4)
    assert torch.allclose(mixed, lam[:, None, None, None] * (x - px) + px, atol=1e-6)
    assert torch.allclose(soft, lam[:, None] * (y - py) + py, atol=1e-6)
    many = mixing.beta(torch.arange(20_000), 0.4).numpy()
    assert kstest(many, "beta", (0.4, 0.4)).statistic < 0.02


def test_remix_labels_by_hand():
    counts = {"protein": 90, "oil": 30, "bubble": 20}
    x, y, _, _, seeds = pairs(200)
    lam = mixing.beta(seeds, 1.0)
    for own in range(3):
        for other in range(3):
            y, py = torch.eye(3)[[own] * 200], torch.eye(3)[[other] * 200]
            _, soft = Remix().mix(counts)(x, y, x, py, seeds)
            share = lam.clone()
            n = list(counts.values())
            if n[own] / n[other] >= 3:
                share[lam < 0.5] = 0
            elif n[own] / n[other] <= 1 / 3:
                share[1 - lam < 0.5] = 1
            assert torch.allclose(soft, share[:, None] * (y - py) + py, atol=1e-6), (own, other)


def test_cutmix_pastes_one_rectangle_and_labels_by_area():
    side = 16
    n = 300
    x, px = torch.zeros(n, 1, side, side), torch.ones(n, 1, side, side)
    y, py = torch.eye(3)[[0] * n], torch.eye(3)[[2] * n]
    mixed, soft = CutMix().mix(COUNTS)(x, y, px, py, torch.arange(n))
    pasted = mixed[:, 0] == 1
    assert soft[:, 2].numpy() == pytest.approx(pasted.float().mean((1, 2)).numpy(), abs=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(n))
    rows, columns = pasted.any(2), pasted.any(1)
    assert torch.equal(pasted, rows[:, :, None] & columns[:, None, :])
    assert ((rows.int().diff(dim=1) != 0).sum(1) <= 2).all()
    assert 0.1 < pasted.float().mean() < 0.5


def test_partners_do_not_depend_on_how_many_processes_share_a_batch(monkeypatch):
    plan, task = fit.Plan(images=48, batch=12, lr=0.1), fit.Task(order, order, mix=lambda *a: a)
    for size in (1, 2, 3):
        monkeypatch.setattr("svpkit.ranks.size", lambda size=size: size)
        own, partners = [], []
        for rank in range(size):
            monkeypatch.setattr("svpkit.ranks.rank", lambda rank=rank: rank)
            mine = fit.places(plan, task)
            own += mine[1:].tolist()
            partners += mine[:-1].tolist()
        assert own == list(range(12))
        assert partners == np.roll(np.arange(12), 1).tolist()
    # mixed by slices as by the whole
    x, y, px, py, seeds = pairs(12)
    for strategy in (Mixup(), CutMix(), Remix()):
        mix = strategy.mix(COUNTS)
        whole = mix(x, y, px, py, seeds)
        parts = [mix(*(t[s] for t in (x, y, px, py, seeds))) for s in (slice(0, 5), slice(5, 12))]
        assert torch.equal(torch.cat([p[0] for p in parts]), whole[0])
        assert torch.equal(torch.cat([p[1] for p in parts]), whole[1])


def test_the_loop_mixes_what_it_augmented_and_tells_the_progress(tmp_path):
    seen, told = [], []

    def mix(x, y, px, py, seeds):
        seen.append((x.clone(), px.clone(), y.clone(), py.clone(), seeds.clone()))
        return x, y

    def loss(model, x, y, seeds, part, progress):
        told.append(progress)
        return model(x.flatten(1)).square().mean()

    def augment(x, y, seeds):
        return x + (seeds % 97)[:, None, None, None] / 97, y

    images = np.random.default_rng(0).integers(0, 256, (20, 1, 2, 2)).astype(np.uint8)
    task = fit.Task(
        order=draws.epochs(20, 6, 0),
        fetch=lambda rows: (images[rows], rows),
        loss=loss,
        augment=augment,
        mix=mix,
    )
    plan = fit.Plan(images=24, batch=6, lr=0.0)
    fit.fit(torch.nn.Linear(4, 1), plan, task, out=tmp_path, seed=4, precision="fp32")
    assert told == pytest.approx([0, 0.25, 0.5, 0.75])
    for step, (x, px, y, py, seeds) in enumerate(seen):
        rows = draws.epochs(20, 6, 0)(step)
        assert y.tolist() == rows.tolist() and py.tolist() == np.roll(rows, 1).tolist()
        assert torch.equal(seeds, draws.seeds(4, "fit", index=step * 6 + np.arange(6)))
        whole, _ = augment(fit.to_float(torch.from_numpy(images[rows])), None, seeds)
        assert torch.equal(x, whole) and torch.equal(px, whole.roll(1, 0))


@pytest.mark.parametrize("change", randaugment.CHANGES)
def test_each_change_is_safe_and_follows_the_seed(change):
    images = torch.full((64, 1, 16, 16), 0.1)
    images[:, :, 6:10, 5:11] = -0.5
    seeds = draws.seeds(1, "test", index=np.arange(64))
    for magnitude in (0.0, 1.0):
        moved = change(images, seeds, magnitude)
        alone = change(images[7:8], seeds[7:8], magnitude)
        assert torch.equal(moved[7], alone[0])
        # dark stays darker than its surroundings, of about the same size
        below = (moved < moved[:, :, :2, :2].mean((2, 3), keepdim=True) - 0.3).sum((2, 3))
        assert ((below >= 16) & (below <= 34)).all(), change.__name__
    if change not in (randaugment.mirror, randaugment.quarter):
        assert torch.allclose(change(images, seeds, 0.0), images, atol=1e-5)
        assert not torch.equal(moved, images)


def test_a_blur_and_a_rotation_are_scipys():
    images, _, seeds = batch(6, 15)
    share = draws.uniform(seeds, (), "blur").numpy()
    line = [1 / 4, 1 / 2, 1 / 4]
    theirs = [convolve(x[0].numpy(), np.outer(line, line), mode="nearest") for x in images]
    ours = randaugment.blur(images, seeds, 0.5)[:, 0].numpy()
    plain = images[:, 0].numpy()
    expected = plain + 0.5 * share[:, None, None] * (np.array(theirs) - plain)
    assert ours == pytest.approx(expected, abs=1e-5)
    smooth = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, 2, 2)))
    turned = randaugment.rotate(smooth, seeds, 1.0)[:, 0].numpy()
    angles = 15 * (2 * draws.uniform(seeds, (), "randaugment rotate").numpy() - 1)
    theirs = [
        rotate(x[0].numpy(), a, reshape=False, order=1, mode="nearest")
        for x, a in zip(smooth, angles, strict=True)
    ]
    assert turned == pytest.approx(np.array(theirs), abs=1e-3)


def test_randaugment_keeps_to_the_range_and_to_each_seed():
    images, labels, seeds = batch()
    strategy = RandAugment(3, 1.0)
    moved, kept = strategy.augment(images, labels, seeds)
    assert torch.equal(kept, labels) and moved.abs().max() <= 1
    assert torch.equal(strategy.augment(images[5:6], labels[5:6], seeds[5:6])[0][0], moved[5])
    assert (moved != images).flatten(1).any(1).float().mean() > 0.9


def test_added_options_say_so():
    assert registered.class_weights.later == ("rule", "beta", "after")
    for name in ("class_weights", "synthetic", "prior_correction"):
        factory = getattr(registered, name)
        assert set(factory.later) <= set(use(name).options)
