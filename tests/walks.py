"""The laws of solvers on data whose diffusion is known: what the tests of solvers have in common.

For a Gaussian the exact denoiser is affine in z, so whatever a solver does, its states are affine maps of its
start and of every noise that it drew; automatic differentiation gives these maps, and with them the exact law
of the samples. No Monte Carlo error hides a wrong order. All schedules and scalings are walked at once, as
one batch with a ladder each. (Langevin steps that go by the size of the score are not affine; no law here is
asked of them.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from phin.diffusion.denoiser import Denoise
from phin.diffusion.level import SCALINGS, Level, Scaling, vp
from phin.diffusion.noise import Noise
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import (
    DDIM,
    SOLVERS,
    Ancestral,
    Churned,
    Corrected,
    DPMpp2MSDE,
    EulerMaruyama,
    ReverseDiffusion,
    Solver,
    UniPC,
    sample,
)
from phin.oracle import Gaussian

GAUSSIAN = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([[0.8, 0.5], [0.5, 0.6]]).double())
STANDARD = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
SOLVER_OF: dict[str, Solver] = {name: make() for name, make in SOLVERS.items()}
SOLVER_OF |= {"ddpm(0.5)": Ancestral(0.5), "ddim(0.3)": DDIM(0.3), "ddim(1)": DDIM(1.0)}
SOLVER_OF |= {"unipc(1)": UniPC(1), "unipc_2(b=1)": UniPC(2, b=1), "dpmpp_2m_sde(0.5)": DPMpp2MSDE(0.5)}
SOLVER_OF |= {"churn(ddim)": Churned(DDIM(), 0.3)}
CONVERGENT = {name: solver for name, solver in SOLVER_OF.items() if solver.order}
EACH = pytest.mark.parametrize("solver", SOLVER_OF.values(), ids=SOLVER_OF)
EACH_CONVERGENT = pytest.mark.parametrize("solver", CONVERGENT.values(), ids=CONVERGENT)
IN_UNITS_OF_Z = EulerMaruyama, ReverseDiffusion, Corrected
"""The discretisations of the score-based SDEs; what they do, but for its limit, depends on the scaling."""
PAIRS = [(schedule, scaling) for schedule in SCHEDULES for scaling in SCALINGS]


def level(scaling: Scaling, log_snr: float) -> Level:
    return scaling(torch.tensor(log_snr, dtype=torch.float64))


def no_noise(like: Tensor) -> Tensor:
    return torch.zeros_like(like)


def draws(solver: Solver) -> bool:
    """Whether the solver is stochastic."""
    drawn: list[Tensor] = []

    def noise(like: Tensor) -> Tensor:
        drawn.append(like)
        return torch.zeros_like(like)

    solver.step(STANDARD.denoise, torch.ones(1, 2).double(), level(vp, 0.0), level(vp, 1.0), noise, None)
    return bool(drawn)


DETERMINISTIC = {name: solver for name, solver in CONVERGENT.items() if not draws(solver)}
EACH_DETERMINISTIC = pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC)


def stack(ladders: list[Tensor], scalings: list[Scaling]) -> Level:
    """Ladders of equally many log-SNRs, as one with a batch of levels (K, 1, 1) at each of its rungs."""
    each = [scaling(log_snr) for log_snr, scaling in zip(ladders, scalings, strict=True)]
    return Level(*(torch.stack(fields, 1)[..., None, None] for fields in zip(*each, strict=True)))


def everywhere(ladder: Callable[[str], Tensor]) -> Level:
    """The ladder (log-SNRs) of every schedule, by name, under every scaling, in the order of `PAIRS`."""
    return stack([ladder(schedule) for schedule, _ in PAIRS], [SCALINGS[scaling] for _, scaling in PAIRS])


def own(steps: int) -> Callable[[str], Tensor]:
    """The schedule's own ladder."""
    return lambda schedule: SCHEDULES[schedule]().levels(steps).log_snr


def states(denoise: Denoise, solver: Solver, levels: Level, z: Tensor, noise: Noise) -> list[Tensor]:
    """As `sample`, but the states at all levels."""
    seen: list[Tensor] = []
    sample(denoise, solver, levels, z, noise, watch=lambda z, level: seen.append(z))
    return seen


@dataclass
class Affine:
    """z at some levels of the way = value + jacobian (start - mean) + sum_i noises_i eps_i, on K ladders."""

    value: Tensor
    """(levels, K, D)."""
    jacobian: Tensor
    """(levels, K, D, D)."""
    noises: list[Tensor]
    """(levels, K, D, D) for each draw."""

    def cov(self, start: Tensor) -> Tensor:
        """Covariance (levels, K, D, D), given the start's."""
        return sum((b @ b.mT for b in self.noises), self.jacobian @ start @ self.jacobian.mT)


def affine(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    mean: Tensor,
    stops: Sequence[int] = (-1,),
    drive: Callable[..., Sequence[Tensor]] = states,
) -> Affine:
    """The affine map of a solver on K ladders, about the start's mean (K, 1, D), up to the levels `stops`.

    The batch has a copy for each row of each Jacobian, so that one pass backward gives them all.
    """
    (k, _, d), n = mean.shape, len(stops)
    start = mean.repeat(n * d, 1, 1).requires_grad_()
    ladders = Level(*(field.repeat(1, n * d, 1, 1) for field in levels))
    noises: list[Tensor] = []

    def noise(like: Tensor) -> Tensor:
        noises.append(torch.zeros_like(like, requires_grad=True))
        return noises[-1]

    seen = drive(denoise, solver, ladders, start, noise)
    ends = torch.stack([seen[stop].view(n, d, k, d)[i] for i, stop in enumerate(stops)])  # (n, row, K, D)
    grads = torch.autograd.grad(ends.diagonal(dim1=1, dim2=3).sum(), [start, *noises])
    jacobian, *by_noise = [grad.view(n, d, k, d).transpose(1, 2) for grad in grads]
    return Affine(ends.detach()[:, 0], jacobian, by_noise)


def law_error(
    solver: Solver, levels: Level, stops: Sequence[int] = (-1,), data: Gaussian = GAUSSIAN
) -> Tensor:
    """How far from the exact law of z a solver comes that starts from it, at the levels `stops`: (stops, K).

    Of a stochastic solver, the relative error of the covariance, and that of the mean in units of the data. A
    deterministic one is held to the map of the probability-flow ODE itself, at three points.
    """
    t, s = levels.at(0), Level(*(field[list(stops)] for field in levels))
    eye = torch.eye(len(data.mean)).double()
    center = t.alpha * data.mean
    if not draws(solver):
        points = center + torch.cat([torch.zeros_like(data.mean)[None], eye])
        seen = states(data.denoise, solver, levels, points, no_noise)
        exact = data.flow(points, t, s)
        wrong = torch.stack([seen[stop] for stop in stops]) - exact
        stretched = (exact - exact[..., :1, :]).abs().amax((-1, -2))
        return wrong[..., 1:, :].abs().amax((-1, -2)) / stretched + (wrong / s.alpha)[..., 0, :].abs().amax(
            -1
        )
    moved = affine(data.denoise, solver, levels, center, stops)
    start, exact = (at.alpha**2 * data.cov + at.sigma**2 * eye for at in (t, s))
    wrong = (moved.cov(start) - exact).abs().amax((-1, -2)) / exact.abs().amax((-1, -2))
    return wrong + (moved.value / s.alpha.squeeze(-1) - data.mean).abs().amax(-1)
