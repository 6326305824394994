"""A small network trained on real particles, then frozen, to compare images in its terms."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svpkit import checkpoint, devices, draws, ranks
from svpkit.disk import file_digest, write_json
from svpkit.fit import Plan, Task, fit, to_float
from svpkit.generate.backbone import Backbone, load_backbone, save_backbone
from svpkit.generate.diffusion import spaced, turn
from svpkit.generate.given import Given, load_given, save_given
from svpkit.particles.particleset import ParticleSet, batches
from svpkit.particles.split import Split
from svpkit.plugins import Use
from svpkit.safe import load_tensors, read_json
from svpkit.store import stage

FEATURES = 64
# What it learns to see besides the class: how an image was harmed, which is how drawn images fail.
# Turns, the usual pretext, teach nothing about spheres.
HARMS = ("blur", "noise", "contrast", "level")
FLOOR = 1e-4
WIDTHS = (32, 64, 128)
POOLED = 2 * sum(WIDTHS)
BLOCK = 512
MEASURED = 4096


# How the extractor is trained: always the same, so that its figures compare.
PLAN = Plan(images=40_000, batch=96, lr=2e-3)


class Extractor(nn.Module):
    """Three convolutions, pooled to mean and sd at each depth; the heads serve training alone.

    No normalisation inside, which would hide a shift in grey. The side is a multiple of 8.
    """

    centre: Tensor
    project: Tensor
    block = BLOCK

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        at = (4 * channels, *WIDTHS)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(at, WIDTHS, strict=False)
        )
        self.name = nn.Linear(POOLED, classes)
        self.harm = nn.Linear(POOLED, len(HARMS))
        self.register_buffer("centre", torch.zeros(POOLED))
        self.register_buffer("project", torch.zeros(POOLED, FEATURES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, K) and harms (B, 4) of images (B, C, H, W) in [-1, 1]."""
        h = self.pooled(images)
        return self.name(h), self.harm(h)

    def features(self, images: Tensor) -> Tensor:
        """Return features (B, 64), whitened by the real classes' spread and of bounded length."""
        f = (self.pooled(images) - self.centre) @ self.project
        # one odd image must not outweigh a thousand in KID's cubes
        return f * torch.rsqrt(1 + f.square().mean(dim=1, keepdim=True))

    def measure(self, pooled: list[Tensor]) -> None:
        """Set what `features` whitens by, from the averages (n, 448) of each real class."""
        means = torch.stack([x.mean(dim=0) for x in pooled])
        inner = torch.stack([(x - x.mean(dim=0)).T @ (x - x.mean(dim=0)) / len(x) for x in pooled])
        value, vector = torch.linalg.eigh(inner.mean(dim=0).double())
        value, vector = value[-FEATURES:], vector[:, -FEATURES:]
        self.centre.copy_(means.mean(dim=0))
        self.project.copy_(vector * torch.rsqrt(value + FLOOR * value.mean()))

    def pooled(self, x: Tensor) -> Tensor:
        """Return mean and sd of every channel at every depth: (B, 448)."""
        # an odd side is made even
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        x, found = F.pixel_unshuffle(x, 2), []
        for k, conv in enumerate(self.convs):
            x = F.silu(conv(F.avg_pool2d(x, 2) if k else x))
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
            found += [mean, (variance + 1e-4).sqrt()]
        return torch.cat(found, dim=1)


Seeing = Extractor | Backbone | Given


@stage(revision=2, everywhere=True, resumes=True)
def extractor(out: Path, params: Mapping[str, Any], split: Path) -> None:
    """Train the extractor on the real training images, every class as often.

    It tells the class and how the image was harmed. `params`: seed; model and weights (a model of
    timm and its .safetensors file), or extractor (a plugin with its options), or none of them: with
    them nothing is trained. Writes extractor.safetensors and extractor.json. Raises SvpkitError for
    weights that do not fit and for features of a plugin that break its contract.
    """
    if params.get("model"):
        return ranks.on_main(lambda: save_backbone(out, params["model"], Path(params["weights"])))
    train = Split.open(split).train()
    if params.get("extractor"):
        return ranks.on_main(lambda: save_given(out, params["extractor"], train))
    if ranks.main():
        # its rounding is amplified over the steps and would show in every figure and choice that
        # is made by it: it is that of one process, however many there are
        with ranks.apart():
            _train(out, params["seed"], train)
    ranks.wait()


def load_extractor(folder: Path, use: Use | None = None) -> Seeing:
    """Return the frozen extractor of a folder that the stage wrote.

    Raises SvpkitError for one of a plugin that `use` is not.
    """
    said = read_json(folder / "extractor.json")
    if "plugin" in said:
        return load_given(folder, use, said).to(devices.device()).eval()
    if "model" in said:
        return load_backbone(folder, said["model"]).to(devices.device()).eval()
    model = Extractor(said["channels"], said["classes"])
    model.load_state_dict(load_tensors(folder / "extractor.safetensors"))
    return model.to(devices.device()).eval()


def features(model: Seeing, images: np.ndarray) -> Tensor:
    """Return features float32 (N, F), on the CPU, of images uint8 (N, C, H, W).

    F is 64, or what a given model has.
    """
    return _blocks(model, model.features, images)


@torch.no_grad()
def _blocks(model: Seeing, see: Callable[[Tensor], Tensor], images: np.ndarray) -> Tensor:
    device = model.device if isinstance(model, Given) else next(model.parameters()).device
    found = [
        see(to_float(torch.from_numpy(images[at]).to(device))).cpu()
        for at in batches(len(images), model.block)
    ]
    return torch.cat(found)


def balanced(labels: np.ndarray, batch: int, seed: int, step: int) -> np.ndarray:
    """Return the positions (batch,) of a step: classes alike, with replacement."""
    rng = draws.rng(seed, "balanced", step)
    rows = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    which = rng.integers(len(rows), size=batch)
    return np.array([rng.choice(rows[k]) for k in which])


def harm(x: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (B, C, H, W) blurred, noisy, flat or shifted, and by how much (B, 4) in 0 .. 1.

    Half of them keep their sharpness and half stay without added noise.
    """
    much = draws.uniform(seeds, (len(HARMS),), "harm")
    much[:, :2] = (2 * much[:, :2] - 1).clamp(min=0)
    blur, noise, contrast, level = much[:, :, None, None, None].unbind(1)
    x = x + blur * (smooth(x) - x)
    mean = x.mean(dim=(2, 3), keepdim=True)
    x = mean + (x - mean) * (0.75 + 0.5 * contrast) + 0.2 * (level - 0.5)
    return x + 0.1 * noise * draws.normal(seeds, x.shape[1:], "harm noise"), much


def smooth(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) blurred by a binomial filter of one pixel's standard deviation."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device) / 16
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])


def _train(out: Path, seed: int, train: ParticleSet) -> None:
    with draws.seeded(seed, "extractor"):
        model = Extractor(train.shape[0], len(train.classes))
    labels = train.labels
    task = Task(
        order=lambda step: balanced(labels, PLAN.batch, seed, step),
        fetch=lambda at: (train.images(at), labels[at]),
        loss=_loss,
        label="extractor",
    )
    model, history = fit(model, PLAN, task, out=out, seed=seed, precision="fp32")
    _save(out, model, train, history)


def _loss(model: nn.Module, x: Tensor, y: Tensor, seeds: Tensor, *, part: str) -> Tensor:
    harmed, much = harm(turn(x, draws.integers(seeds, (), 8, "extractor turn")), seeds)
    name, found = model(harmed)
    return F.cross_entropy(name, y) + F.mse_loss(found, much) / much.var()


def _save(out: Path, model: Any, train: ParticleSet, history: list[dict[str, Any]]) -> None:
    sets = [s for s in map(train.of, train.classes) if len(s)]
    seen = [s.images(spaced(len(s), MEASURED)) for s in sets]
    model.measure([_blocks(model, model.pooled, images) for images in seen])
    path = out / "extractor.safetensors"
    checkpoint.save_tensors(path, model.state_dict())
    said = {"channels": train.shape[0], "classes": len(train.classes), "digest": file_digest(path)}
    write_json(out / "extractor.json", {**said, "history": history})
