"""A batch worked on in pieces, where the device has no room for the whole of it."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Running:
    """The running means of a model's norms: all that a forward pass changes."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        # counts and means apart: copied together, they would be copied one by one
        kinds = {buffer.dtype for buffer in buffers}
        self._now = [[b for b in buffers if b.dtype == kind] for kind in kinds]
        self._kept = [[torch.empty_like(b) for b in some] for some in self._now]

    @torch.no_grad()
    def keep(self) -> None:
        """Keep them as they are."""
        for kept, now in zip(self._kept, self._now, strict=True):
            torch._foreach_copy_(kept, now)  # type: ignore[attr-defined]

    @torch.no_grad()
    def put_back(self) -> None:
        """Put back what was kept."""
        for kept, now in zip(self._kept, self._now, strict=True):
            torch._foreach_copy_(now, kept)  # type: ignore[attr-defined]


def cut(batch: Sequence[Tensor], pieces: int) -> Iterator[tuple[Any, ...]]:
    """Yield (share of the batch, number, the piece of each tensor) of a batch cut in pieces."""
    parts = zip(*(tensor.chunk(pieces) for tensor in batch), strict=True)
    for k, piece in enumerate(parts):
        yield len(piece[0]) / len(batch[0]), k, *piece


def say_pieces(label: str, device: torch.device, size: int, pieces: int) -> None:
    """Free what the failed attempt held, and say how the training goes on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    said = f"{label}: out of memory on {device}: batches of {size} go on in {pieces} pieces"
    print(said, file=sys.stderr, flush=True)
