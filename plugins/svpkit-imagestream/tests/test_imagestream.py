"""The reader on exports that the tests make: tifffile as the other road, and everything broken."""

import math
import struct
from importlib import metadata

import numpy as np
import pytest
import svpkit
import tifffile
from svpkit import SvpkitError

import svpkit_imagestream
from svpkit_imagestream import exports, features, pictures
from svpkit_imagestream.example import LEVEL, disc, save, write

READER = svpkit_imagestream.ImageStreamReader()


def read(folder, **options):
    return list(READER.read(folder, **options))


def reasons(found):
    return {row["particle_id"]: image for image, row in found if isinstance(image, str)}


# What is read


def test_objects_in_order_with_scale_size_and_features(export):
    found = read(export)
    assert [row["id"] for _, row in found] == [f"sample/{n}" for n in range(12)]
    for n, (image, row) in enumerate(found):
        assert image.shape == (24 + n, 24 + n) and image.dtype == np.uint8
        assert (row["um_per_px"], row["run"], row["source"]) == (0.5, "sample", f"sample/{n}")
        assert row["ecd_um"] == pytest.approx(3 + n / 2)
        assert row["raw"]["Object Number"] == str(n) and row["raw"]["kind"] == "ab"[n % 2]
        assert math.isnan(row["volume_ml"]) and row["dilution"] == 1
        seen = 2 * np.sqrt((image < 100).sum() / np.pi) * row["um_per_px"]
        assert seen == pytest.approx(row["ecd_um"], rel=0.15)


def test_greys_are_one_function_of_the_levels(export):
    """160 level / background, in every image of the run: no image is stretched by itself."""
    for n, (image, row) in enumerate(read(export)):
        levels = tifffile.imread(export / f"sample_{n}_Ch1.ome.tif").astype(float)
        assert row["background_level"] == LEVEL
        assert (image == np.rint(160 * levels / LEVEL)).all()


def test_background_is_that_of_most_and_may_be_given(tmp_path):
    for n in range(9):
        levels = np.full((20, 22), 5000 if n == 4 else 1000, np.uint16)  # one object on a bubble
        levels[5:9, 5:9] = 400
        save(tmp_path / f"{n}_Ch1.ome.tif", levels)
    images = [image for image, _ in read(tmp_path)]
    assert images[0][0, 0] == 160 and images[0][6, 6] == 64 and images[4][0, 0] == 255
    images = [image for image, _ in read(tmp_path, background=2570)]
    assert images[0][0, 0] == round(160 * 1000 / 2570) == 62


def test_a_dark_channel_wants_its_level(export):
    with pytest.raises(SvpkitError, match="Ch2 of run 'sample' has its background at level 20"):
        read(export, channel=2)
    images = [image for image, _ in read(export, channel=2, background=2570)]
    assert images[0].max() == round(1500 / 4095 * 255) and images[0][0, 0] == 1


def test_options_fill_in_what_the_files_do_not_say(tmp_path):
    write(tmp_path, 3, um_per_px=None, table=False)
    (_, row), *_ = read(tmp_path)
    assert math.isnan(row["um_per_px"]) and math.isnan(row["ecd_um"]) and row["raw"] == {}
    for magnification, scale in ((20, 1.0), (40, 0.5), (60, 0.3)):
        assert read(tmp_path, magnification=magnification)[0][1]["um_per_px"] == scale
    (_, row), *_ = read(tmp_path, um_per_px=0.33, magnification=60, volume_ml=0.01, dilution=4)
    assert (row["um_per_px"], row["volume_ml"], row["dilution"]) == (0.33, 0.01, 4)


@pytest.mark.parametrize(
    "said, scale",
    [
        ('PhysicalSizeX="0.3" PhysicalSizeY="0.3"', 0.3),
        ('PhysicalSizeX="300" PhysicalSizeXUnit="nm" PhysicalSizeY="300"', 0.3),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.5"', 0.5),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.5"', 0.5),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="pixel" PhysicalSizeY="0.5"', math.nan),
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.9"', math.nan),
        ('PhysicalSizeX="5000" PhysicalSizeY="5000"', math.nan),
        ('PhysicalSizeX="many" PhysicalSizeY="0.5"', math.nan),
        ('SizeX="24"', math.nan),
    ],
)
def test_scale_of_ome_xml(tmp_path, said, scale):
    text = f"<OME><Pixels {said}/></OME>".encode()
    levels = np.full((9, 9), 900, np.uint16)
    tifffile.imwrite(tmp_path / "1_Ch1.ome.tif", levels, description=text, metadata=None)
    (image, row), *_ = read(tmp_path)
    assert image.shape == (9, 9)
    assert row["um_per_px"] == pytest.approx(scale, nan_ok=True)


def test_tiffs_of_another_writer(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (31, 17), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a_1_Ch1.ome.tif", levels, byteorder=">")
    tifffile.imwrite(tmp_path / "a_2_Ch01.tiff", levels, compression="zlib")
    scale = {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3, "axes": "YX"}
    tifffile.imwrite(tmp_path / "a_3_Ch1.OME.TIF", levels, metadata=scale, ome=True)
    found = read(tmp_path, background=4080)
    assert [row["particle_id"] for _, row in found] == ["1", "2", "3"]
    for image, _ in found:
        assert (image == np.rint(levels * (160 / 4080))).all()
    assert found[2][1]["um_per_px"] == 0.3


# Runs


def test_two_runs_by_folder_and_by_prefix(tmp_path):
    write(tmp_path / "monday", 3)
    write(tmp_path / "tuesday", 2, prefix="")
    found = read(tmp_path)
    runs = ["monday"] * 3 + ["tuesday"] * 2
    assert [row["run"] for _, row in found] == runs == [row["group"] for _, row in found]
    write(tmp_path / "monday", 2, prefix="sample_B")
    assert {row["run"] for _, row in read(tmp_path)} == {
        "monday/sample", "monday/sample_B", "tuesday",
    }  # fmt: skip
    sizes = [row["ecd_um"] for _, row in read(tmp_path / "monday")]
    assert sizes == pytest.approx([3, 3.5, 4, 3, 3.5])


def test_each_run_has_its_own_background(tmp_path):
    for name, level in (("dim", 500), ("bright", 1000)):
        save(tmp_path / f"{name}_0_Ch1.ome.tif", np.full((8, 8), level, np.uint16))
    assert [(row["run"], row["background_level"]) for _, row in read(tmp_path)] == [
        ("bright", 1000), ("dim", 500),
    ]  # fmt: skip
    assert all((image == 160).all() for image, _ in read(tmp_path))


def test_two_runs_of_one_name_are_refused(tmp_path):
    write(tmp_path, 1, prefix="a")
    write(tmp_path / "a", 1, prefix="")
    with pytest.raises(SvpkitError, match="two runs are called 'a'"):
        read(tmp_path)


# What is set aside


def test_missing_channel_and_double_files_are_set_aside(tmp_path):
    write(tmp_path, 4)
    (tmp_path / "sample_1_Ch1.ome.tif").unlink()
    save(tmp_path / "sample_02_Ch1.tif", np.full((8, 8), 800, np.uint16))
    found = read(tmp_path)
    assert len(found) == 4
    assert reasons(found) == {
        "1": "object 1 has no image of Ch1",
        "2": "object 2 has two: sample_02_Ch1.tif and sample_2_Ch1.ome.tif",
    }


@pytest.mark.parametrize("keep", [0, 3, 8, 60, 300, -40])
def test_a_truncated_tiff_is_set_aside(tmp_path, keep):
    write(tmp_path, 3)
    file = tmp_path / "sample_1_Ch1.ome.tif"
    file.write_bytes(file.read_bytes()[:keep])
    found = read(tmp_path)
    assert list(reasons(found)) == ["1"] and len(found) == 3
    reason = reasons(found)["1"]
    assert reason.startswith("sample_1_Ch1.ome.tif: ") and str(tmp_path) not in reason


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"data": np.zeros((9, 9), np.uint8)}, "levels are L; 16-bit grey is read"),
        ({"data": np.zeros((9, 9, 3), np.uint8), "photometric": "rgb"}, "levels are RGB"),
        ({"data": np.zeros((9, 9), np.float32)}, "levels are F"),
        ({"data": np.zeros((2, 9, 9), np.uint16), "photometric": "minisblack"}, "several pictures"),
        ({"data": np.zeros((4, 5000), np.uint16)}, "5000 x 4 px"),
    ],
)
def test_wrong_tiffs_are_set_aside(tmp_path, wrong, reason):
    write(tmp_path, 3)
    tifffile.imwrite(tmp_path / "sample_0_Ch1.ome.tif", **wrong)
    found = read(tmp_path)
    assert list(reasons(found)) == ["0"] and reason in reasons(found)["0"]


def test_a_tiff_that_claims_to_be_huge_is_not_decoded(tmp_path, monkeypatch):
    """The header alone says 200,000 x 200,000: refused before the pixels are asked for."""
    tags = [(256, 200_000), (257, 200_000), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    (tmp_path / "7_Ch1.ome.tif").write_bytes(head + entries + bytes(4))
    (_, reason), *_ = reasons(read(tmp_path)).items()
    assert "200000 x 200000" in reason or "40000000000" in reason
    monkeypatch.setattr(pictures, "MOST_BYTES", 20)
    assert "bytes; up to 20 are read" in reasons(read(tmp_path))["7"]


def test_a_mixed_folder_and_a_link_outside(tmp_path):
    folder, outside = write(tmp_path / "in", 3), write(tmp_path / "out", 1)
    for name in ("montage.tif", "sample_Ch1.ome.tif", "sample_1_Ch1.ome.tif.bak", "sample_1.tif"):
        (folder / name).write_bytes(b"other")
    (folder / "notes.txt").write_text("nothing of a table\n" * 100)
    (folder / "sample_9_Ch1.ome.tif").symlink_to(outside / "sample_0_Ch1.ome.tif")
    (folder / "sample_8_Ch1.ome.tif").mkdir()
    found = read(folder)
    assert [row["particle_id"] for _, row in found] == ["0", "1", "2", "8", "9"]
    assert set(reasons(found)) == {"8", "9"}
    assert "no file of this folder" in reasons(found)["9"]


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(SvpkitError, match="an export is a folder"):
        read(tmp_path / "none")
    with pytest.raises(SvpkitError, match=r"no file is called \[PREFIX_\]OBJECT_Ch3.ome.tif"):
        read(tmp_path, channel=3)


# Features


def table(folder, text, name="sample.txt"):
    write(folder, 3, table=False)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_labels_come_from_the_column_that_is_named(export):
    assert [row["label"] for _, row in read(export, label_column="Kind")] == list("ab") * 6
    with pytest.raises(SvpkitError, match="options.label_column: no column 'class'; first: Area"):
        read(export, label_column="class")


def test_lines_before_order_commas_and_gaps(tmp_path):
    head = "\ufeffProject\tx\n\nmore\n\n"
    body = 'Area_M01\t"Object Number"\tName\r\n12,5\t2\té\r\n\t0\r\nmean\tall\t\r\n'
    found = read(table(tmp_path, head + body))
    rows = [row for _, row in found]
    assert [row["raw"]["Name"] for row in rows] == ["", "", "é"]
    assert rows[2]["ecd_um"] == pytest.approx(2 * math.sqrt(12.5 / math.pi))
    assert math.isnan(rows[0]["ecd_um"]) and rows[0]["note"] == ""
    assert rows[1]["note"] == "no line in sample.txt" and set(rows[1]["raw"]) == set(rows[2]["raw"])


def test_the_mask_is_that_of_the_channel():
    row = {"Diameter_M01": "4", "Diameter_M09": "5", "area_m2": str(math.pi)}
    assert [features.diameter(row, k) for k in (1, 9, 2)] == pytest.approx([4, 5, 2])
    assert math.isnan(features.diameter(row, 3))
    assert math.isnan(features.diameter({"Diameter_M01": "-1"}, 1))


def test_latin_1_is_read_and_utf_16_said(tmp_path):
    text = "Object Number\tName\n0\té\n"
    assert read(table(tmp_path, text.encode("latin-1")))[0][1]["raw"]["Name"] == "é"
    (tmp_path / "sample.txt").write_bytes(text.encode("utf-16"))
    with pytest.raises(SvpkitError, match="features in UTF-16; save them as UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("Object Number\tA\n1\t2\n1\t3\n", "object 1 has two lines"),
        ("Object Number\tA\n1\t" + "x" * 2**20, "a line is longer than"),
        ("A\tB\n1\t2\n", "names Object Number"),
    ],
)
def test_broken_tables_are_said_in_one_line(tmp_path, text, message):
    with pytest.raises(SvpkitError, match=message) as error:
        read(table(tmp_path, text), features="sample.txt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "pattern, message", [("none*.txt", "no file is called"), ("../x.txt", "leaves the folder")]
)
def test_the_table_that_is_named_has_to_be_there(export, pattern, message):
    with pytest.raises(SvpkitError, match=message):
        read(export, features=pattern)


def test_a_table_belongs_to_one_run(tmp_path):
    write(tmp_path, 1, prefix="a", table=False)
    text = "Object Number\tA\n0\t1\n"
    for name in ("x.txt", "y.txt"):
        (tmp_path / name).write_text(text)
    with pytest.raises(SvpkitError, match=r"x.txt and y.txt are features of one run"):
        read(tmp_path)
    assert read(tmp_path, features="y.txt")[0][1]["raw"]["A"] == "1"
    write(tmp_path, 1, prefix="ab", table=False)
    with pytest.raises(SvpkitError, match="of which run"):
        read(tmp_path, features="y.txt")
    with pytest.raises(SvpkitError, match="run 'ab' has no table"):
        (tmp_path / "a-1.txt").write_text(text)
        read(tmp_path, features="a*.txt", label_column="A")


# The host


def test_sniff_knows_its_own_and_nothing_else(export, tmp_path):
    assert READER.sniff(export) and READER.sniff(export.parent)
    assert not READER.sniff(export / "sample_0_Ch1.ome.tif") and not READER.sniff(tmp_path / "no")
    for name in ("1_Ch1.tif", "1.ome.tif", "x_Ch1.ome.tif", "1_Ch1.ome.png", "1_C1.ome.tif"):
        (tmp_path / name).write_bytes(b"II*\0")
    (tmp_path / "2_Ch1.ome.tif").write_bytes(b"no TIFF")
    assert not READER.sniff(tmp_path)


def test_one_picture_is_decoded_at_a_time(export, monkeypatch):
    asked = []
    own = pictures.picture
    monkeypatch.setattr("svpkit_imagestream.reading.picture", lambda *a: asked.append(a) or own(*a))
    found = READER.read(export, background=800)
    assert asked == []
    for n in range(1, 4):
        next(found)
        assert len(asked) == n


def test_names_of_files():
    match = exports.NAME.fullmatch("lot_7_x_000123_Ch12.ome.tif")
    assert match and (match["prefix"], match["object"], match["channel"]) == (
        "lot_7_x", "000123", "12",
    )  # fmt: skip
    assert exports.NAME.fullmatch("0_ch1.TIFF") and not exports.NAME.fullmatch("_1_Chx.ome.tif")
    assert disc(90, 30).sum() == pytest.approx(900 * math.pi, rel=0.01)


RECIPE = """
name = "walk"
plugins = ["svpkit-imagestream"]
[data]
reader = "imagestream"
path = "in"
options = { label_column = "kind", volume_ml = 0.01 }
size = 16
val = { a = 2, b = 2 }
test = { group = "two" }
[classifier]
options = { model = "resnet10t", width = 16, stem = "half" }
train = { images = 16, batch = 8 }
[evaluate]
replicates = 100
"""


def test_a_recipe_walks_from_the_export_to_its_scores(tmp_path):
    """Two runs, labels from the table, one broken file in quarantine, one run for the test."""
    try:
        metadata.distribution("svpkit-imagestream")
    except metadata.PackageNotFoundError:
        pytest.skip("svpkit-imagestream is not installed")
    for seed, name in enumerate(("one", "two")):
        write(tmp_path / "in" / name, seed=seed)
    (tmp_path / "in" / "two" / "sample_3_Ch1.ome.tif").write_bytes(b"II*\0")
    (tmp_path / "walk.toml").write_text(RECIPE)
    run = svpkit.run(tmp_path / "walk.toml", runs=tmp_path / "runs", store=tmp_path / "store")
    assert run.results["test"]["n"] == {"a": 6, "b": 5}
    (folder,) = (tmp_path / "store").glob("ingest-*")
    found = svpkit.ParticleSet.open(folder)
    assert len(found) == 23 and sorted(found.classes) == ["a", "b"]
    assert set(found.table["run"]) == {"one", "two"}
    assert set(found.table["volume_ml"]) == {0.01} and set(found.table["um_per_px"]) != {0.5}
    assert "cannot be read" in (folder / "quarantine.csv").read_text()


def test_entry_point_loads():
    try:
        points = metadata.distribution("svpkit-imagestream").entry_points
    except metadata.PackageNotFoundError:
        pytest.skip("svpkit-imagestream is not installed")
    (point,) = points.select(group="svpkit")
    assert point.load() is svpkit_imagestream
