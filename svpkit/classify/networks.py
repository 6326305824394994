"""Any timm model as a classifier of small particle images."""

import math
from typing import Any

import timm
import torch
from timm.layers.norm import GroupNorm
from timm.models.resnet import ResNet
from torch import Tensor, nn

from svpkit.errors import SvpkitError, nearest
from svpkit.hookspecs import ImageSpec

# The stride of the first convolution, and no pooling after it.
STRIDES = {"small": 1, "half": 2}


class TimmClassifier(nn.Module):
    """A timm network with its logits and the features that they are made from."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images in [-1, 1] (B, C, S, S)."""
        return self.net(images)

    def features(self, images: Tensor) -> Tensor:
        """Return what the last layer sees: (B, F)."""
        net: Any = self.net
        return net.forward_head(net.forward_features(images), pre_logits=True)

    @property
    def head(self) -> nn.Module:
        """The last layer, a Linear in most networks."""
        net: Any = self.net
        return net.get_classifier()


def build(
    spec: ImageSpec, name: str, *, pretrained: bool, stem: str, dropout: float, **resnet: Any
) -> TimmClassifier:
    """Build a timm model for this spec; `resnet` holds width, layers and norm, for ResNets alone.

    Raises SvpkitError for an unknown model, a stem that it cannot have, options that it does not
    know, and weights that cannot be fetched.
    """
    if not timm.is_model(name):
        close = nearest(name, timm.list_models())
        raise SvpkitError(f"classifier.options.model: timm has no '{name}'{close}")
    options = _resnet_options(**resnet)
    net = _create(spec, name, pretrained, {"drop_rate": dropout} if dropout else {}, options)
    _set_stem(net, name, stem, spec)
    model = TimmClassifier(net)
    _try(model, name, spec)
    return model


def _try(model: TimmClassifier, name: str, spec: ImageSpec) -> None:
    # many a network shrinks an image to nothing before its last layer: better said before training
    image = torch.zeros(1, spec.channels, spec.size, spec.size)
    try:
        with torch.inference_mode():
            model.eval()(image)
            model.features(image)
    except (RuntimeError, ArithmeticError) as error:
        raise _unfit(name, spec, error) from None
    model.train()


def _unfit(name: str, spec: ImageSpec, error: Exception) -> SvpkitError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return SvpkitError(
        f"classifier.options.model: '{name}' does not work on images of {spec.channels} x "
        f"{spec.size} x {spec.size} ({said[:160]})"
    )


def _resnet_options(width: int | None, layers: tuple[int, ...], norm: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if width:
        # timm's plain stem is 64 wide whatever follows; the deep one is as wide as the first stage
        options["channels"] = (width, 2 * width, 4 * width, 8 * width)
        options |= {"stem_type": "deep", "stem_width": width // 2}
    if layers:
        options["layers"] = layers
    if norm == "group":
        options["norm_layer"] = _group_norm
    return options


def _group_norm(channels: int, **more: Any) -> nn.Module:
    return GroupNorm(channels, num_groups=math.gcd(channels, 8), **more)


def _create(
    spec: ImageSpec, name: str, pretrained: bool, common: dict[str, Any], resnet: dict[str, Any]
) -> nn.Module:
    entry = timm.model_entrypoint(name)
    if resnet and not entry.__module__.endswith(".resnet"):
        raise SvpkitError(
            f"classifier.options: width, layers and norm are for ResNets, '{name}' is none"
        )
    cfg = timm.get_pretrained_cfg(name)
    sized = {"img_size": spec.size} if cfg and cfg.fixed_input_size else {}
    shape = {"in_chans": spec.channels, "num_classes": len(spec.classes)}
    try:
        return timm.create_model(name, pretrained, **shape, **sized, **common, **resnet)
    except Exception as error:  # noqa: BLE001 - timm and the hub raise what they like
        if not pretrained:
            raise _unfit(name, spec, error) from None
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SvpkitError(
            f"classifier.options.pretrained: the weights of '{name}' cannot be fetched "
            f"({said[:120]}); with no network set pretrained = false"
        ) from None


def _set_stem(net: nn.Module, name: str, stem: str, spec: ImageSpec) -> None:
    asked = stem
    if stem == "auto":
        stem = "small" if spec.size <= 32 else "half" if spec.size <= 64 else "standard"
    if stem == "standard":
        return
    stride = STRIDES[stem]
    if isinstance(net, ResNet):
        width = next(net.bn1.parameters()).shape[0]
        net.conv1 = nn.Conv2d(spec.channels, width, 3, stride, 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    elif not _narrow(net, stride) and asked != "auto":
        raise SvpkitError(
            f"classifier.options.stem: '{name}' cuts images into patches and has no '{stem}' stem; "
            f"use 'standard'"
        )


def _narrow(net: nn.Module, stride: int) -> bool:
    # the first convolution and the pool right after it are all that a generic network shows
    first = getattr(net, "pretrained_cfg", {}).get("first_conv") or ""
    first = first if isinstance(first, str) else first[0]
    conv = dict(net.named_modules()).get(first)
    # stride equal to kernel: patches
    if not isinstance(conv, nn.Conv2d) or conv.stride == conv.kernel_size:
        return False
    conv.stride = (min(stride, conv.stride[0]), min(stride, conv.stride[1]))
    for pool in ("maxpool", "features.pool0", "stem.pool"):
        if pool in dict(net.named_modules()):
            net.set_submodule(pool, nn.Identity())
    return True
