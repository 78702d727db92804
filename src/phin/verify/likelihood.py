"""The probability-flow ODE: its solution, its likelihood, and the estimators of its trace."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from phin.diffusion import ode
from phin.diffusion.bound import to_bits
from phin.diffusion.dequantization import bin_nats, dequantized
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.ode import Exact, Hutchinson
from phin.diffusion.schedules import Cosine, Flow, Geometric, Linear, LinearSubVP, Schedule
from phin.oracle import Gaussian, Mixture

from .instruments import GAUSSIAN, PLANE, at, dice, legendre, line, mean_of, number, slope, wrong
from .law import Case, Unit, law

SCHEDULES: tuple[tuple[str, Schedule], ...] = (
    ("cosine, VP", Cosine()),
    ("linear, VP", Linear()),
    ("sub-VP", LinearSubVP()),
    ("geometric, VE", Geometric()),
    ("flow", Flow()),
)


def exact_density(data: Gaussian | Mixture, x: Tensor, schedule: Schedule) -> Tensor:
    """log-density of z_0 / alpha_0 at x."""
    clean = schedule(number(0.0))
    return data.log_prob(clean.alpha * x, clean) + x.shape[1] * clean.alpha.log()


@law(
    "Likelihood by the ODE",
    "log p(x) = log p(z_1) + ∫ div v dt",
    "Song et al. 2021, arXiv:2011.13456, eq. 39; FFJORD, arXiv:1810.01367, eq. 2",
    1e-6,
    Unit.ABSOLUTE,
)
def likelihood() -> Iterator[Case]:
    """The ODE's likelihood with the exact denoiser and terminal marginal (rtol 1e-8), against the exact
    density of a Gaussian and of a mixture, on five schedules, in nats.
    """
    for kind, data in [("Gaussian", GAUSSIAN), ("mixture", PLANE)]:
        x = data.sample(6, dice())
        for name, schedule in SCHEDULES:
            found = ode.log_prob(data.denoise, x, schedule, Exact(), 1e-8, 1e-10, terminal=marginal(data))
            yield Case(f"{kind}, {name}", found.nats, exact_density(data, x, schedule))


def marginal(data: Gaussian | Mixture) -> Callable[[Tensor, Level], Tensor]:
    """The exact terminal density."""
    return lambda z, level: data.log_prob(z, level)


@law(
    "The error is what was asked for",
    "|log p − log p̂| ≤ 1e-4 nats at rtol 1e-5",
    "Hairer, Nørsett and Wanner 1993, section II.4",
    1e-4,
    Unit.ABSOLUTE,
)
def tolerance() -> Iterator[Case]:
    """As above, at the tolerance that is the default."""
    x = PLANE.sample(6, dice(1))
    for name, schedule in SCHEDULES:
        found = ode.log_prob(PLANE.denoise, x, schedule, terminal=marginal(PLANE))
        yield Case(name, found.nats, exact_density(PLANE, x, schedule))


@law(
    "The ODE's density is a density",
    "∫ p(x) dx = 1, whatever the denoiser",
    "FFJORD, arXiv:1810.01367, section 2.2",
    1e-5,
)
def normalized() -> Iterator[Case]:
    """The likelihood of a wrong denoiser from the prior, integrated over the line."""
    x, w = line(-8.0, 8.0, 241)
    for name, schedule in [("cosine", Cosine(log_snr_max=4.0)), ("geometric", Geometric(0.2, 40.0))]:
        found = ode.log_prob(wrong, x, schedule, rtol=1e-6, atol=1e-8)
        yield Case(name, w @ found.nats.exp(), 1.0)


@law(
    "The ODE's density is that of its map",
    "p(x) = p(z_1) |dz_1 / dx|",
    "Song et al. 2021, arXiv:2011.13456, appendix D.2",
    1e-5,
    Unit.ABSOLUTE,
)
def density_of_map() -> Iterator[Case]:
    """The likelihood of a wrong denoiser on the line, against differences of where `flow` takes x."""
    h = 1e-4
    x = number(-0.7, 0.2, 1.1)[:, None]
    for name, schedule in SCHEDULES[:3]:
        levels = schedule.levels(2)
        noisy = levels.at(0)
        ends = [ode.encode(wrong, x + d, levels, 1e-10, 1e-12).y for d in (-h, 0.0, h)]
        density = ode.standard(ends[1], noisy) + ((ends[2] - ends[0]) / (2 * h)).log()[:, 0]
        found = ode.log_prob(wrong, x, schedule, rtol=1e-9, atol=1e-11)
        yield Case(name, found.nats, density)


@law(
    "The ODE's solution",
    "z_s = Q √(v_s / v_t) Qᵀ (z_t − α_t m) + α_s m,  v = α²c + σ²",
    "Song et al. 2021, arXiv:2011.13456, eq. 13, for a Gaussian",
    1e-7,
)
def solution() -> Iterator[Case]:
    """The adaptive solver up and down, against the flow of a Gaussian in closed form."""
    for name in SCALINGS:
        low, high = at(-7.0, name), at(5.0, name)
        for case, t, s in [("down", low, high), ("up", high, low)]:
            z = GAUSSIAN.marginal(t).sample(10, dice())
            found = ode.flow(GAUSSIAN.denoise, z, t, s, 1e-9, 1e-11).y
            yield Case(f"{name}, {case}", found, GAUSSIAN.flow(z, t, s))


def step(h: float) -> tuple[Tensor, Tensor, Tensor]:
    """One step of y' = y cos t from t = 0.3 and y = 1: the result, its error estimate, and the truth."""
    t, y = number(0.3).reshape(1), torch.ones(1, 1).double()

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return y * t.cos()[:, None]

    size = number(h).reshape(1)
    new, off, _ = ode.dormand_prince(field, t, y, size, field(t, y, t), torch.zeros(1).long())
    return new, off, torch.exp((t + h).sin() - t.sin())[:, None]


@law(
    "Dormand-Prince is of order 5",
    "local error O(h⁶), that of the embedded method O(h⁵)",
    "Dormand and Prince 1980, table 2; Hairer et al. 1993, section II.5",
    0.15,
    Unit.ABSOLUTE,
)
def dormand_prince() -> Iterator[Case]:
    """Errors of single steps against an exact solution, over the step size: their slope."""
    sizes = number(0.2, 0.1, 0.05)
    steps = [step(h) for h in sizes.tolist()]
    off = torch.stack([(new - true).abs().log() for new, _, true in steps])
    told = torch.stack([estimate.abs().log() for _, estimate, _ in steps])
    yield Case("error", slope(sizes.log(), off), 6.0)
    yield Case("error estimate", slope(sizes.log(), told), 5.0)


@law(
    "The order conditions",
    "Σ_j a_ij = c_i,  Σ_i b_i c_i^{k−1} = 1/k for k ≤ 5 (embedded: 4),  Σ b_i a_ij c_j = 1/6",
    "Hairer, Nørsett and Wanner 1993, sections II.1 and II.2",
    1e-12,
    Unit.ABSOLUTE,
)
def order_conditions() -> Iterator[Case]:
    """The solver's table, against what Taylor's series asks of it."""
    c = number(*ode.NODES)
    a = torch.zeros(7, 7).double()
    for i, row in enumerate(ode.STAGES):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    yield Case("rows", a.sum(1), c)
    for name, b, order in [("order 5", a[6], 5), ("order 4", number(*ode.FOURTH), 4)]:
        for k in range(1, order + 1):
            yield Case(f"{name}, k = {k}", b @ c ** (k - 1), 1 / k)
        yield Case(f"{name}, tree", b @ (a @ c), 1 / 6)


def matrix() -> Tensor:
    """A matrix that is not symmetric."""
    return torch.randn(4, 4, dtype=torch.float64, generator=dice(5))


def probes(law: Callable[..., object], n: int) -> Tensor:
    """Estimates (n,) of the trace of `matrix()`."""
    z = torch.randn(1, 4, dtype=torch.float64, generator=dice(6)).requires_grad_()
    with torch.enable_grad():
        return Hutchinson(n, law).begin(z, 0, [0])(z @ matrix().T, z, torch.zeros(1).long())[0]  # pyright: ignore[reportArgumentType]


@law(
    "Hutchinson's estimator is unbiased",
    "E[vᵀ J v] = tr J",
    "Hutchinson 1990; FFJORD, arXiv:1810.01367, eq. 7",
    4.5,
    Unit.DEVIATIONS,
)
def unbiased() -> Iterator[Case]:
    """The mean of four thousand probes of either law, against the trace."""
    for name, kind in ode.LAWS.items():
        found, deviation = mean_of(probes(kind, 4000))
        yield Case(name, found, matrix().trace(), deviation)


@law(
    "Hutchinson's variance",
    "signs: 2 Σ_{i≠j} S_ij²;  normal: 2 |S|²,  S = (J + Jᵀ) / 2",
    "Avron and Toledo 2011, J. ACM 58",
    4.5,
    Unit.DEVIATIONS,
)
def variance() -> Iterator[Case]:
    """Squared errors of four thousand probes of either law, against the formula."""
    symmetric = (matrix() + matrix().T) / 2
    total = 2 * (symmetric**2).sum()
    expected = {"rademacher": total - 2 * (symmetric.diagonal() ** 2).sum(), "gaussian": total}
    for name, kind in ode.LAWS.items():
        found, deviation = mean_of((probes(kind, 4000) - matrix().trace()) ** 2)
        yield Case(name, found, expected[name], deviation)


@law(
    "The exact trace",
    "Σ_i ∂x̂_i / ∂z_i",
    "Song et al. 2021, arXiv:2011.13456, appendix D.2",
    1e-9,
)
def trace() -> Iterator[Case]:
    """The solver's trace of the exact denoiser, against the posterior covariance by Tweedie's formula."""
    for log_snr in (-2.0, 1.0, 4.0):
        level = at(log_snr)
        z = PLANE.marginal(level).sample(20, dice()).requires_grad_()
        with torch.enable_grad():
            found = Exact().begin(z, 0, range(20))(PLANE.denoise(z, level).x, z, torch.arange(20))[:, 0]
        spread = PLANE.posterior_cov(z, level).diagonal(dim1=1, dim2=2).sum(1)
        yield Case(f"λ = {log_snr:g}", found, level.alpha / level.sigma**2 * spread)


@law(
    "A likelihood with its standard error",
    "mean over probes of the ODE's log p(x), within its error",
    "FFJORD, arXiv:1810.01367, eq. 8",
    4.5,
    Unit.DEVIATIONS,
)
def estimated() -> Iterator[Case]:
    """The ODE's likelihood of a mixture by Hutchinson's estimator, against the exact density, in units of the
    standard error that it tells.
    """
    x = PLANE.sample(8, dice(2))
    found = ode.log_prob(PLANE.denoise, x, Cosine(), Hutchinson(16), terminal=marginal(PLANE))
    yield Case("16 probes", found.nats, exact_density(PLANE, x, Cosine()), found.std_error)


@law(
    "Dequantization bounds the likelihood",
    "E_u[−log_2 p(x + u)] + D log_2 127.5 = −log_2 P(x) + KL(u ‖ p in the bin of x) ≥ −log_2 P(x)",
    "Theis et al. 2016, arXiv:1511.01844, section 3.1",
    1e-9,
)
def dequantization() -> Iterator[Case]:
    """Bits of densities at noised values, averaged over the noise by quadrature, plus those of the bin. A
    normal density, against its distribution function and the divergence in the bin, by quadrature, too; one
    that is flat in every bin, against the probabilities that it was made of.
    """
    u, w = legendre(0.0, 1.0)
    for k in (0, 100, 255):
        value = 2 * k / 255 - 1
        for wide in (0.5, 1.0, 30.0):
            p = torch.distributions.Normal(number(value + 0.001), number(wide / 255))
            inside = dequantized(number(value).expand(len(u), 1), u[:, None])[:, 0]
            found = -(w @ p.log_prob(inside)) + bin_nats(1)
            probability = p.cdf(number(value + 1 / 255)) - p.cdf(number(value - 1 / 255))
            place, weight = legendre(value - 1 / 255, value + 1 / 255)
            flat = 255 / 2
            divergence = weight @ (flat * (math.log(flat) - p.log_prob(place) + probability.log()))
            yield Case(
                f"value {k}, deviation {wide:g}",
                to_bits(found, 1),
                to_bits(divergence - probability.log(), 1),
            )
    chances = torch.rand(256, generator=dice(7), dtype=torch.float64).softmax(0)
    of = torch.randint(0, 256, (5, 3), generator=dice(8))
    for name, chance in [("flat", chances), ("256 values alike", torch.full_like(chances, 1 / 256))]:
        inside = dequantized(
            (2 * of / 255 - 1).double().expand(len(u), 5, 3), u[:, None, None].expand(-1, 5, 3)
        )
        bins = ((inside + 1 + 1 / 255) * (255 / 2)).floor().long()
        density = (chance * (255 / 2))[bins].log().sum(2)
        found = -(w @ density) + bin_nats(3)
        yield Case(name, to_bits(found, 3), to_bits(-chance[of].log().sum(1), 3))
