"""Before and after the fit: the last layer made ready, trained again, and val's answers noted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import draws, ranks
from svpkit.classify import heads, prevalence
from svpkit.classify.balance import Balance, Prepared
from svpkit.classify.model import predict, told
from svpkit.classify.second import Head, Seen
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet, batches

BATCH = 512
VIEWS = 1_000
"""Random views of a class that a second stage learns from, at least one of each particle."""


def ready(network: Any, balance: Balance, spec: ImageSpec, name: str, choose: bool) -> None:
    """Make a new network ready for what the strategies ask of its last layer, or refuse.

    `name` is the classifier's; `choose` says whether val may choose. Raises SvpkitError before
    anything is trained. A new layer is drawn by torch's generator.
    """
    second = balance.having("second_stage")
    for strategy, thing in second:
        if getattr(thing, "needs_val", False) and not choose:
            raise SvpkitError(
                f"balance.{strategy}: val has to choose, and holds too few particles to; give the "
                "value in the recipe"
            )
    if not isinstance(network, nn.Module):
        return
    if second or balance.cosine:
        heads.check(network, spec, name)
    if balance.cosine:
        heads.use_cosine(network, balance.cosine, name)


def second_stage(
    network: Any,
    prepared: Prepared,
    balance: Balance,
    params: Mapping[str, Any],
    val: ParticleSet | None,
) -> Head | None:
    """Train the last layer again where a strategy does so, in place; return it, or None.

    `val` is None where it may not choose. The processes of a launch share what is seen of
    particles, and each does the same with it.
    """
    head = None
    for _, strategy in balance.having("second_stage"):
        name = params["classifier"].plugin.name
        seen = Seen(*_views(network, prepared.train, balance, params["seed"]))
        if val is not None:
            seen = replace(seen, val_features=_features(network, val), val_labels=val.labels)
        now = heads.read(network, prepared.prior, name)
        head = strategy.second_stage(now, seen, params["seed"])
        heads.write(network, head, name)
    return head


def found(network: Any, val: ParticleSet, balance: Balance, head: Head | None) -> dict[str, Any]:
    """Return what the weights alone do not tell, for the model's config.

    val_confusion: the probabilities (K, K) that val particles are given, before any adjustment,
    summed by true class (rows); cosine: the scale of a normalised last layer; second_stage: what it
    says of itself.
    """
    said: dict[str, Any] = {}
    if len(val):
        told = prevalence.answers(logits(network, val), val.labels)
        said["val_confusion"] = told.round(6).tolist()
    if balance.cosine:
        said["cosine"] = balance.cosine
    return said | ({"second_stage": head.said} if head else {})


def logits(network: Any, particles: ParticleSet) -> np.ndarray:
    """Return what a network, or an object with `predict_proba`, says: float32 (N, K).

    Every process of a launch does its share.
    """
    torched = isinstance(network, nn.Module)
    call = network if torched else (lambda x: told(network, x, len(particles.classes)))
    return _shared(call, particles, torched)


def _views(
    network: Any, train: ParticleSet, balance: Balance, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    # features (V, F) and labels (V,) of particles as the network was shown them: moved at random
    labels, augment = train.labels, balance.augment
    if augment is None:
        return _features(network, train), labels
    times = -(-VIEWS // np.maximum(np.bincount(labels), 1))
    rows = np.repeat(np.arange(len(train)), times[labels])
    seeds = draws.seeds(seed, "second stage", "view", index=np.arange(len(rows)))
    mine, found = ranks.share(len(rows), BATCH), []
    for block in list(batches(len(rows), BATCH))[_blocks(mine)]:
        y, own = torch.from_numpy(labels[rows[block]]), seeds[block]

        def call(x: Tensor, y: Tensor = y, own: Tensor = own) -> Tensor:
            return network.features(augment(x, y.to(x.device), own.to(x.device))[0])

        found += predict(call, train.images(rows[block]), BATCH)
    return _whole(found), labels[rows]


def _features(network: Any, particles: ParticleSet) -> np.ndarray:
    return _shared(network.features, particles, True)


def _shared(call: Any, particles: ParticleSet, torched: bool) -> np.ndarray:
    mine = ranks.share(len(particles), BATCH)
    own = particles.take(np.arange(mine.start, mine.stop)) if ranks.many() else particles
    return _whole(list(predict(call, own, BATCH, torched)))


def _blocks(rows: slice) -> slice:
    return slice(rows.start // BATCH, -(-rows.stop // BATCH))


def _whole(blocks: list[np.ndarray]) -> np.ndarray:
    # of all processes, whose shares are the rows in their order
    return np.concatenate([block for each in ranks.gather(blocks) for block in each])
