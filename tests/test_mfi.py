import math
import random

import numpy as np
import pytest
from PIL import Image

from svpkit import SvpkitError, plugins
from svpkit.particles.ingest import import_set
from svpkit.readers import mfi
from svpkit.readers.mfi import MfiReader
from svpkit.readers.mfi_tables import fold

# The names of the one published table, and a row of it (ECD, area, grey levels, box).
NAMES = (
    "#,Frame #,Particle #,Time Stamp(s),ECD(um),Area(pixels),Perimeter,Circularity,Intensity Mean,"
    "Intensity STD,Intensity Min,Intensity Max,Max Feret Diameter(um),Aspect Ratio,X Left,X Right,"
    "Y Top,Y Bottom,Edge Particle"
).split(",")
W, H = 128, 96


def read(path, **options):
    return list(MfiReader().read(path, **options))


def frame(seed, bits=8, shape=(H, W)):
    grey = np.random.default_rng(seed).integers(0, 2**bits, shape)
    return grey.astype(np.uint8 if bits == 8 else np.uint16)


def row(number, at, box, ecd=5.25, edge=0):
    """A line of the table; box is left, right, top, bottom, as the table says it."""
    middle = [1.5, ecd, 100, 40, 0.9, 500, 20, 72, 934, 7.5, 0.8]
    return [number, at, 1, *middle, *box, edge]


def boxes(n=30, frames=3):
    rng, made = random.Random(0), []
    for i in range(n):
        left, top = rng.randrange(W - 20), rng.randrange(H - 20)
        made.append((i + 1, 1 + i * frames // n, (left, left + rng.randrange(1, 20), top, top + 9)))
    return made


def export(folder, rows, *, frames=3, bits=8, text=None, names=NAMES, file="run7.csv"):
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    for i in range(frames):
        Image.fromarray(frame(i + 1, bits)).save(folder / "frames" / f"f{i + 1:04d}.tif")
    lines = [",".join(str(v) for v in line) for line in [names, *rows]]
    write = text or (lambda lines: "\n".join(lines).encode())
    (folder / file).write_bytes(write(lines))
    return folder


PATTERN = "frames/f{frame:04d}.tif"


@pytest.mark.parametrize("inclusive", [True, False])
def test_crops_are_the_boxes_of_the_frames_pixel_for_pixel(tmp_path, inclusive):
    made = boxes()
    export(tmp_path, [row(*each) for each in made])
    found = read(tmp_path, frames=PATTERN, inclusive=inclusive, um_per_px=1.25, volume_ml=0.6)
    assert len(found) == 30
    for (image, got), (number, at, (left, right, top, bottom)) in zip(found, made, strict=True):
        more = int(inclusive)
        wanted = frame(at)[top : bottom + more, left : right + more]
        np.testing.assert_array_equal(image, wanted)
        assert got["id"] == f"run7/{number}" and got["source"] == f"run7/{at}"
        assert (got["ecd_um"], got["um_per_px"], got["volume_ml"]) == (5.25, 1.25, 0.6)
        assert list(got["raw"]) == NAMES and got["raw"]["Intensity Max"] == "934"
        assert (got["run"], got["group"], got["instrument"]) == ("run7", "run7", "MFI")


def test_each_frame_is_decoded_once_even_when_the_table_is_sorted_by_size(tmp_path, monkeypatch):
    rows = [row(*each) for each in boxes()]
    random.Random(1).shuffle(rows)
    export(tmp_path, rows)
    opened, true = [], mfi.picture
    monkeypatch.setattr(mfi, "picture", lambda root, name: opened.append(name) or true(root, name))
    found = read(tmp_path, frames=PATTERN)
    assert opened == [PATTERN.replace("{frame:04d}", f"{i:04d}") for i in (1, 2, 3)]
    assert {got["particle_id"] for _, got in found} == {str(i) for i in range(1, 31)}


def test_padding_shows_surroundings_up_to_the_frame_s_border(tmp_path):
    export(tmp_path, [row(1, 1, (2, 11, 40, 49)), row(2, 1, (100, 127, 90, 95))])
    (first, _), (second, _) = read(tmp_path, frames=PATTERN, padding=5)
    np.testing.assert_array_equal(first, frame(1)[35:55, 0:17])
    np.testing.assert_array_equal(second, frame(1)[85:96, 95:128])


def test_ten_bits_become_eight(tmp_path):
    export(tmp_path, [row(1, 2, (0, 127, 0, 95))], bits=10)
    ((image, _),) = read(tmp_path, frames=PATTERN, bits=10)
    np.testing.assert_array_equal(image, np.round(frame(2, 10) / 1023 * 255).astype(np.uint8))
    ((deep, _),) = read(tmp_path, frames=PATTERN)
    np.testing.assert_array_equal(deep, frame(2, 10))
    ((reason, _),) = read(tmp_path, frames=PATTERN, bits=9)
    assert "options.bits = 9 does not fit uint16" in reason


def test_frames_numbered_from_nought(tmp_path):
    export(tmp_path, [row(1, 1, (0, 9, 0, 9))])
    for i in (1, 2):
        (tmp_path / "frames" / f"f{i:04d}.tif").rename(tmp_path / "frames" / f"f{i - 1:04d}.tif")
    ((image, got),) = read(tmp_path, frames=PATTERN, first_frame=0)
    np.testing.assert_array_equal(image, frame(1)[:10, :10])
    assert got["source"] == "run7/1"


def test_a_folder_of_crops(tmp_path):
    export(tmp_path, [row(1, 1, (0, 4, 0, 4)), row(2, 3, (0, 4, 0, 4)), row(3, 3, (0, 4, 0, 4))])
    (tmp_path / "run7").mkdir()
    for i in (1, 2):
        Image.fromarray(frame(i, shape=(5, 6))).save(tmp_path / "run7" / f"p{i:06d}.png")
    found = read(tmp_path, crops="{run}/p{particle:06}.png")
    for i in (1, 2):
        np.testing.assert_array_equal(found[i - 1][0], frame(i, shape=(5, 6)))
    assert found[2][0] == "run7/p000003.png: no such file"


@pytest.mark.parametrize(
    "write",
    [
        lambda lines: "\r\n".join(lines).replace(",", "\t").encode("utf-16"),
        lambda lines: "\n".join(lines).replace(",", ";").replace(".", ",").encode("utf-8-sig"),
        lambda lines: "\n".join(lines).replace("(um)", " (\xb5m)").encode("latin-1"),
        lambda lines: "\n".join(["MVSS export", "Sample;x", "", *lines]).encode(),
        lambda lines: "\n".join([lines[0].upper().replace(" ", "_"), *lines[1:]]).encode(),
        lambda lines: "\n".join(line + "," for line in lines).encode(),
    ],
    ids=["utf-16 tabs", "decimal commas", "latin-1", "preamble", "other case", "last comma"],
)
def test_delimiter_encoding_and_names_are_found(tmp_path, write):
    export(tmp_path, [row(1, 1, (3, 9, 4, 8))], text=write)
    assert MfiReader().sniff(tmp_path) and MfiReader().sniff(tmp_path / "run7.csv")
    ((image, got),) = read(tmp_path, frames=PATTERN)
    np.testing.assert_array_equal(image, frame(1)[4:9, 3:10])
    assert got["ecd_um"] == 5.25 and len(got["raw"]) == len(NAMES)


def test_broken_lines_are_set_aside(tmp_path):
    rows = [
        row(1, 1, (3, 9, 4, 8)),
        row(1, 1, (3, 9, 4, 8)),
        row(2, 9, (3, 9, 4, 8)),
        row(3, 1, (3, 128, 4, 8)),
        row(4, 1, (9, 3, 4, 8)),
        row(5, 1, (-1, 3, 4, 8)),
        row(6, 1, ("x", 3, 4, 8)),
        [7, 1, 1],
        row("", 1, (3, 9, 4, 8)),
        row("=1+1", 1, (3, 9, 4, 8)),
        row(8, "../../x", (3, 9, 4, 8)),
    ]
    found = read(export(tmp_path, rows, frames=1), frames=PATTERN)
    why = {got["id"]: image for image, got in found if isinstance(image, str)}
    assert why["run7/line 3"] == "particle run7/1 is there twice"
    assert why["run7/2"] == "frames/f0009.tif: no such file"
    assert why["run7/3"] == "box 3..129 x 4..9 is not in the frame, 128 x 96 px"
    assert "box 9..4" in why["run7/4"] and "box -1..4" in why["run7/5"]
    assert "left 'x'" in why["run7/6"]
    assert why["run7/line 9"] == "the line has 3 values, the header 19"
    assert why["run7/line 10"] == "the line has no particle number"
    assert "no such file" in why["run7/8"]
    good = [got for image, got in found if not isinstance(image, str)]
    assert [got["particle_id"] for got in good] == ["1", "=1+1"]
    assert len({got["id"] for _, got in found}) == len(rows)


def test_nothing_outside_the_folder_is_opened(tmp_path):
    Image.fromarray(frame(1)).save(tmp_path / "1.png")
    inside = export(tmp_path / "in", [row(1, 1, (0, 4, 0, 4))])
    (inside / "link1.png").symlink_to(tmp_path / "1.png")
    for pattern in ("../{particle}.png", "link{particle}.png", f"{tmp_path}/{{particle}}.png"):
        ((reason, _),) = read(inside, crops=pattern)
        assert reason.endswith("leaves the folder")
    (tmp_path / "run8.csv").write_bytes((inside / "run7.csv").read_bytes())
    with pytest.raises(SvpkitError, match="leaves the folder"):
        read(inside, crops="{particle}.png", table="../*.csv")


def test_particles_cut_by_the_edge(tmp_path):
    export(tmp_path, [row(1, 1, (0, 9, 0, 9), edge=1), row(2, 1, (5, 9, 5, 9))])
    assert len(read(tmp_path, frames=PATTERN)) == 2
    assert [got["particle_id"] for _, got in read(tmp_path, frames=PATTERN, edge="drop")] == ["2"]


def test_without_a_number_through_the_run_the_frame_makes_it_one(tmp_path):
    rows = [row(None, 1, (0, 9, 0, 9))[1:], row(None, 2, (0, 9, 0, 9))[1:]]
    found = read(export(tmp_path, rows, names=NAMES[1:]), frames=PATTERN)
    assert [got["id"] for _, got in found] == ["run7/1-1", "run7/2-1"]


def test_other_names_are_told(tmp_path):
    names = [{"X Left": "x0", "X Right": "x1", "#": "Nummer"}.get(n, n) for n in NAMES]
    export(tmp_path, [row(41, 1, (0, 9, 0, 9))], names=names)
    told = {"left": "x0", "right": "x1", "particle": "Nummer"}
    ((image, got),) = read(tmp_path / "run7.csv", frames=PATTERN, columns=told)
    assert image.shape == (10, 10) and got["particle_id"] == "41"
    with pytest.raises(SvpkitError, match="no column for 'left'; name it in options.columns"):
        read(tmp_path, frames=PATTERN)
    with pytest.raises(SvpkitError, match="unknown 'lefft'; did you mean 'left'"):
        read(tmp_path, frames=PATTERN, columns={"lefft": "x0"})
    with pytest.raises(SvpkitError, match="options.columns.left: column: unknown 'x9'"):
        read(tmp_path, frames=PATTERN, columns={"left": "x9"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "one of options.frames"),
        ({"frames": "a", "crops": "b"}, "one of options.frames"),
        ({"frames": "frames/1.tif"}, "has no {frame}"),
        ({"frames": "{fram}.tif"}, "unknown 'fram'; did you mean 'frame'"),
        ({"crops": "{frame}.png"}, "has no {particle}"),
        ({"frames": PATTERN, "table": "*.xls"}, "no MFI table here"),
    ],
)
def test_what_is_not_told_is_asked_for(tmp_path, options, said):
    export(tmp_path, [row(1, 1, (0, 9, 0, 9))])
    with pytest.raises(SvpkitError, match=said):
        read(tmp_path, **options)


def test_a_huge_line_and_a_quote_that_never_closes(tmp_path):
    file = export(tmp_path, [row(1, 1, (0, 9, 0, 9))]) / "run7.csv"
    start = file.read_bytes()
    file.write_bytes(start + b"\n2," + b"9" * 2**21)
    with pytest.raises(SvpkitError, match="a line is longer"):
        read(tmp_path, frames=PATTERN)
    file.write_bytes(start + b'\n2,"' + b"9,9\n" * 2**16)
    with pytest.raises(SvpkitError, match="not a table"):
        read(tmp_path, frames=PATTERN)


def test_it_knows_its_own_only(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label,ecd_um\na.png,oil,3\n")
    (tmp_path / "flow.csv").write_text("Particle ID,Area (ABD),Image X,Image Y,Edge Gradient\n")
    (tmp_path / "bytes.txt").write_bytes(bytes(range(256)) * 20)
    assert not MfiReader().sniff(tmp_path) and not MfiReader().sniff(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("#", "#"),
        (" Frame #", "frame"),
        ("ECD (um)", "ecd"),
        ("ecd_\xb5m", "ecd"),
        ("X Left [px]", "xleft"),
        ("x_left_px", "xleft"),
        ("Time Stamp(s)", "timestamp"),
        ("Edge Particle", "edgeparticle"),
    ],
)
def test_names_without_case_space_and_unit(name, folded):
    assert fold(name) == folded


def test_it_is_registered_and_imports(tmp_path):
    export(tmp_path / "in", [row(*each) for each in boxes()])
    registry = plugins.discover(builtin_only=True)
    options = {"frames": PATTERN, "um_per_px": 1.25}
    use = registry.use("reader", "mfi", options, "data.reader")
    found = import_set(tmp_path / "out", use, tmp_path / "in", size=24)
    assert len(found.table) == 30 and math.isnan(found.table["volume_ml"][0])
    with pytest.raises(SvpkitError, match="data.options.bits: given 7"):
        registry.use("reader", "mfi", {"bits": 7}, "data.reader")
