"""Solvers have the order that they claim: the laws of their states come to the exact ones as steps shrink."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from walks import (
    CONVERGENT,
    EACH_CONVERGENT,
    EACH_DETERMINISTIC,
    PAIRS,
    SOLVER_OF,
    everywhere,
    law_error,
    no_noise,
    own,
    stack,
    states,
)

from phin.diffusion.level import Level, vp
from phin.diffusion.solvers import DEIS, DPMpp3M, Solver, UniPC
from phin.oracle import Mixture


def uneven(parts: int) -> Callable[[str], Tensor]:
    """The schedule's own ladder of 9 levels, each step cut into parts that are by turns short and twice that.

    So a ladder can be refined as far as wanted everywhere, and is never a smooth one: a multistep method that
    took its steps for equal would lose its order.
    """
    share = torch.tensor([1.0, 2.0]).double().repeat(parts // 2)
    within = (share.cumsum(0) - share) / share.sum()

    def ladder(schedule: str) -> Tensor:
        rungs = own(9)(schedule)
        return torch.cat([(rungs[:-1, None] + rungs.diff()[:, None] * within).flatten(), rungs[-1:]])

    return ladder


def slopes(errors: list[Tensor], steps: list[int]) -> Tensor:
    """- d log error / d log steps, by least squares."""
    x = torch.tensor(steps).double().log()
    y = torch.stack(errors).log()
    x = x - x.mean()
    return -(x @ (y - y.mean(0))) / (x @ x)


def differing(measured: Tensor, order: int) -> dict[tuple[str, str], float]:
    return {
        pair: round(m, 2)
        for pair, m in zip(PAIRS, measured.tolist(), strict=True)
        if not abs(m - order) < 0.15
    }


@EACH_CONVERGENT
def test_order_on_every_schedule_and_scaling(solver: Solver) -> None:
    """On a Gaussian: of the probability-flow map, or of mean and covariance (weak order) for a stochastic
    solver. The largest error of several on the way, since at the end some errors have cancelled."""
    parts = [48, 96] if solver.order <= 2 else [80, 160]
    errors = [law_error(solver, everywhere(uneven(n)), [3 * n, 5 * n, 6 * n, 8 * n]).amax(0) for n in parts]
    assert differing(slopes(errors, parts), solver.order) == {}


@EACH_CONVERGENT
def test_order_on_the_schedules_own_ladders(solver: Solver) -> None:
    """As above as `levels(steps)` grows, wherever 334 levels leave no step too long for the order to show.
    111 and 333 steps, so that the rungs of a chain of 1,000 levels need no rounding."""
    ladders = [everywhere(own(112)), everywhere(own(334))]
    resolved = ladders[-1].log_snr.diff(dim=0).amax((0, 2, 3)) < (0.8 if solver.order <= 2 else 0.2)
    assert resolved.double().mean() > 0.25
    errors = [
        law_error(solver, ladder, [37 * n, 61 * n, 74 * n, 111 * n]).amax(0)
        for ladder, n in zip(ladders, (1, 3), strict=True)
    ]
    measured = torch.where(resolved, slopes(errors, [111, 333]), solver.order)
    assert differing(measured, solver.order) == {}


@EACH_DETERMINISTIC
def test_order_on_a_mixture(solver: Solver) -> None:
    """Where the denoiser is not linear. In one dimension the flow of the ODE keeps each point's quantile:
    exact again."""
    parts = [32, 64] if solver.order <= 2 else [64, 128]
    means, variances = torch.tensor([[-0.9], [0.8]]).double(), torch.tensor([[[0.16]], [[0.36]]]).double()
    data = Mixture.of([0.35, 0.65], means, variances)
    p = torch.linspace(0.03, 0.97, 21, dtype=torch.float64).view(1, -1, 1)
    errors: list[Tensor] = []
    for n in parts:
        ladder = everywhere(uneven(n))
        t, s = ladder.at(0), ladder.at(-1)
        end = states(data.denoise, solver, ladder, quantile(data, p, t), no_noise)[-1]
        errors.append(((end - quantile(data, p, s)) / s.alpha).square().mean((1, 2)).sqrt())
    assert differing(slopes(errors, parts), solver.order) == {}


def quantile(data: Mixture, p: Tensor, level: Level) -> Tensor:
    """z with P(Z < z) = p under a mixture in one dimension, by bisection."""
    low = -40 * torch.hypot(level.alpha, level.sigma) * torch.ones_like(p)
    high = -low
    for _ in range(70):
        z = (low + high) / 2
        below = torch.zeros_like(z)
        for weight, part in zip(data.weights, data.parts, strict=True):
            deviation = (level.alpha**2 * part.cov[0, 0] + level.sigma**2).sqrt()
            below = below + weight * torch.special.ndtr((z - level.alpha * part.mean) / deviation)
        low, high = torch.where(below < p, z, low), torch.where(below < p, high, z)
    return (low + high) / 2


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (DPMpp3M(), 3),
        (DPMpp3M(starter=False), 2),
        (UniPC(3), 4),
        (UniPC(3, starter=False), 3),
        (DEIS(), 4),
        (DEIS(starter=False), 2),
    ],
    ids=repr,
)
def test_what_a_starter_is_for(solver: Solver, order: int) -> None:
    """A walk that begins in the middle, where x̂ moves: a first step of a lower order is felt to the end."""
    assert solver.order == order
    errors: list[Tensor] = []
    counts = [64, 128]
    for n in counts:
        ladder = stack([torch.linspace(-1, 4, n + 1, dtype=torch.float64)], [vp])
        errors.append(law_error(solver, ladder)[0])
    assert abs(slopes(errors, counts).item() - order) < 0.15


def test_few_solvers_claim_no_order() -> None:
    """They walk at fixed levels, with steps that a finer ladder does not shorten; or forget their path."""
    assert SOLVER_OF.keys() - CONVERGENT.keys() == {"pc", "annealed_langevin", "consistency"}
