"""Hierarchical variational autoencoders: several levels of latents, as a Markovian chain and as a ladder.

The *chain* is the theory's: z_t knows of its neighbours alone, q(z_t | z_{t-1}) and p(z_t | z_{t+1}). All
that the upper levels learn of x has to pass through the lower ones, which makes it hard to train: an upper
level is worth nothing before the one below it tells something.

The *ladder* draws its latents from above on either side, p(z_t | z_{t+1} .. z_T) and
q(z_t | z_{t+1} .. z_T, x). The encoder sees x at every level, so that each one adds what those above have
left open, and a residual stream carries all that has been drawn.

Latents of the highest level are a vector, those below are maps, one level or more for each resolution.

References:
    Understanding Diffusion Models: A Unified Perspective (Luo, 2022), arXiv:2208.11970, section "Hierarchical
        Variational Autoencoders".
    Bit-Swap (Kingma, Abbeel and Ho, 2019), arXiv:1905.06845, section 3 (the chain, of convolutional residual
        networks with a discretised logistic likelihood).
    NVAE (Vahdat and Kautz, 2020), arXiv:2007.03898, section 3.2 (posteriors beside the prior).
    Very Deep VAEs Generalize Autoregressive Models (Child, 2021), arXiv:2011.10650, section 3 (the ladder).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder, Chain, VectorPrior
from phin.families.elbo import Normal, Path, Rung, ladder
from phin.families.likelihood import Likelihood
from phin.families.vae import check
from phin.nets.resnet import Crown, Down, Head, LabelEmbedding, Modulated, Stack, Stem, Up, resolutions
from phin.nets.unet import Convolution

SHARE = 0.5  # of the variance of a level of a chain that is its lower neighbour's, at first


@dataclass(frozen=True)
class ChainConfig:
    """Size and shape of a Markovian chain of latents: a map for each resolution, and a vector above."""

    channels: tuple[int, ...] = (32, 96)
    """Channels of the networks at each resolution; each is half of the one before."""
    blocks: int = 1
    """Residual blocks of each network at each resolution."""
    latents: tuple[int, ...] = (4, 16, 32)
    """Channels of the latents at each resolution, and at last the length of the vector."""
    patch: int = 2
    """Side of the patches that are folded into channels before the first resolution."""

    def __post_init__(self) -> None:
        check(self.channels, self.blocks, self.patch)
        _check(self.channels, self.latents)

    def build(
        self, shape: tuple[int, ...], likelihood: Likelihood, classes: int = 0, drawn: bool = False
    ) -> Chain:
        """The model, untrained; arguments as of `VAEConfig.build`.

        Raises:
            PhinError: A side that the resolutions do not divide.
        """
        inputs, *sides = shape
        dims, width, first, last = len(sides), max(self.channels), self.channels[0], self.channels[-1]
        lowest = (*resolutions(sides, self.patch, len(self.channels))[-1], last)
        *maps, vector = self.latents

        def stack(channels: int) -> Stack:
            return Stack(dims, channels, self.blocks, width)

        stem = Stem(dims, self.patch, inputs, first)
        crown = Crown(dims, self.patch, first, likelihood.numbers * inputs)
        encode: list[nn.Module] = [Modulated(stem, stack(first), Head(first, 2 * maps[0]))]
        decode: list[nn.Module] = [Modulated(Convolution(dims, maps[0], first), stack(first), crown)]

        def link(up: Modulated, down: Modulated, fewer: nn.Module, more: nn.Module) -> None:
            """One more level, told by two networks beside two linear maps."""
            encoder, decoder = linked(up, down, fewer, more)
            encode.append(encoder)
            decode.insert(-1, decoder)

        for (c, below), (d, above) in pairwise(zip(self.channels, maps, strict=True)):
            link(
                Modulated(
                    Convolution(dims, below, c),
                    stack(c),
                    Down(dims, c, d),
                    stack(d),
                    Head(d, 2 * above, silent=True),
                ),
                Modulated(
                    Convolution(dims, above, d),
                    stack(d),
                    Up(dims, d, c),
                    stack(c),
                    Head(c, 2 * below, silent=True),
                ),
                Down(dims, below, above),
                Up(dims, above, below),
            )
        places = (*lowest[:-1], maps[-1])
        link(
            Modulated(
                Convolution(dims, maps[-1], last),
                stack(last),
                nn.Flatten(1),
                Head(math.prod(lowest), 2 * vector, silent=True),
            ),
            Modulated(
                nn.Linear(vector, math.prod(lowest)),
                nn.Unflatten(1, lowest),
                stack(last),
                Head(last, 2 * maps[-1], silent=True),
            ),
            nn.Sequential(nn.Flatten(1), nn.Linear(math.prod(places), vector)),
            nn.Sequential(nn.Linear(vector, math.prod(places)), nn.Unflatten(1, places)),
        )
        return Chain(encode, decode, vector, LabelEmbedding(classes, width), likelihood, drawn)


class Link(nn.Module):
    """The raw mean and variance of a level given another: a linear map, a constant, what a network adds.

    Args:
        linear: From the one latents to the mean of the others.
        log_var: The constant.
        network: It begins as nothing.
    """

    def __init__(self, linear: nn.Module, log_var: float, network: Modulated) -> None:
        super().__init__()
        self.linear, self.log_var, self.network = linear, log_var, network

    def forward(self, z: Tensor, told: Tensor) -> Tensor:
        """Latents (B, *sides, C) and the embedding of labels to (B, *other sides, 2 C')."""
        with torch.autocast(z.device.type, enabled=False):
            mean = self.linear(z)
        return self.network(z, told) + torch.cat([mean, torch.full_like(mean, self.log_var)], dim=-1)


def linked(up: Modulated, down: Modulated, fewer: nn.Module, more: nn.Module) -> tuple[Link, Link]:
    """q(z_{t+1} | z_t) and p(z_t | z_{t+1}) that begin as a step of diffusion and its reverse.

        q = N(a R z_t, 1 - a²),    p = N(a Rᵀ z_{t+1}, 1 - a² rank(R) / dim z_t),    a² = 1 / 2,

    where R has orthonormal rows, or columns if they are fewer. If it is square, one is the posterior of the
    other for z_t ~ N(0, I): at first an upper level costs nothing, and yet it tells of the lower one. Had it
    to learn that, from latents that are noise at first, it would collapse instead, and stay so.

    Args:
        up: The network beside q's map.
        down: That beside p's.
        fewer: q's map.
        more: p's.
    """
    (r, r_bias), (t, t_bias) = fewer.parameters(), more.parameters()
    nn.init.orthogonal_(r, SHARE**0.5)
    with torch.no_grad():
        t.copy_(r.T)
    for bias in (r_bias, t_bias):
        nn.init.zeros_(bias)
    known = SHARE * min(r.shape) / len(t)
    return Link(fewer, math.log1p(-SHARE), up), Link(more, math.log1p(-known), down)


@dataclass(frozen=True)
class LadderConfig:
    """Size and shape of a ladder of latents: some maps for each resolution, and a vector above."""

    channels: tuple[int, ...] = (32, 96)
    """Channels of the networks at each resolution; each is half of the one before."""
    blocks: int = 1
    """Residual blocks of the encoder at each resolution."""
    rungs: tuple[int, ...] = (1, 2)
    """Levels of latents at each resolution."""
    latents: tuple[int, ...] = (8, 16, 32)
    """Channels of a level's latents at each resolution, and at last the length of the vector."""
    patch: int = 2
    """Side of the patches that are folded into channels before the first resolution."""

    def __post_init__(self) -> None:
        check(self.channels, self.blocks, self.patch)
        _check(self.channels, self.latents)
        if len(self.rungs) != len(self.channels) or min(self.rungs) < 1:
            raise PhinError(
                f"rungs = {self.rungs}: give each of the {len(self.channels)} resolutions at least 1"
            )

    def build(
        self, shape: tuple[int, ...], likelihood: Likelihood, classes: int = 0, drawn: bool = False
    ) -> "Ladder":
        """The model, untrained; arguments as of `VAEConfig.build`.

        Raises:
            PhinError: A side that the resolutions do not divide.
        """
        return Ladder(self, shape, likelihood, classes, drawn)


def _check(channels: tuple[int, ...], latents: tuple[int, ...]) -> None:
    if len(latents) != len(channels) + 1 or min(latents) < 1:
        raise PhinError(
            f"latents = {latents}: give at least 1 for each of the {len(channels)} resolutions, and for the "
            "vector above them"
        )


class Step(nn.Module):
    """A map of latents: its prior reads what is known, its posterior the encoder's features, too.

    The posterior is told as what it adds to the prior, and begins as it: then a level costs nothing before it
    is of use, and does not have to follow a prior that moves.

    References: NVAE (Vahdat and Kautz, 2020), arXiv:2007.03898, section 3.2.
    """

    def __init__(self, dims: int, channels: int, latents: int, width: int, lower: int | None = None) -> None:
        super().__init__()
        self.sizes = [2 * latents, channels]
        half = max(1, channels // 2)
        self.before = Convolution(dims, channels, half)
        self.prior = Head(half, sum(self.sizes), silent=True)
        self.beside = Convolution(dims, 2 * channels, half)
        self.posterior = Head(half, 2 * latents, silent=True)
        self.mix = nn.Linear(latents, channels)
        self.stack = Stack(dims, channels, 1, width)
        self.up = nn.Identity() if lower is None else Up(dims, channels, lower)

    def expect(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's raw mean and variance, and what is known with what it knew."""
        raw, more = self.prior(F.silu(self.before(_normed(known)))).split(self.sizes, dim=-1)
        return raw, known + more.to(known)

    def infer(self, known: Tensor, features: Tensor) -> Tensor:
        """What the posterior's raw mean and variance are beyond the prior's."""
        both = torch.cat([_normed(known), _normed(features.to(known))], dim=-1)
        return self.posterior(F.silu(self.beside(both)))

    def merge(self, known: Tensor, z: Tensor, told: Tensor) -> Tensor:
        """What is known with the latents, too; at the next resolution's sides after a resolution's last."""
        return self.up(self.stack(known + self.mix(z), told))


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class Ladder(Autoencoder):
    """q(z_t | z_{t+1} .. z_T, x, y), p(z_t | z_{t+1} .. z_T, y), p(x | z_1 .. z_T, y) and p(z_T | y).

    Args:
        config: Size and shape of the networks.
        shape: One picture (C, *sides).
        likelihood: As of `Autoencoder`.
        classes: Number of class labels; 0 for none.
        drawn: As of `Autoencoder`.

    Raises:
        PhinError: A side that the resolutions do not divide.
    """

    def __init__(
        self,
        config: LadderConfig,
        shape: tuple[int, ...],
        likelihood: Likelihood,
        classes: int = 0,
        drawn: bool = False,
    ) -> None:
        super().__init__(likelihood, drawn)
        inputs, *sides = shape
        dims, channels, width = len(sides), config.channels, max(config.channels)
        lowest = (*resolutions(sides, config.patch, len(channels))[-1], channels[-1])
        vector = config.latents[-1]
        self.label = LabelEmbedding(classes, width)
        self.prior = VectorPrior(vector, self.label)
        stems = [
            Stem(dims, config.patch, inputs, channels[0]),
            *(Down(dims, *pair) for pair in pairwise(channels)),
        ]
        self.encode = nn.ModuleList(
            Modulated(stem, Stack(dims, c, config.blocks, width))
            for stem, c in zip(stems, channels, strict=True)
        )
        self.posterior = Head(math.prod(lowest), 2 * vector)
        self.first = Modulated(
            nn.Linear(vector, math.prod(lowest)),
            nn.Unflatten(1, lowest),
            Stack(dims, channels[-1], 1, width),
        )
        self.places = [i for i in reversed(range(len(channels))) for _ in range(config.rungs[i])]
        self.steps = nn.ModuleList(
            Step(dims, channels[i], config.latents[i], width, channels[following] if following < i else None)
            for i, following in pairwise([*self.places, 0])
        )
        self.crown = Crown(dims, config.patch, channels[0], likelihood.numbers * inputs)

    def forward(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> tuple[Tensor, Path]:
        told = self.label(label, len(x))
        features = [x]
        for net in self.encode:
            features.append(net(features[-1], told))

        def vector(_: Tensor) -> tuple[Normal, Normal, Callable[[Tensor], Tensor]]:
            posterior = Normal.of(self.posterior(features[-1].flatten(1)))
            return self.prior(told), posterior, lambda z: self.first(z, told)

        def rung(step: nn.Module, seen: Tensor) -> Rung:
            assert isinstance(step, Step)

            def climb(known: Tensor) -> tuple[Normal, Normal, Callable[[Tensor], Tensor]]:
                raw, more = step.expect(known)
                posterior = Normal.of(raw + step.infer(known, seen))
                return Normal.of(raw), posterior, lambda z: step.merge(more, z, told)

            return climb

        steps = zip(self.steps, self.places, strict=True)
        path = ladder(told, [vector, *(rung(step, features[i + 1]) for step, i in steps)], noise)
        return self.crown(path.out), path

    def imagine(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        told = self.label(label, count)
        known = self.first(self.prior(told).sample(noise), told)
        for step in self.steps:
            assert isinstance(step, Step)
            raw, more = step.expect(known)
            known = step.merge(more, Normal.of(raw).sample(noise), told)
        return self.crown(known)
