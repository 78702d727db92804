"""Generative adversarial networks: a generator, and a discriminator that tells its samples from data.

The discriminator's score D(x) is a logit: the odds, it says, that x is data. It lowers

    softplus(-D(x)) + softplus(D(G(z))) + gamma / 2 |dD(x) / dx|^2,

and is best, without the last term (R1), where D = log p(data) - log p(G). The generator lowers the
non-saturating `softplus(-D(G(z)))`. Both move at once. Near the end of the game such steps only circle around
it, or leave it, and R1 is what makes them arrive.

References:
    Generative adversarial nets (Goodfellow et al., 2014), arXiv:1406.2661, equation 1, proposition 1, and
        section 3 (the non-saturating loss).
    Unsupervised representation learning with deep convolutional generative adversarial networks (Radford,
        Metz and Chintala, 2015), arXiv:1511.06434, section 3 (the networks).
    Which training methods for GANs do actually converge? (Mescheder, Geiger and Nowozin, 2018),
        arXiv:1801.04406, equation 9 (R1); sections 2 and 4 (circling, and arriving).
    cGANs with projection discriminator (Miyato and Koyama, 2018), arXiv:1802.05637, equation 3.
    Spectral normalization for generative adversarial networks (Miyato et al., 2018), arXiv:1802.05957.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.families.base import OneShot
from phin.nets.classifier import ChannelNorm


@dataclass(frozen=True)
class GANConfig:
    """The shape of both networks, which mirror each other."""

    channels: tuple[int, ...] = (64, 128)
    """Channels of each stage, from the picture inwards. Each stage halves the sides, or doubles them."""
    latent: int = 100
    """Length of the noise vector that a sample is made of."""
    label: int = 50
    """Length of the vector that tells the generator a label."""
    spectral_norm: bool = False
    """Whether every layer of the discriminator is divided by its largest singular value."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise PhinError(f"channels = {self.channels}: give each stage, of one or more, at least 1")
        for name in ("latent", "label"):
            if (value := getattr(self, name)) < 1:
                raise PhinError(f"{name} = {value}: at least 1 is needed")

    def smallest(self, sides: Sequence[int]) -> tuple[int, int]:
        """The sides where the last stage is.

        Raises:
            PhinError: Data that are not pictures, or that cannot be halved so often.
        """
        factor = 2 ** len(self.channels)
        if len(sides) != 2 or any(side % factor for side in sides):
            raise PhinError(
                f"a GAN of {len(self.channels)} stages needs pictures whose sides are multiples of {factor}, "
                f"not {' x '.join(map(str, sides)) or 'vectors'}; take other channels, one number a stage"
            )
        return sides[0] // factor, sides[1] // factor


class Generator(OneShot):
    """From noise to a picture: a linear layer, then strided transposed convolutions.

    As DCGAN's, but that it is normalised over the channels of each pixel, and not over the batch: a sample is
    its own noise's alone, in training, too, and an average of weights needs no statistics of its own.

    Args:
        config: Its size.
        shape: One picture (C, H, W).
        classes: Number of labels; 0 for none.

    Raises:
        PhinError: A shape that it cannot make.
    """

    def __init__(self, config: GANConfig, shape: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        self.latent, self.classes = config.latent, classes
        self.smallest = config.smallest(shape[1:])
        told, inner = config.latent, config.channels[-1]
        self.embed = nn.Embedding(classes, config.label) if classes else None
        if self.embed is not None:
            told += config.label
        self.stem = nn.Linear(told, inner * self.smallest[0] * self.smallest[1])
        layers: list[nn.Module] = []
        for before, channels in pairwise((*reversed(config.channels), shape[0])):
            doubled = nn.ConvTranspose2d(before, channels, 4, 2, 1)
            nn.init.normal_(doubled.weight, std=0.02)  # DCGAN's; torch's own would saturate the tanh
            layers += [ChannelNorm(before), nn.ReLU(), doubled]
        self.body = nn.Sequential(*layers, nn.Tanh())

    def forward(
        self, z: Float[Tensor, "b latent"], label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Pictures in [-1, 1] of noise and, where there are classes, labels 0 .. classes - 1."""
        told = [z] if self.embed is None else [z, self.embed(label)]
        return self.body(self.stem(torch.cat(told, 1)).unflatten(1, (-1, *self.smallest)))

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        z = noise(torch.empty(count, self.latent, device=self.device))
        if not self.classes:
            return self(z)
        # Of independent normal numbers, each is the largest equally often.
        chosen = noise(torch.empty(count, self.classes, device=self.device)).argmax(1)
        return self(z, chosen if label is None else torch.where(label < 0, chosen, label))


class Discriminator(nn.Module):
    """From a picture to a score: strided convolutions, a linear layer, and a projection of the label.

    With phi the features that the linear layer sees, `D(x, y) = <w + e(y), phi(x)> + b`. Unlike DCGAN's, it
    has no batch norm, so that a score, and R1's slope of it, are its own picture's alone.

    Args:
        config: Its size.
        shape: One picture (C, H, W).
        classes: Number of labels; 0 for none.

    Raises:
        PhinError: A shape that it cannot see.
    """

    def __init__(self, config: GANConfig, shape: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        height, width = config.smallest(shape[1:])
        layers: list[nn.Module] = []
        for before, channels in pairwise((shape[0], *config.channels)):
            layers += [nn.Conv2d(before, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        features = config.channels[-1] * height * width
        self.head = nn.Linear(features, 1)
        self.embed = nn.Embedding(classes, features) if classes else None
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, std=features**-0.5)  # about as long as the head's
        if config.spectral_norm:
            for layer in [*self.modules()]:
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                    spectral_norm(layer)

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b"]:
        """The log odds (B,) that each picture is data, of its label where there are classes."""
        features = self.body(x)
        with torch.autocast(x.device.type, enabled=False):
            features = features.to(self.head.bias.dtype)
            score = self.head(features)[:, 0]
            return score if self.embed is None else score + (self.embed(label) * features).sum(1)


class Players(nn.Module):
    """Both players, to be trained together; the generator is what is kept."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


class Game(NamedTuple):
    """Each player's loss."""

    generator: Float[Tensor, "b"]
    discriminator: Float[Tensor, "b"]

    @property
    def both(self) -> Float[Tensor, "b"]:
        """Their sum, whose gradient is each player's own."""
        return self.generator + self.discriminator


def play(
    players: Players,
    x: Float[Tensor, "b *shape"],
    z: Float[Tensor, "b latent"],
    label: Int64[Tensor, "b"] | None = None,
    penalty: float = 0.0,
) -> Game:
    """The losses of both players in nats (B,), the one's free of the other's parameters.

    The discriminator's is of samples cut off from the generator, and the generator's of a discriminator whose
    parameters are constants. Hence the gradient of the sum is, for each player, that of its own loss, and one
    step of one optimizer is a step of both at once.

    Args:
        players: Who play.
        x: Data.
        z: Noise, as much.
        label: (B,), of the data and of the samples, where there are classes.
        penalty: R1's gamma: how steep the discriminator may be at the data.
    """
    given = () if label is None else (label,)
    discriminator, fake = players.discriminator, players.generator(z, *given)
    steep = torch.zeros((), device=x.device)
    if penalty:
        x = x.detach().requires_grad_().clone()  # what watches modules, as counters do, takes no leaf here
    real = discriminator(x, *given)
    if penalty:
        steep = squared_slope(real, x)
    discriminator.eval()  # once a step is enough of a spectral norm's power iteration: all see the same
    caught = discriminator(fake.detach(), *given)
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooled = functional_call(discriminator, constants, (fake, *given))
    discriminator.train()
    return Game(F.softplus(-fooled), F.softplus(-real) + F.softplus(caught) + penalty / 2 * steep)


def squared_slope(score: Float[Tensor, "b"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """|dD(x) / dx|^2 of each example (B,), to be differentiated in turn."""
    with torch.autocast(x.device.type, enabled=False):  # that of the forward pass does for the backward one
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1)
