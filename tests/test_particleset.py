import json
import shutil

import numpy as np
import pandas as pd
import pytest

from svpkit import ParticleSet, SvpkitError
from svpkit.particles import writer
from svpkit.particles.particleset import NEUTRAL, concat
from svpkit.particles.writer import Writer


def some(n=10, channels=1, size=8, seed=0, **columns):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    labels = [("a", "b", "c")[i % 3] for i in range(n)]
    return images, ParticleSet.from_arrays(images, labels, ("a", "b", "c"), **columns)


def test_round_trip_keeps_pixels_table_and_digest(tmp_path):
    images, particles = some(n=10, channels=3, ecd_um=np.arange(10.0), run=["x"] * 10)
    particles.save(tmp_path / "set")
    found = ParticleSet.open(tmp_path / "set")
    np.testing.assert_array_equal(found.images(), images)
    pd.testing.assert_frame_equal(
        found.table.sort_index(axis=1), particles.table.sort_index(axis=1), check_dtype=False
    )
    assert found.digest == particles.digest and found.counts == {"a": 4, "b": 3, "c": 3}
    assert isinstance(found.parts[0], np.memmap)


def test_parts_join_as_one_set(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PART", 4)
    images, particles = some(n=11)
    particles.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert sum(p["n"] for p in manifest["parts"]) == 11 and len(manifest["parts"]) == 3
    found = ParticleSet.open(tmp_path)
    order = np.array([10, 0, 5, 5, 3])
    np.testing.assert_array_equal(found.images(order), images[order])
    np.testing.assert_array_equal(found.take(order).images(), images[order])
    assert list(found.take(order).table["id"]) == [f"particle-{i:06d}" for i in order]


def test_a_part_of_large_images_holds_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PART_BYTES", 3 * 64)
    images, particles = some(n=7, size=8)
    particles.save(tmp_path)
    assert [len(part) for part in ParticleSet.open(tmp_path).parts] == [3, 3, 1]
    np.testing.assert_array_equal(ParticleSet.open(tmp_path).images(), images)


def test_whole_numbers_of_64_bits_survive(tmp_path):
    exact = np.array([2**64 - 1, 2**63 + 1, 3], np.uint64)
    images, _ = some(n=3)
    with Writer(tmp_path, ("a",), 1, 8) as writer:
        writer.add(images, pd.DataFrame({"label": ["a"] * 3, "hash": exact}))
    np.testing.assert_array_equal(ParticleSet.open(tmp_path).table["hash"], exact)


def test_a_column_of_mixed_types_becomes_text(tmp_path):
    images, _ = some(n=3)
    with Writer(tmp_path, ("a",), 1, 8) as writer:
        for image, value in zip(images, (1, "two", 3.5), strict=True):
            writer.add(image[None], [{"label": "a", "odd": value}])
    assert list(ParticleSet.open(tmp_path).table["odd"]) == ["1", "two", "3.5"]


def test_rows_that_say_nothing_get_the_neutral_values(tmp_path):
    images, _ = some(n=2)
    with Writer(tmp_path, ("a",), 1, 8) as writer:
        writer.add(images, [{"label": "a"}, {"label": None, "um_per_px": "0.5"}])
    table = ParticleSet.open(tmp_path).table
    assert list(table.columns[: len(NEUTRAL)]) == list(NEUTRAL)
    assert list(table["label"].astype(str)) == ["a", ""]
    assert np.isnan(table["um_per_px"][0]) and table["um_per_px"][1] == 0.5


def test_an_unfinished_set_is_no_set(tmp_path):
    images, _ = some(n=3)
    with pytest.raises(RuntimeError), Writer(tmp_path, ("a",), 1, 8) as writer:
        writer.add(images, [{"label": "a"}] * 3)
        raise RuntimeError
    with pytest.raises(SvpkitError, match="no particle set here"):
        ParticleSet.open(tmp_path)


def test_digest_follows_pixels_labels_and_order():
    _, one = some(seed=0)
    _, other = some(seed=1)
    assert one.digest != other.digest
    assert one.digest != one.take(np.arange(9, -1, -1)).digest
    assert one.digest == some(seed=0)[1].digest


def test_concat_and_class_order():
    a, b = some(n=4)[1], some(n=5, seed=1)[1]
    both = concat([a, b])
    np.testing.assert_array_equal(both.images(), np.concatenate([a.images(), b.images()]))
    turned = both.with_classes(("c", "b"))
    assert turned.counts == {"c": 2, "b": 3} and (turned.labels == -1).sum() == 4
    assert len(both.of("a")) == 4
    with pytest.raises(SvpkitError, match="no class 'd'"):
        both.of("d")
    with pytest.raises(SvpkitError, match="cannot join"):
        concat([a, some(size=9)[1]])


def test_from_folder_reads_into_memory(tmp_path):
    from PIL import Image

    for name in ("oil", "air"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((5, 7), 10 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "oil" / "broken.png").write_bytes(b"")
    particles = ParticleSet.from_folder(tmp_path, size=8, channels=3, classes=["oil", "air"])
    assert particles.shape == (3, 8, 8) and particles.counts == {"oil": 2, "air": 2}
    assert list(particles.table["id"]) == ["oil/0.png", "oil/1.png", "air/0.png", "air/1.png"]


@pytest.mark.parametrize(
    "change",
    [
        {"images": "../x.npy"},
        {"images": "/etc/passwd"},
        {"table": "../set/part-00000.parquet"},
        {"images": "part-00000.parquet"},
        {"images": "none.npy"},
        {"images": 3},
    ],
)
def test_a_manifest_names_only_whole_files_beside_it(tmp_path, change):
    some()[1].save(tmp_path / "set")
    shutil.copy(tmp_path / "set" / "part-00000.npy", tmp_path / "x.npy")
    path = tmp_path / "set" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parts"][0] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(SvpkitError, match="particle set that cannot be read"):
        ParticleSet.open(tmp_path / "set")


@pytest.mark.parametrize("text", ["[]", "3", '{"format": 1}', '{"format": 1, "parts": 3}'])
def test_a_manifest_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(SvpkitError, match="particle set"):
        ParticleSet.open(tmp_path)
