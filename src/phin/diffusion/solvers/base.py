"""What a solver is, and the loop that drives one."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..denoiser import Denoise, Prediction
from ..level import Level, vp
from ..noise import Noise


class Solver(Protocol):
    """One transition of a sampler."""

    @property
    def order(self) -> int:
        """Claimed order of the global error in the step size.

        It is that on the probability-flow ODE for a deterministic solver, and that of mean and covariance
        (weak order) for a stochastic one; 0 if more steps do not remove the error.
        """
        ...

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """Go from level t to the cleaner level s.

        Args:
            denoise: The denoiser; a call costs one network evaluation.
            z: State (B, ...) at level t.
            t: The present level, () or one a picture (B, 1, ..., 1).
            s: The next one, likewise.
            noise: Draws fresh noise.
            memory: What the previous step returned; None at the first.

        Returns:
            The state at level s, and the memory for the next step.
        """
        ...


Watch = Callable[[Tensor, Level], None]
"""Sees every state: (z, its level)."""


def walk(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    z: Tensor,
    noise: Noise = torch.randn_like,
    watch: Watch | None = None,
) -> Tensor:
    """Walk z down the ladder of levels: the state at the last one. Arguments as of `sample`."""
    memory: Any = None
    if watch is not None:
        watch(z, levels.at(0))
    for t, s in levels.steps():
        z, memory = solver.step(denoise, z, t, s, noise, memory)
        if watch is not None:
            watch(z, s)
    return z


def sample(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    z: Tensor,
    noise: Noise = torch.randn_like,
    watch: Watch | None = None,
) -> Tensor:
    """x̂ at the last level of the ladder, once z has walked down to it.

    N levels cost N evaluations with a one-evaluation solver, the final x̂ included (see `evaluations`); since
    that is the last act, no solver ever meets sigma = 0.

    Args:
        denoise: The denoiser, guided or not.
        solver: Makes the steps.
        levels: The ladder (N,), noisy to clean, e.g. `schedule.levels(10)`.
        z: The start (B, ...), a sample at levels.at(0), e.g. from `prior`.
        noise: Draws the noise of stochastic solvers, e.g. `seeded(seed, range(B))`.
        watch: Called with every state and its level, the start included.
    """
    return denoise(walk(denoise, solver, levels, z, noise, watch), levels.at(-1)).x


def prior(level: Level, like: Tensor, noise: Noise = torch.randn_like) -> Tensor:
    """A start at the noisiest level: N(0, alpha² + sigma²), exact for data of mean 0 and variance 1.

    For a VP process this is N(0, I).
    """
    return torch.hypot(level.alpha, level.sigma) * noise(like)


def remembers(solver: Solver) -> bool:
    """Whether its steps go by those before, as a multistep solver's."""
    one = torch.ones(1, 1, dtype=torch.float64)
    noisy, clean = (vp(torch.tensor(log_snr, dtype=torch.float64)) for log_snr in (-1.0, 0.0))
    _, memory = solver.step(lambda z, level: Prediction(z), one, noisy, clean, torch.zeros_like, None)
    return memory is not None


def evaluations(solver: Solver, levels: Level) -> int:
    """How often `sample` calls the denoiser on this ladder, the final x̂ included: counted, on one number."""
    count = 0

    def denoise(z: Tensor, level: Level) -> Prediction:
        nonlocal count
        count += 1
        return Prediction(z)

    sample(denoise, solver, levels, torch.ones(1, 1, dtype=torch.float64), torch.ones_like)
    return count
