"""What a network predicts of a noisy image: targets, the image behind a prediction, weights.

Throughout, noisy = alpha * x + sigma * noise with alpha^2 + sigma^2 = 1, and `prediction` is
"noise", "image", "v" or "edm".

"edm" is the objective of Karras et al. 2022 in these terms. For images of unit variance their
preconditioning has c_in = alpha, c_skip = alpha^2 and c_out = sigma, so that with the weight
1 / c_out^2 their network's target is that of "v" with the other sign.
"""

import math

import torch
from torch import Tensor

# ln(sigma) of the levels that EDM trains on, for data of unit variance (Karras et al. 2022,
# table 1, whose sigma_data is 0.5).
LOGNORMAL = (-1.2 - math.log(0.5), 1.2)


def target(prediction: str, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network should find for images x (B, C, H, W) under this noise."""
    if prediction == "noise":
        return noise
    return x if prediction == "image" else alpha * noise - sigma * x


def image(prediction: str, noisy: Tensor, found: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return the image (B, C, H, W) that the network's answer `found` says is behind `noisy`.

    For "noise" alpha may not be 0.
    """
    if prediction == "noise":
        return (noisy - sigma * found) / alpha
    return found if prediction == "image" else alpha * noisy - sigma * found


def min_snr(prediction: str, lam: Tensor, gamma: float) -> Tensor:
    """Return weights (B,) that train on the image with at most weight gamma (Hang et al. 2023).

    In terms of the signal-to-noise ratio exp(2 lambda): min(snr, gamma) on the squared error of the
    image, and so over snr on that of the noise, over snr + 1 on that of v. Not for "edm".
    """
    snr = torch.exp(2 * lam)
    weight = snr.clamp(max=gamma)
    if prediction == "noise":
        return weight / snr
    return weight if prediction == "image" else weight / (snr + 1)


def lognormal(table: Tensor, normal: Tensor) -> Tensor:
    """Return EDM's lambdas (B,) to train on for standard normal numbers (B,).

    They stay within those of the schedule's table.
    """
    mean, sd = LOGNORMAL
    lam = -(mean + sd * normal)
    return torch.minimum(torch.maximum(lam, table[-1]), table[0])
