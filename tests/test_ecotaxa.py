import math

import numpy as np
import pytest
from PIL import Image

from svpkit import SvpkitError, plugins
from svpkit.particles.ingest import import_set
from svpkit.readers.ecotaxa import EcotaxaReader

NAMES = (
    "img_file_name img_rank object_id object_date object_time object_annotation_category "
    "object_annotation_status object_feret object_esd_um sample_id acq_id process_pixel"
).split()


def read(path, **options):
    return list(EcotaxaReader().read(path, **options))


def picture(seed, shape=(7, 9)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def line(i, **more):
    row = {
        "img_file_name": f"images/{i}.png",
        "img_rank": 0,
        "object_id": f"obj_{i}",
        "object_date": "20240131",
        "object_time": "91500",
        "object_annotation_category": "copepod" if i % 2 else "detritus<not-living",
        "object_annotation_status": "validated",
        "object_feret": 41.5,
        "object_esd_um": 12.5 + i,
        "sample_id": "station A",
        "acq_id": "scan 3",
        "process_pixel": 0.75,
    }
    return row | more


def archive(folder, rows, *, types=True, file="ecotaxa_a.tsv", names=NAMES, pictures=6):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(pictures):
        Image.fromarray(picture(i)).save(folder / "images" / f"{i}.png")
    lines = [names, ["[f]" if n in ("img_rank", "object_feret") else "[t]" for n in names]]
    lines = lines[: 1 + types] + [[r[n] for n in names] for r in rows]
    text = "".join("\t".join(str(v) for v in each) + "\n" for each in lines)
    (folder / file).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("types", [True, False])
def test_objects_are_their_images_with_labels_and_raw_columns(tmp_path, types):
    found = read(archive(tmp_path, [line(i) for i in range(4)], types=types))
    for i, (image, row) in enumerate(found):
        np.testing.assert_array_equal(image, picture(i))
        assert row["id"] == f"station A/obj_{i}" and row["particle_id"] == f"obj_{i}"
        assert row["label"] == ("copepod" if i % 2 else "detritus<not-living")
        assert (row["run"], row["source"]) == ("station A", "station A/scan 3")
        assert row["timestamp"] == "2024-01-31T09:15:00"
        assert list(row["raw"]) == NAMES and row["raw"]["object_feret"] == "41.5"
        assert math.isnan(row["um_per_px"]) and math.isnan(row["ecd_um"])
    assert len(found) == 4 and EcotaxaReader().sniff(tmp_path)


def test_only_the_status_that_counts_gives_a_label(tmp_path):
    said = ["validated", "predicted", "dubious", "Validated", ""]
    rows = [line(i, object_annotation_status=s) for i, s in enumerate(said)]
    archive(tmp_path, rows)
    labels = [row["label"] != "" for _, row in read(tmp_path)]
    assert labels == [True, False, False, True, False]
    labels = [row["label"] != "" for _, row in read(tmp_path, status=("validated", "dubious"))]
    assert labels == [True, False, True, True, False]
    chosen = read(tmp_path, classes=["copepod"])
    assert [row["particle_id"] for _, row in chosen] == ["obj_3"]
    names = [n for n in NAMES if n != "object_annotation_status"]
    archive(tmp_path, rows, names=names)
    assert all(row["label"] for _, row in read(tmp_path))
    with pytest.raises(SvpkitError, match="options.classes: unknown 'copepods'; did you mean"):
        read(tmp_path, classes=["copepods"])


def test_of_several_images_the_lowest_rank_is_taken(tmp_path):
    rows = [
        line(0, object_id="x", img_rank=2),
        line(1, object_id="y", img_rank=1),
        line(2, object_id="x", img_rank=1),
        line(3, object_id="x", img_rank=1),
    ]
    archive(tmp_path, rows)
    archive(tmp_path, [line(4, object_id="x", img_rank=0)], file="ecotaxa_b.tsv")
    more = [line(5, object_id="x", img_rank=3, sample_id="B")]
    archive(tmp_path, more, file="ecotaxa_c.tsv")
    found = read(tmp_path)
    assert [row["id"] for _, row in found] == ["station A/y", "station A/x", "B/x"]
    for (image, _), seed in zip(found, (1, 4, 5), strict=True):
        np.testing.assert_array_equal(image, picture(seed))


@pytest.mark.parametrize(
    ("column", "value", "options", "wanted"),
    [
        ("process_pixel", 0.75, {}, math.nan),
        ("process_pixel", 0.75, {"pixel_unit": "um"}, 0.75),
        ("acq_pixel", 0.073, {"pixel_unit": "mm"}, 73.0),
        ("process_particle_pixel_size_mm", 0.0106, {}, 10.6),
        ("process_particle_pixel_size_\xb5m", 2.5, {}, 2.5),
        ("acq_pixel_um_size", 15, {"pixel_unit": "mm"}, 15.0),
        ("process_pixel", "x", {"pixel_unit": "um"}, math.nan),
        ("process_pixel", 0.75, {"um_per_px": 3.0}, 3.0),
    ],
)
def test_scale_by_a_unit_that_is_named_or_told(tmp_path, column, value, options, wanted):
    names = [*NAMES[:-1], column]
    archive(tmp_path, [line(0) | {column: value}], names=names)
    ((_, row),) = read(tmp_path, **options)
    assert row["um_per_px"] == pytest.approx(wanted, nan_ok=True)


def test_tables_in_folders_beside_their_images(tmp_path):
    archive(tmp_path / "cruise" / "one", [line(0)])
    archive(tmp_path / "cruise" / "two", [line(1)], file="ecotaxa_two.tsv")
    found = read(tmp_path, ecd="object_esd_um", volume_ml=2.0, dilution=4.0)
    for i, (image, row) in enumerate(found):
        np.testing.assert_array_equal(image, picture(i))
        assert (row["ecd_um"], row["volume_ml"], row["dilution"]) == (12.5 + i, 2.0, 4.0)
    ((_, row),) = read(tmp_path / "cruise" / "two" / "ecotaxa_two.tsv")
    assert row["id"] == "station A/obj_1"
    assert EcotaxaReader().sniff(tmp_path / "cruise") and not EcotaxaReader().sniff(tmp_path)


def test_broken_lines_and_images_are_set_aside(tmp_path):
    (tmp_path / "secret.png").touch()
    rows = [
        line(0),
        line(1, img_file_name="../secret.png"),
        line(2, img_file_name=str(tmp_path / "secret.png")),
        line(3, img_file_name="images/none.png"),
        line(4, img_file_name=""),
        line(5, object_id=""),
        line(6, img_file_name="images/bad.png"),
        line(7, img_file_name="x" * 5000),
        line(8, img_file_name="images\\0.png", object_annotation_category="=cmd()" + "y" * 2000),
    ]
    inside = archive(tmp_path / "in", rows)
    (inside / "images" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with (inside / "ecotaxa_a.tsv").open("a") as file:
        file.write("images/0.png\t0\n")
    found = read(inside)
    why = {row["id"].split("/")[1]: image for image, row in found if isinstance(image, str)}
    assert why["obj_1"].endswith("leaves the folder") and why["obj_2"].endswith("leaves the folder")
    assert why["obj_3"] == "images/none.png: no such file"
    assert why["obj_4"].endswith("no file is named")
    assert why["ecotaxa_a line 8"] == "the line has no object_id"
    assert "cannot be read" in why["obj_6"] and len(why["obj_7"]) < 1100
    assert why["line 12"] == "the line has 2 values, the header 12"
    good = {row["particle_id"]: row for image, row in found if not isinstance(image, str)}
    assert list(good) == ["obj_0", "obj_8"]
    assert good["obj_8"]["label"].startswith("=cmd()") and len(good["obj_8"]["label"]) == 1000
    assert len({row["id"] for _, row in found}) == len(found)


@pytest.mark.parametrize(
    ("date", "time", "wanted"),
    [
        ("2024-05-15", "09:00:00Z", "2024-05-15T09:00:00"),
        ("20240515", "", "2024-05-15"),
        ("20241315", "090000", ""),
        ("", "090000", ""),
    ],
)
def test_timestamps(tmp_path, date, time, wanted):
    archive(tmp_path, [line(0, object_date=date, object_time=time)])
    assert read(tmp_path)[0][1]["timestamp"] == wanted


def test_what_is_no_archive_is_said(tmp_path):
    with pytest.raises(SvpkitError, match="no file is named"):
        read(tmp_path)
    with pytest.raises(SvpkitError, match="no such folder"):
        read(tmp_path / "none")
    (tmp_path / "a.zip").touch()
    with pytest.raises(SvpkitError, match="unpack the archive first"):
        read(tmp_path / "a.zip")
    (tmp_path / "ecotaxa_a.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(SvpkitError, match="no column img_file_name"):
        read(tmp_path)
    assert not EcotaxaReader().sniff(tmp_path)
    inside = archive(tmp_path / "in", [line(0)])
    with pytest.raises(SvpkitError, match="leaves the folder"):
        read(inside, table="../*.tsv")
    with pytest.raises(SvpkitError, match="options.ecd: column: unknown 'esd'"):
        read(inside, ecd="esd")


def test_it_is_registered_and_imports(tmp_path):
    archive(tmp_path / "in", [line(i) for i in range(4)])
    registry = plugins.discover(builtin_only=True)
    use = registry.use("reader", "ecotaxa", {"status": ["validated"]}, "data.reader")
    found = import_set(tmp_path / "out", use, tmp_path / "in", size=12)
    assert found.classes == ("detritus<not-living", "copepod")
    with pytest.raises(SvpkitError, match="data.options.status"):
        registry.use("reader", "ecotaxa", {"status": ["valid"]}, "data.reader")


def test_tables_of_one_name_in_two_folders_lose_nothing_in_silence(tmp_path):
    names = [n for n in NAMES if n != "sample_id"]
    for i, folder in enumerate("ab"):
        rows = [line(2 * i, object_id="x"), line(2 * i + 1, object_id=f"y{i}")]
        archive(tmp_path / folder, rows, names=names, file="ecotaxa_export.tsv")
        with (tmp_path / folder / "ecotaxa_export.tsv").open("a") as file:
            file.write("short\tline\n")
    found = read(tmp_path)
    ids = [row["id"] for _, row in found]
    assert len(ids) == len(set(ids)) == 6
    why = [image for image, _ in found if isinstance(image, str)]
    assert "object 'x' of 'export' is in another table too" in why and len(why) == 3
