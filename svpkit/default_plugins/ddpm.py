"""The built-in generator: denoising diffusion with our own U-Nets."""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, Lt, MultipleOf

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec, Register, hookimpl, tried

if TYPE_CHECKING:
    from torch import nn

    from svpkit.generate.diffusion import Diffusion


@hookimpl
def register_generators(register: Register) -> None:
    """Register `ddpm`."""
    register("ddpm", ddpm)


@tried(
    options={"architecture": "lean", "width": 16, "mults": (1, 2), "blocks": 1, "timesteps": 50},
    sample={"steps": 4},
    images=1600,
)
def ddpm(
    spec: ImageSpec,
    *,
    architecture: Annotated[
        Literal["reference", "lean"], "reference: the paper's U-Net; lean: far faster on a CPU"
    ] = "reference",
    width: Annotated[int, Ge(8), Le(4096), MultipleOf(8), "channels at full resolution"] = 64,
    mults: Annotated[
        tuple[Annotated[int, Ge(1), Le(64)], ...],
        "channels of each resolution in widths; empty: 1, 2, 4, 8 (lean: 1, 2, 4)",
    ] = (),
    blocks: Annotated[int, Ge(1), Le(64), "residual blocks at each resolution"] = 2,
    timesteps: Annotated[int, Ge(2), Le(10_000), "noise levels T; 500 linear ones end early"] = 500,
    schedule: Annotated[
        Literal["linear", "cosine", "sigmoid"], "how noise grows: betas 1e-4 .. 0.02, or a curve"
    ] = "linear",
    zero_terminal: Annotated[
        bool, "stretch the schedule to end in pure noise; for prediction 'v' and 'image'"
    ] = False,
    prediction: Annotated[
        Literal["noise", "image", "v", "edm"],
        "what the network predicts; edm: EDM's preconditioning, levels and weights",
    ] = "noise",
    loss: Annotated[
        Literal["auto", "l1", "l2", "huber"],
        "distance to the prediction's target; auto: l1, with edm or min_snr l2",
    ] = "auto",
    min_snr: Annotated[
        float, Ge(0), "gamma that limits the weight of nearly clean images, 5 is usual; 0: off"
    ] = 0.0,
    label_dropout: Annotated[
        float, Ge(0), Lt(1), "share of labels left unsaid, for sample.guidance; several classes"
    ] = 0.0,
    augment: Annotated[
        bool, "train on flips and quarter turns: a particle keeps its class in any orientation"
    ] = True,
) -> "Diffusion":
    """Denoising diffusion (Ho et al. 2020), by default the paper's: T = 500, L1 on the noise.

    `prediction = "edm"` gives better images from few training steps (Karras et al. 2022).
    """
    from svpkit.generate import schedules
    from svpkit.generate.diffusion import Diffusion

    _check(prediction, zero_terminal, min_snr, loss)
    table = schedules.SCHEDULES[schedule](timesteps)
    if prediction == "edm":
        table = table[table >= -schedules.EDM_RANGE]
    return Diffusion(
        _network(spec, architecture, width, mults, blocks, len(spec.classes) + (label_dropout > 0)),
        (spec.channels, spec.size, spec.size),
        len(spec.classes),
        table=schedules.zero_terminal(table) if zero_terminal else table,
        prediction=prediction,
        loss=loss,
        min_snr=min_snr,
        label_dropout=label_dropout,
        augment=augment,
    )


def _network(
    spec: ImageSpec,
    architecture: str,
    width: int,
    mults: tuple[int, ...],
    blocks: int,
    labels: int,
) -> "nn.Module":
    from svpkit.generate.lean import STEM, LeanUNet
    from svpkit.generate.unet import ReferenceUNet

    lean = architecture == "lean"
    mults = mults or ((1, 2, 4) if lean else (1, 2, 4, 8))
    divides = (STEM if lean else 1) * 2 ** (len(mults) - 1)
    if spec.size % divides:
        raise SvpkitError(
            f"generator.options.mults: {len(mults)} resolutions of '{architecture}' need a size "
            f"that divides by {divides}, data.size is {spec.size}"
        )
    return (LeanUNet if lean else ReferenceUNet)(spec.channels, width, labels, mults, blocks)


def _check(prediction: str, zero_terminal: bool, min_snr: float, loss: str) -> None:
    where = "generator.options"
    if zero_terminal and prediction in ("noise", "edm"):
        why = {
            "noise": "says nothing of the image in pure noise",
            "edm": "hardly ever trains on pure noise",
        }[prediction]
        raise SvpkitError(
            f"{where}.zero_terminal: given true, but prediction '{prediction}' {why}; predict 'v' "
            "or 'image'"
        )
    if min_snr and prediction == "edm":
        raise SvpkitError(
            f"{where}.min_snr: given {min_snr}, prediction 'edm' has weights of its own; 0, or "
            "predict 'v'"
        )
    if min_snr and zero_terminal:
        raise SvpkitError(
            f"{where}.min_snr: given {min_snr}, which leaves the pure noise of zero_terminal "
            "untrained; 0, or zero_terminal = false"
        )
    if min_snr and loss not in ("auto", "l2"):
        raise SvpkitError(
            f"{where}.loss: given '{loss}', min_snr weighs squared errors: 'l2' (or 'auto')"
        )
