"""A vision transformer of timm without its head, its tokens taken as features."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from svpkit import SvpkitError
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from svpkit_dino.weights import read

if TYPE_CHECKING:
    from pathlib import Path

KEY = "fidelity.options"


class Tokens(nn.Module):
    """The network, with `features` of what its last block leaves."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, side: int, tokens: str) -> None:
        super().__init__()
        self.net: Any = net
        self.side, self.tokens = side, tokens
        wanted = resolve_model_data_config(net)
        for part in ("mean", "std"):
            level = torch.tensor(wanted[part], dtype=torch.float32)[:, None, None]
            self.register_buffer(part, level, persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Return features float32 (B, D) of images (B, 1 or 3, H, W) in [-1, 1]; 2 D for "both"."""
        x = (images.float() + 1) / 2
        x = x.expand(-1, 3, -1, -1)
        if tuple(x.shape[2:]) != (self.side, self.side):
            x = F.interpolate(
                x, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True
            )
        found = self.net.forward_features((x - self.mean) / self.std)
        parts = []
        if self.tokens in ("class", "both"):
            parts.append(found[:, 0])
        if self.tokens in ("mean", "both"):
            # registers and the class token stand before the patches
            parts.append(found[:, self.net.num_prefix_tokens :].mean(dim=1))
        # models that pool patches have their norm behind it, the others none
        return torch.cat([self.net.fc_norm(part) for part in parts], dim=1)


def build(weights: Path | None, model: str, side: int, tokens: str) -> Tokens:
    """Return the frozen network with the file's weights, or, without one, as it begins.

    Raises SvpkitError for a model that is no vision transformer of timm, a side that the patches do
    not divide, and a file that does not hold the model's weights.
    """
    net = _network(model, side)
    patch = net.patch_embed.patch_size[0]
    if side % patch or side < patch:
        below = max(side // patch, 1) * patch
        raise SvpkitError(
            f"{KEY}.side: given {side}, a multiple of {model}'s patch of {patch} pixels is wanted, "
            f"such as {below} or {below + patch}"
        )
    if tokens != "mean" and net.cls_token is None:
        raise SvpkitError(f"{KEY}.tokens: '{model}' has no class token: 'mean' is wanted")
    if weights is not None:
        net.load_state_dict(read(weights, net, model))
    return Tokens(net, side, tokens).requires_grad_(False).eval()


def _network(model: str, side: int) -> Any:
    if not timm.is_model(model):
        close = get_close_matches(model, timm.list_models(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise SvpkitError(f"{KEY}.model: timm has no '{model}'{hint}")
    try:
        net: Any = timm.create_model(model, pretrained=False, num_classes=0, img_size=max(side, 1))
        # what all transformers of timm with patches and prefix tokens have
        fits = all(hasattr(net, name) for name in ("patch_embed", "num_prefix_tokens", "fc_norm"))
    except TypeError:  # a network without `img_size`
        fits = False
    if not fits:
        raise SvpkitError(f"{KEY}.model: '{model}' is no vision transformer")
    return net
