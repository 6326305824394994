"""The folder of a generator as diffusers opens it, held to what svpkit says."""

import copy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from torch import Tensor

from svpkit.export.subject import differences, hold
from svpkit.generate.diffusers_unet import DiffusersUNet

# Noisy images that both are asked about, over all times from the first to the last.
IMAGES = 8


def compared(folder: Path, model: Any) -> dict[str, Any]:
    """Open a folder with `DDPMPipeline.from_pretrained` and return how far it is from `model`.

    {"max_abs_difference": {"prediction": of the network's answer to fixed noise, "alphas": of the
    products of 1 - beta}, "images", "checked_on", "versions"}, all on the CPU. Raises SvpkitError
    for a difference of more than 1e-4. A stranger's generator, whose `export` has a form that
    svpkit does not know, is not compared: {"max_abs_difference": {}}.
    """
    if not isinstance(model, DiffusersUNet):
        return {"max_abs_difference": {}, "images": 0, "checked_on": "nothing"}
    pipeline = DDPMPipeline.from_pretrained(folder, local_files_only=True)
    own = copy.deepcopy(model).cpu().eval()
    x, times = _fixed(own)
    with torch.inference_mode():
        wanted = {
            "prediction": own.network(x, times).sample,
            "alphas": own.training_noise.alphas_cumprod,
        }
        found = {
            "prediction": pipeline.unet(x, times).sample,
            "alphas": pipeline.scheduler.alphas_cumprod,
        }
    said = differences(_numbers(found), _numbers(wanted))
    hold(said, tuple(said), "diffusers' pipeline")
    versions = {each.__name__: each.__version__ for each in (diffusers, torch)}
    return {
        "max_abs_difference": said,
        "images": IMAGES,
        "checked_on": "noise",
        "versions": versions,
    }


def _fixed(model: DiffusersUNet) -> tuple[Tensor, Tensor]:
    rng = np.random.Generator(np.random.Philox(0))
    x = rng.normal(size=(IMAGES, *model.shape)).astype(np.float32)
    times = np.linspace(0, model.timesteps - 1, IMAGES).round().astype(np.int64)
    return torch.from_numpy(x), torch.from_numpy(times)


def _numbers(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}
