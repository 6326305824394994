"""Descriptors of drawn against real particles: discs of known size, blur, unknown scales."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from svpkit import draws
from svpkit.generate.physical import NAMES, measure, physical, scales


def discs(diameters, size=32, sigma=0.0, seed=0):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    # the edge falls over a pixel, as that of any picture of a disc
    inside = [np.clip(d / 2 - np.hypot(x, y) + 0.5, 0, 1) for d in diameters]
    images = 170 - 80 * np.stack(inside)
    if sigma:
        images = ndimage.gaussian_filter(images, (0, sigma, sigma))
    images = images + draws.rng(seed, "discs").normal(0, 1, images.shape)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)[:, None]


def sizes(n, low, high, seed):
    return draws.rng(seed, "sizes").uniform(low, high, n)


def compared(drawn, real, um=None):
    return physical(measure(drawn), measure(real), np.arange(len(real)), 0, um)


def test_larger_drawn_discs_are_larger_in_um():
    real = discs(sizes(60, 8, 12, 0), seed=1)
    drawn = discs(sizes(120, 12, 16, 2), seed=3)
    found = compared(drawn, real, (np.full(120, 0.5), np.full(60, 0.5)))
    ecd = found["ecd"]
    assert ecd["unit"] == "um" and found["area"]["unit"] == "um^2"
    # 4 px further, half a micrometre each
    assert ecd["wasserstein"]["value"] == pytest.approx(2, abs=0.2)
    assert ecd["wasserstein_floor"]["high"] < 0.5
    assert ecd["wasserstein"]["low"] < 2 < ecd["wasserstein"]["high"]
    assert ecd["drawn"] - ecd["real"] == pytest.approx(2, abs=0.3)
    assert ecd["wasserstein_sd"] > 2 and ecd["ks"] > 0.9 and ecd["p"] < 1e-6
    pixels = compared(drawn, real)["ecd"]
    assert pixels["unit"] == "px"
    assert pixels["wasserstein"]["value"] == pytest.approx(2 * ecd["wasserstein"]["value"])
    assert compared(drawn, real)["sharpness"]["unit"] == "1/px"


def test_like_discs_are_alike():
    found = compared(discs(sizes(120, 8, 14, 2), seed=3), discs(sizes(60, 8, 14, 0), seed=1))
    assert list(found) == ["area", "ecd", "aspect", "circularity", "grey", "sharpness"]
    for row in found.values():
        assert row["p"] > 0.01
        # six at once: one may be just above
        assert row["wasserstein"]["value"] <= 1.25 * row["wasserstein_floor"]["high"]
        assert row["wasserstein_sd"] < 0.5


@pytest.mark.parametrize("size", [1, 5])
def test_the_floor_is_the_distance_of_like_samples(size):
    # real values of groups with a level of their own, drawn ones each of a group of its own
    rng = draws.rng(size, "like")

    def sample(n):
        groups, own = np.arange(n * size) // size, rng.normal(0, 1, n)
        values = own[groups] + 0.5 * rng.normal(0, 1, n * size)
        return pd.DataFrame(dict.fromkeys(NAMES, values)), groups

    value, floor, under = [], [], []
    for _ in range(16):
        (drawn, _), (real, units) = sample(150), sample(40)
        row = physical(drawn[::size], real, units, 0)["grey"]
        value.append(row["wasserstein"]["value"])
        floor.append(row["wasserstein_floor"]["value"])
        under.append(value[-1] <= row["wasserstein_floor"]["high"])
    assert np.mean(value) == pytest.approx(np.mean(floor), rel=0.25)
    assert np.mean(under) >= 0.8


def test_blur_is_seen_in_the_sharpness():
    real = discs(sizes(60, 9, 13, 0), seed=1)
    found = compared(discs(sizes(120, 9, 13, 2), sigma=1.5, seed=3), real)
    assert found["sharpness"]["drawn"] < 0.8 * found["sharpness"]["real"]
    assert found["sharpness"]["wasserstein_sd"] > 2 and found["sharpness"]["p"] < 1e-6


def test_images_without_an_object_are_missing_not_small():
    images = np.concatenate([discs([10.0] * 12), np.full((6, 1, 32, 32), 170, np.uint8)])
    table = measure(images)
    assert table.isna().all(axis=1).sum() == 6
    found = physical(table, table, np.arange(18), 0)
    assert found["area"]["real"] == pytest.approx(78, abs=12)
    # too few with an object on one side
    assert physical(table.iloc[8:], table, np.arange(18), 0) == {}


def test_micrometres_only_where_every_scale_is_known():
    real, bare = np.full(5, 0.5), np.full(3, np.nan)
    assert scales(np.full(3, 0.25), real)[0].tolist() == [0.25] * 3
    # drawn images say nothing: they have the one scale of the real ones
    assert scales(bare, real)[0].tolist() == [0.5] * 3
    assert scales(bare, np.array([0.5, 0.7])) is None
    assert scales(np.array([0.5, np.nan]), real) is None
    assert scales(np.full(3, 0.5), np.array([0.5, np.nan])) is None
