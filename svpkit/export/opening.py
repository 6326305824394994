"""How plain timm makes a network like ours: the name and arguments of `timm.create_model`."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
from timm.layers.norm import GroupNorm
from timm.layers.norm_act import GroupNormAct
from timm.models.byobnet import ByoBlockCfg
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from svpkit.hookspecs import ImageSpec

# timm's network of blocks that arguments name, by one of its models without attention.
BLOCKS = "gernet_s"
GROUPS = 8
_NAMES = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.bn."),
    (r"^fc\.", "head.fc."),
    (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
)
# Of a shortcut: after an average, which has no weights, the convolution is the second.
_SHORT = {
    False: ((0, "conv"), (1, "bn")),
    True: ((1, "conv.conv"), (2, "conv.bn")),
}


@dataclass(frozen=True)
class Opening:
    """Arguments of `timm.create_model`, and the network's weights under the names that it gives."""

    model: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    imports: tuple[str, ...] = ()
    overlay: dict[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """True when the arguments are JSON values, so that config.json can hold them."""
        return not self.imports

    def create(self, **more: Any) -> nn.Module:
        """Return what plain timm makes of this, in evaluation mode."""
        return timm.create_model(self.model, **self.arguments, **more).eval()

    def lines(self, file: str) -> str:
        """Return the Python lines that open a file of weights."""
        given = {"checkpoint_path": file, "pretrained_cfg_overlay": self.overlay}
        words = "".join(
            f"    {name}={_text(value)},\n" for name, value in (given | self.arguments).items()
        )
        imports = "".join(f"{line}\n" for line in ("import timm", *self.imports))
        return f'{imports}\nmodel = timm.create_model(\n    "{self.model}",\n{words}).eval()\n'


def openings(net: nn.Module, spec: ImageSpec, options: Mapping[str, Any]) -> Iterator[Opening]:
    """Yield the ways that may make this network; which of them does is for the numbers to say."""
    weights = {name: value.contiguous().cpu() for name, value in net.state_dict().items()}
    overlay = _overlay(spec)
    given: dict[str, Any] = {"in_chans": spec.channels, "num_classes": len(spec.classes)}
    cfg = timm.get_pretrained_cfg(options["model"])
    if cfg and cfg.fixed_input_size:
        given["img_size"] = spec.size
    own, imports = _resnet(options)
    yield Opening(options["model"], given | own, weights, imports, overlay)
    if isinstance(net, ResNet) and isinstance(net.conv1, nn.Conv2d):
        yield _of_blocks(net, given, weights, overlay, options.get("norm") == "group")


def _resnet(options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    found: dict[str, Any] = {}
    if width := options.get("width"):
        found["channels"] = tuple(width * m for m in (1, 2, 4, 8))
        found |= {"stem_type": "deep", "stem_width": width // 2}
    if options.get("layers"):
        found["layers"] = tuple(options["layers"])
    if options.get("norm") != "group":
        return found, ()
    found["norm_layer"] = partial(GroupNorm, num_groups=GROUPS)
    return found, ("from functools import partial", "from timm.layers import GroupNorm")


def _of_blocks(
    net: ResNet,
    given: dict[str, Any],
    weights: dict[str, Tensor],
    overlay: dict[str, Any],
    grouped: bool,
) -> Opening:
    # a ResNet whose first layer is a 3x3 convolution of stride 2 without a pool: timm's resnet
    # has no argument for that, its network of named blocks builds the same layers
    stages: list[Any] = [net.layer1, net.layer2, net.layer3, net.layer4]
    deep = isinstance(stages[0][0], Bottleneck)
    kind, ratio = ("bottle", 0.25) if deep else ("basic", 1.0)
    wide = [(s[-1].bn3 if deep else s[-1].bn2).weight.shape[0] for s in stages]
    blocks = tuple(
        ByoBlockCfg(kind, d=len(s), c=c, s=1 if i == 0 else 2, br=ratio)
        for i, (s, c) in enumerate(zip(stages, wide, strict=True))
    )
    averages = any(".downsample.2." in name for name in weights)
    own = {
        "stem_type": "3x3",
        "stem_pool": "",
        "stem_chs": next(net.bn1.parameters()).shape[0],
        "num_features": 0,
        "downsample": "avg" if averages else "conv1x1",
        "blocks": blocks,
    }
    imports = ("from timm.models.byobnet import ByoBlockCfg",)
    if grouped:
        own["norm_layer"] = partial(GroupNormAct, num_groups=GROUPS)
        imports = (
            "from functools import partial",
            "from timm.layers import GroupNormAct",
            *imports,
        )
    renamed = {_renamed(name, deep, averages): value for name, value in weights.items()}
    return Opening(BLOCKS, given | own, renamed, imports, overlay)


def _renamed(name: str, deep: bool, averages: bool) -> str:
    for pattern, by in _NAMES:
        name = re.sub(pattern, by, name)
    if not name.startswith("stages."):
        return name
    kinds = {"1": "1x1", "2": "kxk", "3": "1x1"} if deep else {"1": "kxk", "2": "kxk"}
    name = re.sub(r"\.conv(\d)\.", lambda m: f".conv{m[1]}_{kinds[m[1]]}.conv.", name)
    name = re.sub(r"\.bn(\d)\.", lambda m: f".conv{m[1]}_{kinds[m[1]]}.bn.", name)
    for old, new in _SHORT[averages]:
        name = name.replace(f".downsample.{old}.", f".shortcut.{new}.")
    return name


def _overlay(spec: ImageSpec) -> dict[str, Any]:
    # pixels / 127.5 - 1, as svpkit prepares them
    half = (0.5,) * spec.channels
    return {
        "input_size": (spec.channels, spec.size, spec.size),
        "mean": half,
        "std": half,
        "crop_pct": 1.0,
        "num_classes": len(spec.classes),
        "label_names": list(spec.classes),
    }


def _text(value: Any) -> str:
    if isinstance(value, ByoBlockCfg):
        return (
            f"ByoBlockCfg({json.dumps(value.type)}, d={value.d}, c={value.c}, s={value.s}, "
            f"br={value.br})"
        )
    if isinstance(value, partial):
        return f"partial({value.func.__name__}, num_groups={value.keywords['num_groups']})"
    if isinstance(value, tuple) and any(isinstance(each, ByoBlockCfg) for each in value):
        return "(\n" + "".join(f"        {_text(each)},\n" for each in value) + "    )"
    return repr(value)
