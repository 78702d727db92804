"""The forward process: its marginals, its posterior, and the differential equations that it obeys."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from phin.diffusion.denoiser import Denoise, Prediction
from phin.diffusion.level import SCALINGS, Level, Scaling, ve
from phin.diffusion.schedules import Cosine, Discrete, Geometric, Linear, LinearSubVP, Schedule
from phin.diffusion.solvers import DDIM, Ancestral
from phin.oracle import Gaussian, Mixture

from .instruments import (
    CONTINUOUS,
    GAUSSIAN,
    LINE,
    PLANE,
    STANDARD,
    at,
    derivative,
    dice,
    divergence,
    legendre,
    mean_of,
    no_noise,
    number,
)
from .law import Case, Unit, law

CHAINS = {"linear": Discrete(Linear(), 1000), "cosine": Discrete(Cosine(), 100)}


def below(data: Mixture, z: Tensor, level: Level) -> Tensor:
    """P(Z < z) of a mixture on the line: (n,)."""
    parts = zip(data.weights, data.parts, strict=True)
    spread = [
        (w, level.alpha * p.mean, (level.alpha**2 * p.cov[0, 0] + level.sigma**2).sqrt()) for w, p in parts
    ]
    return sum((w * torch.special.ndtr((z - mean) / std) for w, mean, std in spread), torch.zeros_like(z))


def draws_of(denoise: Denoise, solver: Ancestral, z: Tensor, t: Level, s: Level) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of one step of a sampler that adds independent noise."""
    mean, _ = solver.step(denoise, z, t, s, no_noise, None)
    moved, _ = solver.step(denoise, z, t, s, torch.ones_like, None)
    return mean, moved - mean


def pairs() -> Iterator[tuple[str, Level, Level]]:
    """Levels t, s of every scaling, near and far apart, and neighbours of a chain."""
    for name in SCALINGS:
        for high, low in [(1.0, 0.9), (3.0, -2.0), (9.0, -9.0)]:
            yield f"{name}, λ from {low:g} to {high:g}", at(low, name), at(high, name)
    for name, chain in CHAINS.items():
        ladder = chain.levels(chain.T)
        for i in (0, chain.T // 2, chain.T - 2):
            yield f"{name} chain, step {chain.T - i}", ladder.at(i), ladder.at(i + 1)


def transition(t: Level, s: Level) -> tuple[Tensor, Tensor]:
    """Factor and variance of q(z_t | z_s), by what the two marginals ask for."""
    factor = t.alpha / s.alpha
    return factor, t.sigma**2 - factor**2 * s.sigma**2


@law(
    "Steps merge into one",
    "x_t = √(1−β_t) x_{t−1} + √β_t ε  ⇒  x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε,  ᾱ_t = Π (1 − β_i)",
    "DDPM, arXiv:2006.11239, eq. 2 and 4",
    1e-9,
)
def merging() -> Iterator[Case]:
    """Mean and covariance carried through the paper's steps one by one, against the level of step t."""
    linear = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    f = torch.cos((torch.arange(101, dtype=torch.float64) / 100 + 0.008) / 1.008 * math.pi / 2) ** 2
    cosine = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    for name, betas in [("linear", linear), ("cosine", cosine)]:
        mean, cov = GAUSSIAN.mean, GAUSSIAN.cov
        means, covs = [], []
        for beta in betas:
            mean, cov = (1 - beta).sqrt() * mean, (1 - beta) * cov + beta * STANDARD.cov
            means.append(mean)
            covs.append(cov)
        for step in (1, len(betas) // 2, len(betas)):
            exact = GAUSSIAN.marginal(CHAINS[name](number(step / len(betas))))
            yield Case(f"{name}, mean, step {step}", exact.mean, means[step - 1])
            yield Case(f"{name}, covariance, step {step}", exact.cov, covs[step - 1])


@law(
    "Marginals by simulation",
    "q(x_t) = ∫ q(x_t | x_{t−1}) … q(x_1 | x_0) p(x_0)",
    "DDPM, arXiv:2006.11239, eq. 2",
    4.5,
    Unit.DEVIATIONS,
)
def simulation() -> Iterator[Case]:
    """Twenty thousand points of a mixture through every step of a chain, counted below nine places, against
    the distribution function of the marginal.
    """
    generator, chain = dice(1), CHAINS["cosine"]
    x = LINE.sample(20_000, generator)
    for step, beta in enumerate(chain.betas, 1):
        eps = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        x = (1 - beta).sqrt() * x + beta.sqrt() * eps
        if step in (5, 25, 50, 90):
            z = torch.linspace(-1.6, 1.6, 9, dtype=torch.float64)
            share, deviation = mean_of((x < z).double())
            yield Case(f"step {step}", share, below(LINE, z, chain(number(step / 100))), deviation)


@law(
    "The forward posterior",
    "q(x_{t−1} | x_t, x_0) = N((√ᾱ_{t−1}β_t x_0 + √α_t(1−ᾱ_{t−1}) x_t) / (1−ᾱ_t), β̃_t I)",
    "DDPM, arXiv:2006.11239, eq. 6-7",
    1e-7,
)
def posterior() -> Iterator[Case]:
    """One ancestral step that is told x_0, against conditioning of the joint Gaussian of both levels."""
    x, z = number(0.8, -1.1)[None], number(-0.4, 0.9)[None]
    for name, t, s in pairs():
        factor, _ = transition(t, s)
        gain = factor * s.sigma**2 / t.sigma**2  # Cov(z_s, z_t | x) / Var(z_t | x)
        mean = s.alpha * x + gain * (z - t.alpha * x)
        std = (s.sigma**2 - gain * factor * s.sigma**2).sqrt()
        found, spread = draws_of(lambda z, level: Prediction(x), Ancestral(), z, t, s)
        yield Case(f"{name}, mean", found, mean)
        yield Case(f"{name}, deviation", spread, std.expand(1, 2))


@law(
    "The reverse step has its exact mean",
    "E[z_s | z_t] = ∫ q(z_s | z_t, x) p(x | z_t) = posterior mean at x̂ = E[x | z_t]",
    "DDPM, arXiv:2006.11239, eq. 10",
    1e-7,
)
def reverse_mean() -> Iterator[Case]:
    """An ancestral step with the exact denoiser, against the regression of z_s on z_t in their joint law."""
    for name, t, s in pairs():
        z = GAUSSIAN.marginal(t).sample(20, dice())
        factor, _ = transition(t, s)
        clean, noisy = GAUSSIAN.marginal(s), GAUSSIAN.marginal(t)
        gain = factor * torch.linalg.solve(noisy.cov, clean.cov).mT
        found, _ = draws_of(GAUSSIAN.denoise, Ancestral(), z, t, s)
        yield Case(name, found, clean.mean + (z - noisy.mean) @ gain.mT)


@law(
    "Two variances are right",
    "Var[x_{t−1} | x_t] = β̃_t for x_0 at a point, β_t for x_0 ~ N(0, I)",
    "DDPM, arXiv:2006.11239, section 3.2",
    1e-6,
)
def two_variances() -> Iterator[Case]:
    """The sampler's small and large variance, against the reverse conditional of such data, VP."""
    for name, t, s in pairs():
        if name.startswith("vp") or "chain" in name:
            factor, fresh = transition(t, s)
            z = number(0.3, -0.4)[None]
            _, large = draws_of(STANDARD.denoise, Ancestral(frac=1.0), z, t, s)
            yield Case(f"{name}, large", large**2, 1 - factor**2)
            _, small = draws_of(STANDARD.denoise, Ancestral(frac=0.0), z, t, s)
            yield Case(f"{name}, small", small**2, s.sigma**2 * fresh / t.sigma**2)


@law(
    "The learned variance",
    "σ² = exp(f log β_t + (1 − f) log β̃_t)",
    "Improved DDPM, arXiv:2102.09672, eq. 15",
    1e-7,
)
def learned_variance() -> Iterator[Case]:
    """The spread of an ancestral step of a denoiser with a fraction, against the chain's own betas."""
    for name, chain in CHAINS.items():
        betas, survives = chain.betas, chain.alpha_bar
        ladder = chain.levels(chain.T)
        for step in (2, chain.T // 3, chain.T):
            t, s = ladder.at(chain.T - step), ladder.at(chain.T - step + 1)
            beta = betas[step - 1]
            small = (1 - survives[step - 2]) / (1 - survives[step - 1]) * beta
            for frac in (0.0, 0.3, 1.0):

                def denoise(z: Tensor, level: Level, frac: float = frac) -> Prediction:
                    return Prediction(torch.zeros_like(z), torch.full_like(z, frac))

                _, std = draws_of(denoise, Ancestral(0.7), torch.ones(1, 1).double(), t, s)
                expected = torch.exp(frac * beta.log() + (1 - frac) * small.log())
                yield Case(f"{name}, step {step}, f = {frac}", std**2, expected)


@law(
    "The mean in terms of the noise",
    "μ = (x_t − β_t / √(1−ᾱ_t) ε̂) / √α_t",
    "DDPM, arXiv:2006.11239, eq. 11",
    1e-7,
)
def mean_by_noise() -> Iterator[Case]:
    """An ancestral step along a chain, against the paper's formula with the paper's betas."""
    for name, chain in CHAINS.items():
        ladder = chain.levels(chain.T)
        for step in (2, chain.T // 3, chain.T):
            t, s = ladder.at(chain.T - step), ladder.at(chain.T - step + 1)
            z = GAUSSIAN.marginal(t).sample(20, dice())
            eps = -t.sigma * GAUSSIAN.score(z, t)
            beta, survives = chain.betas[step - 1], chain.alpha_bar[step - 1]
            expected = (z - beta / (1 - survives).sqrt() * eps) / (1 - beta).sqrt()
            found, _ = draws_of(GAUSSIAN.denoise, Ancestral(), z, t, s)
            yield Case(f"{name}, step {step}", found, expected)


@law(
    "The chain's variance, step by step",
    "σ_t² = (α_t / α_s)² σ_s² + σ_{t|s}²,  σ_{t|s}² = σ_t² (1 − e^{λ_t − λ_s}) ",
    "VDM, arXiv:2107.00630, appendix A.1",
    1e-9,
)
def chapman_kolmogorov() -> Iterator[Case]:
    """Variances composed over a hundred transitions, against the level at the end."""
    for name, schedule in CONTINUOUS.items():
        levels = schedule.levels(101)
        variance = levels.sigma[-1] ** 2
        for t, s in reversed(list(levels.steps())):
            fresh = -(t.sigma**2) * torch.expm1(t.log_snr - s.log_snr)
            variance = (t.alpha / s.alpha) ** 2 * variance + fresh
        yield Case(name, variance, levels.sigma[0] ** 2)


@law(
    "The variance of an SDE",
    "dσ² / dt = 2 f σ² + g²,  f = d log α / dt,  g² = −σ² dλ / dt",
    "Song et al. 2021, arXiv:2011.13456, appendix B; Särkkä and Solin 2019, eq. 5.51",
    1e-8,
)
def sde_variance() -> Iterator[Case]:
    """The derivative of the schedule's variance, against drift and diffusion, under every scaling."""
    for name, schedule in CONTINUOUS.items():
        t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        for scaling_name, scaling in SCALINGS.items():

            def level(t: Tensor, schedule: Schedule = schedule, scaling: Scaling = scaling) -> Level:
                return scaling(schedule.log_snr(t))

            f = derivative(lambda t, level=level: level(t).alpha.log(), t)
            change = derivative(lambda t, level=level: level(t).sigma ** 2, t)
            variance = level(t).sigma ** 2
            g2 = -variance * schedule.slope(t)
            yield Case(f"{name}, {scaling_name}", 2 * f * variance + g2, change)


def rates(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Drift factor f and squared diffusion g² of the schedule's SDE, in the schedule's time."""
    f = derivative(lambda t: schedule(t).alpha.log(), t)
    return f, -(schedule(t).sigma ** 2) * schedule.slope(t)


@law(
    "The VP SDE",
    "dx = −½ β x dt + √β dw,  β(t) = β_min + t (β_max − β_min)",
    "Song et al. 2021, arXiv:2011.13456, eq. 11 and 32",
    1e-8,
)
def vp_sde() -> Iterator[Case]:
    """Drift and diffusion of the schedule's levels, against the paper's, in the paper's time."""
    schedule = Linear()
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    speed = schedule.end - schedule.start
    beta = (0.1 + (20 - 0.1) * (schedule.start + speed * t)) * speed
    f, g2 = rates(schedule, t)
    yield Case("drift", f, -beta / 2)
    yield Case("diffusion", g2, beta)


@law(
    "The sub-VP SDE",
    "dx = −½ β x dt + √(β (1 − exp(−2 ∫β))) dw",
    "Song et al. 2021, arXiv:2011.13456, eq. 12",
    1e-8,
)
def subvp_sde() -> Iterator[Case]:
    """Drift and diffusion of the schedule's levels, against the paper's."""
    schedule = LinearSubVP()
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    speed = schedule.end - schedule.start
    u = schedule.start + speed * t
    beta = (0.1 + (20 - 0.1) * u) * speed
    f, g2 = rates(schedule, t)
    yield Case("drift", f, -beta / 2)
    yield Case("diffusion", g2, beta * (1 - torch.exp(-2 * (0.1 * u + (20 - 0.1) * u**2 / 2))))


@law(
    "The VE SDE",
    "dx = σ(t) √(2 log(σ_max / σ_min)) dw,  σ(t) = σ_min (σ_max / σ_min)^t",
    "Song et al. 2021, arXiv:2011.13456, eq. 9 and 30",
    1e-9,
)
def ve_sde() -> Iterator[Case]:
    """Diffusion of the geometric schedule, against the paper's. It has no drift."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    for low, high in [(0.01, 50.0), (0.1, 10.0)]:
        schedule = Geometric(low, high)
        g2 = -(schedule(t).sigma ** 2) * schedule.slope(t)
        expected = (low * (high / low) ** t) ** 2 * 2 * math.log(high / low)
        yield Case(f"σ from {low:g} to {high:g}", g2, expected)


@law(
    "The Fokker-Planck equation",
    "∂p/∂t = −div(f z p) + ½ g² Δp",
    "Song et al. 2021, arXiv:2011.13456, appendix D.1",
    1e-8,
)
def fokker_planck() -> Iterator[Case]:
    """Time and space derivatives of the mixture's exact density, by automatic differentiation."""
    for name, schedule in CONTINUOUS.items():
        for log_snr in (-2.0, 1.0):
            t = schedule.inverse(number(log_snr))
            level = schedule(t)
            z = PLANE.marginal(level).sample(30, dice())
            times = t.expand(30)[:, None]
            change = derivative(lambda t, z=z, schedule=schedule: PLANE.log_prob(z, schedule(t)), times)[:, 0]
            f, g2 = rates(schedule, t)
            score = PLANE.score(z, level)
            laplacian = divergence(lambda z, level=level: PLANE.score(z, level), z)
            drift = -2 * f - f * (z * score).sum(1)
            yield Case(f"{name}, λ = {log_snr:g}", drift + 0.5 * g2 * (laplacian + (score**2).sum(1)), change)


@law(
    "The probability flow",
    "∂p/∂t = −div(v p),  v = f z − ½ g² ∇ log p",
    "Song et al. 2021, arXiv:2011.13456, eq. 13",
    1e-6,
)
def continuity() -> Iterator[Case]:
    """The velocity of an infinitesimal DDIM step moves the mixture's density as noise does."""
    step = 1e-5
    for name, schedule in CONTINUOUS.items():
        t = schedule.inverse(number(0.5))
        here, before, after = (schedule(t + d) for d in (0.0, -step, step))
        z = PLANE.marginal(here).sample(30, dice())

        def velocity(z: Tensor, here: Level = here, before: Level = before, after: Level = after) -> Tensor:
            ends = [DDIM().step(PLANE.denoise, z, here, s, no_noise, None)[0] for s in (after, before)]
            return (ends[0] - ends[1]) / (2 * step)

        change = derivative(
            lambda t, z=z, schedule=schedule: PLANE.log_prob(z, schedule(t)), t.expand(30)[:, None]
        )[:, 0]
        found = -divergence(velocity, z) - (velocity(z) * PLANE.score(z, here)).sum(1)
        yield Case(name, found, change)


@law(
    "Ancestral sampling is the reverse SDE",
    "dx = (f x − g² ∇ log p) dt + g dw̄",
    "Anderson 1982; Song et al. 2021, arXiv:2011.13456, eq. 6 and appendix E",
    1e-5,
)
def reverse_sde() -> Iterator[Case]:
    """Drift and diffusion of ever shorter ancestral steps, their limit by extrapolation, against the
    formula.
    """
    for name, schedule in CONTINUOUS.items():
        t = schedule.inverse(number(0.5))
        level = schedule(t)
        z = PLANE.marginal(level).sample(20, dice())
        drifts, spreads = [], []
        for step in (2e-5, 1e-5):
            mean, std = draws_of(PLANE.denoise, Ancestral(), z, level, schedule(t - step))
            drifts.append((z - mean) / step)
            spreads.append(std**2 / step)
        f, g2 = rates(schedule, t)
        yield Case(f"{name}, drift", 2 * drifts[1] - drifts[0], f * z - g2 * PLANE.score(z, level))
        yield Case(f"{name}, diffusion", 2 * spreads[1] - spreads[0], g2.expand(20, 2))


@law(
    "The reverse SDE has the same marginals",
    "−∂p/∂t = −div(b p) + ½ g² Δp,  b = −f z + g² ∇ log p",
    "Anderson 1982; Song et al. 2021, arXiv:2011.13456, eq. 6",
    1e-8,
)
def reverse_fokker_planck() -> Iterator[Case]:
    """The reversed equation's right side with the drift that the denoiser gives, against the density's
    change in time.
    """
    for name, schedule in CONTINUOUS.items():
        t = schedule.inverse(number(-0.5))
        level = schedule(t)
        z = PLANE.marginal(level).sample(30, dice())
        change = derivative(
            lambda t, z=z, schedule=schedule: PLANE.log_prob(z, schedule(t)), t.expand(30)[:, None]
        )[:, 0]
        f, g2 = rates(schedule, t)

        def drift(z: Tensor, level: Level = level, f: Tensor = f, g2: Tensor = g2) -> Tensor:
            return -f * z + g2 * (level.alpha * PLANE.denoise(z, level).x - z) / level.sigma**2

        def log_p(z: Tensor, level: Level = level) -> Tensor:
            return PLANE.log_prob(z, level)

        score = derivative(log_p, z)
        laplacian = divergence(lambda z: derivative(log_p, z), z)
        found = -divergence(drift, z) - (drift(z) * score).sum(1) + 0.5 * g2 * (laplacian + (score**2).sum(1))
        yield Case(name, found, -change)


@law(
    "All scalings are one process",
    "log p_vp(αy) + D log α = log p_ve(y)",
    "EDM, arXiv:2206.00364, appendix B.2; VDM, arXiv:2107.00630, section 5.1",
    1e-10,
)
def one_process() -> Iterator[Case]:
    """The density of z / α under every scaling, against that of the VE process at the same SNR."""
    for log_snr in (-4.0, 0.0, 5.0):
        y = PLANE.marginal(ve(number(log_snr))).sample(30, dice())
        expected = PLANE.log_prob(y, ve(number(log_snr)))
        for name in SCALINGS:
            level = at(log_snr, name)
            found = PLANE.log_prob(level.alpha * y, level) + 2 * level.alpha.log()
            yield Case(f"{name}, λ = {log_snr:g}", found, expected)


@law(
    "A long chain is the SDE",
    "Π (1 − β(i/T) / T)  →  exp(−∫ β dt)  as T → ∞, with an error of order 1 / T",
    "Song et al. 2021, arXiv:2011.13456, appendix B",
    0.02,
    Unit.ABSOLUTE,
)
def long_chain() -> Iterator[Case]:
    """The order of the distance between log ᾱ of ever longer chains and the integral, measured by its
    slope.
    """
    steps = number(500.0, 1000.0, 2000.0, 4000.0)
    for t in (0.25, 0.5, 1.0):
        beta, w = legendre(0, t, 4)
        integral = w @ (0.1 + (20 - 0.1) * beta)
        off = [
            (Discrete(Linear(), int(T)).alpha_bar[int(T * t) - 1].log() + integral).abs().log() for T in steps
        ]
        x = steps.log() - steps.log().mean()
        yield Case(f"t = {t}", x @ torch.stack(off) / (x @ x), -1.0)


@law(
    "Nothing is left at the end",
    "KL(q(x_T | x_0) ‖ N(0, I)) ≈ 1e-5 bits a dimension, for pixels of random grey",
    "DDPM, arXiv:2006.11239, section 4",
    0.15,
)
def nothing_left() -> Iterator[Case]:
    """L_T of the thousand-step chain for x_0 uniform in [−1, 1], in units of 1e-5 bits, against its leading
    term ᾱ_T E[x_0²] / 2.
    """
    last = CHAINS["linear"](number(1.0))
    x, w = legendre(-1, 1, 8)
    noise = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
    kl = [Gaussian(last.alpha * one.reshape(1), last.sigma.reshape(1, 1) ** 2).kl(noise) for one in x]
    bits = w @ torch.stack(kl) / 2 / math.log(2)
    survives = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().log1p().sum().exp()
    yield Case("T = 1000, in 1e-5 bits", 1e5 * bits, 1e5 * survives / 3 / 2 / math.log(2))
