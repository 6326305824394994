import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from test_classify import CLASSES, SMALL, Logistic, Plan, params_of, pictures, train
from test_classify import registry as registry
from test_classify import store as store

from svpkit.classify import finish, heads
from svpkit.classify.model import Model
from svpkit.classify.second import TAUS, Crt, Head, Lws, Seen, Smote, TauNorm, balanced
from svpkit.default_plugins.timm_models import timm_model
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.plugins import Plugin, Use

COUNTS = (300, 60, 30)


def clouds(counts=COUNTS, seed=0, width=4):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    centres = np.array([[0, 0, 0, 0], [1.5, 0, 1, 0], [0, 1.5, -1, 0]], float)[:, :width]
    features = 3 + 2 * (centres[labels] + rng.normal(0, 1, (len(labels), width)))
    return Seen(features.astype(np.float32), labels)


def some_head():
    rng = np.random.default_rng(5)
    return Head(rng.normal(0, 1, (3, 4)), rng.normal(0, 1, 3), np.array([0.77, 0.15, 0.08]))


def test_classes_are_drawn_alike():
    labels = np.array([2, 0, 0, 2, 2, 0, 0, 0, 4])
    rows = np.concatenate([balanced(labels, 250, 1, step) for step in range(40)])
    assert np.bincount(labels[rows]) / 10_000 == pytest.approx(
        [1 / 3, 0, 1 / 3, 0, 1 / 3], abs=0.02
    )
    assert set(rows) == set(range(9))
    assert np.array_equal(balanced(labels, 20, 1, 3), balanced(labels, 20, 1, 3))


def test_crt_is_class_balanced_logistic_regression():
    seen = clouds()
    found = Crt(images=512_000, lr=0.05, weight_decay=0.0).second_stage(some_head(), seen, 0)
    theirs = LogisticRegression(C=1e6, class_weight="balanced", max_iter=1000)
    theirs.fit(seen.features, seen.labels)
    ours = log_softmax(found.logits(seen.features), 1)
    expected = theirs.predict_log_proba(seen.features)
    assert np.abs(np.exp(ours) - np.exp(expected)).max() < 0.05
    assert found.prior == pytest.approx([1 / 3] * 3)


def test_tau_norm_by_hand():
    head = Head(np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([5.0, 0.0]), np.array([0.9, 0.1]))
    seen = Seen(np.zeros((1, 2)), np.zeros(1, int))
    found = TauNorm(0.5).second_stage(head, seen, 0)
    assert found.weight == pytest.approx(np.array([[3.0, 4.0], [0, 1]]) / [[np.sqrt(5)], [1]])
    assert found.bias == pytest.approx([0, 0])
    assert np.linalg.norm(TauNorm(1.0).second_stage(head, seen, 0).weight, axis=1) == pytest.approx(
        [1, 1]
    )


def test_tau_is_the_one_with_the_best_recall_on_val():
    seen, val = clouds(), clouds((50, 50, 50), 1)
    head = some_head()
    both = Seen(seen.features, seen.labels, val.features, val.labels)
    found = TauNorm().second_stage(head, both, 0)

    def recall(tau):
        weight = head.weight / np.linalg.norm(head.weight, axis=1, keepdims=True) ** tau
        right = (val.features @ weight.T).argmax(1) == val.labels
        return np.mean([right[val.labels == k].mean() for k in range(3)])

    recalls = [recall(tau) for tau in TAUS]
    assert found.said["tau"] == pytest.approx(TAUS[int(np.argmax(recalls))])


def test_learned_scales_are_the_best_ones():
    seen, head = clouds(), some_head()
    logits, labels = head.logits(seen.features), seen.labels
    weights = 1 / np.bincount(labels)[labels] / 3

    def cost(scales):
        return -(weights * log_softmax(logits * scales, 1)[np.arange(len(labels)), labels]).sum()

    best = minimize(cost, np.ones(3))
    found = Lws(images=2_560_000, lr=0.1).second_stage(head, seen, 0)
    assert cost(found.said["scales"]) == pytest.approx(best.fun, abs=2e-3)
    assert found.logits(seen.features) == pytest.approx(
        logits * np.array(found.said["scales"]), abs=1e-3
    )


def test_smote_fills_up_between_neighbours():
    imblearn = pytest.importorskip("imblearn")
    assert imblearn
    seen = clouds((100, 20, 2))
    found = Smote(images=25_600).second_stage(some_head(), seen, 0)
    assert found.said["made"] == 80 + 98
    answers = found.logits(seen.features).argmax(1)
    assert np.mean(answers[seen.labels == 2] == 2) == 1
    alone = Seen(seen.features[:121], seen.labels[:121])
    with pytest.raises(SvpkitError, match="SMOTE needs 2"):
        Smote().second_stage(some_head(), alone, 0)


def test_smote_without_its_library_is_one_line(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn", None)
    with pytest.raises(
        SvpkitError, match=r"imbalanced-learn is not installed; pip install .svpkit"
    ):
        registry.use("strategy", "smote", {}, "balance.smote")()


def network(**options):
    return timm_model(ImageSpec(1, 16, CLASSES), **SMALL, **options)


def test_the_last_layer_is_read_and_written():
    net = network().eval()
    heads.check(net, ImageSpec(1, 16, CLASSES), "timm")
    head = heads.read(net, np.ones(3) / 3, "timm")
    images = torch.rand(5, 1, 16, 16)
    features = net.features(images).detach().numpy()
    assert head.logits(features) == pytest.approx(net(images).detach().numpy(), abs=1e-5)
    other = some_head()
    changed = Head(np.resize(other.weight, head.weight.shape), other.bias, other.prior)
    heads.write(net, changed, "timm")
    assert changed.logits(features) == pytest.approx(net(images).detach().numpy(), abs=1e-3)


def test_a_head_that_does_not_make_the_logits_is_refused():
    net = network()
    net.register_forward_hook(lambda module, given, out: out + 1)
    with pytest.raises(SvpkitError, match="the logits of classifier 'timm' are not its `head`"):
        heads.check(net, ImageSpec(1, 16, CLASSES), "timm")


@pytest.mark.parametrize("name", ["crt", "lws", "tau_norm", "ldam"])
def test_the_stage_trains_and_reopens(name, store, registry, tmp_path):
    out = train(tmp_path / "model", params_of(registry, [name], plan=Plan(images=1920)), store)
    config = json.loads((out / "config.json").read_text())
    model = Model.load(out, params_of(registry)["classifier"])
    images = pictures(60, 9)
    assert (model.logits(images).argmax(1) == images.labels).mean() > 0.6
    assert np.sum(config["val_confusion"]) == pytest.approx(90)
    if name == "ldam":
        assert config["cosine"] == 30 and np.abs(model.logits(images)).max() <= 30
        assert Model.open(out, registry).logits(images).shape == (60, 3)
    else:
        assert config["second_stage"]
        features = model.features(images)
        assert heads.read(model.network, model.priors.train, "timm").logits(
            features
        ) == pytest.approx(model.logits(images), abs=1e-3)


def test_a_small_class_is_learnt_from_a_thousand_views():
    particles, shown = pictures(9, 3), []

    class Network(torch.nn.Module):
        def features(self, x):
            shown.append(x)
            return x.flatten(1).mean(1, keepdim=True)

    def augment(images, labels, seeds):
        return images + (seeds % 7)[:, None, None, None], labels

    balance = SimpleNamespace(augment=augment)
    features, labels = finish._views(Network(), particles, balance, 0)
    n = np.bincount(particles.labels)
    assert np.bincount(labels).tolist() == [k * -(-1000 // k) for k in n]
    assert len(features) == len(labels) == sum(len(x) for x in shown)
    again, _ = finish._views(Network(), particles, balance, 0)
    assert np.array_equal(features, again)
    one = features[labels == labels[0]][:200]
    assert len(np.unique(one)) > 5
    plain, own = finish._views(Network(), particles, SimpleNamespace(augment=None), 0)
    assert len(plain) == 9 and np.array_equal(own, particles.labels)


def test_tau_is_not_chosen_on_too_few(store, registry, tmp_path, monkeypatch):
    monkeypatch.setattr("svpkit.particles.split.Split.choose_on_val", False)
    with pytest.raises(SvpkitError, match="tau_norm: val has to choose"):
        train(tmp_path / "model", params_of(registry, ["tau_norm"]), store)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crt", "trains itself and cannot take the second_stage of 'crt'"),
        ("mixup", "trains itself and cannot take the mix of 'mixup'"),
        ("ldam", "trains itself and cannot take the loss of 'ldam'"),
        ("progressive", "cannot take particles whose weight changes over the run"),
    ],
)
def test_objects_refuse_what_they_cannot_take(name, message, store, registry, tmp_path):
    plugin = Plugin("classifier", "logistic", Logistic, "x", "1", "entry point")
    params = params_of(registry, [name]) | {"classifier": Use(plugin, {})}
    with pytest.raises(SvpkitError, match=message):
        train(tmp_path / "model", params, store)
