"""The built-in classifier: any model of the timm library."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MultipleOf

from svpkit.hookspecs import ImageSpec, Register, hookimpl, tried


@hookimpl
def register_classifiers(register: Register) -> None:
    """Register `timm`."""
    register("timm", timm_model)


@tried(options={"model": "resnet10t", "width": 8, "stem": "half", "norm": "group"}, images=1280)
def timm_model(
    spec: ImageSpec,
    *,
    model: Annotated[str, "a model of timm, such as resnet18 or convnext_atto"] = "resnet18",
    pretrained: Annotated[bool, "start from timm's weights, fetched once over the network"] = False,
    stem: Annotated[
        Literal["auto", "small", "half", "standard"],
        "first convolution: small has stride 1, half stride 2, both without a pool after it",
    ] = "auto",
    width: Annotated[
        int | None, Ge(8), MultipleOf(8), "ResNets: channels of the first stage; then 2, 4, 8 times"
    ] = None,
    layers: Annotated[
        tuple[Annotated[int, Ge(1)], ...], "ResNets: blocks of each stage; empty: the model's own"
    ] = (),
    norm: Annotated[
        Literal["batch", "group"], "ResNets: group norm gives the same on one process and many"
    ] = "batch",
    dropout: Annotated[float, Ge(0), Le(0.9), "share of features dropped before the logits"] = 0.0,
) -> Any:
    """Any model of timm, its input set to the particles' channels.

    Networks made for photographs of 224 pixels throw small images away in their first layers, so
    `stem = "auto"` is small up to 32 pixels, half up to 64 (four times the work of the standard
    one), standard above, and standard where a network has no such stem. The quickest useful
    model is `model = "resnet10t", width = 16, stem = "half"`: 0.3 M parameters.
    """
    from svpkit.classify.networks import build

    return build(
        spec,
        model,
        pretrained=pretrained,
        stem=stem,
        dropout=dropout,
        width=width,
        layers=layers,
        norm=norm,
    )
