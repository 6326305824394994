"""The GAN as svpkit trains and draws with it: two losses, two optimizers, images by their seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from svpkit import SvpkitError, draws
from torch import Tensor, nn

from svpkit_gan.augment import augmented
from svpkit_gan.networks import Discriminator, Generator

if TYPE_CHECKING:
    from svpkit import ParticleSet

# Adam without momentum: the other network moves on meanwhile.
BETAS = (0.0, 0.99)
# Of how many real images one is penalised; of how many latents a class's mean style is.
ONE_OF, LATENTS = 4, 1024
LOOK_AT = 4096


class Gan(nn.Module):
    """A generator and a discriminator on images of mean 0 and spread 1, which `prepare` measures.

    It trains in float32 whatever the precision asked for: R1 differentiates twice.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        r1: float = 0.1,
        augment: Sequence[str] = (),
        discriminator_rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.r1, self.augment, self.rate = r1, tuple(augment), discriminator_rate
        self.register_buffer("centre", torch.zeros(generator.shape[0], 1, 1))
        self.register_buffer("scale", torch.ones(()))

    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """Return the parameters of the two optimizers; the discriminator goes first."""
        rates = {"discriminator": self.rate, "generator": 1.0}
        found = {name: list(getattr(self, name).parameters()) for name in rates}
        return {
            name: [{"params": found[name], "betas": BETAS, "rate": rate}]
            for name, rate in rates.items()
        }

    def prepare(self, particles: "ParticleSet") -> None:
        """Measure level and spread of the training images, at most 4096 of them."""
        n = min(len(particles), LOOK_AT)
        images = particles.images(np.arange(n) * len(particles) // n)
        x = torch.from_numpy(np.asarray(images, np.float32)) / 127.5 - 1
        self.centre.copy_(x.mean(dim=(0, 2, 3))[:, None, None])
        self.scale.copy_((x - self.centre.cpu()).square().mean().sqrt().clamp(min=1e-3))

    def forward(
        self, images: Tensor, labels: Tensor, seeds: Tensor, *, part: str = "main"
    ) -> Tensor:
        """Return the loss () of a part, "discriminator" or "generator", on images in [-1, 1].

        Latents, grain and augmentation belong to `seeds` (B,). Raises SvpkitError for no such part.
        """
        losses = {"discriminator": self._discriminating, "generator": self._generating}
        if part not in losses:
            raise SvpkitError(f"gan: no part '{part}', it has {' and '.join(losses)}")
        with torch.autocast(images.device.type, enabled=False):
            return losses[part](images.float(), labels, seeds)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        truncation: Annotated[
            float, Ge(0), Le(1), "1: all that it learnt; less: nearer to a class's mean style"
        ] = 1.0,
    ) -> Tensor:
        """Return images float32 (B, C, H, W) in [-1, 1]; image i depends on label and seed i."""
        net = self.generator
        style = net.style(draws.normal(seeds, (net.latent,), "sample"), labels)
        if truncation < 1:
            style = torch.lerp(self._means(seeds.device)[labels], style, truncation)
        return (net(style, seeds) * self.scale + self.centre).clamp(-1, 1)

    def _means(self, device: torch.device) -> Tensor:
        # the mean style of each class (K, L), always of the same latents
        net = self.generator
        latents = draws.seeds(0, "truncation", index=range(LATENTS)).to(device)
        z = draws.normal(latents, (net.latent,), "sample")
        each = [torch.full((LATENTS,), k, device=device) for k in range(net.classes)]
        return torch.stack([net.style(z, labels).mean(dim=0) for labels in each])

    def _drawn(self, labels: Tensor, seeds: Tensor, stream: str) -> Tensor:
        net = self.generator
        own = draws.bits(seeds, 1, stream).squeeze(1)
        style = net.style(draws.normal(own, (net.latent,), "sample"), labels)
        return augmented(net(style, own), own, self.augment, "drawn")

    def _generating(self, images: Tensor, labels: Tensor, seeds: Tensor) -> Tensor:
        drawn = self._drawn(labels, seeds, "generator")
        return F.softplus(-self.discriminator(drawn, labels)).mean()

    def _discriminating(self, images: Tensor, labels: Tensor, seeds: Tensor) -> Tensor:
        with torch.no_grad():
            drawn = self._drawn(labels, seeds, "discriminator")
        real = augmented((images - self.centre) / self.scale, seeds, self.augment, "real")
        logits = self.discriminator(torch.cat([real, drawn]), torch.cat([labels, labels]))
        of_real, of_drawn = logits.chunk(2)
        loss = (F.softplus(-of_real) + F.softplus(of_drawn)).mean()
        if not self.r1:
            return loss
        # one image of four on average, by its seed, counts for all: cheaper, and the same mean
        chosen = draws.integers(seeds, (), ONE_OF, "r1") == 0
        penalties = r1_penalty(self.discriminator, real[chosen], labels[chosen])
        return loss + self.r1 * penalties.sum() * (ONE_OF / len(real))


def r1_penalty(discriminator: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return half the squared gradient of each logit by its image, (B,) (Mescheder et al. 2018)."""
    images = images.detach().requires_grad_()
    logits = discriminator(images, labels)
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.square().sum(dim=(1, 2, 3)) / 2
