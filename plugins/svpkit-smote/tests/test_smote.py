"""Both strategies against imbalanced-learn itself, and their rows against what a run may hold."""

import ast
import json
import math
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from imblearn.over_sampling import ADASYN, SMOTE, SVMSMOTE, BorderlineSMOTE
from imblearn.under_sampling import EditedNearestNeighbours, TomekLinks
from smote_toys import CLASSES, particles
from svpkit import ParticleSet, SvpkitError, draws
from svpkit.testing import parametrize_with_checks, toys

import svpkit_smote
from svpkit_smote import smote_pixels, tomek
from svpkit_smote.parents import parents
from svpkit_smote.space import components, points

KINDS = ("smote", "borderline", "svm", "adasyn", "kmeans")


@dataclass(frozen=True)
class Context:
    classes: tuple[str, ...] = CLASSES
    seed: int = 7


def filled(train, **options):
    return smote_pixels(**options).particles(train, Context())


def added(train, found):
    return found.take(np.arange(len(train), len(found)))


def flat(found):
    return found.images().reshape(len(found), -1).astype(float)


def state_of(kind):
    return draws.key(7, "smote_pixels", kind) & (2**32 - 1)


def blends(train, made):
    """Unrounded images of a lineage, and the steps."""
    said = [json.loads(line) for line in made.table["lineage"].astype(str)]
    place = {name: i for i, name in enumerate(train.table["id"].astype(str))}
    a, b = (flat(train)[[place[s["parents"][k]] for s in said]] for k in (0, 1))
    step = np.array([s["step"] for s in said])
    return a + step[:, None] * (b - a), a, b, step


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [("smote", SMOTE), ("borderline", BorderlineSMOTE), ("svm", SVMSMOTE), ("adasyn", ADASYN)],
)
@pytest.mark.parametrize("pca", [0.9, "raw"])
def test_points_are_those_of_imbalanced_learn(noisy, kind, theirs, pca):
    """Their points in the space, by the same state, are ours, seen through the components."""
    share = None if pca == "raw" else pca
    places = points(noisy, share, 7)
    named = "n_neighbors" if kind == "adasyn" else "k_neighbors"
    asked = {"random_state": state_of(kind), "sampling_strategy": {1: 120, 2: 120}, named: 4}
    x, y = theirs(**asked).fit_resample(places, noisy.labels)
    made = added(noisy, filled(noisy, kind=kind, neighbours=4, pca=pca))
    assert made.labels.tolist() == y[len(noisy) :].tolist() and len(made) > 50
    exact = blends(noisy, made)[0]
    seen = exact if share is None else (exact - np.float64(mean_of(noisy)[0])) @ mean_of(noisy)[1]
    assert np.abs(seen - x[len(noisy) :]).max() < 2e-2  # steps are told to six digits
    assert np.abs(flat(made) - exact.clip(0, 255)).max() < 0.51


def mean_of(train):
    return components(train, 0.9, 7)


@pytest.mark.parametrize("kind", ["smote", "borderline", "adasyn", "kmeans"])
def test_a_made_particle_lies_between_its_parents(noisy, kind):
    found = filled(noisy, kind=kind, neighbours=3, pca=0.8)
    made = added(noisy, found)
    exact, a, b, step = blends(noisy, made)
    assert ((step >= -1e-6) & (step <= 0.5 + 1e-6)).all() and step.max() > 0.3
    pixels = flat(made)
    assert (pixels >= np.minimum(a, b) - 0.51).all() and (pixels <= np.maximum(a, b) + 0.51).all()
    parents_of = [json.loads(line)["parents"] for line in made.table["lineage"].astype(str)]
    label = dict(zip(found.table["id"].astype(str), found.table["label"], strict=True))
    for (one, two), own in zip(parents_of, made.table["label"], strict=True):
        assert one != two and label[one] == label[two] == own


@pytest.mark.parametrize("m", [2, 5, 60])
@pytest.mark.parametrize("kept", [4000, 1])
def test_parents_are_found_again(m, kept, monkeypatch):
    monkeypatch.setattr("svpkit_smote.parents.KEPT", kept)
    rng = np.random.default_rng(m)
    members = rng.normal(size=(m, 20)) * 40
    near = np.argsort(((members[:, None] - members) ** 2).sum(2), axis=1)[:, 1 : min(5, m - 1) + 1]
    one = rng.integers(m, size=400)
    two = near[one, rng.integers(near.shape[1], size=400)]
    step = rng.uniform(0.02, 0.98, 400)
    a, b, found = parents(members[one] + step[:, None] * (members[two] - members[one]), members, 5)
    nearer = step < 0.5
    assert np.array_equal(a, np.where(nearer, one, two))
    assert np.array_equal(b, np.where(nearer, two, one))
    assert np.allclose(found, np.minimum(step, 1 - step))


def test_twins_and_those_alone():
    members = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    a, b, step = parents(np.array([[0.0, 0.0], [1.2, 1.6]]), members, 1)
    assert a[0] in (0, 1) and step[0] == 0
    assert {int(a[1]), int(b[1])} in ({0, 2}, {1, 2}) and step[1] == pytest.approx(0.4)
    assert [each.tolist() for each in parents(members[:1], members[:1], 5)] == [[0], [0], [0]]


@pytest.mark.parametrize(
    ("to", "counts"),
    [
        ("largest", {"disc": 120, "ring": 120, "bar": 120}),
        ({"bar": 70, "ring": 10}, {"disc": 120, "ring": 30, "bar": 70}),
        (0.5, {"disc": 120, "ring": 45, "bar": 30}),
        (0.0, {"disc": 120, "ring": 30, "bar": 20}),
    ],
)
def test_counts(train, to, counts):
    assert filled(train, to=to).counts == counts


def test_real_particles_stay_in_front_as_they_are(train):
    found = filled(train)
    first = found.take(np.arange(len(train)))
    assert first.digest == train.digest and np.array_equal(first.images(), train.images())
    assert set(first.table["origin"]) == {"real"}
    made = added(train, found)
    assert set(made.table["origin"]) == {"synthetic"}
    assert set(made.table["source"]) == {"smote_pixels"}
    assert found.table["id"].is_unique and not made.table["digest"].isna().any()


def test_scale_and_size_are_blended_alike(train):
    size = np.linspace(1, 9, len(train))
    scaled = ParticleSet.from_arrays(
        train.images(), list(train.table["label"]), CLASSES, um_per_px=0.25, ecd_um=size
    )
    made = added(scaled, filled(scaled))
    assert np.allclose(made.table["um_per_px"], 0.25)
    said = [json.loads(line) for line in made.table["lineage"].astype(str)]
    of = dict(zip(scaled.table["id"], size, strict=True))
    sizes = [of[s["parents"][0]] * (1 - s["step"]) + of[s["parents"][1]] * s["step"] for s in said]
    assert np.allclose(made.table["ecd_um"], sizes, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_and_another_does_not(noisy, kind):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    strategy = smote_pixels(kind=kind, neighbours=3, pca=0.8)
    one, same = (strategy.particles(noisy, Context()).digest for _ in range(2))
    assert one == same != strategy.particles(noisy, Context(seed=8)).digest
    assert np.array_equal(np.random.get_state()[1], before)


def test_components_hold_their_share(train):
    pixels = flat(train)
    for share in (0.5, 0.9, 1.0):
        mean, basis = components(train, share, 7)
        assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-3)
        rest = pixels - mean - (pixels - mean) @ basis @ basis.T
        held = 1 - (rest**2).sum() / ((pixels - mean) ** 2).sum()
        assert held >= share - 1e-4
        less = basis[:, :-1]
        rest = pixels - mean - (pixels - mean) @ less @ less.T
        assert 1 - (rest**2).sum() / ((pixels - mean) ** 2).sum() < share


def test_components_of_some_and_in_blocks(train, monkeypatch):
    whole = points(train, 0.9, 7)
    monkeypatch.setattr("svpkit_smote.space.BLOCK", 13)
    assert np.allclose(points(train, 0.9, 7), whole, atol=1e-2)
    assert np.array_equal(points(train, None, 7), flat(train))
    monkeypatch.setattr("svpkit_smote.space.FOUND_FROM", 30)
    assert points(train, 0.9, 7).shape[1] < 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"neighbours": 20},
            "balance.smote_pixels.neighbours: given 20, but class 'bar' has 20 training particles",
        ),
        ({"to": {"rod": 5}}, r"balance.smote_pixels.to: no class 'rod' \(known: disc, ring, bar\)"),
        ({"kind": "borderline"}, "kind: 'borderline' adds nothing to class 'ring': none of its"),
        ({"kind": "adasyn"}, "kind: 'adasyn' cannot work on these particles"),
        (
            {"kind": "kmeans", "neighbours": 19},
            "balance.smote_pixels.kind: 'kmeans' cannot work on these particles",
        ),
    ],
)
def test_errors_are_one_line(train, options, said):
    with pytest.raises(SvpkitError, match=said) as error:
        filled(train, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, TomekLinks(sampling_strategy="majority")),
        ({"rule": "enn"}, EditedNearestNeighbours(sampling_strategy="majority")),
        (
            {"rule": "enn", "neighbours": 7},
            EditedNearestNeighbours(sampling_strategy="majority", n_neighbors=7),
        ),
    ],
)
def test_cleaning_leaves_out_what_imbalanced_learn_does(train, options, theirs):
    mixed = ParticleSet.from_arrays(  # discs among rings: labels that are wrong
        train.images(), ["disc" if i % 9 == 0 else n for i, n in enumerate(train.table["label"])],
        CLASSES,
    )  # fmt: skip
    theirs.fit_resample(points(mixed, 0.9, 7), mixed.labels)
    found = tomek(**options).particles(mixed, Context())
    assert list(found.table["id"]) == [f"particle-{i:06d}" for i in sorted(theirs.sample_indices_)]
    assert found.counts["disc"] < mixed.counts["disc"]
    assert found.counts["ring"] == mixed.counts["ring"]
    assert found.counts["bar"] == mixed.counts["bar"]


def test_cleaning_of_few(train):
    one = train.take([0, 1, 2])
    assert tomek().particles(one, Context()).digest == one.digest
    with pytest.raises(SvpkitError, match="balance.tomek.neighbours: given 3, but there are 3"):
        tomek().particles(train.take([0, 1, 130]), Context())


RECIPE = """
name = "between"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 35, ring = 35, bar = 35 }
test = { reader = "folder", path = "test" }
[balance]
strategies = ["smote_pixels", "tomek"]
[classifier]
options = { model = "resnet10t", width = 8, stem = "half" }
train = { images = 160, batch = 32, lr = 2e-3 }
[evaluate]
replicates = 200
"""


def test_a_recipe(tmp_path):
    import svpkit

    try:
        metadata.version("svpkit-smote")
    except metadata.PackageNotFoundError:
        pytest.skip("svpkit-smote is not installed")
    toys.write(tmp_path / "data", particles(dict(disc=120, ring=50, bar=50), 0))
    toys.write(tmp_path / "test", particles(dict(disc=40, ring=30, bar=30), 1))
    (tmp_path / "between.toml").write_text(RECIPE)
    run = svpkit.run(tmp_path / "between.toml", runs=tmp_path / "runs", store=tmp_path / "store")
    (model,) = (tmp_path / "store").glob("classifier-*")
    counts = json.loads((model / "train_counts.json").read_text())
    assert counts["real"]["ring"] == counts["real"]["bar"] == 15
    assert counts["drawn"] == {"bar": 70, "disc": 0, "ring": 70}
    assert math.isfinite(run.results["test"]["macro_auprc"]["value"])
    assert (run.folder / "report.html").is_file()


def test_a_module_of_the_host_is_never_imported():
    for path in Path(svpkit_smote.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("svpkit.") for name in names)


@parametrize_with_checks("smote_pixels", "tomek")
def test_conformance(check):
    check()
