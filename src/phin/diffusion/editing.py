"""Editing: variations, interpolations and repairs of given data, by any denoiser, solver and ladder.

All of it is a walk down a ladder that does not begin at noise, or is led on the way:

    vary         diffuse x to a level, and denoise it again (SDEdit)
    interpolate  diffuse two, mix, and denoise (DDPM)
    slerp        mix two latents, from `ode.encode` or `ode.invert`, along a great circle (DDIM)
    inpaint      put what is known in its place at every level (RePaint)

How far x is diffused is its *strength*: the share of the ladder's levels that are walked, 1 for the whole
ladder from pure noise on and 0 for none; `strength_at` gives it for a log-SNR.
"""

from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoise
from .level import Level, check_finite
from .noise import Noise
from .solvers import Solver, Watch, prior, sample


def diffuse(x: Tensor, level: Level, noise: Noise = torch.randn_like) -> Tensor:
    """A draw from q(z | x) = N(alpha x, sigma²)."""
    return level.alpha * x + level.sigma * noise(x)


def renoise(z: Tensor, s: Level, t: Level, noise: Noise = torch.randn_like) -> Tensor:
    """A draw from q(z_t | z_s), from level s to the noisier level t.

    z_t = (alpha_t / alpha_s) z_s + sqrt(1 - SNR(t) / SNR(s)) sigma_t eps.
    """
    spread = (-torch.expm1(t.log_snr - s.log_snr)).sqrt() * t.sigma
    return t.alpha / s.alpha * z + spread * noise(z)


def tail(levels: Level, strength: float) -> Level:
    """The clean end of a ladder of N levels: the last round(strength N).

    Raises:
        ValueError: If strength is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength = {strength} must be in [0, 1]")
    n = len(levels.log_snr)
    return Level(*(field[n - round(strength * n) :] for field in levels))


def strength_at(levels: Level, log_snr: float) -> float:
    """The strength at which the walk begins at the first level of the ladder that is no noisier than this."""
    return int((levels.log_snr >= log_snr).sum()) / len(levels.log_snr)


def vary(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    x: Tensor,
    strength: float,
    noise: Noise = torch.randn_like,
    watch: Watch | None = None,
) -> Tensor:
    """Variations of x (B, ...): what it may have been, seen through the noise of a level (SDEdit).

    The higher the strength, the less is kept; at 0 it is x itself, and at 1 a plain sample.

    Args:
        denoise: The denoiser, guided or not.
        solver: Makes the steps.
        levels: The ladder (N,), noisy to clean.
        x: Data.
        strength: The share of the ladder that is walked, in [0, 1].
        noise: Draws the start's noise, then the solver's.
        watch: Called with every state and its level.

    Raises:
        ValueError: If strength is outside [0, 1], or x has a value that is not finite.

    References:
        SDEdit (Meng et al., 2022), arXiv:2108.01073, algorithm 1.
    """
    check_finite(x)
    walked = tail(levels, strength)
    if not len(walked.log_snr):
        return x
    top = walked.at(0)
    start = prior(top, x, noise) if len(walked.log_snr) == len(levels.log_snr) else diffuse(x, top, noise)
    return sample(denoise, solver, walked, start, noise, watch)


def interpolate(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    a: Tensor,
    b: Tensor,
    weights: Tensor,
    strength: float,
    noise: Noise = torch.randn_like,
    watch: Watch | None = None,
) -> Tensor:
    """Between data a and b (B, ...), by the stochastic encoder: (K, B, ...) for K weights of b.

    Both are diffused with one noise and mixed along the straight line, (1 - w) z_a + w z_b, which has the
    level's noise still. That noise, and the solver's, is the same for all weights, so that the way is smooth.
    At strength 1 nothing of a and b is left.

    Args:
        denoise: The denoiser; its condition has K B rows, those of the first weight first.
        solver: Makes the steps.
        levels: The ladder (N,), noisy to clean.
        a: Data, at weight 0.
        b: Data, at weight 1.
        weights: (K,).
        strength: The share of the ladder that is walked, in [0, 1].
        noise: Draws noise (B, ...).
        watch: Called with every state and its level.

    Raises:
        ValueError: If strength is outside [0, 1], or a or b have a value that is not finite.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, section 4.4.
    """

    def shared(like: Tensor) -> Tensor:
        return noise(like[: len(a)]).repeat(len(weights), *[1] * (a.ndim - 1))

    w = weights.to(a).reshape(-1, *[1] * a.ndim)
    mixed = ((1 - w) * a + w * b).flatten(0, 1)  # mixed before they are diffused alike, which is the same
    return vary(denoise, solver, levels, mixed, strength, shared, watch).reshape(len(weights), *a.shape)


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Along the great circle from a to b (B, ...): (K, B, ...) for K weights of b, each example for itself.

        sin((1 - w) theta) / sin theta a + sin(w theta) / sin theta b,    theta the angle between them,

    for a and b of one length; if they are not, this is the direction, and the length goes evenly from one to
    the other. It is to latents what a straight line is to data: between draws from N(0, I), which are nearly
    orthogonal and of nearly one length, it stays at that length, whereas the middle of the line is shorter by
    sqrt(2). Where theta is 0 or pi, and there is no such circle or more than one, it is the line.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), arXiv:2010.02502, appendix D.5.
    """
    one = [1] * (a.ndim - 1)
    length_a, length_b = _length(a), _length(b)
    tiny = torch.finfo(a.dtype).tiny  # a latent of length 0 has no direction: a and b stay the ends
    p, q = a / length_a.clamp(min=tiny), b / length_b.clamp(min=tiny)
    theta = 2 * torch.atan2(_length(p - q), _length(p + q))  # arccos would lose half the digits near 0
    w = weights.to(a).reshape(-1, 1, *one)
    alike = theta.sin() < 1e-6
    safe = torch.where(alike, torch.ones_like(theta), theta)
    of_p = torch.where(alike, 1 - w, ((1 - w) * theta).sin() / safe.sin())
    of_q = torch.where(alike, w, (w * theta).sin() / safe.sin())
    return (of_p * p + of_q * q) * ((1 - w) * length_a + w * length_b)


def inpaint(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    x: Tensor,
    known: Tensor,
    resamplings: int = 10,
    jump: int = 1,
    noise: Noise = torch.randn_like,
    watch: Watch | None = None,
) -> Tensor:
    """Data that are x where it is known and fit to it elsewhere (RePaint).

    At every level the known part is put in place, diffused to that level. What has been drawn elsewhere could
    not yet know of it; so stretches of the ladder are walked several times, and between them the state goes
    back up by q(z_t | z_s). With the exact denoiser of p(x), many resamplings on a fine ladder tend to
    p(unknown | known); a single walk does not, however fine the ladder.

    Args:
        denoise: The denoiser, guided or not.
        solver: Makes the steps; best a stochastic one, such as `Ancestral()`, whose steps are draws.
        levels: The ladder (N,), noisy to clean.
        x: Data (B, ...); what is not known may have any finite value.
        known: True where x is known, to be broadcast against it.
        resamplings: How often each stretch is walked; 1 is plain replacement.
        jump: Steps in a stretch.
        noise: Draws all noise.
        watch: Called with every state and its level.

    Raises:
        ValueError: If resamplings or jump is below 1, or x has a value that is not finite.

    References:
        RePaint (Lugmayr et al., 2022), arXiv:2201.09865, algorithm 1 and section 4.2.
    """
    if resamplings < 1 or jump < 1:
        raise ValueError(f"resamplings = {resamplings} and jump = {jump} must be at least 1")
    check_finite(x)

    def replaced(z: Tensor, level: Level) -> Tensor:
        z = torch.where(known, diffuse(x, level, noise), z)
        if watch is not None:
            watch(z, level)
        return z

    steps = list(levels.steps())
    z = replaced(prior(levels.at(0), x, noise), levels.at(0))
    memory: Any = None
    for stretch in (steps[i : i + jump] for i in range(0, len(steps), jump)):
        for again in range(resamplings):
            if again:  # the past that a multistep solver remembers has been left
                z, memory = renoise(z, stretch[-1][1], stretch[0][0], noise), None
            for t, s in stretch:
                z, memory = solver.step(denoise, z, t, s, noise, memory)
                z = replaced(z, s)
    return torch.where(known, x, denoise(z, levels.at(-1)).x)


def _length(z: Tensor) -> Tensor:
    """The length of each example, (B, 1, ..., 1)."""
    return z.flatten(1).square().sum(1).sqrt().reshape(-1, *[1] * (z.ndim - 1))
