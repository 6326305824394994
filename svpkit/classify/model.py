"""A trained classifier in a folder that can be moved: opened, and put to work."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from torch import nn

from svpkit import devices
from svpkit.classify import heads
from svpkit.classify.balance import Balance, compose, deployment
from svpkit.classify.context import Priors
from svpkit.errors import SvpkitError
from svpkit.fit import to_float
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet, batches
from svpkit.plugins import Registry, Use
from svpkit.progress import Progress

FORMAT = 1
WEIGHTS = "model.safetensors"
Images = np.ndarray | ParticleSet


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

    def logits(self, images: Images, batch: int = 256) -> np.ndarray:
        """Return logits float32 (N, K) of uint8 images (N, C, S, S), before any adjustment."""
        if isinstance(self.network, nn.Module):
            return self._run(self.network, images, batch)
        return self._run(lambda x: log(self.network.predict_proba(x)), images, batch)

    def probabilities(self, images: Images, batch: int = 256) -> np.ndarray:
        """Return probabilities float32 (N, K) of uint8 images, adjusted as the strategies say."""
        return self.adjusted(self.logits(images, batch))

    def adjusted(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (N, K) of logits (N, K) after the strategies' `adjust`."""
        return softmax(self.balance.adjust(logits, self.priors))

    def features(self, images: Images, batch: int = 256) -> np.ndarray:
        """Return features float32 (N, F); raises SvpkitError where the classifier has none."""
        find = getattr(self.network, "features", None)
        if find is None:
            name = self.config["classifier"]["plugin"]
            raise SvpkitError(f"classifier '{name}' has no features")
        return self._run(find, images, batch)

    def _run(self, call: Callable[[Any], Any], images: Images, batch: int) -> np.ndarray:
        self._check(images)
        torched, done = isinstance(self.network, nn.Module), 0
        found = np.empty((0, len(self.classes)), np.float32)
        with Progress("classifying", len(images)) as progress:
            for block in predict(call, images, batch, torched):
                if not done:
                    # one array from the start: many small ones that live on between large
                    # buffers that come and go would keep the heap from shrinking
                    found = np.empty((len(images), block.shape[1]), np.float32)
                found[done : done + len(block)] = block
                done += len(block)
                progress(len(block))
        return found

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
    for block in batches(len(images), batch):
        x = images.images(block) if isinstance(images, ParticleSet) else images[block]
        yield np.asarray(_said(call, x) if torched else call(x), dtype=np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis, float32."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True, initial=-np.inf)
    each = np.exp(shifted)
    return (each / each.sum(axis=-1, keepdims=True)).astype(np.float32)


def log(probabilities: np.ndarray) -> np.ndarray:
    """Return log-probabilities float32, those of 0 at about -69."""
    return np.log(np.maximum(probabilities, 1e-30)).astype(np.float32)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config; raises SvpkitError where there is none to read."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{folder}: no classifier here ({error})") from None
    if config.get("format") != FORMAT:
        raise SvpkitError(
            f"{folder}: classifier of format {config.get('format')}, this version reads {FORMAT}"
        )
    return config


def _said(call: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(images)).to(devices.device())
        return call(to_float(x).contiguous(memory_format=torch.channels_last)).float().cpu().numpy()


def _use(registry: Registry, kind: str, said: Mapping[str, Any], where: str) -> Use:
    return registry.use(kind, said["plugin"], said["options"], where)


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
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise SvpkitError(f"{path}: these weights do not fit the classifier ({said})") from None
    network = network.to(devices.device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()
