"""A plugin's extractor, held to its contract, frozen, and kept so that its files may go."""

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svpkit import checkpoint, draws
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError
from svpkit.fit import to_float
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugin import Plugin, guarded
from svpkit.plugins import Use
from svpkit.safe import load_tensors
from svpkit.store import plain

# Real images that an extractor is tried on, and how far its features of one image may lie apart
# when others stand beside it, as a share of the largest: sums in another order come to less.
TRIED, APART = 4, 1e-2


class Given(nn.Module):
    """What a plugin made, with features that are float32 and finite or an error in one line."""

    # a stranger's network may be large: fewer at a time than the small extractor sees
    block = 32

    def __init__(self, net: nn.Module, plugin: Plugin) -> None:
        super().__init__()
        self.net: Any = net
        self.plugin = plugin

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for one that has none."""
        held = chain(self.net.parameters(), self.net.buffers())
        return next((each.device for each in held), torch.device("cpu"))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return features float32 (B, F) of images (B, C, H, W) in [-1, 1].

        Raises SvpkitError naming the plugin for another shape and numbers that are not finite.
        """
        with guarded(self.plugin):
            found = self.net.features(images)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            what = str(found.dtype) if isinstance(found, Tensor) else type(found).__name__
            raise self.wrong(f"a float tensor is wanted, it returns {what}")
        if found.ndim != 2 or len(found) != len(images) or not found.shape[1]:
            raise self.wrong(
                f"({len(images)}, F) is wanted for {len(images)} images, "
                f"it returns {tuple(found.shape)}"
            )
        found = found.detach().float()
        if not bool(torch.isfinite(found).all()):
            raise self.wrong("they are not all finite")
        return found

    def wrong(self, said: str) -> SvpkitError:
        """Return the error that says what is the matter with the features."""
        return SvpkitError(f"extractor '{self.plugin.name}': features(images): {said}")


def build(use: Use, spec: ImageSpec) -> Given:
    """Return a plugin's extractor, frozen; raises SvpkitError for what cannot be one."""
    name = use.plugin.name
    with draws.seeded(0, "extractor", name):
        net = use(spec)
    if not isinstance(net, nn.Module) or not callable(getattr(net, "features", None)):
        raise SvpkitError(
            f"extractor '{name}': it returns {type(net).__name__}, an nn.Module with "
            "features(images) is wanted"
        )
    return Given(net.requires_grad_(False), use.plugin).eval()


def save_given(out: Path, use: Use, train: ParticleSet) -> None:
    """Write extractor.safetensors and extractor.json of a plugin, tried on a few real images.

    Raises SvpkitError for features that break the contract, or are others once it is opened again.
    """
    spec = ImageSpec(train.shape[0], train.shape[1], tuple(train.classes))
    model = build(use, spec)
    images = to_float(torch.from_numpy(train.images(slice(0, TRIED)))).to(model.device)
    found = model.features(images)
    alone = torch.cat([model.features(images[i : i + 1]) for i in range(len(images))])
    if _far(found, alone):
        raise model.wrong(
            "those of an image change with what stands beside it, or from call to call"
        )
    path = out / "extractor.safetensors"
    checkpoint.save_tensors(path, model.net.state_dict())
    said = {
        **plain(use.describe()),
        "package": use.plugin.package,
        "version": use.plugin.version,
        "spec": {"channels": spec.channels, "size": spec.size, "classes": list(spec.classes)},
        "features": found.shape[1],
        "weights": file_digest(path),
    }
    # the same weights with other options are another extractor
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    write_json(out / "extractor.json", {**said, "digest": digest})
    if _far(found, load_given(out, use, said).features(images)):
        raise model.wrong(
            "others once its weights are opened again: all that they depend on must be parameters, "
            "buffers or options"
        )


def load_given(folder: Path, use: Use | None, said: Mapping[str, Any]) -> Given:
    """Return the extractor that `save_given` wrote, from its weights here alone."""
    name, spec = said["plugin"], said["spec"]
    if use is None or use.plugin.name != name:
        raise SvpkitError(f"{folder}: made by the plugin '{name}', which is not at hand")
    again = ImageSpec(spec["channels"], spec["size"], tuple(spec["classes"]))
    try:
        model = build(use.reopened(), again)
        model.net.load_state_dict(load_tensors(folder / "extractor.safetensors"))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's factory makes of None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SvpkitError(
            f"extractor '{name}': it cannot be opened again from its weights alone, with None for "
            f"each path ({lines[-1].strip()})"
        ) from None
    return model


def _far(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return True
    return bool((a - b).abs().max() > APART * a.abs().max().clamp(min=1e-6))
