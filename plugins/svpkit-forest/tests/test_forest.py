"""The forest against scikit-learn's own answers, and against files that are not its own."""

import ast
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from forest_toys import CLASSES, particles
from sklearn.ensemble import RandomForestClassifier
from svpkit import ImageSpec, ParticleSet, SvpkitError, draws
from svpkit.testing import parametrize_with_checks, toys

import svpkit_forest
from svpkit_forest import forest
from svpkit_forest.descriptors import GREY, NAMES, described
from svpkit_forest.trees import Trees


def fitted(spec, train, seed=3, **options):
    model = forest(spec, **{"trees": 40, **options})
    model.fit(train, seed)
    return model


def theirs(model, train, seed=3, **options):
    """The same forest, grown and asked by scikit-learn."""
    asked = {"max_features": "sqrt", **options}
    state = draws.key(seed, "forest") & (2**32 - 1)
    found = RandomForestClassifier(40, random_state=state, **asked)
    return found.fit(model.features(train.images()), train.labels)


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, {}),
        ({"depth": 3}, {"max_depth": 3}),
        ({"leaf": 4, "balanced": "balanced"}, {"min_samples_leaf": 4, "class_weight": "balanced"}),
        ({"balanced": "balanced_subsample"}, {"class_weight": "balanced_subsample"}),
        ({"share": 0.9, "features": ["grey", "aspect", "spread"]}, {"max_features": 0.9}),
    ],
)
def test_answers_are_those_of_scikit_learn(spec, train, fresh, options, same):
    model = fitted(spec, train, **options)
    found = model.predict_proba(fresh.images())
    own = theirs(model, train, **same)
    assert np.abs(found - own.predict_proba(model.features(fresh.images()))).max() < 1e-7
    assert found.shape == (150, 3) and np.allclose(found.sum(1), 1)


def test_it_learns(spec, train, fresh):
    found = fitted(spec, train).predict_proba(fresh.images()).argmax(1)
    assert (found == fresh.labels).mean() > 0.95


def test_state_gives_the_same_answers_and_is_arrays_alone(spec, train, fresh):
    model = fitted(spec, train)
    state = model.state()
    assert all(type(a) is np.ndarray and a.dtype.kind in "if" for a in state.values())
    other = forest(spec, trees=40)
    other.load_state({name: a.copy() for name, a in state.items()})
    assert np.array_equal(other.predict_proba(fresh.images()), model.predict_proba(fresh.images()))


def test_an_answer_is_of_its_own_image_and_the_seed(spec, train, fresh):
    model, again = fitted(spec, train), fitted(spec, train)
    whole = model.predict_proba(fresh.images())
    some = [7, 60, 149]
    assert np.array_equal(again.predict_proba(fresh.images(some)), whole[some])
    assert model.predict_proba(fresh.images([])).shape == (0, 3)
    assert not np.array_equal(fitted(spec, train, seed=4).predict_proba(fresh.images()), whole)


def test_walks_in_blocks(spec, train, fresh, monkeypatch):
    model = fitted(spec, train)
    whole = model.predict_proba(fresh.images())
    monkeypatch.setattr("svpkit_forest.trees.PAIRS", 300)
    monkeypatch.setattr("svpkit_forest.descriptors.BLOCK", 11)
    assert np.array_equal(model.predict_proba(fresh.images()), whole)


def test_global_randomness_is_left_alone(spec, train):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    fitted(spec, train)
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_class_that_training_lacks_has_its_column(spec, fresh):
    model = fitted(spec, particles({"disc": 30, "bar": 30}))
    found = model.predict_proba(fresh.images())
    assert (found[:, 1] == 0).all() and (found[:, 2] > 0).any()


def test_an_image_without_an_object_is_filled_with_the_median(spec, train):
    model = fitted(spec, train)
    empty = np.full((2, 1, 16, 16), 170, np.uint8)
    raw = described(train.images(), NAMES)
    column = NAMES.index("circularity")
    assert np.isnan(described(empty, NAMES)[:, column]).all()
    level = (np.nanmedian(raw[:, column]) - model.mean[column]) / model.scale[column]
    assert model.features(empty)[0, column] == pytest.approx(level, rel=1e-6)
    assert np.isfinite(model.predict_proba(empty)).all()


def test_nothing_but_empty_images_can_be_learnt_from(spec):
    empty = np.full((6, 1, 16, 16), 170, np.uint8)
    model = fitted(spec, ParticleSet.from_arrays(empty, ["disc", "bar"] * 3, CLASSES))
    found = model.predict_proba(empty)
    assert np.isfinite(found).all() and np.allclose(found, found[0])


def test_features_are_standardised(spec, train):
    found = fitted(spec, train).features(train.images())
    assert found.dtype == np.float32 and found.shape == (200, len(NAMES))
    assert np.abs(found.mean(0)).max() < 1e-5 and np.abs(found.std(0) - 1).max() < 1e-5


def test_features_follow_an_image_that_changes_in_place(spec, train):
    model, images = fitted(spec, train), train.images([0, 150])
    first = model.features(images)
    images[:] = images[::-1].copy()
    assert np.array_equal(model.features(images), first[::-1])


def test_colour(train):
    spec = ImageSpec(3, 16, CLASSES)
    colour = particles({"disc": 20, "ring": 20, "bar": 20}, channels=3)
    assert fitted(spec, colour).predict_proba(colour.images()).shape == (60, 3)
    grey = colour.images()[:, :1]
    assert np.allclose(described(np.repeat(grey, 3, 1), NAMES)[0], described(grey, NAMES)[0])


def test_grey_descriptors():
    image = np.full((1, 1, 20, 20), 100, np.uint8)
    image[0, 0, 5:10, 5:15] = 160
    image[0, 0, 12, 12] = 40
    darkest, brightest, spread = described(image, GREY)[0]
    assert (darkest, brightest) == (0, 60)
    assert spread == pytest.approx(np.sqrt((50 * 60**2 + 60**2) / 400))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"left": lambda a: np.zeros_like(a)}, "lead nowhere"),
        ({"right": lambda a: a + 10**6}, "lead nowhere"),
        ({"roots": lambda a: a - 1}, "looks at more than its 9 descriptors"),
        ({"feature": lambda a: a + 9}, "lead nowhere|looks at more"),
        ({"value": lambda a: a[:, :2]}, "3 classes"),
        ({"fill": lambda a: a[:2]}, "9 descriptors are looked at"),
    ],
)
def test_arrays_of_another_forest_are_refused(spec, train, change, said):
    state = fitted(spec, train).state()
    state |= {name: how(state[name]) for name, how in change.items()}
    with pytest.raises(ValueError, match=said):
        forest(spec, trees=40).load_state(state)


def test_one_without_trees_says_so(spec):
    for ask in (lambda m: m.state(), lambda m: m.predict_proba(np.zeros((1, 1, 16, 16), np.uint8))):
        with pytest.raises(SvpkitError, match="not fitted yet"):
            ask(forest(spec))
    with pytest.raises(SvpkitError, match="at least one is needed"):
        forest(spec, features=[])


def test_a_leaf_alone_is_a_tree(spec):
    same = np.full((6, 1, 16, 16), 9, np.uint8)
    model = fitted(spec, ParticleSet.from_arrays(same, ["disc"] * 6, CLASSES))
    assert np.array_equal(model.predict_proba(same[:1]), [[1, 0, 0]])
    assert isinstance(Trees.from_arrays(model.state(), 9, 3), Trees)


RECIPE = """
name = "tree"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 35, ring = 35, bar = 35 }
test = { reader = "folder", path = "test" }
[balance]
strategies = ["oversample"]
[classifier]
plugin = "forest"
options = { trees = 30 }
[evaluate]
prevalence = { disc = 100, ring = 1, bar = 1 }
replicates = 200
[[baselines]]
name = "none"
"""


def test_a_recipe_from_images_to_counts(tmp_path):
    svpkit = pytest.importorskip("svpkit")
    try:
        metadata.version("svpkit-forest")
    except metadata.PackageNotFoundError:
        pytest.skip("svpkit-forest is not installed")
    toys.write(tmp_path / "data", particles(dict(disc=120, ring=60, bar=60), 0))
    toys.write(tmp_path / "test", particles(dict(disc=60, ring=30, bar=30), 1))
    (tmp_path / "tree.toml").write_text(RECIPE)
    run = svpkit.run(tmp_path / "tree.toml", runs=tmp_path / "runs", store=tmp_path / "store")
    assert run.results["test"]["macro_auprc"]["value"] > 0.95
    config = json.loads((run.folder / "model" / "config.json").read_text())
    assert config["classifier"]["package"] == "svpkit-forest"
    page = run.count(tmp_path / "test", out=tmp_path / "counts")
    assert (tmp_path / "counts" / "report.html").is_file() and page is not None


def test_a_module_of_the_host_is_never_imported():
    for path in Path(svpkit_forest.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("svpkit.") for name in names)


@parametrize_with_checks("forest")
def test_conformance(check):
    check()
