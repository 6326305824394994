"""What stands beside the particles of a FlowCam run: settings, summaries, classes, outlines."""

import re
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from configparser import Error as IniError
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.readers.flowcam_tables import decoded
from svpkit.safe import read_bytes

# Steps of the 8-neighbour chain, 1 = east and on against the clock, y downwards.
_STEPS = np.array(
    [(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)], dtype=np.int64
)
_MOST_BYTES = 256 * 2**20
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[T ]+(\d\d:\d\d:\d\d(?:\.\d+)?)")


def settings(path: Path) -> dict[str, Any]:
    """Return what a .ctx, run_summary.txt or summary.csv says of its run.

    Any of `started` (ISO text; local time in the summaries, UTC in a .ctx), `magnification`
    ("10X"), `um_per_px`, `volume_ml` (the volume imaged), `particle_count`; only what is there.
    """
    text = _text(path)
    if path.suffix.lower() == ".ctx":
        return _context(path, text)
    parting = "," if path.suffix.lower() == ".csv" else ":"
    pairs = (line.partition(parting) for line in text.splitlines())
    said = {key.strip(): value.strip() for key, _, value in reversed(list(pairs))}
    volume = said.get("Fluid Volume Imaged") or said.get("Sample Volume Imaged ml")
    found = {
        "started": iso(said.get("Start") or said.get("Start Time") or ""),
        "magnification": said.get("Magnification", ""),
        "um_per_px": _amount(said.get("Calibration Factor"), ""),
        "volume_ml": _amount(volume, "ml"),
        "particle_count": _amount(said.get("Particle Count") or said.get("Count"), ""),
    }
    if found["particle_count"] is not None:
        found["particle_count"] = int(found["particle_count"])
    return {name: value for name, value in found.items() if value not in (None, "")}


def _context(path: Path, text: str) -> dict[str, Any]:
    ini = ConfigParser(interpolation=None, strict=False)
    try:
        ini.read_string(text)
    except IniError as error:
        raise SvpkitError(f"{path}: not a .ctx: {' '.join(str(error).split())}") from None
    power = ini.get("Software", "CameraMagnification", fallback="").strip()
    found = {
        "started": iso(ini.get("General", "RunStartTime", fallback="")),
        "magnification": f"{power}X" if power else "",
        "um_per_px": _amount(ini.get("Fluid", "CalibrationConstant", fallback=None), ""),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def iso(text: str) -> str:
    """Return a date and time as ISO text; "" where there is none."""
    found = _DATE.search(text)
    return f"{found[1]}T{found[2]}" if found else ""


def _amount(text: str | None, unit: str) -> float | None:
    found = re.fullmatch(rf"([\d.]+(?:e[+-]?\d+)?)\s*(?:{unit})?", (text or "").strip(), re.I)
    try:
        value = float(found[1]) if found else 0.0
    except ValueError:
        return None
    return value if value > 0 else None


def _text(path: Path) -> str:
    try:
        raw = read_bytes(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    return decoded(raw)


def classes(path: Path) -> dict[int, str]:
    """Return the instrument's own class of each particle id, from a .cla of version v3.

    Particles in no class are not there. Of several templates the first is read. Raises SvpkitError
    for another version, a file that ends early or counts wrongly, and an id named twice.
    """
    lines = iter(_text(path).split("\n"))
    lines = (line.strip() for line in lines)
    try:
        version = next(lines)
        if version != "v3":
            raise SvpkitError(f"{path}: version '{version[:40]}'; v3 is read")
        if not _count(path, next(lines)):
            return {}
        next(lines)  # the template's name
        return _members(path, lines, _count(path, next(lines)))
    except StopIteration:
        raise SvpkitError(f"{path}: ends early; its counts promise more lines") from None


def _members(path: Path, lines: Iterator[str], n: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for _ in range(n):
        name, _rule = next(lines), next(lines)
        for _ in range(_count(path, next(lines))):
            next(lines)  # a filter's file
        for _ in range(_count(path, next(lines))):
            particle = _count(path, next(lines))
            if particle in found:
                both = f"'{found[particle]}' and '{name}'"
                raise SvpkitError(f"{path}: particle {particle} is named twice, in {both}")
            found[particle] = name
    return found


def _count(path: Path, text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise SvpkitError(f"{path}: '{text[:40]}' stands where a whole number is wanted")
    return int(text)


def check_classes(path: Path, found: dict[int, str], ids: Iterable[int]) -> None:
    """Raise SvpkitError where a .cla names particles that the list has not.

    That happens when a run was filtered after it was classified: its ids are then others. Where
    all of them still exist in the run, it cannot be seen.
    """
    known = {int(i) for i in ids}
    lost = [i for i in found if i not in known]
    if lost:
        raise SvpkitError(
            f"{path}: stale: {len(lost)} of its {len(found)} ids are not in the run (the first "
            f"{lost[0]}, the largest {max(lost)}; the run has {len(known)} particles)"
        )


def outlines(path: Path) -> dict[int, list[np.ndarray]]:
    """Return the outlines of each particle id, from an .edg file.

    Each is int64 (n + 1, 2): x and y in the camera's frame, in px, of the n border pixels in
    order; closed, so that the last is the first again. Raises SvpkitError for a line that is no
    outline.
    """
    found: dict[int, list[np.ndarray]] = {}
    for i, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            particle, points = _outline(line, f"{path}: line {i}")
            found.setdefault(particle, []).append(points)
    return found


def _outline(line: str, where: str) -> tuple[int, np.ndarray]:
    match = re.fullmatch(r"\s*(\d+),(\d+),(-?\d+),(-?\d+),([1-8]*)\s*", line)
    if not match:
        raise SvpkitError(f"{where}: '{line[:40]}'; 'id,n,x,y,digits 1 to 8' is wanted")
    particle, n, x, y = (int(match[i]) for i in range(1, 5))
    if n != len(match[5]):
        raise SvpkitError(f"{where}: {len(match[5])} links, it says {n}")
    links = np.frombuffer(match[5].encode(), np.uint8) - ord("1")
    steps = np.vstack([[(x, y)], _STEPS[links]])
    return particle, np.cumsum(steps, axis=0)
