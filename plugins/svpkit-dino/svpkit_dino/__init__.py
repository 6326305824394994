"""An extractor for svpkit: vision transformers of timm, such as DINOv2, with weights from a file.

timm and torch are imported when one is built, so that listing the plugins stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from svpkit import ImageSpec, hookimpl, tried

if TYPE_CHECKING:
    from collections.abc import Callable

__version__ = "0.1.0"


@tried(options={"weights": None, "model": "test_vit", "side": 32})
def dino(
    spec: ImageSpec,
    *,
    weights: Annotated[Path | None, "the .safetensors file, named as timm or as transformers do"],
    model: Annotated[str, "vision transformer of timm"] = "vit_small_patch14_dinov2",
    side: Annotated[int, "pixels that images are resized to, a multiple of the patch"] = 112,
    tokens: Annotated[
        Literal["class", "mean", "both"], "the class token, the mean of the patches, or both"
    ] = "class",
) -> Any:
    """Features of a vision transformer that learned from other pictures, DINOv2 by default.

    Grey is repeated to three channels; images are resized to `side` and normalised as the model
    wants, position embeddings are interpolated. Only .safetensors files are read.
    """
    from svpkit_dino.network import build

    return build(weights, model, side, tokens)


@hookimpl
def register_extractors(register: Callable[[str, Any], None]) -> None:
    """Register the extractor."""
    register("dino", dino)
