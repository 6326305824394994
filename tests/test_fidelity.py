"""Fidelity: KID against its closed form, and planted faults that must each be caught."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from scipy import ndimage

from svpkit import draws
from svpkit.default_plugins.references import copy_augment
from svpkit.disk import file_digest
from svpkit.generate import copies, distances, extractor, fidelity, gap, resample, verdict
from svpkit.generate.copies import (
    copy_rate,
    copy_recall,
    memorised,
    pixel_noise,
    worst_pairs,
)
from svpkit.generate.diffusion import turned
from svpkit.generate.nearest import SAME, nearest, nearest_two
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.simulate import objects
from svpkit.simulate.camera import expose
from svpkit.simulate.instruments import INSTRUMENTS
from svpkit.simulate.optics import Optics

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
    assert found["words"].startswith("Close to real") and found["verdict"] == "close"
    above = found["kid_gap"]
    assert above["low"] < 0 < above["high"]
    less = found["kid"]["value"] - found["kid_floor"]["value"]
    assert above["value"] == pytest.approx(less, abs=0.02 * found["kid_ceiling"]["value"])
    assert "copies" not in found["words"] and "background" not in found["words"]
    said = json.loads((seen.folder / "extractor.json").read_text())
    assert found["extractor"] == said["digest"]
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name]["low"] <= found[f"{name}_floor"]["high"]
        assert found[name]["high"] >= found[f"{name}_floor"]["low"]
    assert found["c2st"]["low"] <= 0.5 <= found["c2st"]["high"] and found["c2st"]["n"] == 60
    assert found["c2st_floor"]["low"] <= 0.5 <= found["c2st_floor"]["high"]
    assert found["memorised"]["low"] < 0 < found["memorised"]["high"]
    assert found["copy_interval"]["low"] == 0 < found["copy_interval"]["high"] < 0.03
    for name in ("background", "grey"):
        shift = found[f"{name}_shift"]
        assert shift["low"] < found[f"{name}_shift_sd"] == shift["value"] < shift["high"]
    assert found["physical"]["ecd"]["unit"] == "px" and found["unsegmented"]["real"] < 0.05
    assert all(row["wasserstein_sd"] < 0.4 for row in found["physical"].values())
    assert "variety" not in found["words"]


def test_planted_copies_are_caught(seen, tmp_path):
    # a tenth are training images, turned, mirrored and with a little noise
    images = seen.real.images()
    copies = np.rot90(seen.train.of("disc").images()[:20], axes=(2, 3))[..., ::-1]
    noise = draws.rng(0, "copies").normal(0, 1, copies.shape)
    images[:20] = clipped(copies + noise)
    found = judged(seen, images, tmp_path)
    assert found["copy_rate"] == pytest.approx(0.1)
    assert "At least 10.0% of them pass for copies" in found["words"]
    assert f"of planted copies {found['copy_recall']:.0%} are found" in found["words"]
    interval = found["copy_interval"]
    assert 0.05 < interval["low"] < interval["value"] < interval["high"] < 0.16
    # the pairs to look at: the copies first, each with what it was copied from, turned as it is
    rows = json.loads((tmp_path / "out" / "copies.json").read_text())
    pictures = np.load(tmp_path / "out" / "copies.npy")
    ids = list(seen.train.of("disc").table["id"])
    assert pictures.shape == (16, 2, 1, 16, 16) and len(rows) == 16
    for row, pair in zip(rows, pictures.astype(float), strict=True):
        assert row["class"] == "disc" and row["ratio"] <= 1 / 3
        assert ids.index(row["train"]) == int(row["drawn"].rsplit("-", 1)[1])
        assert np.abs(pair[0] - pair[1]).mean() < 2
    assert [r["ratio"] for r in rows] == sorted(r["ratio"] for r in rows)


def test_a_planted_grey_shift_is_caught(seen, tmp_path):
    found = judged(seen, clipped(seen.real.images().astype(float) + 6), tmp_path)
    assert found["background_shift_sd"] > 1 and found["grey_shift_sd"] > 1
    assert "brighter than the real one" in found["words"]
    assert found["background_shift"]["low"] > 0.5 and found["grey_shift"]["low"] > 0.5
    assert found["c2st"]["low"] > 0.7
    assert found["physical"]["sharpness"]["wasserstein_sd"] < 0.4


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
    assert found["words"].startswith("Still far from real") and found["verdict"] == "far"
    assert found["kid_gap"]["low"] > 0


def test_blur_is_caught(seen, tmp_path):
    images = torch.from_numpy(seen.real.images()).float()
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    found = judged(seen, clipped(blurred.numpy()), tmp_path)
    assert found["kid"]["low"] > found["kid_floor"]["high"]
    assert found["c2st"]["low"] > 0.9
    sharpness = found["physical"]["sharpness"]
    assert sharpness["drawn"] < 0.9 * sharpness["real"]
    assert sharpness["wasserstein_sd"] > 1 and sharpness["p"] < 1e-4


def sort_of(images, first=0):
    n = len(images)
    return fidelity.Sort(images, np.full(n, np.nan), np.arange(first, first + n))


def test_a_planted_mode_drop_is_caught(seen):
    # real ones are discs and rings; drawn ones are discs alone, each of them a good one
    model = extractor.load_extractor(seen.folder)

    def both(n, seed):
        return np.concatenate([set_of({name: n}, seed).images() for name in ("disc", "ring")])

    def judged_as(images):
        return fidelity.judge(
            lambda x: extractor.features(model, x),
            sort_of(images),
            sort_of(both(30, 4)),
            sort_of(both(40, 5), 1000),
            {},
            SEED,
        )

    lost = judged_as(seen.real.images()[:150])
    for name in ("recall", "coverage"):
        assert lost[name]["high"] < lost[f"{name}_floor"]["low"]
    assert lost["precision"]["high"] > lost["precision_floor"]["low"]
    assert "They lack variety" in lost["words"]
    whole = judged_as(both(75, 6))
    assert whole["recall"]["high"] > whole["recall_floor"]["low"]
    assert "They lack variety" not in whole["words"]


def test_what_it_learned_from_may_be_a_set_of_its_own(seen, tmp_path):
    other = set_of({"disc": 50}, 9)
    other.save(tmp_path / "learned")
    drawn = ParticleSet.from_arrays(other.images(), ["disc"] * 50, toy.CLASSES)
    drawn.save(tmp_path / "drawn")
    sets = tmp_path / "learned", tmp_path / "drawn"
    params = {"seed": SEED, "trained_on": True}
    fidelity.fidelity(tmp_path, params, seen.folder, tmp_path, *sets)
    found = json.loads((tmp_path / "fidelity.json").read_text())["disc"]
    assert found["n_drawn"] == 50 and found["copy_rate"] == 1
    assert found["memorised"]["value"] == 1 and found["memorised"]["low"] > 0.8
    # against the split's own training images they are nothing of the kind
    fidelity.fidelity(tmp_path, {"seed": SEED}, seen.folder, tmp_path, sets[1])
    assert json.loads((tmp_path / "fidelity.json").read_text())["disc"]["copy_rate"] == 0


def test_too_few_images_say_so(seen, tmp_path):
    found = judged(seen, seen.real.images()[:5], tmp_path)
    assert "kid" not in found
    assert found["words"].startswith("Too few images to compare: 5 drawn, 60 held-out real.")
    assert found["verdict"] == "cannot tell"


def test_kid_is_the_unbiased_polynomial_mmd():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 64)), rng.normal(0.3, 1.2, size=(40, 64))

    def kernel(x, y):
        return (x @ y.T / 64 + 1) ** 3

    def without_diagonal(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    expected = without_diagonal(kernel(a, a)) + without_diagonal(kernel(b, b))
    expected -= 2 * kernel(a, b).mean()
    found = distances.kid(torch.tensor(a).float(), torch.tensor(b).float())
    assert found == pytest.approx(expected, rel=1e-4)


def test_comparisons_need_no_global_generator():
    a, b = torch.randn(2, 60, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = distances.compare("kid", a, b, 20, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert distances.compare("kid", a, b, 20, 0) == one
    assert one["low"] < one["value"] < one["high"]


def test_the_floor_of_like_images_is_zero():
    # KID has no bias: halves of one set differ by 0 on average, and the interval says by how much
    gauss = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    floor = distances.compare("kid", gauss, None, 100, 0)
    assert floor["low"] < 0 < floor["high"]
    fresh = [
        distances.kid(*torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(k)))
        for k in range(1, 60)
    ]
    inside = [floor["low"] <= x <= floor["high"] for x in fresh]
    assert np.mean(inside) > 0.85


def test_fid_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    sd = np.linspace(0.5, 2, 64)
    a, b = rng.normal(size=(20_000, 64)) * sd + 0.2, rng.normal(size=(20_000, 64))
    expected = 64 * 0.2**2 + ((sd - 1) ** 2).sum()
    found = distances.fid(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(expected, rel=0.02)


def row_of(kid=0.0, floor_high=0.01, noise=1.0, other=0.5):
    return {
        "kid": {"value": kid},
        "kid_floor": {"value": 0.0, "high": floor_high},
        "kid_ceiling": {"value": noise},
        "kid_other_class": {"class": "silicone_oil", "value": other},
        "n_compared": 50,
    }


def test_the_verdict_is_the_words():
    # KID 0.02 of 0.5: a fifth of the way, as KID is a squared distance
    for row, kind, said in (
        (row_of(0.0), "close", "Close to real: 0% of the way from real images to silicone oil"),
        (row_of(0.02), "some way", "Some way from real: 20% of the way"),
        (row_of(0.3, noise=0.4), "far", "Still far from real: 87% of the way .* to noise"),
        (row_of(0.0, floor_high=0.6), "cannot tell", "cannot tell real images from silicone oil"),
    ):
        assert verdict.verdict(row)[0] == kind
        assert re.search(said, verdict.verdict(row)[1])


def test_halves_part_no_unit_and_are_alike():
    units = np.repeat(np.arange(40), np.tile([1, 1, 1, 7], 10))
    for k in range(20):
        a, b = gap.halves(units, draws.rng(k, "halves"))
        assert sorted([*a, *b]) == list(range(100))
        assert not set(units[a]) & set(units[b])
        assert abs(len(a) - len(b)) <= 7


def test_the_floor_sees_groups(seen):
    # ten images each of ten groups with a look of their own: halves of rows share every group
    gen = torch.Generator().manual_seed(0)
    own = torch.randn(10, 64, generator=gen).repeat_interleave(10, dim=0)
    x = (own + 0.3 * torch.randn(100, 64, generator=gen)) / 1.044
    units = np.repeat(np.arange(10), 10)
    rows = distances.compare("kid", x, None, 40, 0)["value"]
    groups = distances.compare("kid", x, None, 40, 0, units)["value"]
    assert abs(rows) < 0.1 * groups


def test_the_gap_of_groups_is_zero_for_like_images():
    # groups of one to seven images, each with a look of its own, and images of other groups
    inside, middle = [], []
    for k in range(40):
        gen = torch.Generator().manual_seed(k)
        units = np.repeat(np.arange(30), 1 + np.arange(30) % 7)
        own = torch.randn(30, 16, generator=gen)[torch.from_numpy(units)]
        held = (own + 0.5 * torch.randn(len(units), 16, generator=gen)) / 1.118
        found = gap.kid_gap(torch.randn(150, 16, generator=gen), held, units, k)
        inside.append(found["low"] <= 0 <= found["high"])
        middle.append(found["value"])
    assert np.mean(inside) >= 0.85
    assert abs(np.mean(middle)) < 3 * np.std(middle) / 40**0.5


@pytest.mark.parametrize("size", [1, 4])
def test_the_gap_is_the_mmd_of_all_pairs_of_two_units(size):
    gen = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 8, generator=gen).double(), torch.randn(40, 8, generator=gen).double()
    units = np.arange(40) // size
    found = gap.kid_gap(a, b, units, 0)

    def kernel(x, y):
        return ((x @ y.T / 8 + 1) ** 3).numpy()

    apart = units[:, None] != units
    expected = kernel(a, a)[~np.eye(50, dtype=bool)].mean() + kernel(b, b)[apart].mean()
    expected -= 2 * kernel(a, b).mean()
    assert found["value"] == pytest.approx(expected, abs=1e-9)
    assert found["low"] < found["value"] < found["high"]
    assert gap.gap(a, b, units, 0) == (found["low"], found["high"])


def test_units_are_groups_or_else_pictures():
    pixels, labels = toy.images({"disc": 12, "ring": 12})
    halved = [f"g{i // 2}" for i in range(24)]
    two = {"group": ["a", "b"] * 12, "source": [f"s{i // 2}" for i in range(24)]}
    for columns, n in (({"group": halved}, 12), (two, 24), ({}, 24), ({"group": "a"}, 24)):
        found = resample.units_of(ParticleSet.from_arrays(pixels, labels, toy.CLASSES, **columns))
        assert len(set(found)) == n
    # a class of few groups stands by its rows
    few = [f"g{i // 6}" for i in range(12)] + halved[12:]
    found = resample.units_of(ParticleSet.from_arrays(pixels, labels, toy.CLASSES, group=few))
    assert [len(set(found[:12])), len(set(found[12:]))] == [12, 6]


def test_the_gaps_interval_covers():
    # of like sets the gap is 0; of shifted ones it is the distance of large samples
    def normal(n, seed, shift=0.0):
        return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)) + shift

    alone = np.arange(80)
    like = [gap.gap(normal(120, k), normal(80, 100 + k), alone, k) for k in range(40)]
    assert np.mean([low <= 0 <= high for low, high in like]) >= 0.9
    true = distances.kid(normal(4000, 1), normal(4000, 2, 0.4))
    apart = [gap.gap(normal(120, k, 0.4), normal(80, 100 + k), alone, k) for k in range(40)]
    assert np.mean([low <= true <= high for low, high in apart]) >= 0.9
    assert np.mean([low > 0 for low, _ in apart]) >= 0.9


def test_nearest_two_agrees_with_the_plain_way():
    # blobs near the middle, so that no particle moves: every turn, shift and contrast by hand
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12] - 5.5
    blob = 80 * np.exp(-(x**2 + y**2) / 8)
    drawn, train = (clipped(90 + blob + rng.normal(0, 15, (n, 1, 12, 12))) for n in (6, 4))
    y, x = np.mgrid[:8, :8]
    basis = np.linalg.qr(np.stack([np.ones(64), y.ravel(), x.ravel()], axis=1))[0]

    def blurred(images):
        for axis in (1, 2):
            images = ndimage.correlate1d(
                images.astype(float), np.array([1, 4, 6, 4, 1]) / 16, axis, mode="nearest"
            )
        return images

    def flat(image):
        return image.ravel() - basis @ (basis.T @ image.ravel())

    def apart(a, b):
        way = min(max(a @ b / (b @ b), 0.7), 1.4)
        return np.sqrt(np.mean((a - way * b) ** 2))

    def least(a, b):
        turns = [np.rot90(a, k) for k in range(4)]
        views = [flat(v[2:10, 2:10]) for v in turns + [t[:, ::-1] for t in turns]]
        moved = [flat(b[i : i + 8, j : j + 8]) for i in range(5) for j in range(5)]
        return min(apart(v, m) for v in views for m in moved)

    each = np.array([[least(a, b) for b in blurred(train[:, 0])] for a in blurred(drawn[:, 0])])
    expected = np.sort(each, axis=1)[:, :2]
    np.testing.assert_allclose(nearest_two(drawn, train).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("g", range(8))
def test_the_worst_pairs_lie_the_same_way(g):
    train = draws.rng(0, "pairs").integers(0, 256, (20, 1, 12, 12), dtype=np.uint8)
    drawn = draws.rng(1, "pairs").integers(0, 256, (30, 1, 12, 12), dtype=np.uint8)
    drawn[7] = turned(torch.from_numpy(train[13]), g).numpy()
    rows, pictures = worst_pairs(nearest(drawn, train), drawn, train, most=3)
    assert (rows[0]["drawn"], rows[0]["train"]) == (7, 13) and rows[0]["ratio"] < 0.01
    assert np.array_equal(pictures[0, 0], pictures[0, 1])
    assert len(rows) == 3 and rows[1]["ratio"] > 0.3


def memorised_of(drawn, train, val, seed=0):
    units = np.arange(len(train)), np.arange(len(val))
    return memorised(drawn, train, val, units, seed)


def test_nothing_is_memorised_of_fresh_images():
    inside = []
    for k in range(12):
        images = simulated(objects.silicone_oil, 240, 1000 * k)[draws.rng(k).permutation(240)]
        found = memorised_of(images[:80], images[80:180], images[180:], k)
        inside.append(found["low"] <= 0 <= found["high"])
    assert np.mean(inside) >= 0.8
    # half are copies
    images[:40] = images[80:120]
    more = memorised_of(images[:80], images[80:180], images[180:])
    assert more["low"] < 0.5 < more["high"] and more["low"] > 0
    assert memorised_of(images[:9], images[:15], images[233:]) is None


def test_copies_are_memorised_where_training_images_are_many(monkeypatch):
    images = simulated(objects.silicone_oil, 2300, 0)[draws.rng(1).permutation(2300)]
    train, val = images[:2000], images[2000:2100]
    found = memorised_of(train[:200], train, val)
    assert found["value"] > 0.95 and found["low"] > 0.5 and found["high"] <= 1
    # fresh images, whichever of the others were held out: the nearest ones stay what they are
    fresh, others, inside = images[2100:], images[:2100], []
    once = nearest(fresh, others)
    for k in range(20):
        order = draws.rng(k, "held out").permutation(2100)
        index = torch.from_numpy(np.argsort(order))[once.index]
        monkeypatch.setattr(copies, "nearest", lambda *_, i=index: replace(once, index=i))
        real = memorised_of(fresh, others[order[:2000]], others[order[2000:]], k)
        inside.append(real["low"] <= 0 <= real["high"])
    assert np.mean(inside) >= 0.85


def simulated(kind, n, camera):
    """Bubbles or droplets at 32 x 32, their camera's noise, level and slope drawn from `camera`."""
    optics = Optics(INSTRUMENTS["mfi-like"], 32, 2)
    seeds = np.arange(n, dtype=np.uint64)
    return expose(kind(seeds, optics)[0], seeds + np.uint64(camera), optics)[:, None]


@pytest.mark.parametrize("kind", [objects.silicone_oil, objects.air_bubble])
def test_noisy_copies_are_caught(kind):
    images = simulated(kind, 150, 0)
    train, val = images[:50], images[50:]
    noise = draws.rng(0, "copies").normal(0, 2, train.shape)
    assert copy_rate(clipped(train + noise), train) >= 0.9
    # a second picture of the same particles: plain pixels find under half of them
    assert copy_rate(simulated(kind, 50, 10_000), train) >= 0.65
    # large bubbles are black with a piece of rim: some look alike
    assert copy_rate(val, train) <= (0 if kind is objects.silicone_oil else 0.08)
    assert copy_recall(train, 0) >= 0.9
    # light is not what tells two particles apart
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    assert copy_rate(clipped(train * 0.97 + 3 + 2 * x - y), train) >= 0.95


def test_copies_that_are_moved_or_changed_in_contrast_are_caught():
    images = simulated(objects.silicone_oil, 500, 0)[draws.rng(2).permutation(500)]
    train, val = images[:400], images[400:]
    assert copy_rate(np.roll(train[:100], 1, axis=3), train) > 0.95
    level = np.median(train[:100], axis=(2, 3), keepdims=True)
    assert copy_rate(clipped(level + 0.8 * (train[:100] - level)), train) > 0.95
    # the generator that draws training images turned and shifted
    augmented = copy_augment(ImageSpec(1, 32, ("oil",)))
    augmented.fit(ParticleSet.from_arrays(train, ["oil"] * 400, ["oil"]), 0)
    seeds = draws.seeds(0, "copies", index=range(200))
    drawn = augmented.sample(torch.zeros(200, dtype=torch.int64), seeds)
    assert copy_rate(clipped(drawn.numpy() * 127.5 + 127.5), train) > 0.9
    assert copy_rate(val, train) < 0.02


def test_the_same_image_is_a_copy_whatever_comes_next():
    # training images that stand there twice: the next one is as near
    images = simulated(objects.silicone_oil, 60, 0)
    train = np.concatenate([images[:30], images[:5]])
    drawn = np.concatenate([images[:5], images[30:]])
    near = nearest(drawn, train)
    assert near.copied()[:5].all() and not near.copied()[5:].any()
    rows, _ = worst_pairs(near, drawn, train, most=5)
    assert sorted(row["drawn"] for row in rows) == list(range(5))
    assert all(row["ratio"] == 0 and row["distance"] <= SAME for row in rows)


def test_recall_falls_with_noise_and_is_reported(seen, tmp_path):
    # images that noise alone tells apart: planted with as much again, none is known for sure
    flat = clipped(draws.rng(0, "flat").normal(180, 6, (40, 1, 16, 16)))
    assert copy_recall(flat, 0) < 0.2
    assert copy_recall(flat[:1], 0) is None and copy_recall(flat[:0], 0) is None
    found = judged(seen, seen.real.images()[:20], tmp_path)
    assert found["copy_recall"] == copy_recall(seen.train.of("disc").images(), SEED)
    # so alike are the toy discs that a noisy copy of one is as near to others
    assert found["copy_recall"] < 0.2


@pytest.mark.parametrize("sd", [1.5, 4.0, 8.0])
def test_pixel_noise_is_measured(sd):
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    disc = 150 + 5 * x + 60 * (np.hypot(x, y) < 0.5)
    images = clipped(disc + draws.rng(0, "sd").normal(0, sd, (60, 1, 32, 32)))
    assert pixel_noise(images) == pytest.approx(sd, rel=0.12)
    padded = np.pad(images, ((0, 0), (0, 0), (8, 8), (8, 8)), constant_values=150)
    assert pixel_noise(padded) == pytest.approx(sd, rel=0.12)


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
