"""Solvers: one step from a noisier level to a cleaner one, and the loop that drives them.

A solver is a frozen set of hyper-parameters with a method `step`: (z, level t) -> (z, level s). It keeps
nothing between steps; a multistep method hands its past on as an explicit `memory`. So solvers are
re-entrant, and every one works with any denoiser, ladder, scaling and guidance. A new one is a class and an
entry at the foot, where the tests find it and measure whether it has the order that it claims.

Notation: x̂ = denoise(z, t).x, ε̂ = (z - alpha_t x̂) / sigma_t, and c = 1 - SNR(t) / SNR(s), the share of
level t's noise variance that is not in level s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import Denoise
from .level import Level
from .noise import Noise


class Solver(Protocol):
    """One transition of a sampler."""

    order: ClassVar[int]
    """Claimed order of the global error in the step size.

    It is that on the probability-flow ODE for a deterministic solver, and that of mean and covariance (weak
    order) for a stochastic one.
    """

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """Go from level t to the cleaner level s.

        Args:
            denoise: The denoiser; a call costs one network evaluation.
            z: State (B, ...) at level t.
            t: The present level, ().
            s: The next one, ().
            noise: Draws fresh noise.
            memory: What the previous step returned; None at the first.

        Returns:
            The state at level s, and the memory for the next step.
        """
        ...


Watch = Callable[[Tensor, Level], None]
"""Sees every state: (z, its level)."""


def sample(
    denoise: Denoise,
    solver: Solver,
    levels: Level,
    z: Tensor,
    noise: Noise = torch.randn_like,
    watch: Watch | None = None,
) -> Tensor:
    """Walk z down the ladder of levels, and return x̂ at its last.

    N levels cost N evaluations with a one-evaluation solver, the final x̂ included; since that is the last
    act, no solver ever meets sigma = 0.

    Args:
        denoise: The denoiser, guided or not.
        solver: Makes the steps.
        levels: The ladder (N,), noisy to clean, e.g. `schedule.levels(10)`.
        z: The start (B, ...), a sample at levels.at(0), e.g. from `prior`.
        noise: Draws the noise of stochastic solvers, e.g. `seeded(seed, range(B))`.
        watch: Called with every state and its level, the start included.
    """
    memory: Any = None
    if watch is not None:
        watch(z, levels.at(0))
    for t, s in levels.steps():
        z, memory = solver.step(denoise, z, t, s, noise, memory)
        if watch is not None:
            watch(z, s)
    return denoise(z, levels.at(-1)).x


def prior(level: Level, like: Tensor, noise: Noise = torch.randn_like) -> Tensor:
    """A start at the noisiest level: N(0, alpha² + sigma²), exact for data of mean 0 and variance 1.

    For a VP process this is N(0, I).
    """
    return torch.hypot(level.alpha, level.sigma) * noise(like)


@dataclass(frozen=True)
class Ancestral:
    """DDPM's sampler: a draw from q(z_s | z_t, x = x̂), with a variance from the smallest to the largest.

        mean = (alpha_t sigma_s²) / (alpha_s sigma_t²) z + alpha_s c x̂,
        std = sqrt(c) sigma_s^(1-f) (sigma_t n_s / n_t)^f,    n² = alpha² + sigma² (1 for a VP process).

    f = 0 is the posterior's own variance (DDPM's beta-tilde), right for data at a point; f = 1 is beta,
    right for data N(0, I). A denoiser that learned its variance overrides f.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, eq. 6-7 and section 3.2.
        Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, eq. 15.
    """

    frac: float = 0.0
    """f: 0 small variance, 1 large."""
    order: ClassVar[int] = 1

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One ancestral step."""
        prediction = denoise(z, t)
        frac = self.frac if prediction.frac is None else prediction.frac
        c = -torch.expm1(t.log_snr - s.log_snr)
        mean = (t.alpha * s.sigma**2) / (s.alpha * t.sigma**2) * z + s.alpha * c * prediction.x
        large = t.sigma * torch.hypot(s.alpha, s.sigma) / torch.hypot(t.alpha, t.sigma)
        return mean + c.sqrt() * s.sigma ** (1 - frac) * large**frac * noise(z), None


@dataclass(frozen=True)
class DDIM:
    """The family from DDPM (eta = 1) to a deterministic map (eta = 0), with the same marginals.

        z_s = alpha_s x̂ + sigma_s (sqrt(1 - eta² c) ε̂ + eta sqrt(c) noise).

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), arXiv:2010.02502, eq. 12 and 16.
    """

    eta: float = 0.0
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta} must be in [0, 1]")

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One DDIM step."""
        x = denoise(z, t).x
        eps = (z - t.alpha * x) / t.sigma
        if self.eta == 0:
            return s.alpha * x + s.sigma * eps, None
        c = -torch.expm1(t.log_snr - s.log_snr)
        direction = (1 - self.eta**2 * c).sqrt() * eps + self.eta * c.sqrt() * noise(z)
        return s.alpha * x + s.sigma * direction, None


@dataclass(frozen=True)
class Euler:
    """Euler's method on d(z / alpha) / d(sigma / alpha) = ε̂, the probability-flow ODE in EDM's variables.

    One step is DDIM's with eta = 0, whatever the scaling.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
            arXiv:2206.00364, eq. 1.
    """

    order: ClassVar[int] = 1

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One Euler step."""
        x = denoise(z, t).x
        return s.alpha * x + s.sigma * (z - t.alpha * x) / t.sigma, None


@dataclass(frozen=True)
class Heun:
    """Heun's method (the explicit trapezoidal rule) on the same ODE; two evaluations a step.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
            arXiv:2206.00364, algorithm 1.
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One Heun step."""
        x = denoise(z, t).x
        eps = (z - t.alpha * x) / t.sigma
        end = s.alpha * x + s.sigma * eps
        eps_end = (end - s.alpha * denoise(end, s).x) / s.sigma
        return end + (s.sigma - s.alpha * t.sigma / t.alpha) * (eps_end - eps) / 2, None


class _Past(NamedTuple):
    """What DPM-Solver++(2M) remembers: the last prediction, and the size of the step it led to."""

    x: Tensor
    h: Tensor


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M): an exponential integrator in lambda = log_snr / 2, x̂ extrapolated along a line.

        z_s = sigma_s / sigma_t z - alpha_s (e^-h - 1) D,    D = x̂ + (x̂ - x̂_previous) / (2 r),
        h = lambda_s - lambda_t,    r = h_previous / h.

    One evaluation a step; the first step is DDIM's.

    References:
        DPM-Solver++ (Lu et al., 2022), arXiv:2211.01095, algorithm 2.
    """

    order: ClassVar[int] = 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: _Past | None
    ) -> tuple[Tensor, _Past]:
        """One multistep update."""
        x = denoise(z, t).x
        h = (s.log_snr - t.log_snr) / 2
        drive = x if memory is None else x + h / (2 * memory.h) * (x - memory.x)
        return s.sigma / t.sigma * z - s.alpha * torch.expm1(-h) * drive, _Past(x, h)


SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddpm": Ancestral,
    "ddpm_large": lambda: Ancestral(frac=1.0),
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "dpmpp_2m": DPMpp2M,
}
"""Name -> factory."""
