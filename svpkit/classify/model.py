"""A trained classifier in a folder that can be moved: opened, and put to work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from svpkit import devices
from svpkit.classify import heads
from svpkit.classify.balance import Balance, compose, deployment
from svpkit.classify.context import Priors
from svpkit.classify.passes import Call, Passes, passes, run, said
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import Registry, Use
from svpkit.progress import Progress
from svpkit.safe import load_arrays, load_tensors, opened, read_json

FORMAT = 1
BATCH = 256
WEIGHTS = "model.safetensors"
# What a config may ask for, so that a stranger's does not take the machine's memory.
MOST_SIZE, MOST_CLASSES = 4096, 10_000
Images = np.ndarray | ParticleSet
Output = tuple[slice, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Model:
    """A classifier with the strategies that adjust it and the priors that they need."""

    network: Any
    spec: ImageSpec
    balance: Balance
    priors: Priors
    config: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path | str, registry: Registry) -> "Model":
        """Open a model folder, its plugins found by name; raises SvpkitError where it cannot be."""
        folder = Path(folder)
        config = read_config(folder)
        where = f"{folder.name}/config: "
        use = _use(registry, "classifier", config["classifier"], f"{where}classifier.plugin")
        strategies = [
            _use(registry, "strategy", each, f"{where}{each['plugin']}.plugin")
            for each in config["strategies"]
        ]
        return cls.load(folder, use, strategies, config["prevalence"])

    @classmethod
    def load(
        cls,
        folder: Path,
        classifier: Use,
        strategies: Sequence[Use] = (),
        prevalence: Mapping[str, float] | None = None,
    ) -> "Model":
        """Open a model folder with plugins at hand, for use at this prevalence."""
        config = read_config(folder)
        spec = ImageSpec(
            config["spec"]["channels"], config["spec"]["size"], tuple(config["spec"]["classes"])
        )
        network = _load_network(
            folder / WEIGHTS, _without_fetching(classifier), spec, config.get("cosine")
        )
        train = np.array([config["prior"][name] for name in spec.classes])
        told = config.get("val_confusion")
        confusion = None if told is None else np.array(told, dtype=np.float64)
        priors = Priors(train, deployment(prevalence, spec.classes), confusion)
        return cls(network, spec, compose(strategies), priors, config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in label order."""
        return self.spec.classes

    @property
    def block(self) -> int:
        """Images looked at together, at most; processes that share the work share whole blocks."""
        return min(BATCH, self._passes.at_once or BATCH)

    def logits(self, images: Images, batch: int = BATCH) -> np.ndarray:
        """Return logits float32 (N, K) of uint8 images (N, C, S, S), before any adjustment."""
        return self._gather(self._passes.logits, images, batch)

    def outputs(self, images: Images, batch: int = BATCH) -> Iterator[Output]:
        """Return an iterator of (slice, logits float32 (B, K), features float32 (B, F)), in order.

        The slices are rows of `images`, uint8 (N, C, S, S), at most `batch` of them. Features are
        None where the classifier has none. Both come of one pass through a network whose last layer
        is its `head`, of two through others.
        """
        self._check(images)
        blocks = self._run(self._passes.each, images, batch)
        return ((block, rows[0], rows[1] if len(rows) > 1 else None) for block, rows in blocks)

    def probabilities(self, images: Images, batch: int = BATCH) -> np.ndarray:
        """Return probabilities float32 (N, K) of uint8 images, adjusted as the strategies say."""
        return self.adjusted(self.logits(images, batch))

    def adjusted(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (N, K) of logits (N, K) after the strategies' `adjust`."""
        return softmax(self.balance.adjust(logits, self.priors))

    def features(self, images: Images, batch: int = BATCH) -> np.ndarray:
        """Return features float32 (N, F); raises SvpkitError where the classifier has none."""
        find = self._passes.features
        if find is None:
            name = self.config["classifier"]["plugin"]
            raise SvpkitError(f"classifier '{name}' has no features")
        return self._gather(find, images, batch)

    @cached_property
    def _passes(self) -> Passes:
        if isinstance(self.network, nn.Module):
            return passes(self.network, self.spec)
        return _passes_of(self.network, len(self.classes))

    def _gather(self, call: Call, images: Images, batch: int) -> np.ndarray:
        self._check(images)
        found = np.empty((0, len(self.classes)), np.float32)
        for block, (rows,) in self._run(call, images, batch):
            if not block.start:
                # one array from the start: many small ones that live on between large
                # buffers that come and go would keep the heap from shrinking
                found = np.empty((len(images), rows.shape[1]), np.float32)
            found[block] = rows
        return found

    def _run(
        self, call: Call, images: Images, batch: int
    ) -> Iterator[tuple[slice, tuple[np.ndarray, ...]]]:
        with Progress("classifying", len(images)) as progress:
            for block, found in run(call, images, batch, self._passes.at_once):
                progress(block.stop - block.start)
                yield block, found

    def _check(self, images: Images) -> None:
        given = images.shape if isinstance(images, ParticleSet) else images.shape[1:]
        wanted = (self.spec.channels, self.spec.size, self.spec.size)
        if given != wanted or (isinstance(images, np.ndarray) and images.dtype != np.uint8):
            kind = "" if isinstance(images, ParticleSet) else f"{images.dtype} "
            raise SvpkitError(
                f"this model takes uint8 images of {wanted} (channels, height, width), "
                f"given {kind}{tuple(given)}"
            )


def predict(call: Any, images: Images, batch: int, torched: bool = True) -> Iterator[np.ndarray]:
    """Yield what a network or function says of uint8 images, float32 (B, ...), block by block."""

    def ask(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return said(call, x) if torched else (np.asarray(call(x), dtype=np.float32),)

    for _, (block,) in run(ask, images, batch):
        yield block


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis, float32."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True, initial=-np.inf)
    each = np.exp(shifted, out=shifted)
    each /= each.sum(axis=-1, keepdims=True)
    return each.astype(np.float32)


def log(probabilities: np.ndarray) -> np.ndarray:
    """Return log-probabilities float32, those of 0 at about -69."""
    return np.log(np.maximum(probabilities, 1e-30)).astype(np.float32)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config; raises SvpkitError where there is none to read."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{folder}: no classifier here ({error})") from None
    if config.get("format") != FORMAT:
        raise SvpkitError(
            f"{folder}: classifier of format {config.get('format')}, this version reads {FORMAT}"
        )
    with opened(folder, "no classifier here"):
        _check_spec(**config["spec"])
    return config


def _check_spec(channels: Any, size: Any, classes: Any) -> None:
    # before anything of this size is built
    if channels not in (1, 3) or type(size) is not int or not 1 <= size <= MOST_SIZE:
        raise ValueError(f"images of {channels} channels and {size} px")
    named = isinstance(classes, list) and all(type(name) is str for name in classes)
    if not named or not 0 < len(set(classes)) == len(classes) <= MOST_CLASSES:
        raise ValueError("its classes are no list of names")


def told(network: Any, images: np.ndarray, k: int) -> np.ndarray:
    """Return log-probabilities float32 (B, K) of what a classifier that is no network says.

    Raises SvpkitError where its `predict_proba` gives anything but shares of the K classes.
    """
    p = np.asarray(network.predict_proba(images), dtype=np.float64)
    name = f"classifier {type(network).__name__}: predict_proba"
    if p.shape != (len(images), k):
        raise SvpkitError(f"{name} gave an array of {p.shape}, {(len(images), k)} is wanted")
    if not (p >= 0).all() or np.abs(p.sum(1) - 1).max(initial=0) > 1e-3:
        raise SvpkitError(f"{name} gave what are no shares: each 0 to 1, in a row 1 together")
    return log(p)


def _passes_of(network: Any, k: int) -> Passes:
    # of an object that is no network
    def logits(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (told(network, x, k),)

    if not hasattr(network, "features"):
        return Passes(logits, None, logits)

    def features(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(network.features(x), dtype=np.float32),)

    return Passes(logits, features, lambda x: logits(x) + features(x))


def _use(registry: Registry, kind: str, said: Mapping[str, Any], where: str) -> Use:
    return registry.reopen(kind, said["plugin"], said["options"], where)


def _without_fetching(use: Use) -> Use:
    # the weights are in the folder: nothing is to be fetched in order to build the network
    if use.options.get("pretrained") is not True:
        return use
    return replace(use, options={**use.options, "pretrained": False})


def _load_network(path: Path, classifier: Use, spec: ImageSpec, cosine: float | None) -> Any:
    network = classifier(spec)
    if cosine:
        heads.use_cosine(network, cosine, classifier.plugin.name)
    try:
        if not isinstance(network, nn.Module):
            network.load_state(load_arrays(path))
            return network
        network.load_state_dict(load_tensors(path, network.state_dict()))
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise SvpkitError(f"{path}: these weights do not fit the classifier ({said})") from None
    network = network.to(devices.device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()
