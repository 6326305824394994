import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from svpkit.classify import losses
from svpkit.classify.balance import compose
from svpkit.classify.context import Context, Priors
from svpkit.classify.heads import Cosine
from svpkit.classify.loss_strategies import ClassWeights, FocalLoss, Ldam, LogitAdjustment
from svpkit.classify.strategies import PriorCorrection
from svpkit.default_plugins import strategies as registered
from svpkit.errors import SvpkitError
from svpkit.options import check_options
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import Plugin, Use

COUNTS = {"protein": 80, "oil": 16, "bubble": 4}
SHARES = np.array([0.8, 0.16, 0.04])


def use(name, **options):
    plugin = Plugin("strategy", name, getattr(registered, name), "svpkit", "", "built-in")
    return Use(plugin, check_options(plugin.options, options, f"balance.{name}"))


def some(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (n, 3)), rng.integers(0, 3, n)


def said(loss, logits, labels, **more):
    return float(loss(torch.tensor(logits), torch.tensor(labels), **more))


def test_effective_numbers_by_hand():
    # beta .5: effective numbers 1, 1.5, 1.75 of 1, 2, 3 particles
    found = losses.effective({"a": 1, "b": 2, "c": 3, "d": 0}, 0.5)
    by_hand = np.array([1, 1 / 1.5, 1 / 1.75, 0])
    scale = (by_hand * [1, 2, 3, 0]).sum() / 6
    assert found == pytest.approx(by_hand / scale)
    assert losses.effective(COUNTS, 0.0) == pytest.approx([1, 1, 1])
    near = losses.effective(COUNTS, 1 - 1e-9)
    assert near == pytest.approx(losses.inverse_frequency(COUNTS, 1).weights, rel=1e-6)
    loss = ClassWeights(rule="effective", beta=0.5).loss({"a": 1, "b": 2, "c": 3})
    assert loss.prior == pytest.approx(by_hand[:3] * [1, 2, 3] / (by_hand[:3] * [1, 2, 3]).sum())


def test_focal_is_torchvisions_for_two_classes():
    z, labels = np.random.default_rng(1).normal(0, 3, 50), np.arange(50) % 2
    logits = np.stack([np.zeros(50), z], 1)
    theirs = sigmoid_focal_loss(
        torch.tensor(z), torch.tensor(labels).double(), alpha=-1, gamma=1.5, reduction="mean"
    )
    counts = {"a": 25, "b": 25}
    assert said(FocalLoss(1.5).loss(counts), logits, labels) == pytest.approx(float(theirs), 1e-5)


def test_class_balanced_focal_by_hand():
    logits, labels = some()
    log_p = log_softmax(logits, 1)[np.arange(40), labels]
    weights = (1 - 0.9) / (1 - 0.9 ** np.array([80, 16, 4]))
    weights /= (weights * SHARES).sum()
    loss = FocalLoss(2.0, 0.9).loss(COUNTS)
    by_hand = (-weights[labels] * (1 - np.exp(log_p)) ** 2 * log_p).mean()
    assert said(loss, logits, labels) == pytest.approx(by_hand, rel=1e-5)
    assert loss.prior == pytest.approx(weights * SHARES)
    plain = said(losses.cross_entropy(COUNTS), logits, labels)
    assert said(FocalLoss(0).loss(COUNTS), logits, labels) == pytest.approx(plain, rel=1e-5)


def test_ldam_by_the_papers_equation_and_its_deferred_weights():
    rng = np.random.default_rng(2)
    cosines, labels = rng.uniform(-1, 1, (40, 3)), rng.integers(0, 3, 40)
    loss = Ldam().loss(COUNTS)
    margins = np.array([80.0, 16.0, 4.0]) ** -0.25
    margins *= 0.5 / margins.max()
    own = np.eye(3)[labels]
    each = -(own * log_softmax(30 * (cosines - margins * own), 1)).sum(1)
    before = said(loss, 30 * cosines, labels, progress=0.79)
    assert before == pytest.approx(each.mean(), rel=1e-5)
    weights = losses.effective(COUNTS, 0.9999)
    later = said(loss, 30 * cosines, labels, progress=0.8)
    assert later == pytest.approx((weights[labels] * each).mean(), rel=1e-5)
    assert loss.prior == pytest.approx(weights * SHARES)


def test_deferred_class_weights_act_late():
    logits, labels = some()
    loss = ClassWeights(after=0.5).loss(COUNTS)
    plain, weighted = losses.cross_entropy(COUNTS), ClassWeights().loss(COUNTS)
    assert said(loss, logits, labels, progress=0.4) == said(plain, logits, labels)
    assert said(loss, logits, labels, progress=0.5) == said(weighted, logits, labels)
    assert loss.prior == pytest.approx([1 / 3] * 3)


def test_balanced_softmax_by_its_equation():
    logits, labels = some()
    weighted = np.array([80, 16, 4]) * np.exp(logits)
    by_hand = -np.log(weighted[np.arange(40), labels] / weighted.sum(1)).mean()
    loss = LogitAdjustment().loss(COUNTS)
    assert said(loss, logits, labels) == pytest.approx(by_hand, rel=1e-5)
    assert loss.prior == pytest.approx([1 / 3] * 3)
    assert said(LogitAdjustment(0).loss(COUNTS), logits, labels) == pytest.approx(
        said(losses.cross_entropy(COUNTS), logits, labels), rel=1e-5
    )


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_what_logit_adjustment_learns_is_corrected_back_to_bayes(tau):
    # two kinds of pixel with known likelihoods: the best logits are found by Newton's steps
    likelihood = np.array([[0.7, 0.4, 0.1], [0.3, 0.6, 0.9]])
    joint = torch.tensor(likelihood * SHARES)
    loss = LogitAdjustment(tau).loss(COUNTS)
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-10)
    offset = torch.tensor(loss.offset)

    def closure():
        optimizer.zero_grad()
        value = -(joint * functional.log_softmax(logits + offset, 1)).sum()
        value.backward()
        return value

    optimizer.step(closure)
    there = np.array([1000, 1, 1]) / 1002
    moved = PriorCorrection().adjust(logits.detach().numpy(), Priors(loss.prior, there))
    posterior = likelihood * there
    posterior /= posterior.sum(1, keepdims=True)
    assert softmax(moved, 1) == pytest.approx(posterior, abs=1e-5)


@pytest.mark.parametrize(
    "strategy",
    [
        ClassWeights(),
        ClassWeights(rule="effective"),
        FocalLoss(),
        FocalLoss(1.0, 0.99),
        LogitAdjustment(),
    ],
)
def test_soft_labels_cost_what_their_classes_cost(strategy):
    logits, labels = some()
    loss, other = strategy.loss(COUNTS), (labels + 1) % 3
    soft = 0.3 * np.eye(3)[labels] + 0.7 * np.eye(3)[other]
    both = 0.3 * said(loss, logits, labels) + 0.7 * said(loss, logits, other)
    assert said(loss, logits, soft) == pytest.approx(both, rel=1e-5)
    assert said(loss, logits, np.eye(3)[labels]) == pytest.approx(said(loss, logits, labels), 1e-5)


def test_soft_labels_are_torchs_for_cross_entropy():
    logits, labels = some()
    soft = softmax(some(seed=3)[0], 1)
    theirs = functional.cross_entropy(torch.tensor(logits), torch.tensor(soft))
    assert said(losses.cross_entropy(COUNTS), logits, soft) == pytest.approx(float(theirs), 1e-5)


@pytest.mark.parametrize("name", ["focal", "cb_focal", "ldam", "balanced_softmax"])
def test_a_class_without_particles_breaks_no_loss(name):
    counts = {"protein": 80, "oil": 0, "bubble": 4}
    loss = use(name)().loss(counts)
    logits, labels = some()
    labels[labels == 1] = 0
    more = {"progress": 1.0} if name == "ldam" else {}
    assert np.isfinite(said(loss, logits, labels, **more))
    assert loss.prior[1] == 0 and loss.prior.sum() == pytest.approx(1)


def test_the_normalised_layer_gives_cosines():
    torch.manual_seed(0)
    layer = Cosine(5, 3, 30.0)
    x = torch.randn(7, 5)
    theirs = functional.cosine_similarity(x[:, None], layer.weight[None], dim=2)
    assert torch.allclose(layer(x), 30 * theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ldam", "mixup"], "'mixup' makes soft labels, which the loss of 'ldam' cannot take"),
        (["focal", "ldam"], "'focal' and 'ldam' both set the loss"),
        (["mixup", "cutmix"], "both mix images"),
        (["ldam", "crt"], "'ldam' brings a last layer of its own, which 'crt' cannot change"),
        (["crt", "lws"], "both train the last layer again"),
        (["tau_norm", "prior_correction"], "which 'tau_norm' moves by an unknown amount"),
    ],
)
def test_what_cannot_be_together_is_refused(names, message):
    with pytest.raises(SvpkitError, match=message):
        compose([use(name) for name in names])


def test_the_loss_counts_what_resampling_shows():
    images = np.zeros((100, 1, 8, 8), np.uint8)
    names = [name for name, n in COUNTS.items() for _ in range(n)]
    train = ParticleSet.from_arrays(images, names, tuple(COUNTS))
    prepared = compose([use("oversample"), use("balanced_softmax")]).prepare(
        train, Context(tuple(COUNTS))
    )
    assert prepared.loss.offset == pytest.approx(np.log([1 / 3] * 3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("class_weights", {"rule": "effectiv"}, "did you mean 'effective'"),
        ("class_weights", {"beta": 1.0}, "beta: given 1.0"),
        ("cb_focal", {"gamma": -1}, "gamma: given -1"),
        ("ldam", {"after": 1.5}, "after: given 1.5"),
        ("tau_norm", {"tau": "best"}, "tau"),
        ("mixup", {"alpha": 0}, "alpha: given 0"),
    ],
)
def test_options_are_held_to_their_ranges(name, options, message):
    with pytest.raises(SvpkitError, match=message):
        use(name, **options)
