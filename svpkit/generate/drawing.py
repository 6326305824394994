"""Drawing with a trained generator: in whole chunks, resumable, every row with its lineage."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from svpkit import draws, ranks
from svpkit.errors import SvpkitError
from svpkit.fit import to_uint8
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.writer import Writer
from svpkit.progress import Progress

# Images drawn together: every chunk is filled up to this size, so that an image comes out the same
# however many are asked for and however many processes share the chunks.
CHUNK = 50


def draw(
    model: Any,
    labels: np.ndarray,
    seeds: torch.Tensor,
    sample: Mapping[str, Any],
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Return drawn images uint8 (N, C, H, W) for labels int64 (N,) and seeds int64 (N,).

    Whole chunks are drawn, the last one filled up: in a chunk of the same size at the same place an
    image is the same to the bit. `progress` is told of each chunk.
    """
    if not len(labels):
        # the generator alone knows the shape of its images
        none = torch.zeros(1, dtype=torch.int64)
        return _sample(model, none, none, sample)[:0]
    found = []
    for start in range(0, len(labels), chunk):
        index = np.minimum(np.arange(start, start + chunk), len(labels) - 1)
        images = _sample(model, torch.as_tensor(labels)[index], seeds[index], sample)
        found.append(images[: len(labels) - start])
        progress(len(found[-1]))
    return np.concatenate(found)


def draw_shared(
    model: Any, labels: np.ndarray, seeds: torch.Tensor, sample: Mapping[str, Any]
) -> np.ndarray:
    """Return what `draw` does, every process of the launch having drawn its share of the chunks."""
    mine = ranks.share(len(labels), CHUNK)
    idle = mine.start == mine.stop and ranks.many()
    own = None if idle else draw(model, labels[mine], seeds[mine], sample)
    return np.concatenate([images for images in ranks.gather(own) if images is not None])


def seeds_of(seed: int, label: str, index: np.ndarray) -> torch.Tensor:
    """Return the seeds int64 (n,) of a class's drawn images of these numbers."""
    return draws.seeds(seed, "synthetic", label, index=index)


def draw_chunks(
    folder: Path, model: Any, counts: Mapping[str, int], params: Mapping[str, Any]
) -> dict[str, float]:
    """Draw this process's share of the chunks that are not in `folder` yet.

    `params` as for the stage `synthetic`. Returns the images drawn now and the seconds it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = ranks.mine(_chunks(counts))
    drawn, started = 0, time.monotonic()
    label = f"drawing {' '.join(counts)}"
    with Progress(label, CHUNK * len(todo)) as progress:
        for name, k in todo:
            path = folder / _file(name, k, counts)
            if not path.exists():
                labels = np.full(CHUNK, list(counts).index(name))
                seeds = seeds_of(params["seed"], name, np.arange(k * CHUNK, (k + 1) * CHUNK))
                _write(path, draw(model, labels, seeds, params["sample"]))
                drawn += CHUNK
            progress(CHUNK)
    return {"drawn": drawn, "seconds": time.monotonic() - started}


def assemble(
    out: Path, counts: Mapping[str, int], digest: str, params: Mapping[str, Any], train: ParticleSet
) -> None:
    """Write the set of `counts` images a class from `out/chunks`.

    `digest` names the weights; the scale is the median of the class's training images.
    """
    channels, size, _ = train.shape
    with Writer(out, train.classes, channels, size) as writer:
        for name, n in counts.items():
            scale = _median(train.of(name).table["um_per_px"].to_numpy(float))
            for k in range(math.ceil(n / CHUNK)):
                index = range(k * CHUNK, min((k + 1) * CHUNK, n))
                images = np.load(out / "chunks" / _file(name, k, counts), allow_pickle=False)
                rows = [_row(name, i, scale, digest, params) for i in index]
                writer.add(images[: len(rows)], rows)


def record(counts: Mapping[str, int], digest: str, timed: Mapping[str, float]) -> dict[str, Any]:
    """Return what synthetic.json holds; seconds of this process alone."""
    each = timed["seconds"] / timed["drawn"] if timed["drawn"] else None
    return {
        "images": dict(counts),
        "model": digest,
        "chunk": CHUNK,
        "seconds": round(timed["seconds"], 3),
        "seconds_per_image": each,
    }


def _sample(
    model: Any, labels: torch.Tensor, seeds: torch.Tensor, sample: Mapping[str, Any]
) -> np.ndarray:
    device = _device(model)
    with torch.no_grad():
        images = torch.as_tensor(model.sample(labels.to(device), seeds.to(device), **sample))
    if not bool(torch.isfinite(images).all()):
        raise SvpkitError("generator: it drew numbers that are not finite; train it at a lower lr")
    return to_uint8(images.float()).cpu().contiguous().numpy()


def _device(model: Any) -> torch.device:
    module = isinstance(model, nn.Module)
    return next(model.parameters()).device if module else torch.device("cpu")


def _chunks(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(name, k) for name, n in counts.items() for k in range(math.ceil(n / CHUNK))]


def _file(name: str, k: int, counts: Mapping[str, int]) -> str:
    return f"{list(counts).index(name):03d}-{k:06d}.npy"


def _write(path: Path, images: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, images, allow_pickle=False)
        # a name that outlives a power cut must not stand for an empty file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _row(name: str, i: int, scale: float, digest: str, params: Mapping[str, Any]) -> dict[str, Any]:
    named = f"synthetic-{name}-{i:06d}-{digest[:8]}"
    lineage = {"model": digest, "label": name, "seed": params["seed"], "i": i}
    return {
        "id": named,
        "label": name,
        "group": named,
        "source": f"synthetic:{params['generator'].plugin.name}",
        "um_per_px": scale,
        "ecd_um": math.nan,
        "origin": "synthetic",
        "lineage": json.dumps(lineage),
    }


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan
