"""Convolutions for the CPU, their weights laid out once and what follows them done in one go."""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

# A convolution that leaves no more pixels than this is a matrix product a window: on 2 x 2 pixels
# a 3 x 3 kernel lies outside the picture for five taps of nine.
FEW = 4
# From this many pixels on, a sum is quicker as part of a convolution than of a matrix product.
MANY = 64

Window = tuple[int, int, int, int]


def packed(conv: nn.Conv2d, shape: torch.Size, relu: bool, add: bool, over: bool) -> nn.Module:
    """Return a module that does `conv`, adds a second argument if `add`, then ReLU if `relu`.

    `shape` is that of the float32 images (B, C, H, W), in channels_last, that it will be given;
    B may change. `over`: the sum may be written over the second argument.
    """
    plain = conv.groups == 1 and conv.dilation == (1, 1)
    pixels = _after(conv, 0, shape[2]) * _after(conv, 1, shape[3])
    if plain and 0 < pixels <= FEW:
        return Windows(conv, shape, relu)
    single = conv.kernel_size == (1, 1) and conv.padding == (0, 0)
    if plain and single and not (add and pixels >= MANY):
        return Pointwise(conv, shape[0] * pixels, relu)
    return Convolution(conv, shape, relu, over)


class Convolution(nn.Module):
    """Any convolution, with the sum and the ReLU that follow it."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size, relu: bool, over: bool) -> None:
        super().__init__()
        self.how = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        self.relu, self.over, self.bias = relu, over, _bias(conv)
        layout: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]
        self.weight = layout(conv.weight.detach().to_mkldnn(), *self.how, list(shape))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return what comes of images (B, C, H, W), `other` added."""
        ops: Any = torch.ops.mkldnn
        if other is None:
            after = ("relu" if self.relu else "none", [], "")
            return ops._convolution_pointwise(x, self.weight, self.bias, *self.how, *after)
        after = (*self.how, "add", 1.0, "relu" if self.relu else None, [], "")
        if self.over:
            call = ops._convolution_pointwise_.binary
            return call(other, x, self.weight, self.bias, *after)
        return ops._convolution_pointwise.binary(x, other, self.weight, self.bias, *after)


class Product(nn.Module):
    """A matrix product with rows, then the sum and the ReLU that follow it."""

    def __init__(self, weight: Tensor, bias: Tensor, rows: int, relu: bool) -> None:
        super().__init__()
        layout: Any = torch.ops.mkldnn._reorder_linear_weight
        self.weight, self.bias, self.relu = layout(weight.contiguous(), rows), bias, relu

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return rows (N, G) of rows (N, F), `other` added."""
        call: Any = torch.ops.mkldnn._linear_pointwise
        if other is None:
            return call(x, self.weight, self.bias, "relu" if self.relu else "none", [], "")
        y = call.binary(x, other, self.weight, self.bias, "add")
        return y.relu_() if self.relu else y


class Pointwise(nn.Module):
    """A 1 x 1 convolution: every pixel times one matrix."""

    def __init__(self, conv: nn.Conv2d, rows: int, relu: bool) -> None:
        super().__init__()
        self.down, self.right = conv.stride
        self.times = Product(conv.weight.detach()[:, :, 0, 0], _bias(conv), rows, relu)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return what comes of images (B, C, H, W), `other` added."""
        x = x[:, :, :: self.down, :: self.right].permute(0, 2, 3, 1)
        rows = x.reshape(-1, x.shape[-1])
        more = None if other is None else other.permute(0, 2, 3, 1).reshape(len(rows), -1)
        return self.times(rows, more).view(*x.shape[:3], -1).permute(0, 3, 1, 2)


class Windows(nn.Module):
    """A convolution that leaves few pixels: each window of the images times its part of the kernel.

    Pixels that see the same window are done together.
    """

    def __init__(self, conv: nn.Conv2d, shape: torch.Size, relu: bool) -> None:
        super().__init__()
        self.height, self.width = (_after(conv, axis, shape[2 + axis]) for axis in (0, 1))
        parts: dict[Window, list[Tensor]] = {}
        self.places: list[tuple[int, int]] = []
        for at in product(range(self.height), range(self.width)):
            window, kernel = _seen(conv, at, shape)
            found = parts.setdefault(window, [])
            self.places.append((list(parts).index(window), len(found)))
            found.append(kernel)
        self.windows = list(parts)
        self.products = nn.ModuleList(
            Product(torch.cat(found), _bias(conv).repeat(len(found)), shape[0], False)
            for found in parts.values()
        )
        self.relu = relu

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return what comes of images (B, C, H, W), `other` added."""
        x = x.permute(0, 2, 3, 1)
        found = [
            times(x[:, top:bottom, left:right].reshape(len(x), -1))
            for (top, bottom, left, right), times in zip(self.windows, self.products, strict=True)
        ]
        y = found[0]
        if len(found) > 1:
            n = y.shape[1] // sum(window == 0 for window, _ in self.places)
            y = torch.cat([found[w][:, k * n : (k + 1) * n] for w, k in self.places], 1)
        y = y.view(len(x), self.height, self.width, -1).permute(0, 3, 1, 2)
        y = y if other is None else y.add_(other)
        return y.relu_() if self.relu else y


def _seen(conv: nn.Conv2d, at: tuple[int, int], shape: torch.Size) -> tuple[Window, Tensor]:
    # the window of the images that one pixel of the result sees, and the kernel's part inside it
    first, last, begin = [], [], []
    for axis in (0, 1):
        start = at[axis] * conv.stride[axis] - int(conv.padding[axis])
        first.append(max(start, 0))
        last.append(min(start + conv.kernel_size[axis], shape[2 + axis]))
        begin.append(first[-1] - start)
    rows, columns = (slice(b, b + z - a) for a, z, b in zip(first, last, begin, strict=True))
    kernel = conv.weight.detach()[:, :, rows, columns].permute(0, 2, 3, 1)
    return (first[0], last[0], first[1], last[1]), kernel.reshape(conv.out_channels, -1)


def _after(conv: nn.Conv2d, axis: int, size: int) -> int:
    kernel = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    return (size + 2 * int(conv.padding[axis]) - kernel) // conv.stride[axis] + 1


def _bias(conv: nn.Conv2d) -> Tensor:
    # a copy: the network's own weights may still be trained
    if conv.bias is None:
        return conv.weight.new_zeros(conv.out_channels)
    return conv.bias.detach().clone()
