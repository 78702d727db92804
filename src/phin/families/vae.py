"""The variational autoencoder: one vector of latents.

Its networks are the convolutional residual ones of the ResNet VAE, a stack of residual blocks at each
resolution on either side of one layer of Gaussian latents; blocks and norms are those of the U-Net.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), arXiv:1312.6114.
    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), arXiv:1606.04934,
        section 6 (the ResNet VAE; free bits are its eq. 15).
"""

import math
from dataclasses import dataclass

from torch import nn

from phin.errors import PhinError
from phin.families.autoencoder import Chain
from phin.families.likelihood import Likelihood
from phin.nets.resnet import Head, LabelEmbedding, Modulated, pyramid, resolutions


@dataclass(frozen=True)
class VAEConfig:
    """Size and shape of a variational autoencoder."""

    channels: tuple[int, ...] = (32, 96)
    """Channels of each resolution, in the encoder and in the decoder; each is half of the one before."""
    blocks: int = 2
    """Residual blocks of each resolution, on either side."""
    latents: int = 32
    """Numbers that a picture is encoded in."""
    patch: int = 2
    """Side of the patches that are folded into channels before the first resolution."""

    def __post_init__(self) -> None:
        check(self.channels, self.blocks, self.patch)
        if self.latents < 1:
            raise PhinError(f"latents = {self.latents}: at least 1 is needed")

    def build(
        self, shape: tuple[int, ...], likelihood: Likelihood, classes: int = 0, drawn: bool = False
    ) -> Chain:
        """The model, untrained.

        Args:
            shape: One picture (C, *sides).
            likelihood: p(x | raw).
            classes: Number of class labels; 0 for none.
            drawn: As of `Autoencoder`.

        Raises:
            PhinError: A side that the resolutions do not divide.
        """
        inputs, *sides = shape
        dims, width, outputs = len(sides), max(self.channels), likelihood.numbers * inputs
        lowest = (*resolutions(sides, self.patch, len(self.channels))[-1], self.channels[-1])
        falling, rising = pyramid(dims, self.patch, self.channels, self.blocks, inputs, outputs)
        falling += [nn.Flatten(1), Head(math.prod(lowest), 2 * self.latents)]
        rising = [nn.Linear(self.latents, math.prod(lowest)), nn.Unflatten(1, lowest), *rising]
        label = LabelEmbedding(classes, width)
        return Chain([Modulated(*falling)], [Modulated(*rising)], self.latents, label, likelihood, drawn)


def check(channels: tuple[int, ...], blocks: int, patch: int) -> None:
    """Raises PhinError on sizes that make no network."""
    if not channels or min(channels) < 1:
        raise PhinError(f"channels = {channels}: each resolution needs at least 1, as in channels {(32, 96)}")
    for name, value in (("blocks", blocks), ("patch", patch)):
        if value < 1:
            raise PhinError(f"{name} = {value}: at least 1 is needed")
