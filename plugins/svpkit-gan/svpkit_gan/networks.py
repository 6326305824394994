"""The two networks: a generator of styled convolutions and a projection discriminator.

Weights are standard normal and scaled where they are used, so that one learning rate suits every
layer (Karras et al. 2018, section 4.1). Nothing looks across images: no batch statistics.
"""

import math

import torch
import torch.nn.functional as F
from svpkit import draws
from torch import Tensor, nn

SLOPE, GAIN = 0.2, math.sqrt(2)


def lrelu(x: Tensor) -> Tensor:
    """Return the leaky rectifier, scaled so that the variance is about kept."""
    return F.leaky_relu(x, SLOPE) * GAIN


def up(x: Tensor) -> Tensor:
    """Return images of twice the side, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def channels(width: int, levels: int) -> list[int]:
    """Return the channels of each resolution, smallest image first; `width` at half the last."""
    return [int(min(width * 2.0 ** (levels - 1 - i), 4 * width)) for i in range(levels + 1)]


class Linear(nn.Module):
    """Fully connected, weights scaled at use: (B, fan_in) -> (B, fan_out)."""

    def __init__(self, fan_in: int, fan_out: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in))
        self.bias = nn.Parameter(torch.full((fan_out,), bias))
        self.scale = fan_in**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return F.linear(x, self.weight * self.scale, self.bias)


class Conv(nn.Module):
    """Convolution, weights scaled at use; a stride of two halves the side."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.scale, self.stride = (fan_in * kernel**2) ** -0.5, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, fan_out, H / stride, W / stride)."""
        padding = (self.weight.shape[-1] - 1) // 2
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, padding)


class Styled(nn.Module):
    """Convolution whose input channels the style weighs (Karras et al. 2020, equations 1 to 3).

    Demodulated: each output has unit variance for inputs of unit variance, image by image.
    """

    def __init__(self, fan_in: int, fan_out: int, style: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.style = Linear(style, fan_in, bias=1.0)
        self.scale = (fan_in * 9) ** -0.5

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Return the outputs before the rectifier, (B, fan_out, H, W)."""
        by, weight = self.style(style), self.weight * self.scale
        out = F.conv2d(x * by[:, :, None, None], weight, padding=1)
        energy = by.square() @ weight.square().sum(dim=(2, 3)).T
        return out * torch.rsqrt(energy + 1e-8)[:, :, None, None] + self.bias[:, None, None]


class Grain(nn.Module):
    """Adds noise, a pixel a number, at a strength that each channel learns."""

    def __init__(self, width: int, stream: str) -> None:
        super().__init__()
        self.strength, self.stream = nn.Parameter(torch.zeros(width)), stream

    def forward(self, x: Tensor, seeds: Tensor) -> Tensor:
        """Return x with noise that belongs to `seeds` (B,)."""
        noise = draws.normal(seeds, (1, *x.shape[2:]), self.stream)
        return x + noise * self.strength[:, None, None]


class Level(nn.Module):
    """One resolution: a convolution below it, twice the side, and one above but for the last."""

    def __init__(self, fan_in: int, fan_out: int, style: int, number: int, last: bool) -> None:
        super().__init__()
        self.below = Styled(fan_in, fan_out, style)
        self.grain = Grain(fan_out, f"grain {number}")
        self.above = None if last else Styled(fan_out, fan_out, style)

    def forward(self, x: Tensor, style: Tensor, seeds: Tensor) -> Tensor:
        """Return features of twice the side."""
        x = lrelu(self.grain(up(self.below(x, style)), seeds))
        return x if self.above is None else lrelu(self.above(x, style))


class Generator(nn.Module):
    """From a latent and a label to an image; `shape` is (channels, size, smallest side)."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int, latent: int) -> None:
        super().__init__()
        self.shape, self.latent, self.classes = shape, latent, classes
        levels = (shape[1] // shape[2]).bit_length() - 1
        widths = channels(width, levels)
        self.label = nn.Parameter(torch.randn(classes, latent))
        self.mapping = nn.ModuleList([Linear(2 * latent, latent), Linear(latent, latent)])
        self.start = nn.Parameter(torch.randn(widths[0], shape[2], shape[2]))
        self.first = Styled(widths[0], widths[0], latent)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.levels = nn.ModuleList(
            [Level(a, b, latent, i, i == levels - 1) for i, (a, b) in enumerate(pairs)]
        )
        self.images = nn.ModuleList([Conv(w, shape[0], 3) for w in widths])

    def style(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Return the styles (B, L) of latents (B, L) and labels (B,)."""
        both = torch.cat([_unit(latent), _unit(self.label[labels])], dim=1)
        for layer in self.mapping:
            both = lrelu(layer(both))
        return both

    def forward(self, style: Tensor, seeds: Tensor) -> Tensor:
        """Return images (B, C, H, W), unbounded; the grain belongs to `seeds`."""
        x = lrelu(self.first(self.start.expand(len(style), -1, -1, -1), style))
        image = self.images[0](x)
        for level, picture in zip(self.levels, self.images[1:], strict=True):
            x = level(x, style, seeds)
            image = up(image) + picture(x)
        return image


class Halving(nn.Module):
    """Residual block of half the side: (B, fan_in, H, W) -> (B, fan_out, H / 2, W / 2)."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.main, self.short = Conv(fan_in, fan_out, 4, stride=2), Conv(fan_in, fan_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return (lrelu(self.main(x)) + self.short(F.avg_pool2d(x, 2))) / GAIN


class Discriminator(nn.Module):
    """Tells drawn from real, given the label (Miyato & Koyama 2018, equation 3)."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        levels = (shape[1] // shape[2]).bit_length() - 1
        widths = channels(width, levels)[-2::-1]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.stem = Conv(shape[0], widths[0], 4, stride=2)
        self.blocks = nn.ModuleList([Halving(a, b) for a, b in pairs])
        self.mix = Conv(widths[-1], widths[-1], 3)
        self.flat = Linear(widths[-1] * shape[2] ** 2, widths[-1])
        self.psi = Linear(widths[-1], 1)
        self.label = nn.Parameter(torch.randn(classes, widths[-1]))

    def features(self, images: Tensor) -> Tensor:
        """Return what it sees in images (B, C, H, W): (B, F), whatever their label."""
        x = lrelu(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return lrelu(self.flat(lrelu(self.mix(x)).flatten(1)))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return logits (B,): high for real."""
        h = self.features(images)
        projection = (self.label[labels] * h).sum(dim=1) * h.shape[1] ** -0.5
        return self.psi(h).squeeze(1) + projection


def _unit(x: Tensor) -> Tensor:
    # each row to a mean square of one
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)
