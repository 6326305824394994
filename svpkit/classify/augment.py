"""Flips, quarter turns, shifts and brightness of a whole batch on the device, from its seeds."""

import torch
from torch import Tensor

from svpkit import draws


def pixel_map(
    images: Tensor, seeds: Tensor, flips: bool | str, turns: bool, shift: int, fill: str
) -> Tensor:
    """Return images (B, C, S, S) flipped, turned and shifted by up to `shift` pixels.

    One gather moves every pixel, so that grey values stay as they are. With both `flips` and
    `turns` the eight orientations are equally likely; `flips` "horizontal" mirrors left and right
    alone. `fill` says what a shift brings into view: "background" (the median of the image's
    border), "reflect", or "black" (-1).
    """
    side, chance = images.shape[-1], draws.uniform(seeds, (5,), "augment")
    swap, flip_y, flip_x = _orientation(chance[:, :3], flips, turns)
    rows, rows_out = _shifted(chance[:, 3:4], side, shift, fill)
    columns, columns_out = _shifted(chance[:, 4:], side, shift, fill)
    from_rows = torch.where(swap, _flip(rows, flip_x), side * _flip(rows, flip_y))
    from_columns = torch.where(swap, side * _flip(columns, flip_y), _flip(columns, flip_x))
    index = (from_rows[:, :, None] + from_columns[:, None, :]).flatten(1)
    moved = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1))
    moved = moved.view_as(images)
    if fill != "reflect" and shift:
        out = rows_out[:, :, None] | columns_out[:, None, :]
        black = fill == "black"
        behind = images.new_tensor(-1.0) if black else background(images)[:, :, None, None]
        moved = torch.where(out[:, None], behind, moved)
    return moved


def shift_brightness(images: Tensor, seeds: Tensor, most: float) -> Tensor:
    """Return images in [-1, 1] (B, C, S, S), each raised or lowered by up to `most`, clipped."""
    by = (2 * draws.uniform(seeds, (1, 1, 1), "augment.brightness") - 1) * most
    return (images + by).clamp(-1, 1)


def background(images: Tensor) -> Tensor:
    """Return the median of the border of images (B, C, S, S) by channel: (B, C)."""
    border = [images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]]
    return torch.cat(border, dim=-1).median(dim=-1).values


def _orientation(chance: Tensor, flips: bool | str, turns: bool) -> tuple[Tensor, Tensor, Tensor]:
    # a quarter turn swaps the axes and flips one of them: three booleans (B, 1)
    quarter = (4 * chance[:, :1]).long() * int(turns)
    mirror = (chance[:, 1:] < 0.5) & bool(flips)
    flip_y = (quarter >= 2) ^ (mirror[:, :1] & (flips != "horizontal"))
    flip_x = ((quarter == 1) | (quarter == 2)) ^ mirror[:, 1:]
    return quarter % 2 == 1, flip_y, flip_x


def _shifted(chance: Tensor, side: int, shift: int, fill: str) -> tuple[Tensor, Tensor]:
    # where each line comes from (B, S), inside the image, and whether it came from outside
    by = ((2 * shift + 1) * chance).long() - shift
    lines = torch.arange(side, device=chance.device)[None] + by
    out = (lines < 0) | (lines >= side)
    if fill == "reflect":
        lines = lines.abs()
        lines = torch.where(lines >= side, 2 * (side - 1) - lines, lines)
    return lines.clamp(0, side - 1), out


def _flip(lines: Tensor, flip: Tensor) -> Tensor:
    last = lines.shape[1] - 1
    return torch.where(flip, last - lines, lines)
