"""A random forest on size, shape and grey of particles: a classifier that is no network."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from svpkit import ImageSpec, hookimpl, tried

__version__ = "0.1.0"

Descriptor = Literal[
    "area_px",
    "ecd_px",
    "aspect",
    "circularity",
    "grey",
    "sharpness",
    "darkest",
    "brightest",
    "spread",
]


@tried(options={"trees": 30})
def forest(
    spec: ImageSpec,
    *,
    trees: Annotated[int, Ge(1), Le(10_000), "trees"] = 200,
    depth: Annotated[int | None, Ge(1), "deepest a tree may grow; none: until leaves are pure"] = (
        None
    ),
    leaf: Annotated[int, Ge(1), "fewest training particles in a leaf"] = 1,
    share: Annotated[
        Literal["sqrt"] | Annotated[float, Gt(0), Le(1)],
        "share of the descriptors that each split may choose from; sqrt: their square root",
    ] = "sqrt",
    balanced: Annotated[
        Literal["none", "balanced", "balanced_subsample"],
        "weigh classes by the inverse of their frequency: in the whole set, or in each tree's own",
    ] = "none",
    features: Annotated[
        list[Descriptor] | None, "descriptors that are looked at; none given: all of them"
    ] = None,
) -> Any:
    """Random forest (scikit-learn) on descriptors of each particle, in pixels and grey levels."""
    from svpkit_forest.model import Forest, Growth

    growth = Growth(trees, depth, leaf, share, None if balanced == "none" else balanced)
    return Forest(spec, growth, features)


@hookimpl
def register_classifiers(register: Any) -> None:
    """Register the forest."""
    register("forest", forest)
