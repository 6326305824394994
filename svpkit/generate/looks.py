"""Looks at a generator while it trains: how near its particles are by now, and what goes wrong."""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import draws, ranks
from svpkit.errors import SvpkitError
from svpkit.generate.diffusion import spaced
from svpkit.generate.distances import fid, kid
from svpkit.generate.drawing import draw_shared
from svpkit.generate.extractor import Seeing, features
from svpkit.particles.describe import background
from svpkit.particles.particleset import ParticleSet

# Drawn a class at each look, and the fewest held-out images that are worth comparing with.
DRAWN, FEWEST = 100, 8
# When a look warns: background off by so many real sd, contrast of so little of the real one.
SHIFTED, FLAT = 1.0, 0.5
ROUNDING = 0.5


@dataclass
class Looks:
    """Draws a few particles with a half-trained model and compares them with held-out real ones.

    Called with the model, it returns kid and fid (means over classes, None below 8 held-out
    images), background_shift_sd (largest of the classes), contrast (lowest ratio of pixel sd, drawn
    to real) and, where something is wrong, warnings. The sampler is the generator's default, so
    that `generator.sample` may change without training again.
    """

    extractor: Seeing
    train: ParticleSet
    val: ParticleSet
    seed: int
    label: str
    _held: dict[str, Tensor] = field(default_factory=dict)
    _weights: float | None = None

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Return the figures of one look; raises SvpkitError for drawings that are no numbers."""
        each = [self._look(model, k, name) for k, name in enumerate(self.train.classes)]
        found = {
            "kid": _mean([row["kid"] for row in each]),
            "fid": _mean([row["fid"] for row in each]),
            "background_shift_sd": max((row["shift"] for row in each), key=abs),
            "contrast": min(row["contrast"] for row in each),
        }
        warnings = [*concerns(found), *self._still(model)]
        if warnings and ranks.main():
            print(f"{self.label}: {'; '.join(warnings)}", file=sys.stderr, flush=True)
        return found | ({"warnings": warnings} if warnings else {})

    def _look(self, model: nn.Module, k: int, name: str) -> dict[str, Any]:
        seeds = draws.seeds(self.seed, "look", name, index=range(DRAWN))
        try:
            images = draw_shared(model, np.full(DRAWN, k), seeds, {})
        except SvpkitError as error:
            raise SvpkitError(f"{self.label}: {error}") from None
        ours = self.train.of(name)
        real = ours.images(spaced(len(ours), DRAWN * 5))
        levels = background(images).mean(axis=1), background(real).mean(axis=1)
        shift = (levels[0].mean() - levels[1].mean()) / max(levels[1].std(), ROUNDING)
        contrast = images.std(axis=(1, 2, 3)).mean() / max(real.std(axis=(1, 2, 3)).mean(), 1e-6)
        return {"shift": float(shift), "contrast": float(contrast), **self._far(images, name)}

    def _far(self, images: np.ndarray, name: str) -> dict[str, float | None]:
        held = self._features_of(name)
        size = min(len(images), len(held))
        if size < FEWEST:
            return {"kid": None, "fid": None}
        ours = features(self.extractor, images)
        return {"kid": kid(ours[:size], held[:size]), "fid": fid(ours[:size], held[:size])}

    def _features_of(self, name: str) -> Tensor:
        if name not in self._held:
            held = self.val.of(name)
            images = held.images(spaced(len(held), DRAWN)) if len(held) else None
            self._held[name] = (
                torch.empty(0) if images is None else features(self.extractor, images)
            )
        return self._held[name]

    def _still(self, model: nn.Module) -> list[str]:
        # an average that no longer follows the weights draws as it did at the start
        now = float(sum(p.detach().double().abs().sum() for p in model.parameters()))
        before, self._weights = self._weights, now
        return (
            ["the averaged weights do not move: is train.ema too near 1?"] if now == before else []
        )


def concerns(found: dict[str, Any]) -> list[str]:
    """Return what is wrong with the figures of a look, a line each."""
    said = []
    if abs(found["background_shift_sd"]) > SHIFTED:
        said.append(f"the background is {found['background_shift_sd']:+.1f} real sd off")
    if found["contrast"] < FLAT:
        said.append(f"the contrast is {found['contrast']:.0%} of the real one")
    return said


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
