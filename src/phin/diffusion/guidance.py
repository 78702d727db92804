"""Guidance: maps from denoisers to a denoiser.

A guidance scale always means `null + scale (cond - null)`: 0 is unconditional, 1 plain conditional, above 1
sharpens. Papers that write (1 + w) cond - w null have scale = 1 + w.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .denoiser import Denoise, Given, Prediction
from .level import Level


def classifier_free(
    cond: Denoise,
    null: Denoise,
    scale: float,
    interval: tuple[float, float] = (-math.inf, math.inf),
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
            prediction's (arXiv:2305.08891, section 3.4, on x̂).

    Raises:
        ValueError: If a number is not finite, or out of its range.

    References:
        Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), arXiv:2207.12598, eq. 6, scale = 1 + w.
    """
    low, high = interval
    if not (math.isfinite(scale) and 0 <= rescale <= 1 and low < high):
        raise ValueError(
            "guidance has a finite scale, an interval from low to high and a rescale from 0 to 1, not "
            f"{scale}, {interval} and {rescale}"
        )

    def denoise(z: Tensor, level: Level) -> Prediction:
        if scale == 1:
            return cond(z, level)
        if scale == 0 and rescale == 0 and (low, high) == (-math.inf, math.inf):
            return null(z, level)
        inside = (level.log_snr > low) & (level.log_snr < high)
        if not inside.any():
            return cond(z, level)
        if isinstance(cond, Given) and isinstance(null, Given) and cond.fits(null, z):
            c, n = cond.beside(null, z, level)
        else:
            c, n = cond(z, level), null(z, level)
        x = n.x + scale * (c.x - n.x)
        if rescale:
            of_x = _std(x)
            ratio = torch.where(of_x > 0, _std(c.x) / of_x, 1)  # a constant has no deviation to draw back
            x = x * (rescale * ratio + (1 - rescale))
        return Prediction(torch.where(inside.to(z.device), x, c.x), c.frac)

    return denoise


def classifier(base: Denoise, log_prob: Callable[[Tensor, Level], Tensor], scale: float = 1.0) -> Denoise:
    """x̂ = base + scale (sigma² / alpha) ∇_z log p(y | z): Bayes' rule, by a classifier of noisy data.

    For x̂ = (z + sigma² ∇ log p(z)) / alpha, and the gradients of log p(z) and log p(y | z) add up to that of
    log p(z | y). So with the exact classifier of z at its level the unconditional denoiser becomes what
    `classifier_free` makes of it, null + scale (cond - null); at scale 1 it is exactly the conditional one,
    and at no other is it the denoiser of any data. On a base that is guided already the scales add up.

    The gradient is taken whether autograd records or not; where it does, the result can be differentiated.

    Args:
        base: The denoiser to guide.
        log_prob: (z, level) -> log p(y | z) in nats (B,), the y of each example bound. Examples must not mix.
        scale: 0 is the base, 1 Bayes' rule, above it sharpens.

    References:
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), arXiv:2105.05233, eq. 14
            and algorithm 2: eps - sigma ∇ log p(y | z) in place of the noise is this x̂.
    """
    if scale == 0:
        return base

    def total(z: Tensor, level: Level) -> Tensor:
        return log_prob(z, level).sum()  # its gradient has each example's own in its row

    def denoise(z: Tensor, level: Level) -> Prediction:
        prediction = base(z, level)
        gradient = torch.func.grad(total)(z, level)
        return prediction._replace(x=prediction.x + scale * level.sigma**2 / level.alpha * gradient)

    return denoise


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """x̂ clamped to the range of the data, as DDPM's own sampler does."""
    if not low < high:
        raise ValueError(f"a range from {low} to {high} is none")

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
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile = {quantile} must be above 0 and at most 1")

    def thresholded(z: Tensor, level: Level) -> Prediction:
        prediction = denoise(z, level)
        # torch.quantile has neither half precision nor room for more than 16 million values.
        ascending = prediction.x.abs().flatten(1).sort(1).values
        place = quantile * (ascending.shape[1] - 1)
        below, above = ascending[:, math.floor(place)], ascending[:, math.ceil(place)]
        q = torch.lerp(below, above, place - math.floor(place)).clamp(min=1)
        q = q.reshape(-1, *[1] * (z.ndim - 1))
        return prediction._replace(x=prediction.x.clamp(-q, q) / q)

    return thresholded


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1, correction=0).reshape(-1, *[1] * (x.ndim - 1))
