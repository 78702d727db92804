"""Guidance: maps from denoisers to a denoiser.

A guidance scale always means `null + scale (cond - null)`: 0 is unconditional, 1 plain conditional, above 1
sharpens. Papers that write (1 + w) cond - w null have scale = 1 + w.
"""

import torch
from torch import Tensor

from .denoiser import Denoise, Given, Prediction
from .level import Level


def classifier_free(
    cond: Denoise,
    null: Denoise,
    scale: float,
    interval: tuple[float, float] = (-float("inf"), float("inf")),
    rescale: float = 0.0,
) -> Denoise:
    """x̂ = null + scale (cond - null). With a weaker network for `null` it is autoguidance (arXiv:2406.02507).

    Two conditions of one denoiser are computed in one pass over a doubled batch.

    Args:
        cond: The conditional denoiser.
        null: The unconditional one.
        scale: 0 unconditional, 1 conditional.
        interval: The log-SNRs (low, high) between which guidance acts; outside it is plain conditional
            (arXiv:2404.07724).
        rescale: Between 0 and 1, how far each picture's standard deviation is drawn back to the conditional
            prediction's (arXiv:2305.08891, eq. 14-16, on x̂).

    References:
        Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), arXiv:2207.12598, eq. 6, scale = 1 + w.
    """

    def denoise(z: Tensor, level: Level) -> Prediction:
        if scale == 1:
            return cond(z, level)
        if scale == 0 and interval == (-float("inf"), float("inf")):
            return null(z, level)
        inside = (level.log_snr > interval[0]) & (level.log_snr < interval[1])
        if not inside.any():
            return cond(z, level)
        if isinstance(cond, Given) and isinstance(null, Given) and cond.fits(null):
            c, n = cond.beside(null, z, level)
        else:
            c, n = cond(z, level), null(z, level)
        x = n.x + scale * (c.x - n.x)
        if rescale:
            ratio = _std(c.x) / _std(x)
            x = x * (rescale * ratio + (1 - rescale))
        return Prediction(torch.where(inside.to(z.device), x, c.x), c.frac)

    return denoise


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """x̂ clamped to the range of the data, as DDPM's own sampler does."""

    def clipped(z: Tensor, level: Level) -> Prediction:
        prediction = denoise(z, level)
        return prediction._replace(x=prediction.x.clamp(low, high))

    return clipped


def dynamic_threshold(denoise: Denoise, quantile: float = 0.995) -> Denoise:
    """x̂ clamped to [-q, q] and divided by q, for data in [-1, 1].

    q = max(1, that quantile of |x̂| in each picture).

    References:
        Photorealistic Text-to-Image Diffusion Models (Saharia et al., 2022), arXiv:2205.11487, section 2.3.
    """

    def thresholded(z: Tensor, level: Level) -> Prediction:
        prediction = denoise(z, level)
        q = torch.quantile(prediction.x.abs().flatten(1), quantile, dim=1).clamp(min=1)
        q = q.reshape(-1, *[1] * (z.ndim - 1))
        return prediction._replace(x=prediction.x.clamp(-q, q) / q)

    return thresholded


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1).reshape(-1, *[1] * (x.ndim - 1))
