"""A classifier as a folder that plain timm opens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from svpkit.classify.model import softmax
from svpkit.classify.networks import TimmClassifier
from svpkit.disk import write_json
from svpkit.errors import SvpkitError
from svpkit.export.folder import new_folder
from svpkit.export.opening import Opening, openings
from svpkit.export.subject import CLOSE, Subject, differences, hold
from svpkit.fit import to_float
from svpkit.particles.fitting import FIELD
from svpkit.store import plain

WEIGHTS = "model.safetensors"
# Options of a classifier that change timm's network.
SPECIAL = ("stem", "width", "layers", "norm")


def write_timm(subject: Subject, out: Path) -> dict[str, Any]:
    """Write the folder `out` with weights, config.json, a page and export.json, its content.

    `timm.create_model` opens it with the lines of README.md, and where they need JSON values alone
    by `timm.create_model("local-dir:OUT", pretrained=True)` too. It gives logits; what svpkit makes
    of them stands in config.json. Raises SvpkitError, with nothing written, for a network that
    timm has no arguments for and where a probability differs by more than 1e-4.
    """
    chosen = _chosen(subject)
    with new_folder(out, subject.card) as done:
        save_file(chosen.weights, done / WEIGHTS, metadata={"format": "pt"})
        found = compare(done, chosen, subject)
        hold(found, ("probabilities",), WEIGHTS)
        said = {
            "to": "timm",
            "max_abs_difference": found,
            "images": len(subject.images),
            "checked_on": subject.checked_on,
            "left_out": ["what follows the logits: see svpkit in config.json"],
            "versions": {"timm": timm.__version__, "torch": torch.__version__},
        }
        write_json(done / "config.json", _config(chosen, subject))
        write_json(done / "export.json", said | subject.facts())
        (done / "README.md").write_text(_page(chosen, subject), encoding="utf-8")
    return said


def compare(folder: Path, opening: Opening, subject: Subject) -> dict[str, float]:
    """Return how far logits and their softmax are from svpkit's, of what timm opens there."""
    network = opening.create(checkpoint_path=str(folder / WEIGHTS))
    logits = _logits(network, subject.images)
    return differences(
        {"logits": logits, "probabilities": softmax(logits)},
        {"logits": subject.logits, "probabilities": softmax(subject.logits)},
    )


def _chosen(subject: Subject) -> Opening:
    network, config = subject.model.network, subject.model.config
    if not isinstance(network, TimmClassifier):
        raise _refusal(f"classifier '{subject.name}' is no network of timm", network)
    if config.get("cosine"):
        raise _refusal("its last layer is a normalised one, not a Linear", network)
    options = config["classifier"]["options"]
    for opening in openings(network.net, subject.model.spec, options):
        if _makes(opening, subject):
            return opening
    made = ", ".join(f"{k} = {v!r}" for k, v in options.items() if k in SPECIAL and v)
    raise _refusal(f"its layers ({made}) are not those of timm's {options['model']}", network)


def _makes(opening: Opening, subject: Subject) -> bool:
    try:
        network = opening.create()
        network.load_state_dict(opening.weights)
        found = _logits(network, subject.images[:8])
    # timm's networks raise what they like for arguments and shapes that do not fit
    except Exception:  # noqa: BLE001
        return False
    return bool(np.abs(softmax(found) - softmax(subject.logits[:8])).max() <= CLOSE)


def _refusal(why: str, network: Any) -> SvpkitError:
    graph = "; --to onnx can write it" if isinstance(network, nn.Module) else ""
    return SvpkitError(f"export: {why}, which no argument of timm.create_model makes{graph}")


def _logits(network: nn.Module, images: np.ndarray, batch: int = 256) -> np.ndarray:
    with torch.inference_mode():
        blocks = torch.from_numpy(images).split(batch)
        return torch.cat([network(to_float(block)) for block in blocks]).float().numpy()


def _config(opening: Opening, subject: Subject) -> dict[str, Any]:
    # the form of the Hugging Face hub, which timm reads by "local-dir:" too
    names = {"first_conv", "classifier", "pool_size", "interpolation", "fixed_input_size"}
    base = timm.get_pretrained_cfg(opening.model)
    known: Mapping[str, Any] = base.to_dict() if base else {}
    cfg = {name: value for name, value in known.items() if name in names} | opening.overlay
    labels = cfg.pop("label_names")
    own = {k: v for k, v in opening.arguments.items() if k not in ("in_chans", "num_classes")}
    args = {"in_chans": opening.arguments["in_chans"], **own} if opening.plain else {}
    return plain(
        {
            "architecture": opening.model,
            "num_classes": len(labels),
            "in_chans": subject.model.spec.channels,
            "label_names": labels,
            "model_args": args,
            "pretrained_cfg": {**cfg, "custom_load": False},
            "svpkit": subject.facts(),
        }
    )


def _page(opening: Opening, subject: Subject) -> str:
    short = (
        "\nShorter, from the folder above:\n\n```\n"
        'timm.create_model("local-dir:THIS_FOLDER", pretrained=True)\n```\n'
    )
    return (
        "# A classifier of particles\n\n"
        f"```python\n{opening.lines(WEIGHTS)}"
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        f"```\n{short if opening.plain else ''}\n"
        f"{_given(subject)}\n"
        "`transform` is pixels / 127.5 - 1. The network gives logits: `svpkit` in config.json "
        "holds what is added to them for the class mix that the recipe states, the calibrator and "
        "the thresholds.\n\n"
        f"Classes, in this order: {', '.join(subject.model.classes)}.\n\n"
        "export.json says how far the logits are from svpkit's own.\n"
    )


def _given(subject: Subject) -> str:
    spec, intake = subject.model.spec, subject.model.config.get("intake", {})
    side, mode = f"{spec.size}x{spec.size}", "L" if spec.channels == 1 else "RGB"
    steps = [
        f"resampled to {intake['um_per_px']:g} um a pixel" if intake.get("um_per_px") else "",
        f"a smaller crop padded to {side} with the median of its border, a larger one shrunk to "
        "it and never stretched",
        f"divided by its background, which becomes grey {FIELD:g}"
        if intake.get("background") == "divide"
        else "",
    ]
    return (
        f"Give it a {side} image of mode {mode}, prepared as svpkit does: "
        f"{'; '.join(step for step in steps if step)}. Any other mode fails, and any other "
        "size is resized and cut by timm.\n\n"
        f'```python\nfrom PIL import Image\n\nimage = Image.open("particle.png").convert("{mode}")'
        f"\nassert image.size == ({spec.size}, {spec.size})\n"
        "logits = model(transform(image)[None])\n```\n"
    )
