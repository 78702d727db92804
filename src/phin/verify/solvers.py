"""Solvers: their order, what one step must be exactly, and what the walk ends in."""

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.noise import Noise, seeded
from phin.diffusion.schedules import Cosine, Discrete, Flow, Linear
from phin.diffusion.solvers import (
    DDIM,
    DEIS,
    SOLVERS,
    Ancestral,
    Churned,
    DPMpp2M,
    DPMpp2MSDE,
    Euler,
    Heun,
    Langevin,
    ReverseDiffusion,
    SNRLangevin,
    Solver,
    prior,
    sample,
    walk,
)
from phin.diffusion.solvers.exponential import Node, integral
from phin.oracle import Gaussian

from .forward import below
from .instruments import (
    CONTINUOUS,
    GAUSSIAN,
    LINE,
    PLANE,
    at,
    dice,
    each_scaling,
    legendre,
    mean_of,
    no_noise,
    noise,
    number,
    slope,
)
from .law import Case, Unit, law

SOLVER_OF: dict[str, Solver] = {name: make() for name, make in SOLVERS.items()}
PARTS = (8, 16)
"""Of each of twelve steps: ladders that orders are measured on."""
UNITS = {"euler_maruyama", "reverse_diffusion", "pc", "pc_fixed"}
"""Solvers that depend on the scaling, by their nature."""


def draws(solver: Solver) -> bool:
    """Whether a solver is stochastic."""
    seen: list[Tensor] = []

    def noise(like: Tensor) -> Tensor:
        seen.append(like)
        return torch.zeros_like(like)

    solver.step(GAUSSIAN.denoise, torch.ones(1, 2).double(), at(0.0), at(1.0), noise, None)
    return bool(seen)


@cache
def ladders(parts: int) -> Level:
    """Twelve steps of every schedule from log-SNR −4 to 4, each cut into parts that are by turns short and
    twice that, under every scaling: levels (12 parts + 1, K, 1, 1).
    """
    share = number(1.0, 2.0).repeat(parts // 2)
    within = (share.cumsum(0) - share) / share.sum()
    each: list[Level] = []
    for schedule in CONTINUOUS.values():
        start, end = schedule.inverse(number(-4.0, 4.0)).tolist()
        rungs = schedule.log_snr(torch.linspace(start, end, 13, dtype=torch.float64))
        log_snr = torch.cat([(rungs[:-1, None] + rungs.diff()[:, None] * within).flatten(), rungs[-1:]])
        each += [scaling(log_snr) for scaling in SCALINGS.values()]
    return Level(*(torch.stack(fields, 1)[..., None, None] for fields in zip(*each, strict=True)))


def distance(solver: Solver, levels: Level) -> Tensor:
    """How far from the truth a solver ends on K ladders, for a Gaussian in the plane: (K,).

    The exact denoiser is affine, so the last state is an affine map of the start and of every noise. A
    deterministic solver is held to the map of the ODE, a stochastic one to mean and covariance.
    """
    t, s = levels.at(0), levels.at(-1)
    eye = torch.eye(2).double()
    if not draws(solver):
        starts = t.alpha * GAUSSIAN.mean + torch.cat([0 * eye[:1], eye])
        wrong = walk(GAUSSIAN.denoise, solver, levels, starts, no_noise) - GAUSSIAN.flow(starts, t, s)
        return (wrong / s.alpha).abs().amax((1, 2))
    start = (t.alpha * GAUSSIAN.mean).requires_grad_()
    drawn: list[Tensor] = []

    def record(like: Tensor) -> Tensor:
        drawn.append(torch.zeros_like(like, requires_grad=True))
        return drawn[-1]

    with torch.enable_grad():
        end = walk(GAUSSIAN.denoise, solver, levels, start, record)
        rows = [torch.autograd.grad(end[..., i].sum(), [start, *drawn], retain_graph=True) for i in (0, 1)]
    kept, *fresh = [torch.cat(columns, 1) for columns in zip(*rows, strict=True)]  # (K, 2 out, 2 in) each
    before, after = (level.alpha**2 * GAUSSIAN.cov + level.sigma**2 * eye for level in (t, s))
    added = torch.stack([b @ b.mT for b in fresh]).sum(0)
    off = ((end - s.alpha * GAUSSIAN.mean) / s.alpha).abs().amax((1, 2))
    return (((kept @ before @ kept.mT + added - after) / s.alpha**2).abs().amax((1, 2)) + off).detach()


@cache
def distances(name: str) -> Tensor:
    """The errors of a solver on ladders of each length: (2, K)."""
    return torch.stack([distance(SOLVER_OF[name], ladders(parts)) for parts in PARTS])


def orders(stochastic: bool) -> Iterator[Case]:
    """Minus the slope of the error over the number of steps, in logarithms, by solver and schedule.

    O(N^-p) bounds the error from above: where errors of opposite sign cancel it may fall faster for a while,
    and more than p is counted as p.
    """
    for name, solver in SOLVER_OF.items():
        if draws(solver) is stochastic and solver.order > 0:
            found = -slope(number(*PARTS).log(), distances(name).log())
            for schedule, measured in zip(CONTINUOUS, found.reshape(-1, len(SCALINGS)), strict=True):
                yield Case(f"{name}, {schedule}", measured.clamp(max=solver.order), solver.order)


@law(
    "The order of ODE solvers",
    "|z_N − z(t_N)| = O(N^−p)",
    "DPM-Solver++, arXiv:2211.01095; UniPC, arXiv:2302.04867, section 3",
    0.3,
    Unit.ABSOLUTE,
)
def deterministic_order() -> Iterator[Case]:
    """Errors against the exact flow of a Gaussian on ladders of 96 and 192 uneven steps along every
    schedule, under every scaling: their slope, against the order that the solver claims.
    """
    yield from orders(stochastic=False)


@law(
    "The weak order of SDE solvers",
    "|E f(z_N) − E f(z(t_N))| = O(N^−p), for mean and covariance",
    "Kloeden and Platen 1992, section 9.7; Song et al. 2021, arXiv:2011.13456, section 4.1",
    0.3,
    Unit.ABSOLUTE,
)
def stochastic_order() -> Iterator[Case]:
    """As for ODE solvers, but the exact mean and covariance of what the solver draws."""
    yield from orders(stochastic=True)


@law(
    "The order on a mixture",
    "P(Z_s < z(s)) = P(Z_t < z(t)): the flow keeps quantiles",
    "Song et al. 2021, arXiv:2011.13456, eq. 13, in one dimension",
    0.3,
    Unit.ABSOLUTE,
)
def order_on_mixture() -> Iterator[Case]:
    """Where the denoiser is not linear: the ODE solvers' ends, against the same quantiles of the exact
    marginal, and the slope of the error over the steps.
    """
    p = torch.linspace(0.05, 0.95, 13, dtype=torch.float64)
    steps = (64, 128)
    start, end = at(-3.0), at(2.0)
    first, last = quantile(p, start)[:, None], quantile(p, end)[:, None]
    for name, solver in SOLVER_OF.items():
        if not draws(solver):
            errors = []
            for n in steps:
                ladder = vp(torch.linspace(-3, 2, n + 1, dtype=torch.float64))
                found = walk(LINE.denoise, solver, ladder, first, no_noise)
                errors.append((found - last).square().mean().sqrt())
            yield Case(name, -slope(number(*steps).log(), torch.stack(errors).log()), solver.order)


def quantile(p: Tensor, level: Level) -> Tensor:
    """z with P(Z < z) = p under the mixture on the line, by bisection."""
    low = torch.full_like(p, -20.0) * torch.hypot(level.alpha, level.sigma)
    high = -low
    for _ in range(70):
        z = (low + high) / 2
        less = below(LINE, z, level) < p
        low, high = torch.where(less, z, low), torch.where(less, high, z)
    return (low + high) / 2


@law(
    "Data at a point take one step",
    "z_s = α_s x + σ_s ε, whatever the step",
    "DDIM, arXiv:2010.02502, eq. 12; DPM-Solver++, arXiv:2211.01095, section 4",
    1e-9,
)
def point() -> Iterator[Case]:
    """One step of every ODE solver from far away, and of the SDE solvers that use x̂ exactly (mean, and noise
    old and new together), against the line between x and ε.
    """
    x, eps = number(0.7, -0.2)[None], number(-1.1, 0.4)[None]

    def told(z: Tensor, level: Level) -> Prediction:
        return Prediction(x.expand_as(z))

    exact_sde = {"ddpm", "dpmpp_2m_sde", "churn"}
    for name, solver in SOLVER_OF.items():
        for (case, t), (_, s) in zip(each_scaling(-5.0), each_scaling(3.0), strict=True):
            z = t.alpha * x + t.sigma * eps
            end, _ = solver.step(told, z, t, s, no_noise, None)
            if not draws(solver):
                yield Case(f"{name}, {case}", end, s.alpha * x + s.sigma * eps)
            elif name in exact_sde:
                mean, _ = solver.step(told, t.alpha * x, t, s, no_noise, None)
                fresh, _ = solver.step(told, t.alpha * x, t, s, torch.ones_like, None)
                kept = (end - mean) / eps
                yield Case(f"{name}, {case}, mean", mean, s.alpha * x)
                yield Case(
                    f"{name}, {case}, variance",
                    kept**2 + (fresh - mean) ** 2,
                    s.sigma**2 * torch.ones(1, 2).double(),
                )


PAIRS = [
    (name, at(low, name), at(high, name)) for name in SCALINGS for low, high in [(-6.0, -5.5), (-1.0, 3.0)]
]


@law(
    "DDIM without noise is Euler's method",
    "d(z/α) / d(σ/α) = ε̂",
    "DDIM, arXiv:2010.02502, eq. 13-14; EDM, arXiv:2206.00364, section 3",
    1e-10,
)
def ddim_is_euler() -> Iterator[Case]:
    """A step of either, against z/α moved along ε̂ by hand, with ε̂ from the score."""
    for name, t, s in PAIRS:
        z = PLANE.marginal(t).sample(20, dice())
        eps = -t.sigma * PLANE.score(z, t)
        by_hand = s.alpha * (z / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * eps)
        for solver in (DDIM(0.0), Euler()):
            found, _ = solver.step(PLANE.denoise, z, t, s, no_noise, None)
            yield Case(f"{type(solver).__name__}, {name}", found, by_hand)


@law(
    "DDIM with all its noise is DDPM", "η = 1: q(z_s | z_t, x̂)", "DDIM, arXiv:2010.02502, section 4.1", 1e-10
)
def ddim_is_ancestral() -> Iterator[Case]:
    """A step of DDIM(1) and one of the ancestral sampler, from the same z with the same noise."""
    for name, t, s in PAIRS:
        z = PLANE.marginal(t).sample(20, dice())
        steps = [
            solver.step(PLANE.denoise, z, t, s, lambda like: noise(like, dice(3)), None)[0]
            for solver in (DDIM(1.0), Ancestral(0.0))
        ]
        yield Case(name, *steps)


@law(
    "DDIM's noise",
    "σ(η) = η √((1−ᾱ_s) / (1−ᾱ_t)) √(1 − ᾱ_t / ᾱ_s)",
    "DDIM, arXiv:2010.02502, eq. 16",
    1e-9,
)
def ddim_noise() -> Iterator[Case]:
    """The spread of a step along DDPM's chain, against the formula."""
    chain = Discrete(Linear(), 1000)
    for steps in (10, 50, 1000):
        levels = chain.levels(steps)
        for i in (0, steps // 2, steps - 2):
            t, s = levels.at(i), levels.at(i + 1)
            before, after = t.alpha**2, s.alpha**2
            for eta in (0.2, 0.5, 1.0):
                z = torch.zeros(1, 1).double()
                ends = [
                    DDIM(eta).step(lambda z, level: Prediction(z), z, t, s, draw, None)[0]
                    for draw in (torch.ones_like, no_noise)
                ]
                expected = eta * ((1 - after) / (1 - before) * (1 - before / after)).sqrt()
                yield Case(f"{steps} steps, step {i + 1}, η = {eta}", ends[0] - ends[1], expected)


@law(
    "DDIM keeps the marginals for every η",
    "∫ q_η(z_s | z_t, x) q(z_t | x) dz_t = q(z_s | x)",
    "DDIM, arXiv:2010.02502, eq. 7 and lemma 1",
    1e-10,
)
def ddim_marginals() -> Iterator[Case]:
    """Mean and variance of a step that is told x, old noise and new together, against the level's."""
    x = number(0.8, -0.3)[None]
    for name, t, s in PAIRS:
        for eta in (0.0, 0.3, 0.7, 1.0):

            def step(z: Tensor, draw: Noise, eta: float = eta, t: Level = t, s: Level = s) -> Tensor:
                return DDIM(eta).step(lambda z, level: Prediction(x), z, t, s, draw, None)[0]

            mean = step(t.alpha * x, no_noise)
            kept = step(t.alpha * x + t.sigma, no_noise) - mean
            fresh = step(t.alpha * x, torch.ones_like) - mean
            yield Case(f"{name}, η = {eta}, mean", mean, s.alpha * x)
            yield Case(f"{name}, η = {eta}, variance", kept**2 + fresh**2, s.sigma**2 * torch.ones_like(x))


@law(
    "Variation of constants",
    "z_s = σ_s/σ_t z_t + σ_s ∫ e^ℓ x̂(z(ℓ), ℓ) dℓ,  ℓ = log(α/σ)",
    "DPM-Solver++, arXiv:2211.01095, section 4",
    1e-9,
)
def variation() -> Iterator[Case]:
    """The integral along the exact flow of a Gaussian by quadrature, against where the flow ends."""
    for name, scaling in SCALINGS.items():
        t, s = at(-4.0, name), at(3.0, name)
        z = GAUSSIAN.marginal(t).sample(10, dice())
        half, w = legendre(-2.0, 1.5, 40)
        total = torch.zeros_like(z)
        for place, weight in zip(half, w, strict=True):
            here = scaling(2 * place)
            total = total + weight * place.exp() * GAUSSIAN.denoise(GAUSSIAN.flow(z, t, here), here).x
        yield Case(name, s.sigma / t.sigma * z + s.sigma * total, GAUSSIAN.flow(z, t, s))


@law(
    "Exponential integrators integrate polynomials",
    "∫_a^b e^{u−b} p(u) du, exactly",
    "DPM-Solver++, arXiv:2211.01095; UniPC, arXiv:2302.04867; DEIS, arXiv:2204.13902",
    1e-8,
)
def polynomials() -> Iterator[Case]:
    """The integral through one to four nodes, against quadrature of the polynomial they were taken from."""
    for a, b in [(-1.0, -0.2), (0.3, 2.3)]:
        u, w = legendre(a, b, 24)
        for degree in range(4):
            coefficients = number(0.7, -1.2, 0.5, 0.9)[: degree + 1]

            def p(u: Tensor, coefficients: Tensor = coefficients) -> Tensor:
                return sum((c * u**k for k, c in enumerate(coefficients)), torch.zeros_like(u))

            nodes = [
                Node(number(a - 0.4 * i - 0.1 * i * i), p(number(a - 0.4 * i - 0.1 * i * i)))
                for i in range(degree + 1)
            ]
            found = integral(nodes, number(a), number(b))
            yield Case(f"degree {degree}, step {b - a:g}", found, w @ (torch.exp(u - b) * p(u)))


@law(
    "DEIS tends to Adams-Bashforth",
    "weights (55, −59, 37, −9) / 24 for small equal steps",
    "DEIS, arXiv:2204.13902 (iPNDM); PNDM, arXiv:2202.09778 (pseudo linear multistep)",
    2e-3,
)
def adams_bashforth() -> Iterator[Case]:
    """The solver's fourth step, told one ε̂ at a time, against the classical weights."""
    h = 1e-3
    levels = vp(torch.arange(5, dtype=torch.float64) * 2 * h)
    expected = number(55.0, -59.0, 37.0, -9.0) / 24
    solver = DEIS(starter=False)
    found = []
    for which in range(4):
        memory = None
        for i in range(4):
            t, s = levels.at(i), levels.at(i + 1)
            eps = 1.0 if i == 3 - which else 0.0
            z = torch.zeros(1, 1).double()
            # x̂ such that the noise in z = 0 is eps
            told = Prediction(-t.sigma * eps / t.alpha * torch.ones(1, 1).double())
            end, memory = solver.step(lambda z, level, told=told: told, z, t, s, no_noise, memory)
        t, s = levels.at(3), levels.at(4)
        found.append(end.squeeze() / (s.sigma * -torch.expm1(number(-h))) * -1)
    yield Case(f"h = {h:g}", torch.stack(found), expected)


@law(
    "DPM-Solver++(2M)",
    "D = (1 + 1/2r) x̂_t − x̂_prev/2r,  z_s = σ_s/σ_t z − α_s (e^−h − 1) D",
    "DPM-Solver++, arXiv:2211.01095, algorithm 2",
    1e-10,
)
def dpmpp_2m() -> Iterator[Case]:
    """Two steps of unequal length, against the algorithm written out; and of its SDE form without noise."""
    for name in SCALINGS:
        a, b, c = at(-2.0, name), at(-0.5, name), at(0.3, name)
        z = PLANE.marginal(a).sample(20, dice())
        x_a = PLANE.denoise(z, a).x
        middle = b.alpha * x_a + b.sigma * (z - a.alpha * x_a) / a.sigma
        x_b = PLANE.denoise(middle, b).x
        h, r = number(0.4), number(0.75 / 0.4)
        drive = (1 + 1 / (2 * r)) * x_b - x_a / (2 * r)
        expected = c.sigma / b.sigma * middle - c.alpha * ((-h).exp() - 1) * drive
        levels = SCALINGS[name](number(-2.0, -0.5, 0.3))
        for solver in (DPMpp2M(), DPMpp2MSDE(0.0)):
            found = walk(PLANE.denoise, solver, levels, z, no_noise)
            yield Case(f"{type(solver).__name__}, {name}", found, expected)


@law(
    "Heun's method",
    "z_s/α_s = z_t/α_t + (ρ_s − ρ_t) (ε̂_t + ε̂_s) / 2,  ρ = σ/α",
    "EDM, arXiv:2206.00364, algorithm 1",
    1e-10,
)
def heun() -> Iterator[Case]:
    """A step, against the trapezoidal rule with ε̂ from scores."""
    for name, t, s in PAIRS:
        z = PLANE.marginal(t).sample(20, dice())
        rise = s.sigma / s.alpha - t.sigma / t.alpha
        first = -t.sigma * PLANE.score(z, t)
        trial = s.alpha * (z / t.alpha + rise * first)
        second = -s.sigma * PLANE.score(trial, s)
        found, _ = Heun().step(PLANE.denoise, z, t, s, no_noise, None)
        yield Case(name, found, s.alpha * (z / t.alpha + rise * (first + second) / 2))


@law(
    "The SDE solver's noise",
    "Var = σ_s² (1 − e^−2h), mean factor σ_s/σ_t e^−h",
    "DPM-Solver++, arXiv:2211.01095 (SDE-DPM-Solver++)",
    1e-9,
)
def sde_noise() -> Iterator[Case]:
    """A first step with η = 1 has the forward posterior's mean and spread, by conditioning of Gaussians."""
    x = number(0.6, -0.9)[None]
    for name, t, s in PAIRS:
        z = number(-0.4, 0.9)[None]
        factor = t.alpha / s.alpha
        gain = factor * s.sigma**2 / t.sigma**2
        mean = s.alpha * x + gain * (z - t.alpha * x)
        variance = s.sigma**2 * (1 - gain * factor)
        ends = [
            DPMpp2MSDE().step(lambda z, level: Prediction(x), z, t, s, draw, None)[0]
            for draw in (no_noise, torch.ones_like)
        ]
        yield Case(f"{name}, mean", ends[0], mean)
        yield Case(f"{name}, variance", (ends[1] - ends[0]) ** 2, variance.expand(1, 2))


@law(
    "Reverse diffusion",
    "x_{i−1} = (2 − √(1−β_i)) x_i + β_i s(x_i) + √β_i z",
    "Song et al. 2021, arXiv:2011.13456, eq. 46 and algorithm 3",
    1e-9,
)
def reverse_diffusion() -> Iterator[Case]:
    """Steps along DDPM's chain, against the formula with the chain's own betas."""
    chain = Discrete(Linear(), 1000)
    levels = chain.levels(1000)
    for step in (1000, 500, 2):
        t, s = levels.at(1000 - step), levels.at(1001 - step)
        beta = 1e-4 + (0.02 - 1e-4) * number(step - 1) / 999
        z = PLANE.marginal(t).sample(20, dice())
        fresh = noise(z, dice(5))
        expected = (2 - (1 - beta).sqrt()) * z + beta * PLANE.score(z, t) + beta.sqrt() * fresh
        found, _ = ReverseDiffusion().step(PLANE.denoise, z, t, s, lambda like, fresh=fresh: fresh, None)
        yield Case(f"step {step}", found, expected)


@law(
    "Langevin's bias",
    "Var z → v / (1 − δ / 2v) for N(0, v) and steps of size δ",
    "Roberts and Tweedie 1996, Bernoulli 2 (unadjusted Langevin), for a Gaussian",
    1e-9,
)
def langevin() -> Iterator[Case]:
    """One correction of variables with the stationary variance leaves it as it is: its factor and noise,
    measured from the step.
    """
    data = Gaussian(torch.zeros(1).double(), number(0.7).reshape(1, 1))
    for rate in (0.3, 1.0):
        for name in SCALINGS:
            t, s = at(0.4, name), at(1.0, name)
            size = rate * 0.3 * s.sigma**2
            v = s.alpha**2 * 0.7 + s.sigma**2
            stationary = v / (1 - size / (2 * v))
            one = torch.ones(1, 1).double()
            factor = Langevin(rate).correct(data.denoise, one, t, s, no_noise)
            fresh = Langevin(rate).correct(data.denoise, 0 * one, t, s, torch.ones_like)
            yield Case(f"rate {rate}, {name}", factor**2 * stationary + fresh**2, stationary)


@law(
    "The corrector's step size",
    "z ← z + δ s + √(2δ) ε,  δ = 2 (r |ε| / |s|)²",
    "Song et al. 2021, arXiv:2011.13456, algorithm 4",
    1e-10,
)
def snr_langevin() -> Iterator[Case]:
    """One correction of each picture, against the formula with the exact score."""
    for r in (0.16, 0.05):
        for name in SCALINGS:
            s = at(0.5, name)
            z = PLANE.marginal(s).sample(20, dice())
            fresh, score = noise(z, dice(7)), PLANE.score(z, s)
            size = 2 * (r * fresh.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)) ** 2
            found = SNRLangevin(r).correct(PLANE.denoise, z, s, s, lambda like, fresh=fresh: fresh)
            yield Case(f"r = {r}, {name}", found, z + size * score + (2 * size).sqrt() * fresh)


@law(
    "Churn moves up a level",
    "σ̂ = (1 + γ) σ,  ẑ = z + √(σ̂² − σ²) ε",
    "EDM, arXiv:2206.00364, algorithm 2",
    1e-9,
)
def churn() -> Iterator[Case]:
    """A churned DDIM step that is told x: variance kept and added, against what is left of σ̂ at the end."""
    x = number(0.5, -0.6)[None]
    for steps, churned in [(10, 2.0), (50, 40.0)]:
        gamma = min(churned / steps, math.sqrt(2) - 1)
        for name, t, s in PAIRS:
            solver = Churned(DDIM(), churn=churned, steps=steps)
            told = Prediction(x)
            ends = [
                solver.step(lambda z, level, told=told: told, z, t, s, draw, None)[0]
                for z, draw in [
                    (t.alpha * x, no_noise),
                    (t.alpha * x + t.sigma, no_noise),
                    (t.alpha * x, torch.ones_like),
                ]
            ]
            kept, added = ends[1] - ends[0], ends[2] - ends[0]
            found = torch.stack([kept / s.sigma, added / s.sigma])
            expected = torch.stack(
                [number(1 / (1 + gamma)), number((1 + gamma) ** 2 - 1).sqrt() / (1 + gamma)]
            )
            yield Case(f"{name}, γ = {gamma:.2f}", found, expected[:, None, None].expand(2, 1, 2))


@law(
    "The result does not depend on the scaling",
    "z / α is the same, and so is every x̂ on the way",
    "EDM, arXiv:2206.00364, appendix B.2",
    1e-8,
)
def scaling_free() -> Iterator[Case]:
    """Samples of a mixture with the same noise under every scaling, but for solvers whose units matter by
    their nature; the VE process is the reference.
    """
    log_snr = Cosine().levels(12).log_snr
    start = noise(torch.zeros(10, 2).double(), dice(9))
    for name, solver in SOLVER_OF.items():
        if name not in UNITS:
            ends = {}
            for scaling in SCALINGS:
                levels = SCALINGS[scaling](log_snr)
                z = torch.hypot(levels.alpha[0], levels.sigma[0]) * start
                ends[scaling] = sample(PLANE.denoise, solver, levels, z, seeded(0, range(10)))
            for scaling in ("vp", "subvp", "flow"):
                yield Case(f"{name}, {scaling}", ends[scaling], ends["ve"])


@law(
    "The prior",
    "z_1 ~ N(0, α² + σ²), exact for data N(0, I)",
    "DDPM, arXiv:2006.11239, eq. 1; Song et al. 2021, arXiv:2011.13456, section 3.2",
    4.5,
    Unit.DEVIATIONS,
)
def start() -> Iterator[Case]:
    """Second moments of draws, against the marginal of standard normal data."""
    data = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
    for name, level in each_scaling(-9.0, 1.0):
        z = prior(level, torch.zeros(20_000, 1).double(), lambda like: noise(like, dice(2)))
        found, deviation = mean_of(z[:, 0] ** 2)
        yield Case(name, found, data.marginal(level).cov[0, 0], deviation)


@law(
    "SDE and ODE end in the same law",
    "P(z_s < a) is the data's, by noise or without",
    "Song et al. 2021, arXiv:2011.13456, section 4.3 (eq. 13)",
    4.5,
    Unit.DEVIATIONS,
)
def same_marginals() -> Iterator[Case]:
    """Four thousand walks of a mixture by an ancestral sampler and by Heun's method, counted below nine
    places, against the distribution function of the exact marginal.
    """
    levels = Flow().levels(120)
    last = levels.at(-1)
    z = LINE.marginal(levels.at(0)).sample(4000, dice(4))
    places = torch.linspace(-1.6, 1.6, 9, dtype=torch.float64)
    generator = dice(6)
    for name, solver in [("ancestral (SDE)", Ancestral()), ("Heun (ODE)", Heun())]:
        end = walk(LINE.denoise, solver, levels, z, lambda like: noise(like, generator))
        share, deviation = mean_of((end < places).double())
        yield Case(name, share, below(LINE, places, last), deviation)
