import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from svpkit import SvpkitError, plugins
from svpkit.default_plugins.folder import FolderReader
from svpkit.particles.ingest import import_set


def picture(seed=0, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, image=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if image is None else image).save(path, **more)


def read(path, **options):
    return list(FolderReader().read(path, **options))


def reasons(found):
    return {row["id"]: image for image, row in found if isinstance(image, str)}


def test_class_folders_give_labels_and_deeper_ones_groups(tmp_path):
    save(tmp_path / "oil" / "run1" / "a.png", picture(1))
    save(tmp_path / "oil" / "b.tif", picture(2))
    save(tmp_path / "air" / "c.bmp", picture(3))
    save(tmp_path / "loose.png", picture(4))
    (tmp_path / "oil" / "notes.txt").touch()
    (tmp_path / "oil" / "._b.png").touch()
    found = read(tmp_path)
    assert [(r["id"], r["label"], r["group"]) for _, r in found] == [
        ("loose.png", "", ""),
        ("air/c.bmp", "air", ""),
        ("oil/b.tif", "oil", ""),
        ("oil/run1/a.png", "oil", "run1"),
    ]
    for (image, _), seed in zip(found, (4, 3, 2, 1), strict=True):
        np.testing.assert_array_equal(image, picture(seed))


def test_classes_choose_and_order(tmp_path):
    for name in ("oil", "air", "raw"):
        save(tmp_path / name / "a.png")
    chosen = [row["label"] for _, row in read(tmp_path, classes=["oil", "air"])]
    assert chosen == ["oil", "air"]
    with pytest.raises(SvpkitError, match=r"options.classes: unknown 'oill'; did you mean 'oil'"):
        read(tmp_path, classes=["oill"])


def test_pattern_and_scale(tmp_path):
    save(tmp_path / "oil" / "a.png")
    save(tmp_path / "oil" / "b.jpg")
    found = read(tmp_path, pattern="*/*.jpg", um_per_px=0.5)
    assert [(row["id"], row["um_per_px"]) for _, row in found] == [("oil/b.jpg", 0.5)]


def csv_folder(tmp_path, text, name="labels.csv", encoding="utf-8"):
    for i in range(3):
        save(tmp_path / "tiles" / f"{i}.png", picture(i))
    (tmp_path / name).write_bytes(text.encode(encoding))
    return tmp_path


def test_a_labels_csv_with_our_names(tmp_path):
    root = csv_folder(
        tmp_path,
        "file,label,group,um_per_px,ecd_um,volts\n"
        "tiles/1.png,oil,r1,0.25,4,3\ntiles/0.png,NA,r2,,x,4\n",
    )
    (image, first), (_, second) = read(root, labels="labels.csv", um_per_px=0.5)
    np.testing.assert_array_equal(image, picture(1))
    assert first == {
        "id": "tiles/1.png",
        "label": "oil",
        "group": "r1",
        "um_per_px": 0.25,
        "ecd_um": 4.0,
        "volts": 3,
    }
    assert second["label"] == "NA" and second["um_per_px"] == 0.5 and np.isnan(second["ecd_um"])


def test_columns_map_our_names_and_keep_theirs(tmp_path):
    text = "id;class;tile;run\n1;oil;0.png;7\n1;oil;1.png;8\n"
    root = csv_folder(tmp_path, text)
    columns = {"file": "tile", "label": "class", "group": "run"}
    (root / "tiles").rename(root / "oil")
    rows = [row for _, row in read(root, labels="labels.csv", columns=columns)]
    # the file is found in its class folder, and the CSV's own id is not taken for ours
    assert [(r["id"], r["label"], r["group"], r["csv_id"]) for r in rows] == [
        ("oil/0.png", "oil", "7", 1),
        ("oil/1.png", "oil", "8", 1),
    ]
    named = read(root, labels="labels.csv", columns=columns | {"id": "run"})
    assert [row["id"] for _, row in named] == ["7", "8"]


def test_latin_1_tabs_and_windows_paths(tmp_path):
    text = "file\tlabel\ntiles\\0.png\tmicelle géante\n"
    root = csv_folder(tmp_path, text, "labels.tsv", "latin-1")
    ((image, row),) = read(root, labels="labels.tsv")
    assert row["label"] == "micelle géante" and row["id"] == "tiles/0.png"
    np.testing.assert_array_equal(image, picture(0))


def test_a_byte_order_mark_is_no_part_of_the_name(tmp_path):
    root = csv_folder(tmp_path, "\ufefffile,label\ntiles/0.png,oil\n")
    assert read(root, labels="labels.csv")[0][1]["label"] == "oil"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "label.csv"}, "label.csv: options.labels: No such file"),
        ({"labels": "labels.csv"}, "options.columns.file: column: unknown 'file'"),
        (
            {"labels": "labels.csv", "columns": {"file": "tiel"}},
            "options.columns.file: column: unknown 'tiel'; did you mean 'tile'",
        ),
        (
            {"labels": "labels.csv", "columns": {"file": "tile", "lable": "class"}},
            "options.columns: unknown 'lable'; did you mean 'label'",
        ),
        (
            {"labels": "labels.csv", "columns": {"file": "tile"}},
            "options.columns.label: column: unknown 'label'",
        ),
        (
            {
                "labels": "labels.csv",
                "columns": {"file": "tile", "label": "class"},
                "classes": ["oli"],
            },
            "options.classes: unknown 'oli'; did you mean 'oil'",
        ),
        ({"columns": {"file": "tile"}}, "options.labels no CSV"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, options, said):
    root = csv_folder(tmp_path, "tile,class\ntiles/0.png,oil\n")
    with pytest.raises(SvpkitError) as error:
        read(root, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_csv_may_leave_the_class_folder_unsaid(tmp_path):
    root = csv_folder(tmp_path, "file,label\n1.png,tiles\ntiles/0.png,oil\n2.png,oil\n")
    (_, first), (_, second) = read(root, labels="labels.csv")[:2]
    assert (first["id"], first["label"]) == ("tiles/1.png", "tiles")
    assert (second["id"], second["label"]) == ("tiles/0.png", "oil")


def test_a_csv_without_labels_is_read_when_asked(tmp_path):
    root = csv_folder(tmp_path, "tile\ntiles/0.png\n")
    columns = {"file": "tile", "label": ""}
    assert read(root, labels="labels.csv", columns=columns)[0][1]["label"] == ""


def test_a_table_that_is_none(tmp_path):
    root = csv_folder(tmp_path, "file,label\na,b,c,d,e\n1,2,3,4,5,6\n")
    with pytest.raises(SvpkitError, match="not a table"):
        read(root, labels="labels.csv")
    with pytest.raises(SvpkitError, match="no such folder"):
        read(tmp_path / "nowhere")


def test_broken_pictures_are_set_aside_with_the_reason(tmp_path):
    folder = tmp_path / "a"
    save(folder / "good.png", picture(0, (40, 40)))
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "gif.png").write_bytes(b"GIF89a" + bytes(40))
    Image.new("CMYK", (4, 4)).save(folder / "cmyk.jpg")
    Image.new("F", (4, 4)).save(folder / "float.tif")
    pages = [Image.new("L", (4, 4), i) for i in range(2)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(folder / "moving.png", save_all=True, append_images=pages[1:])
    Image.new("1", (20_000, 2)).save(folder / "wide.png")
    Image.new("1", (16_000, 12_000)).save(folder / "huge.png")
    found = reasons(read(tmp_path))
    assert found.pop("a/empty.png") == "empty file"
    assert "cannot be read" in found.pop("a/cut.png")
    assert "cannot identify" in found.pop("a/text.png") and "cannot" in found.pop("a/gif.png")
    assert "CMYK" in found.pop("a/cmyk.jpg") and "colours are F" in found.pop("a/float.tif")
    assert found.pop("a/pages.tif") == found.pop("a/moving.png") == "holds 2 pictures, one is read"
    assert "20000 x 2 px" in found.pop("a/wide.png") and "cannot" in found.pop("a/huge.png")
    assert not found


def test_what_leaves_the_folder_is_set_aside(tmp_path):
    root = tmp_path / "in"
    save(tmp_path / "out.png")
    save(root / "a" / "good.png")
    (root / "a" / "link.png").symlink_to(tmp_path / "out.png")
    rows = ["../out.png", str(tmp_path / "out.png"), "a/link.png", "a/no.png", "a/\0.png"]
    (root / "labels.csv").write_text("file,label\n" + "".join(f"{r},a\n" for r in rows))
    found = reasons(read(root, labels="labels.csv"))
    assert [found[r] for r in rows[:4]] == ["leaves the folder"] * 3 + ["no such file"]
    assert len(found) == 5
    assert reasons(read(root)) == {"a/link.png": "leaves the folder"}
    assert not any(str(tmp_path) in reason for reason in found.values())


@pytest.mark.parametrize(("mode", "channels"), [("P", 4), ("LA", 4), ("1", None), ("RGB", 3)])
def test_modes(tmp_path, mode, channels):
    (tmp_path / "a").mkdir()
    picture = Image.new("RGB", (4, 4), (51, 51, 51)).convert(mode)
    picture.save(tmp_path / "a" / "x.png")
    ((image, _),) = read(tmp_path)
    assert image.dtype == np.uint8 and image.shape[2:] == ((channels,) if channels else ())
    expected = (0, 255) if mode == "1" else (51,)
    assert np.isin(image.reshape(16, -1)[:, :3], expected).all()


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_come_through_and_are_noted(tmp_path, name):
    deep = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    save(tmp_path / "in" / "a" / name, deep)
    ((image, _),) = read(tmp_path / "in")
    np.testing.assert_array_equal(image, deep)
    use = plugins.discover(builtin_only=True).use("reader", "folder", {}, "data.reader")
    particles = import_set(tmp_path / "out", use, tmp_path / "in", size=8)
    np.testing.assert_array_equal(particles.images()[0, 0], np.rint(deep / 257))
    assert particles.table["note"][0] == "16-bit, divided by 257"


def test_a_drawn_picture_stays_known_as_drawn(tmp_path):
    tags = PngImagePlugin.PngInfo()
    tags.add_text("svpkit-origin", "synthetic")
    tags.add_text("svpkit-lineage", "model 12ab, oil, seed 3")
    save(tmp_path / "oil" / "x.png", pnginfo=tags)
    ((_, row),) = read(tmp_path)
    assert row["origin"] == "synthetic" and row["lineage"] == "model 12ab, oil, seed 3"


def test_sniff(tmp_path):
    reader = FolderReader()
    assert not reader.sniff(tmp_path) and not reader.sniff(tmp_path / "no")
    (tmp_path / "notes.txt").touch()
    assert not reader.sniff(tmp_path) and not reader.sniff(tmp_path / "notes.txt")
    save(tmp_path / "oil" / "x.JPG".lower())
    assert reader.sniff(tmp_path)
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "labels.csv").touch()
    assert reader.sniff(tmp_path / "labelled")


def test_options_are_documented_and_checked():
    registry = plugins.discover(builtin_only=True)
    options = registry.get("reader", "folder").options
    assert list(options) == ["labels", "columns", "classes", "pattern", "um_per_px"]
    assert all(option.doc for option in options.values())
    with pytest.raises(SvpkitError, match="data.options.um_per_px"):
        registry.use("reader", "folder", {"um_per_px": -1}, "data.reader")
    with pytest.raises(SvpkitError, match="did you mean 'columns'"):
        registry.use("reader", "folder", {"colums": {}}, "data.reader")


FLOWCAM = {
    "labels": "labels.csv",
    "columns": {
        "file": "tile",
        "label": "class",
        "group": "run",
        "source": "src_image",
        "um_per_px": "cal_const",
        "ecd_um": "abd_diameter",
    },
}


def test_real_tiles_by_labels_csv(real_data, tmp_path):
    use = plugins.discover(builtin_only=True).use("reader", "folder", FLOWCAM, "data.reader")
    root = real_data / "flowcam_protists"
    particles = import_set(tmp_path / "set", use, root, size=32)
    assert particles.counts == {"Junk": 2295, "Missed": 287, "Protist": 418}
    table = particles.table
    assert table["group"].nunique() == 3 and table["esd_diameter"].between(1, 60).all()
    # a tile that fits keeps the calibration, a larger one has coarser pixels
    fits = (table["image_w"] <= 32) & (table["image_h"] <= 32)
    np.testing.assert_allclose(table["um_per_px"][fits], 0.5544)
    sides = table[["image_w", "image_h"]].max(axis=1)[~fits]
    np.testing.assert_allclose(table["um_per_px"][~fits], 0.5544 * sides / 32)
    first = Image.open(root / table["id"][0]).convert("L")
    inside = particles.images([0])[0, 0, 5:27, 5:27]
    assert np.abs(inside.astype(int) - np.asarray(first)).max() <= 1


def test_real_cells_by_boxes_csv(real_data):
    columns = {"file": "tile", "label": "class", "group": "source_image"}
    rows = read(real_data / "blood_cells", labels="boxes.csv", columns=columns)
    assert len(rows) == 4886 and not reasons(rows)
    assert len({row["id"] for _, row in rows}) == 4886
    assert all(row["id"].startswith(row["label"] + "/") for _, row in rows)


@pytest.mark.parametrize("how", ["up", "whole", "link"])
def test_the_csv_of_labels_lies_in_the_folder(tmp_path, how):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.csv").write_text("file,label\na.png,oil\n")
    (tmp_path / "set" / "linked.csv").symlink_to(tmp_path / "secret.csv")
    named = {"up": "../secret.csv", "whole": str(tmp_path / "secret.csv"), "link": "linked.csv"}
    with pytest.raises(SvpkitError, match="options.labels: leaves the folder"):
        read(tmp_path / "set", labels=named[how])


def test_a_pipe_is_no_regular_file_and_not_waited_for(tmp_path):
    (tmp_path / "disc").mkdir()
    os.mkfifo(tmp_path / "disc" / "pipe.png")
    (tmp_path / "disc" / "gone.png").symlink_to("nothing")
    found = {row["id"]: image for image, row in FolderReader().read(tmp_path)}
    assert found == {"disc/pipe.png": "not a regular file", "disc/gone.png": "no such file"}
