"""Objectives: what a step of training lowers, built of the denoising loss and the terms of the bound.

A new one is a frozen dataclass that is called with a denoiser, data and times, and an entry at the foot.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .bound import chain_term, prior_kl, to_bits
from .decoder import Decoder, categorical
from .denoiser import Denoise, Prediction
from .level import Level
from .losses import denoising_loss
from .noise import Noise
from .schedules import Discrete, Learned, Schedule, least_variance
from .weights import Weight


class Terms(NamedTuple):
    """What an objective says of each example, (B,)."""

    log_snr: Tensor
    """Of the level that it was taken at."""
    loss: Tensor
    """What training lowers."""
    simple: Tensor | None = None
    """The weighted denoising loss in it, if it is not all."""
    bound: Tensor | None = None
    """The bound in it, bits a dimension: of a chain T times one of its T terms, else all of it."""


class Objective(Protocol):
    """What training lowers; its mean over uniform times counts."""

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        """The terms of each example; one call of the denoiser.

        Args:
            denoise: The denoiser, condition bound.
            x: Clean data (B, ...).
            schedule: Its levels at the times t are trained.
            t: (B,) in [0, 1).
            weight: Of the denoising loss.
            noise: Draws eps.
        """
        ...


@dataclass(frozen=True)
class Simple:
    """The weighted denoising loss, `losses.denoising_loss`: L_simple if the weight is 1."""

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        """The loss at these times."""
        level = schedule(t).to(x)
        return Terms(level.log_snr, denoising_loss(denoise, x, level, weight, noise))


@dataclass(frozen=True)
class ChainBound:
    """L_vlb: the terms of the bound of a chain that depend on the model, in bits a dimension.

        T L_{i-1} / (D log 2),    i = 1 + floor(T t).

    Its mean over i is the sum over the chain, L_0 + ... + L_{T-1}. Everything is trained by it: the mean, and
    the variance if it is learned. It is noisy, and importance sampling of t is meant for it.

    References:
        Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, eq. 4-7 and section 3.3.
    """

    decoder: Decoder | None = None
    """log p(x | x_1); the chain's own discretised Gaussian, for 8-bit images, if None."""

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        """One term for each example."""
        chain, i = _step(schedule, t)
        nats = chain_term(denoise, x, chain, i, self.decoder, noise=noise)
        bits = chain.T * to_bits(nats, x[0].numel()).to(x)
        return Terms(chain.table[i - 1].to(x), bits, bound=bits)


@dataclass(frozen=True)
class Hybrid:
    """L_hybrid = L_simple + scale L_vlb, in which L_vlb trains the variance alone.

    L_simple is a mean over dimensions, and L_vlb is in bits a dimension, the sum over the chain: T times the
    one term that is drawn (`ChainBound`). That is how the paper's code has it: a term in bits a dimension,
    times T / 1000. The mean in L_vlb is a constant: x̂ is trained by L_simple, as if it were alone, and the
    network's second half, F with f = (F + 1) / 2 (`Denoiser`), by L_vlb.

    References:
        Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, eq. 15-16 and section 3.1.
    """

    scale: float = 0.001
    """lambda."""
    decoder: Decoder | None = None
    """As of `ChainBound`."""

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        """Both parts, of one prediction."""
        chain, i = _step(schedule, t)
        level = chain.scaling(chain.table[i - 1]).to(x).view(x.ndim)
        eps = noise(x)
        prediction = denoise(level.alpha * x + level.sigma * eps, level)

        def known(z: Tensor, level: Level) -> Prediction:
            return prediction

        def constant_mean(z: Tensor, level: Level) -> Prediction:
            return prediction._replace(x=prediction.x.detach())

        simple = denoising_loss(known, x, level, weight, lambda _: eps)
        bound = ChainBound(self.decoder)(constant_mean, x, chain, t, weight, lambda _: eps).loss
        return Terms(level.log_snr.flatten(), simple + self.scale * bound, simple, bound)


@dataclass(frozen=True)
class ContinuousBound:
    """VDM's bound in continuous time, all of it, in bits a dimension.

        prior - (d log_snr / dt) SNR |x - x̂|² / 2 + reconstruction

    A learned schedule (`Learned`) is trained with the network: its ends by the bound, its interior by the
    variance of the middle term.

    References:
        Variational Diffusion Models (Kingma et al., 2021), arXiv:2107.00630, eq. 11, 15-17 and appendix I.2.
    """

    decoder: Decoder | None = None
    """log p(x | z_0); VDM's categorical one, for 8-bit images, if None."""

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        """The bound, its middle term at one time for each example."""
        t, eps = t.to(x), noise(x)
        if isinstance(schedule, Learned):
            interior = schedule.interior(t)
            log_snr, slope = schedule.between(*interior)
        else:
            interior, log_snr, slope = (), schedule.log_snr(t), schedule.slope(t)
        level = schedule.scaling(log_snr).view(x.ndim)
        error = (x - denoise(level.alpha * x + level.sigma * eps, level).x).square().flatten(1).sum(1)
        diffusion = -0.5 * slope * torch.exp(log_snr) * error
        if torch.is_grad_enabled() and interior:
            least_variance(interior, diffusion)
        first, last = (schedule(torch.full_like(t, end)).view(x.ndim) for end in (0.0, 1.0))
        decoder = self.decoder or categorical()
        reconstruction = -decoder(denoise, x, first.alpha * x + first.sigma * eps, first)
        bits = to_bits(prior_kl(x, last) + diffusion + reconstruction, x[0].numel())
        return Terms(log_snr.detach(), bits, bound=bits)


def _step(schedule: Schedule, t: Tensor) -> tuple[Discrete, Tensor]:
    """The chain, and its steps 1..T at times uniform in [0, 1), each as likely as any other."""
    if not isinstance(schedule, Discrete):
        raise ValueError(
            f"this objective is of a chain's steps, and {type(schedule).__name__} has none: use Discrete"
        )
    return schedule, (t.cpu().double() * schedule.T).long().clamp(max=schedule.T - 1) + 1


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "simple": Simple,
    "hybrid": Hybrid,
    "bound": ChainBound,
    "continuous_bound": ContinuousBound,
}
"""Name -> factory."""
