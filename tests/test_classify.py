import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from svpkit import fit
from svpkit.classify import stage as stage_module
from svpkit.classify.model import Model
from svpkit.classify.score import score
from svpkit.classify.stage import classifier, scores
from svpkit.default_plugins.timm_models import timm_model
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import split
from svpkit.plugins import Plugin, Use, discover

CLASSES = ("blob", "hole", "bar")
SMALL = {"model": "resnet10t", "width": 8, "stem": "small"}
SPEC = ImageSpec(1, 16, CLASSES)


Plan = partial(
    fit.Plan,
    images=2560,
    batch=32,
    lr=5e-3,
    warmup=0.1,
    optimizer="adamw",
    weight_decay=0.01,
    clip=1.0,
    ema=0.9,
)


@pytest.fixture(scope="session")
def registry():
    return discover(builtin_only=True)


def pictures(n, seed, origin="simulated"):
    """Three shapes on a noisy background, each somewhere near the middle."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    y, x = np.mgrid[:16, :16] - 7.5
    images = np.empty((n, 1, 16, 16), np.uint8)
    for i, label in enumerate(labels):
        dy, dx = rng.uniform(-2, 2, 2)
        disc = np.hypot(y - dy, x - dx) < 3
        shape = [disc, disc, np.abs(x - dx) < 1.5][label]
        grey = 120 + rng.normal(0, 12, (16, 16)) + shape * [50, -50, 40][label]
        images[i, 0] = grey.clip(0, 255)
    names = [CLASSES[k] for k in labels]
    ids = [f"{origin}-{seed}-{i}" for i in range(n)]
    return ParticleSet.from_arrays(
        images, names, CLASSES, id=ids, origin=origin, um_per_px=0.5, ecd_um=3.0
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A store with 150 training particles, 90 to choose on and 90 to test on."""
    root = tmp_path_factory.mktemp("store")
    pictures(330, 0).save(root / "ingest-0")
    (root / "split-0").mkdir()
    counts = dict.fromkeys(CLASSES, 30)
    params = {"seed": 0, "group": None, "val": counts, "test": 90 / 330, "train": None}
    split(root / "split-0", params, root / "ingest-0")
    return root


def params_of(registry, strategies=("none",), *, seed=0, plan=None, options=None, prevalence=None):
    return {
        "classifier": registry.use("classifier", "timm", options or SMALL, "classifier.plugin"),
        "strategies": [registry.use("strategy", n, {}, f"balance.{n}") for n in strategies],
        "train": plan or Plan(),
        "validations": 4,
        "seed": seed,
        "precision": "fp32",
        "prevalence": prevalence,
    }


def train(out, params, store, *synthetic):
    out.mkdir()
    classifier(out, params, store / "split-0", *synthetic)
    return out


@pytest.fixture(scope="session")
def trained(store, registry, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "model"
    params = params_of(registry, ["augment", "class_weights"])
    return train(out, params, store), params


def test_shapes_are_learned_and_the_best_on_val_is_kept(trained, store):
    folder, _ = trained
    history = json.loads((folder / "history.json").read_text())
    validated = {row["images"]: row["val"]["macro_auprc"] for row in history if "val" in row}
    config = json.loads((folder / "config.json").read_text())
    assert len(validated) == 4
    assert max(validated.values()) > 0.95
    assert config["chosen_on_val"]
    assert validated[config["chosen_at_images"]] == max(validated.values())
    assert config["prior"] == pytest.approx(dict.fromkeys(CLASSES, 1 / 3))
    assert config["um_per_px"] == 0.5
    counts = json.loads((folder / "train_counts.json").read_text())
    assert counts["real"] == dict.fromkeys(CLASSES, 50)
    assert sorted(f.name for f in folder.iterdir() if f.is_file()) == [
        "config.json",
        "history.json",
        "model.safetensors",
        "train_counts.json",
    ]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(store, registry, tmp_path):
    plan = Plan(images=96)
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = train(tmp_path / name, params_of(registry, ["augment"], seed=seed, plan=plan), store)
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_resumed_training_equals_an_unbroken_one(trained, store, registry, tmp_path, monkeypatch):
    whole, params = trained
    real = stage_module.order

    def broken(*args):
        at = real(*args)

        def until(step):
            if step == 43:
                raise KeyboardInterrupt
            return at(step)

        return until

    out = tmp_path / "model"
    monkeypatch.setattr(stage_module, "order", broken)
    with pytest.raises(KeyboardInterrupt):
        train(out, params, store)
    assert list(out.glob("checkpoint-*"))
    monkeypatch.setattr(stage_module, "order", real)
    classifier(out, params, store / "split-0")
    for name in ("model.safetensors", "history.json", "config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_model_moves_and_opens_as_it_was(trained, registry, tmp_path):
    folder, params = trained
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    images = pictures(50, 3)
    there = Model.open(moved, registry)
    here = Model.load(folder, params["classifier"], params["strategies"])
    assert there.classes == CLASSES
    assert np.array_equal(there.logits(images), here.logits(images))
    assert np.array_equal(there.logits(images.images()), here.logits(images))
    assert there.probabilities(images).sum(1) == pytest.approx(1, abs=1e-5)


def test_predictions_do_not_depend_on_the_batch(trained, registry):
    model = Model.open(trained[0], registry)
    images = pictures(70, 4)
    assert model.logits(images, batch=7) == pytest.approx(model.logits(images, batch=64), abs=1e-4)
    features = model.features(images, batch=32)
    assert features.shape == (70, 64)
    assert features.dtype == np.float32
    assert model.logits(images.images()[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 16, 16), np.uint8),
        np.zeros((2, 1, 32, 32), np.uint8),
        np.zeros((2, 1, 16, 16), np.float32),
        np.zeros((16, 16), np.uint8),
    ],
)
def test_images_that_do_not_fit_are_refused(trained, registry, images):
    with pytest.raises(SvpkitError, match=r"takes uint8 images of \(1, 16, 16\)"):
        Model.open(trained[0], registry).logits(images)


def test_a_folder_without_a_model_says_so(trained, registry, tmp_path):
    with pytest.raises(SvpkitError, match="no classifier here"):
        Model.open(tmp_path, registry)
    broken = shutil.copytree(trained[0], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SvpkitError, match="weights do not fit"):
        Model.open(broken, registry)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(SvpkitError, match="format 99, this version reads 1"):
        Model.open(broken, registry)


def test_scores_of_the_locked_test_set(trained, store, registry, tmp_path):
    folder, params = trained
    score(tmp_path, params, folder, store / "split-0")
    table = pd.read_parquet(tmp_path / "test.parquet")
    assert len(table) == 90
    assert list(table.columns) == [
        *("id", "label", "label_code"),
        *(f"{kind}_{name}" for kind in ("p", "logit") for name in CLASSES),
        *("ecd_um", "source", "group"),
    ]
    found = [
        average_precision_score(table["label"] == name, table[f"p_{name}"]) for name in CLASSES
    ]
    assert np.mean(found) > 0.95
    assert [CLASSES[k] for k in table["label_code"]] == table["label"].tolist()
    val = pd.read_parquet(tmp_path / "val.parquet")
    assert set(val["id"]).isdisjoint(table["id"])
    # the scores that the best weights were chosen by are those of val.parquet
    history = json.loads((folder / "history.json").read_text())
    best = max(row["val"]["macro_auprc"] for row in history if "val" in row)
    again = scores(val["label_code"].to_numpy(), val[[f"p_{n}" for n in CLASSES]].to_numpy())
    assert again["macro_auprc"] == pytest.approx(best, abs=1e-6)


def test_prior_correction_moves_scores_by_the_log_ratio(trained, store, registry, tmp_path):
    folder, params = trained
    prevalence = {"blob": 1000, "hole": 1, "bar": 1}
    corrected = params_of(registry, ["prior_correction"], prevalence=prevalence)
    score(tmp_path, corrected, folder, store / "split-0")
    table = pd.read_parquet(tmp_path / "test.parquet")
    logits = table[[f"logit_{n}" for n in CLASSES]].to_numpy(np.float64)
    odds = np.exp(logits) * [1000, 1, 1]
    assert table[[f"p_{n}" for n in CLASSES]].to_numpy() == pytest.approx(
        odds / odds.sum(1, keepdims=True), rel=1e-4
    )


def test_nothing_is_measured_on_drawn_particles(trained, store, tmp_path, monkeypatch):
    folder, params = trained
    drawn = pictures(9, 5, origin="synthetic")
    for name in ("test", "val"):
        with monkeypatch.context() as patch:
            patch.setattr(f"svpkit.classify.score.Split.{name}", lambda self, **by: drawn)
            with pytest.raises(SvpkitError, match=rf"{name}: 9 drawn .* 'synthetic-5-0'"):
                score(tmp_path, params, folder, store / "split-0")


def test_only_score_opens_the_test_set(trained, store, registry, tmp_path, monkeypatch):
    def opened(self):
        raise AssertionError("the test set was opened")

    monkeypatch.setattr("svpkit.particles.split.Split.test", opened)
    train(tmp_path / "model", params_of(registry, plan=Plan(images=64)), store)


def test_drawn_particles_are_trained_on_and_counted(store, registry, tmp_path):
    drawn = pictures(60, 6, origin="synthetic")
    drawn.take(drawn.labels == 1).save(tmp_path / "hole")
    drawn.take(drawn.labels == 2).with_classes(("bar",)).save(tmp_path / "bar")
    params = params_of(registry, ["synthetic"], plan=Plan(images=64))
    params["strategies"] = [registry.use("strategy", "synthetic", {"to": 0.4}, "balance.synthetic")]
    out = train(tmp_path / "model", params, store, tmp_path / "hole", tmp_path / "bar")
    counts = json.loads((out / "train_counts.json").read_text())
    assert counts["drawn"] == {"blob": 0, "hole": 20, "bar": 20}
    assert counts["share_seen"] == pytest.approx({"blob": 5 / 19, "hole": 7 / 19, "bar": 7 / 19})


def test_mixed_images_and_changing_weights_are_trained_on(store, registry, tmp_path):
    params = params_of(registry, ["mixup", "progressive", "randaugment"])
    out = train(tmp_path / "model", params, store)
    images = pictures(60, 9)
    model = Model.open(out, registry)
    assert (model.logits(images).argmax(1) == images.labels).mean() > 0.6
    again = train(tmp_path / "again", params, store)
    for name in ("model.safetensors", "history.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_vals_answers_are_kept_for_bbse(trained, store, registry, tmp_path):
    folder, params = trained
    strategy = registry.use("strategy", "prior_correction", {"prevalence": "bbse"}, "b")
    model = Model.load(folder, params["classifier"], [strategy])
    score(tmp_path, params | {"strategies": [strategy]}, folder, store / "split-0")
    table = pd.read_parquet(tmp_path / "val.parquet")
    logits = table[[f"logit_{n}" for n in CLASSES]].to_numpy()
    each = np.exp(logits - logits.max(1, keepdims=True))
    each /= each.sum(1, keepdims=True)
    told = [each[table["label_code"] == k].sum(0) for k in range(3)]
    assert model.priors.confusion == pytest.approx(np.array(told), abs=1e-3)
    # on val itself the estimate is val's own mix
    ratio = np.log(table["label_code"].value_counts(normalize=True).sort_index().to_numpy() * 3)
    p = table[[f"p_{n}" for n in CLASSES]].to_numpy(np.float64)
    moved = logits + ratio
    moved -= np.log(np.exp(moved).sum(1, keepdims=True))
    assert np.log(p) == pytest.approx(moved, abs=0.02)


def test_with_few_validation_images_the_last_weights_are_kept(store, registry, tmp_path):
    few = tmp_path / "split-0"
    shutil.copytree(store / "split-0", few)
    shutil.copytree(store / "ingest-0", tmp_path / "ingest-0")
    record = json.loads((few / "split.json").read_text())
    (few / "split.json").write_text(json.dumps(record | {"choose_on_val": False}))
    out = train(tmp_path / "model", params_of(registry, plan=Plan(images=64)), tmp_path)
    config = json.loads((out / "config.json").read_text())
    assert not config["chosen_on_val"]
    assert config["chosen_at_images"] == 64


class Logistic:
    """A classifier that is no network: logistic regression on the mean grey and its spread."""

    def __init__(self, spec):
        self.arrays = {}

    def described(self, images):
        flat = images.reshape(len(images), -1).astype(float)
        return np.stack([flat.mean(1), flat.std(1)], 1) / 20

    def fit(self, particles, seed):
        found = LogisticRegression().fit(self.described(particles.images()), particles.labels)
        self.arrays = {"weights": found.coef_, "bias": found.intercept_}

    def predict_proba(self, images):
        logits = self.described(images) @ self.arrays["weights"].T + self.arrays["bias"]
        each = np.exp(logits - logits.max(1, keepdims=True))
        return each / each.sum(1, keepdims=True)

    def state(self):
        return self.arrays

    def load_state(self, arrays):
        self.arrays = arrays


def test_a_classifier_that_is_no_network(store, registry, tmp_path):
    plugin = Plugin("classifier", "logistic", Logistic, "x", "1", "entry point")
    params = params_of(registry, ["oversample"]) | {"classifier": Use(plugin, {})}
    out = train(tmp_path / "model", params, store)
    (tmp_path / "scores").mkdir()
    score(tmp_path / "scores", params, out, store / "split-0")
    table = pd.read_parquet(tmp_path / "scores" / "test.parquet")
    p = table[[f"p_{n}" for n in CLASSES]].to_numpy()
    assert (p.argmax(1) == table["label_code"]).mean() > 0.6
    with pytest.raises(SvpkitError, match="'logistic' has no features"):
        Model.load(out, params["classifier"]).features(pictures(3, 0))
    params["strategies"] = [registry.use("strategy", "augment", {}, "balance.augment")]
    with pytest.raises(SvpkitError, match="trains itself and cannot take the augment of 'augment'"):
        train(tmp_path / "other", params, store)


@pytest.mark.parametrize(
    ("size", "options", "side"),
    [
        (32, {}, 4),
        (32, {"stem": "half"}, 2),
        (64, {}, 4),
        (64, {"stem": "small"}, 8),
        (64, {"stem": "standard"}, 2),
        (128, {}, 4),
        (32, {"model": "efficientnet_b0"}, 2),
        (32, {"model": "test_vit", "stem": "auto"}, None),
    ],
)
def test_stems(size, options, side):
    spec = ImageSpec(3, size, CLASSES)
    chosen = {"model": "resnet10t", "width": 8, **options}
    if not chosen["model"].startswith("resnet"):
        del chosen["width"]
    model = timm_model(spec, **chosen).eval()
    images = torch.zeros(2, 3, size, size)
    with torch.inference_mode():
        maps = model.net.forward_features(images)
        assert model(images).shape == (2, 3)
        assert model.features(images).ndim == 2
    assert side is None or maps.shape[-2:] == (side, side)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet81"}, "timm has no 'resnet81'; did you mean 'resnet"),
        ({"model": "test_vit", "stem": "small"}, "'test_vit' cuts images into patches"),
        ({"model": "test_vit", "width": 8}, "width, layers and norm are for ResNets"),
        ({"model": "vgg11"}, "'vgg11' does not work on images of 1 x 16 x 16"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with pytest.raises(SvpkitError, match=message):
        timm_model(SPEC, **options)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SvpkitError, match="weights of 'resnet18' cannot be fetched") as caught:
        timm_model(SPEC, model="resnet18", pretrained=True)
    assert "\n" not in str(caught.value)


def test_group_norm_leaves_no_batch_norm():
    model = timm_model(SPEC, model="resnet10t", width=8, norm="group")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_scores_are_over_the_classes_that_are_there():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]])
    found = scores(labels, p)
    assert found["macro_recall"] == pytest.approx((0.5 + 1) / 2)
    assert found["macro_precision"] == pytest.approx((1 + 2 / 3) / 2)
    expected = [average_precision_score(labels == k, p[:, k]) for k in (0, 1)]
    assert found["macro_auprc"] == pytest.approx(np.mean(expected))


def test_the_weights_fetched_for_training_are_not_fetched_again(trained, registry):
    folder, params = trained
    use = params["classifier"]
    asked = replace(use, options={**use.options, "pretrained": True})
    assert Model.load(folder, asked).logits(pictures(3, 0)).shape == (3, 3)
