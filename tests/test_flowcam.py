"""FlowCam runs: the real exports against their own numbers, and exports broken on purpose."""

import re
import shutil
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svpkit.default_plugins.flowcam import FlowCamReader
from svpkit.errors import SvpkitError
from svpkit.particles.particleset import read_raw
from svpkit.readers import flowcam_tiles
from svpkit.readers.flowcam import tiles_with_masks
from svpkit.readers.flowcam_files import classes, outlines, settings
from svpkit.readers.flowcam_names import our_name
from svpkit.readers.flowcam_runs import about
from svpkit.readers.labels import read_labels

# The header of a real .lst, shortened by nothing: what it is read by.
INTS = "id image_x image_y image_w image_h src_x src_y src_image cal_image ppc camera".split()
DOUBLES = (
    "cal_const fringe_size".split(),
    (
        "raw_sphere_volume raw_sphere_complement raw_sphere_unknown raw_area raw_feret_max "
        "raw_feret_min raw_feret_mean raw_perimeter raw_convex_perimeter raw_legendre_major "
        "raw_legendre_minor abd_area abd_diameter length width esd_diameter fd_diameter perimeter "
        "convex_perimeter intensity sigma_intensity sum_intensity compactness elongation roughness "
        "edge_gradient elapsed_time circle_fit symmetry circularity_hu intensity_calimage "
        "raw_convex_hull_area raw_filled_area filled_area feret_max_angle feret_min_angle avg_red "
        "avg_green avg_blue ch1_peak ch1_width ch1_area ch2_peak ch2_width ch2_area ch3_peak "
        "ch3_width ch3_area"
    ).split(),
)
FIELDS = [(n, "int32") for n in INTS]
FIELDS += [(n, "double") for n in DOUBLES[0]] + [("sphere_count", "int32")]
FIELDS += [(n, "double") for n in DOUBLES[1]]
FIELDS += [("timestamp", "string"), ("collage_file", "string"), ("image_id", "guid")]
COLOURS = ("avg_", "ch1_", "ch2_", "ch3_")
SIDE, PER_PAGE = 12, 4


def tile(i):
    """The tile of particle i: a noise of its own on 180, with a dark square in the middle."""
    made = np.random.default_rng(i).integers(170, 190, (SIDE, SIDE, 3), dtype=np.uint8)
    made[4:8, 4:8] = 40 + i
    return made


def rows_of(n, stem):
    """The particles' values by field, numbered from 1, four to a collage, side by side."""
    for i in range(1, n + 1):
        page, at = divmod(i - 1, PER_PAGE)
        row: dict[str, Any] = dict.fromkeys((name for name, _ in FIELDS), "0.5000")
        row |= dict.fromkeys(("camera", "sphere_count"), "0")
        row |= {"id": i, "image_x": 2 + 14 * at, "image_y": 2, "image_w": SIDE, "image_h": SIDE}
        row |= {"src_x": 3 * i, "src_y": 5, "src_image": 10 + i // 2, "cal_image": 1, "ppc": 1}
        row |= {"cal_const": "0.5544", "abd_diameter": f"{i}.2500"}
        row |= {"timestamp": f"2024-04-08T11:11:{i:02d}.303", "image_id": f"GUID-{i:04d}"}
        yield row | {"collage_file": f"{stem}_{page + 1:06d}.tif"}


def lst(rows, fields=FIELDS, end="\n"):
    head = ["017", f"num-fields|{len(fields)}", *(f"{n}|{t}" for n, t in fields)]
    return end.join([*head, *("|".join(str(row[n]) for n, _ in fields) for row in rows)]) + end


def make_run(folder, stem="run", n=10, text=None):
    """Write a run of n particles; returns its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows_of(n, stem))
    for start in range(0, n, PER_PAGE):
        page = np.zeros((20, 60, 3), np.uint8)
        mask = np.zeros((20, 60), np.uint8)
        for row in rows[start : start + PER_PAGE]:
            x = row["image_x"]
            page[2:14, x : x + SIDE] = tile(row["id"])
            mask[6:10, x + 4 : x + 8] = 255
        name = folder / f"{stem}_{start // PER_PAGE + 1:06d}"
        Image.fromarray(page).save(f"{name}.tif", compression="tiff_lzw")
        Image.fromarray(mask).save(f"{name}_bin.tif", compression="tiff_lzw")
    (folder / f"{stem}.lst").write_bytes((lst(rows) if text is None else text).encode("latin-1"))
    return rows


def read(path, **options):
    return list(FlowCamReader().read(path, **options))


def reasons(path, **options):
    return {row["particle_id"]: i for i, row in read(path, **options) if isinstance(i, str)}


@pytest.fixture(scope="module")
def runs(real_data):
    return real_data / "flowcam_protists" / "raw"


@pytest.fixture(scope="module")
def real(runs):
    return sorted(p for p in runs.iterdir() if p.is_dir())


# ---- real exports


def test_human_labels_join_the_raw_runs_and_tiles_equal_the_published_ones(runs, real_data):
    known = pd.read_csv(real_data / "flowcam_protists" / "labels.csv").to_dict("records")
    published = {f"{row['run']}/{row['id']}": row["tile"] for row in known}
    counts = Counter()
    for image, row in FlowCamReader().read(runs, labels="../labels.csv"):
        counts[row["label"]] += 1
        if row["id"] in published:
            png = Image.open(real_data / "flowcam_protists" / published[row["id"]]).convert("RGB")
            np.testing.assert_array_equal(image, np.asarray(png))
    assert counts == {"Junk": 2295, "Protist": 418, "Missed": 287, "": 2000}


def test_labels_join_by_guid_as_by_id(runs):
    by_id = [r["label"] for _, r in read(runs, labels="../labels.csv")]
    by_guid = read(runs, labels="../labels.csv", image_column="image_id", label_column="class")
    assert by_id == [r["label"] for _, r in by_guid]


def test_outlines_close_inside_their_rectangle_and_hold_the_filled_area(real):
    for run in real:
        table = real_table(run).to_dict("index")
        for particle, found in outlines(run / f"{run.name}.edg").items():
            row, area = table[particle], 0.0
            assert len(found) == row["ppc"]
            corner, sides = (row["src_x"], row["src_y"]), (row["image_w"], row["image_h"])
            for points in found:
                assert (points[0] == points[-1]).all()
                near = points - corner
                assert (near >= 0).all() and (near < sides).all()
                (x, y), n = points.T, len(points) - 1
                # Pick's theorem: pixels on and in a polygon whose n corners are pixels
                area += abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2 + n / 2 + 1
            assert area == row["raw_filled_area"]


def real_table(run):
    path = run / f"{run.name}.lst"
    lines = path.read_text().splitlines()
    names = [line.split("|")[0] for line in lines[2:67]]
    return pd.read_csv(path, sep="|", skiprows=67, names=names, index_col="id")


def test_the_instruments_diameter_is_that_of_its_area_less_the_fringe(real, real_data):
    for path in (*(run / f"{run.name}.lst" for run in real), *real_data.glob("flowcam_raw/*.lst")):
        for _, row in read(path):
            raw = row["raw"]
            whole = 2 * np.sqrt(raw["raw_area"] / np.pi) * raw["cal_const"]
            less = max(whole - raw["fringe_size"] * raw["cal_const"], whole / 2)
            assert abs(row["ecd_um"] - less) < 6e-5  # listed to four places


def test_masks_have_the_area_that_the_list_says(real, real_data):
    for folder in (real[0], real_data / "flowcam_raw"):
        found = list(tiles_with_masks(folder))
        assert len(found) == about(folder)["rows"]
        for image, mask, row in found:
            assert mask.sum() == row["raw"]["raw_area"] and mask.shape == image.shape[:2]


def test_settings_of_the_real_runs(real):
    said = about(real[2])
    assert said["volume_ml"] == 0.02903 and said["magnification"] == "10X"
    assert said["started"] == "2024-04-08T11:10:51" and said["um_per_px"] == 0.5544
    assert said["rows"] == said["particle_count"] == 1000
    assert settings(real[2] / f"{real[2].name}.ctx")["started"] == "2024-04-08T09:10:51"  # UTC


def test_csv_columns_that_the_list_has_hold_its_values(real):
    table = real_table(real[1]).reset_index()
    other = pd.read_csv(real[1] / f"{real[1].name}.csv")
    shared = [c for c in other.columns if our_name(c)]
    assert len(shared) == 49
    for column in shared:
        assert (other[column] == table[our_name(column)]).all(), column


def test_without_a_list_the_csv_gives_the_same_particles(real, tmp_path):
    copy = tmp_path / real[0].name
    shutil.copytree(real[0], copy, ignore=shutil.ignore_patterns("*.lst"))
    pairs = list(zip(read(real[0]), read(copy), strict=True))
    assert len(pairs) == 1000
    for (image, row), (again, other) in pairs:
        np.testing.assert_array_equal(image, again)
        assert {k: v for k, v in row.items() if k != "raw"} == {
            k: v for k, v in other.items() if k != "raw"
        }
        assert row["raw"]["Convexity"] == other["raw"]["Convexity"]


def test_the_instruments_own_classes_of_a_real_run(real):
    labels = Counter(r["label"] for _, r in read(real[0], classes_from_instrument=True))
    lines = (real[0] / f"{real[0].name}.cla").read_text().splitlines()
    assert lines[4] == "Junk" and labels["Junk"] == int(lines[8])
    assert sum(labels.values()) - labels[""] == len(classes(real[0] / f"{real[0].name}.cla"))


# ---- exports made here


@pytest.mark.parametrize("drop", [(), ("fd_diameter",), COLOURS])
def test_lists_are_read_by_their_header(tmp_path, drop):
    fields = [f for f in FIELDS if not drop or not f[0].startswith(drop)]
    assert len(fields) in (65, 64, 53)
    rows = make_run(tmp_path)
    (tmp_path / "run.lst").write_text(lst(rows, fields))
    found = read(tmp_path)
    assert [r["id"] for _, r in found] == [f"run/{i}" for i in range(1, 11)]
    for i, (image, row) in enumerate(found, 1):
        np.testing.assert_array_equal(image, tile(i))
        assert row["ecd_um"] == i + 0.25 and row["um_per_px"] == 0.5544
        assert row["source"] == f"run/{10 + i // 2}" and row["group"] == row["run"] == "run"
        assert list(row["raw"]) == [n for n, _ in fields]
        assert row["raw"]["src_x"] == 3 * i and isinstance(row["raw"]["src_x"], int)
        assert row["raw"]["raw_area"] == 0.5 and row["raw"]["image_id"] == f"GUID-{i:04d}"


def test_a_list_a_folder_and_a_folder_of_runs(tmp_path):
    make_run(tmp_path / "a", "one", 3)
    make_run(tmp_path / "b", "two", 5)
    assert len(read(tmp_path / "a")) == len(read(tmp_path / "a" / "one.lst")) == 3
    both = read(tmp_path)
    assert Counter(r["run"] for _, r in both) == {"one": 3, "two": 5}
    make_run(tmp_path / "c", "one", 2)
    named = [r["id"] for _, r in read(tmp_path)]
    assert len(set(named)) == 10 and "a/one/1" in named and "c/one/1" in named


def test_each_collage_is_decoded_once_and_only_when_its_turn_comes(tmp_path, monkeypatch):
    rows = make_run(tmp_path)
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(10)]
    (tmp_path / "run.lst").write_text(lst(mixed))
    opened, decode = [], flowcam_tiles.decode
    monkeypatch.setattr(flowcam_tiles, "decode", lambda p: opened.append(p.name) or decode(p))
    stream = FlowCamReader().read(tmp_path)
    first = {next(stream)[1]["raw"]["collage_file"] for _ in range(2)}
    assert opened == list(first)
    rest = [int(row["particle_id"]) for _, row in stream]
    assert len(rest) == 8 and len(opened) == len(set(opened)) == 3


EXPORT = {"Particle ID": "id", "Image File": "collage_file", "Diameter (ABD)": "abd_diameter"}
EXPORT |= {"Image X": "image_x", "Image Y": "image_y", "Image Width": "image_w"}
EXPORT |= {"Image Height": "image_h", "Calibration Factor": "cal_const"}


def export(rows, names=EXPORT, **more):
    table = pd.DataFrame([{c: row[n] for c, n in names.items()} for row in rows])
    return table.assign(**more)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_alone_in_any_encoding_and_order(tmp_path, encoding, separator):
    rows = make_run(tmp_path)
    (tmp_path / "run.lst").unlink()
    table = export(rows, Größe="µ")[[*reversed([*EXPORT, "Größe"])]]
    table.to_csv(tmp_path / "run.csv", index=False, encoding=encoding, sep=separator)
    assert FlowCamReader().sniff(tmp_path)
    found = read(tmp_path)
    for i, (image, row) in enumerate(found, 1):
        np.testing.assert_array_equal(image, tile(i))
        assert (row["id"], row["ecd_um"], row["um_per_px"]) == (f"run/{i}", i + 0.25, 0.5544)
        assert row["raw"]["Größe"] == "µ" and list(row["raw"]) == list(table)


def test_a_csv_of_newer_software_has_units_and_decimals(tmp_path):
    rows = make_run(tmp_path)
    (tmp_path / "run.lst").unlink()
    names = {"particle_id": "id", "image_file": "collage_file", "diameter_abd_um": "abd_diameter"}
    names |= {f"image_{k}_px": f"image_{n}" for k, n in [("x", "x"), ("y", "y")]}
    names |= {"image_width_px": "image_w", "Image Height (px)": "image_h"}
    table = export(rows, names)
    for name in ("image_x_px", "image_y_px", "image_width_px"):
        table[name] = table[name].map(lambda v: f"{v}.0000")
    table.to_csv(tmp_path / "run.csv", index=False)
    found = read(tmp_path)
    assert [r["ecd_um"] for _, r in found] == [i + 0.25 for i in range(1, 11)]
    assert all((image == tile(i)).all() for i, (image, _) in enumerate(found, 1))
    table.drop(columns="image_width_px").to_csv(tmp_path / "run.csv", index=False)
    with pytest.raises(SvpkitError, match=r"run.csv: no column 'image_width' in its header"):
        read(tmp_path)


def test_rows_of_a_csv_that_cannot_be_parted_and_particles_without_id(tmp_path):
    rows = make_run(tmp_path, n=4)
    (tmp_path / "run.lst").unlink()
    names = {c: n for c, n in EXPORT.items() if n != "id"}
    lines = export(rows, names).to_csv(index=False).splitlines()
    lines[2] = lines[2][:30]
    (tmp_path / "run.csv").write_text("\n".join(lines))
    found = {row["id"]: image for image, row in read(tmp_path)}
    assert sorted(found) == [f"run/line-{i}" for i in (2, 3, 4, 5)]
    assert "line 3: 6 values, the header names 7" in str(found["run/line-3"])
    np.testing.assert_array_equal(found["run/line-5"], tile(4))


def test_further_columns_of_the_csv_are_joined_by_id(tmp_path):
    rows = make_run(tmp_path)
    table = export(rows, Convexity=[f"0.{i}" for i in range(10)])
    table.iloc[::-1].iloc[1:].to_csv(tmp_path / "run.csv", index=False)
    found = [row["raw"] for _, row in read(tmp_path)]
    assert [r["Convexity"] for r in found] == [*(f"0.{i}" for i in range(9)), ""]
    assert "Image File" not in found[0] and "Diameter (ABD)" not in found[0]


def edited(tmp_path, change):
    """Write a run and let `change` edit its lines; returns the folder."""
    rows = make_run(tmp_path)
    lines = lst(rows).splitlines()
    done = change(lines)
    (tmp_path / "run.lst").write_bytes("\n".join(done or lines).encode("latin-1"))
    return tmp_path


def put(field, value, line=68):
    def change(lines):
        values = lines[line - 1].split("|")
        values[[n for n, _ in FIELDS].index(field)] = value
        lines[line - 1] = "|".join(values)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("image_x", "55"), r"rectangle 12 x 12 at \(55, 2\) leaves run_000001.tif of 60 x 20"),
        (put("image_x", "-1"), r"rectangle 12 x 12 at \(-1, 2\) leaves"),
        (put("image_w", "0"), r"rectangle 0 x 12"),
        (put("image_w", "NaN"), r"image_w is 'NaN'; a number of pixels is wanted"),
        (put("image_h", "99999999999999999999"), r"leaves run_000001.tif"),
        (put("abd_area", "oops"), r"line 68: abd_area is 'oops', the header says double"),
        (put("collage_file", "../out.tif"), r"collage '../out.tif' leaves the folder"),
        (put("collage_file", "/etc/passwd"), r"collage '/etc/passwd' leaves the folder"),
        (put("collage_file", "C:\\x.tif"), r"leaves the folder"),
        (put("collage_file", "..\\out.tif"), r"leaves the folder"),
        (put("collage_file", "link.tif"), r"collage 'link.tif' leaves the folder"),
        (put("collage_file", "gone.tif"), r"gone.tif: no such file"),
        (put("collage_file", ""), r"no collage is named"),
        (lambda x: x[:67] + [x[67][:40]] + x[68:], r"line 68: 14 values, the header names 65"),
        (lambda x: x[:67] + [x[67] + "|1"] + x[68:], r"line 68: 66 values, the header names 65"),
        (lambda x: x[:76] + [x[76][:100]], r"line 77: 23 values, the header names 65"),
        (put("id", "2"), r"line 6[89]: id '2' is given twice"),
    ],
)
def test_a_bad_particle_is_set_aside_with_the_reason(tmp_path, change, reason):
    folder = edited(tmp_path / "in", change)
    Image.fromarray(tile(1)).save(tmp_path / "out.tif")
    (folder / "link.tif").symlink_to(tmp_path / "out.tif")
    found = read(folder)
    bad = [image for image, _ in found if isinstance(image, str)]
    assert len(found) == 10 and len(bad) == 1
    assert re.search(reason, bad[0]), bad[0]
    assert len({row["id"] for _, row in found}) == 10


def test_no_number_in_a_column_that_needs_none_is_no_fault(tmp_path):
    def change(lines):
        put("abd_diameter", "1.#QNAN0")(lines)
        put("cal_const", "-nan(ind)")(lines)
        put("raw_area", "", 69)(lines)

    (_, first), (_, second), *rest = read(edited(tmp_path, change))
    assert np.isnan([first["ecd_um"], first["um_per_px"], second["raw"]["raw_area"]]).all()
    assert len(rest) == 8


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "text"])
def test_a_broken_collage_sets_its_own_particles_aside(tmp_path, fault):
    make_run(tmp_path)
    page = tmp_path / "run_000002.tif"
    whole = page.read_bytes()
    page.unlink()
    if fault != "missing":
        page.write_bytes({"empty": b"", "truncated": whole[:-400], "text": b"hello"}[fault])
    said = reasons(tmp_path)
    assert set(said) == {"5", "6", "7", "8"}
    assert all("run_000002.tif" in text and str(tmp_path) not in text for text in said.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: ["018", *x[1:]], r"run.lst: version '018'; 017 is read"),
        (lambda x: [""], r"run.lst: version ''; 017 is read"),
        (lambda x: x[:1], r"line 2 is ''; 'num-fields\|N' is wanted"),
        (lambda x: [x[0], "num-fields|x", *x[2:]], r"'num-fields\|N' is wanted"),
        (lambda x: [x[0], "num-fields|66", *x[2:]], r"num-fields says 66, but line 68 is '1\|2\|2"),
        (lambda x: [x[0], "num-fields|64", *x[2:]], r"num-fields says 64, but more are named"),
        (lambda x: x[:30], r"num-fields says 65, but line 31 is ''"),
        (
            lambda x: [y.replace("image_w|", "image_v|") for y in x],
            r"no field 'image_w' in its header; did you mean 'image_",
        ),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path, change, message):
    folder = edited(tmp_path, change)
    with pytest.raises(SvpkitError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert not FlowCamReader().sniff(folder)


def test_an_empty_list_yields_its_run_alone(tmp_path):
    ((image, row),) = read(edited(tmp_path, lambda lines: lines[:67]))
    assert image is None and row["run"] == "run"


def test_byte_order_mark_line_ends_and_latin_names(tmp_path):
    rows = make_run(tmp_path, "probe_größe", 5)
    text = lst(rows, end="\r\n").encode("latin-1")
    (tmp_path / "probe_größe.lst").write_bytes(b"\xef\xbb\xbf" + text)
    found = read(tmp_path)
    assert [r["id"] for _, r in found] == [f"probe_größe/{i}" for i in range(1, 6)]
    assert all((image == tile(i)).all() for i, (image, _) in enumerate(found, 1))
    assert found[0][1]["raw"]["image_id"] == "GUID-0001"


def cla(members, n=None):
    lines = ["v3", "1", "template", str(len(members))]
    for name, ids in members.items():
        lines += [name, "OR", "1", "C:\\filter.flt", str(n or len(ids)), *map(str, ids)]
    return "\n".join(lines) + "\n"


def test_classes_of_the_instrument_and_their_checks(tmp_path):
    make_run(tmp_path)
    with pytest.raises(SvpkitError, match=r"run.cla: options.classes_from_instrument: no such"):
        read(tmp_path, classes_from_instrument=True)
    path = tmp_path / "run.cla"
    path.write_text(cla({"Junk": [2, 3], "none": [], "protist": [9]}))
    labels = {r["particle_id"]: r["label"] for _, r in read(tmp_path, classes_from_instrument=True)}
    assert {k: v for k, v in labels.items() if v} == {"2": "Junk", "3": "Junk", "9": "protist"}
    for text, message in (
        (cla({"Junk": [2, 11, 40]}), r"stale: 2 of its 3 ids are not in the run \(the first 11, t"),
        (cla({"a": [2], "b": [2]}), r"particle 2 is named twice, in 'a' and 'b'"),
        (cla({"a": [2]}, n=5), r"ends early"),
        (cla({"a": [2]}).replace("v3", "v4"), r"version 'v4'; v3 is read"),
        (cla({"a": ["x"]}), r"'x' stands where a whole number is wanted"),
    ):
        path.write_text(text)
        with pytest.raises(SvpkitError, match=message):
            read(tmp_path, classes_from_instrument=True)


def test_a_flat_field_takes_the_cameras_shading_away(tmp_path):
    rows = make_run(tmp_path, n=4)
    with pytest.raises(SvpkitError, match=r"options.flat_field: no cal_image_NNNNNN.tif"):
        read(tmp_path, flat_field=True)
    x, y = np.meshgrid(np.arange(60), np.arange(31))
    field = (150 + x + y).astype(np.uint8)
    Image.fromarray(field).save(tmp_path / "cal_image_000001.tif")
    page = np.zeros((20, 60, 3), np.uint8)
    for row in rows:  # empty but for the shading, at half the light
        shade = field[5 : 5 + SIDE, row["src_x"] : row["src_x"] + SIDE, None]
        page[2:14, row["image_x"] : row["image_x"] + SIDE] = shade // 2
    Image.fromarray(page).save(tmp_path / "run_000001.tif")
    for image, _ in read(tmp_path, flat_field=True):
        assert np.abs(image - np.median(field) / 2).max() <= 1
    put_far = lst([row | {"src_x": 55} for row in rows])
    (tmp_path / "run.lst").write_text(put_far)
    assert all(
        "leaves cal_image_000001.tif" in r for r in reasons(tmp_path, flat_field=True).values()
    )


def test_a_mask_leaves_the_particle_and_two_pixels_around_it(tmp_path):
    make_run(tmp_path)
    for i, (image, _) in enumerate(read(tmp_path, mask=True), 1):
        whole = tile(i)
        np.testing.assert_array_equal(image[2:10, 2:10], whole[2:10, 2:10])
        edge = np.concatenate([whole[0], whole[-1], whole[1:-1, 0], whole[1:-1, -1]])
        outside = np.ones((SIDE, SIDE), bool)
        outside[2:10, 2:10] = False
        assert (image[outside] == np.rint(np.median(edge, axis=0))).all()
    (tmp_path / "run_000001_bin.tif").unlink()
    assert set(reasons(tmp_path, mask=True)) == {"1", "2", "3", "4"}


def test_outlines_refuse_what_is_none(tmp_path):
    path = tmp_path / "run.edg"
    path.write_text("7,4,10,20,1753\n7,0,5,5,\n")
    (square, dot) = outlines(path)[7]
    assert square.tolist() == [[10, 20], [11, 20], [11, 21], [10, 21], [10, 20]]
    assert dot.tolist() == [[5, 5]]
    for text, message in (
        ("7,4,1,1,1793", r"line 1: '7,4,1,1,1793'; 'id,n,x,y,digits 1 to 8' is wanted"),
        ("7,3,1,1,1753", r"line 1: 4 links, it says 3"),
    ):
        path.write_text(text)
        with pytest.raises(SvpkitError, match=message):
            outlines(path)


def test_settings_fill_in_and_options_go_before_them(tmp_path):
    rows = make_run(tmp_path)
    bare = [f for f in FIELDS if f[0] not in ("cal_const", "timestamp")]
    (tmp_path / "run.lst").write_text(lst(rows, bare))
    _, row = read(tmp_path)[0]
    assert np.isnan(row["um_per_px"]) and np.isnan(row["volume_ml"])
    assert (row["timestamp"], row["instrument"], row["dilution"]) == ("", "FlowCam", 1.0)
    (tmp_path / "run.ctx").write_bytes(
        b"[Software]\r\nCameraMagnification=4\r\n[General]\r\nTimeZone= \r\nName=50% \xb5m\r\n"
        b"[Fluid]\r\nCalibrationConstant=1.5\r\n"
    )
    (tmp_path / "run_run_summary.txt").write_bytes(
        b"Run:\r\n\tFluid Volume Imaged: 0.1 ml\r\n\tParticle Count: 25\r\n"
        b"Date/Time:\r\n\tStart:  2024-04-08 11:10:51\r\n"
    )
    _, row = read(tmp_path)[0]
    assert (row["um_per_px"], row["volume_ml"], row["instrument"]) == (1.5, 0.1, "FlowCam 4X")
    assert row["timestamp"] == "2024-04-08T11:10:51"
    assert about(tmp_path)["particle_count"] == 25 and about(tmp_path)["rows"] == 10
    _, row = read(tmp_path, volume_ml=2.0, dilution=10.0)[0]
    assert (row["volume_ml"], row["dilution"]) == (2.0, 10.0)


def write_labels(tmp_path, text):
    path = tmp_path / "human.csv"
    path.write_text(text)
    return path


def test_labels_by_id_image_and_run(tmp_path):
    make_run(tmp_path)
    write_labels(tmp_path, "id,label\n007,oil\n3.0,air\n5,\n")
    found = {r["particle_id"]: r["label"] for _, r in read(tmp_path, labels="human.csv")}
    assert {k: v for k, v in found.items() if v} == {"7": "oil", "3": "air"}
    write_labels(tmp_path, "what,guid\noil,{guid-0002}\n")
    options = {"labels": "human.csv", "label_column": "what", "image_column": "guid"}
    assert [r["particle_id"] for _, r in read(tmp_path, **options) if r["label"]] == ["2"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("id,label\n1,a\n1,b\n", {}, r"human.csv: two labels for '1': 'a' and 'b'"),
        ("id,label\n1,a\n88,b\n99,b\n", {}, r"2 of 3 labelled particles .*; the first: id '88'"),
        ("id,labels\n1,a\n", {"label_column": "label"}, r"label_column: unknown 'label'; did you"),
        ("id,kind\n1,a\n", {}, r"options.label_column: name it; the columns are id, kind"),
        ("who,label\n1,a\n", {}, r"options.id_column: name it|options.image_column: name it"),
        ("id,label\n1,\n", {}, r"no row has a label in column 'label'"),
        ("id,run,label\n1,runn,a\n", {}, r"no label is of run: unknown 'run'; did you mean 'runn'"),
        ("id,run,label\n1,run,a\n11,run,a\n9,z,a\n", {}, r"1 of 2 .* '11' of run 'run'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, text, options, message):
    make_run(tmp_path)
    write_labels(tmp_path, text)
    with pytest.raises(SvpkitError, match=message):
        read(tmp_path, labels="human.csv", **options)


def test_labels_of_several_runs_need_their_names(tmp_path):
    make_run(tmp_path / "a", "one", 3)
    make_run(tmp_path / "b", "two", 3)
    path = write_labels(tmp_path, "id,label\n1,oil\n")
    with pytest.raises(SvpkitError, match=r"options.run_column: name the column"):
        read(tmp_path, labels="human.csv")
    path.write_text("id,label,run\n1,oil,two\n")
    labels = {r["id"]: r["label"] for _, r in read(tmp_path, labels="human.csv")}
    assert {k for k, v in labels.items() if v} == {"two/1"}
    with pytest.raises(SvpkitError, match="choose one"):
        read(tmp_path, labels="human.csv", classes_from_instrument=True)
    with pytest.raises(SvpkitError, match="no such file"):
        read(tmp_path, labels="nobody.csv")
    assert len(read_labels(path)) == 1


def test_sniff_knows_its_own(tmp_path, real_data):
    sniff = FlowCamReader().sniff
    make_run(tmp_path / "deep" / "run")
    assert sniff(tmp_path / "deep") and sniff(tmp_path / "deep" / "run" / "run.lst")
    assert not sniff(tmp_path) and not sniff(tmp_path / "nothing")
    (tmp_path / "other.csv").write_text("file,label\na.png,x\n")
    assert not sniff(tmp_path) and not sniff(tmp_path / "other.csv")
    (tmp_path / "deep" / "broken").mkdir()
    (tmp_path / "deep" / "broken" / "broken.lst").write_text("016\n")
    assert sniff(tmp_path / "deep") and not sniff(tmp_path / "deep" / "broken")
    with pytest.raises(SvpkitError, match=r"broken.lst: version '016'"):
        read(tmp_path / "deep")
    for name in ("flowcam_protists", "ifcb_raw", "blood_cells"):
        assert not sniff(real_data / name)
    assert sniff(real_data / "flowcam_raw") and sniff(real_data / "flowcam_protists" / "raw")


def test_what_is_no_run_is_refused(tmp_path):
    for path, message in ((tmp_path, "no FlowCam run"), (tmp_path / "x", "no such file or folder")):
        with pytest.raises(SvpkitError, match=message):
            read(path)


def test_a_run_becomes_a_set_with_its_own_columns_beside(tmp_path):
    from svpkit.particles.ingest import import_set
    from svpkit.plugins import discover

    make_run(tmp_path / "run")
    use = discover(builtin_only=True, strict=True).use("reader", "flowcam", {}, "reader")
    particles = import_set(tmp_path / "set", use, tmp_path / "run", size=16, channels=3)
    assert len(particles) == 10
    np.testing.assert_array_equal(np.moveaxis(particles.images([4])[0], 0, 2)[2:14, 2:14], tile(5))
    own = read_raw(tmp_path / "set")
    assert own is not None and list(own["src_x"]) == [3 * i for i in range(1, 11)]


def test_which_diameter_is_the_size_is_a_choice(real_data):
    """ABD leaves out the fringe that the run's settings name; the mask's whole area does not."""
    reader, run = FlowCamReader(), real_data / "flowcam_raw"
    first = {s: next(iter(reader.read(run, size=s)))[1] for s in ("abd", "esd", "mask")}
    raw = first["abd"]["raw"]
    assert first["abd"]["ecd_um"] == raw["abd_diameter"]
    assert first["esd"]["ecd_um"] == raw["esd_diameter"]
    area = 2 * np.sqrt(raw["raw_area"] / np.pi) * first["mask"]["um_per_px"]
    assert first["mask"]["ecd_um"] == pytest.approx(area)
    assert first["abd"]["ecd_um"] < first["mask"]["ecd_um"]
