"""Bounds on the likelihood: -log p(x) <= prior + diffusion + reconstruction, each in nats an example.

A diffusion model is a chain of latents z, from noise to data, and the evidence lower bound of such a chain
falls apart into terms that are each a KL divergence between Gaussians. As functions of log-SNR they are free
of the scaling. With t the noisier and s the cleaner level of a step, l their log-SNRs, and f the place of
the reverse variance between the smallest (0) and the largest (1), a step costs in each dimension

    KL(q(z_s | z_t, x) || p(z_s | z_t)) = (expm1(-f r) + f r + (SNR(s) - SNR(t)) e^{-f r} (x - x̂(z_t))²) / 2,
    r = log(largest variance / smallest) = softplus(l_s) - softplus(l_t).

`bound` is that of variational diffusion models (f = 0): T steps and a decoder from z_0, or continuous time,
where it depends on a schedule by its ends alone. `chain_bound` is DDPM's for a chain of T levels: T - 1 steps
and a decoder from x_1. `consistency_bound` is the same number before it was rewritten as KLs against
q(x_{t-1} | x_t, x_0), and a noisier estimate.

Expectations over noise are taken with one draw an example. The mean over many is the bound; so is an exact
one, if `noise` gives the nodes of a quadrature.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 3-8 and appendix A.
    Variational Diffusion Models (Kingma et al., 2021), arXiv:2107.00630, eq. 11-18 and appendices A, E.
    Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, eq. 4-7 and 15.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .decoder import Decoder, discretized_gaussian
from .denoiser import Denoise
from .level import Level, check_finite
from .losses import stratified
from .noise import Noise
from .schedules import Discrete, Schedule

Nats = TypeVar("Nats", float, Tensor)


class Bound(NamedTuple):
    """An upper bound of -log p(x) by its terms, nats (B,)."""

    prior: Tensor
    """What is left of x in the noisiest latent: KL(q(z_1 | x) || p(z_1))."""
    diffusion: Tensor
    """The steps between the latents."""
    reconstruction: Tensor
    """-log p(x | the cleanest latent)."""

    @property
    def total(self) -> Tensor:
        """Their sum (B,)."""
        return self.prior + self.diffusion + self.reconstruction


def to_bits(nats: Nats, dims: int) -> Nats:
    """Bits a dimension: nats / (dims log 2)."""
    return nats / (dims * math.log(2))


def normal_kl(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL(N(mean, var) || N(other_mean, other_var)) in nats, for each number."""
    ratio = log_var - other_log_var
    off = (mean - other_mean).square() * torch.exp(-other_log_var)
    return 0.5 * (torch.expm1(ratio) - ratio + off)


def prior_kl(x: Tensor, level: Level) -> Tensor:
    """L_T: KL(q(z | x) || N(0, alpha² + sigma²)) at the noisiest level, nats (B,).

        (softplus(l) + sigmoid(l) (x² - 1)) / 2 in each dimension.

    The prior is `solvers.prior`, for a VP process N(0, I).
    """
    log_snr = level.log_snr.reshape(-1, 1).to(x.device)
    return 0.5 * (F.softplus(log_snr) + torch.sigmoid(log_snr) * (x.flatten(1).square() - 1)).sum(1)


def bound(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    decoder: Decoder,
    steps: int | None = None,
    times: Tensor | None = None,
    noise: Noise = torch.randn_like,
) -> Bound:
    """VDM's bound: the prior, T steps or continuous time, and a decoder from z_0.

        steps = T:  T (SNR(s) - SNR(t)) / 2 |x - x̂(z_t)|²,    t = i / T, s = (i - 1) / T, i uniform in 1..T,
        None:       -SNR'(t) / 2 |x - x̂(z_t)|²,               t uniform in [0, 1].

    The reverse variance is the small one, whatever a denoiser learned. T steps cost more than continuous time
    with the exact denoiser, and 2 T less than T; the continuous diffusion term does not depend on
    the schedule between its ends.

    Args:
        denoise: The denoiser, condition bound; one call an example, and those of the decoder.
        x: Clean data (B, ...).
        schedule: The levels, from the decoder's (t = 0) to the prior's (t = 1).
        decoder: log p(x | z_0).
        steps: T; None is continuous time.
        times: One time an example, (B,) in [0, 1); by default stratified at random.
        noise: Draws the noise of z_t, and then that of z_0.

    Raises:
        ValueError: T < 2, times outside [0, 1), or x with a value that is not finite; and as the decoder.
    """
    check_finite(x)
    if steps is not None:
        _check_steps(steps)
    if times is None:
        times = stratified(torch.rand(len(x), dtype=torch.float64, device=x.device))
    _check_times(times)
    if steps is None:
        log_snr = schedule.log_snr(times)
        weight = -0.5 * schedule.slope(times) * torch.exp(log_snr)
    else:
        i = torch.floor(times * steps).clamp(max=steps - 1)
        log_snr = schedule.log_snr((i + 1) / steps)
        weight = 0.5 * steps * torch.expm1(schedule.log_snr(i / steps) - log_snr) * torch.exp(log_snr)
    error = (x - denoise(*_diffuse(x, schedule.scaling(log_snr), noise)).x).square().flatten(1).sum(1)
    first, last = (schedule(torch.full((), t, dtype=torch.float64)) for t in (0.0, 1.0))
    reconstruction = -decoder(denoise, x, *_diffuse(x, first, noise))
    return Bound(prior_kl(x, last), weight * error, reconstruction)


def chain_bound(
    denoise: Denoise,
    x: Tensor,
    schedule: Discrete,
    decoder: Decoder | None = None,
    times: Tensor | None = None,
    frac: float = 0.0,
    noise: Noise = torch.randn_like,
) -> Bound:
    """DDPM's objective L = L_T + sum_{t=2}^T L_{t-1} + L_0 (eq. 5): T - 1 steps and a decoder from x_1.

    Args:
        denoise: The denoiser, condition bound: T calls an example, or 2 with `times`.
        x: Clean data (B, ...).
        schedule: The chain.
        decoder: log p(x | x_1); by default `chain_decoder`.
        times: (B,) in [0, 1): one step an example, t = 2 + floor(times (T - 1)), stands for all. By default
            all are summed.
        frac: The fixed reverse variance, 0 small, 1 large; a denoiser that learned it overrides this.
        noise: Draws the noise of x_t for each t from 2 on, and last that of x_1.

    Raises:
        ValueError: T < 2, times outside [0, 1), or x with a value that is not finite; and as the decoder.
    """

    def term(t: Tensor) -> Tensor:
        return chain_term(denoise, x, schedule, t, decoder, frac, noise)

    diffusion = _sum_of_steps(term, 2, schedule, times)
    return Bound(prior_kl(x, _rung(schedule, schedule.T, x)), diffusion, term(torch.tensor(1)))


def chain_terms(
    denoise: Denoise,
    x: Tensor,
    schedule: Discrete,
    steps: Tensor | None = None,
    decoder: Decoder | None = None,
    frac: float = 0.0,
    noise: Noise = torch.randn_like,
) -> Tensor:
    """L_{t-1} for each t in `steps`, nats (K, B): the mean over examples is DDPM's curve over time.

    Args:
        denoise: The denoiser, condition bound; one call an example and step.
        x: Clean data (B, ...).
        schedule: The chain.
        steps: t (K,) from 1 to T; by default all of them, so that row t - 1 is L_{t-1}.
        decoder: As in `chain_bound`.
        frac: As in `chain_bound`.
        noise: Draws the noise of x_t, step by step.

    Raises:
        ValueError: As `chain_term`.
    """
    steps = torch.arange(1, schedule.T + 1) if steps is None else steps
    return torch.stack([chain_term(denoise, x, schedule, t, decoder, frac, noise) for t in steps])


def chain_term(
    denoise: Denoise,
    x: Tensor,
    schedule: Discrete,
    t: Tensor,
    decoder: Decoder | None = None,
    frac: float = 0.0,
    noise: Noise = torch.randn_like,
) -> Tensor:
    """L_{t-1} with one draw of x_t, nats (B,).

    KL(q(x_{t-1} | x_t, x) || p(x_{t-1} | x_t)) for t from 2 on, and L_0 = -log p(x | x_1) for t = 1.

    Args:
        denoise: The denoiser, condition bound; one call an example.
        x: Clean data (B, ...).
        schedule: The chain.
        t: The step, from 1 to T: (), or one an example (B,).
        decoder: As in `chain_bound`.
        frac: As in `chain_bound`.
        noise: Draws the noise of x_t.

    Raises:
        ValueError: T < 2, frac outside [0, 1], t outside 1..T, or x with a value that is not finite; and as
            the decoder.
    """
    check_finite(x)
    _check_steps(schedule.T)
    _check_frac(frac)
    wrong = (t < 1) | (t > schedule.T)
    if wrong.any():
        raise ValueError(f"t = {int(t[wrong].flatten()[0])}: the steps of this chain are 1..{schedule.T}")
    level, cleaner = _rung(schedule, t, x), _rung(schedule, (t - 1).clamp(min=1), x)
    z, at = _diffuse(x, level, noise)
    prediction = denoise(z, at)
    f = frac if prediction.frac is None else prediction.frac
    r = F.softplus(cleaner.log_snr) - F.softplus(level.log_snr)
    gain = torch.expm1(cleaner.log_snr - level.log_snr) * torch.exp(level.log_snr - f * r)
    square = gain * (x - prediction.x).square()
    kl = 0.5 * (torch.expm1(-f * r) + f * r + square).flatten(1).sum(1)
    first = (t == 1).to(x.device)
    if first.any():
        decoder = decoder or chain_decoder(schedule, frac)
        kl = torch.where(first, -decoder(lambda z, level: prediction, x, z, at), kl)
    return kl


def chain_decoder(schedule: Discrete, frac: float = 0.0) -> Decoder:
    """The discretised Gaussian of a chain's last step: variance beta-tilde_2 (frac = 0) to beta_1 (1).

    Raises:
        ValueError: T < 2.
    """
    _check_steps(schedule.T)
    return discretized_gaussian(frac, small=-math.expm1(float(schedule.table[1] - schedule.table[0])))


class Reweighting(NamedTuple):
    """How L_{t-1}, t = 2..T, follows from the squared error of the noise: weight |eps - ε̂|² + D constant."""

    weight: Tensor
    """(T - 1,)."""
    constant: Tensor
    """(T - 1,), nats for each of D dimensions: the price of a variance other than the smallest."""


def reweighting(schedule: Discrete, frac: float = 0.0) -> Reweighting:
    """What L_simple = |eps - ε̂|² leaves out of L_{t-1}, in float64.

    The weight is beta² / (2 var alpha_t (1 - alpha_bar)) in DDPM's notation, eq. 12 and 14: largest for the
    cleanest steps, which L_simple so counts for less.

    Args:
        schedule: The chain.
        frac: The fixed reverse variance, 0 small, 1 large.

    Raises:
        ValueError: T < 2.
    """
    _check_steps(schedule.T)
    r = -F.softplus(schedule.table).diff()
    weight = 0.5 * torch.expm1(-schedule.table.diff()) * torch.exp(-frac * r)
    return Reweighting(weight, 0.5 * (torch.expm1(-frac * r) + frac * r))


def consistency_bound(
    denoise: Denoise,
    x: Tensor,
    schedule: Discrete,
    decoder: Decoder | None = None,
    times: Tensor | None = None,
    frac: float = 0.0,
    noise: Noise = torch.randn_like,
) -> Bound:
    """The bound in its earlier form, which sets each latent between its two neighbours.

        prior           E KL(q(x_T | x_{T-1}) || p(x_T)),                                x_{T-1} ~ q(. | x),
        diffusion       sum_{t=1}^{T-1} E [log q(x_t | x_{t-1}) - log p(x_t | x_{t+1})], all three ~ q(. | x),
        reconstruction  -E log p(x | x_1),                                               x_1 ~ q(. | x).

    Its expectation is that of `chain_bound`. With three latents drawn where one would do it varies far more:
    hence DDPM's rewriting. The middle term is also found as E KL(q(x_t | x_{t-1}) || p(x_t | x_{t+1})) over
    the two neighbours. That is another number, for x_t does depend on x_{t+1}.

    Args:
        denoise: As in `chain_bound`.
        x: Clean data (B, ...).
        schedule: The chain.
        decoder: As in `chain_bound`.
        times: (B,) in [0, 1): one step an example, t = 1 + floor(times (T - 1)), stands for all. By default
            all are summed.
        frac: As in `chain_bound`.
        noise: Draws the noise of x_{t-1}, and that on the way to x_t and to x_{t+1}, for each t; then that of
            x_1, and of x_{T-1}.

    Raises:
        ValueError: As `chain_bound`.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 3.
        Understanding Diffusion Models: A Unified Perspective (Luo, 2022), arXiv:2208.11970, whose
            consistency term is the other number.
    """
    check_finite(x)

    def term(t: Tensor) -> Tensor:
        s, now, u = (_rung(schedule, step, x) for step in (t - 1, t, t + 1))
        x_s, _ = _diffuse(x, s, noise)
        mean, log_var = _forward(x_s, s, now)
        x_t = mean + torch.exp(0.5 * log_var) * noise(x)
        onward, onward_log_var = _forward(x_t, now, u)
        x_u = (onward + torch.exp(0.5 * onward_log_var) * noise(x)).to(x)
        prediction = denoise(x_u, u if u.log_snr.ndim == 0 else u.to(x))
        f = frac if prediction.frac is None else prediction.frac
        c = -torch.expm1(u.log_snr - now.log_snr)
        reverse = now.sigma**2 * u.alpha / (u.sigma**2 * now.alpha) * x_u + now.alpha * c * prediction.x
        r = F.softplus(now.log_snr) - F.softplus(u.log_snr)
        reverse_log_var = torch.log(c * now.sigma**2) + f * r
        ratio = _log_normal(x_t, mean, log_var) - _log_normal(x_t, reverse, reverse_log_var)
        return ratio.flatten(1).sum(1)

    diffusion = _sum_of_steps(term, 1, schedule, times)
    reconstruction = chain_term(denoise, x, schedule, torch.tensor(1), decoder, frac, noise)
    s, last = _rung(schedule, schedule.T - 1, x), _rung(schedule, schedule.T, x)
    x_s, _ = _diffuse(x, s, noise)
    prior = 2 * torch.log(torch.hypot(last.alpha, last.sigma))
    mean, log_var = _forward(x_s, s, last)
    return Bound(
        normal_kl(mean, log_var, torch.zeros_like(x), prior).flatten(1).sum(1), diffusion, reconstruction
    )


def _log_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * ((x - mean).square() * torch.exp(-log_var) + log_var + math.log(2 * math.pi))


def _forward(z: Tensor, s: Level, t: Level) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z_t | z_s), for t noisier than s."""
    return t.alpha / s.alpha * z, torch.log(-(t.sigma**2) * torch.expm1(t.log_snr - s.log_snr))


def _sum_of_steps(
    term: Callable[[Tensor], Tensor], first: int, schedule: Discrete, times: Tensor | None
) -> Tensor:
    """The sum of a term over T - 1 steps from `first` on, or T - 1 times the one that each example drew."""
    _check_steps(schedule.T)
    count = schedule.T - 1
    if times is not None:
        _check_times(times)
        return count * term(first + torch.floor(times * count).long().clamp(max=count - 1))
    return torch.stack([term(torch.tensor(first + i)) for i in range(count)]).sum(0)


def _rung(schedule: Discrete, t: Tensor | int, x: Tensor) -> Level:
    """Level t of a chain, 0..T with 0 the data, to be broadcast against x, in float64."""
    t = torch.as_tensor(t).cpu()
    noisy = schedule.scaling(schedule.table[(t - 1).clamp(min=0)])
    level = Level(*(torch.where(t == 0, clean, field) for clean, field in zip(_CLEAN, noisy, strict=True)))
    return level if t.ndim == 0 else level.to(x.double()).view(x.ndim)


_CLEAN = 1.0, 0.0, math.inf  # alpha, sigma and log-SNR of the data


def _diffuse(x: Tensor, level: Level, noise: Noise) -> tuple[Tensor, Level]:
    """z = alpha x + sigma eps, and its level: a batch of levels in x's precision, so that z is, too."""
    level = level if level.log_snr.ndim == 0 else level.to(x).view(x.ndim)
    return level.alpha * x + level.sigma * noise(x), level


def _check_times(times: Tensor) -> None:
    wrong = ~((times >= 0) & (times < 1))
    if wrong.any():
        raise ValueError(f"times has the value {float(times[wrong][0])}: times are in [0, 1)")


def _check_frac(frac: float) -> None:
    if not 0 <= frac <= 1:
        raise ValueError(f"frac = {frac}: it lies between 0, the small variance, and 1, the large")


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise ValueError(f"T = {steps}: a bound needs at least 2 steps")
