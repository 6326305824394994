"""Runs into particles: objects in order, each with its picture, scale, features and label."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svpkit import SvpkitError

from svpkit_imagestream.exports import Run, runs_of
from svpkit_imagestream.features import diameter
from svpkit_imagestream.pictures import DARK, SEEN, background_of, greys, picture

Found = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """What a recipe asks of the reader."""

    channel: int = 1
    um_per_px: float | None = None
    background: float | None = None
    features: str | None = None
    label_column: str | None = None
    volume_ml: float | None = None
    dilution: float = 1.0


def read(root: Path, asked: Options) -> Iterator[Found]:
    """Yield the particles of an export, one picture in memory at a time."""
    for run in runs_of(root, asked.channel, asked.features):
        if asked.label_column and not run.features:
            raise SvpkitError(f"{run.folder}: options.label_column: run '{run.name}' has no table")
        yield from _particles(root, run, asked)


def _particles(root: Path, run: Run, asked: Options) -> Iterator[Found]:
    level = asked.background or _background(root, run, asked.channel)
    table = None if math.isnan(level) else greys(level)
    for number in sorted(run.objects):
        row = _row(run, number, asked) | {"background_level": level}
        found = _picture(root, run, number, asked.channel)
        if isinstance(found, str):
            yield found, row
            continue
        assert table is not None  # this picture was tried for the background
        levels, scale = found
        yield table[levels], row | {"um_per_px": asked.um_per_px or scale}


def _background(root: Path, run: Run, channel: int) -> float:
    """Return the level of the run's background, from objects spread over the run."""
    numbers = sorted(run.files)
    step = -(-len(numbers) // SEEN) or 1
    spread = [number for first in range(step) for number in numbers[first::step]]
    level = background_of(picture(root, run.folder / run.files[number]) for number in spread)
    if level < DARK:
        raise SvpkitError(
            f"{run.folder}: Ch{channel} of run '{run.name}' has its background at level {level:g}, "
            "no brightfield: options.background says which level becomes grey 160"
        )
    return level


def _picture(root: Path, run: Run, number: int, channel: int) -> Any:
    if number not in run.files:
        return f"object {number} has no image of Ch{channel}"
    if number in run.double:
        return f"object {number} has two: {run.files[number]} and {run.double[number]}"
    return picture(root, run.folder / run.files[number])


def _row(run: Run, number: int, asked: Options) -> dict[str, Any]:
    raw = run.features.row(number) if run.features else {}
    label, note = "", ""
    if raw is None:
        assert run.features
        note, raw = f"no line in {run.features.path.name}", dict.fromkeys(run.features.names, "")
    if run.features and asked.label_column:
        label = raw[run.features.column(asked.label_column)]
    return {
        "id": f"{run.name}/{number}",
        "particle_id": str(number),
        "run": run.name,
        "group": run.name,
        "source": f"{run.name}/{number}",  # no frame holds two objects
        "file": run.files.get(number, ""),
        "label": label,
        "timestamp": "",
        "instrument": "ImageStream",
        "um_per_px": asked.um_per_px or math.nan,
        "ecd_um": diameter(raw, asked.channel),
        "volume_ml": asked.volume_ml or math.nan,
        "dilution": asked.dilution,
        "note": note,
        "raw": raw,
    }
