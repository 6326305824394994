"""The generator to compare with: diffusers' U-Net, training noise and samplers."""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, MinLen, MultipleOf

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec, Register, hookimpl, tried

if TYPE_CHECKING:
    from svpkit.generate.diffusers_unet import DiffusersUNet


@hookimpl
def register_generators(register: Register) -> None:
    """Register `diffusers_unet`."""
    register("diffusers_unet", diffusers_unet)


@tried(
    # 50 levels end in noise on the cosine schedule alone, and an image is learned soonest
    options={
        **{"channels": (16, 32), "layers": 1, "attention": 0, "groups": 8, "timesteps": 50},
        **{"schedule": "squaredcos_cap_v2", "prediction": "sample"},
    },
    sample={"steps": 4},
    images=1600,
)
def diffusers_unet(
    spec: ImageSpec,
    *,
    channels: Annotated[
        tuple[Annotated[int, Ge(8), Le(16_384), MultipleOf(8)], ...],
        MinLen(1),
        "channels of each resolution, the finest first; each halves the side of the one before",
    ] = (64, 128, 256, 512),
    layers: Annotated[int, Ge(1), Le(64), "residual blocks at each resolution"] = 2,
    attention: Annotated[
        int, Ge(0), "how many of the coarsest resolutions have attention; the middle always has"
    ] = 2,
    groups: Annotated[int, Ge(1), "groups of each group norm"] = 32,
    timesteps: Annotated[int, Ge(2), Le(10_000), "noise levels T"] = 1000,
    schedule: Annotated[
        Literal["linear", "squaredcos_cap_v2"], "betas 1e-4 .. 0.02, or cosine"
    ] = "linear",
    prediction: Annotated[
        Literal["epsilon", "sample", "v_prediction"], "what the network predicts"
    ] = "epsilon",
    augment: Annotated[
        bool, "train on flips and quarter turns: a particle keeps its class in any orientation"
    ] = True,
) -> "DiffusersUNet":
    """Denoising diffusion (Ho et al. 2020) by the diffusers library: UNet2DModel, L2 loss.

    A model of one class exports as a folder that `DDPMPipeline.from_pretrained` opens.
    """
    where = "generator.options"
    divides = 2 ** (len(channels) - 1)
    if spec.size % divides:
        raise SvpkitError(
            f"{where}.channels: {len(channels)} resolutions need a size that divides by "
            f"{divides}, data.size is {spec.size}"
        )
    uneven = [width for width in channels if width % groups]
    if uneven:
        raise SvpkitError(
            f"{where}.groups: {groups} groups do not divide the {uneven[0]} of channels "
            f"{list(channels)}; a divisor of them all is wanted"
        )
    if attention > len(channels):
        raise SvpkitError(
            f"{where}.attention: given {attention}, there are {len(channels)} resolutions"
        )
    from svpkit.generate.diffusers_unet import DiffusersUNet, unet

    return DiffusersUNet(
        unet(spec, channels, layers, attention, groups),
        timesteps=timesteps,
        schedule=schedule,
        prediction=prediction,
        augment=augment,
    )
