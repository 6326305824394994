"""A classifier that is no network, through all that a run does: a recipe from images to counts."""

import json

import numpy as np
import pytest
import toy

import svpkit
from svpkit import plugins
from svpkit.bind import bind
from svpkit.errors import SvpkitError
from svpkit.plan import plan_table
from svpkit.recipe import validate

PLUGIN = '''
import numpy as np
from sklearn.linear_model import LogisticRegression
from svpkit import hookimpl

class Logistic:
    """Logistic regression on mean grey, spread and edges; it knows what it was never told of."""

    def __init__(self, spec, features):
        self.spec, self.arrays = spec, {}
        if features:
            self.features = self.described

    @staticmethod
    def described(images):
        assert isinstance(images, np.ndarray) and images.dtype == np.uint8
        x = np.asarray(images, float)[:, 0] - 170
        edges = np.abs(np.diff(x, axis=1)).mean((1, 2))
        return np.stack([x.mean((1, 2)), x.std((1, 2)), np.abs(x).mean((1, 2)), edges], 1) / 8

    def fit(self, particles, seed):
        model = LogisticRegression(C=10, max_iter=5000)
        found = model.fit(self.described(particles.images()), particles.labels)
        self.arrays = {
            "weights": found.coef_, "bias": found.intercept_, "seen": np.array(len(particles))
        }

    def predict_proba(self, images):
        logits = self.described(images) @ self.arrays["weights"].T + self.arrays["bias"]
        each = np.exp(logits - logits.max(1, keepdims=True))
        each[each < 1e-3] = 0  # as a forest, whose leaves may hold none of a class
        return each / each.sum(1, keepdims=True)

    def state(self):
        return self.arrays

    def load_state(self, arrays):
        if arrays["seen"].shape != ():
            raise ValueError("seen is one number")
        self.arrays = arrays

class Broken(Logistic):
    """A logistic regression that says something else than it should."""

    def __init__(self, spec, what):
        super().__init__(spec, False)
        self.what = what

    def predict_proba(self, images):
        found = super().predict_proba(images)
        if self.what == "shape":
            return found[:, :2]
        return found * {"nan": np.nan, "sum": 3}.get(self.what, 1)

    def state(self):
        found = super().state()
        return {"weights": found["weights"].tolist()} if self.what == "lists" else found

def logistic(spec, *, features: bool = True):
    """Logistic regression."""
    return Logistic(spec, features)

def broken(spec, *, what: str = "shape"):
    """Something else."""
    return Broken(spec, what)

@hookimpl
def register_classifiers(register):
    register("logistic", logistic)
    register("broken", broken)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("object")
    toy.write_folder(folder / "data", {"disc": 140, "ring": 60, "bar": 60})
    toy.write_folder(folder / "test", {"disc": 60, "ring": 30, "bar": 30}, seed=1)
    (folder / "plugin.py").write_text(PLUGIN)
    return folder


@pytest.fixture(scope="module")
def registry(folder):
    return plugins.discover(files=[folder / "plugin.py"], builtin_only=True)


def recipe(folder, *strategies, plugin="logistic", **options):
    data = {"reader": "folder", "path": str(folder / "data"), "size": 16}
    data["val"] = {"disc": 40, "ring": 35, "bar": 35}
    data["test"] = {"reader": "folder", "path": str(folder / "test")}
    return {
        "name": "_".join([plugin, *strategies]),
        "data": data,
        "classifier": {"plugin": plugin, "options": options},
        "balance": {"strategies": list(strategies)},
        "evaluate": {"prevalence": {"disc": 100, "ring": 1, "bar": 1}, "replicates": 200},
    }


def start(folder, registry, asked):
    return svpkit.run(asked, runs=folder / "runs", store=folder / "store", registry=registry)


@pytest.fixture(scope="module")
def run(folder, registry):
    asked = recipe(folder, "oversample", "prior_correction")
    asked["baselines"] = [{"name": "none", "strategies": ["none"]}]
    return start(folder, registry, asked)


def test_it_is_scored_and_told_of(run):
    found = run.results
    assert found["test"]["macro_auprc"]["value"] > 0.8
    assert found["arms"]["none"]["test"]["macro_auprc"]["value"] > 0.8
    assert "logistic" in (run.folder / "report.html").read_text()


def test_a_plan_tells_no_images_that_it_does_not_train_on(folder, registry):
    asked = recipe(folder) | {"classifier": {"plugin": "logistic", "train": {"images": 77_000}}}
    bound = bind(validate(asked, "r"), registry, where="r")
    table = plan_table(bound, folder / "nowhere")
    cells = dict(zip(table.columns[0].cells, table.columns[2].cells, strict=True))
    assert [n for label, n in cells.items() if label.startswith("classifier")] == [""], cells
    assert "77,000" not in cells.values()


def test_what_was_not_chosen_is_not_said_to_be(run):
    config = json.loads((run.folder / "model" / "config.json").read_text())
    assert config["chosen_on_val"] is False
    assert config["chosen_at_images"] == 150  # the training particles, seen once


def test_its_state_comes_back_as_it_was(run):
    arrays = run.model.network.arrays
    assert arrays["seen"].shape == () and int(arrays["seen"]) == 150
    images = np.stack([toy.picture(n, np.random.default_rng(3)) for n in toy.CLASSES])[:, None]
    found = run.predict(images)
    assert len(found) == 3 and list(found)[0] == "predicted"
    assert np.allclose(found.filter(like="p_").to_numpy().sum(1), 1)
    assert run.model.features(images).dtype == np.float32


def test_probabilities_of_nothing_do_not_blind_the_calibration(run):
    """What a class is given 0 of is not impossible: a rare 0 must not outweigh all the rest."""
    said = json.loads((run.folder / "model" / "reference.json").read_text())
    assert said["calibration"]["test"]["calibrated"]["brier"]["value"] < 0.3


def test_it_is_put_to_work(run, folder, tmp_path):
    page = run.count(folder / "test", out=tmp_path / "counts")
    assert (tmp_path / "counts" / "report.html").is_file() and page is not None
    record = json.loads((run.folder / "model" / "reference.json").read_text())
    assert set(record["unknown"]["found"]["tried"]) == {"energy", "knn", "vim"}


def test_one_without_features_is_put_to_work(folder, registry, tmp_path):
    run = start(folder, registry, recipe(folder, "none", features=False))
    run.count(folder / "test", out=tmp_path / "counts", to_label=5)
    record = json.loads((run.folder / "model" / "reference.json").read_text())
    assert set(record["unknown"]["found"]["tried"]) == {"energy"}


@pytest.mark.slow
def test_drawn_particles_are_learnt_from(folder, registry):
    asked = recipe(folder, "synthetic")
    asked["generator"] = {"plugin": "copy", "classes": ["ring", "bar"], "train": {"images": 32}}
    asked["balance"]["synthetic"] = {"at_most": 20}
    run = start(folder, registry, asked)
    assert int(run.model.network.arrays["seen"]) == 150 + 40


@pytest.mark.parametrize(
    ("strategy", "verb"),
    [
        ("augment", "augment"),
        ("class_weights", "loss"),
        ("mixup", "mix"),
        ("crt", "second_stage"),
    ],
)
def test_what_needs_a_network_is_refused(folder, registry, strategy, verb):
    with pytest.raises(SvpkitError) as error:
        start(folder, registry, recipe(folder, strategy))
    assert f"'logistic' trains itself and cannot take the {verb} of '{strategy}'" in str(
        error.value
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("shape", r"predict_proba gave an array of \(110, 2\), \(110, 3\) is wanted"),
        ("nan", "predict_proba gave what are no shares: each 0 to 1, in a row 1 together"),
        ("sum", "predict_proba gave what are no shares: each 0 to 1, in a row 1 together"),
        ("lists", "'weights' of its state is list, an array of numbers is wanted"),
    ],
)
def test_what_it_says_is_checked(folder, registry, what, said):
    with pytest.raises(SvpkitError, match=f"classifier Broken: {said}"):
        start(folder, registry, recipe(folder, "none", plugin="broken", what=what))
