"""A one-file plugin: a sound toy of three kinds, small enough to be read at a glance."""

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import nn
from torch.nn.functional import avg_pool2d

from svpkit import draws, hookimpl
from svpkit.fit import to_float

REACH = 20.0  # so that fifty small steps reach any grey


class Means(nn.Module):
    """A generator: the mean image of a class, and white noise."""

    def __init__(self, spec):
        super().__init__()
        self.shape = (spec.channels, spec.size, spec.size)
        self.mean = nn.Parameter(torch.zeros(len(spec.classes), *self.shape))
        self.shift = nn.Parameter(0.001 * torch.randn(1))

    def forward(self, images, labels, seeds, *, part="main"):
        noise = 0.1 * draws.normal(seeds, self.shape, "loss")
        return (REACH * self.mean[labels] + self.shift - images + noise).square().mean()

    def sample(self, labels, seeds, *, noise: Annotated[float, Ge(0), "sd of the noise"] = 0.1):
        white = draws.normal(seeds, self.shape, "noise")
        return (REACH * self.mean[labels] + self.shift + noise * white).clamp(-1, 1)


class Kept:
    """A generator that is no module: training images again."""

    def fit(self, particles, seed):
        """Keep the first images of each class."""
        sets = [particles.of(name).images(slice(0, 8)) for name in particles.classes]
        self.images = np.stack(sets)

    def sample(self, labels, seeds):
        """Return one of them for each label."""
        which = draws.integers(seeds, (), 8, "which")
        return to_float(torch.from_numpy(self.images)[labels, which])

    def state(self):
        """Return the images."""
        return {"images": self.images}

    def load_state(self, arrays):
        """Take them back."""
        self.images = arrays["images"]


class Linear(nn.Module):
    """A classifier: one linear layer on a coarse image."""

    def __init__(self, spec):
        super().__init__()
        self.head = nn.Linear(spec.channels * (spec.size // 2) ** 2, len(spec.classes))

    def features(self, images):
        return avg_pool2d(images, 2).flatten(1)

    def forward(self, images):
        return self.head(self.features(images))


class Nearest:
    """A classifier that is no module: the nearest mean image."""

    def fit(self, particles, seed):
        """Take the mean image of each class."""
        sets = [particles.of(name).images() for name in particles.classes]
        self.means = np.stack([images.mean(axis=0) for images in sets]).astype(np.float32)

    def predict_proba(self, images):
        """Return a softmax of the distances."""
        apart = np.square(images[:, None].astype(float) - self.means).mean(axis=(2, 3, 4))
        each = np.exp(-(apart - apart.min(axis=1, keepdims=True)) / 1000)
        return each / each.sum(axis=1, keepdims=True)

    def state(self):
        """Return the means."""
        return {"means": self.means}

    def load_state(self, arrays):
        """Take them back."""
        self.means = arrays["means"]


class Coarse(nn.Module):
    """An extractor: a coarse image, mixed at random."""

    def __init__(self, spec):
        super().__init__()
        mixed = torch.randn(spec.channels * (spec.size // 4) ** 2, 8)
        self.register_buffer("mixed", mixed)

    def features(self, images):
        return avg_pool2d(images, 4).flatten(1) @ self.mixed


class Hashed(Kept):
    """Python hashes text otherwise in every process."""

    def sample(self, labels, seeds):
        """Return other images in another process."""
        return super().sample(labels, seeds + hash("particle"))


class Ranked(Means):
    """Each process adds a noise of its own."""

    def forward(self, images, labels, seeds, *, part="main"):
        place = torch.arange(len(seeds))
        return super().forward(images, labels, draws.seeds(0, "place", index=place), part=part)


class RankedLinear(Linear):
    """Each process shuns the first images of its share."""

    def forward(self, images):
        logits = super().forward(images)
        weights = torch.arange(len(images))[:, None] / len(images)
        return logits * weights if self.training else logits


def means(spec):
    """Mean images."""
    return Means(spec)


def kept(spec):
    """Training images again."""
    return Kept()


def linear(spec):
    """A linear layer."""
    return Linear(spec)


def nearest(spec):
    """The nearest mean."""
    return Nearest()


def coarse(spec):
    """A coarse image."""
    return Coarse(spec)


def hashed(spec):
    """Depends on hash()."""
    return Hashed()


def ranked(spec):
    """Depends on a sample's place."""
    return Ranked(spec)


def ranked_linear(spec):
    """Depends on a sample's place."""
    return RankedLinear(spec)


GENERATORS = {"toy_means": means, "toy_kept": kept, "toy_hashed": hashed, "toy_ranked": ranked}
CLASSIFIERS = {"toy_linear": linear, "toy_nearest": nearest, "toy_ranked": ranked_linear}


@hookimpl
def register_generators(register):
    for name, factory in GENERATORS.items():
        register(name, factory)


@hookimpl
def register_classifiers(register):
    for name, factory in CLASSIFIERS.items():
        register(name, factory)


@hookimpl
def register_extractors(register):
    register("toy_coarse", coarse)
