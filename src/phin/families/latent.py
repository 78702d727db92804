"""Latent diffusion: an autoencoder whose latents are small pictures, and a denoiser that lives among them.

The autoencoder keeps what a picture shows and leaves the rest to its decoder; a diffusion model then has
fewer places to look after. Its latents cost next to nothing: they are to be near zero and smooth, not to tell
little, so that draws of their prior are no pictures, and it takes a model of them to draw any.

What is diffused is a *space*: pixels, or latents, and whatever diffuses in one diffuses in the other.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), arXiv:2112.10752,
        section 3.1 and appendix G (the KL-regularised autoencoder, and the scale of its latents). Its losses
        that need an adversary, or the weights of other networks (LPIPS), are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from phin.diffusion.denoiser import Denoiser
from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder
from phin.families.elbo import Normal, Path, chain
from phin.families.likelihood import Likelihood
from phin.families.vae import check
from phin.nets.precision import autocast
from phin.nets.resnet import Head, LabelEmbedding, Modulated, pyramid, resolutions
from phin.nets.unet import Convolution

BATCH = 512  # pictures that are encoded at once


class KLAutoencoder(Autoencoder):
    """A variational autoencoder whose latents are a picture of their own: q(z | x), N(0, I) and p(x | z).

    It is made of convolutions alone, so that it takes pictures of any size that its resolutions divide.

    Args:
        encoder: From x (B, C, *sides) to the raw mean and variance of z, channels last.
        decoder: From z (B, *fewer, latents), to the raw of x.
        width: Of the one condition that modulates all blocks.
        lowest: One z, (*fewer, latents), of the pictures that it draws by itself.
        likelihood: As of `Autoencoder`.
        drawn: As of `Autoencoder`.
    """

    def __init__(
        self,
        encoder: Modulated,
        decoder: Modulated,
        width: int,
        lowest: tuple[int, ...],
        likelihood: Likelihood,
        drawn: bool = False,
    ) -> None:
        super().__init__(likelihood, drawn)
        self.encoder, self.decoder, self.lowest = encoder, decoder, lowest
        self.shared = LabelEmbedding(0, width)

    def posterior(self, x: Tensor) -> Normal:
        """q(z | x), channels last."""
        return Normal.of(self.encoder(x, self.shared(None, len(x))))

    def decode(self, z: Tensor) -> Tensor:
        """Raw, what the likelihood reads, of latents, channels last."""
        return self.decoder(z, self.shared(None, len(z)))

    def forward(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> tuple[Tensor, Path]:
        path = chain(x, [self.posterior], [], noise)
        return self.decode(path.out), path

    def imagine(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        return self.decode(noise(torch.empty(count, *self.lowest, device=self.device)))


@dataclass(frozen=True)
class KLConfig:
    """Size and shape of an autoencoder for latent diffusion."""

    channels: tuple[int, ...] = (48, 96)
    """Channels of each resolution, in the encoder and in the decoder; each is half of the one before."""
    blocks: int = 1
    """Residual blocks of each resolution, on either side."""
    latents: int = 4
    """Channels of the latents; their sides are those of the lowest resolution."""
    patch: int = 2
    """Side of the patches that are folded into channels before the first resolution."""

    def __post_init__(self) -> None:
        check(self.channels, self.blocks, self.patch)
        if self.latents < 1:
            raise PhinError(f"latents = {self.latents}: at least 1 channel is needed")

    def build(
        self, shape: tuple[int, ...], likelihood: Likelihood, classes: int = 0, drawn: bool = False
    ) -> KLAutoencoder:
        """The model, untrained; arguments as of `VAEConfig.build`.

        Raises:
            PhinError: A side that the resolutions do not divide, or labels, which its latents are to hold.
        """
        if classes:
            raise PhinError("an autoencoder for latent diffusion is told no labels: give drop 1")
        inputs, *sides = shape
        dims, width, last = len(sides), max(self.channels), self.channels[-1]
        outputs = likelihood.numbers * inputs
        falling, rising = pyramid(dims, self.patch, self.channels, self.blocks, inputs, outputs)
        encoder = Modulated(*falling, Head(last, 2 * self.latents))
        decoder = Modulated(Convolution(dims, self.latents, last), *rising)
        lowest = (*self.sides(sides), self.latents)
        return KLAutoencoder(encoder, decoder, width, lowest, likelihood, drawn)

    def sides(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Sides of the latents of a picture with these.

        Raises:
            PhinError: The resolutions do not divide one.
        """
        return resolutions(sides, self.patch, len(self.channels))[-1]


class Space(Protocol):
    """Where a diffusion model lives, and the ways there and back."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of what is diffused, (C, *sides), for data of this shape."""
        ...

    def encode(self, x: Tensor) -> Normal:
        """What is diffused of data (B, C, *sides): a distribution, to draw from."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """The data again, from a sample."""
        ...


class Pixels:
    """The data themselves."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def encode(self, x: Tensor) -> Normal:
        return Normal(x, torch.full_like(x, -math.inf))

    def decode(self, z: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class LatentFacts:
    """Which latents a model lives in."""

    net: KLConfig
    likelihood: str
    weights: str
    """The beginning of the SHA-256 sum of the autoencoder's weights."""


class Latents(nn.Module):
    """The latents of a trained autoencoder, each channel shifted and scaled to mean 0 and variance 1.

        z = (u - shift) / scale,    u ~ q(u | x).

    Rombach et al. scale all channels by one factor; their means, which nothing keeps at zero, and their
    variances may differ, and a model of data of unit variance would see some channels at other levels than
    others. Shift and scale belong to the weights, and so does the whole autoencoder: none of them is trained
    any more.

    Args:
        autoencoder: The autoencoder.
        facts: What is noted of it.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, autoencoder: KLAutoencoder, facts: LatentFacts) -> None:
        super().__init__()
        self.autoencoder, self.facts = autoencoder, facts
        self.requires_grad_(False)
        self.register_buffer("shift", torch.zeros(facts.net.latents, device=autoencoder.device))
        self.register_buffer("scale", torch.ones(facts.net.latents, device=autoencoder.device))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.facts.net.latents, *self.facts.net.sides(shape[1:]))

    def fit(self, x: Tensor) -> None:
        """Takes shift and scale from these data (B, C, *sides).

        The variance of draws is that of their means and the mean of their variances.
        """
        mean, log_var = (part.movedim(1, -1).flatten(0, -2).double() for part in self._unscaled(x))
        self.shift.copy_(mean.mean(0))
        self.scale.copy_((mean.var(0, correction=0) + log_var.exp().mean(0)).sqrt())

    def encode(self, x: Tensor) -> Normal:
        """q(z | x), channels first."""
        mean, log_var = self._unscaled(x)
        shift, scale = self._over(mean)
        return Normal((mean - shift) / scale, log_var - 2 * scale.log())

    def decode(self, z: Tensor) -> Tensor:
        """E[x | z]."""
        shift, scale = self._over(z)
        u = (z * scale + shift).movedim(1, -1)
        with autocast(z.device):
            raw = torch.cat([self.autoencoder.decode(part) for part in u.split(BATCH)])
        return self.autoencoder.likelihood.mean(raw.to(z))

    def _unscaled(self, x: Tensor) -> Normal:
        """q(u | x), channels first."""
        device = self.shift.device
        with autocast(device):
            parts = [self.autoencoder.posterior(part.to(device)) for part in x.split(BATCH)]
        mean, log_var = (torch.cat(column).float().movedim(-1, 1) for column in zip(*parts, strict=True))
        return Normal(mean, log_var)

    def _over(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (z.ndim - 2))
        return self.shift.to(z).view(shape), self.scale.to(z).view(shape)


class LatentDenoiser(Denoiser):
    """A denoiser of latents, together with the autoencoder whose latents they are.

    Args:
        space: The latents.
        arguments: As of `Denoiser`.
    """

    def __init__(self, space: Latents, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.space = space


def space(denoiser: Denoiser) -> Space:
    """Where it lives."""
    return denoiser.space if isinstance(denoiser, LatentDenoiser) else PIXELS


PIXELS = Pixels()
