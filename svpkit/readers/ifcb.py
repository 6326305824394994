"""Bins of the Imaging FlowCytobot (IFCB): .adc, .roi and .hdr of one name."""

import csv
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from annotated_types import Gt

from svpkit.errors import SvpkitError
from svpkit.readers.exports import capped, cells, neutral, number, refuse_outside, whole
from svpkit.readers.pictures import LONGEST_SIDE, MOST_PIXELS
from svpkit.safe import open_regular

ML_PER_MINUTE = 0.25
_OLD = re.compile(r"IFCB\d+_\d{4}_\d{3}_\d{6}")
_NEW = re.compile(r"D\d{8}T\d{6}_IFCB\d+")
_PARTS = (".adc", ".roi", ".hdr")
# .adc files have no header: the names are those of the instrument's documents, in their order.
_OLD_NAMES = (
    "trigger processing_end_time fluorescence_low fluorescence_high scattering_low scattering_high "
    "comparator_pulse trigger_open_time frame_grab_time roi_x roi_y roi_width roi_height "
    "start_byte valve_status"
).split()
_NEW_NAMES = (
    "trigger adc_time pmt_a pmt_b pmt_c pmt_d peak_a peak_b peak_c peak_d time_of_flight "
    "grab_time_start grab_time_end roi_x roi_y roi_width roi_height start_byte comparator_out "
    "start_point signal_length status run_time inhibit_time"
).split()
# What of the .hdr file goes with each particle.
_HEADER = (
    "sampleTime imagerID runType SyringeSampleVolume PMTAhighVoltage PMTBhighVoltage Temp Humidity "
    "BinarizeThresh PMT1hv(ssc) PMT2hv(chl)"
).split()
_ADC_CLOCK = 0.3
_LONGEST_HEADER = 2**20

Found = tuple[Any, dict[str, Any]]


class IfcbReader:
    """Bins of the Imaging FlowCytobot: one, or a folder of them, in the old and the new style.

    PATH is a bin (any of its .adc, .roi and .hdr, or their name without the ending) or a folder
    with bins at any depth. One particle per line of the .adc with an image; several of one trigger
    share their `source`. Old-style images that overlap are not stitched.
    """

    def read(
        self,
        path: Path | str,
        *,
        um_per_px: Annotated[float, Gt(0), "scale of all images, in um"] = 1 / 3.4,
        volume_ml: Annotated[
            float | None, Gt(0), "volume analysed per bin; else computed (new style only)"
        ] = None,
        dilution: Annotated[float, Gt(0), "factor by which the sample was diluted"] = 1.0,
    ) -> Iterator[Found]:
        """Yield (image, row), images uint8 (h, w); what cannot be read yields (reason, row).

        The scale of 3.4 px per um is the default of public tools for this instrument
        (hsosik/ifcb-analysis `micron_factor = 1/3.4`, iRfcb `scale_micron_factor = 1/3.4`); some
        instruments differ (the first also has 1/2.77), so measure beads. The volume is
        0.25 ml/min x (run time - inhibit time) of the last .adc line (H. Sosik,
        IFCB_volume_analyzed_fromADC; new style, without IFCB008), and NaN where these times are
        doubtful or the sample was run fast. Raises SvpkitError where there is no bin, a bin has no
        .adc, or two have one name.
        """
        given = {"um_per_px": um_per_px, "dilution": dilution, "instrument": "IFCB"}
        for bin_ in _bins(Path(path)):
            header = read_header(bin_.header) if bin_.header else {}
            volume = computed_volume(bin_, header) if volume_ml is None else volume_ml
            when = header.get("sampleTime") or bin_.time
            yield from _particles(bin_, header, {**given, "volume_ml": volume, "timestamp": when})

    def sniff(self, path: Path | str) -> bool:
        """Return whether this is a bin, or a folder with one, at most two levels down."""
        path = Path(path)
        if not path.is_dir():
            return bool(_style(path)) and any(_parts_of(path))
        levels = (path.glob(pattern) for pattern in ("*.adc", "*/*.adc", "*/*/*.adc"))
        return any(_style(f) for level in levels for f in level)


@dataclass(frozen=True)
class Bin:
    """One bin: its name, and those of its files that are there."""

    name: str
    adc: Path
    roi: Path | None
    header: Path | None

    @property
    def old(self) -> bool:
        """True for names such as IFCB5_2012_028_081515."""
        return bool(_OLD.fullmatch(self.name))

    @property
    def time(self) -> str:
        """The start in its name, ISO text in UTC; "" where that is no time."""
        text, form = self.name.split("_", 1)[1 if self.old else 0], "D%Y%m%dT%H%M%S"
        try:
            start = datetime.strptime(text, "%Y_%j_%H%M%S" if self.old else form)
        except ValueError:
            return ""
        return start.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def read_header(path: Path) -> dict[str, str]:
    """Return what a .hdr file says, as text: "name: value" lines, or names and values in quotes."""
    try:
        with open_regular(path) as file:
            lines = file.read(_LONGEST_HEADER).decode("latin-1").splitlines()
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None
    found = dict(line.split(":", 1) for line in lines if ":" in line and line[0] != '"')
    last = [line for line in lines if line.startswith('"')][-2:]
    if len(last) == 2 and not found:
        names, values = last[0].strip('" ').split(), next(csv.reader([last[1]]))
        found = dict(zip(names, values, strict=False))
    return {name.strip(): capped(value.strip()) for name, value in found.items()}


def computed_volume(bin_: Bin, header: dict[str, str]) -> float:
    """Return the volume analysed in ml, NaN where it is not certain; see `IfcbReader.read`.

    The times stand in the last line of the .adc, or, where that one is broken, in the line before:
    a good line's run time is within 0.3 s of its ADC time, and its inhibit time below it. The
    .hdr's runTime and inhibitTime come last.
    """
    fast = header.get("runSampleFast", "0").lower() not in ("0", "false", "")
    if bin_.old or fast or bin_.name.endswith("IFCB008"):
        return math.nan
    last = deque(((number(r[1]), number(r[22]), number(r[23])) for r in _full(bin_)), maxlen=2)
    times = [(run, off) for adc, run, off in reversed(last) if abs(run - adc) < _ADC_CLOCK]
    times.append((number(header.get("runTime", "")), number(header.get("inhibitTime", ""))))
    volumes = [ML_PER_MINUTE * (run - off) / 60 for run, off in times if 0 <= off < run]
    most = number(header.get("SyringeSampleVolume", ""))
    # a syringe cannot give more than it took
    return next((v for v in volumes if not v > 1.01 * most), math.nan)


def _full(bin_: Bin) -> Iterator[list[str]]:
    return (row for _, row in cells(bin_.adc, ",") if len(row) >= len(_NEW_NAMES))


def _style(path: Path) -> bool:
    stem = path.stem if path.suffix.lower() in _PARTS else path.name
    return bool(_OLD.fullmatch(stem) or _NEW.fullmatch(stem))


def _parts_of(path: Path) -> list[Path]:
    if not path.parent.is_dir():
        return []
    stem = path.stem if path.suffix.lower() in _PARTS else path.name
    return [f for f in path.parent.glob(f"{stem}.*") if f.suffix.lower() in _PARTS]


def _bins(path: Path) -> list[Bin]:
    """Return the bins in the order of their names."""
    found = path.rglob("*") if path.is_dir() else _parts_of(path)
    files: dict[str, dict[str, Path]] = {}
    known = (f for f in found if f.suffix.lower() in _PARTS and _style(f) and f.is_file())
    for file in sorted(known):
        parts = files.setdefault(file.stem, {})
        if file.suffix.lower() in parts:
            raise SvpkitError(f"{path}: two bins are named {file.stem}: name each once")
        parts[file.suffix.lower()] = file
    if path.is_dir():
        refuse_outside(path, (file for parts in files.values() for file in parts.values()))
    for name, parts in files.items():
        if ".adc" not in parts and (".roi" in parts or not path.is_dir()):
            raise SvpkitError(f"{path}: bin {name} has no .adc file")
    bins = [
        Bin(n, p[".adc"], p.get(".roi"), p.get(".hdr")) for n, p in files.items() if ".adc" in p
    ]
    if not bins:
        names = "DyyyymmddTHHMMSS_IFCBnnn or IFCBn_yyyy_DDD_HHMMSS"
        raise SvpkitError(f"{path}: no IFCB bin here (.adc and .roi named {names})")
    return sorted(bins, key=lambda b: b.name)


def _particles(bin_: Bin, header: dict[str, str], given: dict[str, Any]) -> Iterator[Found]:
    kept = {f"hdr.{name}": header[name] for name in _HEADER if name in header}
    size = bin_.roi.stat().st_size if bin_.roi else 0
    end, none = 0, True
    roi = bin_.roi.open("rb") if bin_.roi else None
    try:
        for line, values in cells(bin_.adc, ","):
            record = _record(values, bin_.old)
            place = _place(record)
            if place and not place[0] * place[1]:
                continue
            known = {
                "source": f"{bin_.name}/{record.get('trigger', '')}",
                "raw": {**record, **kept},
            }
            row = neutral(bin_.name, f"{line:05d}", **given | known)
            image = _image(roi, place, size) if place else _why(values, record, bin_)
            if place and not isinstance(image, str):
                end = max(end, place[0] * place[1] + place[2])
            none = False
            yield image, row
    finally:
        if roi:
            roi.close()
    # old files begin at byte 1 and end one byte late; an empty one has two
    if size - end > (2 if bin_.old else 0):
        reason = f"{size - end} bytes at the end of the .roi are in no image that was read"
        yield reason, neutral(bin_.name, "left", **given)
    elif none:  # its volume counts all the same
        yield None, neutral(bin_.name, "", **given)


def _record(values: list[str], old: bool) -> dict[str, str]:
    names = _OLD_NAMES if old else _NEW_NAMES
    while values and not values[-1]:  # old lines end in a comma
        values.pop()
    more = [f"more_{i}" for i in range(len(values) - len(names))]
    return {n: capped(v) for n, v in zip([*names, *more], values, strict=False)}


def _place(record: dict[str, str]) -> tuple[int, int, int] | None:
    """Return height, width and start byte; None where a line does not say."""
    said = (whole(record.get(n, "")) for n in ("roi_height", "roi_width", "start_byte"))
    height, width, start = said
    if height is None or width is None or start is None:
        return None
    return height, width, start


def _why(values: list[str], record: dict[str, str], bin_: Bin) -> str:
    names = _OLD_NAMES if bin_.old else _NEW_NAMES
    if "start_byte" not in record:
        return f"the line has {len(values)} values, {len(names)} are wanted"
    said = ", ".join(f"{n} {record[n]!r}" for n in ("roi_width", "roi_height", "start_byte"))
    return f"no whole numbers: {said}"


def _image(roi: BinaryIO | None, place: tuple[int, int, int], size: int) -> Any:
    import numpy as np

    height, width, start = place
    if min(height, width, start) < 0:
        return f"{width} x {height} px from byte {start}: below 0"
    if max(height, width) > LONGEST_SIDE or height * width > MOST_PIXELS:
        return f"{width} x {height} px: sides up to {LONGEST_SIDE}, up to {MOST_PIXELS} px are read"
    if roi is None:
        return "the bin has no .roi file"
    if start + height * width > size:
        return f"bytes {start} to {start + height * width} are past the end of the .roi ({size})"
    roi.seek(start)
    return np.frombuffer(roi.read(height * width), np.uint8).reshape(height, width).copy()
