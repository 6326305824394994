"""A ready-made network of timm as the extractor: frozen, its weights from a local file."""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from svpkit import checkpoint
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError, choices, nearest
from svpkit.safe import load_tensors

# What a file may hold beyond the backbone: the heads that timm's models have been trained with.
HEADS = ("fc.", "head.", "head_dist.", "classifier.", "last_linear.", "AuxLogits.", "aux_logits.")


class Backbone(nn.Module):
    """A model of timm without its head; grey is repeated to its channels.

    Images are resized to the input that the model was trained at and normalised as it wants.
    """

    mean: Tensor
    std: Tensor
    # large inputs: fewer at a time than the small extractor sees
    block = 32

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net: Any = timm.create_model(name, num_classes=0)
        channels, *size = self.net.pretrained_cfg["input_size"]
        self.channels, self.size = int(channels), tuple(size)
        for part in ("mean", "std"):
            level = torch.tensor(self.net.pretrained_cfg[part])[:, None, None]
            self.register_buffer(part, level, persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Return features (B, F) of images (B, C, H, W) in [-1, 1]."""
        x = (images + 1) / 2
        x = x.expand(-1, self.channels, -1, -1) if x.shape[1] == 1 else x
        x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        return self.net((x - self.mean) / self.std)


def check_backbone(name: str, weights: Path) -> "Backbone":
    """Return timm's model with the weights of a .safetensors file, as `save_backbone` wants it."""
    if not timm.is_model(name):
        close = nearest(name, timm.list_models())
        raise SvpkitError(f"fidelity.model: timm has no '{name}'{close}")
    model = Backbone(name).eval()
    model.net.load_state_dict(_fitting(_read(weights), model.net.state_dict(), name, weights))
    return model


def save_backbone(out: Path, name: str, weights: Path) -> None:
    """Write the extractor's files from a model's name and its .safetensors file.

    Every weight of the backbone must be there in its shape; heads are left out. Raises SvpkitError
    for an unknown model, and for a file that is missing, of another kind or of another model.
    """
    model = check_backbone(name, weights)
    path = out / "extractor.safetensors"
    checkpoint.save_tensors(path, model.net.state_dict())
    said = {"model": name, "features": int(model.net.num_features), "digest": file_digest(path)}
    write_json(out / "extractor.json", said)


def load_backbone(folder: Path, name: str) -> Backbone:
    """Return the backbone that `save_backbone` wrote."""
    model = Backbone(name)
    model.net.load_state_dict(load_tensors(folder / "extractor.safetensors"))
    return model.requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SvpkitError(f"fidelity.weights: {path}: no such file")
    try:
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise SvpkitError(
            f"fidelity.weights: {path}: not a .safetensors file ({error}); other formats can run "
            "code when they are read and are refused"
        ) from None


def _fitting(
    found: dict[str, Tensor], wanted: dict[str, Tensor], name: str, path: Path
) -> dict[str, Tensor]:
    missing = [key for key in wanted if key not in found]
    strange = [key for key in found if key not in wanted and not key.startswith(HEADS)]
    other = [k for k, v in wanted.items() if k in found and found[k].shape != v.shape]
    for keys, said in ((missing, "lacks"), (strange, "has too"), (other, "has in another shape")):
        if keys:
            shown = choices(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise SvpkitError(
                f"fidelity.weights: {path}: not weights of '{name}': {said} {shown} "
                f"({len(keys)} of {len(wanted)})"
            )
    return {key: found[key] for key in wanted}
