"""Data whose diffusion is known in closed form: a Gaussian, a mixture of Gaussians, and finitely many points.

If x ~ N(m, C) then z = alpha x + sigma eps ~ N(alpha m, alpha² C + sigma² I). In the basis of C's
eigenvectors all is diagonal, so with c an eigenvalue and v = alpha² c + sigma² each formula below is one
line. A mixture is its Gaussians, weighed by p(part | z); points are Gaussians of no width.

Points are (..., D); a level's fields are () or (..., 1), to be broadcast against them. `denoise` is a
`Denoise`, so all that takes a trained network takes the truth.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import Level

CLEAN = Level(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(math.inf))
"""No noise: z = x."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x ~ N(mean, cov), cov positive definite."""

    mean: Tensor
    cov: Tensor

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues c (D,), and the eigenvectors in the columns of a matrix (D, D)."""
        return torch.linalg.eigh(self.cov)

    def _scaled(self, factor: Tensor, y: Tensor) -> Tensor:
        """Q diag(factor) Qᵀ y."""
        _, q = self.axes
        return (y @ q * factor) @ q.T

    def _variance(self, level: Level) -> Tensor:
        """v = alpha² c + sigma², the marginal's variances along the axes."""
        return level.alpha**2 * self.axes[0] + level.sigma**2

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws of x: (n, D)."""
        u = torch.randn(n, len(self.mean), dtype=self.mean.dtype, generator=generator)
        return self.mean + self._scaled(self.axes[0].sqrt(), u)

    @property
    def entropy(self) -> Tensor:
        """-E[log p(x)] = log det(2 pi e C) / 2, in nats: ()."""
        return 0.5 * torch.log(2 * math.pi * math.e * self.axes[0]).sum()

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other), in nats: ().

        With C, m of self and C', m' of the other it is

            (tr(C'^-1 C) + (m' - m)ᵀ C'^-1 (m' - m) - D + log det C' - log det C) / 2.
        """
        spread = torch.linalg.solve(other.cov, self.cov).trace()
        off = other.mean - self.mean
        distance = off @ torch.linalg.solve(other.cov, off)
        volume = torch.linalg.slogdet(other.cov)[1] - torch.linalg.slogdet(self.cov)[1]
        return 0.5 * (spread + distance - len(off) + volume)

    def marginal(self, level: Level) -> "Gaussian":
        """The distribution of z at one level."""
        noise = level.sigma**2 * torch.eye(len(self.mean), dtype=self.cov.dtype)
        return Gaussian(level.alpha * self.mean, level.alpha**2 * self.cov + noise)

    def log_prob(self, z: Tensor, level: Level = CLEAN) -> Tensor:
        """log p(z) at the level, in nats: (...)."""
        v = self._variance(level)
        y = (z - level.alpha * self.mean) @ self.axes[1]
        return -0.5 * (y**2 / v + torch.log(2 * math.pi * v)).sum(-1)

    def score(self, z: Tensor, level: Level = CLEAN) -> Tensor:
        """∇ log p(z)."""
        return -self._scaled(1 / self._variance(level), z - level.alpha * self.mean)

    def denoise(self, z: Tensor, level: Level) -> Prediction:
        """E[x | z]."""
        gain = level.alpha * self.axes[0] / self._variance(level)
        return Prediction(self.mean + self._scaled(gain, z - level.alpha * self.mean))

    def posterior_cov(self, z: Tensor, level: Level) -> Tensor:
        """Cov[x | z] (..., D, D), the same for every z.

        Its trace is the least squared error that any denoiser can have.
        """
        c, q = self.axes
        spread = level.sigma**2 * c / self._variance(level)
        return ((q * spread.unsqueeze(-2)) @ q.T).expand(*z.shape, -1)

    def posterior(self, z: Tensor, level: Level) -> "Gaussian":
        """The distribution of x given one z (D,)."""
        return Gaussian(self.denoise(z, level).x, self.posterior_cov(z, level))

    def flow(self, z: Tensor, t: Level, s: Level) -> Tensor:
        """Where the probability-flow ODE takes z from level t to level s.

        It whitens and colours at each moment.
        """
        stretch = (self._variance(s) / self._variance(t)).sqrt()
        return s.alpha * self.mean + self._scaled(stretch, z - t.alpha * self.mean)


@dataclass(frozen=True, eq=False)
class Mixture:
    """x ~ sum_k weights_k N(mean_k, cov_k).

    The part is the class: `parts[k]` is the data under the condition k.
    """

    weights: Tensor
    parts: tuple[Gaussian, ...]

    @classmethod
    def of(cls, weights: Iterable[float], means: Tensor, covs: Tensor) -> "Mixture":
        """From weights, means (K, D) and covariances (K, D, D)."""
        parts = tuple(Gaussian(mean, cov) for mean, cov in zip(means, covs, strict=True))
        return cls(torch.tensor(list(weights), dtype=means.dtype), parts)

    @classmethod
    def atoms(cls, weights: Iterable[float], points: Tensor) -> "Mixture":
        """Discrete data: points (K, D) with their probabilities. It has a density at noisy levels only."""
        return cls.of(weights, points, points.new_zeros(*points.shape, points.shape[-1]))

    @property
    def choice(self) -> Tensor:
        """Entropy of the choice of the part, in nats: (). That of the data, if the parts are atoms."""
        return torch.special.entr(self.weights).sum()

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self.weights @ torch.stack([part.mean for part in self.parts])

    @property
    def cov(self) -> Tensor:
        """Cov[x]: within the parts and between them."""
        means = torch.stack([part.mean for part in self.parts])
        covs = torch.stack([part.cov for part in self.parts])
        return _total_cov(self.weights, means, covs)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws of x: (n, D)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        draws = torch.stack([part.sample(n, generator) for part in self.parts], 1)
        return draws[torch.arange(n), which]

    def marginal(self, level: Level) -> "Mixture":
        """The distribution of z at one level."""
        return Mixture(self.weights, tuple(part.marginal(level) for part in self.parts))

    def _joint(self, z: Tensor, level: Level) -> Tensor:
        """log p(k, z): (..., K)."""
        return self.weights.log() + torch.stack([part.log_prob(z, level) for part in self.parts], -1)

    def log_prob(self, z: Tensor, level: Level = CLEAN) -> Tensor:
        """log p(z) at the level, in nats: (...)."""
        return self._joint(z, level).logsumexp(-1)

    def class_log_prob(self, z: Tensor, level: Level = CLEAN) -> Tensor:
        """log p(k | z): (..., K). The exact classifier of noisy data."""
        return self._joint(z, level).log_softmax(-1)

    def score(self, z: Tensor, level: Level = CLEAN) -> Tensor:
        """∇ log p(z)."""
        scores = torch.stack([part.score(z, level) for part in self.parts], -2)
        return _average(self.class_log_prob(z, level).exp(), scores)

    def denoise(self, z: Tensor, level: Level) -> Prediction:
        """E[x | z]."""
        means = torch.stack([part.denoise(z, level).x for part in self.parts], -2)
        return Prediction(_average(self.class_log_prob(z, level).exp(), means))

    def posterior_cov(self, z: Tensor, level: Level) -> Tensor:
        """Cov[x | z]: (..., D, D)."""
        means = torch.stack([part.denoise(z, level).x for part in self.parts], -2)
        covs = torch.stack([part.posterior_cov(z, level) for part in self.parts], -3)
        return _total_cov(self.class_log_prob(z, level).exp(), means, covs)

    def posterior(self, z: Tensor, level: Level) -> "Mixture":
        """The distribution of x given one z (D,)."""
        parts = tuple(part.posterior(z, level) for part in self.parts)
        return Mixture(self.class_log_prob(z, level).exp(), parts)


def _average(weights: Tensor, values: Tensor) -> Tensor:
    """sum_k weights_k values_k for weights (..., K) and values (..., K, D)."""
    return (weights.unsqueeze(-1) * values).sum(-2)


def _total_cov(weights: Tensor, means: Tensor, covs: Tensor) -> Tensor:
    """Covariance of a mixture: weights (..., K), means (..., K, D), covs (..., K, D, D)."""
    off = means - _average(weights, means).unsqueeze(-2)
    spread = covs + off.unsqueeze(-1) * off.unsqueeze(-2)
    return (weights[..., None, None] * spread).sum(-3)
