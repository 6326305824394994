"""Contact sheets: the particles of a set to look at, one picture a class."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from svpkit.errors import SvpkitError
from svpkit.particles.particleset import ParticleSet

_PAPER, _INK = (255, 255, 255), (60, 60, 60)
_GAP, _LINE = 6, 13


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str] | None = None,
    *,
    columns: int = 8,
    upscale: int = 2,
) -> Image.Image:
    """Return images uint8 (N, C, H, W) side by side, each `upscale` times as large, as one picture.

    `captions` gives a text an image, cut to its width; its lines stand below each other.
    """
    rows = -(-len(images) // columns)
    height, width = (n * upscale for n in images.shape[2:])
    lines = max((text.count("\n") + 1 for text in captions or ()), default=0)
    cell = (width + _GAP, height + _GAP + lines * _LINE)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, max(1, rows) * cell[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for i, image in enumerate(images):
        left, top = i % columns * cell[0] + _GAP, i // columns * cell[1] + _GAP
        sheet.paste(_picture(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        for k, text in enumerate(captions[i].split("\n") if captions else ()):
            cut = _cut(text, font, width)
            draw.text((left, top + height + k * _LINE), cut, fill=_INK, font=font)
    return sheet


def inspect(
    particles: ParticleSet | Path | str, out: Path, *, per_class: int = 64, upscale: int = 2
) -> pd.DataFrame:
    """Write one contact sheet PNG a class into `out`, and return what each class holds.

    Particles are taken evenly through the set. Columns: class, n, ecd_um_low, ecd_um_high (um, NaN
    where unknown), um_per_px_low, um_per_px_high, origin, sheet (the file). Raises SvpkitError
    where the folder holds no set, and where `out` holds other files than these sheets.
    """
    if not isinstance(particles, ParticleSet):
        particles = ParticleSet.open(particles)
    names = [*particles.classes, *([""] if (particles.labels < 0).any() else [])]
    files = [f"{_safe(name or 'unlabelled')}.png" for name in names]
    _make(out, files)
    rows = []
    for i, (name, file) in enumerate(zip(names, files, strict=True)):
        label = i if name else -1
        members = particles.take(np.flatnonzero(particles.labels == label))
        _sheet_of(members, per_class, upscale).save(out / file)
        rows.append(_summary(name, members) | {"sheet": file})
    return pd.DataFrame(rows)


def _make(out: Path, files: Sequence[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # sheets of two sets in one folder could not be told apart
    if others := sorted(p.name for p in out.iterdir() if p.name not in files):
        raise SvpkitError(f"{out}: holds {others[0]}, no sheet of this set; name a new folder")


def _sheet_of(members: ParticleSet, most: int, upscale: int) -> Image.Image:
    shown = np.unique(np.linspace(0, len(members) - 1, min(most, len(members))).astype(int))
    some = members.take(shown)
    return contact_sheet(some.images(), _captions(some.table), upscale=upscale)


def _captions(table: pd.DataFrame) -> list[str]:
    sizes = [f"{um:.1f} um" if um == um else "" for um in table["ecd_um"]]
    ids = [str(name).rsplit("/", 1)[-1] for name in table["id"]]
    return [f"{name}\n{size}" for name, size in zip(ids, sizes, strict=True)]


def _summary(name: str, members: ParticleSet) -> dict[str, object]:
    table = members.table
    spread = {
        f"{column}_{end}": getattr(table[column], how)() if len(table) else np.nan
        for column in ("ecd_um", "um_per_px")
        for end, how in (("low", "min"), ("high", "max"))
    }
    origin = ", ".join(sorted(set(table["origin"].astype(str))))
    return {"class": name, "n": len(members), **spread, "origin": origin}


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)).convert("RGB")


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[1:]
    return text


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "class"
