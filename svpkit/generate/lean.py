"""A lean U-Net for CPUs and tiny sets: half the resolution, attention at the bottom alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svpkit.generate.unet import Conditioning

STEM = 2


class LeanUNet(nn.Module):
    """Pixel-unshuffle stem, residual blocks as in ADM (Dhariwal & Nichol 2021), one attention.

    `width` is a multiple of 8; images have a side that halves `len(mults)` times.
    """

    def __init__(
        self, channels: int, width: int, classes: int, mults: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        at, context, deep = [width * m for m in mults], 4 * width, width * mults[-1]
        self.condition = Conditioning(width, context, classes)
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(STEM), nn.Conv2d(channels * STEM**2, width, 3, padding=1)
        )
        self.down = nn.ModuleList(
            _blocks([width if k == 0 else at[k - 1], *[at[k]] * (blocks - 1)], at[k], context)
            for k in range(len(at))
        )
        self.middle = nn.ModuleList(_blocks([deep, deep], deep, context))
        self.attend = _Attention(deep)
        above = [*at[1:], deep]
        self.up = nn.ModuleList(
            _blocks([above[k] + at[k], *[2 * at[k]] * (blocks - 1)], at[k], context)
            for k in reversed(range(len(at)))
        )
        self.norm = _norm(width)
        self.out = nn.Conv2d(width, channels * STEM**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction (B, C, H, W) for noisy images, times (B,) and labels (B,)."""
        c = F.silu(self.condition(time, labels))
        x, skips = self.stem(x), []
        for k, level in enumerate(self.down):
            x = F.avg_pool2d(x, 2) if k else x
            for block in level:  # type: ignore[union-attr]
                x = block(x, c)
                skips.append(x)
        x = self.middle[1](self.attend(self.middle[0](x, c)), c)
        for k, level in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2.0) if k else x
            for block in level:  # type: ignore[union-attr]
                x = block(torch.cat([x, skips.pop()], dim=1), c)
        return F.pixel_shuffle(self.out(F.silu(self.norm(x))), STEM)


class _Block(nn.Module):
    def __init__(self, inputs: int, out: int, context: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(inputs), _norm(out)
        self.first = nn.Conv2d(inputs, out, 3, padding=1)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.condition = nn.Linear(context, 2 * out)
        self.skip = nn.Conv2d(inputs, out, 1) if inputs != out else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.condition(c)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norm1(x)))
        h = self.second(F.silu(torch.addcmul(shift, self.norm2(h), scale + 1)))
        return self.skip(x) + h


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # heads of about 64 channels, as many as share them evenly
        self.heads = next(n for n in range(max(width // 64, 1), 0, -1) if width % n == 0)
        self.norm = _norm(width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, n, h, w = x.shape
        parts = self.qkv(self.norm(x)).reshape(b, 3, self.heads, n // self.heads, h * w)
        q, k, v = parts.transpose(3, 4).unbind(1)
        found = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return x + self.out(found.reshape(b, n, h, w))


def _blocks(inputs: Sequence[int], out: int, context: int) -> nn.ModuleList:
    return nn.ModuleList(_Block(n, out, context) for n in inputs)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // 8, width)
