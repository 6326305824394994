"""The nearest training images of drawn ones, whatever their turn, place, light and contrast."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svpkit.generate.diffusion import turned
from svpkit.generate.extractor import smooth
from svpkit.particles.describe import background
from svpkit.particles.particleset import batches

RATIO = 1 / 3
BLOCK = 512
# Training images that are looked at more closely, for each drawn one.
CANDIDATES = 5
# How far those are moved, in pixels, and by how much their contrast is changed.
SHIFT = 2
CONTRAST = (0.7, 1.4)
# Nearer than this, in grey levels, is the same image.
SAME = 0.05
# What stands out by less than this share of the most says nothing of where a particle is.
FAINT = 0.25
# Numbers in one array of moved candidates.
AT_ONCE = 2**21


@dataclass(frozen=True)
class Near:
    """The nearest and the next of some images, for each of n others: (n, 2) each.

    `distance` the root mean square difference, in grey levels; `index` positions; `turn` the
    symmetry of the square (`diffusion.turned`) under which the image lies nearest.
    """

    distance: Tensor
    index: Tensor
    turn: Tensor

    @property
    def ratio(self) -> np.ndarray:
        """Distance to the nearest over distance to the next: (n,); 0 for the same image again."""
        near, after = self.distance.double().numpy().T
        return np.divide(near, after, out=np.zeros(len(near)), where=near > SAME)

    def copied(self) -> np.ndarray:
        """Return which of the images pass for copies: bool (n,)."""
        return self.ratio <= RATIO


def nearest(drawn: np.ndarray, train: np.ndarray) -> Near:
    """Return the nearest and next training image of each drawn one; at least two are needed.

    Images uint8 (., C, S, S). The distance is the least over the eight symmetries of the square,
    shifts of up to two pixels from where the crops lie and from where both particles are in the
    middle, and a contrast of the training image of 0.7 to 1.4; between images blurred by one pixel,
    against noise, and without level and slope, as the background's differ from picture to picture
    of one particle. A rim of a sixteenth of the side, two pixels at least, is left out. The shifts
    are tried on the five training images that are nearest without, with particles in the middle
    and again as the crops lie. No array holds more than 8 x 512 x 512 pairs.
    """
    found = [_nearest(drawn[at], train) for at in batches(len(drawn), BLOCK)]
    return Near(*(torch.cat(each) for each in zip(*found, strict=True)))


def nearest_two(drawn: np.ndarray, train: np.ndarray) -> Tensor:
    """Return the distances (N, 2) to the nearest and next training image, in grey levels."""
    return nearest(drawn, train).distance


def prepared(images: np.ndarray, centre: bool, *, whole: bool = False) -> Tensor:
    """Return images blurred by a pixel, less their plane, each particle moved into the middle.

    Images uint8 (N, C, S, S); returns float32. A particle is where the image departs from its
    background. By `whole` pixels the move changes no values; edges are repeated. Without `centre`
    nothing moves.
    """
    x = smooth(torch.from_numpy(images).float() - 127.5)
    x = level(x.flatten(2), x.shape[-1]).view(x.shape)
    if not centre:
        return x
    border = torch.from_numpy(background(x.numpy())).float()
    weight = (x - border[:, :, None, None]).abs().sum(dim=1)
    weight = (weight - FAINT * weight.amax(dim=(1, 2), keepdim=True)).clamp(min=0)
    lines = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    total = weight.sum(dim=(1, 2)).clamp(min=1e-9)
    by = torch.stack([(weight.sum(dim=d) * lines).sum(dim=1) / total for d in (2, 1)])
    most = x.shape[-1] / 4
    by = by.clamp(-most, most)
    return _moved(x, by.round() if whole else by)


def level(x: Tensor, side: int) -> Tensor:
    """Return images (..., side * side) less the plane that fits each best."""
    slope = torch.linspace(-1, 1, side, dtype=x.dtype).expand(side, side)
    plane = torch.stack([torch.ones_like(slope), slope, slope.T]).flatten(1)
    plane = plane / plane.norm(dim=1, keepdim=True)
    return x - (x @ plane.T) @ plane


def _moved(x: Tensor, by: Tensor) -> Tensor:
    # by (2, N) pixels down and right in what is looked at
    side = x.shape[-1]
    lines = torch.linspace(-1, 1, side)
    rows, columns = lines + by[:, :, None] * 2 / (side - 1)
    grid = torch.stack(
        [columns[:, None].expand(-1, side, -1), rows[:, :, None].expand(-1, -1, side)], dim=-1
    )
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def _rim(side: int) -> int:
    return max(SHIFT, round(side / 16))


def _flat(windows: Tensor) -> Tensor:
    # (..., C, w, w) to (..., C * w * w), each channel level
    return level(windows.flatten(-2), windows.shape[-1]).flatten(-2)


def _nearest(some: np.ndarray, train: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    found = []
    for centre in (True, False):
        near = _candidates(some, train, centre)
        step = max(1, AT_ONCE // (near.shape[1] * (2 * SHIFT + 1) ** 2 * some[0].size))
        each = [
            _refined(some[k : k + step], train, near[k : k + step], centre)
            for k in range(0, len(near), step)
        ]
        found.append([near, *(torch.cat(x) for x in zip(*each, strict=True))])
    index, distance, turn = (torch.cat(x, dim=1) for x in zip(*found, strict=True))
    first = distance.argmin(dim=1, keepdim=True)
    # the next is another image, which either way of laying them may have found
    others = distance.masked_fill(index == index.gather(1, first), torch.inf)
    keep = torch.cat([first, others.argmin(dim=1, keepdim=True)], dim=1)
    return distance.gather(1, keep), index.gather(1, keep), turn.gather(1, keep)


def _candidates(some: np.ndarray, train: np.ndarray, centre: bool) -> Tensor:
    # positions (n, 5) of the nearest without further shifts
    rim = _rim(some.shape[-1])
    inside = (..., slice(rim, -rim), slice(rim, -rim))
    x = prepared(some, centre)[inside]
    views = [_flat(turned(x, g)) for g in range(8)]
    best, index = torch.empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64)
    for at in batches(len(train), BLOCK):
        others = _flat(prepared(train[at], centre)[inside])
        distance = torch.stack([_squared(v, others) for v in views]).amin(dim=0)
        here = torch.arange(at.start, at.stop).expand(len(x), -1)
        best, index = torch.cat([best, distance], dim=1), torch.cat([index, here], dim=1)
        best, keep = best.topk(min(CANDIDATES, best.shape[1]), dim=1, largest=False)
        index = index.gather(1, keep)
    return index


def _refined(
    some: np.ndarray, train: np.ndarray, near: Tensor, centre: bool
) -> tuple[Tensor, Tensor]:
    # distance and symmetry (n, 5) of the candidates, each moved to where it lies best
    rim, side = _rim(some.shape[-1]), some.shape[-1]
    width, out = side - 2 * rim, rim - SHIFT
    x = prepared(some, centre, whole=True).double()[..., rim:-rim, rim:-rim]
    views = torch.stack([_flat(turned(x, g)) for g in range(8)], dim=1)
    others = prepared(train[near.flatten().numpy()], centre, whole=True).double()
    others = others[..., out : side - out, out : side - out]
    windows = others.unfold(2, width, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    moved = _flat(windows).reshape(len(x), -1, views.shape[-1])
    distance = _squared(views, moved).view(len(x), 8, near.shape[1], -1).amin(dim=3)
    distance, turn = distance.min(dim=1)
    return (distance / views.shape[-1]).sqrt().float(), turn


def _squared(a: Tensor, b: Tensor) -> Tensor:
    # of rows of a and rows of b, these at the contrast that suits best
    here, there = a.square().sum(dim=-1)[..., None], b.square().sum(dim=-1)[..., None, :]
    shared = a @ b.mT
    much = (shared / there.clamp(min=1e-9)).clamp(*CONTRAST)
    return (here - 2 * much * shared + much.square() * there).clamp(min=0)
