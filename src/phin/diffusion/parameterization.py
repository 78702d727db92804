"""What a network predicts, as an affine map to the one currency x̂ = E[x | z].

A parameterization gives, at each level, the coefficients of

    x̂ = skip z + out F,    F = (x̂ - skip z) / out,

with F the raw output of the network. A new one is a function and an entry at the foot. There,
s² = alpha² + sigma².

    name   F predicts                                    skip                 out
    x      x                                             0                    1
    eps    eps                                           1 / alpha            -sigma / alpha
    v      (alpha eps - sigma x) / s                     alpha / s²           -sigma / s
    score  s ∇ log p(z) = -s eps / sigma                 1 / alpha            sigma² / (alpha s)
    flow   eps - x                                       1 / (alpha + sigma)  -sigma / (alpha + sigma)
    edm    EDM's residual, with n² = sigma² + alpha² d²  alpha d² / n²        sigma d / n
    mean   E[z_s | z, x] for the step s of a fixed chain, see `posterior_mean`

References:
    Progressive Distillation (Salimans and Ho, 2022), arXiv:2202.00512, appendix D (v).
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        arXiv:2206.00364, table 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .level import Level, vp
from .schedules import Discrete, Schedule

Parameterization = Callable[[Level], tuple[Tensor, Tensor]]
"""Level -> (skip, out), of the level's shape."""


def x(level: Level) -> tuple[Tensor, Tensor]:
    """F is the clean data."""
    return torch.zeros_like(level.sigma), torch.ones_like(level.sigma)


def eps(level: Level) -> tuple[Tensor, Tensor]:
    """F is the noise (DDPM)."""
    return 1 / level.alpha, -level.sigma / level.alpha


def v(level: Level) -> tuple[Tensor, Tensor]:
    """F is v = (alpha eps - sigma x) / sqrt(alpha² + sigma²): the velocity along a VP process's circle."""
    square = level.alpha**2 + level.sigma**2
    return level.alpha / square, -level.sigma / square.sqrt()


def score(level: Level) -> tuple[Tensor, Tensor]:
    """F is the score of z / s, s times ∇_z log p(z) = (alpha x̂ - z) / sigma² (Tweedie's formula).

    For a VP process s = 1. In the network's units, it is the same function of log-SNR under every scaling.
    """
    scale = torch.hypot(level.alpha, level.sigma)
    return 1 / level.alpha, level.sigma**2 / (level.alpha * scale)


def flow(level: Level) -> tuple[Tensor, Tensor]:
    """F is the velocity eps - x of the straight path from x to eps (flow matching)."""
    total = level.alpha + level.sigma
    return 1 / total, -level.sigma / total


@dataclass(frozen=True)
class edm:  # a class, unlike its neighbours, so that its d can be asked for
    """F is EDM's residual, of unit variance for data of standard deviation `sigma_data`.

    It is near the noise at high SNR and near the data at low. The denoiser has to scale its input by the same
    `sigma_data` (`Denoiser`).
    """

    sigma_data: float = 0.5
    """d."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data = {self.sigma_data} must be positive and finite")

    def __call__(self, level: Level) -> tuple[Tensor, Tensor]:
        """Skip and out at the level."""
        variance = level.sigma**2 + (level.alpha * self.sigma_data) ** 2
        return level.alpha * self.sigma_data**2 / variance, level.sigma * self.sigma_data / variance.sqrt()


def posterior_mean(schedule: Schedule | None = None, T: int = 1000) -> Parameterization:
    """F is the mean of q(z_s | z, x) for the next step s of a fixed chain: x-prediction rewritten.

        F = (alpha_t sigma_s²) / (alpha_s sigma_t²) z + alpha_s c x̂,    c = 1 - SNR(t) / SNR(s),

    in the units of a variance preserving process. Where steps are short, F is nearly z, and a small error of
    it a large one of x̂: why DDPM predicts the noise instead. Below the chain's first step F is x̂ itself.

    Args:
        schedule: A chain, or the schedule to make one of; DDPM's by default. The level t is its nearest.
        T: Steps of the chain that is made.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 7-8 and table 2.
    """
    chain = schedule if isinstance(schedule, Discrete) else Discrete(schedule, T)
    ladder = torch.cat([torch.tensor([math.inf], dtype=torch.float64), chain.table])

    def coefficients(level: Level) -> tuple[Tensor, Tensor]:
        t = vp(level.log_snr.double())
        i = torch.round(chain.inverse(t.log_snr) * chain.T).long()
        s = vp(ladder.to(t.log_snr.device)[i - 1])
        of_x = -s.alpha * torch.expm1(t.log_snr - s.log_snr)
        of_z = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
        skip = -of_z / (of_x * torch.hypot(level.alpha, level.sigma))
        return skip.to(level.sigma), (1 / of_x).to(level.sigma)

    return coefficients


PARAMETERIZATIONS: dict[str, Callable[..., Parameterization]] = {
    "x": lambda: x,
    "eps": lambda: eps,
    "v": lambda: v,
    "score": lambda: score,
    "flow": lambda: flow,
    "edm": edm,
    "mean": posterior_mean,
}
"""Name -> factory."""
