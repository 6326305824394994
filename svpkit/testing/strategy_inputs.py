"""What strategies are tried on: toy particles, batches, features, priors, all of one seed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from svpkit import draws
from svpkit.classify.context import Context, Priors
from svpkit.classify.second import Head, Seen
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.testing.subject import Failed, NotAsked, Subject
from svpkit.testing.toys import particles

COUNTS = (24, 9, 5)
# What a strategy may have, with how many arguments the host gives it.
VERBS = {
    "draws": 1,
    "particles": 2,
    "sampler": 1,
    "factors": 1,
    "augment": 3,
    "mix": 1,
    "loss": 1,
    "second_stage": 3,
    "adjust": 2,
}
FEATURES = 8


def verb(subject: Subject, name: str) -> Any:
    """Return a method of a new strategy, None where it has none of that name."""
    method = getattr(subject.use(), name, None)
    return method if callable(method) else None


def method(subject: Subject, name: str) -> Any:
    """Return a method of a new strategy; raises NotAsked where it has none of that name."""
    found = verb(subject, name)
    if found is None:
        raise NotAsked(f"it has no {name}")
    return found


def counts(subject: Subject, *n: float) -> dict[str, Any]:
    """Return so many particles a class of the toy, in class order."""
    return dict(zip(subject.spec.classes, n or COUNTS, strict=True))


def train(subject: Subject, *n: int) -> ParticleSet:
    """Return toy particles to train on."""
    return particles(counts(subject, *n), subject.seed, subject.spec)


def drawn(subject: Subject, wanted: dict[str, int]) -> ParticleSet:
    """Return particles as a generator hands them over: synthetic, each with its lineage."""
    made = particles(wanted, subject.seed + 1, subject.spec)
    ids = [f"drawn-{i:06d}" for i in range(len(made))]
    lineage = [f'{{"model": "toy", "i": {i}}}' for i in range(len(made))]
    labels = list(made.table["label"])
    more = {"id": ids, "origin": "synthetic", "lineage": lineage}
    return ParticleSet.from_arrays(made.images(), labels, made.classes, **more)


def context(subject: Subject, of: ParticleSet) -> Context:
    """Return what a run tells its strategies: with drawn particles where this one asks for them."""
    classes = subject.spec.classes
    draw = verb(subject, "draws")
    wanted = dict(draw(of.counts)) if draw else {}
    made = drawn(subject, wanted) if sum(wanted.values()) else None
    prevalence = {name: 10.0**-k for k, name in enumerate(classes)}
    return Context(classes, subject.seed, prevalence, made)


def filled(subject: Subject) -> ParticleSet:
    """Return the toy's training set with drawn particles after the real ones."""
    return concat([train(subject), drawn(subject, counts(subject, 0, 4, 8))])


def batch(subject: Subject, n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return images in [-1, 1] (n, C, H, W), labels int64 (n,), and seeds int64 (n,)."""
    each = -(-n // len(subject.spec.classes))
    toy = train(subject, *[each] * len(subject.spec.classes))
    rows = draws.rng(subject.seed, "kit batch").permutation(len(toy))[:n]
    images = torch.from_numpy(toy.images(rows)).float() / 127.5 - 1
    return images, torch.from_numpy(toy.labels[rows]), seeds(subject, n)


def seeds(subject: Subject, n: int, role: str = "kit") -> Tensor:
    """Return n seeds, int64: other ones for another role."""
    return draws.seeds(subject.seed, role, index=np.arange(n))


def logits(subject: Subject, n: int = 12) -> Tensor:
    """Return logits float32 (n, K)."""
    rng = draws.rng(subject.seed, "kit logits")
    return torch.from_numpy(2 * rng.standard_normal((n, len(subject.spec.classes)))).float()


def soft(subject: Subject, n: int = 12) -> Tensor:
    """Return soft labels float32 (n, K), rows that sum to 1."""
    return torch.softmax(2 * logits(subject, n).flip(0), 1)


def head(subject: Subject) -> Head:
    """Return a last layer that favours the frequent class, as one that was trained does."""
    k = len(subject.spec.classes)
    rng = draws.rng(subject.seed, "kit head")
    share = np.array(COUNTS) / sum(COUNTS)
    return Head(rng.standard_normal((k, FEATURES)), np.log(share), share)


def seen(subject: Subject) -> Seen:
    """Return features that tell the classes apart, of training and of val."""
    rng = draws.rng(subject.seed, "kit features")
    centres = 2 * rng.standard_normal((len(COUNTS), FEATURES))
    found = []
    for n in (COUNTS, (10, 10, 10)):
        labels = np.repeat(np.arange(len(n)), n)
        noise = rng.standard_normal((len(labels), FEATURES))
        found += [(centres[labels] + noise).astype(np.float32), labels]
    return Seen(*found)


def priors(subject: Subject, stated: bool = True) -> Priors:
    """Return what is known of the class shares; `stated`: with the mix at work."""
    share = np.array(COUNTS) / sum(COUNTS)
    there = np.array([0.2, 0.3, 0.5]) if stated else None
    return Priors(share, there, 10 * np.eye(len(share)) + 1)


def equal(one: Any, other: Any) -> bool:
    """Return whether two arrays or tensors are the same to the bit, NaN like NaN."""
    return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True))


def near(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    """Return whether two arrays have one shape and differ by no more than the tolerance."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance))


def plain(name: str, value: Any) -> np.ndarray:
    """Return what a strategy gave as an array; raises Failed where it is no array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    found = np.asarray(value)
    if found.dtype == object:
        raise Failed(f"{name}: an array is expected, a {type(value).__name__} came")
    return found
