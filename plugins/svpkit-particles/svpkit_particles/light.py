"""What bodies scatter: thin objects on the grid of the host's optics, a few images at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svpkit_particles.bodies import Body

Array = NDArray[Any]

LAYER_UM = 2.0  # from one layer to the next: less than the depth of focus, 5 um and more
FINE = 2  # samples along each side of a grid cell
TOGETHER = 6  # bodies whose layers are held at a time: about 15 MB


def scatter(bodies: Sequence[Body], optics: Any) -> tuple[Array, Array]:
    """Return what bodies scatter, spectra (n, J, K, K) complex64, and their shadows (n,) um^2.

    The shadow is the projected area inside the period of the optics.
    """
    spectra, shadows = [], []
    for first in range(0, len(bodies), TOGETHER):
        some = [layers(body, optics) for body in bodies[first : first + TOGETHER]]
        even, odd, areas = zip(*some, strict=True)
        answer = optics.slices(_level(even), 2 * LAYER_UM)
        beside = _level(odd)
        if beside.shape[1]:
            answer += optics.slices(beside, 2 * LAYER_UM)
        spectra.append(answer)
        shadows.extend(areas)
    return np.concatenate(spectra), np.array(shadows)


def layers(body: Body, optics: Any, fine: int = FINE) -> tuple[Array, Array, float]:
    """Return a body as thin layers, even and odd (S, W, W) complex64, and its shadow in um^2.

    Layer l lies at the height l `LAYER_UM`. Each line along the light keeps its whole change,
    exp(2 pi i / wavelength (index - medium) path) - 1, at the middle of its path, shared by the
    two layers around that height: one layer for what lies flat, more for what is tilted. A body
    that the light enters once so bends it once, which is closer to the exact field than slabs
    through the body are. The change is averaged over each cell of the grid: where the phase turns
    within a cell, as at steep edges, the light is bent beyond the pupil, and the mean is small.
    """
    axis = optics.object_axis
    step = axis[1] - axis[0]
    part = (np.arange(fine) - (fine - 1) / 2) * (step / fine)
    rows, columns = _touched(body, axis)
    x = axis[columns][:, None, None] + part
    y = axis[rows][:, None, None] + part[:, None]
    low, high = body.surfaces(*np.broadcast_arrays(x, y))
    hit = high > low
    fade = _fade(axis, optics)
    path = np.where(hit, high - low, 0) * (fade[rows] * fade[columns])[:, None, None]
    contrast = body.index - optics.instrument.medium_index
    wave = np.complex64(2j * np.pi / optics.instrument.wavelength_um * contrast)
    changed = np.exp(wave * path.astype(np.float32)) - 1
    middle = np.where(path > 0, low + high, 0).astype(np.float32) / np.float32(2 * LAYER_UM)
    stacks = []
    for heights in _heights(float(np.abs(middle).max(initial=0))):
        stack = np.ones((len(heights), len(axis), len(axis)), np.complex64)
        for height, plane in zip(heights, stack, strict=True):
            share = np.maximum(1 - np.abs(middle - np.float32(height)), 0)
            plane[rows, columns] += (share * changed).mean((1, 2))
        stacks.append(stack)
    return stacks[0], stacks[1], float(hit.sum()) * (step / fine) ** 2


def _heights(reach: float) -> tuple[range, range]:
    """Return the even and the odd layers that share in heights up to `reach` from the middle.

    Two sets, since light that one call's layer has changed is changed by the next one as well.
    """
    even, odd = int(np.ceil((reach + 1) / 2)) - 1, int(np.ceil(reach / 2))
    return range(-2 * even, 2 * even + 1, 2), range(1 - 2 * odd, 2 * odd, 2)


def _touched(body: Body, axis: Array) -> tuple[Array, Array]:
    """Return rows and columns of the cells under the body, and of those beside them."""
    x, y = np.broadcast_arrays(axis, axis[:, None])
    low, high = body.surfaces(x, y)
    core = np.pad(high > low, 2)
    wide = core[2:-2, 2:-2].copy()
    for shift in (0, 1, 3, 4):
        stop = shift - 4 or None
        wide |= core[shift:stop, 2:-2] | core[2:-2, shift:stop]
    rows, columns = np.nonzero(wide)
    return rows, columns


def _fade(axis: Array, optics: Any) -> Array:
    """Return a factor (W,) that thins bodies out between the crop and the end of the period.

    What leaves the crop would else end in a wall where the period ends.
    """
    start = optics.field_um / 2 + optics.um_per_px
    share = (np.abs(axis) - start) / (optics.period_um / 2 - start)
    return np.cos(np.pi / 2 * np.clip(share, 0, 1)) ** 2


def _level(stacks: Sequence[Array]) -> Array:
    """Return stacks (n, S, W, W) of one height: empty layers around the lower ones."""
    most = max(len(stack) for stack in stacks)
    level = np.ones((len(stacks), most, *stacks[0].shape[1:]), np.complex64)
    for place, stack in zip(level, stacks, strict=True):
        start = (most - len(stack)) // 2
        place[start : start + len(stack)] = stack
    return level
