"""The evidence lower bound by level: Gaussian latents in a chain or a ladder, and what their draws tell.

A model p(x | z_1) p(z_1 | z_2) ... p(z_T) of data x with latents z_1 .. z_T, and an encoder q(z_1 .. z_T | x)
that says which latents x may have come from, bound the likelihood:

    log p(x) >= E_q [log p(x, z) - log q(z | x)] = E_q log p(x | z_1) - (what the latents cost).

What the latents cost falls apart into levels, in two ways. A *chain* encodes from below, q(z_t | z_{t-1})
with z_0 = x, and each level but the highest is set between its two neighbours:

    KL_T = KL(q(z_T | z_{T-1}) || p(z_T)),    KL_t = E [log q(z_t | z_{t-1}) - log p(z_t | z_{t+1})].

A *ladder* encodes from above, q(z_t | z_{t+1} .. z_T, x), and each level is a divergence between Gaussians:

    KL_t = E KL(q(z_t | z_{t+1} .. z_T, x) || p(z_t | z_{t+1} .. z_T)).

With one level, both are the variational autoencoder. With a fixed linear-Gaussian encoder and latents of the
size of x, both are a diffusion model: its bound in the earlier form, and in DDPM's.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), arXiv:1312.6114, eq. 3 and 10, appendix B.
    Importance Weighted Autoencoders (Burda et al., 2015), arXiv:1509.00519, eq. 8 and section 5.2.
    Ladder Variational Autoencoders (Sønderby et al., 2016), arXiv:1602.02282, eq. 6-9.
    Understanding Diffusion Models: A Unified Perspective (Luo, 2022), arXiv:2208.11970, eq. 20-28 and 37-58.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phin.diffusion.bound import normal_kl
from phin.diffusion.noise import Noise

LEAST = -10.0  # of a latent's log-variance: without a bound, one that is sure of itself would have none
ACTIVE = 0.01  # Burda et al.'s threshold: a unit whose mean varies less with x says nothing of it
SURE = 4.0  # standard deviations: of a thousand dead units, one in thirty times seems alive


class Normal(NamedTuple):
    """N(mean, exp(log_var)) of latents (B, *sides, C), each independent of the others."""

    mean: Tensor
    log_var: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> "Normal":
        """From a network's output (B, *sides, 2 C): its variances are kept above e^-10."""
        mean, log_var = raw.chunk(2, dim=-1)
        return cls(mean, LEAST + F.softplus(log_var - LEAST))

    @classmethod
    def standard(cls, like: Tensor) -> "Normal":
        """N(0, 1) of this shape."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def sample(self, noise: Noise) -> Tensor:
        """mean + std eps: a draw that gradients pass through."""
        return self.mean + torch.exp(0.5 * self.log_var) * noise(self.mean)

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z), nats by channel (B, C)."""
        square = (z - self.mean).square() * torch.exp(-self.log_var)
        return by_channel(-0.5 * (square + self.log_var + math.log(2 * math.pi)))

    def entropy(self) -> Tensor:
        """-E log N, nats by channel (B, C)."""
        return by_channel(0.5 * (self.log_var + math.log(2 * math.pi * math.e)))

    def kl(self, other: "Normal") -> Tensor:
        """KL(self || other), nats by channel (B, C)."""
        return by_channel(normal_kl(*self, *other))


class Path(NamedTuple):
    """One draw of the latents of some data, and what it costs."""

    out: Tensor
    """What the decoder of x sees: z_1 of a chain, the last state of a ladder."""
    kl: tuple[Tensor, ...]
    """Of each level from z_1 to z_T, by channel (B, C_t), nats: its mean over draws is KL_t."""
    ratio: Tensor
    """log q(z | x) - log p(z) at this very draw, nats (B,); its mean is the sum of all KL_t."""
    means: tuple[Tensor, ...]
    """E[z_t | x, the levels drawn before] of each level, (B, D_t)."""


class Elbo(NamedTuple):
    """The evidence lower bound by its terms, one draw an example; nats."""

    reconstruction: Tensor
    """-log p(x | z), (B,)."""
    path: Path

    @property
    def kl(self) -> Tensor:
        """What each level costs, (B, T), from z_1 to z_T."""
        return torch.stack([level.sum(1) for level in self.path.kl], 1)

    @property
    def total(self) -> Tensor:
        """Minus the bound (B,)."""
        return self.reconstruction + self.kl.sum(1)

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x) at the draw (B,): its exponential is an unbiased estimate of p(x)."""
        return -self.reconstruction - self.path.ratio


Conditional = Callable[[Tensor], Normal]
"""A distribution given another latent."""
Rung = Callable[[Tensor], tuple[Normal, Normal, Callable[[Tensor], Tensor]]]
"""What is known of the levels above -> prior and posterior of this one, and what is known with its draw."""


def chain(
    x: Tensor,
    encode: Sequence[Conditional],
    decode: Sequence[Conditional],
    noise: Noise,
    prior: Normal | None = None,
) -> Path:
    """Latents of a Markovian chain z_0 = x, z_1, .., z_T: each is drawn given the one below.

    Args:
        x: Data (B, ...).
        encode: q(z_t | z_{t-1}) for t = 1..T.
        decode: p(z_t | z_{t+1}) for t = 1..T-1.
        noise: Draws that of z_1, z_2, ...
        prior: p(z_T); N(0, I) if None.
    """
    posteriors: list[Normal] = []
    latents = [x]
    for conditional in encode:
        posteriors.append(conditional(latents[-1]))
        latents.append(posteriors[-1].sample(noise))
    priors = [p(above) for p, above in zip(decode, latents[2:], strict=True)]
    top = prior or Normal.standard(latents[-1])
    # The expectation over z_t given z_{t-1} alone has a closed form in log q, not in log p.
    kl = [p.log_prob(z).neg() - q.entropy() for q, p, z in zip(posteriors, priors, latents[1:], strict=False)]
    kl.append(posteriors[-1].kl(top))
    ratio = [
        (q.log_prob(z) - p.log_prob(z)).sum(1)
        for q, p, z in zip(posteriors, [*priors, top], latents[1:], strict=True)
    ]
    return Path(latents[1], tuple(kl), sum(ratio[1:], ratio[0]), tuple(q.mean.flatten(1) for q in posteriors))


def ladder(known: Tensor, rungs: Iterable[Rung], noise: Noise) -> Path:
    """Latents of a ladder z_T, .., z_1: each is drawn given all above, and x.

    Args:
        known: What is known before the first draw.
        rungs: Of z_T, .., z_1; they have seen x.
        noise: Draws that of z_T, z_{T-1}, ...
    """
    kl: list[Tensor] = []
    ratio: list[Tensor] = []
    means: list[Tensor] = []
    for rung in rungs:
        prior, posterior, merge = rung(known)
        z = posterior.sample(noise)
        kl.append(posterior.kl(prior))
        ratio.append((posterior.log_prob(z) - prior.log_prob(z)).sum(1))
        means.append(posterior.mean.flatten(1))
        known = merge(z)
    return Path(known, tuple(reversed(kl)), sum(ratio[1:], ratio[0]), tuple(reversed(means)))


def importance_weighted(log_weights: Tensor) -> Tensor:
    """log of the mean of K weights: log_weights (..., K) -> (...), nats.

    Its expectation is the evidence lower bound for K = 1, never falls as K grows, and tends to log p(x).

    References: Importance Weighted Autoencoders (Burda et al., 2015), arXiv:1509.00519, eq. 8 and theorem 1.
    """
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def active(means: Tensor, again: Tensor) -> Tensor:
    """Which latents tell something of x: Var_x E[z | x] > 0.01, (N, D) of N examples -> (D,), bool.

    In a hierarchy the mean of a latent depends on the levels that were drawn before it. The covariance over
    examples of two independent draws of it is an unbiased estimate of Var_x E[z | x]; where nothing was drawn
    before, both are the same, and it is their variance. Where they differ, their correlation also has to be
    beyond `SURE` times 1 / sqrt(N), which is chance's: otherwise some dead units would seem alive.

    Args:
        means: E[z | x, the levels drawn before] of N >= 2 examples.
        again: The same, of a second draw.

    References: Importance Weighted Autoencoders (Burda et al., 2015), arXiv:1509.00519, section 5.2.
    """
    off, other = means - means.mean(0), again - again.mean(0)
    covariance, same = (off * other).sum(0) / (len(means) - 1), (means == again).all(0)
    beyond_chance = F.cosine_similarity(off, other, dim=0) > SURE / math.sqrt(len(means))
    return (covariance > ACTIVE) & (same | beyond_chance)


def by_channel(nats: Tensor) -> Tensor:
    """(B, *sides, C) -> (B, C), summed over places."""
    return nats.flatten(1, -2).sum(1) if nats.ndim > 2 else nats
