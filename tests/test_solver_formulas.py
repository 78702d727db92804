"""Solvers against formulas written elsewise: the papers' own, limits, and the exact laws of walks."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from walks import (
    DETERMINISTIC,
    EACH,
    EACH_DETERMINISTIC,
    GAUSSIAN,
    PAIRS,
    SOLVER_OF,
    affine,
    everywhere,
    level,
    no_noise,
    own,
    stack,
    states,
)

from phin.diffusion.denoiser import Denoise, Prediction
from phin.diffusion.level import SCALINGS, Level, Scaling, ve, vp
from phin.diffusion.noise import Noise, seeded
from phin.diffusion.schedules import SCHEDULES, Cosine, Discrete, Flow, Geometric, Linear, LinearSubVP
from phin.diffusion.solvers import (
    DDIM,
    DEIS,
    SOLVERS,
    Ancestral,
    AnnealedLangevin,
    Churned,
    Corrected,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    DPMpp3S,
    EulerMaruyama,
    Heun,
    Langevin,
    ReverseDiffusion,
    SNRLangevin,
    Solver,
    UniPC,
    evaluations,
    remembers,
    sample,
    walk,
)
from phin.diffusion.solvers.exponential import Node, integral
from phin.registry import build

UNEVEN = torch.tensor([-3.0, -2.1, -1.7, -0.4, 0.3, 1.6, 2.0, 3.5, 4.1], dtype=torch.float64)


def close(found: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def once(solver: Solver, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise = no_noise) -> Tensor:
    return solver.step(denoise, z, t, s, noise, None)[0]


def same(one: Solver, other: Solver, levels: Level, exactly: bool = False) -> None:
    """Both make the same walk, with the same noise."""
    z = torch.hypot(levels.alpha[0], levels.sigma[0]) * torch.randn(4, 2).double()
    walks = [states(GAUSSIAN.denoise, solver, levels, z, seeded(1, range(4))) for solver in (one, other)]
    if exactly:
        assert torch.equal(torch.stack(walks[0]), torch.stack(walks[1]))
    close(torch.stack(walks[0]), torch.stack(walks[1]))


# --- exponential integrators and multistep methods


def gauss_legendre(f: Callable[[Tensor], Tensor], a: float, b: float) -> Tensor:
    nodes, weights = (torch.from_numpy(y) for y in np.polynomial.legendre.leggauss(40))
    return (f((b - a) / 2 * nodes + (a + b) / 2) * weights).sum() * (b - a) / 2


@EACH_DETERMINISTIC
def test_a_constant_prediction_is_carried_exactly(solver: Solver) -> None:
    """x̂ = x for good: z_s = alpha_s x + sigma_s eps, in one step as in seven, whatever is remembered."""
    ladder = everywhere(own(8))
    t, s = ladder.at(0), ladder.at(-1)
    x, eps = torch.randn(2, 1, 3, 2).double()
    z = states(
        lambda z, level: Prediction(x.expand_as(z)), solver, ladder, t.alpha * x + t.sigma * eps, no_noise
    )
    unit = torch.hypot(s.alpha, s.sigma)
    close(z[-1] / unit, (s.alpha * x + s.sigma * eps) / unit)


@pytest.mark.parametrize(
    ("solver", "degree", "warm"),
    [(DPMpp3S(), 1, 0), (DPMpp3M(), 2, 2), (DPMpp3M(starter=False), 2, 2)],
    ids=repr,
)
def test_a_polynomial_prediction_is_integrated_exactly(solver: Solver, degree: int, warm: int) -> None:
    """In lambda, of any degree that the nodes determine, by quadrature; one degree more is not."""
    for power, exact in ((degree, True), (degree + 1, False)):
        ladder = vp(UNEVEN)

        def x(at: Tensor, power: int = power) -> Tensor:
            return 0.3 + (at - 0.2) ** power

        z = states(
            lambda z, level, x=x: Prediction(x(level.log_snr / 2).expand_as(z)),
            solver,
            ladder,
            torch.randn(2, 3).double(),
            no_noise,
        )
        for i, (t, s) in enumerate(ladder.steps()):
            if i >= warm:
                a, b = (at.log_snr.item() / 2 for at in (t, s))
                gained = gauss_legendre(lambda u, b=b, x=x: torch.exp(u - b) * x(u), a, b)
                expected = s.sigma / t.sigma * z[i] + s.alpha * gained
                assert torch.allclose(z[i + 1], expected, rtol=1e-9, atol=1e-10) is exact


@pytest.mark.parametrize("starter", [True, False])
def test_deis_integrates_cubics_of_the_noise_exactly(starter: bool) -> None:
    """With four values in hand: dy = ε̂ d rho, y = z / alpha, rho = sigma / alpha, ε̂ a cubic in log rho."""
    ladder = vp(UNEVEN)

    def eps(log_rho: Tensor) -> Tensor:
        return 0.7 - 0.4 * log_rho + 0.1 * log_rho**3

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction((z - level.sigma * eps(-level.log_snr / 2)) / level.alpha)

    z = states(denoise, DEIS(starter), ladder, torch.randn(2, 3).double(), no_noise)
    for i, (t, s) in enumerate(ladder.steps()):
        if i >= 3:
            a, b = (-at.log_snr.item() / 2 for at in (t, s))
            gained = gauss_legendre(lambda u: eps(u) * torch.exp(u), a, b)
            close(z[i + 1] / s.alpha, z[i] / t.alpha + gained)


def test_for_small_equal_steps_the_weights_are_those_of_adams_and_bashforth() -> None:
    """(55, -59, 37, -9) / 24, which PNDM and iPNDM use at any step."""
    h = torch.tensor(1e-3, dtype=torch.float64)
    one_hot = torch.eye(4).double()
    nodes = [Node(-k * h, one_hot[k]) for k in range(4)]
    expected = torch.tensor([55, -59, 37, -9]).double() / 24
    close(integral(nodes, 0 * h, h) / h, expected, rtol=5e-3, atol=0)


def test_dpmpp_3m_in_the_papers_notation() -> None:
    """phi functions and divided differences, over a ladder of uneven steps. d2 is h²/2 x̂'', which the exact
    integral has twice; the code that is about takes it once, and comes to order 2."""
    ladder = vp(UNEVEN)
    at = (UNEVEN / 2).tolist()
    z = torch.randn(4, 2).double()
    ours = states(GAUSSIAN.denoise, DPMpp3M(starter=False), ladder, z, no_noise)
    for i in range(2, len(at) - 1):
        t, s = ladder.at(i), ladder.at(i + 1)
        x0, x1, x2 = (GAUSSIAN.denoise(ours[i - k], ladder.at(i - k)).x for k in range(3))
        h, h0, h1 = at[i + 1] - at[i], at[i] - at[i - 1], at[i - 1] - at[i - 2]
        r0, r1 = h0 / h, h1 / h
        first, second = (x0 - x1) / r0, (x1 - x2) / r1
        d1 = first + r0 / (r0 + r1) * (first - second)
        d2 = (first - second) / (r0 + r1)
        phi1 = math.expm1(-h)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        expected = s.sigma / t.sigma * ours[i] + s.alpha * (-phi1 * x0 + phi2 * d1 - 2 * phi3 * d2)
        close(ours[i + 1], expected)


def unipc(p: int, b: int, levels: Level, z: Tensor) -> Tensor:
    """UniPC in the paper's notation (algorithms 1, 2 and eq. 9): the predicted state at the last level.

    Its a_p solve R_p(h) a B(h) = phi_p(h), by numpy.
    """
    at = (levels.log_snr / 2).tolist()
    found = [GAUSSIAN.denoise(z, levels.at(0)).x]
    for i in range(1, len(at)):
        t, s = levels.at(i - 1), levels.at(i)
        order, h = min(p, i), at[i] - at[i - 1]
        big = -h if b == 1 else math.expm1(-h)
        ratios = [(at[i - 1 - m] - at[i - 1]) / h for m in range(1, order)] + [1.0]
        differences = [(found[i - 1 - m] - found[i - 1]) / ratios[m - 1] for m in range(1, order)]
        rows, right, phi, factorial = [], [], math.expm1(-h) / -h - 1, 1
        for k in range(1, order + 1):
            rows.append([r ** (k - 1) for r in ratios])
            right.append(phi * factorial / big)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        held = s.sigma / t.sigma * z - s.alpha * math.expm1(-h) * found[-1]
        if order == 1:
            predicted, weights = held, [0.5]
        else:
            short = [0.5] if order == 2 else np.linalg.solve(np.array(rows)[:-1, :-1], right[:-1]).tolist()
            predicted = held - s.alpha * big * sum(w * d for w, d in zip(short, differences, strict=True))
            weights = np.linalg.solve(np.array(rows), right).tolist()
        if i == len(at) - 1:
            return predicted
        found.append(GAUSSIAN.denoise(predicted, s).x)
        differences.append(found[-1] - found[-2])
        z = held - s.alpha * big * sum(w * d for w, d in zip(weights, differences, strict=True))
    raise AssertionError


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("scaling", [vp, ve])
def test_unipc_in_the_papers_notation(p: int, b: int, scaling: Scaling) -> None:
    for n in range(2, len(UNEVEN) + 1):
        ladder = scaling(UNEVEN[:n])
        z = torch.randn(4, 2).double() * torch.hypot(ladder.alpha[0], ladder.sigma[0])
        ours = states(GAUSSIAN.denoise, UniPC(p, b, starter=False), ladder, z, no_noise)[-1]
        close(ours, unipc(p, b, ladder, z))


def test_unipcs_predictors_are_ddim_dpmpp_2m_and_dpmpp_3m() -> None:
    """Where x̂ is given, and no state has a say in it, nothing but the corrector tells them apart. So the
    predictor is seen in the last step, less the correction of the state that it started from."""
    ladder = vp(UNEVEN)

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(torch.sin(level.log_snr).expand_as(z))

    def last_step(solver: Solver) -> Tensor:
        memory: Any = None
        z = before = torch.ones(1, 1).double()
        for t, s in ladder.steps():
            before = z
            z, memory = solver.step(denoise, z, t, s, no_noise, memory)
        t, s = ladder.at(-2), ladder.at(-1)
        start = memory.z if isinstance(solver, UniPC) else before
        return z - s.sigma / t.sigma * start

    for p, other in ((1, DDIM()), (2, DPMpp2M()), (3, DPMpp3M())):
        close(last_step(UniPC(p)), last_step(other))


def test_b_of_h_matters_to_two_values_only() -> None:
    z = torch.randn(4, 2).double()

    def walk(p: int, b: int) -> list[Tensor]:
        return states(GAUSSIAN.denoise, UniPC(p, b), vp(UNEVEN), z, no_noise)

    assert not torch.allclose(walk(2, 1)[3], walk(2, 2)[3], rtol=1e-4)
    assert torch.equal(walk(3, 1)[1], walk(3, 2)[1])  # the starter's step


# --- DDPM and DDIM as in their tables


def test_ddims_sigma_hat() -> None:
    """eta = 1 in the direction, but noise of sigma-hat = sqrt(1 - alpha_bar_t / alpha_bar_s) (Song et al.,
    2021, DDIM, section 5), on every ninth level of DDPM's chain."""
    chain = SCHEDULES["discrete"]()
    ladder = chain.levels(112)
    alpha_bar = ladder.alpha**2
    for i in (0, 50, 110):
        t, s = ladder.at(i), ladder.at(i + 1)
        z, fresh = torch.randn(2, 3, 2).double()
        x = GAUSSIAN.denoise(z, t).x
        eps = (z - t.alpha * x) / t.sigma
        variance = (1 - alpha_bar[i + 1]) / (1 - alpha_bar[i]) * (1 - alpha_bar[i] / alpha_bar[i + 1])
        hat = (1 - alpha_bar[i] / alpha_bar[i + 1]).sqrt()
        expected = s.alpha * x + (1 - alpha_bar[i + 1] - variance).sqrt() * eps + hat * fresh
        close(once(SOLVERS["ddim_hat"](), GAUSSIAN.denoise, z, t, s, lambda like, y=fresh: y), expected)


def test_a_learned_variance_is_rescaled_for_strided_sampling() -> None:
    """Improved DDPM, eq. 19: beta and beta-tilde of the short chain, for the same learned share."""
    chain = Discrete(Cosine(), T=1000)
    steps = 38  # rungs 27 apart
    ladder = chain.levels(steps)
    kept = torch.linspace(1000, 1, steps).round().long() - 1
    alpha_bar = chain.alpha_bar[kept]
    frac = torch.rand(3, 2).double()
    for i in (0, 20, 36):
        beta = 1 - alpha_bar[i] / alpha_bar[i + 1]
        tilde = (1 - alpha_bar[i + 1]) / (1 - alpha_bar[i]) * beta
        variance = torch.exp(frac * beta.log() + (1 - frac) * tilde.log())
        z = torch.randn(3, 2).double()

        def denoise(z: Tensor, level: Level) -> Prediction:
            return Prediction(torch.tanh(z), frac)

        t, s = ladder.at(i), ladder.at(i + 1)
        spread = once(Ancestral(), denoise, z, t, s, torch.ones_like) - once(Ancestral(), denoise, z, t, s)
        close(spread**2, variance, rtol=1e-8)


# --- the reverse SDE


SONG = {
    "vp": (Linear(), lambda t, beta, B: -beta / 2, lambda t, beta, B: beta),
    "subvp": (LinearSubVP(), lambda t, beta, B: -beta / 2, lambda t, beta, B: beta * (1 - torch.exp(-2 * B))),
    "ve": (
        Geometric(sigma_min=0.01, sigma_max=50.0),
        lambda t, beta, B: 0 * t,
        lambda t, beta, B: (0.01 * 5000**t) ** 2 * 2 * math.log(5000),
    ),
}
"""Song et al. (2021, arXiv:2011.13456), eq. 30-33: f / z and g² at a time t; beta = 0.1 + 19.9 t, B its
integral."""


@pytest.mark.parametrize("process", SONG)
@pytest.mark.parametrize("solver", [EulerMaruyama(), ReverseDiffusion()], ids=repr)
def test_the_reverse_sdes_of_the_score_paper(process: str, solver: Solver) -> None:
    """Drift f - g² score and diffusion g², as the step in the paper's time tends to 0."""
    schedule, f, g2 = SONG[process]
    for now in (0.2, 0.5, 0.9):
        off: list[float] = []
        for dt in (2e-4, 1e-4):
            u = torch.tensor([now, now - dt], dtype=torch.float64)
            if process == "ve":
                levels = ve(-2 * torch.log(0.01 * 5000**u))
            else:
                levels = schedule.scaling(schedule.curve(u))
            t, s = levels.at(0), levels.at(1)
            time, B = u[0], 0.1 * u[0] + 19.9 / 2 * u[0] ** 2
            beta = 0.1 + 19.9 * time
            z = torch.hypot(t.alpha, t.sigma) * seeded(0, range(4))(torch.empty(4, 2).double())
            drift = f(time, beta, B) * z - g2(time, beta, B) * GAUSSIAN.score(z, t)
            still = once(solver, GAUSSIAN.denoise, z, t, s)
            spread = once(solver, GAUSSIAN.denoise, z, t, s, torch.ones_like) - still
            wrong = ((still - z) / dt + drift).abs().max() / drift.abs().max()
            uneven = (spread**2 / dt / g2(time, beta, B) - 1).abs().max()
            off.append((wrong + uneven).item())
        if (process, solver) == ("ve", EulerMaruyama()):  # log sigma is linear in time: the same step
            assert max(off) < 1e-10
        else:
            assert off[1] < 5e-3
            assert 1.9 < off[0] / off[1] < 2.1


def test_reverse_diffusion_is_the_papers() -> None:
    """Eq. 46 with DDPM's betas, and the VE chain of algorithm 2."""
    ladder = SCHEDULES["discrete"]().levels(1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    z, fresh = torch.randn(2, 4, 2).double()
    for i in (1, 30, 500, 999):  # index of t in the table
        t, s = ladder.at(999 - i), ladder.at(1000 - i)
        score = GAUSSIAN.score(z, t)
        expected = (2 - (1 - betas[i]).sqrt()) * z + betas[i] * score + betas[i].sqrt() * fresh
        close(once(ReverseDiffusion(), GAUSSIAN.denoise, z, t, s, lambda like: fresh), expected)
    for t, s in pairwise(map(ve(UNEVEN).at, range(len(UNEVEN)))):
        g2 = t.sigma**2 - s.sigma**2
        expected = z + g2 * GAUSSIAN.score(z, t) + g2.sqrt() * fresh
        close(once(ReverseDiffusion(), GAUSSIAN.denoise, z, t, s, lambda like: fresh), expected)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_reverse_diffusion_tends_to_euler_maruyama(scaling: str) -> None:
    """Half the step, a quarter of what the drifts differ by, and 1 / 2^1.5 of the noises' difference."""
    z = torch.randn(4, 2).double()
    gaps: list[tuple[float, float]] = []
    for h in (2e-3, 1e-3):
        t, s = (level(SCALINGS[scaling], at) for at in (-0.7, -0.7 + h))
        still, moved = (
            once(EulerMaruyama(), GAUSSIAN.denoise, z, t, s, noise)
            - once(ReverseDiffusion(), GAUSSIAN.denoise, z, t, s, noise)
            for noise in (no_noise, torch.ones_like)
        )
        gaps.append((still.abs().max().item(), (moved - still).abs().max().item()))
    assert gaps[0][0] / gaps[1][0] == pytest.approx(4, rel=0.01)
    assert gaps[0][1] / gaps[1][1] == pytest.approx(2**1.5, rel=0.01)


def test_the_sde_solver_at_eta_0_is_dpmpp_2m_and_its_first_step_at_eta_1_ddpms() -> None:
    same(DPMpp2MSDE(0.0), DPMpp2M(), vp(UNEVEN))
    for scaling in SCALINGS.values():
        same(DPMpp2MSDE(1.0), Ancestral(0.0), scaling(UNEVEN[:2]))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_the_sde_solver_keeps_the_marginals_of_a_point(eta: float) -> None:
    """At any number of steps, and any strength of the noise: all these SDEs have the marginals of the ODE."""
    x = torch.tensor([0.7, -1.2]).double()
    ladder = everywhere(own(5))
    t, s = ladder.at(0), ladder.at(-1)
    moved = affine(lambda z, level: Prediction(x.expand_as(z)), DPMpp2MSDE(eta), ladder, t.alpha * x)
    close(moved.value[0], (s.alpha * x)[:, 0])
    eye = torch.eye(2).double()
    close(moved.cov(t.sigma**2 * eye)[0] / s.sigma**2, eye.expand(len(PAIRS), 2, 2), rtol=1e-8, atol=1e-8)


# --- churn


def edm(
    levels: Level, z: Tensor, noise: Noise, churn: float, low: float, high: float, s_noise: float
) -> Tensor:
    """Algorithm 2 of Karras et al. without its last step to sigma = 0, in their units."""
    sigmas = (levels.sigma / levels.alpha).tolist()
    x = z / levels.alpha[0]

    def d(x: Tensor, sigma: float) -> Tensor:
        at = ve(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        return (x - GAUSSIAN.denoise(x, at).x) / sigma

    for now, then in pairwise(sigmas):
        gamma = min(churn / (len(sigmas) - 1), math.sqrt(2) - 1) if low <= now <= high else 0.0
        up = now + gamma * now
        x = x + math.sqrt(up**2 - now**2) * s_noise * noise(x)
        slope = d(x, up)
        euler = x + (then - up) * slope
        x = x + (then - up) * (slope + d(euler, then)) / 2
    return x * levels.alpha[-1]


@pytest.mark.parametrize(
    ("churn", "low", "high", "s_noise"),
    [(3.0, 0.0, math.inf, 1.0), (2.0, 0.7, 2.5, 1.007), (40.0, 0.05, 50.0, 1.003)],
)
@pytest.mark.parametrize("scaling", [vp, ve])
def test_churn_is_edms_algorithm(
    churn: float, low: float, high: float, s_noise: float, scaling: Scaling
) -> None:
    ladder = scaling(UNEVEN)
    z = torch.randn(4, 2).double() * torch.hypot(ladder.alpha[0], ladder.sigma[0])
    solver = Churned(Heun(), churn, steps=len(UNEVEN) - 1, low=low, high=high, inflate=s_noise)
    ours = states(GAUSSIAN.denoise, solver, ladder, z, seeded(3, range(4)))[-1]
    close(ours, edm(ladder, z, seeded(3, range(4)), churn, low, high, s_noise))


SINGLE_STEP = {name: solver for name, solver in DETERMINISTIC.items() if not remembers(solver)}


@pytest.mark.parametrize("solver", SINGLE_STEP.values(), ids=SINGLE_STEP)
def test_no_churn_is_the_solver_itself(solver: Solver) -> None:
    same(Churned(solver, 0.0), solver, vp(UNEVEN), exactly=True)
    out_of_reach = Churned(solver, 5.0, low=1e9, high=1e10)
    same(out_of_reach, solver, vp(UNEVEN))


def test_churn_without_a_number_of_steps_goes_by_the_steps_size() -> None:
    """On equal steps of h in lambda, churn = S_churn / (N h) is EDM's."""
    ladder = vp(torch.linspace(-3, 3, 13, dtype=torch.float64))
    same(Churned(Heun(), 0.6), Churned(Heun(), 0.6 * 0.25 * 12, steps=12), ladder)


def test_multistep_solvers_are_told_apart() -> None:
    assert {name for name, solver in SOLVER_OF.items() if remembers(solver)} == {
        *("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_2m_sde(0.5)", "deis"),
        *("unipc(1)", "unipc_2", "unipc_2(b=1)", "unipc_3"),
    }


# --- Langevin dynamics


@dataclass(frozen=True)
class _Push:
    """Moves every state by as much."""

    by: float
    order = 1

    def correct(self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
        return z + self.by


@pytest.mark.parametrize(
    "solver",
    [DDIM(), DPMpp2M(), DPMpp3M(), DPMpp2MSDE(0.0), *(UniPC(p, starter=False) for p in (1, 2, 3)), UniPC(3)],
)
def test_what_a_corrector_did_is_kept(solver: Solver) -> None:
    """Where x̂ = 0, z / sigma stands still but for what the corrector adds at each level."""
    ladder = vp(UNEVEN)
    z = torch.ones(1, 2).double()
    moved = walk(lambda z, level: Prediction(0 * z), Corrected(solver, _Push(0.25)), ladder, z, no_noise)
    close(moved / ladder.sigma[-1], z / ladder.sigma[0] + (0.25 / ladder.sigma[1:]).sum())


def walk_at(corrector: Langevin | SNRLangevin, z: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
    return Corrected(_Stay(), corrector).step(GAUSSIAN.denoise, z, t, s, noise, None)[0]


class _Stay:
    """Moves nothing, so that the corrector is seen alone."""

    order = 4

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        return z, None


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("steps", [1, 3, 4000])
def test_a_walk_of_fixed_steps_has_its_exact_bias(scaling: str, steps: int) -> None:
    """Its map is z -> m + (1 - size / v)(z - m) + sqrt(2 size) noise, so its variance goes from where it was
    to v / (1 - size / (2 v)), geometrically: on each axis of the marginal, of variance v."""
    t, s = (level(SCALINGS[scaling], at) for at in (-1.0, -0.6))
    size = 0.7 * 0.2 * s.sigma**2
    marginal = GAUSSIAN.marginal(s)
    v, q = torch.linalg.eigh(marginal.cov)
    rest = v / (1 - size / (2 * v))
    start = 2.5 * marginal.cov
    decay = (1 - size / v) ** (2 * steps)
    expected = (q * (rest + decay * (2.5 * v - rest))) @ q.T

    center, cov = marginal.mean + 1, start
    drawn: list[Tensor] = []
    for _ in range(steps if steps < 10 else 1):
        jacobian = torch.autograd.functional.jacobian(
            lambda z: walk_at(Langevin(0.7), z[None], t, s, no_noise)[0], center
        )
        still = walk_at(Langevin(0.7), center[None], t, s, no_noise)[0]
        spread = walk_at(Langevin(0.7), center[None], t, s, torch.ones_like)[0] - still
        drawn.append(spread)
        for _ in range(steps if steps >= 10 else 1):
            cov = jacobian @ cov @ jacobian.T + torch.diag(spread**2)
        center = still
    close(cov, expected, rtol=1e-8)
    close(torch.stack(drawn), (2 * size).sqrt().expand(len(drawn), 2))
    if steps < 10:  # several steps of one corrector are so many of its walks
        several = walk_at(Langevin(0.7, steps), (marginal.mean + 1)[None], t, s, no_noise)[0]
        close(several, center)


def test_songs_step_size() -> None:
    """Algorithm 4, picture by picture: a neighbour in the batch changes nothing."""
    s = level(ve, 0.5)
    z, fresh = torch.randn(2, 3, 2).double()
    ours = walk_at(SNRLangevin(0.16), z, s, s, lambda like: fresh)
    for i in range(3):
        g = GAUSSIAN.score(z[i], s)
        epsilon = 2 * (0.16 * fresh[i].norm() / g.norm()) ** 2
        close(ours[i], z[i] + epsilon * g + (2 * epsilon).sqrt() * fresh[i])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_songs_corrector_inflates_the_variance_by_snr_squared(scaling: str) -> None:
    """Of many dimensions of variance v the score's norm is known: the step is 2 snr² v² / var, var the
    variance now, which settles where var = v (1 + snr²)."""
    s, snr, d = level(SCALINGS[scaling], 0.3), 0.4, 200_000
    v = 0.49 * s.alpha**2 + s.sigma**2
    noise = seeded(5, [0])
    z = v.sqrt() * noise(torch.zeros(1, d).double())

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(0.49 * level.alpha / (0.49 * level.alpha**2 + level.sigma**2) * z)

    z = Corrected(_Stay(), SNRLangevin(snr, steps=12)).step(denoise, z, s, s, noise, None)[0]
    assert z.var().item() / v.item() == pytest.approx(1 + snr**2, rel=4.5 * (2 / d) ** 0.5)


@pytest.mark.parametrize("predictor", [Ancestral(), ReverseDiffusion(), DPMpp2M(), UniPC(3)], ids=repr)
@pytest.mark.parametrize("corrector", [Langevin(steps=0), SNRLangevin(steps=0)], ids=repr)
def test_no_steps_of_the_corrector_leave_the_predictor(
    predictor: Solver, corrector: Langevin | SNRLangevin
) -> None:
    same(Corrected(predictor, corrector), predictor, vp(UNEVEN), exactly=True)


def test_the_predictor_goes_first_and_the_corrector_walks_at_the_new_level() -> None:
    seen: list[Tensor] = []

    def denoise(z: Tensor, level: Level) -> Prediction:
        seen.append(level.log_snr)
        return GAUSSIAN.denoise(z, level)

    states(
        denoise,
        Corrected(Ancestral(), SNRLangevin(steps=2)),
        vp(UNEVEN[:3]),
        torch.ones(1, 2).double(),
        seeded(0, [0]),
    )
    assert torch.stack(seen).tolist() == UNEVEN[[0, 1, 1, 1, 2, 2, 2]].tolist()


def ncsn(sigmas: Sequence[float], epsilon: float, steps: int, x: Tensor, noise: Noise) -> Tensor:
    """Algorithm 1 of Song and Ermon, from the second level on."""
    for sigma in sigmas[1:]:
        size = epsilon * sigma**2 / sigmas[-1] ** 2
        at = ve(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        for _ in range(steps):
            x = x + size / 2 * GAUSSIAN.score(x, at) + math.sqrt(size) * noise(x)
    return x


@pytest.mark.parametrize("scaling", [ve, vp])
def test_annealed_langevin_dynamics_is_ncsns_algorithm(scaling: Scaling) -> None:
    """On ten levels from 1 to 0.01 with epsilon = 2e-5; in the units of any scaling."""
    log_snr = Geometric(sigma_min=0.01, sigma_max=1.0).levels(10).log_snr
    ladder = scaling(log_snr)
    x = torch.randn(4, 2).double()
    ours = states(
        GAUSSIAN.denoise,
        AnnealedLangevin(2e-5 / 0.01**2, 7),
        ladder,
        x * ladder.alpha[0],
        seeded(2, range(4)),
    )[-1]
    sigmas = torch.exp(-log_snr / 2).tolist()
    close(ours / ladder.alpha[-1], ncsn(sigmas, 2e-5, 7, x, seeded(2, range(4))))


@pytest.mark.parametrize("steps", [1, 5, 100])
def test_the_law_of_annealed_langevin_dynamics(steps: int) -> None:
    """Exact, level by level: on an axis with variance v at the level, T steps take the variance w to
    rest + (1 - size / (2 v))^2T (w - rest), rest = v / (1 - size / (4 v)), which is the bias that remains."""
    scale = 0.2
    ladder = stack([Geometric(sigma_min=0.01, sigma_max=1.0).levels(6).log_snr], [ve])
    first, last = ladder.at(0), ladder.at(-1)
    moved = affine(GAUSSIAN.denoise, AnnealedLangevin(scale, steps), ladder, GAUSSIAN.mean.expand(1, 1, 2))
    c, q = GAUSSIAN.axes
    w = c + first.sigma.squeeze() ** 2
    for i in range(1, 6):
        sigma = ladder.at(i).sigma.squeeze()
        v = c + sigma**2
        rest = v / (1 - scale * sigma**2 / (4 * v))
        w = rest + (1 - scale * sigma**2 / (2 * v)) ** (2 * steps) * (w - rest)
    close(moved.cov(GAUSSIAN.cov + first.sigma**2 * torch.eye(2).double())[0, 0], (q * w) @ q.T, rtol=1e-8)
    assert last.sigma.squeeze() < 0.011


# --- what a walk costs, and what is refused


def table() -> Iterator[tuple[str, int, int, int]]:
    """Entry, order, a and b of a N + b evaluations, from the table of solvers in docs/architecture.md."""
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    for names, order, a, b in re.findall(
        r"^\| (`.*`) \| .+ \| (\d) \| (\d?)N( [+-] \d)? \|$", page, re.MULTILINE
    ):
        for name in re.findall("`(.+?)`", names):
            yield name, int(order), int(a or 1), int(b.replace(" ", "") or 0)


@pytest.mark.parametrize(("name", "order", "a", "b"), [*table()])
def test_the_documented_costs_and_orders(name: str, order: int, a: int, b: int) -> None:
    solver = build(name, SOLVERS, "solver")
    assert solver.order == order
    for n in (4, 10):
        assert evaluations(solver, Cosine().levels(n)) == a * n + b


def test_the_table_of_solvers_is_whole() -> None:
    assert SOLVERS.keys() <= {name for name, *_ in table()}
    for cheap in (DPMpp3M(starter=False), UniPC(3, starter=False), DEIS(starter=False)):
        assert evaluations(cheap, Cosine().levels(10)) == 10


@EACH
def test_every_level_that_the_denoiser_sees_is_one(solver: Solver) -> None:
    """log_snr = log(alpha² / sigma²), on the ladder, between its rungs and above them: a network goes by the
    one, the exact denoisers by the others."""

    def denoise(z: Tensor, level: Level) -> Prediction:
        close(level.log_snr, 2 * torch.log(level.alpha / level.sigma))
        return GAUSSIAN.denoise(z, level)

    for scaling in SCALINGS.values():
        sample(denoise, solver, scaling(UNEVEN), torch.ones(2, 2).double(), seeded(0, range(2)))


@EACH
def test_a_neighbour_in_the_batch_changes_nothing(solver: Solver) -> None:
    """Each picture its own ladder, levels (B, 1): drawn together as alone with levels ()."""
    ladders = [Cosine().levels(7), Flow().levels(7)]
    both = Level(*(torch.stack(fields, 1)[..., None] for fields in zip(*ladders, strict=True)))
    z = torch.randn(2, 2).double()
    together = sample(GAUSSIAN.denoise, solver, both, z, seeded(0, [3, 8]))
    for k, ladder in enumerate(ladders):
        alone = sample(GAUSSIAN.denoise, solver, ladder, z[k : k + 1], seeded(0, [[3, 8][k]]))
        close(together[k], alone[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ancestral(5.0), "frac = 5.0"),
        (lambda: Ancestral(math.nan), "frac = nan"),
        (lambda: DPMpp2MSDE(-0.5), "eta = -0.5"),
        (lambda: DPMpp2MSDE(math.nan), "eta = nan"),
        (lambda: UniPC(4), "p = 4"),
        (lambda: UniPC(2, b=3), "b = 3"),
        (lambda: Churned(churn=-1.0), "churn = -1.0"),
        (lambda: Churned(churn=1.0, steps=0), "steps = 0"),
        (lambda: Churned(inflate=0.0), "inflate = 0.0"),
        (lambda: Churned(low=2.0, high=1.0), "low = 2.0 and high = 1.0"),
        (lambda: Churned(DPMpp2M()), "DPMpp2M is a multistep solver"),
        (lambda: Churned(UniPC(3)), "UniPC is a multistep solver"),
        (lambda: SNRLangevin(0.0), "snr = 0.0"),
        (lambda: SNRLangevin(0.16, steps=-1), "steps = -1"),
        (lambda: Langevin(-1.0), "rate = -1.0"),
        (lambda: Langevin(1.0, steps=-2), "steps = -2"),
        (lambda: AnnealedLangevin(0.0), "scale = 0.0"),
        (lambda: AnnealedLangevin(0.1, -1), "steps = -1"),
        (lambda: SOLVERS["pc"](snr=-0.1), "snr = -0.1"),
    ],
)
def test_bad_choices_are_refused_with_their_value(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
