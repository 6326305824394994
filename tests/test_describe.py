import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from svpkit import ParticleSet, SvpkitError
from svpkit.particles.describe import COLUMNS, background, describe, diameters, segment
from svpkit.particles.sheet import contact_sheet, inspect


def drawn(inside, level=80, back=200, blur=0.0, noise=0.0, size=96):
    """An image uint8 (1, 1, size, size) of a shape given by its inside, sampled 8 x 8 a pixel."""
    y, x = (np.mgrid[: size * 8, : size * 8] + 0.5) / 8 - size / 2
    cover = inside(x, y).reshape(size, 8, size, 8).mean((1, 3))
    image = back + (level - back) * (ndimage.gaussian_filter(cover, blur) if blur else cover)
    image = image + noise * np.random.default_rng(0).normal(size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)[None, None]


def disc(radius):
    return lambda x, y: np.hypot(x, y) < radius


@pytest.mark.parametrize("radius", [6, 12, 30])
@pytest.mark.parametrize("level", [80, 250])
def test_a_disc(radius, level):
    row = describe(drawn(disc(radius), level), 0.5).iloc[0]
    assert row["area_px"] == pytest.approx(np.pi * (radius + 0.2) ** 2, rel=0.05)
    assert row["ecd_px"] == pytest.approx(2 * radius, abs=0.6)
    assert row["ecd_um"] == pytest.approx(row["ecd_px"] / 2)
    assert row["aspect"] == pytest.approx(1, abs=0.02)
    assert row["circularity"] == pytest.approx(1, abs=0.06)
    # the outermost pixels are half background, which tells on a small disc
    assert row["grey"] == pytest.approx(level - 200, rel=0.05 if radius > 6 else 0.1)


@pytest.mark.parametrize("aspect", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("turn", [0.0, 0.6])
def test_an_ellipse(aspect, turn):
    a, b = 30, 30 * aspect

    def inside(x, y):
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        return (u / a) ** 2 + (v / b) ** 2 < 1

    row = describe(drawn(inside)).iloc[0]
    around = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan 1914
    assert row["area_px"] == pytest.approx(np.pi * a * b, rel=0.04)
    assert row["aspect"] == pytest.approx(aspect, abs=0.02)
    assert row["circularity"] == pytest.approx(4 * np.pi**2 * a * b / around**2, abs=0.04)
    assert np.isnan(row["ecd_um"])


@pytest.mark.parametrize("blur", [2.0, 3.0, 4.0])
def test_sharpness_of_a_blurred_edge(blur):
    # The gradient of a step blurred by a Gaussian peaks at 1 / (sigma sqrt(2 pi)).
    row = describe(drawn(disc(30), blur=blur)).iloc[0]
    assert row["sharpness"] == pytest.approx(1 / (blur * np.sqrt(2 * np.pi)), rel=0.12)


def test_a_ring_is_filled_and_the_largest_object_is_kept():
    def inside(x, y):
        ring = (np.hypot(x + 10, y) < 20) & (np.hypot(x + 10, y) > 15)
        return ring | (np.hypot(x - 35, y) < 5)

    mask = segment(drawn(inside))[0]
    assert mask.sum() == pytest.approx(np.pi * 20**2, rel=0.05) and not mask[:, 75:].any()


def test_noise_moves_the_size_little():
    quiet, noisy = (describe(drawn(disc(14), noise=n)).iloc[0] for n in (0, 8))
    assert noisy["ecd_px"] == pytest.approx(quiet["ecd_px"], rel=0.05)


def test_an_image_without_object():
    table = describe(np.full((2, 1, 16, 16), 130, np.uint8), [0.5, 0.5])
    assert (table["area_px"] == 0).all() and table["ecd_um"].isna().all()
    assert list(table.columns) == list(COLUMNS)
    assert len(describe(np.empty((0, 1, 16, 16), np.uint8))) == 0


def test_colour_and_scales_by_image():
    images = np.concatenate([drawn(disc(10)), drawn(disc(10))])
    table = describe(np.repeat(images, 3, axis=1), [0.5, np.nan])
    assert table["ecd_um"][0] == pytest.approx(10, rel=0.03) and np.isnan(table["ecd_um"][1])


def test_background_is_the_median_of_the_border():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 2, 5, 7), dtype=np.uint8)
    edge = np.ones((5, 7), bool)
    edge[1:-1, 1:-1] = False
    np.testing.assert_array_equal(background(images), np.median(images[:, :, edge], axis=-1))


def test_a_sheet_shows_each_image_in_its_place():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 1, 4, 4), 10, np.uint8)
    sheet = np.asarray(contact_sheet(images, ["x\ny"] * 5, columns=3, upscale=2))
    cell = (8 + 6 + 2 * 13, 8 + 6)
    assert sheet.shape == (2 * cell[0] + 6, 3 * cell[1] + 6, 3)
    for i in range(5):
        top, left = i // 3 * cell[0] + 6, i % 3 * cell[1] + 6
        assert (sheet[top : top + 8, left : left + 8] == 10 * i).all()


def test_inspect_writes_a_sheet_a_class(tmp_path):
    images = np.full((6, 3, 8, 8), 90, np.uint8)
    labels = ["oil drop/large", "air", "", "air", "air", "air"]
    sizes = [float("nan"), 3.0, 1.0, 5.0, 4.0, 3.0]
    particles = ParticleSet.from_arrays(
        images, labels, ("oil drop/large", "air", "none"), ecd_um=sizes, um_per_px=0.5
    )
    particles.save(tmp_path / "set")
    table = inspect(tmp_path / "set", tmp_path / "out", per_class=2).set_index("class")
    assert list(table.index) == ["oil drop/large", "air", "none", ""]
    assert list(table["n"]) == [1, 4, 0, 1] and list(table["origin"][:2]) == ["real", "real"]
    assert tuple(table.loc["air", ["ecd_um_low", "ecd_um_high"]]) == (3.0, 5.0)
    assert np.isnan(table.loc["oil drop/large", "ecd_um_low"])
    files = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert files == ["air.png", "none.png", "oil_drop_large.png", "unlabelled.png"]
    with Image.open(tmp_path / "out" / "air.png") as sheet:
        assert sheet.size == (8 * (16 + 6) + 6, 16 + 6 + 2 * 13 + 6)
    with pytest.raises(SvpkitError, match="no particle set here"):
        inspect(tmp_path, tmp_path / "out")


def test_real_tiles_are_outlined(real_data):
    root = real_data / "flowcam_protists"
    columns = {"file": "tile", "label": "class", "um_per_px": "cal_const", "ecd_um": "abd_diameter"}
    particles = ParticleSet.from_folder(root, size=64, labels="labels.csv", columns=columns)
    some = particles.take(np.arange(0, 3000, 15))
    found = describe(some.images(), some.table["um_per_px"])
    assert (found["area_px"] > 0).mean() > 0.98
    # the instrument's own diameter, from its own threshold: alike in order if not in value
    assert found["ecd_um"].corr(some.table["ecd_um"], method="spearman") > 0.7


def test_diameters_are_those_of_the_table():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 12, 14), np.uint8)
    images[0] = 90
    scale = np.linspace(0.1, 2, 20)
    np.testing.assert_array_equal(diameters(images, scale), describe(images, scale)["ecd_um"])
    assert len(diameters(images[:0], scale[:0])) == 0
