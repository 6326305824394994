import math

import numpy as np
import pytest
from PIL import Image

from svpkit import SvpkitError, plugins
from svpkit.particles.ingest import import_set
from svpkit.readers.ifcb import IfcbReader, read_header

NEW, OLD = "D20240102T030405_IFCB104", "IFCB5_2012_060_235959"


def read(path, **options):
    return [found for found in every(path, **options) if found[0] is not None]


def every(path, **options):
    return list(IfcbReader().read(path, **options))


def new_line(trigger, width, height, start, time=None, run=0.0, inhibit=0.0):
    time = run if time is None else time
    middle = [trigger, time, *[0.5] * 9, time, time, 7, 9, width, height, start]
    return ",".join(str(v) for v in [*middle, -999, 0, 0, 0, run, inhibit])


def old_line(trigger, width, height, start):
    return ",".join(str(v) for v in [trigger, *[0.5] * 8, 7, 9, width, height, start, -0.2, ""])


def write(folder, stem, lines, roi, header=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.adc").write_text("".join(f"{line}\r\n" for line in lines))
    if roi is not None:
        (folder / f"{stem}.roi").write_bytes(roi)
    if header:
        (folder / f"{stem}.hdr").write_text(header)
    return folder / stem


def reasons(found):
    return {row["id"].split("/")[1]: image for image, row in found if isinstance(image, str)}


def test_real_bins_are_the_tiles_pixel_for_pixel(real_data):
    folder = real_data / "ifcb_raw"
    found = read(folder)
    assert len(found) == 25 and not reasons(found)
    for image, row in found:
        tile = folder / "tiles" / row["run"] / f"{row['particle_id']}.png"
        np.testing.assert_array_equal(image, np.asarray(Image.open(tile)))
    assert len({row["id"] for _, row in found}) == 25
    old = {r["particle_id"]: r for _, r in found if r["run"] == "IFCB5_2012_028_081515"}
    # one trigger gave two images
    assert old["00003"]["source"] == old["00004"]["source"] != old["00005"]["source"]
    assert old["00001"]["timestamp"] == "2012-01-28T08:15:15Z"
    assert (
        old["00001"]["raw"]["roi_width"] == "96"
        and old["00001"]["raw"]["hdr.PMT1hv(ssc)"] == ".675"
    )
    assert math.isnan(old["00001"]["volume_ml"])
    new = found[0][1]
    assert new["raw"]["hdr.SyringeSampleVolume"] == "5.000000" and len(new["raw"]) > 24
    assert new["timestamp"] == "2013-05-26T09:52:07Z" and new["instrument"] == "IFCB"
    assert new["um_per_px"] == pytest.approx(1 / 3.4)


def test_volume_of_a_real_bin_is_the_published_one(real_data):
    # the value that the public reader of these files is tested with
    row = read(real_data / "ifcb_raw" / "D20130526T095207_IFCB013")[0][1]
    assert row["volume_ml"] == pytest.approx(4.8850699041666665, rel=1e-12)


@pytest.mark.parametrize("ending", ["", ".adc", ".roi", ".hdr"])
def test_a_bin_by_any_of_its_files(tmp_path, ending):
    image = np.arange(12, dtype=np.uint8)
    stem = write(tmp_path, NEW, [new_line(1, 4, 3, 0)], image.tobytes(), "sampleTime: now\t\n")
    path = stem.with_name(stem.name + ending)
    ((got, row),) = read(path, dilution=3.0, um_per_px=0.3, volume_ml=1.5)
    np.testing.assert_array_equal(got, image.reshape(3, 4))
    assert (row["timestamp"], row["dilution"], row["volume_ml"]) == ("now", 3.0, 1.5)
    assert row["um_per_px"] == 0.3 and row["id"] == f"{NEW}/00001" and row["group"] == NEW
    assert IfcbReader().sniff(path) and IfcbReader().sniff(tmp_path)
    assert got.flags.writeable


def test_offsets_are_zero_based_and_empty_bins_yield_nothing(tmp_path):
    roi = bytes([9]) + bytes(range(6)) + bytes([9])
    write(tmp_path / "a", OLD, [old_line(1, 3, 2, 1), old_line(2, 0, 0, 7)], roi)
    write(tmp_path / "b" / "deep", NEW, [], b"")
    write(tmp_path, "IFCB1_2006_200_000000", [], b"xx")
    (tmp_path / "other.adc").touch()
    ((image, row),) = read(tmp_path)
    np.testing.assert_array_equal(image, np.arange(6).reshape(2, 3))
    assert row["timestamp"] == "2012-02-29T23:59:59Z"
    # a run without particles is told of all the same: it has a volume
    none = [row for image, row in every(tmp_path, volume_ml=3.0) if image is None]
    assert len(none) == 2 and all(row["volume_ml"] == 3.0 for row in none)


def test_broken_lines_are_set_aside_and_the_others_read(tmp_path):
    lines = [
        new_line(1, 2, 2, 0),
        new_line(2, 50, 50, 4),
        new_line(3, -2, 2, 4),
        new_line(4, "x", 2, 4),
        new_line(5, 2, "nan", 4),
        new_line(6, 2, 2, -1),
        new_line(7, 10**6, 10**6, 0),
        "8,0.5,0.5",
        new_line(9, 2.5, 2, 4),
        new_line(10, 2, 2, 4),
    ]
    found = read(write(tmp_path, NEW, lines, bytes(range(11))))
    why = reasons(found)
    assert list(why) == [*(f"{i:05d}" for i in range(2, 10)), "left"]
    assert "past the end of the .roi (11)" in why["00002"]
    assert "below 0" in why["00003"] and "below 0" in why["00006"]
    assert "roi_width 'x'" in why["00004"] and "sides up to 16384" in why["00007"]
    assert why["00008"] == "the line has 3 values, 24 are wanted"
    assert why["left"] == "3 bytes at the end of the .roi are in no image that was read"
    good = [image for image, _ in found if not isinstance(image, str)]
    np.testing.assert_array_equal(good, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


def test_a_bin_without_its_roi_or_its_adc(tmp_path):
    write(tmp_path, NEW, [new_line(1, 2, 2, 0), new_line(2, 0, 0, 4)], None)
    assert reasons(read(tmp_path)) == {"00001": "the bin has no .roi file"}
    (tmp_path / f"{NEW}.adc").rename(tmp_path / f"{NEW}.roi")
    with pytest.raises(SvpkitError, match="has no .adc file"):
        read(tmp_path)


def test_one_name_twice_and_nothing_at_all(tmp_path):
    with pytest.raises(SvpkitError, match="no IFCB bin here"):
        read(tmp_path)
    write(tmp_path / "a", NEW, [], b"")
    write(tmp_path / "b", NEW, [], b"")
    with pytest.raises(SvpkitError, match="two bins are named"):
        read(tmp_path)
    assert not IfcbReader().sniff(tmp_path / "c")


LAST = new_line(2, 0, 0, 4, run=600.0, inhibit=120.0)


@pytest.mark.parametrize(
    ("lines", "header", "volume"),
    [
        ([LAST], "", 2.0),
        # the last line's clock is broken: the one before it counts
        ([LAST, new_line(3, 0, 0, 4, time=601.0, run=0.0, inhibit=0.0)], "", 2.0),
        ([LAST, "3,601"], "", 2.0),
        # nothing good in the .adc: the header's times
        ([new_line(1, 0, 0, 4, time=50)], "runTime: 660\ninhibitTime: 60\n", 2.5),
        ([new_line(1, 0, 0, 4, time=50)], "", math.nan),
        ([LAST], "SyringeSampleVolume: 1.0\n", math.nan),
        ([LAST], "runSampleFast: True\n", math.nan),
        ([LAST], "runSampleFast: False\nSyringeSampleVolume: 5\n", 2.0),
        ([new_line(2, 0, 0, 4, run=100.0, inhibit=120.0)], "", math.nan),
    ],
)
def test_volume_is_the_flow_times_the_time_it_looked(tmp_path, lines, header, volume):
    found = read(write(tmp_path, NEW, [new_line(1, 2, 2, 0), *lines], bytes(4), header))
    assert found[0][1]["volume_ml"] == pytest.approx(volume, nan_ok=True)


def test_headers_of_both_kinds(tmp_path):
    file = tmp_path / "a.hdr"
    file.write_text('"Software; 2005"\n"Temp Humidity"\n" 11.5"," 32"\n')
    assert read_header(file) == {"Temp": "11.5", "Humidity": "32"}
    file.write_text("noise\nsampleTime: 2013-05-26T09:52:07Z\nPort: a:b\t\n")
    assert read_header(file) == {"sampleTime": "2013-05-26T09:52:07Z", "Port": "a:b"}


def test_it_is_registered_and_imports(tmp_path):
    roi = np.random.default_rng(0).integers(0, 256, 96, dtype=np.uint8)
    write(tmp_path / "in", NEW, [new_line(1, 8, 6, 0), new_line(1, 8, 6, 48)], roi.tobytes())
    use = plugins.discover(builtin_only=True).use("reader", "ifcb", {"dilution": 2}, "data.reader")
    table = import_set(tmp_path / "out", use, tmp_path / "in", size=8).table
    assert list(table["particle_id"]) == ["00001", "00002"] and set(table["dilution"]) == {2.0}
