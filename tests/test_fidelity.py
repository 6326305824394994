"""Fidelity: KID against its closed form, and planted faults that must each be caught."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy

from svpkit import draws
from svpkit.generate import extractor, fidelity
from svpkit.generate.copies import copy_rate, nearest_two
from svpkit.particles.particleset import ParticleSet
from svpkit.store import file_digest

SEED = 0


def set_of(counts, seed):
    pixels, labels = toy.images(counts, seed)
    return ParticleSet.from_arrays(pixels, labels, toy.CLASSES)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A trained extractor with the split it was trained on; short, as toy shapes are simple."""
    train = set_of({"disc": 60, "ring": 120, "bar": 60}, 0)
    val = set_of({"disc": 60, "ring": 60, "bar": 60}, 1)
    split = SimpleNamespace(train=lambda: train, val=lambda: val)
    out = tmp_path_factory.mktemp("extractor")
    with pytest.MonkeyPatch.context() as patch:
        for module in (extractor, fidelity):
            patch.setattr(module, "Split", SimpleNamespace(open=lambda folder: split))
        patch.setattr(extractor, "PLAN", replace(extractor.PLAN, images=4800))
        extractor.extractor(out, {"seed": SEED}, out)
        yield SimpleNamespace(folder=out, train=train, val=val, real=set_of({"disc": 200}, 2))


def judged(seen, images, tmp_path):
    """Run the stage on drawn discs."""
    drawn = ParticleSet.from_arrays(images, ["disc"] * len(images), toy.CLASSES)
    drawn.save(tmp_path / "drawn")
    (tmp_path / "out").mkdir()
    fidelity.fidelity(tmp_path / "out", {"seed": SEED}, seen.folder, tmp_path, tmp_path / "drawn")
    found = json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert list(found) == ["disc"]
    return found["disc"]


def clipped(images):
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def test_real_images_are_close_to_real(seen, tmp_path):
    found = judged(seen, seen.real.images(), tmp_path)
    assert found["kid"]["low"] <= found["kid_floor"]["high"]
    assert found["kid"]["value"] < 0.05 * found["kid_ceiling"]["value"]
    assert found["kid"]["value"] < 0.1 * found["kid_other_class"]["value"]
    assert found["copy_rate"] == 0
    assert abs(found["background_shift_sd"]) < 0.25
    assert (found["n_drawn"], found["n_real"], found["n_compared"]) == (200, 60, 30)
    assert found["words"].startswith("Close to real")
    assert "copies" not in found["words"] and "background" not in found["words"]


def test_planted_copies_are_caught(seen, tmp_path):
    # a tenth are training images, turned, mirrored and with a little noise
    images = seen.real.images()
    copies = np.rot90(seen.train.of("disc").images()[:20], axes=(2, 3))[..., ::-1]
    noise = draws.rng(0, "copies").normal(0, 1, copies.shape)
    images[:20] = clipped(copies + noise)
    found = judged(seen, images, tmp_path)
    assert found["copy_rate"] == pytest.approx(0.1)
    assert "10.0% of them pass for copies" in found["words"]


def test_a_planted_grey_shift_is_caught(seen, tmp_path):
    found = judged(seen, clipped(seen.real.images().astype(float) + 6), tmp_path)
    assert found["background_shift_sd"] > 1 and found["grey_shift_sd"] > 1
    assert "brighter than the real one" in found["words"]


def test_a_planted_noise_set_is_caught(seen, tmp_path):
    noise = fidelity.noise_like(seen.real.images(), seed=5)
    found = judged(seen, noise, tmp_path)
    assert found["kid"]["low"] > 5 * found["kid_floor"]["high"]
    assert found["kid"]["value"] == pytest.approx(found["kid_ceiling"]["value"], rel=0.1)
    assert found["fid"]["low"] > found["fid_floor"]["high"]
    assert found["words"].startswith("Still far from real")


def test_another_class_is_caught(seen, tmp_path):
    found = judged(seen, set_of({"ring": 200}, 3).images(), tmp_path)
    assert found["kid"]["value"] > 10 * abs(found["kid_floor"]["value"])
    assert found["words"].startswith("Still far from real")


def test_blur_is_caught(seen, tmp_path):
    images = torch.from_numpy(seen.real.images()).float()
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    found = judged(seen, clipped(blurred.numpy()), tmp_path)
    assert found["kid"]["low"] > found["kid_floor"]["high"]


def test_too_few_images_say_so(seen, tmp_path):
    found = judged(seen, seen.real.images()[:5], tmp_path)
    assert "kid" not in found
    assert found["words"].startswith("Too few images to compare: 5 drawn, 60 held-out real.")


def test_kid_is_the_unbiased_polynomial_mmd():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 64)), rng.normal(0.3, 1.2, size=(40, 64))

    def kernel(x, y):
        return (x @ y.T / 64 + 1) ** 3

    def without_diagonal(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    expected = without_diagonal(kernel(a, a)) + without_diagonal(kernel(b, b))
    expected -= 2 * kernel(a, b).mean()
    found = fidelity.kid(torch.tensor(a).float(), torch.tensor(b).float())
    assert found == pytest.approx(expected, rel=1e-4)


def test_comparisons_need_no_global_generator():
    a, b = torch.randn(2, 60, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = fidelity.compare("kid", a, b, 20, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert fidelity.compare("kid", a, b, 20, 0) == one
    assert one["low"] < one["value"] < one["high"]


def test_the_floor_of_like_images_is_zero():
    # KID has no bias: halves of one set differ by 0 on average, and the interval says by how much
    gauss = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    floor = fidelity.compare("kid", gauss, None, 100, 0)
    assert floor["low"] < 0 < floor["high"]
    fresh = [
        fidelity.kid(*torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(k)))
        for k in range(1, 60)
    ]
    inside = [floor["low"] <= x <= floor["high"] for x in fresh]
    assert np.mean(inside) > 0.85


def test_fid_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    sd = np.linspace(0.5, 2, 64)
    a, b = rng.normal(size=(20_000, 64)) * sd + 0.2, rng.normal(size=(20_000, 64))
    expected = 64 * 0.2**2 + ((sd - 1) ** 2).sum()
    found = fidelity.fid(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(expected, rel=0.02)


def test_nearest_two_agrees_with_the_plain_way():
    rng = np.random.default_rng(0)
    drawn, train = rng.integers(0, 256, (2, 30, 1, 8, 8), dtype=np.uint8)
    views = [np.rot90(drawn, k, (2, 3)) for k in range(4)]
    views += [v[..., ::-1] for v in views]
    flat = train.reshape(30, -1).astype(float)
    each = [np.linalg.norm(v.reshape(30, 1, -1).astype(float) - flat, axis=-1) for v in views]
    expected = np.sort(np.min(each, axis=0), axis=1)[:, :2]
    np.testing.assert_allclose(nearest_two(drawn, train).numpy(), expected, rtol=1e-5)


def test_copies_need_two_training_images():
    images = np.zeros((1, 1, 8, 8), np.uint8)
    assert copy_rate(images, images) is None


def test_the_extractor_is_whitened_and_recorded(seen):
    model = extractor.load_extractor(seen.folder)
    said = json.loads((seen.folder / "extractor.json").read_text())
    assert said["digest"] == file_digest(seen.folder / "extractor.safetensors")
    pooled = [
        extractor._blocks(model, model.pooled, seen.train.of(c).images()) for c in toy.CLASSES
    ]
    white = torch.stack(
        [((p - p.mean(dim=0)) @ model.project).square().mean(dim=0) for p in pooled]
    ).mean(dim=0)
    # the largest directions have the variance 1 within a class, the smallest less
    assert float(white[-1]) == pytest.approx(1, abs=0.01)
    assert float(white.max()) <= 1.001
    features = extractor.features(model, seen.val.images())
    assert features.shape == (180, 64)
    assert float(features.square().sum(dim=1).max()) <= 64


def test_harms_are_what_they_say():
    seeds = draws.seeds(0, "harm", index=range(500))
    flat = torch.zeros(500, 1, 16, 16)
    harmed, much = extractor.harm(flat, seeds)
    sd = harmed.std(dim=(1, 2, 3))
    torch.testing.assert_close(sd, 0.1 * much[:, 1], atol=0.015, rtol=0)
    level = harmed.mean(dim=(1, 2, 3))
    torch.testing.assert_close(level, 0.2 * (much[:, 3] - 0.5), atol=0.02, rtol=0)
    assert 0.4 < float((much[:, 0] == 0).float().mean()) < 0.6
