"""Generators without a network: copies, white noise, and a Gaussian in principal components."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from svpkit import draws
from svpkit.fit import to_float
from svpkit.generate.diffusion import spaced, turn, turned
from svpkit.particles.describe import background
from svpkit.particles.particleset import ParticleSet, batches

BLOCK = 512
# The side of the largest matrix whose eigenvectors are sought: 20 seconds on one core.
LARGEST = 4096
# Images of a class that components are fitted to, at most.
LOOK_AT = 4096


class Copy:
    """Training images again, uint8, in class order; with `turns` under any of eight symmetries.

    `shift` is the largest shift in pixels; what it brings into view is the image's background.
    """

    def __init__(self, *, turns: bool = False, shift: int = 0) -> None:
        self.turns, self.shift = turns, shift

    def fit(self, particles: ParticleSet, seed: int) -> None:
        """Remember the images of each class."""
        sets = [particles.of(name).images() for name in particles.classes]
        self.images = torch.from_numpy(np.concatenate(sets))
        self.counts = torch.tensor([len(images) for images in sets])

    def sample(self, labels: Tensor, seeds: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1]: each a training image that its seed chooses."""
        first = self.counts.cumsum(0) - self.counts
        which = draws.integers(seeds, (), 2**62, "copy") % self.counts[labels]
        images = self.images[first[labels] + which]
        if self.turns:
            images = turn(images, draws.integers(seeds, (), 8, "copy turn"))
        if self.shift:
            by = draws.integers(seeds, (2,), 2 * self.shift + 1, "copy shift") - self.shift
            images = shifted(images, by)
        return to_float(images)

    def state(self) -> dict[str, np.ndarray]:
        """Return `images` uint8 (N, C, H, W), in class order, and `counts` int64 (K,)."""
        return {"images": self.images.numpy(), "counts": self.counts.numpy()}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned."""
        self.images, self.counts = (torch.as_tensor(arrays[k]) for k in ("images", "counts"))


class Noise:
    """White noise of each class's mean and sd by channel, over all its pixels."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def fit(self, particles: ParticleSet, seed: int) -> None:
        """Measure mean and sd of each class, (K, C)."""
        found = [_moments(particles.of(name)) for name in particles.classes]
        self.mean, self.sd = (torch.stack(each).float() for each in zip(*found, strict=True))

    def sample(self, labels: Tensor, seeds: Tensor) -> Tensor:
        """Return images (B, C, H, W), clipped to [-1, 1]."""
        noise = draws.normal(seeds, self.shape, "noise")
        mean, sd = (x[labels][:, :, None, None] for x in (self.mean, self.sd))
        return (mean + sd * noise).clamp(-1, 1)

    def state(self) -> dict[str, np.ndarray]:
        """Return `mean` and `sd`, float32 (K, C)."""
        return {"mean": self.mean.numpy(), "sd": self.sd.numpy()}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned."""
        self.mean, self.sd = (torch.as_tensor(arrays[k]) for k in ("mean", "sd"))


class GaussianPCA:
    """One Gaussian a class: its mean, leading principal components, and white noise for the rest.

    Probabilistic PCA (Tipping & Bishop 1999, eqs. 7 and 8): the fewest components that hold
    `variance` of the sum of all variances. With `augment` each image counts under the eight
    symmetries of the square.
    """

    def __init__(self, shape: tuple[int, int, int], variance: float, augment: bool) -> None:
        self.shape, self.variance, self.augment = shape, variance, augment
        self.arrays: dict[str, Tensor] = {}

    def fit(self, particles: ParticleSet, seed: int) -> None:
        """Fit each class to at most 4096 of its images, evenly spaced.

        Where neither the images' views nor the pixels are below 4096, so many views.
        """
        turns = 8 if self.augment else 1
        most = LOOK_AT if np.prod(self.shape) <= LARGEST else LARGEST // turns
        for k, name in enumerate(particles.classes):
            own = particles.of(name)
            x = to_float(torch.from_numpy(own.images(spaced(len(own), most)))).double()
            mean = torch.stack([turned(x.mean(dim=0), g) for g in range(turns)]).mean(dim=0)
            values, vectors, total = principal(x - mean, turns, self.variance)
            # what the components leave, spread over the directions that they leave
            rest = (total - values.sum()).clamp(min=0) / max(mean.numel() - len(values), 1)
            sds = (values - rest).clamp(min=0).sqrt()
            found = {"mean": mean, "components": vectors.T, "sds": sds, "residual": rest.sqrt()}
            self.arrays |= {f"{part}.{k}": value.float() for part, value in found.items()}

    def sample(self, labels: Tensor, seeds: Tensor) -> Tensor:
        """Return images (B, C, H, W), clipped to [-1, 1]."""
        # in double precision, so that the order of sums in another batch size is not seen
        images = draws.normal(seeds, self.shape, "residual").double()
        for k in labels.unique().tolist():
            mine = labels == k
            mean, components, sds, residual = (
                self.arrays[f"{part}.{k}"].double()
                for part in ("mean", "components", "sds", "residual")
            )
            z = draws.normal(seeds[mine], (len(sds),), "components").double() * sds
            images[mine] = mean + (z @ components).view(-1, *self.shape) + residual * images[mine]
        return images.float().clamp(-1, 1)

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of each class k, float32.

        mean.k (C, H, W), components.k (n, C * H * W), sds.k (n,) and residual.k ().
        """
        return {name: value.numpy() for name, value in self.arrays.items()}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned."""
        self.arrays = {name: torch.as_tensor(value) for name, value in arrays.items()}


def shifted(images: Tensor, by: Tensor) -> Tensor:
    """Return uint8 images (B, C, S, S) moved by int64 (B, 2) pixels up and left.

    What comes into view is the median of the image's border, by channel.
    """
    lines = torch.arange(images.shape[-1])
    rows, columns = (lines + by[:, axis, None] for axis in (0, 1))
    (rows, rows_out), (columns, columns_out) = _inside(rows), _inside(columns)
    each = torch.arange(len(images))[:, None, None]
    moved = images[each, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    level = torch.from_numpy(np.rint(background(images.numpy()))).to(torch.uint8)
    out = rows_out[:, None, :, None] | columns_out[:, None, None, :]
    return torch.where(out, level[:, :, None, None], moved)


def principal(x: Tensor, turns: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading variances (n,), their directions (p, n) and the sum of all variances.

    `x` holds centred images (N, C, S, S), each under `turns` symmetries of the square; the fewest
    directions that hold `share` of the sum are returned. Variances are those of N - 1 degrees of
    freedom. The matrix decomposed is the smaller of views x views and pixels x pixels.
    """
    pixels, freedom = x[0].numel(), turns * max(len(x) - 1, 1)
    if turns * len(x) <= pixels:
        views = torch.cat([turned(x, g) for g in range(turns)]).flatten(1)
        value, vector = torch.linalg.eigh(views @ views.T / freedom)
        vector = views.T @ vector * torch.rsqrt(freedom * value.clamp(min=1e-12))
    else:
        flat = x.flatten(1)
        value, vector = torch.linalg.eigh(_every_turn(flat.T @ flat, x[0].shape, turns) / freedom)
    value, vector = value.flip(0).clamp(min=0), vector.flip(1)
    held, total = value.cumsum(0), value.sum()
    n = int((held < share * total * (1 - 1e-9)).sum()) + 1 if total > 0 else 0
    return value[:n], vector[:, :n], total


def _every_turn(scatter: Tensor, shape: torch.Size, turns: int) -> Tensor:
    # the views of images have the images' scatter (p, p) with its pixels moved
    place = torch.arange(scatter.shape[0]).view(shape)
    found = torch.zeros_like(scatter)
    for at in (turned(place, g).flatten() for g in range(turns)):
        found += scatter[at][:, at]
    return found


def _inside(lines: Tensor) -> tuple[Tensor, Tensor]:
    last = lines.shape[-1] - 1
    return lines.clamp(0, last), (lines < 0) | (lines > last)


def _moments(own: ParticleSet) -> tuple[Tensor, Tensor]:
    # mean and sd (C,) of every pixel of a channel, image by image so that memory stays flat
    total = torch.zeros(2, own.shape[0], dtype=torch.float64)
    for at in batches(len(own), BLOCK):
        x = to_float(torch.from_numpy(own.images(at))).double()
        total += torch.stack([x.sum(dim=(0, 2, 3)), x.square().sum(dim=(0, 2, 3))])
    mean, square = total / (len(own) * own.shape[1] * own.shape[2])
    return mean, (square - mean.square()).clamp(min=0).sqrt()
