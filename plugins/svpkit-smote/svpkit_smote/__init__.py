"""SMOTE in the images of particles, and the cleaning of borders: strategies of imbalanced-learn."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from svpkit import hookimpl, tried

__version__ = "0.1.0"

Neighbours = Annotated[int, Ge(1), "nearest particles that are looked at"]
Share = Annotated[
    Annotated[float, Gt(0), Le(1)] | Literal["raw"],
    "look for neighbours in the principal components that hold this share of the variance; "
    "raw: in the pixels",
]


@tried(options={"neighbours": 2})
def smote_pixels(
    *,
    kind: Annotated[
        Literal["smote", "borderline", "svm", "adasyn", "kmeans"],
        "where new particles are put: anywhere in a class, or where it meets others",
    ] = "smote",
    to: Annotated[
        Literal["largest"] | dict[str, Annotated[int, Ge(0)]] | Annotated[float, Ge(0)],
        "fill up to the largest class, or to counts per class; or a share of the real particles",
    ] = "largest",
    neighbours: Neighbours = 5,
    pca: Share = 0.9,
) -> Any:
    """Add blends of two neighbouring training images of a class (SMOTE and its kin)."""
    from svpkit_smote.oversampling import SmotePixels

    return SmotePixels(kind, to, neighbours, None if pca == "raw" else pca)


@tried(options={})
def tomek(
    *,
    rule: Annotated[
        Literal["tomek", "enn"],
        "leave out those in a Tomek link; or those that most of their neighbours contradict",
    ] = "tomek",
    neighbours: Annotated[int, Ge(1), "nearest particles that are asked, for enn"] = 3,
    pca: Share = 0.9,
) -> Any:
    """Leave out particles of the largest class that lie among others (Tomek links, ENN)."""
    from svpkit_smote.cleaning import Cleaning

    return Cleaning(rule, neighbours, None if pca == "raw" else pca)


@hookimpl
def register_strategies(register: Any) -> None:
    """Register both strategies."""
    register("smote_pixels", smote_pixels)
    register("tomek", tomek)
