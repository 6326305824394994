"""Reference generators, which learn next to nothing: what any other one has to beat."""

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from svpkit.hookspecs import ImageSpec, Register, hookimpl, tried

if TYPE_CHECKING:
    from svpkit.generate.references import Copy, GaussianPCA, Noise


@hookimpl
def register_generators(register: Register) -> None:
    """Register the references."""
    register("copy", copy)
    register("copy_augment", copy_augment)
    register("noise", noise)
    register("gaussian_pca", gaussian_pca)


def copy(spec: ImageSpec) -> "Copy":
    """Draw training images again, as they are."""
    from svpkit.generate.references import Copy

    return Copy()


def copy_augment(
    spec: ImageSpec,
    *,
    shift: Annotated[float, Ge(0), Le(0.5), "largest shift, as a share of the side"] = 0.0625,
) -> "Copy":
    """Draw training images again, flipped, turned and shifted at random."""
    from svpkit.generate.references import Copy

    return Copy(turns=True, shift=round(shift * spec.size))


@tried(spared={"learns": "it learns the mean grey of a class and no shape"})
def noise(spec: ImageSpec) -> "Noise":
    """Draw Gaussian white noise with each class's mean and standard deviation."""
    from svpkit.generate.references import Noise

    return Noise((spec.channels, spec.size, spec.size))


def gaussian_pca(
    spec: ImageSpec,
    *,
    variance: Annotated[
        float, Gt(0), Le(1), "share of the variance in the components; the rest is white noise"
    ] = 0.99,
    augment: Annotated[
        bool, "learn from flips and quarter turns: a particle keeps its class in any orientation"
    ] = True,
) -> "GaussianPCA":
    """Draw from one Gaussian a class: probabilistic PCA of its images (Tipping & Bishop 1999)."""
    from svpkit.generate.references import GaussianPCA

    return GaussianPCA((spec.channels, spec.size, spec.size), variance, augment)
