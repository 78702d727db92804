"""The ground: bounds on a likelihood, divergences of Gaussians, what noise does to a density."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from phin.diffusion.level import Level, ve, vp
from phin.diffusion.schedules import Discrete, Linear, Schedule
from phin.oracle import Gaussian, Mixture

from .instruments import (
    CONTINUOUS,
    GAUSSIAN,
    LINE,
    PLANE,
    STANDARD,
    around,
    at,
    derivative,
    dice,
    divergence,
    each_scaling,
    jacobian,
    legendre,
    line,
    mean_of,
    normal,
    number,
    plane,
)
from .law import Case, Unit, law

GUESS = Gaussian(number(0.2).reshape(1), number(0.5).reshape(1, 1))
"""A q(x) that is not the posterior."""
NEAR, FAR = (
    Gaussian(number(0.1, 0.4), number(0.9, -0.2, -0.2, 0.5).reshape(2, 2)),
    Gaussian(number(-0.7, 0.6), number(0.4, 0.1, 0.1, 1.3).reshape(2, 2)),
)


def noising(z: Tensor, x: Tensor, level: Level) -> Tensor:
    """log q(z | x) = log N(z; alpha x, sigma²), on the line: written out, and not the oracle's."""
    off = (z - level.alpha * x) / level.sigma
    return (-0.5 * off**2 - torch.log(level.sigma) - 0.5 * math.log(2 * math.pi)).squeeze(-1)


@law(
    "The evidence",
    "log p(z) = E_q[log p(x, z) − log q(x)] + KL(q(x) ‖ p(x | z))",
    "Kingma and Welling 2013, arXiv:1312.6114, eq. 1",
    1e-10,
)
def evidence() -> Iterator[Case]:
    """ELBO and KL of a q that is not the posterior, each by quadrature, against the marginal density."""
    x, w = line(-9, 9)
    q = GUESS.log_prob(x)
    for name, level in each_scaling(0.5):
        for z in (-1.0, 0.3, 1.4):
            posterior = LINE.posterior(number(z).reshape(1), level)
            joint = LINE.log_prob(x) + noising(number(z).reshape(1), x, level)
            elbo = w @ (q.exp() * (joint - q))
            kl = w @ (q.exp() * (q - posterior.log_prob(x)))
            yield Case(f"{name}, z = {z}", elbo + kl, LINE.log_prob(number(z).reshape(1), level))


@law(
    "Jensen's gap",
    "log E_q[w] − E_q[log w] = KL(q(x) ‖ p(x | z)),  w = p(x, z) / q(x)",
    "Burda et al. 2015, arXiv:1509.00519",
    1e-9,
)
def jensen() -> Iterator[Case]:
    """The gap of the logarithm by quadrature, against the closed form for Gaussians."""
    prior = Gaussian(number(0.3).reshape(1), number(0.8).reshape(1, 1))
    x, p = normal(80)
    x = GUESS.mean + GUESS.cov.sqrt() * x
    for name, level in each_scaling(-0.5, 0.5):
        z = number(0.7).reshape(1)
        log_w = prior.log_prob(x) + noising(z, x, level) - GUESS.log_prob(x)
        gap = (log_w.exp() @ p).log() - log_w @ p
        yield Case(name, gap, GUESS.kl(prior.posterior(z, level)))


@law(
    "KL of two Gaussians",
    "KL = ½ (tr C'⁻¹C + δᵀC'⁻¹δ − D + log det C' / det C)",
    "DDPM, arXiv:2006.11239, eq. 5 (its terms are all of this form)",
    1e-10,
)
def kl_gaussians() -> Iterator[Case]:
    """Closed form against quadrature over the plane, in both directions."""
    x, w = plane(12, 241)
    for name, p, q in [("near ‖ far", NEAR, FAR), ("far ‖ near", FAR, NEAR), ("‖ N(0, I)", NEAR, STANDARD)]:
        yield Case(name, w @ (p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))), p.kl(q))


@law(
    "KL is not symmetric",
    "KL(p ‖ q) − KL(q ‖ p) = ∫ (p + q) (log p − log q)",
    "Kullback and Leibler 1951, Ann. Math. Stat. 22",
    1e-10,
)
def asymmetry() -> Iterator[Case]:
    """The difference of two closed forms, of opposite signs by choice, against one integral."""
    x, w = plane(12, 241)
    for name, p, q in [("near, far", NEAR, FAR), ("correlated, N(0, I)", GAUSSIAN, STANDARD)]:
        a, b = p.log_prob(x), q.log_prob(x)
        yield Case(name, p.kl(q) - q.kl(p), w @ ((a.exp() + b.exp()) * (a - b)))


@law(
    "KL is least at equality",
    "KL(p ‖ p shifted by δ) = ½ δ² E[(∇ log p)²] + O(δ³) ≥ 0",
    "Kullback and Leibler 1951, Ann. Math. Stat. 22 (Fisher's information)",
    1e-4,
)
def least() -> Iterator[Case]:
    """A mixture against itself a little way off, by quadrature, and its Fisher information by the score."""
    delta = 1e-4
    for name, level in each_scaling(-1.0, 2.0):
        x, w = around(level)
        p = LINE.log_prob(x, level)
        information = w @ (p.exp() * LINE.score(x, level)[:, 0] ** 2)
        for shift in (-delta, delta):
            kl = w @ (p.exp() * (p - LINE.log_prob(x - shift, level)))
            yield Case(f"{name}, δ = {shift:g}", kl / delta**2, information / 2)


@law(
    "Entropy of a Gaussian",
    "H = ½ log det(2πe C)",
    "Shannon 1948, section 20",
    1e-10,
)
def entropy() -> Iterator[Case]:
    """Closed form against −∫ p log p over the plane."""
    x, w = plane(12, 241)
    for name, p in [("near", NEAR), ("far", FAR), ("correlated", GAUSSIAN)]:
        yield Case(name, p.entropy, -w @ (p.log_prob(x).exp() * p.log_prob(x)))


@law(
    "Noising is a convolution",
    "q(z) = ∫ p(x) N(z; αx, σ²) dx",
    "VDM, arXiv:2107.00630, eq. 1",
    1e-10,
)
def convolution() -> Iterator[Case]:
    """The density of the noisy mixture in closed form, against quadrature over the clean one."""
    x, w = line(-9, 9, 2001)
    for name, level in each_scaling(-3.0, 0.0, 3.0):
        z, _ = around(level, 3.0, 9)
        joint = (LINE.log_prob(x) + noising(z[:, None], x, level)).exp()
        yield Case(name, joint @ w, LINE.log_prob(z, level).exp())


@law(
    "The undamped walk diverges",
    "x_t = x_{t−1} + ε  ⇒  Var x_T = Var x_0 + T",
    "DDPM, arXiv:2006.11239, eq. 2 without its factor √(1 − β)",
    4.5,
    Unit.DEVIATIONS,
)
def undamped() -> Iterator[Case]:
    """Twenty thousand walks, step by step, against the VE level σ² = T of the exact mixture."""
    generator = dice()
    x = LINE.sample(20_000, generator)
    for step in range(1, 101):
        x = x + torch.randn(x.shape, dtype=x.dtype, generator=generator)
        if step in (1, 10, 100):
            exact = LINE.marginal(ve(-number(step).log()))
            found, deviation = mean_of((x - exact.mean) ** 2)
            yield Case(f"T = {step}", found, exact.cov[0, 0], deviation)


@law(
    "A small T leaves x_T far from noise",
    "KL(q(x_T) ‖ N(0, I)) = ½ Σ_i (v_i + ᾱ_T m_i² − 1 − log v_i),  v_i = 1 + ᾱ_T (c_i − 1)",
    "DDPM, arXiv:2006.11239, section 4 (L_T ≈ 0 is why T = 1000)",
    1e-9,
)
def short_chain() -> Iterator[Case]:
    """β from 1e-4 to 0.02 whatever the T, the product of 1 − β taken by hand, against the chain's levels."""
    c, q = torch.linalg.eigh(GAUSSIAN.cov)
    for T in (10, 100, 1000):
        survives = (1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64)).prod()
        m, v = GAUSSIAN.mean @ q, 1 + survives * (c - 1)
        by_hand = 0.5 * (v + survives * m**2 - 1 - v.log()).sum()
        chain = Discrete(Linear(beta_min=1e-4 * T, beta_max=0.02 * T), T)
        yield Case(f"T = {T}", GAUSSIAN.marginal(chain(number(1.0))).kl(STANDARD), by_hand)


@law(
    "The posterior mean",
    "E[x | z] = ∫ x p(x) q(z | x) dx / q(z)",
    "Bayes' rule",
    1e-9,
)
def posterior_mean() -> Iterator[Case]:
    """The exact denoiser against Bayes' rule by quadrature."""
    x, w = line(-9, 9, 2001)
    for name, level in each_scaling(-3.0, 0.0, 3.0):
        z, _ = around(level, 3.0, 9)
        joint = (LINE.log_prob(x) + noising(z[:, None], x, level)).exp() * w
        yield Case(name, joint @ x / joint.sum(1, keepdim=True), LINE.denoise(z, level).x)


@law(
    "Tweedie's formula",
    "E[x | z] = (z + σ² ∇ log q(z)) / α",
    "Robbins 1956; Efron 2011, JASA 106",
    1e-10,
)
def tweedie() -> Iterator[Case]:
    """The exact denoiser against automatic differentiation of the log density."""
    for name, level in each_scaling(-4.0, 0.0, 4.0):
        z = PLANE.marginal(level).sample(50, dice())
        score = derivative(lambda z, level=level: PLANE.log_prob(z, level), z)
        yield Case(name, (z + level.sigma**2 * score) / level.alpha, PLANE.denoise(z, level).x)


@law(
    "Tweedie's formula, second order",
    "Cov[x | z] = σ² / α ∂E[x | z] / ∂z",
    "Efron 2011, JASA 106; Meng et al. 2021, arXiv:2111.04726",
    1e-9,
)
def tweedie_second() -> Iterator[Case]:
    """The posterior covariance in closed form, against the denoiser's Jacobian."""
    for name, level in each_scaling(-4.0, 0.0, 4.0):
        z = PLANE.marginal(level).sample(50, dice())
        found = jacobian(lambda z, level=level: PLANE.denoise(z, level).x, z) * level.sigma**2 / level.alpha
        yield Case(name, found, PLANE.posterior_cov(z, level))


@law(
    "Total variance",
    "Cov x = E[Cov[x | z]] + Cov E[x | z]",
    "law of total variance, at every level",
    1e-9,
)
def total_variance() -> Iterator[Case]:
    """What the denoiser leaves and what it explains, by quadrature, against the variance of the data."""
    for name, level in each_scaling(-4.0, 0.0, 4.0):
        z, w = around(level)
        p = w * LINE.log_prob(z, level).exp()
        left, mean = LINE.posterior_cov(z, level)[:, 0, 0], LINE.denoise(z, level).x[:, 0]
        yield Case(name, p @ left + p @ mean**2 - (p @ mean) ** 2, LINE.cov[0, 0])


@law(
    "Change of variables",
    "log p_t(z_t) = log p_s(z_s) + log |det ∂z_s / ∂z_t|",
    "Rezende and Mohamed 2015, arXiv:1505.05770",
    1e-9,
)
def change_of_variables() -> Iterator[Case]:
    """Densities of a Gaussian at two levels, and the determinant of the flow between them by autograd."""
    for (name, t), (_, s) in zip(each_scaling(-3.0), each_scaling(2.0), strict=True):
        z = GAUSSIAN.marginal(t).sample(50, dice())

        def flow(z: Tensor, t: Level = t, s: Level = s) -> Tensor:
            return GAUSSIAN.flow(z, t, s)

        volume = torch.linalg.slogdet(jacobian(flow, z))[1]
        yield Case(name, GAUSSIAN.log_prob(flow(z), s) + volume, GAUSSIAN.log_prob(z, t))


@law(
    "Instantaneous change of variables",
    "d log p(z(t)) / dt = −div v(z, t) along dz / dt = v",
    "FFJORD, arXiv:1810.01367, eq. 2; Chen et al. 2018, arXiv:1806.07366, theorem 1",
    1e-6,
)
def instantaneous() -> Iterator[Case]:
    """The log density along the exact flow by differences, against the divergence of the ODE's velocity."""
    step = 3e-5
    for name in CONTINUOUS:
        schedule = CONTINUOUS[name]
        for t in (0.3, 0.7):
            here, before, after = (schedule(number(t + d)) for d in (0.0, -step, step))
            z = GAUSSIAN.marginal(here).sample(20, dice())
            there, back = GAUSSIAN.flow(z, here, after), GAUSSIAN.flow(z, here, before)
            change = GAUSSIAN.log_prob(there, after) - GAUSSIAN.log_prob(back, before)

            def velocity(
                z: Tensor, here: Level = here, before: Level = before, after: Level = after
            ) -> Tensor:
                """dz / dt = x̂ dα/dt + ε̂ dσ/dt."""
                x = GAUSSIAN.denoise(z, here).x
                eps = (z - here.alpha * x) / here.sigma
                return (x * (after.alpha - before.alpha) + eps * (after.sigma - before.sigma)) / (2 * step)

            yield Case(f"{name}, t = {t}", change / (2 * step), -divergence(velocity, z))


@law(
    "Information and error",
    "dI(x; z) / dSNR = ½ E|x − E[x | z]|²",
    "Guo, Shamai and Verdú 2005, IEEE Trans. Inf. Theory 51, eq. 1",
    1e-6,
)
def information() -> Iterator[Case]:
    """Mutual information between two levels by quadrature of entropies, against the integral of the least
    squared error over SNR.
    """

    def shared(level: Level) -> Tensor:
        """I(x; z) = H(z) − H(z | x)."""
        z, w = around(level, n=2001)
        p = LINE.log_prob(z, level)
        return -w @ (p.exp() * p) - 0.5 * torch.log(2 * math.pi * math.e * level.sigma**2)

    for name, low, high in [("λ from −4 to 0", -4.0, 0.0), ("λ from 0 to 3", 0.0, 3.0)]:
        log_snr, w = legendre(low, high)
        errors = [least_error(vp(one)) for one in log_snr]
        gained = shared(at(high)) - shared(at(low))
        yield Case(name, gained, 0.5 * w @ (torch.exp(log_snr) * torch.stack(errors)))


def least_error(level: Level) -> Tensor:
    """E|x − E[x | z]|² of the mixture on the line, by quadrature over z."""
    z, w = around(level)
    return (w * LINE.log_prob(z, level).exp()) @ LINE.posterior_cov(z, level)[:, 0, 0]


@law(
    "De Bruijn's identity",
    "dH(x + √τ ε) / dτ = ½ E|∇ log p(z)|²",
    "Stam 1959; Cover and Thomas, theorem 17.7.2",
    1e-7,
)
def de_bruijn() -> Iterator[Case]:
    """The entropy of the noisy mixture by quadrature, differentiated automatically, against its score."""

    def spread(tau: Tensor) -> Tensor:
        level = ve(-tau.log())
        z, w = line(-18, 18, 1201)
        p = LINE.log_prob(z, level)
        return -w @ (p.exp() * p)

    for tau in (0.1, 0.5, 2.0):
        level = ve(-number(tau).log())
        z, w = line(-18, 18, 1201)
        fisher = w @ (LINE.log_prob(z, level).exp() * LINE.score(z, level)[:, 0] ** 2)
        yield Case(f"τ = {tau}", derivative(spread, number(tau)), fisher / 2)


@law(
    "Diffusion forgets",
    "d KL(p_t ‖ q_t) / dt = −½ g² E_p|∇ log p_t − ∇ log q_t|²",
    "Song et al. 2021, arXiv:2101.09258, theorem 2 and its proof",
    1e-6,
)
def forgetting() -> Iterator[Case]:
    """KL of two mixtures by quadrature, differentiated through the schedule, against their scores."""
    other = Mixture.of([0.6, 0.4], number(-0.5, 0.8)[:, None], number(0.3, 0.5)[:, None, None])

    for name, schedule in CONTINUOUS.items():
        t = schedule.inverse(number(0.5))
        level = schedule(t)
        z, w = around(level)

        def kl(t: Tensor, z: Tensor = z, w: Tensor = w, schedule: Schedule = schedule) -> Tensor:
            level = schedule(t)
            p, q = LINE.log_prob(z, level), other.log_prob(z, level)
            return w @ (p.exp() * (p - q))

        apart = (LINE.score(z, level) - other.score(z, level))[:, 0] ** 2
        fisher = w @ (LINE.log_prob(z, level).exp() * apart)
        g2 = -(level.sigma**2) * schedule.slope(t)
        yield Case(name, derivative(kl, t), -0.5 * g2 * fisher)
