import csv
import os

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from svpkit import ParticleSet, SvpkitError
from svpkit.particles import ingest as module
from svpkit.particles.fitting import Fit, fit_image
from svpkit.particles.ingest import import_set, ingest
from svpkit.particles.particleset import RAW_ID, read_manifest, read_raw
from svpkit.plugins import Plugin, Use
from svpkit.readers.labels import read_labels


class Given:
    """A reader of what a test gives it."""

    def __init__(self, items):
        self.items = items

    def read(self, path, *, classes=None):
        return iter(self.items)


def use(items, **options):
    return Use(Plugin("reader", "given", Given(items), "test", "", "test"), options)


def grey(seed, shape=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def items(n, **row):
    return [(grey(i), {"label": "ab"[i % 2], **row}) for i in range(n)]


def test_small_images_are_padded_with_the_median_of_their_border():
    image = np.full((3, 5), 90, np.uint8)
    image[1, 1:4] = 7
    image[0, 0] = 255
    fitted, factor = fit_image(image, 9, 1)
    assert fitted.shape == (1, 9, 9) and factor == 1
    np.testing.assert_array_equal(fitted[0, 3:6, 2:7], image)
    outside = np.ones((9, 9), bool)
    outside[3:6, 2:7] = False
    assert (fitted[0][outside] == 90).all()


def test_padding_is_per_channel():
    image = np.zeros((2, 2, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    fitted, _ = fit_image(image, 4, 3)
    assert (fitted == np.array([10, 20, 30])[:, None, None]).all()


def test_large_images_shrink_by_area_and_keep_their_aspect():
    image = grey(1, (16, 32))
    fitted, factor = fit_image(image, 8, 1)
    blocks = image.reshape(4, 4, 8, 4).mean((1, 3))
    assert factor == 4
    assert np.abs(fitted[0, 2:6] - blocks).max() <= 1
    assert len(np.unique(fitted[0, :2])) == 1


def test_a_disc_keeps_its_diameter_in_um():
    y, x = np.mgrid[:100, :100] - 49.5
    disc = np.where(np.hypot(x, y) < 30, 40, 200).astype(np.uint8)
    fitted, factor = fit_image(disc, 40, 1)
    area = (fitted[0] < 120).sum() * factor**2
    assert factor == 2.5
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(60, rel=0.02)


def test_no_image_is_stretched():
    fitted, factor = fit_image(np.full((1, 300), 9, np.uint8), 8, 1)
    assert factor == 37.5 and (fitted == 9).all()


def test_grey_stays_grey_through_colour():
    image = grey(2)
    np.testing.assert_array_equal(fit_image(np.dstack([image] * 3), 8, 1)[0][0], image)
    np.testing.assert_array_equal(fit_image(image, 8, 3)[0], np.stack([image] * 3))
    np.testing.assert_array_equal(fit_image(image, 8, 1)[0][0], image)


def test_colour_becomes_the_luminance_that_pillow_computes():
    colour = grey(3, (8, 8, 3))
    expected = np.asarray(Image.fromarray(colour).convert("L")).astype(int)
    assert np.abs(fit_image(colour, 8, 1)[0][0] - expected).max() <= 1


def test_what_is_transparent_becomes_background():
    image = np.full((6, 6, 4), 255, np.uint8)
    image[..., :3] = 100
    image[0, :, :] = 0
    assert (fit_image(image, 6, 3)[0] == 100).all()


def test_sixteen_bits_are_divided_by_257():
    deep = np.array([[0, 257], [65535, 300]], np.uint16)
    np.testing.assert_array_equal(fit_image(deep, 2, 1)[0][0], [[0, 1], [255, 1]])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_images_are_refused(image):
    with pytest.raises(SvpkitError, match="is read"):
        fit_image(image, 8, 1)


def test_ingest_writes_what_the_reader_gave(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    given = items(9, group="run1", um_per_px=0.5, voltage=3)
    given.append((grey(9, (16, 16)), {"label": "c", "id": "large", "um_per_px": 0.5}))
    found = import_set(tmp_path / "set", use(given), None, size=8)
    assert found.classes == ("a", "b", "c") and len(found) == 10
    np.testing.assert_array_equal(found.images()[:9, 0], [image for image, _ in given[:9]])
    table = found.table
    assert list(table["id"][[0, 8, 9]]) == ["particle-000000", "particle-000008", "large"]
    assert table["um_per_px"][9] == 1.0 and table["note"][9] == "shrunk 2 times"
    assert (table["um_per_px"][:9] == 0.5).all() and (table["voltage"][:9] == 3).all()
    assert np.isnan(table["ecd_um"]).all() and table["hash"].dtype == np.uint64
    manifest = module.Path(tmp_path / "set" / "manifest.json").read_text()
    assert '"shrunk": 1' in manifest and '"reader": "given"' in manifest


def test_classes_in_the_order_given_or_of_the_reader(tmp_path):
    assert import_set(tmp_path / "1", use(items(4)), None, classes=["b", "a"]).classes == ("b", "a")
    by_reader = import_set(tmp_path / "2", use(items(4), classes=["b", "a"]), None)
    assert by_reader.classes == ("b", "a")
    with pytest.raises(SvpkitError, match="label of particle 'particle-000001': unknown 'b'"):
        import_set(tmp_path / "3", use(items(4)), None, classes=["a", "bb"])


def test_unlabelled_particles_make_no_class(tmp_path):
    found = import_set(tmp_path / "set", use([(grey(0), {}), *items(2)]), None)
    assert found.classes == ("a", "b") and list(found.labels) == [-1, 0, 1]


def test_bad_images_are_set_aside_with_the_reason(tmp_path):
    bad = [
        ("truncated", {"id": "x.png", "label": "a"}),
        (OSError("broken\nheader"), {"id": "y.png"}),
        (np.zeros((3, 3)), {"id": "z.png"}),
        (grey(0), {"id": "w.png", "um_per_px": "wide"}),
    ]
    found = import_set(tmp_path / "set", use([*items(4), *bad]), None)
    assert len(found) == 4
    with (tmp_path / "set" / "quarantine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["id"], r["label"]) for r in rows] == [
        ("x.png", "a"),
        ("y.png", ""),
        ("z.png", ""),
        ("w.png", ""),
    ]
    assert rows[0]["reason"] == "truncated" and rows[1]["reason"] == "broken header"
    assert "float64" in rows[2]["reason"]
    assert rows[3]["reason"] == "um_per_px is 'wide'; a number is wanted"
    assert '"quarantined": 4' in (tmp_path / "set" / "manifest.json").read_text()


def test_more_bad_than_good_is_an_error(tmp_path):
    bad = [("broken", {"id": f"{i}.png"}) for i in range(5)]
    assert len(import_set(tmp_path / "half", use([*items(5), *bad]), None)) == 5
    with pytest.raises(
        SvpkitError, match=r"5 of 9 images cannot be read; the first: 0.png: broken"
    ):
        import_set(tmp_path / "most", use([*items(4), *bad]), "here")
    with pytest.raises(SvpkitError, match=r"here: no image could be read; the first: 0.png"):
        import_set(tmp_path / "all", use(bad), "here")
    with pytest.raises(SvpkitError, match="given: no image could be read"):
        import_set(tmp_path / "none", use([]), None)
    assert not list(tmp_path.glob("*/manifest.json"))[1:]


def test_an_id_given_twice_names_both_rows(tmp_path):
    twice = [(grey(i), {"label": "a", "id": name}) for i, name in enumerate("xyzy")]
    with pytest.raises(SvpkitError, match="id 'y' is given by rows 1 and 3"):
        import_set(tmp_path / "set", use(twice), None)


def test_a_set_is_never_written_over(tmp_path):
    (tmp_path / "kept.txt").touch()
    with pytest.raises(SvpkitError, match="already there"):
        import_set(tmp_path, use(items(2)), None)


def test_same_input_same_set(tmp_path):
    params = {"reader": use(items(20)), "path": None, "size": 16, "channels": 1, "classes": None}
    for name in "ab":
        ingest(tmp_path / name, params)
    one, other = (ParticleSet.open(tmp_path / name) for name in "ab")
    assert one.digest == other.digest and one.table.equals(other.table)


@pytest.mark.parametrize("which", ["data", "test"])
def test_pictures_that_move_between_bind_and_make_are_no_data(tmp_path, which):
    from toy import RECIPE, write_folder

    from svpkit import api
    from svpkit.pipeline import _data
    from svpkit.store import Store

    write_folder(tmp_path / "data", {"disc": 60, "ring": 55, "bar": 55})
    write_folder(tmp_path / "test", {"disc": 9, "ring": 9, "bar": 9}, seed=1)
    (tmp_path / "toy.toml").write_text(RECIPE)
    store = Store(tmp_path / "store")
    bound = api.experiment(tmp_path / "toy.toml")
    moved = sorted((tmp_path / which / "disc").iterdir())[:5]
    for path in moved:
        path.rename(tmp_path / path.name)
    with pytest.raises(SvpkitError, match=f"{which}: changed before or while it was read"):
        _data(bound, store.get)
    for path in moved:
        (tmp_path / path.name).rename(path)
    data, _ = _data(bound, Store(tmp_path / "store").get)
    assert len(ParticleSet.open(data.path)) == 170


def test_hash_follows_the_correlation():
    # Signs of projections differ in arccos(r) / pi of the bits (Goemans & Williamson 1995).
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(400, 32, 32)), (0, 2, 2))
    first = smooth / smooth.std((1, 2), keepdims=True)
    for r in (0.995, 0.9, 0.5, 0.0):
        second = r * first + np.sqrt(1 - r**2) * np.roll(first, 1, axis=0)
        pictures = [
            np.clip(128 + 30 * x, 0, 255).astype(np.uint8)[:, None] for x in (first, second)
        ]
        apart = np.bitwise_count(np.bitwise_xor(*map(module.picture_hash, pictures)))
        assert apart.mean() == pytest.approx(64 * np.arccos(r) / np.pi, abs=1.0)


def test_hash_of_a_blank_image_is_zero():
    assert (module.picture_hash(np.full((2, 1, 8, 8), 77, np.uint8)) == 0).all()


def test_one_scale_for_all_keeps_sizes_in_um():
    yy, xx = np.mgrid[:60, :60] - 30
    disc = np.where(np.hypot(xx, yy) < 20, 60, 180).astype(np.uint8)
    fine, factor = Fit(64, 1, um_per_px=0.5)(disc, 0.25)
    assert factor == 2
    area = (fine < 120).sum() * 0.5**2
    assert area == pytest.approx(np.pi * (20 * 0.25) ** 2, rel=0.03)
    larger, factor = Fit(128, 1, um_per_px=0.25)(disc[:40, :40], 0.5)
    assert factor == 0.5 and larger.shape == (1, 128, 128)
    with pytest.raises(SvpkitError, match="um_per_px is not known"):
        Fit(64, 1, um_per_px=0.5)(disc, float("nan"))
    with pytest.raises(SvpkitError, match="too far"):
        Fit(64, 1, um_per_px=0.5)(disc, 100.0)


def test_a_divided_background_forgets_the_lamp():
    rng = np.random.default_rng(0)
    field = rng.normal(1.0, 0.01, (24, 24))
    field[8:16, 8:16] = 0.5
    fit = Fit(24, 1, "divide")
    dim, bright = (fit((field * level).round().astype(np.uint8), 1.0)[0] for level in (100, 200))
    assert np.median(dim[0, 0]) == np.median(bright[0, 0]) == 160
    assert np.abs(dim.astype(int) - bright).max() <= 3
    assert (Fit(24, 1)(np.full((24, 24), 9, np.uint8), 1.0)[0] == 9).all()
    assert (fit(np.zeros((24, 24), np.uint8), 1.0)[0] == 0).all()


def test_the_exports_own_columns_lie_beside_the_table(tmp_path):
    given = [
        (np.full((8, 8), i, np.uint8), {"id": f"r/{i}", "raw": {"id": i, "Area (ABD)": i / 2}})
        for i in range(5)
    ]
    found = import_set(tmp_path / "set", use(given), None, size=8)
    assert not [c for c in found.table if "Area" in c]
    raw = read_raw(tmp_path / "set")
    assert list(raw) == [RAW_ID, "id", "Area (ABD)"]
    assert raw["Area (ABD)"].tolist() == [0, 0.5, 1, 1.5, 2] and raw[RAW_ID][3] == "r/3"


def test_a_label_of_a_bare_id_is_never_that_of_two_runs(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("particle_id,label\n1,oil\n2,glass\n")
    runs = [(grey(i), {"id": f"{r}/{n}", "particle_id": n, "run": r}) for i, (r, n) in
            enumerate([("a", "1"), ("a", "2"), ("b", "1")])]  # fmt: skip
    with pytest.raises(SvpkitError, match="particle_id '1' is of run 'a' and of run 'b'"):
        import_set(tmp_path / "set", use(runs), None, labels=read_labels(table))
    table.write_text("run,particle_id,label\na,1,oil\na,2,glass\nb,1,glass\n")
    found = import_set(tmp_path / "set", use(runs), None, labels=read_labels(table))
    assert list(found.table["label"]) == ["oil", "glass", "glass"]


def test_a_failed_import_leaves_nothing_behind(tmp_path):
    twice = [*items(3, id="x")]
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(SvpkitError, match="name each once"):
            import_set(tmp_path / name, use(twice), None)
        assert len(import_set(tmp_path / name, use(items(3)), None)) == 3


def test_names_that_are_no_text_are_spelt_out(tmp_path):
    odd = os.fsdecode(b"caf\xff")
    given = [(grey(0), {"id": odd, "label": "a", "group": odd}), (odd, {"id": f"{odd}2"})]
    found = import_set(tmp_path / "set", use([*given, *items(2)]), None)
    assert found.table["id"][0] == found.table["group"][0] == r"caf\udcff"
    assert r"caf\udcff2" in (tmp_path / "set" / "quarantine.csv").read_text()


def test_numbers_that_are_none_are_set_aside_and_sizes_that_are_none_unknown(tmp_path):
    given = items(4, ecd_um=3.0, volume_ml=0.1)
    given += [(grey(9), {"label": "a", "volume_ml": "0.1 mL"})]
    sizes = (-4, 0, np.inf, "n/a", None, "", "7.5")
    given += [(grey(10 + i), {"label": "a", "ecd_um": e}) for i, e in enumerate(sizes)]
    found = import_set(tmp_path / "set", use(given), None)
    assert "volume_ml is '0.1 mL'" in (tmp_path / "set" / "quarantine.csv").read_text()
    np.testing.assert_array_equal(found.table["ecd_um"], [3.0] * 4 + [np.nan] * 6 + [7.5])


def test_an_export_that_has_our_own_column_keeps_it(tmp_path):
    given = [(grey(0), {"id": "x", "raw": {RAW_ID: "theirs"}})]
    import_set(tmp_path / "set", use(given), None)
    raw = read_raw(tmp_path / "set")
    assert raw.iloc[0].to_dict() == {RAW_ID: "x", f"raw.{RAW_ID}": "theirs"}


def test_the_manifest_tells_of_every_run_even_of_one_without_particles(tmp_path):
    run = {"volume_ml": 0.5, "dilution": 2.0, "timestamp": "", "n_reported": np.nan}
    given = [(grey(i), {"label": "a", "run": "r", **run}) for i in range(3)]
    given += [("broken", {"run": "r", **run}), (None, {"run": "empty", **run})]
    found = import_set(tmp_path / "set", use(given), None)
    assert len(found) == 3
    known = dict.fromkeys(("timestamp", "instrument", "n_reported"))
    known |= {"volume_ml": 0.5, "dilution": 2.0}
    assert read_manifest(tmp_path / "set")["runs"] == {
        "r": {**known, "particles": 3, "quarantined": 1},
        "empty": {**known, "particles": 0, "quarantined": 0},
    }
    only = import_set(tmp_path / "only", use(given[-1:]), None, may_be_empty=True)
    assert len(only) == 0 and "empty" in read_manifest(tmp_path / "only")["runs"]
