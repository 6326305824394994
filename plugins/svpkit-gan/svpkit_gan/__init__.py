"""A generator for svpkit: one GAN for all classes, made for few and small particle images."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, MultipleOf
from svpkit import ImageSpec, SvpkitError, hookimpl, tried

if TYPE_CHECKING:
    from svpkit_gan.model import Gan

__version__ = "0.1.0"

SMALLEST, LARGEST = 16, 128
# The side of the first, smallest image that a network works on.
BASES = (4, 5, 6, 7)


@hookimpl
def register_generators(register: Callable[[str, Any], None]) -> None:
    """Register `gan`."""
    register("gan", gan)


@tried(options={"width": 8, "latent": 8, "augment": ("turn",)}, images=9_000)
def gan(
    spec: ImageSpec,
    *,
    width: Annotated[int, Ge(8), MultipleOf(8), "channels at half the resolution"] = 32,
    latent: Annotated[int, Ge(1), "random numbers behind an image, and numbers of its style"] = 64,
    r1: Annotated[
        float, Ge(0), "weight of the R1 penalty; more is steadier and learns slower; 0: none"
    ] = 0.1,
    augment: Annotated[
        tuple[Literal["turn", "shift", "cutout", "light"], ...],
        "what the discriminator sees every image through, drawn or real",
    ] = ("turn", "shift"),
    discriminator_rate: Annotated[
        float, Gt(0), "the discriminator's learning rate over the generator's"
    ] = 1.0,
) -> "Gan":
    """Class-conditional GAN: styled convolutions against a projection discriminator.

    Non-saturating logistic loss with R1 (Mescheder et al. 2018) and differentiable augmentation
    (Zhao et al. 2020). Raises SvpkitError for a size of images that it does not draw.
    """
    base = base_of(spec.size)
    from svpkit_gan.model import Gan
    from svpkit_gan.networks import Discriminator, Generator

    shape, classes = (spec.channels, spec.size, base), len(spec.classes)
    return Gan(
        Generator(shape, classes, width, latent),
        Discriminator(shape, classes, width),
        r1=r1,
        augment=augment,
        discriminator_rate=discriminator_rate,
    )


def base_of(size: int) -> int:
    """Return the side of the smallest image: 4 to 7, the size over a power of two.

    Raises SvpkitError for a size that is none such, or not in 16 .. 128.
    """
    sides = {base * 2**k: base for base in BASES for k in range(6)}
    sides = {side: base for side, base in sides.items() if SMALLEST <= side <= LARGEST}
    if size not in sides:
        near = min(sides, key=lambda side: abs(side - size))
        raise SvpkitError(
            f"generator.plugin: 'gan' draws 4, 5, 6 or 7 times a power of two, {SMALLEST} to "
            f"{LARGEST} pixels, data.size is {size} (nearest: {near})"
        )
    return sides[size]
