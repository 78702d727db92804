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

References:
    Progressive Distillation (Salimans and Ho, 2022), arXiv:2202.00512, appendix D (v).
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        arXiv:2206.00364, table 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .level import Level

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


def edm(sigma_data: float = 0.5) -> Parameterization:
    """F is EDM's residual, of unit variance for data of standard deviation `sigma_data`.

    It is near the noise at high SNR and near the data at low.
    """

    def coefficients(level: Level) -> tuple[Tensor, Tensor]:
        variance = level.sigma**2 + (level.alpha * sigma_data) ** 2
        return level.alpha * sigma_data**2 / variance, level.sigma * sigma_data / variance.sqrt()

    return coefficients


PARAMETERIZATIONS: dict[str, Callable[..., Parameterization]] = {
    "x": lambda: x,
    "eps": lambda: eps,
    "v": lambda: v,
    "score": lambda: score,
    "flow": lambda: flow,
    "edm": edm,
}
"""Name -> factory."""
