"""A small network that tells the toy shapes apart, trained once in seconds for the tests of it."""

from functools import lru_cache

import numpy as np
import torch
from toy import CLASSES, images

from svpkit import draws
from svpkit.default_plugins.timm_models import timm_model
from svpkit.fit import to_float
from svpkit.hookspecs import ImageSpec


def pictures(counts, seed):
    """Return toy images uint8 (N, 1, 16, 16) and labels int (N,) in the order of `counts`."""
    names = list(counts)
    pixels, labels = images(counts, seed)
    return pixels, np.array([names.index(name) for name in labels])


@lru_cache(maxsize=2)
def network(names=CLASSES, steps=40):
    """Return a network trained on 300 toy images of each of these classes."""
    pixels, labels = pictures(dict.fromkeys(names, 300), seed=0)
    with draws.seeded(0, "toynet"):
        net = timm_model(ImageSpec(1, 16, names), model="resnet10t", width=16, stem="half")
    x, y = to_float(torch.from_numpy(pixels)), torch.from_numpy(labels)
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3)
    order = draws.epochs(len(y), 64, 0)
    for step in range(steps):
        rows = torch.from_numpy(order(step))
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        opt.step()
    return net.eval()


def seen(net, pixels):
    """Return features (N, F) and logits (N, K) of images, float32."""
    with torch.inference_mode():
        x = to_float(torch.from_numpy(np.ascontiguousarray(pixels)))
        return net.features(x).numpy(), net(x).numpy()
