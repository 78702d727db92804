"""Bounds on the likelihood: each of their terms, their limits, and how far they are from the entropy."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from phin.diffusion.bound import (
    Bound,
    bound,
    chain_bound,
    chain_term,
    consistency_bound,
    normal_kl,
    prior_kl,
    reweighting,
    to_bits,
)
from phin.diffusion.decoder import categorical, discretized_gaussian, gaussian
from phin.diffusion.denoiser import Denoise, Prediction
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.losses import denoising_loss
from phin.diffusion.noise import Noise
from phin.diffusion.objectives import ChainBound, ContinuousBound, Hybrid
from phin.diffusion.schedules import (
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    Learned,
    Linear,
    Schedule,
    Sigmoid,
)
from phin.diffusion.solvers import Ancestral
from phin.diffusion.weights import simple
from phin.oracle import Gaussian, Mixture

from .instruments import (
    ATOMS,
    around,
    at,
    dice,
    each_scaling,
    legendre,
    line,
    no_noise,
    normal,
    number,
    slope,
    wrong,
)
from .law import Case, Unit, law

X = torch.tensor([[0.3, -0.8, 1.1], [-0.2, 0.5, 0.9]], dtype=torch.float64)
EPS = torch.randn(2, 3, dtype=torch.float64, generator=dice(11))
CHAINS = {"linear, T = 1000": Discrete(Linear(), 1000), "cosine, T = 50": Discrete(Cosine(), 50)}
UNIT = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
"""N(0, 1), of which everything is known."""


def fixed(eps: Tensor) -> Noise:
    """Noise that is always the same."""
    return lambda like: eps


def conditional(t: Level, s: Level, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(z_s | z_t = z, x), by conditioning the joint Gaussian of the two levels."""
    factor = t.alpha / s.alpha
    gain = factor * s.sigma**2 / t.sigma**2
    return s.alpha * x + gain * (z - t.alpha * x), s.sigma**2 * (1 - gain * factor)


def kl(mean: Tensor, variance: Tensor, other: Tensor, other_variance: Tensor) -> Tensor:
    """KL of isotropic Gaussians in every row (B, D), by the oracle's matrix formula: (B,)."""
    eye = torch.eye(mean.shape[1], dtype=mean.dtype)
    rows = zip(mean, other, strict=True)
    return torch.stack([Gaussian(a, variance * eye).kl(Gaussian(b, other_variance * eye)) for a, b in rows])


def average(
    denoise: Denoise, data: Gaussian | Mixture, schedule: Schedule, steps: int | None = None, **kwargs: object
) -> Bound:
    """The expected bound over data on the line, noise and time, by quadrature: its terms, () each."""
    if steps is None:
        t, wt = legendre(0.0, 1.0, 200)
    else:
        t, wt = (torch.arange(steps) + 0.5).double() / steps, torch.full((steps,), 1 / steps).double()
    eps, we = normal(6)
    if isinstance(data, Mixture):  # of atoms
        x, wx = torch.stack([part.mean for part in data.parts]), data.weights
    else:
        x, wx = normal(6)
        x = data.mean + data.cov.sqrt() * x
    n, m = len(x) * len(eps), len(t)
    weights = (wx[:, None, None] * we[:, None] * wt).flatten()
    xs = x.repeat_interleave(len(eps) * m, 0)
    noise = eps.repeat(len(x), 1).repeat_interleave(m, 0)
    decoder = categorical(len(x)) if isinstance(data, Mixture) else gaussian(data.cov.item())
    terms = bound(denoise, xs, schedule, decoder, steps, t.repeat(n), fixed(noise))
    return Bound(*(weights @ term for term in terms))


@law(
    "The prior term",
    "L_T = KL(q(x_T | x_0) ‖ N(0, α² + σ²))",
    "DDPM, arXiv:2006.11239, eq. 5; VDM, arXiv:2107.00630, eq. 11",
    1e-9,
)
def prior_term() -> Iterator[Case]:
    """The bound's formula in log-SNR, against the matrix formula for Gaussians in alpha and sigma."""
    for name, level in each_scaling(-8.0, -2.0, 1.0):
        total = level.alpha**2 + level.sigma**2
        yield Case(name, prior_kl(X, level), kl(level.alpha * X, level.sigma**2, 0 * X, total))


@law(
    "KL of two normals, number by number",
    "KL = ½ (v/w − 1 − log v/w + (m − m')² / w)",
    "Improved DDPM, arXiv:2102.09672, eq. 6; DDPM, arXiv:2006.11239, section 2",
    1e-9,
)
def kl_normals() -> Iterator[Case]:
    """The bound's formula, against quadrature of the densities."""
    x, w = line(-16, 16, 2001)
    for m, v, other, u in [(0.3, 0.5, -0.4, 1.2), (1.0, 2.0, 1.0, 2.1), (-1.0, 1.5, 0.5, 0.3)]:
        p, q = (Gaussian(number(a).reshape(1), number(b).reshape(1, 1)) for a, b in [(m, v), (other, u)])
        expected = w @ (p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)))
        found = normal_kl(number(m), number(v).log(), number(other), number(u).log())
        yield Case(f"N({m:g}, {v:g}) ‖ N({other:g}, {u:g})", found, expected)


@law(
    "A step of the chain",
    "L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t))",
    "DDPM, arXiv:2006.11239, eq. 5-8; Improved DDPM, arXiv:2102.09672, eq. 4-7 and 15",
    1e-6,
)
def chain_step() -> Iterator[Case]:
    """The term in log-SNR, against conditioned Gaussians and the paper's variances, for fixed small, large
    and learned variance.
    """
    for name, chain in CHAINS.items():
        betas, survives = chain.betas, chain.alpha_bar
        for step in (2, chain.T // 2, chain.T):
            t, s = (chain.scaling(chain.table[i - 1]) for i in (step, step - 1))
            z = t.alpha * X + t.sigma * EPS
            beta = betas[step - 1]
            small = (1 - survives[step - 2]) / (1 - survives[step - 1]) * beta
            mean, variance = conditional(t, s, X, z)
            guess, _ = conditional(t, s, wrong(z, t).x, z)
            for frac in (0.0, 0.4, 1.0):
                var = torch.exp(frac * beta.log() + (1 - frac) * small.log())
                expected = kl(mean, variance, guess, var)

                def learned(z: Tensor, level: Level, frac: float = frac) -> Prediction:
                    return Prediction(wrong(z, level).x, torch.full_like(z, frac))

                given = chain_term(wrong, X, chain, torch.tensor(step), frac=frac, noise=fixed(EPS))
                yield Case(f"{name}, t = {step}, f = {frac}", given, expected)
                own = chain_term(learned, X, chain, torch.tensor(step), noise=fixed(EPS))
                yield Case(f"{name}, t = {step}, f = {frac}, learned", own, expected)


@law(
    "A step in terms of the noise",
    "L_{t−1} − C = β_t² / (2σ_t² α_t (1 − ᾱ_t)) |ε − ε̂|²",
    "DDPM, arXiv:2006.11239, eq. 12",
    1e-8,
)
def noise_weight() -> Iterator[Case]:
    """The weights of the reweighting, against the formula with the chain's betas, for both variances."""
    for name, chain in CHAINS.items():
        beta, survives = chain.betas[1:], chain.alpha_bar[1:]
        small = (1 - chain.alpha_bar[:-1]) / (1 - survives) * beta
        for frac, variance in [(0.0, small), (1.0, beta)]:
            expected = beta**2 / (2 * variance * (1 - beta) * (1 - survives))
            yield Case(
                f"{name}, f = {frac:g}", reweighting(chain, frac).weight / expected, torch.ones_like(beta)
            )


@law(
    "L_simple is a reweighting",
    "L_{t−1} = w_t |ε − ε̂|² + D c_t",
    "DDPM, arXiv:2006.11239, eq. 12 and 14",
    1e-7,
)
def simple_is_reweighting() -> Iterator[Case]:
    """Terms of the bound, against the training loss times its weight, and the price of the variance."""
    for name, chain in CHAINS.items():
        for frac in (0.0, 1.0):
            found = reweighting(chain, frac)
            for step in (2, chain.T // 2, chain.T):
                level = chain.scaling(chain.table[step - 1])
                loss = 3 * denoising_loss(wrong, X, level, simple, fixed(EPS))
                expected = found.weight[step - 2] * loss + 3 * found.constant[step - 2]
                term = chain_term(wrong, X, chain, torch.tensor(step), frac=frac, noise=fixed(EPS))
                yield Case(f"{name}, t = {step}, f = {frac:g}", term, expected)


@law(
    "Predicting the mean is predicting the data",
    "|μ̃(x) − μ̃(x̂)|² / 2σ̃² = ½ (SNR(s) − SNR(t)) |x − x̂|²",
    "DDPM, arXiv:2006.11239, eq. 8; VDM, arXiv:2107.00630, appendix E",
    1e-6,
)
def mean_is_data() -> Iterator[Case]:
    """Means and spread of two ancestral steps, one told x and one x̂, against the term of the bound."""
    for name, chain in CHAINS.items():
        for step in (2, chain.T // 2, chain.T):
            t, s = (chain.scaling(chain.table[i - 1]) for i in (step, step - 1))
            z = t.alpha * X + t.sigma * EPS
            told, _ = Ancestral().step(lambda z, level: Prediction(X), z, t, s, no_noise, None)
            guessed, _ = Ancestral().step(wrong, z, t, s, no_noise, None)
            moved, _ = Ancestral().step(wrong, z, t, s, torch.ones_like, None)
            found = ((told - guessed) ** 2 / (2 * (moved - guessed) ** 2)).sum(1)
            term = chain_term(wrong, X, chain, torch.tensor(step), noise=fixed(EPS))
            yield Case(f"{name}, t = {step}", term, found)


TIMES = number(0.1, 0.8)


@law(
    "VDM's discrete loss",
    "T · KL(q(z_s | z_t, x) ‖ p(z_s | z_t)) = T/2 (SNR(s) − SNR(t)) |x − x̂|²",
    "VDM, arXiv:2107.00630, eq. 13",
    1e-7,
)
def discrete_loss() -> Iterator[Case]:
    """The diffusion term of the bound at given times, against conditioned Gaussians in their own units."""
    for name, scaling in SCALINGS.items():
        for T in (4, 50):
            schedule = Flow(scaling=scaling)
            i = torch.floor(TIMES * T)
            rows = []
            for row in range(2):
                t, s = schedule((i[row] + 1) / T), schedule(i[row] / T)
                z = t.alpha * X[row] + t.sigma * EPS[row]
                (mean, variance), (guess, _) = (conditional(t, s, x, z) for x in (X[row], wrong(z, t).x))
                rows.append(T * kl(mean[None], variance, guess[None], variance))
            found = bound(wrong, X, schedule, gaussian(), T, TIMES, fixed(EPS)).diffusion
            yield Case(f"{name}, T = {T}", found, torch.cat(rows))


@law(
    "VDM's continuous loss",
    "½ γ'(t) |ε − ε̂|²,  γ = −λ",
    "VDM, arXiv:2107.00630, eq. 17",
    1e-7,
)
def continuous_loss() -> Iterator[Case]:
    """The diffusion term of the bound at given times, against differences of the schedule."""
    h = 1e-5
    for name, schedule in [("linear", Linear()), ("cosine", Cosine()), ("karras", Karras())]:
        level = schedule(TIMES).view(2)
        z = level.alpha * X + level.sigma * EPS
        eps = (z - level.alpha * wrong(z, level).x) / level.sigma
        rise = (schedule.log_snr(TIMES - h) - schedule.log_snr(TIMES + h)) / (2 * h)
        found = bound(wrong, X, schedule, gaussian(), None, TIMES, fixed(EPS)).diffusion
        yield Case(name, found, 0.5 * rise * ((EPS - eps) ** 2).sum(1))


@law(
    "T → ∞",
    "L_T − L_∞ = O(1 / T)",
    "VDM, arXiv:2107.00630, section 5 and eq. 15-16",
    0.05,
    Unit.ABSOLUTE,
)
def to_infinity() -> Iterator[Case]:
    """The order in which expected discrete losses of the exact denoiser come down to the continuous one,
    by its slope over T, expectations by quadrature.
    """
    steps = (256, 512, 1024)
    for name, schedule in [
        ("cosine", Cosine(log_snr_max=6.0, log_snr_min=-6.0)),
        ("geometric", Geometric(0.05, 20.0)),
    ]:
        limit = average(UNIT.denoise, UNIT, schedule).diffusion
        gaps = [average(UNIT.denoise, UNIT, schedule, T).diffusion - limit for T in steps]
        yield Case(name, slope(number(*map(float, steps)).log(), torch.stack(gaps).log()), -1.0)


@law(
    "More steps are better",
    "L_T − L_2T = ½ Σ (SNR(s) − SNR(m)) (E_t − E_m) ≥ 0,  E the least squared error, m between s and t",
    "VDM, arXiv:2107.00630, section 4.1 and appendix F",
    1e-7,
)
def more_steps() -> Iterator[Case]:
    """The difference of two expected bounds by quadrature, against the least error c / (1 + c SNR)."""
    for name, schedule in [("cosine", Cosine()), ("geometric", Geometric(0.05, 20.0))]:
        for T in (4, 32):
            snr = schedule.log_snr(torch.linspace(0, 1, 2 * T + 1, dtype=torch.float64)).exp()
            error = 1 / (1 + snr)
            expected = 0.5 * ((snr[:-2:2] - snr[1::2]) * (error[2::2] - error[1::2])).sum()
            found = [average(UNIT.denoise, UNIT, schedule, n).diffusion for n in (T, 2 * T)]
            yield Case(f"{name}, T = {T}", found[0] - found[1], expected)


@law(
    "The schedule's interior does not matter",
    "½ ∫ E(SNR) dSNR from end to end = ½ log((1 + c SNR_max) / (1 + c SNR_min))",
    "VDM, arXiv:2107.00630, eq. 18",
    1e-7,
)
def interior() -> Iterator[Case]:
    """The expected continuous loss of the exact denoiser under several schedules with the same ends, by
    quadrature, against the integral in closed form.
    """
    schedules = {
        "linear": Linear(0.1, 8.0, log_snr_max=5.0),
        "cosine": Cosine(log_snr_max=5.0, log_snr_min=-4.0),
        "flow": Flow(log_snr_max=5.0, log_snr_min=-4.0),
        "sigmoid": Sigmoid(log_snr_max=5.0, log_snr_min=-4.0),
        "geometric": Geometric(math.exp(-2.5), math.exp(2.0)),
        "karras": Karras(math.exp(-2.5), math.exp(2.0)),
    }
    data = Gaussian(torch.zeros(1).double(), number(0.4).reshape(1, 1))
    for name, schedule in schedules.items():
        high, low = schedule.log_snr(number(0.0, 1.0)).exp()
        expected = 0.5 * torch.log((1 + 0.4 * high) / (1 + 0.4 * low))
        yield Case(name, average(data.denoise, data, schedule).diffusion, expected)


@law(
    "The interior descends the variance",
    "½ ∇_φ Var L = E[L ∇_φ L], for ∇_φ E L = 0,  φ the interior of a learned schedule",
    "VDM, arXiv:2107.00630, appendix I.2",
    1e-5,
)
def least_variance() -> Iterator[Case]:
    """Gradients that the objective hands to a learned schedule, expectations over data, noise and time by
    quadrature with nodes of one weight; against autograd of the variance of the exact denoiser's loss, whose
    moments over data and noise have a closed form.
    """
    data = Gaussian(torch.zeros(1).double(), number(0.4).reshape(1, 1))
    six = number(-(3**0.5), 0.0, 0.0, 0.0, 0.0, 3**0.5)  # of N(0, 1): exact up to the fifth power
    x, eps, t = (0.4**0.5 * six, six, (torch.arange(1000).double() + 0.5) / 1000)
    nodes = [part.reshape(-1, 1) for part in torch.meshgrid(x, eps, t, indexing="ij")]
    for name, tilt in [("as it begins", 0.0), ("bent", 2.0)]:
        schedule = Learned(6.0, -4.0, units=3).double()
        with torch.no_grad():
            schedule.steepness.add_(tilt)
            schedule.heights.add_(tilt * torch.arange(1, 4))
        inside = [schedule.linear, schedule.heights, schedule.steepness, schedule.centres]
        with torch.enable_grad():
            objective = ContinuousBound(gaussian(0.4))
            terms = objective(data.denoise, nodes[0], schedule, nodes[2][:, 0], simple, fixed(nodes[1]))
            found = torch.autograd.grad(terms.loss.mean(), inside)
            snr, rise = schedule.log_snr(t).exp(), -schedule.slope(t)
            mean = (
                0.5 * rise * snr * (0.4 / (1 + 0.4 * snr))
            )  # of L at t; that of L² is three times its square
            variance = (3 * mean**2).mean() - mean.mean() ** 2
            expected = torch.autograd.grad(variance, inside)
        units = 2 * mean.mean().item() * math.log(2)
        for part, one, other in zip(("a", "w", "v", "c"), found, expected, strict=True):
            yield Case(f"{name}, {part}", units * one, other)


@law(
    "The continuous bound is tight",
    "E[L_∞] = H(x) + KL(q(z_1) ‖ p(z_1)) for the exact denoiser",
    "VDM, arXiv:2107.00630, eq. 11 and 18; Guo et al. 2005",
    1e-6,
)
def tight() -> Iterator[Case]:
    """The expected bound by quadrature over data, noise and time, against entropies and divergences in closed
    form: Gaussian data with their decoder, and four equally likely values with the categorical one.
    """
    for variance in (1.0, 0.4):
        data = Gaussian(number(0.0).reshape(1), number(variance).reshape(1, 1))
        for name, schedule in [("cosine", Cosine()), ("flow", Flow(6.0, -3.0))]:
            last = schedule(number(1.0))
            prior = Gaussian(torch.zeros(1).double(), (last.alpha**2 + last.sigma**2).reshape(1, 1))
            expected = data.entropy + data.marginal(last).kl(prior)
            found = average(data.denoise, data, schedule).total
            yield Case(f"Gaussian of variance {variance:g}, {name}", found, expected)
    four = Mixture.atoms([0.25] * 4, torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None])
    schedule = Flow(9.0, -5.0)
    last = schedule(number(1.0))
    z, w = around(last)
    q, prior = (
        four.log_prob(z, last),
        Gaussian(torch.zeros(1).double(), (last.alpha**2 + last.sigma**2).reshape(1, 1)),
    )
    gap = w @ (q.exp() * (q - prior.log_prob(z)))
    first = schedule(number(0.0))
    yield Case("four values", _finely(four, schedule) + _unsure(four, first), four.choice + gap)


def _finely(data: Mixture, schedule: Schedule) -> Tensor:
    """Prior and diffusion terms of the expected continuous bound, the latter on a fine grid over z."""
    last = schedule(number(1.0))
    x = torch.stack([part.mean for part in data.parts])
    log_snr, w = legendre(schedule.log_snr(number(1.0)).item(), schedule.log_snr(number(0.0)).item(), 80)
    t = schedule.inverse(log_snr)
    total = data.weights @ prior_kl(x, last)
    for i, weight in enumerate(w):
        eps, we = line(-9, 9, 361)
        p = (data.weights[:, None] * we * UNIT.log_prob(eps).exp()).flatten()
        xs, noise = x.repeat_interleave(len(eps), 0), eps.repeat(len(x), 1)
        found = bound(data.denoise, xs, schedule, gaussian(), None, t[i].expand(len(xs)), fixed(noise))
        total = total + weight * (p @ found.diffusion) / -schedule.slope(t[i])
    return total


def _unsure(data: Mixture, level: Level) -> Tensor:
    """E[-log p(x | z)] of the categorical decoder on values that are equally spaced."""
    x = torch.stack([part.mean for part in data.parts])
    eps, w = line(-9, 9, 361)
    xs, noise = x.repeat_interleave(len(eps), 0), eps.repeat(len(x), 1)
    log_p = categorical(len(x))(data.denoise, xs, level.alpha * xs + level.sigma * noise, level)
    p = (data.weights[:, None] * w * UNIT.log_prob(eps).exp()).flatten()
    return -p @ log_p


@law(
    "The gap of a finite T",
    "E[L_T] − H(x) = KL(q(z_1) ‖ p(z_1)) + Σ_t E KL(q(z_s | z_t) ‖ p(z_s | z_t)) ≥ 0",
    "DDPM, arXiv:2006.11239, eq. 16",
    1e-6,
)
def finite_gap() -> Iterator[Case]:
    """The expected bound of the exact denoiser by quadrature, against the entropy and the divergences of the
    noisiest level from the prior, and of the true reverse variance from the small one, in closed form.
    """
    off = Gaussian(number(0.5), number(0.4).reshape(1, 1))
    for name, schedule, data, counts in [
        ("cosine, N(0, 1)", Cosine(), UNIT, (10, 100, 400)),
        ("flow, N(0, 1)", Flow(6.0, -5.0), UNIT, (10, 100, 400)),
        ("flow to λ = −1, N(0.5, 0.4)", Flow(6.0, -1.0), off, (10, 100)),
    ]:
        for T in counts:
            steps = list(schedule.levels(T + 1).steps())
            noisy = steps[0][0]
            end = Gaussian(noisy.alpha * data.mean, noisy.alpha**2 * data.cov + noisy.sigma**2)
            gap = end.kl(Gaussian(torch.zeros(1).double(), (noisy.alpha**2 + noisy.sigma**2).reshape(1, 1)))
            for t, s in steps:
                _, small = conditional(t, s, torch.zeros(1), torch.zeros(1))
                factor = t.alpha / s.alpha
                clean, noisy = (one.alpha**2 * data.cov.squeeze() + one.sigma**2 for one in (s, t))
                true = clean - (factor * clean) ** 2 / noisy
                gap = gap + 0.5 * (true / small - 1 - (true / small).log())
            found = average(data.denoise, data, schedule, T).total
            yield Case(f"{name}, T = {T}", found, data.entropy + gap)


@law(
    "DDPM's objective, whole",
    "E[L_T + Σ L_{t−1} + L_0] = H(x) for x ~ N(0, I) and the large variance",
    "DDPM, arXiv:2006.11239, eq. 5 and section 3.2",
    1e-7,
)
def whole_chain() -> Iterator[Case]:
    """The expected bound of the exact denoiser over a whole chain by quadrature, against the entropy; with
    the small variance, and its gap, too.
    """
    nodes, w = normal(8, 2)
    x, eps = nodes[:, :1], nodes[:, 1:]
    for name, chain in [
        ("linear, T = 40", Discrete(Linear(), 40)),
        ("cosine, T = 20", Discrete(Cosine(), 20)),
    ]:
        for frac in (1.0, 0.0):
            found = w @ chain_bound(UNIT.denoise, x, chain, gaussian(), frac=frac, noise=fixed(eps)).total
            ratio = 1 / reverse_shares(chain)
            gap = 0.0 if frac else 0.5 * (ratio - 1 - ratio.log()).sum()
            yield Case(f"{name}, f = {frac:g}", found, UNIT.entropy + gap)


def reverse_shares(chain: Discrete) -> Tensor:
    """Small over true reverse variance, (1 − ᾱ_{t−1}) / (1 − ᾱ_t), of a chain on N(0, I): (T − 1,)."""
    return (1 - chain.alpha_bar[:-1]) / (1 - chain.alpha_bar[1:])


@law(
    "The earlier bound is the same",
    "L = E[log q(x_{1:T} | x_0) − log p(x_{0:T})], with the consistency of x_t between x_{t−1} and x_{t+1}",
    "DDPM, arXiv:2006.11239, eq. 3; Luo 2022, arXiv:2208.11970 (its consistency term)",
    1e-7,
)
def earlier_bound() -> Iterator[Case]:
    """Both bounds of a wrong affine denoiser, expectations over all noise by quadrature, one by one."""
    nodes, w = normal(4, 3)
    chain = Discrete(Cosine(), 12)

    def affine(z: Tensor, level: Level) -> Prediction:
        return Prediction(0.8 * level.alpha * z + 0.1)

    for start in (-0.5, 0.9):
        x = torch.full((len(nodes), 1), start, dtype=torch.float64)
        for frac in (0.0, 1.0):
            count = 0

            def in_turn(like: Tensor) -> Tensor:
                """Three latents of a term are drawn one after the other."""
                nonlocal count
                count += 1
                return nodes[:, count % 3, None]

            one = w @ consistency_bound(affine, x, chain, gaussian(), frac=frac, noise=in_turn).total
            other = w @ chain_bound(affine, x, chain, gaussian(), frac=frac, noise=fixed(nodes[:, :1])).total
            yield Case(f"x = {start:g}, f = {frac:g}", one, other)


VALUES = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]


@law(
    "The discretised Gaussian sums to one",
    "Σ_k p(x = v_k | z) = 1 over 256 values, the bins at −1 and 1 open",
    "DDPM, arXiv:2006.11239, eq. 13",
    1e-10,
)
def decoder_sums() -> Iterator[Case]:
    """The probabilities of all values, summed, for predictions inside and outside the range."""
    for log_snr in (-2.0, 4.0, 9.0):
        for frac in (0.0, 1.0):
            for mean in (-1.3, -0.99, 0.1, 1.0):
                told = Prediction(torch.full_like(VALUES, mean))
                log_p = discretized_gaussian(frac)(
                    lambda z, level, told=told: told, VALUES, VALUES, at(log_snr)
                )
                yield Case(f"λ = {log_snr:g}, f = {frac:g}, x̂ = {mean:g}", log_p.exp().sum(), 1.0)


@law(
    "The discretised Gaussian is an integral",
    "p(x | z) = ∫ N(u; x̂, σ²) du over (x − 1/255, x + 1/255)",
    "DDPM, arXiv:2006.11239, eq. 13",
    1e-9,
)
def decoder_bins() -> Iterator[Case]:
    """Probabilities of inner values, against quadrature of the density over their bins."""
    for log_snr in (2.0, 6.0, 9.0):
        level = at(log_snr)
        for frac in (0.0, 1.0):
            told = Prediction(torch.full_like(VALUES, 0.13))
            log_p = discretized_gaussian(frac)(lambda z, level, told=told: told, VALUES, VALUES, level)
            std = level.sigma * 0.5 ** ((1 - frac) / 2)
            near = VALUES[100:180]
            u, w = legendre(-1 / 255, 1 / 255, 24)
            density = torch.exp(-0.5 * ((near + u - 0.13) / std) ** 2) / (std * math.sqrt(2 * math.pi))
            yield Case(f"λ = {log_snr:g}, f = {frac:g}", log_p[100:180].exp(), density @ w)


@law(
    "The categorical decoder is Bayes' rule",
    "p(x = v_k | z) = q(z | v_k) / Σ_j q(z | v_j)",
    "VDM, arXiv:2107.00630, section 3.3",
    1e-8,
)
def categorical_decoder() -> Iterator[Case]:
    """Log probabilities of all values, against the class posterior of atoms there."""
    atoms = Mixture.atoms([1 / 16] * 16, torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None])
    x = torch.stack([part.mean for part in atoms.parts])
    for name, level in each_scaling(0.0, 5.0, 9.0):
        z = (level.alpha * 0.23 + 0.4 * level.sigma).expand(16, 1)
        found = categorical(16)(UNIT.denoise, x, z, level)
        yield Case(name, found, atoms.class_log_prob(z[0], level))


@law(
    "The Gaussian decoder is the posterior",
    "p(x | z) = N(E[x | z], 1 / (1/c + SNR))",
    "Bayes' rule; DDPM, arXiv:2006.11239, section 3.2 (the large variance)",
    1e-9,
)
def gaussian_decoder() -> Iterator[Case]:
    """Log densities, against Bayes' rule with the densities of prior, noise and marginal."""
    data = Gaussian(torch.zeros(1).double(), number(0.6).reshape(1, 1))
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    for name, level in each_scaling(-1.0, 4.0):
        z = level.alpha * x + 0.3 * level.sigma
        noising = Gaussian(torch.zeros(1).double(), (level.sigma**2).reshape(1, 1)).log_prob(
            z - level.alpha * x
        )
        expected = data.log_prob(x) + noising - data.log_prob(z, level)
        yield Case(name, gaussian(0.6)(data.denoise, x, z, level), expected)


@law(
    "Bits a dimension",
    "bits/dim = −log p / (D log 2): 8 for 256 equally likely values",
    "Theis et al. 2016, arXiv:1511.01844, section 3.1",
    1e-6,
)
def bits() -> Iterator[Case]:
    """A categorical decoder that sees nothing but noise, on images of random values."""
    pixels = torch.randint(0, 256, (4, 3, 5), generator=dice(3)).double() / 127.5 - 1
    level = at(-30.0)
    nats = -categorical()(UNIT.denoise, pixels, level.sigma * pixels, level)
    yield Case("256 values", to_bits(nats, 15), 8.0)


@law(
    "The entropy is all the error there is",
    "H(x) = ½ ∫_0^∞ E|x − E[x | z]|² dSNR for discrete data",
    "Guo, Shamai and Verdú 2005, IEEE Trans. Inf. Theory 51; VDM, arXiv:2107.00630, eq. 18",
    1e-6,
)
def discrete_entropy() -> Iterator[Case]:
    """Least errors of four values by quadrature over z and log-SNR, against the entropy of their choice."""
    log_snr, w = legendre(-18.0, 9.0, 160)
    errors = []
    for one in log_snr:
        level = SCALINGS["vp"](one)
        z, v = around(level)
        errors.append((v * ATOMS.log_prob(z, level).exp()) @ ATOMS.posterior_cov(z, level)[:, 0, 0])
    yield Case("four values", 0.5 * w @ (log_snr.exp() * torch.stack(errors)), ATOMS.choice)


@law(
    "The hybrid objective",
    "∇L_hybrid = ∇L_simple + λ ∇L_vlb, with no gradient of L_vlb to the mean",
    "Improved DDPM, arXiv:2102.09672, eq. 16",
    1e-6,
)
def hybrid() -> Iterator[Case]:
    """Gradients to the prediction and to its variance by autograd, against those of either loss alone."""
    chain = CHAINS["cosine, T = 50"]
    decoder = gaussian()
    t = number(0.31, 0.91)

    def gradients(objective: object) -> tuple[Tensor, Tensor]:
        x = (0.5 * X).requires_grad_()
        frac = torch.full_like(X, 0.4).requires_grad_()
        with torch.enable_grad():
            loss = objective(lambda z, level: Prediction(x, frac), X, chain, t, simple, fixed(EPS)).loss.sum()  # pyright: ignore[reportCallIssue]
            first, second = torch.autograd.grad(loss, [x, frac])
        return first, second

    for scale in (0.001, 0.5):
        mean, spread = gradients(Hybrid(scale, decoder))
        _, vlb = gradients(ChainBound(decoder))
        level = chain(t).view(2)
        by_hand = -2 * level.log_snr.exp() * (X - 0.5 * X) / 3
        yield Case(f"mean, λ = {scale:g}", mean, by_hand)
        yield Case(f"variance, λ = {scale:g}", spread, scale * vlb)
