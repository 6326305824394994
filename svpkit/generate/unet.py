"""The U-Net of the paper: weight-standardised convolutions and attention at every resolution."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, HEAD_WIDTH = 4, 32
GROUPS = 4


class Conditioning(nn.Module):
    """Noise level and, for several classes, the label, as one vector (B, out)."""

    def __init__(self, width: int, out: int, classes: int) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = nn.Linear(width, out), nn.Linear(out, out)
        self.labels = nn.Embedding(classes, out) if classes > 1 else None
        if self.labels is not None:
            nn.init.zeros_(self.labels.weight)

    def forward(self, time: Tensor, labels: Tensor) -> Tensor:
        """Return the vectors for times (B,) in [0, T) and labels int64 (B,)."""
        half = self.width // 2
        steps = torch.arange(half, device=time.device, dtype=torch.float32)
        angle = time.float()[:, None] * torch.exp(steps * (-math.log(10_000) / (half - 1)))
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)
        found = self.second(F.gelu(self.first(waves)))
        return found if self.labels is None else found + self.labels(labels)


class ReferenceUNet(nn.Module):
    """The paper's U-Net: 35.7 M parameters at width 64, one channel, mults (1, 2, 4, 8)."""

    def __init__(
        self, channels: int, width: int, classes: int, mults: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        at = [width, *(width * m for m in mults)]
        context, last = 4 * width, len(mults) - 1
        self.condition = Conditioning(width, context, classes)
        self.stem = nn.Conv2d(channels, width, 1)
        self.down = nn.ModuleList(
            _Level([at[k]] * blocks, at[k], context, _Down(at[k], at[k + 1], k == last))
            for k in range(len(mults))
        )
        self.middle = nn.ModuleList([_Block(at[-1], at[-1], context) for _ in range(2)])
        self.attend = _Attend(at[-1], linear=False)
        self.up = nn.ModuleList(
            _Level(_joined(at, k, blocks), at[k + 1], context, _Up(at[k + 1], at[k], k == 0))
            for k in reversed(range(len(mults)))
        )
        self.last = _Block(2 * width, width, context)
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction (B, C, H, W) for noisy images, times (B,) and labels (B,)."""
        c = self.condition(time, labels)
        x = first = self.stem(x)
        skips: list[Tensor] = []
        for level in self.down:
            x = level(x, c, keep=skips)
        x = self.middle[1](self.attend(self.middle[0](x, c)), c)
        for level in self.up:
            x = level(x, c, join=skips)
        return self.out(self.last(torch.cat([x, first], dim=1), c))


def fold(network: nn.Module) -> None:
    """Replace each weight by its standardised self, once for all calls: for sampling alone.

    The answers stay the same; training, or loading other weights, no longer works.
    """
    for module in network.modules():
        if isinstance(module, _StandardisedConv) and not module.folded:
            with torch.no_grad():
                module.weight.copy_(module.standardised())
            module.folded = True


class _Level(nn.Module):
    def __init__(self, inputs: Sequence[int], out: int, context: int, move: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(n, out, context) for n in inputs)
        self.attend, self.move = _Attend(out, linear=True), move

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        keep: list[Tensor] | None = None,
        join: list[Tensor] | None = None,
    ) -> Tensor:
        for k, block in enumerate(self.blocks):
            x = block(x if join is None else torch.cat([x, join.pop()], dim=1), c)
            x = self.attend(x) if k == len(self.blocks) - 1 else x
            if keep is not None:
                keep.append(x)
        return self.move(x)


class _Block(nn.Module):
    def __init__(self, inputs: int, out: int, context: int) -> None:
        super().__init__()
        self.condition = nn.Linear(context, 2 * out)
        self.first, self.second = _StandardisedConv(inputs, out), _StandardisedConv(out, out)
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, out), nn.GroupNorm(GROUPS, out)
        self.skip = nn.Conv2d(inputs, out, 1) if inputs != out else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.condition(F.silu(c))[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.first(x)) * (scale + 1) + shift)
        return F.silu(self.norm2(self.second(h))) + self.skip(x)


class _StandardisedConv(nn.Conv2d):
    # Weight standardisation (Qiao et al. 2019): each filter has mean 0 and variance 1.
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__(inputs, out, 3, padding=1)
        self.folded = False

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.folded else self.standardised()
        return self._conv_forward(x, weight.to(x.dtype), self.bias)

    def standardised(self) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) * torch.rsqrt(variance + 1e-5)


class _Attend(nn.Module):
    # Linear attention (Shen et al. 2018) costs N, softmax attention N^2 in the number of pixels.
    def __init__(self, width: int, *, linear: bool) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.linear = linear
        self.norm = nn.GroupNorm(1, width)
        self.qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        self.out = nn.Conv2d(inner, width, 1)
        self.after = nn.GroupNorm(1, width) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, HEADS, HEAD_WIDTH, h * w).unbind(1)
        if self.linear:
            q, k = q.softmax(dim=2) * HEAD_WIDTH**-0.5, k.softmax(dim=3)
            found = (v @ k.transpose(2, 3)) @ q
        else:
            q, k, v = (part.transpose(2, 3) for part in (q, k, v))
            found = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return x + self.after(self.out(found.reshape(b, -1, h, w)))


class _Down(nn.Sequential):
    def __init__(self, inputs: int, out: int, last: bool) -> None:
        if last:
            super().__init__(nn.Conv2d(inputs, out, 3, padding=1))
        else:
            super().__init__(nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, out, 1))


class _Up(nn.Sequential):
    def __init__(self, inputs: int, out: int, last: bool) -> None:
        conv = nn.Conv2d(inputs, out, 3, padding=1)
        super().__init__(*([conv] if last else [nn.Upsample(scale_factor=2), conv]))


def _joined(at: Sequence[int], k: int, blocks: int) -> list[int]:
    return [at[k + 1] + at[k]] * blocks
