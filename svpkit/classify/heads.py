"""The last layer of a network: found, read, written, or exchanged for a normalised one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from svpkit.classify.second import Head
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec


class Cosine(nn.Module):
    """Logits = scale times the cosine between features and each class's weights (LDAM's head)."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(functional.normalize(torch.randn(classes, features), dim=1))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return logits float32 (B, K) of features (B, F)."""
        # half precision would round a logit of 30 to eighths
        with torch.autocast(x.device.type, enabled=False):
            weight = functional.normalize(self.weight.float(), dim=1)
            return self.scale * functional.linear(functional.normalize(x.float(), dim=1), weight)


def last_layer(network: Any, name: str) -> nn.Linear:
    """Return the classifier's last layer: its `head`, a Linear.

    Raises SvpkitError for a classifier, by `name`, that has none to offer.
    """
    head = getattr(network, "head", None)
    if not isinstance(network, nn.Module) or not isinstance(head, nn.Linear):
        raise SvpkitError(
            f"balance.strategies: classifier '{name}' has no last layer (`head`, a Linear after "
            "its `features`) to work on"
        )
    return head


@torch.no_grad()
def check(network: Any, spec: ImageSpec, name: str) -> None:
    """Raise SvpkitError unless the logits are the last layer's answer to the features."""
    head, training = last_layer(network, name), network.training
    shape, place = (2, spec.channels, spec.size, spec.size), head.weight.device
    images = torch.linspace(-1, 1, int(np.prod(shape)), device=place).view(shape)
    network.eval()
    same = torch.allclose(head(network.features(images)), network(images), atol=1e-4, rtol=1e-4)
    network.train(training)
    if not same:
        raise SvpkitError(
            f"balance.strategies: the logits of classifier '{name}' are not its `head` applied to "
            "its `features`"
        )


def use_cosine(network: Any, scale: float, name: str) -> None:
    """Exchange the last layer for a normalised one of this scale, drawn by torch's generator."""
    old = last_layer(network, name)
    path = next(path for path, module in network.named_modules() if module is old)
    network.set_submodule(path, Cosine(old.in_features, old.out_features, scale))


def read(network: Any, prior: np.ndarray, name: str) -> Head:
    """Return the last layer as arrays float64, having learnt this prior (K,)."""
    layer = last_layer(network, name)
    weight = layer.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu()
    return Head(weight, np.asarray(bias), prior)


@torch.no_grad()
def write(network: Any, head: Head, name: str) -> None:
    """Set the last layer to these arrays; raises SvpkitError for a bias where none has room."""
    layer = last_layer(network, name)
    layer.weight.copy_(torch.from_numpy(head.weight))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(head.bias))
    elif head.bias.any():
        raise SvpkitError(f"balance.strategies: the last layer of '{name}' has no bias to set")
