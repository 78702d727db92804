"""What variational autoencoders are, and those whose levels of latents are a Markovian chain."""

import abc
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from phin.diffusion.noise import Noise
from phin.families.base import OneShot
from phin.families.elbo import Conditional, Elbo, Normal, Path, chain
from phin.families.likelihood import Likelihood
from phin.nets.resnet import Head, LabelEmbedding


class Autoencoder(OneShot):
    """A variational autoencoder, of one level of latents or of several.

    Args:
        likelihood: p(x | raw), of what its decoder gives.
        drawn: Whether a sample is drawn from it, or is its mean, which is what others show.
    """

    def __init__(self, likelihood: Likelihood, drawn: bool = False) -> None:
        super().__init__()
        self.likelihood, self.drawn = likelihood, drawn

    @abc.abstractmethod
    def forward(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> tuple[Tensor, Path]:
        """Encodes, draws and decodes.

        Args:
            x: Data (B, C, *sides).
            noise: Draws that of the latents.
            label: (B,) of a model of labelled data; -1, or None, is any.

        Returns:
            Raw, what the likelihood reads; and the draw.
        """

    @abc.abstractmethod
    def imagine(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        """Raw of latents from the prior; arguments as of `generate`."""

    def elbo(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> Elbo:
        """The evidence lower bound of each example; arguments as of `forward`."""
        raw, path = self(x, noise, label)
        return Elbo(-self.likelihood.log_prob(raw, x), path)

    def reconstruct(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> Tensor:
        """E[x | z] for z drawn from q(z | x); arguments as of `forward`."""
        return self.likelihood.mean(self(x, noise, label)[0])

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        raw = self.imagine(count, noise, label)
        return self.likelihood.draw(raw, noise) if self.drawn else self.likelihood.mean(raw)

    def given(self, label: Tensor | None = None) -> Callable[[Tensor, Noise], Elbo]:
        """(x, noise) -> the bound, the labels of x being given."""
        return partial(self.elbo, label=label)


class VectorPrior(nn.Module):
    """p(z | y) of a vector of latents: a Gaussian for each label, which is learned; N(0, I) without labels.

    It begins as N(0, I). Were the prior that of all labels, latents would have to lose all that tells them.

    References: Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et
    al., 2015), NeurIPS, eq. 4.
    """

    def __init__(self, latents: int, label: LabelEmbedding) -> None:
        super().__init__()
        self.latents = latents
        self.head = Head(label.width, 2 * latents, silent=True) if label.classes else None

    def forward(self, told: Tensor) -> Normal:
        if self.head is not None:
            return Normal.of(self.head(told))
        return Normal.standard(told.new_empty(len(told), self.latents))


class Chain(Autoencoder):
    """q(z_t | z_{t-1}, y) with z_0 = x; p(z_t | z_{t+1}, y), p(x | z_1, y) and p(z_T | y), y a label.

    With one level, it is the variational autoencoder. p(z_T | y) is N(0, I) where there are no labels.

    Args:
        encode: From z_{t-1}, and the embedded label, to the raw mean and variance of z_t, for t = 1..T.
        decode: From z_{t+1} to those of z_t, for t = 1..T-1, and last from z_1 to the raw of x.
        latents: The length of z_T, a vector.
        label: Embeds y.
        likelihood: As of `Autoencoder`.
        drawn: As of `Autoencoder`.
    """

    def __init__(
        self,
        encode: Sequence[nn.Module],
        decode: Sequence[nn.Module],
        latents: int,
        label: LabelEmbedding,
        likelihood: Likelihood,
        drawn: bool = False,
    ) -> None:
        super().__init__(likelihood, drawn)
        self.encode, self.decode = nn.ModuleList(encode), nn.ModuleList(decode)
        self.label, self.prior = label, VectorPrior(latents, label)

    def forward(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> tuple[Tensor, Path]:
        told = self.label(label, len(x))
        path = chain(
            x,
            [_conditional(net, told) for net in self.encode],
            [_conditional(net, told) for net in self.decode[:-1]],
            noise,
            self.prior(told),
        )
        return self.decode[-1](path.out, told), path

    def imagine(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        told = self.label(label, count)
        z = self.prior(told).sample(noise)
        for net in reversed(self.decode[:-1]):
            z = Normal.of(net(z, told)).sample(noise)
        return self.decode[-1](z, told)


def _conditional(net: nn.Module, told: Tensor) -> Conditional:
    return lambda z: Normal.of(net(z, told))
