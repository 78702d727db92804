"""The training loss, and the times at which it is taken."""

import torch
from torch import Tensor

from .denoiser import Denoise
from .level import Level
from .noise import Noise
from .weights import Weight, simple


def stratified(uniform: Tensor) -> Tensor:
    """Times t_i = (i + u_i) / n, one in each of n equal strata of [0, 1).

    Uniform, with far less variance than n free draws.

    Args:
        uniform: u (n,), uniform on [0, 1): n draws, or one draw repeated for VDM's low-discrepancy times
            (arXiv:2107.00630, appendix I.1).
    """
    return (torch.arange(len(uniform), dtype=uniform.dtype, device=uniform.device) + uniform) / len(uniform)


def antithetic(uniform: Tensor) -> Tensor:
    """Times in pairs t and 1 - t, from the first half of the draws u (n,), uniform on [0, 1)."""
    half = uniform[: (len(uniform) + 1) // 2]
    return torch.cat([half, 1 - half])[: len(uniform)]


def denoising_loss(
    denoise: Denoise, x: Tensor, level: Level, weight: Weight = simple, noise: Noise = torch.randn_like
) -> Tensor:
    """The weighted squared error of the noise, mean over dimensions, for each example: (B,).

        w(log_snr) (alpha / sigma)² mean |x - x̂(z)|²,    z = alpha x + sigma eps.

    Times the number of dimensions, with the right weight, it is a term of the bound in nats; see
    `weights.likelihood`.

    Args:
        denoise: The denoiser, condition bound.
        x: Clean data (B, ...).
        level: Levels (B,), or one for all.
        weight: Multiplier of the noise's squared error, by log-SNR.
        noise: Draws eps.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 14.
    """
    level = level.view(x.ndim)
    z = level.alpha * x + level.sigma * noise(x)
    error = (x - denoise(z, level).x).square().flatten(1).mean(1)
    return (weight(level.log_snr) * torch.exp(level.log_snr)).flatten() * error
