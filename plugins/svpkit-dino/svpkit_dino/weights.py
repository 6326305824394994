"""Weights of a vision transformer, read from a .safetensors file under either of two namings.

transformers keeps query, key and value apart and says `layer_scale1.lambda1` for what timm calls
`ls1.gamma`; timm joins the three into one matrix, in this order.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from svpkit import SvpkitError
from timm.layers.pos_embed import resample_abs_pos_embed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

KEY = "fidelity.options.weights"
# What a file may hold that no feature depends on: heads, and the token of masked training.
BESIDE = re.compile(r"(head|head_dist|classifier|fc)\.|(embeddings\.)?mask_token$")
QKV = ("query", "key", "value")
# timm's name of each of transformers' names, inside a layer and outside.
OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
INSIDE = {
    "attention.output.dense.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.fc1.",
    "mlp.weights_out.": "mlp.fc2.",
}


def read(path: Path, net: Any, model: str) -> dict[str, Tensor]:
    """Return the state that `net` loads, its position embeddings resampled to its grid.

    Raises SvpkitError, one line that names the file and the first key amiss, for a file that is
    not .safetensors, and for one that lacks a weight, has others or has them in another shape.
    """
    try:
        held = load_file(path)
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())
        raise SvpkitError(
            f"{KEY}: {path}: not a .safetensors file ({said}); other formats can run code when "
            "they are read and are refused"
        ) from None
    found = {key: value for key, value in held.items() if not BESIDE.match(_bare(key))}
    if any(_bare(key).startswith("embeddings.") for key in found):
        found = renamed(found)
    wanted = net.state_dict()
    found = _positions(found, net, wanted)
    _check(found, wanted, model, path)
    return {key: found[key] for key in wanted}


def renamed(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under timm's names for those under the names of transformers.

    A key that is not among those stays as it is.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in held.items():
        layer = re.match(r"encoder\.layer\.(\d+)\.(.+)", _bare(key))
        if layer is None:
            found[_replaced(_bare(key), OUTSIDE)] = value
            continue
        block, rest = f"blocks.{layer[1]}.", layer[2]
        qkv = re.fullmatch(r"attention\.attention\.(query|key|value)\.(weight|bias)", rest)
        if qkv is None:
            found[block + _replaced(rest, INSIDE)] = value
        else:
            parts.setdefault(f"{block}attn.qkv.{qkv[2]}", {})[qkv[1]] = value
    for key, three in parts.items():
        if set(three) == set(QKV):
            found[key] = torch.cat([three[name] for name in QKV])
    return found


def _bare(key: str) -> str:
    # a model with a head has its backbone below its name
    return re.sub(r"^(dinov2|dinov2_with_registers)\.", "", key)


def _replaced(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            return new + key.removeprefix(old)
    return key


def _positions(found: dict[str, Tensor], net: Any, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    held, ours = found.get("pos_embed"), wanted.get("pos_embed")
    if held is None or ours is None or held.ndim != 3 or held.shape[2] != ours.shape[2]:
        return found
    if net.no_embed_class and _square(held.shape[1] - 1) and "cls_token" in found:
        # the class token's position comes first and never moves: it is added once and for all
        found = found | {"cls_token": found["cls_token"] + held[:, :1]}
        held = held[:, 1:]
    prefix = 0 if net.no_embed_class else net.num_prefix_tokens
    if held.shape[1] != ours.shape[1] and _square(held.shape[1] - prefix):
        grid = list(net.patch_embed.grid_size)
        held = resample_abs_pos_embed(held.float(), grid, num_prefix_tokens=prefix)
    return found | {"pos_embed": held}


def _square(n: int) -> bool:
    return n > 0 and int(n**0.5 + 0.5) ** 2 == n


def _check(found: dict[str, Tensor], wanted: dict[str, Tensor], model: str, path: Path) -> None:
    missing = [key for key in wanted if key not in found]
    if missing:
        close = get_close_matches(missing[0], [k for k in found if k not in wanted], n=1, cutoff=0)
        hint = f", nearest there is '{close[0]}'" if close else ""
        raise SvpkitError(
            f"{KEY}: {path}: not weights of '{model}': lacks '{missing[0]}' "
            f"({len(missing)} of {len(wanted)}){hint}"
        )
    strange = [key for key in found if key not in wanted]
    other = [key for key, value in wanted.items() if found[key].shape != value.shape]
    for keys, said in ((strange, "has too"), (other, "has in another shape")):
        if keys:
            raise SvpkitError(
                f"{KEY}: {path}: not weights of '{model}': {said} '{keys[0]}' ({len(keys)})"
            )
