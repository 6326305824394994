"""Particles drawn on demand from a run, written so that they can never pass as real."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError, unknown
from svpkit.plugins import Registry, Use
from svpkit.safe import opened, read_json
from svpkit.shapes import GeneratorRecord, shaped


@dataclass(frozen=True)
class Drawn:
    """Drawn images uint8 (n, C, H, W) and what drew them."""

    images: np.ndarray
    label: str
    seed: int
    model: str


def generator_use(folder: Path, registry: Registry) -> Use:
    """Return the plugin and options that a generator's folder names."""
    with opened(folder, "no trained generator here"):
        config = shaped(folder / "config.json", GeneratorRecord)
        given = config["plugin"], config["options"]
        return registry.reopen("generator", *given, f"{folder}: plugin")


def _loaded(folder: Path, registry: Registry) -> tuple[Use, Any, list[str]]:
    """Return a generator's plugin, the trained model and its classes."""
    from svpkit.generate.training import load_generator

    use = generator_use(folder, registry)
    with opened(folder, "no trained generator here"):
        model = load_generator(folder, use)
        return use, model, read_json(folder / "config.json")["spec"]["classes"]


def draw_from(
    folder: Path, registry: Registry, label: str, n: int, seed: int, sample: Mapping[str, Any]
) -> Drawn:
    """Draw n particles of a class with the generator in `folder`, as its recipe samples.

    Their digests go to the index of the store that it lies in, so that they are known again where
    they would measure, whatever becomes of their names and tags.
    """
    from svpkit.disk import file_digest
    from svpkit.drawn_index import note, real_of
    from svpkit.generate.drawing import draw, seeds_of
    from svpkit.options import check_options, options_of
    from svpkit.progress import Progress

    _, model, classes = _loaded(folder, registry)
    if label not in classes:
        raise unknown(f"{folder}: class", label, classes)
    sample = check_options(options_of(model.sample), sample, "recipe.generator.sample")
    labels, seeds = np.full(n, classes.index(label)), seeds_of(seed, label, np.arange(n))
    with Progress(f"drawing {label}", n) as progress:
        images = draw(model, labels, seeds, sample, progress=progress)
    if (folder / "artifact.json").is_file():
        note(folder.parent, folder.name, [images], real_of(folder.parent, folder))
    return Drawn(images, label, seed, file_digest(folder / "model.safetensors"))


def export_to(
    folder: Path, registry: Registry, out: Path, card: Path | None = None
) -> dict[str, Any]:
    """Write the generator in `folder` as its own library keeps it, and return its export.json.

    `card` is copied beside it where it is a file. Raises SvpkitError, with nothing written, where
    the generator has no such form and where `out` is there and not empty.
    """
    from svpkit import __version__
    from svpkit.disk import write_json
    from svpkit.export.folder import new_folder
    from svpkit.export.pipeline import compared
    from svpkit.keep import weights_of

    use, model, classes = _loaded(folder, registry)
    if not hasattr(model, "export"):
        raise SvpkitError(
            f"{folder}: generator '{use.plugin.name}' has no form outside svpkit ('diffusers_unet' "
            "has); its weights are the model.safetensors in there"
        )
    said = {"to": "diffusers", "svpkit": __version__, "classes": classes}
    with new_folder(out, card) as done:
        model.export(done)
        said |= compared(done, model) | {"weights": weights_of(folder)}
        write_json(done / "export.json", said)
    return said


def write_png(drawn: Drawn, out: Path) -> None:
    """Write PNG files; each says in its text that it is synthetic, by which model and seed."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from svpkit.readers.pictures import LINEAGE_TAG, ORIGIN_TAG

    out.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", drawn.label)
    for i, image in enumerate(drawn.images):
        said = PngInfo()
        lineage = {"model": drawn.model, "label": drawn.label, "seed": drawn.seed, "i": i}
        said.add_text(ORIGIN_TAG, "synthetic")
        said.add_text(LINEAGE_TAG, json.dumps(lineage))
        pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
        name = f"synthetic-{safe}-{drawn.seed}-{i:06d}.png"
        Image.fromarray(pixels).save(out / name, pnginfo=said)
