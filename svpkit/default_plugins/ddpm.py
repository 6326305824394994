"""The built-in generator: denoising diffusion with our own U-Nets."""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, MultipleOf

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec, Register, hookimpl

if TYPE_CHECKING:
    from svpkit.generate.diffusion import Diffusion


@hookimpl
def register_generators(register: Register) -> None:
    """Register `ddpm`."""
    register("ddpm", ddpm)


def ddpm(
    spec: ImageSpec,
    *,
    architecture: Annotated[
        Literal["reference", "lean"], "reference: the paper's U-Net; lean: far faster on a CPU"
    ] = "reference",
    width: Annotated[int, Ge(8), MultipleOf(8), "channels at full resolution"] = 64,
    mults: Annotated[
        tuple[Annotated[int, Ge(1)], ...],
        "channels of each resolution in widths; empty: 1, 2, 4, 8 (lean: 1, 2, 4)",
    ] = (),
    blocks: Annotated[int, Ge(1), "residual blocks at each resolution"] = 2,
    timesteps: Annotated[int, Ge(2), Le(10_000), "noise levels T"] = 500,
    schedule: Annotated[Literal["linear", "cosine"], "betas 1e-4 .. 0.02, or cosine"] = "linear",
    prediction: Annotated[Literal["noise", "v"], "what the network predicts"] = "noise",
    levels: Annotated[
        Literal["uniform", "lognormal"],
        "noise levels trained on: each alike, or most in the middle, as EDM",
    ] = "uniform",
    loss: Annotated[Literal["l1", "l2", "huber"], "distance to the prediction's target"] = "l1",
    standardise: Annotated[
        bool, "scale images to mean 0 and variance 1 inside the model, as EDM's preconditioning"
    ] = False,
    augment: Annotated[
        bool, "train on flips and quarter turns: a particle keeps its class in any orientation"
    ] = True,
) -> "Diffusion":
    """Denoising diffusion (Ho et al. 2020), by default the paper's: T = 500, L1 on the noise.

    `prediction = "v"`, `levels = "lognormal"`, `loss = "l2"` and `standardise = true` together are
    EDM's objective (Karras et al. 2022): better images from few training steps.
    """
    from svpkit.generate.diffusion import Diffusion
    from svpkit.generate.lean import STEM, LeanUNet
    from svpkit.generate.schedules import SCHEDULES
    from svpkit.generate.unet import ReferenceUNet

    lean = architecture == "lean"
    mults = mults or ((1, 2, 4) if lean else (1, 2, 4, 8))
    divides = (STEM if lean else 1) * 2 ** (len(mults) - 1)
    if spec.size % divides:
        raise SvpkitError(
            f"generator.options.mults: {len(mults)} resolutions of '{architecture}' need a size "
            f"that divides by {divides}, data.size is {spec.size}"
        )
    network = (LeanUNet if lean else ReferenceUNet)(
        spec.channels, width, len(spec.classes), mults, blocks
    )
    return Diffusion(
        network,
        (spec.channels, spec.size, spec.size),
        len(spec.classes),
        table=SCHEDULES[schedule](timesteps),
        prediction=prediction,
        levels=levels,
        loss=loss,
        standardise=standardise,
        augment=augment,
    )
