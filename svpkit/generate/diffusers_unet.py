"""Diffusion by the diffusers library behind the generator's contract, and its export."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor, nn

from svpkit import draws
from svpkit.errors import SvpkitError
from svpkit.generate.diffusion import turn
from svpkit.hookspecs import ImageSpec


class DiffusersUNet(nn.Module):
    """A UNet2DModel with the DDPMScheduler that makes its training noise; images in [-1, 1]."""

    def __init__(
        self,
        network: UNet2DModel,
        *,
        timesteps: int,
        schedule: str,
        prediction: str,
        augment: bool,
    ) -> None:
        super().__init__()
        side = network.config["sample_size"]
        self.network, self.augment = network, augment
        self.shape = (network.config["in_channels"], side, side)
        self.prediction, self.timesteps = prediction, timesteps
        self.noises = {
            "num_train_timesteps": timesteps,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "beta_schedule": schedule,
            "prediction_type": prediction,
            "timestep_spacing": "trailing",
        }
        self.training_noise = DDPMScheduler(**self.noises)

    def forward(
        self, images: Tensor, labels: Tensor, seeds: Tensor, *, part: str = "main"
    ) -> Tensor:
        """Return the L2 loss () of images in [-1, 1]; level, noise, turn belong to `seeds` (B,)."""
        x, noises = images, self.training_noise
        if self.augment:
            x = turn(x, draws.integers(seeds, (), 8, "turn"))
        time: Any = draws.integers(seeds, (), self.timesteps, "level")
        noise = draws.normal(seeds, self.shape, "noise")
        found = self._see(noises.add_noise(x, noise, time), time, labels)
        if self.prediction == "v_prediction":
            return F.mse_loss(found, noises.get_velocity(x, noise, time))
        return F.mse_loss(found, noise if self.prediction == "epsilon" else x)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        scheduler: Annotated[
            Literal["ddpm", "ddim", "dpmpp2m", "unipc"],
            "ddpm: ancestral; ddim, dpmpp2m, unipc: few steps and no noise on the way",
        ] = "dpmpp2m",
        steps: Annotated[int, Ge(1), "network calls an image"] = 25,
    ) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1] for labels (B,); image i depends on seeds[i]."""
        self.check_sample({"scheduler": scheduler, "steps": steps}, "sample")
        solver = self.solver(scheduler)
        with warnings.catch_warnings():
            # diffusers turns torch's numbers into numpy's the old way
            warnings.filterwarnings("ignore", message="__array__ implementation")
            solver.set_timesteps(steps)
        x = draws.normal(seeds, self.shape, "start") * solver.init_noise_sigma
        more = {"generator": _generators(seeds)} if scheduler == "ddpm" else {}
        for t in solver.timesteps:
            found = self._see(solver.scale_model_input(x, t), t, labels)
            x = solver.step(found, t, x, **more).prev_sample
        return x.clamp(-1, 1)

    def check_sample(self, sample: Mapping[str, Any], where: str) -> None:
        """Raise SvpkitError for options of `sample` that do not fit this model."""
        steps, most = sample["steps"], self.timesteps
        if steps > most:
            raise SvpkitError(f"{where}.steps: given {steps}, at most the {most} timesteps")
        # its DDIM goes on by the whole part of T / steps, whatever the next timestep is
        if sample["scheduler"] == "ddim" and most % steps:
            raise SvpkitError(
                f"{where}.steps: given {steps}, diffusers' ddim needs a divisor of the {most} "
                "timesteps"
            )

    def solver(self, scheduler: str) -> Any:
        """Return a fresh diffusers scheduler: ddpm, ddim, dpmpp2m or unipc.

        All clip the image they expect to [-1, 1]. The last two take equal steps in lambda where the
        betas are linear, as they should (Lu et al. 2022); the cosine schedule is made for equal
        steps in t.
        """
        if scheduler in ("ddpm", "ddim"):
            return {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[scheduler](**self.noises)
        linear = self.noises["beta_schedule"] == "linear"
        # the quantile of their dynamic threshold is held at 1: plain clipping
        given = {**self.noises, "thresholding": True, "sample_max_value": 1.0}
        if scheduler == "unipc":
            return UniPCMultistepScheduler(**given, use_exponential_sigmas=linear)
        return DPMSolverMultistepScheduler(**given, use_lu_lambdas=linear)

    def export(self, folder: Path) -> None:
        """Write a folder that `diffusers.DDPMPipeline.from_pretrained` opens; it must be new.

        Weights as safetensors. Draw with at most `timesteps` inference steps. Raises SvpkitError
        for a model of several classes, which that pipeline has no labels for.
        """
        if self.network.class_embedding is not None:
            raise SvpkitError(
                "export: DDPMPipeline cannot ask for a class, and this model was trained on "
                "several; train one model per class (per_class) to export"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SvpkitError(f"{folder}: exists already; name a new folder to export to")
        # safetensors takes plain layouts only
        plain = copy.deepcopy(self.network).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        pipeline = DDPMPipeline(plain, DDPMScheduler(**self.noises))
        pipeline.save_pretrained(folder, safe_serialization=True)

    def _see(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        known = self.network.class_embedding is not None
        found = self.network(x, time, labels if known else None, return_dict=False)
        return found[0].float()


def unet(
    spec: ImageSpec, channels: Sequence[int], layers: int, attention: int, groups: int
) -> UNet2DModel:
    """Return a UNet2DModel with attention at the `attention` coarsest resolutions."""
    plain = len(channels) - attention
    kinds = ["" if k < plain else "Attn" for k in range(len(channels))]
    return UNet2DModel(
        sample_size=spec.size,
        in_channels=spec.channels,
        out_channels=spec.channels,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        norm_num_groups=groups,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        num_class_embeds=len(spec.classes) if len(spec.classes) > 1 else None,
    )


def _generators(seeds: Tensor) -> list[torch.Generator]:
    # diffusers draws the noise of each image from its own generator, always on the CPU
    each = draws.bits(seeds, 1, "steps")[:, 0].tolist()
    return [torch.Generator().manual_seed(seed) for seed in each]
