"""The ResNet for images of 32 pixels that long-tail papers measure with (He et al. 2016, 4.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights (option A: strided, padded by zeros)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, after, S / stride, S / stride) of (B, before, S, S)."""
        short = x[:, :, :: self.stride, :: self.stride]
        short = functional.pad(short, (0, 0, 0, 0, 0, self.more)) if self.more else short
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + short)


class CifarResNet(nn.Module):
    """Three stages of (depth - 2) / 6 blocks, mean over the picture, one linear layer."""

    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        n, blocks, before = (depth - 2) // 6, [], width
        for after in (width, 2 * width, 4 * width):
            for i in range(n):
                blocks.append(Block(before, after, 2 if i == 0 and after > width else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)
        for name, value in (("shift", 0.0), ("scale", 1.0)):
            # options say them, so weights files need not
            self.register_buffer(name, torch.full((channels, 1, 1), value), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images in [-1, 1] (B, C, S, S)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return what the last layer sees: (B, 4 * width)."""
        x = (images - self.shift) / self.scale
        return self.blocks(functional.relu(self.norm(self.stem(x)))).mean((2, 3))


def build(
    spec: ImageSpec, depth: int, width: int, mean: Sequence[float], sd: Sequence[float]
) -> CifarResNet:
    """Build the network; `mean` and `sd` of each channel are those of images in 0 .. 1.

    Raises SvpkitError for a depth that is not 6 n + 2, and for a mean or sd for other channels.
    """
    if depth % 6 != 2:
        raise SvpkitError(
            f"classifier.options.depth: given {depth}, 6 n + 2 is wanted, such as "
            f"{depth // 6 * 6 + 2}"
        )
    for name, given in (("mean", mean), ("sd", sd)):
        if len(given) not in (0, spec.channels):
            raise SvpkitError(
                f"classifier.options.{name}: {len(given)} values for {spec.channels} channels"
            )
    net = CifarResNet(spec.channels, len(spec.classes), depth, width)
    # images come in [-1, 1]
    if mean:
        net.shift.copy_(2 * torch.tensor(mean).view(-1, 1, 1) - 1)
    if sd:
        net.scale.copy_(2 * torch.tensor(sd).view(-1, 1, 1))
    return net
