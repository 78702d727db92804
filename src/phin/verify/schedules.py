"""Schedules and scalings, each against the formula of its paper, and what holds for all of them."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from phin.diffusion.level import SCALINGS
from phin.diffusion.losses import antithetic, stratified
from phin.diffusion.schedules import (
    SCHEDULES,
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    Linear,
    LinearSubVP,
    LogNormal,
    Sigmoid,
    Truncated,
)

from .instruments import CONTINUOUS, legendre, number
from .law import Case, Unit, law

WIDE = torch.linspace(-40, 40, 161, dtype=torch.float64)
TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)


def uncut(schedule: Truncated) -> Tensor:
    """The paper's own time at our times."""
    return schedule.start + (schedule.end - schedule.start) * TIMES


@law("The signal-to-noise ratio", "α² / σ² = e^λ", "VDM, arXiv:2107.00630, eq. 2", 1e-13)
def ratio() -> Iterator[Case]:
    """The logarithm of alpha over sigma, twice, at levels from nearly clean to nearly pure noise."""
    for name, scaling in SCALINGS.items():
        level = scaling(WIDE)
        yield Case(name, 2 * (level.alpha.log() - level.sigma.log()), WIDE)


@law("Variance preserving", "α² + σ² = 1", "DDPM, arXiv:2006.11239, eq. 4", 1e-14)
def preserving() -> Iterator[Case]:
    """The sum of squares at all levels."""
    level = SCALINGS["vp"](WIDE)
    yield Case("vp", level.alpha**2 + level.sigma**2, torch.ones_like(WIDE))


@law("Variance exploding", "α = 1,  σ² = e^−λ", "NCSN, arXiv:1907.05600, section 4.1", 1e-14)
def exploding() -> Iterator[Case]:
    """Noise that is added to data that stay as they are: variances against the definition."""
    level = SCALINGS["ve"](WIDE)
    yield Case("ve, alpha", level.alpha, torch.ones_like(WIDE))
    yield Case("ve, log sigma", -2 * level.sigma.log(), WIDE)


@law("Sub-VP", "σ = 1 − α²", "Song et al. 2021, arXiv:2011.13456, eq. 29", 1e-14)
def sub_preserving() -> Iterator[Case]:
    """The quadratic's root, put back into it."""
    level = SCALINGS["subvp"](WIDE)
    yield Case("subvp", level.sigma + level.alpha**2, torch.ones_like(WIDE))


@law("Straight lines", "α + σ = 1", "Flow matching, arXiv:2210.02747, eq. 20-22 with σ_min = 0", 1e-14)
def straight() -> Iterator[Case]:
    """The sum at all levels."""
    level = SCALINGS["flow"](WIDE)
    yield Case("flow", level.alpha + level.sigma, torch.ones_like(WIDE))


@law(
    "The linear schedule",
    "ᾱ(t) = exp(−∫_0^t β),  β(t) = β_min + t (β_max − β_min)",
    "Song et al. 2021, arXiv:2011.13456, eq. 29 and 33",
    1e-11,
)
def linear() -> Iterator[Case]:
    """The levels, against quadrature of beta."""
    for low, high in [(0.1, 20.0), (1.0, 8.0)]:
        schedule = Linear(low, high)
        node, w = legendre(0, 1, 4)
        integral = torch.stack([u * (w @ (low + (high - low) * u * node)) for u in uncut(schedule)])
        yield Case(f"β from {low:g} to {high:g}", schedule(TIMES).alpha ** 2, torch.exp(-integral))


@law(
    "The linear sub-VP schedule",
    "α = exp(−½ ∫β),  σ = 1 − exp(−∫β)",
    "Song et al. 2021, arXiv:2011.13456, eq. 29",
    1e-11,
)
def linear_subvp() -> Iterator[Case]:
    """The levels, against quadrature of beta."""
    schedule = LinearSubVP()
    node, w = legendre(0, 1, 4)
    integral = torch.stack([u * (w @ (0.1 + (20 - 0.1) * u * node)) for u in uncut(schedule)])
    yield Case("alpha", schedule(TIMES).alpha, torch.exp(-integral / 2))
    yield Case("sigma", schedule(TIMES).sigma, 1 - torch.exp(-integral))


@law(
    "The cosine schedule",
    "ᾱ(t) = f(t) / f(0),  f(t) = cos²((t + s) / (1 + s) · π / 2)",
    "Improved DDPM, arXiv:2102.09672, eq. 17",
    1e-11,
)
def cosine() -> Iterator[Case]:
    """The levels, against the formula as it stands in the paper."""
    for s in (0.008, 0.05):
        schedule = Cosine(s)
        f = torch.cos((uncut(schedule) + s) / (1 + s) * math.pi / 2) ** 2
        yield Case(f"s = {s}", schedule(TIMES).alpha ** 2, f / math.cos(s / (1 + s) * math.pi / 2) ** 2)


@law(
    "The sigmoid schedule",
    "ᾱ(t) = (S(v_1) − S(v)) / (S(v_1) − S(v_0)),  S the sigmoid of v / τ",
    "Jabri et al. 2022, arXiv:2212.11972; Chen 2023, arXiv:2301.10972, algorithm 1",
    1e-11,
)
def sigmoid() -> Iterator[Case]:
    """The levels, against the formula as it stands in the paper."""
    for first, last, tau in [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7), (-3.0, 3.0, 0.3)]:
        schedule = Sigmoid(first, last, tau)
        start, end = torch.sigmoid(number(first, last) / tau)
        here = torch.sigmoid((first + (last - first) * uncut(schedule)) / tau)
        case = f"from {first:g} to {last:g}, τ = {tau:g}"
        yield Case(case, schedule(TIMES).alpha ** 2, (end - here) / (end - start))


@law(
    "The geometric schedule",
    "σ_i = σ_min (σ_max / σ_min)^{(i−1)/(N−1)}",
    "Song et al. 2021, arXiv:2011.13456, eq. 30; NCSN, arXiv:1907.05600, section 4.1",
    1e-12,
)
def geometric() -> Iterator[Case]:
    """A ladder of N rungs, against a sequence of constant ratio multiplied out."""
    for low, high, n in [(0.01, 1.0, 10), (0.01, 50.0, 1000)]:
        sigmas = low * torch.full((n,), (high / low) ** (1 / (n - 1)), dtype=torch.float64).cumprod(0)
        sigmas = torch.cat([number(low)[None], sigmas[:-1]])
        yield Case(f"N = {n}", Geometric(low, high).levels(n).sigma.flip(0), sigmas)


@law(
    "EDM's sampling grid",
    "σ_i = (σ_max^{1/ρ} + i / (N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ",
    "EDM, arXiv:2206.00364, eq. 5",
    1e-12,
)
def karras() -> Iterator[Case]:
    """A ladder, against the formula."""
    for n, rho in [(18, 7.0), (40, 7.0), (18, 3.0)]:
        i = torch.arange(n, dtype=torch.float64)
        sigmas = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        yield Case(f"N = {n}, ρ = {rho:g}", Karras(rho=rho).levels(n).sigma, sigmas)


@law(
    "EDM's training density",
    "log σ ~ N(P_mean, P_std²) for t uniform",
    "EDM, arXiv:2206.00364, table 1",
    1e-9,
)
def lognormal() -> Iterator[Case]:
    """Time as a function of log sigma, against the integral of the (cut) normal density by quadrature."""
    mean, std, cut = -1.2, 1.2, 4.0
    schedule = LogNormal(mean, std, cut)
    whole = math.erf(cut / math.sqrt(2))
    for deviation in (-3.0, -1.0, 0.0, 0.5, 2.0):
        x, w = legendre(-cut, deviation)
        share = w @ torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) / whole
        log_snr = number(-2 * (mean + std * deviation))
        yield Case(f"{deviation:g} deviations", schedule.inverse(log_snr), share)


@law(
    "The straight path",
    "z_t = (1 − t) x + t ε",
    "Rectified flow, arXiv:2209.03003, eq. 1; flow matching, arXiv:2210.02747, eq. 22",
    1e-12,
)
def flow() -> Iterator[Case]:
    """Levels at the paper's times."""
    schedule = Flow()
    level, t = schedule(TIMES), uncut(schedule)
    yield Case("alpha", level.alpha, 1 - t)
    yield Case("sigma", level.sigma, t)


@law(
    "DDPM's table",
    "β_1 = 1e-4, …, β_1000 = 0.02, equally spaced",
    "DDPM, arXiv:2006.11239, section 4",
    1e-9,
)
def ddpm_table() -> Iterator[Case]:
    """The betas of the chain, and their products, against the table made by hand."""
    betas = 1e-4 + (0.02 - 1e-4) * torch.arange(1000, dtype=torch.float64) / 999
    chain = Discrete(Linear(), 1000)
    yield Case("betas", chain.betas, betas)
    yield Case("products", chain.log_snr(TIMES[1:]), _log_snr(betas)[4::5])


def _log_snr(betas: Tensor) -> Tensor:
    products = torch.cumprod(1 - betas, 0)
    return products.log() - (1 - products).log()


@law(
    "Improved DDPM's table",
    "β_t = min(1 − ᾱ(t/T) / ᾱ((t−1)/T), 0.999)",
    "Improved DDPM, arXiv:2102.09672, eq. 17 and section 3.2",
    1e-9,
)
def cosine_table() -> Iterator[Case]:
    """The betas of chains of several lengths, against the paper's rule."""
    for T in (10, 100, 1000, 4000):
        f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        yield Case(f"T = {T}", Discrete(Cosine(), T).betas, (1 - f[1:] / f[:-1]).clamp(max=0.999))


@law(
    "The slope of a schedule",
    "λ(b) − λ(a) = ∫_a^b λ'(t) dt",
    "VDM, arXiv:2107.00630, eq. 17 (its γ' is −λ')",
    1e-8,
)
def slopes() -> Iterator[Case]:
    """The derivative that weighs the bound, integrated by quadrature, against differences of the log-SNR."""
    for name, schedule in CONTINUOUS.items():
        grid = torch.linspace(0.02, 0.98, 33, dtype=torch.float64)  # a quantile's ends are steep
        pieces = [legendre(a.item(), b.item(), 12) for a, b in pairwise(grid)]
        found = torch.stack([w @ schedule.slope(t) for t, w in pieces])
        yield Case(name, found, schedule.log_snr(grid).diff())


@law(
    "A schedule is invertible",
    "t(λ(t)) = t",
    "VDM, arXiv:2107.00630, section 5.1 (SNR is monotone, so t may be exchanged for it)",
    1e-9,
    Unit.ABSOLUTE,
)
def inverses() -> Iterator[Case]:
    """There and back, for every schedule; a chain at its own steps."""
    for name, make in SCHEDULES.items():
        schedule = make().requires_grad_(False)
        t = schedule.grid(101)
        yield Case(name, schedule.inverse(schedule.log_snr(t)), t)


@law(
    "Schedules fall",
    "min_i (λ(t_i) − λ(t_{i+1})) > 0",
    "VDM, arXiv:2107.00630, section 3.1 (strictly monotonically decreasing SNR)",
    0.0,
    Unit.ABSOLUTE,
)
def falling() -> Iterator[Case]:
    """The share of a thousand rungs that are noisier than the one before them."""
    for name, make in SCHEDULES.items():
        rungs = make().requires_grad_(False).levels(1000)
        yield Case(name, (rungs.log_snr.diff() > 0).double().mean(), 1.0)


@law(
    "Steps taken out of a chain",
    "τ ⊂ {1, …, T}: equally spaced, both ends, none twice",
    "DDIM, arXiv:2010.02502, section 4.2; Improved DDPM, arXiv:2102.09672, section 4",
    0.0,
    Unit.ABSOLUTE,
)
def respaced() -> Iterator[Case]:
    """The chosen steps of DDPM's chain, against their definition counted out in whole numbers."""
    chain = Discrete(Linear(), 1000)
    for steps in (2, 10, 37, 250, 1000):
        chosen = (chain.grid(steps) * 1000).round()
        exact = [1000 - (2 * i * 999 + steps - 1) // (2 * (steps - 1)) for i in range(steps)]
        near = (chosen - number(*exact)).abs() <= 1  # a half may be rounded up or down
        yield Case(f"{steps} steps, spacing", near.double().mean(), 1.0)
        yield Case(f"{steps} steps, distinct", len(set(chosen.tolist())), steps)
        yield Case(f"{steps} steps, ends", chosen[[0, -1]], number(1000.0, 1.0))


@law(
    "A uniform time draws every step alike",
    "P(i = k) = 1 / T for t ~ U(0, 1]",
    "DDPM, arXiv:2006.11239, algorithm 1, line 3",
    1e-12,
)
def uniform_steps() -> Iterator[Case]:
    """Times in the middle of equal intervals, counted by the step of the chain they belong to."""
    for name, T in [("linear", 40), ("cosine", 25)]:
        chain = Discrete(SCHEDULES[name](), T)
        t = (torch.arange(100 * T, dtype=torch.float64) + 0.5) / (100 * T)
        counts = (chain.log_snr(t)[:, None] == chain.table).double().mean(0)
        yield Case(f"{name}, T = {T}", counts, torch.full((T,), 1 / T, dtype=torch.float64))


@law(
    "Stratified times are uniform",
    "E_u[mean_i f((i + u) / n)] = ∫ f dt,  for f = t its variance n times less than that of n free draws",
    "VDM, arXiv:2107.00630, appendix I.1",
    1e-9,
)
def stratified_times() -> Iterator[Case]:
    """The average over the draw u by quadrature, for functions of t, against their integrals; and its
    variance for f = t, which of n free draws is 1 / (12 n).
    """
    u, w = legendre(0, 1)
    for n in (1, 3, 16):
        times = torch.stack([stratified(one.expand(n)) for one in u])
        for name, f, integral in [
            ("t³", times**3, 1 / 4),
            ("e^t", times.exp(), math.e - 1),
            ("cos 9t", (9 * times).cos(), math.sin(9) / 9),
        ]:
            yield Case(f"n = {n}, {name}", w @ f.mean(1), integral)
        variance = w @ (times.mean(1) - 0.5) ** 2
        yield Case(f"n = {n}, variance", variance * n, 1 / (12 * n))


@law(
    "Antithetic times are uniform",
    "½ (f(t) + f(1 − t)) averages to ∫ f dt, exactly for f odd about ½",
    "Hammersley and Morton 1956",
    1e-9,
)
def antithetic_times() -> Iterator[Case]:
    """The average over the draw by quadrature, and a single draw of a function that is odd about ½."""
    u, w = legendre(0, 1)
    times = torch.stack([antithetic(one.expand(4)) for one in u])
    yield Case("t³", w @ (times**3).mean(1), 1 / 4)
    yield Case("e^t", w @ times.exp().mean(1), math.e - 1)
    yield Case("t, each draw", times.mean(1), torch.full_like(u, 0.5))


@law(
    "Time is only a density of levels",
    "∫_0^1 h(λ(t)) (−λ'(t)) dt = ∫ h dλ",
    "VDM, arXiv:2107.00630, eq. 18; Kingma and Gao 2023, arXiv:2303.00848",
    1e-7,
)
def densities() -> Iterator[Case]:
    """A function of log-SNR, integrated along every schedule between the same two levels, against its
    integral over log-SNR.
    """
    low, high = -2.0, 3.0
    expected = math.sin(high) - math.sin(low) + (high - low)
    for name, schedule in CONTINUOUS.items():
        t0, t1 = schedule.inverse(number(high)).item(), schedule.inverse(number(low)).item()
        t, w = legendre(t0, t1, 200)
        h = torch.cos(schedule.log_snr(t)) + 1
        yield Case(name, w @ (h * -schedule.slope(t)), expected)
