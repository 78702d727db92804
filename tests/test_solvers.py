"""Solvers, against exact Gaussians and mixtures: what is true of all of them, and of DDPM and DDIM."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from walks import (
    EACH,
    EACH_CONVERGENT,
    GAUSSIAN,
    IN_UNITS_OF_Z,
    PAIRS,
    SOLVER_OF,
    STANDARD,
    affine,
    everywhere,
    law_error,
    level,
    no_noise,
    own,
    stack,
)

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level, Scaling, flow, vp
from phin.diffusion.noise import seeded
from phin.diffusion.schedules import SCHEDULES, Cosine, Flow
from phin.diffusion.solvers import (
    DDIM,
    DEIS,
    Ancestral,
    Churned,
    DPMpp2M,
    Euler,
    Heun,
    Solver,
    evaluations,
    prior,
    sample,
)
from phin.oracle import Gaussian, Mixture

levels_t_s = st.tuples(st.floats(-12, 10), st.floats(0.01, 12), st.sampled_from(list(SCALINGS.values()))).map(
    lambda drawn: (level(drawn[2], drawn[0]), level(drawn[2], drawn[0] + drawn[1]))
)


@pytest.mark.parametrize(
    "solver",
    [solver for solver in SOLVER_OF.values() if not isinstance(solver, IN_UNITS_OF_Z)],
    ids=repr,
)
def test_the_law_does_not_depend_on_the_scaling(solver: Solver) -> None:
    """Nor does a trajectory: with the same noise, every x̂ on the way is the same under all scalings."""
    log_snr = Cosine().levels(12).log_snr
    seen: dict[str, list[Tensor]] = {}
    start = torch.randn(5, 2).double()
    for name, scaling in SCALINGS.items():
        ladder = scaling(log_snr)
        seen[name] = []

        def denoise(z: Tensor, level: Level, seen: list[Tensor] = seen[name]) -> Prediction:
            seen.append(GAUSSIAN.denoise(z, level).x)
            return Prediction(seen[-1])

        first = ladder.at(0)
        x = sample(
            denoise, solver, ladder, torch.hypot(first.alpha, first.sigma) * start, seeded(0, range(5))
        )
        assert torch.equal(x, seen[name][-1])
    for name in SCALINGS:
        torch.testing.assert_close(torch.stack(seen[name]), torch.stack(seen["vp"]), rtol=1e-9, atol=1e-9)


@EACH
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_last_act_is_the_denoisers_answer(solver: Solver, steps: int) -> None:
    """At the last level, so that no solver meets sigma = 0. And `evaluations` counts the calls."""
    calls: list[tuple[Tensor, Level]] = []

    def denoise(z: Tensor, level: Level) -> Prediction:
        calls.append((z, level))
        return Prediction(z * 0.7 + 0.1)

    watched: list[tuple[Tensor, Level]] = []
    levels = Flow().levels(steps)
    x = sample(
        denoise, solver, levels, torch.randn(3, 2).double(), watch=lambda z, level: watched.append((z, level))
    )
    assert len(calls) == evaluations(solver, levels)
    z, last = calls[-1]
    assert last == levels.at(-1)
    assert torch.equal(x, z * 0.7 + 0.1)
    assert [level for _, level in watched] == [levels.at(i) for i in range(steps)]
    assert torch.equal(watched[-1][0], z)


@EACH
def test_one_solver_object_may_serve_two_runs_at_once(solver: Solver) -> None:
    def run(seed: int, levels: Level) -> Iterator[Tensor]:
        noise, memory = seeded(seed, range(4)), None
        z = noise(torch.zeros(4, 2).double())
        for t, s in levels.steps():
            z, memory = solver.step(GAUSSIAN.denoise, z, t, s, noise, memory)
            yield z

    one, two = Cosine().levels(9), Flow().levels(9)
    alone = list(run(0, one)), list(run(1, two))
    interleaved = list(zip(run(0, one), run(1, two), strict=True))
    for i, (first, second) in enumerate(interleaved):
        assert torch.equal(first, alone[0][i])
        assert torch.equal(second, alone[1][i])


@EACH
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_float32_from_the_noisiest_level_on(solver: Solver, schedule: str) -> None:
    """Nothing is divided by nothing: a few long steps in float32 stay float32, and agree with float64."""
    levels = SCHEDULES[schedule]().levels(6)
    z = prior(levels.at(0), torch.zeros(50, 2), seeded(0, range(50)))
    assert z.dtype == torch.float32

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(torch.tanh(z * level.alpha / (level.alpha**2 + level.sigma**2)))

    x = sample(denoise, solver, levels, z, seeded(1, range(50)))
    assert x.dtype == torch.float32
    exact = sample(denoise, solver, levels, z.double(), seeded(1, range(50)))
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "name", [name for name, solver in SOLVER_OF.items() if not isinstance(solver, Heun | DEIS | Churned)]
)
@pytest.mark.parametrize("scaling", [vp, flow])
def test_a_vanishing_alpha_does_no_harm(name: str, scaling: Scaling) -> None:
    """From log-SNR -60, alpha = 1e-13, in float32. (Heun's trapezoid and DEIS's polynomial are of ε̂, and have
    no meaning there.)"""
    levels = Flow(log_snr_min=-60.0, scaling=scaling).levels(10)
    z = torch.randn(50, 2)
    x = sample(lambda z, level: Prediction(torch.tanh(z)), SOLVER_OF[name], levels, z, seeded(0, range(50)))
    exact = sample(
        lambda z, level: Prediction(torch.tanh(z)), SOLVER_OF[name], levels, z.double(), seeded(0, range(50))
    )
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_prior_has_the_marginals_variance(scaling: str) -> None:
    first = SCALINGS[scaling](torch.tensor(-9.0, dtype=torch.float64))
    exact = STANDARD.marginal(first).cov[0, 0].sqrt()
    assert torch.equal(prior(first, torch.zeros(3, 4), torch.ones_like), exact.float().expand(3, 4))
    z = prior(first, torch.zeros(2000, 20), seeded(0, range(2000)))
    assert (z.std() / exact - 1).abs() < 4.5 / (2 * z.numel()) ** 0.5


# --- DDPM


@given(levels_t_s, st.floats(-2, 2), st.floats(-3, 3))
def test_ancestral_draws_from_the_exact_posterior(t_s: tuple[Level, Level], x: float, z: float) -> None:
    """q(z_s | z_t, x), by conditioning N(alpha_s x, sigma_s²) on z_t = a z_s + N(0, v), as a product of two
    Gaussians."""
    t, s = t_s
    z_t = torch.full((1, 1, 1), z, dtype=torch.float64) * t.sigma
    a = t.alpha / s.alpha
    v = t.sigma**2 - a**2 * s.sigma**2
    precision = 1 / s.sigma**2 + a**2 / v
    mean = (s.alpha * x / s.sigma**2 + a * z_t / v) / precision
    ladder = Level(*(torch.stack(pair) for pair in zip(t, s, strict=True)))
    ladder = Level(*(field.view(-1, 1, 1, 1) for field in ladder))
    moved = affine(lambda z, level: Prediction(torch.full_like(z, x)), Ancestral(0.0), ladder, z_t)
    torch.testing.assert_close(moved.value[0] / s.sigma, mean[0] / s.sigma, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        moved.noises[0].square().squeeze() * precision, torch.ones(()).double(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("steps", [2, 3, 10])
def test_large_variance_is_exact_for_standard_normal_data_and_small_for_a_point(steps: int) -> None:
    """At any number of steps, under any schedule and scaling."""
    point = Gaussian(torch.tensor([0.7, -1.2]).double(), 1e-30 * torch.eye(2).double())
    ladders = everywhere(own(steps))
    assert law_error(Ancestral(1.0), ladders, data=STANDARD).max() < 1e-12
    assert law_error(Ancestral(0.0), ladders, data=point).max() < 1e-9
    assert law_error(Ancestral(0.0), ladders, data=STANDARD).min() > 1e-3  # not exact the other way round


@given(levels_t_s)
def test_a_learned_fraction_interpolates_the_log_variance_element_by_element(
    t_s: tuple[Level, Level],
) -> None:
    t, s = t_s
    frac = torch.linspace(0, 1, 6, dtype=torch.float64).view(2, 3)

    def spread(solver: Ancestral, frac: Tensor | None) -> Tensor:
        z, _ = solver.step(
            lambda z, level: Prediction(torch.zeros_like(z), frac),
            torch.zeros(2, 3).double(),
            t,
            s,
            torch.ones_like,
            None,
        )
        return z.log()

    small, large = spread(Ancestral(0.0), None), spread(Ancestral(1.0), None)
    assert (large > small).all()
    torch.testing.assert_close(
        spread(Ancestral(0.3), frac), (1 - frac) * small + frac * large, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(spread(Ancestral(0.3), None), 0.7 * small + 0.3 * large, rtol=1e-9, atol=1e-9)


def test_ddpms_betas() -> None:
    """In DDPM's own notation: mean = (z - beta / sqrt(1 - alpha_bar) eps) / sqrt(1 - beta), variance beta or
    beta-tilde."""
    chain = SCHEDULES["discrete"]()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    ladder = chain.levels(1000)
    for i in (1, 2, 10, 500, 999):  # index of t in the table; s is i - 1
        t, s = ladder.at(999 - i), ladder.at(1000 - i)
        z, eps = torch.randn(2, 3, 2).double()
        x = (z - (1 - alpha_bar[i]).sqrt() * eps) / alpha_bar[i].sqrt()
        mean = (z - betas[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
        tilde = (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * betas[i]
        for frac, variance in ((0.0, tilde), (1.0, betas[i])):
            with_noise, _ = Ancestral(frac).step(
                lambda z, level, x=x: Prediction(x), z, t, s, torch.ones_like, None
            )
            torch.testing.assert_close(with_noise, mean + variance.sqrt(), rtol=1e-9, atol=1e-9)


# --- DDIM


@given(levels_t_s)
def test_ddim_at_eta_1_is_ancestral_and_at_eta_0_euler(t_s: tuple[Level, Level]) -> None:
    t, s = t_s
    z, noise = torch.randn(2, 4, 2).double()
    z = z * torch.hypot(t.alpha, t.sigma)
    scale = torch.hypot(s.alpha, s.sigma)
    for one, other in ((DDIM(1.0), Ancestral(0.0)), (DDIM(0.0), Euler()), (DDIM(0.0), DPMpp2M())):
        ours, _ = one.step(GAUSSIAN.denoise, z, t, s, lambda like: noise, None)
        theirs, _ = other.step(GAUSSIAN.denoise, z, t, s, lambda like: noise, None)
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginals_of_a_point(eta: float) -> None:
    """q(z_s | x) = N(alpha_s x, sigma_s²) at any number of steps: what defines the family (Song et al., lemma
    1)."""
    x = torch.tensor([0.7, -1.2]).double()
    ladder = everywhere(own(5))
    t, s = ladder.at(0), ladder.at(-1)
    moved = affine(lambda z, level: Prediction(x.expand_as(z)), DDIM(eta), ladder, t.alpha * x)
    eye = torch.eye(2).double()
    torch.testing.assert_close(moved.value[0], (s.alpha * x)[:, 0], rtol=1e-9, atol=1e-9)
    left = moved.cov(t.sigma**2 * eye)[0] / s.sigma**2
    torch.testing.assert_close(left, eye.expand(len(PAIRS), 2, 2), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_is_between_0_and_1(eta: float) -> None:
    with pytest.raises(ValueError, match=f"eta = {eta}"):
        DDIM(eta)


# --- against formulas written elsewise


def test_heun_is_edms_algorithm() -> None:
    """Algorithm 1 of Karras et al. without churn, in their units: y = z / alpha, sigma = sigma / alpha."""
    t, s = level(vp, -1.0), level(vp, 1.5)
    z = torch.randn(4, 2).double()

    def d(y: Tensor, at: Level) -> Tensor:
        return (y - GAUSSIAN.denoise(y * at.alpha, at).x) / (at.sigma / at.alpha)

    y, step = z / t.alpha, s.sigma / s.alpha - t.sigma / t.alpha
    euler = y + step * d(y, t)
    expected = y + step * (d(y, t) + d(euler, s)) / 2
    torch.testing.assert_close(Heun().step(GAUSSIAN.denoise, z, t, s, no_noise, None)[0], expected * s.alpha)


def test_dpmpp_2m_extrapolates_to_the_middle_of_the_step() -> None:
    """In lambda = log_snr / 2, through the last two predictions, whatever the sizes of the steps."""
    ladder = vp(torch.tensor([-2.0, -0.5, 0.3, 2.0]).double())
    a, b = torch.tensor(0.7).double(), torch.tensor(-0.4).double()

    def linear(z: Tensor, level: Level) -> Prediction:
        return Prediction((a + b * level.log_snr / 2).expand_as(z))

    z = torch.randn(4, 2).double()
    memory = None
    for i, (t, s) in enumerate(ladder.steps()):
        h = (s.log_snr - t.log_snr) / 2
        middle = a + b * (t.log_snr / 2 + h / 2 if i else t.log_snr / 2)
        expected = s.sigma / t.sigma * z + s.alpha * (1 - torch.exp(-h)) * middle
        z, memory = DPMpp2M().step(linear, z, t, s, no_noise, memory)
        torch.testing.assert_close(z, expected)


# --- the whole of it


@EACH_CONVERGENT
def test_a_mixture_is_sampled(solver: Solver) -> None:
    """Mean, covariance and the weights of the parts, within 4.5 Monte Carlo errors and the bias of 250 steps
    (2 %)."""
    data = Mixture.of(
        [0.5, 0.3, 0.2],
        torch.tensor([[0.9, -0.5], [-1.0, 0.8], [-0.9, -0.9]]).double(),
        torch.tensor(
            [[[0.2, 0.1], [0.1, 0.1]], [[0.1, 0.0], [0.0, 0.2]], [[0.05, 0.0], [0.0, 0.05]]]
        ).double(),
    )
    n = 4000
    levels = Cosine().levels(250)
    z = prior(levels.at(0), torch.zeros(n, 2).double())
    x = sample(data.denoise, solver, levels, z)
    off = x - data.mean
    outer = off.unsqueeze(-1) * off.unsqueeze(-2)
    share = data.class_log_prob(x).exp()
    bias = 0.02 * data.cov.amax()
    assert (off.mean(0).abs() < 4.5 * off.std(0) / n**0.5 + bias).all()
    assert ((outer.mean(0) - data.cov).abs() < 4.5 * outer.std(0) / n**0.5 + bias).all()
    assert ((share.mean(0) - data.weights).abs() < 4.5 * share.std(0) / n**0.5 + 0.005).all()
    log_prob, truth = data.log_prob(x), data.log_prob(data.sample(n))  # no stragglers between the parts
    spread = math.hypot(log_prob.std(), truth.std())
    assert (log_prob.mean() - truth.mean()).abs() < 4.5 * spread / n**0.5 + 0.02


@EACH_CONVERGENT
def test_a_gaussian_is_sampled(solver: Solver) -> None:
    """The exact law of what `sample` returns, the last x̂: within 3 % of the data's after 300 steps."""
    ladder = stack([Cosine().levels(300).log_snr, Flow().levels(300).log_snr], [vp, flow])
    t = ladder.at(0)
    moved = affine(
        GAUSSIAN.denoise, solver, ladder, t.alpha * GAUSSIAN.mean, drive=lambda *walk: [sample(*walk)]
    )
    cov = moved.cov(t.alpha**2 * GAUSSIAN.cov + t.sigma**2 * torch.eye(2).double())[0]
    torch.testing.assert_close(cov, GAUSSIAN.cov.expand(2, 2, 2), rtol=0, atol=0.03)
    atol = 0.003 if isinstance(solver, IN_UNITS_OF_Z) else 1e-9
    torch.testing.assert_close(moved.value[0], GAUSSIAN.mean.expand(2, 2), rtol=0, atol=atol)
