"""The stages that train a generator and draw particles with it, and what draws for the commands."""

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from svpkit import checkpoint, devices, draws, ranks
from svpkit.errors import SvpkitError
from svpkit.fit import Task, fit, seeded, to_uint8
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet, Writer
from svpkit.particles.split import Split
from svpkit.plugins import Use, check_options, options_of
from svpkit.progress import Progress
from svpkit.store import file_digest, stage, write_json

# Images drawn together: every chunk is filled up to this size, so that an image comes out the same
# however many are asked for and however many processes share the chunks.
CHUNK = 50

WEIGHTS = "model.safetensors"


@stage(revision=1, everywhere=True, resumes=True)
def generator(out: Path, params: Mapping[str, Any], split: Path) -> None:
    """Train a generator on the real training images of `classes` and write its weights.

    `params`: generator (a plugin with its options), classes, train (a plan), seed, precision.
    Writes model.safetensors, config.json and history.json. Raises SvpkitError for a class that the
    split does not know or has no training images of.
    """
    train = training_images(Split.open(split), params["classes"])
    use, seed = params["generator"], params["seed"]
    spec = ImageSpec(train.shape[0], train.shape[1], train.classes)
    with seeded(seed, "generator", *spec.classes):
        model = use(spec)
    history: list[dict[str, Any]] = []
    if isinstance(model, nn.Module):
        model, history = _trained(model, train, out, params)
    elif ranks.main():
        model.fit(train, seed)
    ranks.on_main(lambda: _save(out, model, use, spec, train, history))


@stage(revision=1, everywhere=True, resumes=True)
def synthetic(out: Path, params: Mapping[str, Any], generator: Path, split: Path) -> None:
    """Draw as many particles of each class as the strategy asks for; writes a ParticleSet.

    `params`: generator (a plugin with its options), classes, sample (options of its `sample`),
    seed, rule (a strategy with `draws(counts) -> {class: n}`). Image i of a class is a function of
    (model, label, seed, i). Writes synthetic.json beside the set: images and seconds.
    """
    train = Split.open(split).train()
    asked = params["rule"]().draws(train.counts)
    counts = {name: int(asked.get(name, 0)) for name in params["classes"]}
    model = load_generator(generator, params["generator"])
    seconds = _draw_chunks(out / "chunks", model, counts, params)
    ranks.wait()
    if ranks.main():
        digest = file_digest(generator / WEIGHTS)
        _assemble(out, counts, digest, params, train)
        write_json(out / "synthetic.json", _record(counts, digest, seconds))
    ranks.wait()


def training_images(split: Split, classes: list[str]) -> ParticleSet:
    """Return the real training images of these classes, in this label order."""
    train = split.train()
    parts = {name: train.of(name) for name in classes}
    for name, found in parts.items():
        if not len(found):
            raise SvpkitError(f"generator.classes: '{name}' has no training images")
    wanted = np.flatnonzero(train.table["label"].isin(classes).to_numpy())
    return train.take(wanted).with_classes(classes)


def load_generator(folder: Path, use: Use) -> Any:
    """Return the trained generator of a folder that `generator` wrote, ready to sample."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{folder}: no trained generator here ({error})") from None
    said = config["spec"]
    with seeded(0, "load"):
        model = use(ImageSpec(said["channels"], said["size"], tuple(said["classes"])))
    if not isinstance(model, nn.Module):
        model.load_state({name: tensor.numpy() for name, tensor in tensors.items()})
        return model
    model.load_state_dict(tensors)
    device = devices.device()
    return model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def draw(
    model: Any, labels: np.ndarray, seeds: torch.Tensor, sample: Mapping[str, Any], *,
    chunk: int = CHUNK, progress: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Return drawn images uint8 (N, C, H, W) for labels int64 (N,) and seeds int64 (N,).

    Whole chunks are drawn, the last one filled up: in a chunk of the same size at the same place an
    image is the same to the bit. `progress` is told of each chunk.
    """
    found = []
    for start in range(0, len(labels), chunk):
        index = np.minimum(np.arange(start, start + chunk), len(labels) - 1)
        images = _sample(model, torch.as_tensor(labels)[index], seeds[index], sample)
        found.append(images[: len(labels) - start])
        progress(len(found[-1]))
    return np.concatenate(found)


def seeds_of(seed: int, label: str, index: np.ndarray) -> torch.Tensor:
    """Return the seeds int64 (n,) of a class's drawn images of these numbers."""
    return draws.seeds(seed, "synthetic", label, index=index)


def check_sample_options(
    use: Use, spec: ImageSpec, sample: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the options of `sample` with defaults; raises SvpkitError naming `where`.key."""
    with seeded(0, "check"):
        model = use(spec)
    return check_options(options_of(model.sample), sample, where)


def epochs(n: int, batch: int, seed: int) -> Callable[[int], np.ndarray]:
    """Return `order(step)`: positions (batch,) in 0 .. n - 1, each image once an epoch."""

    @lru_cache(maxsize=4)
    def shuffled(epoch: int) -> np.ndarray:
        return draws.rng(seed, "epoch", epoch).permutation(n)

    def order(step: int) -> np.ndarray:
        place = step * batch + np.arange(batch)
        epoch = place // n
        found = [shuffled(e)[place[epoch == e] % n] for e in range(epoch[0], epoch[-1] + 1)]
        return np.concatenate(found)

    return order


def _trained(
    model: nn.Module, train: ParticleSet, out: Path, params: Mapping[str, Any]
) -> tuple[nn.Module, list[dict[str, Any]]]:
    plan, seed, labels = params["train"], params["seed"], train.labels
    if hasattr(model, "prepare"):
        model.prepare(train)  # type: ignore[operator]
    task = Task(
        order=epochs(len(train), plan.batch, seed),
        fetch=lambda at: (train.images(at), labels[at]),
        label=f"generator {' '.join(train.classes)}",
    )
    return fit(model, plan, task, out=out, seed=seed, precision=params["precision"])


def _save(
    out: Path, model: Any, use: Use, spec: ImageSpec, train: ParticleSet, history: list[Any]
) -> None:
    module = isinstance(model, nn.Module)
    state = model.state_dict() if module else model.state()
    checkpoint.save_tensors(out / WEIGHTS, {k: torch.as_tensor(v) for k, v in state.items()})
    config = {
        **use.describe(),
        "spec": {"channels": spec.channels, "size": spec.size, "classes": list(spec.classes)},
        "parameters": sum(p.numel() for p in model.parameters()) if module else None,
        "images": train.counts,
        "digest": train.digest,
    }
    write_json(out / "config.json", config)
    write_json(out / "history.json", history)
    checkpoint.clear(out)


def _sample(
    model: Any, labels: torch.Tensor, seeds: torch.Tensor, sample: Mapping[str, Any]
) -> np.ndarray:
    if isinstance(model, nn.Module):
        device = next(model.parameters()).device
        labels, seeds = labels.to(device), seeds.to(device)
    images = torch.as_tensor(model.sample(labels, seeds, **sample))
    return to_uint8(images.float()).cpu().contiguous().numpy()


def _draw_chunks(
    folder: Path, model: Any, counts: Mapping[str, int], params: Mapping[str, Any]
) -> dict[str, float]:
    # every process draws its share; a chunk is renamed into place when whole
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


def _chunks(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(name, k) for name, n in counts.items() for k in range(math.ceil(n / CHUNK))]


def _file(name: str, k: int, counts: Mapping[str, int]) -> str:
    return f"{list(counts).index(name):03d}-{k:06d}.npy"


def _write(path: Path, images: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, images, allow_pickle=False)
    temporary.replace(path)


def _assemble(
    out: Path, counts: Mapping[str, int], digest: str, params: Mapping[str, Any], train: ParticleSet
) -> None:
    channels, size, _ = train.shape
    with Writer(out, train.classes, channels, size) as writer:
        for name, n in counts.items():
            scale = train.of(name).table["um_per_px"].median()
            for k in range(math.ceil(n / CHUNK)):
                index = range(k * CHUNK, min((k + 1) * CHUNK, n))
                images = np.load(out / "chunks" / _file(name, k, counts), allow_pickle=False)
                rows = [_row(name, i, scale, digest, params) for i in index]
                writer.add(images[: len(rows)], rows)
    for path in (out / "chunks").iterdir():
        path.unlink()
    (out / "chunks").rmdir()


def _row(
    name: str, i: int, scale: float, digest: str, params: Mapping[str, Any]
) -> dict[str, Any]:
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


def _record(
    counts: Mapping[str, int], digest: str, timed: Mapping[str, float]
) -> dict[str, Any]:
    each = timed["seconds"] / timed["drawn"] if timed["drawn"] else None
    return {
        "images": dict(counts),
        "model": digest,
        "chunk": CHUNK,
        "seconds": round(timed["seconds"], 3),
        "seconds_per_image": each,
    }
