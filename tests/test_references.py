"""Reference generators: their draws against counts, moments and another library's components."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from scipy import stats
from sklearn.decomposition import PCA

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.fit import to_float, to_uint8
from svpkit.generate import stage, training
from svpkit.generate.diffusion import turned
from svpkit.generate.references import Copy, principal, shifted
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import discover

NAMES = ("copy", "copy_augment", "noise", "gaussian_pca")
SIZE = 8
SPEC = ImageSpec(1, SIZE, ("a", "b"))


def smooth_set(counts, channels=1, size=SIZE, seed=0, low=60):
    """Particles of a few smooth modes on mid grey, which no draw clips."""
    rng = np.random.default_rng(seed)
    modes = rng.normal(size=(6, channels, size, size)).cumsum(2).cumsum(3)
    modes *= 20 / np.abs(modes).max(axis=(1, 2, 3), keepdims=True)
    parts = []
    for k, n in enumerate(counts.values()):
        weights = rng.normal(size=(n, 6)) / np.arange(1, 7)
        grey = 110 + 20 * k + np.tensordot(weights, modes, 1) + rng.normal(0, 2, (n, 1, 1, 1))
        parts.append(np.clip(np.rint(grey + rng.normal(0, 2, grey.shape)), 0, 255))
    labels = [name for name, n in counts.items() for _ in range(n)]
    return ParticleSet.from_arrays(np.concatenate(parts).astype(np.uint8), labels, tuple(counts))


def use(name, **options):
    return discover(builtin_only=True).use("generator", name, options, "generator.plugin")


def fitted(name, particles, **options):
    channels, size, _ = particles.shape
    model = use(name, **options)(ImageSpec(channels, size, particles.classes))
    model.fit(particles, 0)
    return model


def drawn(model, label, n, first=0):
    seeds = draws.seeds(0, "test", index=range(first, first + n))
    return model.sample(torch.full((n,), label), seeds)


def test_copies_are_training_images_each_as_often():
    particles = smooth_set({"a": 7, "b": 12})
    images = to_uint8(drawn(fitted("copy", particles), 1, 12_000)).numpy()
    own = {x.tobytes(): i for i, x in enumerate(particles.of("b").images())}
    found = np.bincount([own[x.tobytes()] for x in images], minlength=12)
    assert stats.chisquare(found).pvalue > 0.01


def test_an_augmented_copy_is_a_training_image_turned_and_moved():
    # noise on a wide even border: a turned and moved one is found by hand among all it can be
    rng = np.random.default_rng(0)
    pixels = np.full((3, 2, 16, 16), 100, np.uint8)
    pixels[:, :, 4:12, 4:12] = rng.integers(0, 255, (3, 2, 8, 8))
    particles = ParticleSet.from_arrays(pixels, ["a"] * 3, ["a"])
    images = to_uint8(drawn(fitted("copy_augment", particles, shift=0.125), 0, 4000)).numpy()
    views = {}
    for x in torch.from_numpy(pixels):
        for g in range(8):
            for down in range(-2, 3):
                for right in range(-2, 3):
                    view = np.roll(turned(x, g).numpy(), (down, right), axis=(1, 2))
                    views[view.tobytes()] = len(views)
    found = np.bincount([views[x.tobytes()] for x in images], minlength=600)
    assert len(views) == 600 and stats.chisquare(found).pvalue > 0.01


def test_a_shift_brings_the_background_into_view():
    x = torch.arange(2 * 2 * 36, dtype=torch.uint8).view(2, 2, 6, 6)
    moved = shifted(x, torch.tensor([[2, 0], [0, -1]]))
    assert torch.equal(moved[0, :, :4], x[0, :, 2:])
    assert torch.equal(moved[1, :, :, 1:], x[1, :, :, :5])
    # borders of a ramp: the median is its middle
    assert moved[0, :, 4:].unique().tolist() == [18, 54]
    assert moved[1, :, :, 0].unique().tolist() == [90, 126]
    assert torch.equal(shifted(x, torch.zeros(2, 2).long()), x)


def test_without_a_shift_only_the_eight_orientations():
    particles = smooth_set({"a": 1, "b": 1})
    images = drawn(fitted("copy_augment", particles, shift=0.0), 0, 400)
    one = to_float(torch.from_numpy(particles.of("a").images()))[0]
    allowed = {turned(one, g).contiguous().numpy().tobytes() for g in range(8)}
    assert {x.contiguous().numpy().tobytes() for x in images} == allowed


def test_noise_has_the_class_moments_by_channel():
    particles = smooth_set({"a": 900, "b": 30}, channels=3)
    model = fitted("noise", particles)
    for k, name in enumerate(particles.classes):
        real = to_float(torch.from_numpy(particles.of(name).images())).double()
        images = drawn(model, k, 4000).double()
        mean, sd = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
        # 256,000 numbers a channel: five standard errors
        assert torch.allclose(mean, real.mean(dim=(0, 2, 3)), atol=5 / 506 * float(sd.max()))
        assert torch.allclose(sd, real.std(dim=(0, 2, 3)), rtol=0.01)
        flat = images.flatten(1)[:, :10] - images.flatten(1)[:, :10].mean(dim=0)
        correlation = np.corrcoef(flat.T.numpy()) - np.eye(10)
        assert np.abs(correlation).max() < 5 / 4000**0.5


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("n", [40, 300])
def test_gaussian_pca_has_the_mean_and_covariance_of_the_images(n, augment):
    # 40 images take the road by views (but with 8 views), 300 the road by pixels
    particles = smooth_set({"a": 5, "b": n})
    model = fitted("gaussian_pca", particles, augment=augment, variance=0.95)
    real = to_float(torch.from_numpy(particles.of("b").images())).double()
    turns = 8 if augment else 1
    views = torch.cat([turned(real, g) for g in range(turns)]).flatten(1).numpy()
    images = drawn(model, 1, 20_000).double().flatten(1).numpy()
    wanted = np.cov(views.T) * (len(views) - 1) / (turns * (n - 1))
    # sampling error of a mean: five standard errors
    error = np.abs(images.mean(0) - views.mean(0)) / np.sqrt(np.diag(wanted) / 20_000)
    assert error.max() < 5
    # of the covariance, all but the share that became white noise
    found = np.cov(images.T)
    assert np.trace(found) == pytest.approx(np.trace(wanted), rel=0.02)
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize("n", [30, 200])
def test_components_are_those_of_scikit_learn(n):
    particles = smooth_set({"a": n})
    model = fitted("gaussian_pca", particles, augment=False, variance=0.9)
    flat = to_float(torch.from_numpy(particles.images())).flatten(1).double().numpy()
    other = PCA(n_components=0.9, svd_solver="full").fit(flat)
    state = model.state()
    kept = len(state["sds.0"])
    assert kept == other.n_components_ > 1
    aligned = np.abs((state["components.0"] * other.components_).sum(axis=1))
    assert aligned == pytest.approx(np.ones(kept), abs=1e-4)
    total = flat.var(axis=0, ddof=1).sum()
    rest = (total - other.explained_variance_.sum()) / (SIZE**2 - kept)
    assert state["residual.0"] ** 2 == pytest.approx(rest, rel=1e-4)
    assert state["sds.0"] ** 2 + rest == pytest.approx(other.explained_variance_, rel=1e-4)


def test_both_roads_to_the_components_agree():
    # one image fewer than there are pixels, in views, and one more
    x = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    x = x - torch.stack([turned(x.mean(dim=0), g) for g in range(8)]).mean(dim=0)
    for images in (x[:8], x):
        value, vector, total = principal(images, 8, 0.999)
        views = torch.cat([turned(images, g) for g in range(8)]).flatten(1)
        singular = torch.linalg.svdvals(views).square() / (8 * (len(images) - 1))
        torch.testing.assert_close(value, singular[: len(value)])
        torch.testing.assert_close(total, singular.sum())
        eye = torch.eye(len(value), dtype=torch.float64)
        torch.testing.assert_close(vector.T @ vector, eye, atol=1e-9, rtol=0)


def test_one_image_is_all_that_a_gaussian_of_it_draws():
    particles = smooth_set({"a": 1})
    images = to_uint8(drawn(fitted("gaussian_pca", particles, augment=False), 0, 3)).numpy()
    assert np.array_equal(images, np.repeat(particles.images(), 3, axis=0))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_label_and_seed_alone(name):
    particles = smooth_set({"a": 9, "b": 20}, channels=3)
    model = fitted(name, particles)
    labels = torch.arange(40) % 2
    seeds = draws.seeds(3, "test", index=range(40))
    images = to_uint8(model.sample(labels, seeds))
    assert images.shape == (40, 3, SIZE, SIZE)
    again = use(name)(ImageSpec(3, SIZE, ("a", "b")))
    again.load_state({k: np.array(v) for k, v in model.state().items()})
    for some in (slice(0, 1), slice(3, 17), slice(17, 40)):
        assert torch.equal(to_uint8(model.sample(labels[some], seeds[some])), images[some])
        assert torch.equal(to_uint8(again.sample(labels[some], seeds[some])), images[some])
    other = to_uint8(model.sample(labels, seeds + 1))
    assert not torch.equal(other, images)


@pytest.mark.parametrize("name", NAMES)
def test_the_stages_run(name, tmp_path, monkeypatch):
    pixels, labels = toy.images({"disc": 30, "ring": 12, "bar": 8})
    train = ParticleSet.from_arrays(pixels, labels, toy.CLASSES)
    found = SimpleNamespace(train=lambda: train)
    monkeypatch.setattr(stage, "Split", SimpleNamespace(open=lambda folder: found))
    common = {"generator": use(name), "classes": ["bar", "ring"], "seed": 0, "keep": 1.0}
    rule = SimpleNamespace(draws=lambda counts: {"ring": 18, "bar": 60})
    for folder in ("model", "drawn"):
        (tmp_path / folder).mkdir()
    stage.generator(tmp_path / "model", common, tmp_path)
    asked = {**common, "sample": {}, "rule": lambda: rule}
    stage.synthetic(tmp_path / "drawn", asked, tmp_path / "model", tmp_path)
    drawn = ParticleSet.open(tmp_path / "drawn")
    assert drawn.counts == {"disc": 0, "ring": 18, "bar": 60}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["images"] == {
        "bar": 8,
        "ring": 12,
    }
    if name == "copy":
        for label in ("bar", "ring"):
            known = set(train.of(label).table["digest"])
            assert set(drawn.of(label).table["digest"]) <= known


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("copy", {"shift": 0.1}, "generator.options: unknown 'shift'"),
        ("copy_augment", {"shfit": 0.1}, "unknown 'shfit'; did you mean 'shift'"),
        ("copy_augment", {"shift": 0.7}, "generator.options.shift: given 0.7: .* equal to 0.5"),
        ("gaussian_pca", {"variance": 0}, "generator.options.variance: given 0: .* greater than 0"),
        ("gaussian_pca", {"variance": 1.5}, "variance: given 1.5: .* less than or equal to 1"),
        ("gaussian_pca", {"augment": "often"}, "augment: given 'often'"),
    ],
)
def test_bad_options_are_told(name, options, said):
    with pytest.raises(SvpkitError, match=said):
        use(name, **options)


def test_sample_takes_no_options():
    with pytest.raises(SvpkitError, match="generator.sample: unknown 'steps'"):
        training.check_sample_options(use("copy"), SPEC, {"steps": 25}, "generator.sample")


def test_every_grey_level_survives():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    model = Copy()
    model.fit(ParticleSet.from_arrays(pixels, ["a"], ["a"]), 0)
    assert np.array_equal(to_uint8(drawn(model, 0, 1)).numpy(), pixels)
