"""Solvers of the reverse SDE, and noise put back in between the steps of an ODE's solver.

Time enters the SDE dz = f z dt + g dw only by f = d log alpha / dt and g² = -sigma² d log_snr / dt. Over a
step these integrate to differences of the levels, so no solver needs to know of a time.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise
from ..level import Level
from ..noise import Noise
from .base import Solver, remembers
from .exponential import Node
from .runge_kutta import Heun


@dataclass(frozen=True)
class EulerMaruyama:
    """Euler-Maruyama on the reverse SDE, dz = (f z - g² score) dt + g dw, of VP, VE, sub-VP or any scaling.

        z_s = z + log(alpha_s / alpha_t) z + g² score + g noise,
        g² = sigma_t² (log_snr_s - log_snr_t),    score = (alpha_t x̂ - z) / sigma_t².

    Unlike most solvers it depends on the scaling: units are part of what Euler's method takes for constant.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, eq. 6.
    """

    order = 1

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One Euler-Maruyama step."""
        rise = s.log_snr - t.log_snr
        drift = torch.log(s.alpha / t.alpha) * z + rise * (t.alpha * denoise(z, t).x - z)
        return z + drift + t.sigma * rise.sqrt() * noise(z), None


@dataclass(frozen=True)
class ReverseDiffusion:
    """The forward process's own discretisation, z_t = a z_s + sqrt(v) noise, turned round.

        z_s = (2 - a) z + v score + sqrt(v) noise,    a = alpha_t / alpha_s,    v = c sigma_t².

    For a VP process a = sqrt(1 - beta) and v = beta, for a VE process a = 1 and v = sigma_t² - sigma_s². It
    depends on the scaling, like Euler-Maruyama, to which it tends for small steps.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, eq. 46.
    """

    order = 1

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One step of the reversed chain."""
        c = -torch.expm1(t.log_snr - s.log_snr)
        drift = (1 - t.alpha / s.alpha) * z + c * (t.alpha * denoise(z, t).x - z)
        return z + drift + c.sqrt() * t.sigma * noise(z), None


@dataclass(frozen=True)
class DPMpp2MSDE:
    """SDE-DPM-Solver++(2M): an exponential integrator of the reverse SDE, x̂ extrapolated along a line.

        z_s = sigma_s / sigma_t e^(-eta h) z + alpha_s (1 - e^(-(1 + eta) h)) D
              + sigma_s sqrt(1 - e^(-2 eta h)) noise,

    with h and D as in `DPMpp2M`, which it is for eta = 0. One evaluation a step; the first step holds x̂
    fixed, and for eta = 1 is DDPM's with the small variance.

    References:
        DPM-Solver++ (Lu et al., 2022), arXiv:2211.01095: SDE-DPM-Solver++(2M), where eta = 1.

    Raises:
        ValueError: If eta < 0.
    """

    eta: float = 1.0
    """Noise: 0 the ODE, 1 the reverse SDE, any other a process with the same marginals."""
    order = 2

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta = {self.eta} must be at least 0, and finite")

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: Node | None
    ) -> tuple[Tensor, Node]:
        """One multistep update."""
        x, now = denoise(z, t).x, t.log_snr / 2
        h = s.log_snr / 2 - now
        drive = x if memory is None else x + h / (2 * (now - memory.at)) * (x - memory.value)
        decay = s.sigma / t.sigma * torch.exp(-self.eta * h)
        z = decay * z - s.alpha * torch.expm1(-(1 + self.eta) * h) * drive
        if self.eta:
            z = z + s.sigma * (-torch.expm1(-2 * self.eta * h)).sqrt() * noise(z)
        return z, Node(now, x)


@dataclass(frozen=True)
class Churned:
    """EDM's stochastic sampler: before each step some noise is added, and the step begins from there.

        sigma -> (1 + gamma) sigma,    z -> z + sigma sqrt((1 + gamma)² - 1) inflate noise,

    wherever sigma / alpha is between `low` and `high`. Both parts keep the marginals, so for a single-step
    solver the order is its own. EDM shares `churn` out equally over its `steps`, gamma = churn / steps. A
    solver does not know how many there are; so where they are not given, gamma is `churn` times the step's
    size in lambda = log_snr / 2, and finer ladders have a limit. Either is at most sqrt(2) - 1.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
            arXiv:2206.00364, algorithm 2; S_churn, S_tmin, S_tmax and S_noise there.

    Raises:
        ValueError: If churn < 0, steps < 1, inflate <= 0, not 0 <= low <= high, or if the solver is a
            multistep one: what it remembers belongs to a state without the noise, and its order would be 1.
    """

    solver: Solver = Heun()
    """Single-step, and usually deterministic."""
    churn: float = 0.5
    steps: int | None = None
    low: float = 0.0
    high: float = math.inf
    inflate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"churn = {self.churn} must be at least 0, and finite")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps = {self.steps} must be at least 1")
        if not 0 < self.inflate < math.inf:
            raise ValueError(f"inflate = {self.inflate} must be above 0, and finite")
        if not 0 <= self.low <= self.high:
            raise ValueError(f"low = {self.low} and high = {self.high} must satisfy 0 <= low <= high")
        if remembers(self.solver):
            kind = type(self.solver).__name__
            raise ValueError(f"{kind} is a multistep solver, and churn needs a single-step one, such as heun")

    @property
    def order(self) -> int:
        """That of the solver."""
        return self.solver.order

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """Up a little, then down."""
        if self.churn == 0:
            return self.solver.step(denoise, z, t, s, noise, memory)
        share = (s.log_snr - t.log_snr) / 2 if self.steps is None else 1 / self.steps
        inside = (self.low <= t.sigma / t.alpha) & (t.sigma / t.alpha <= self.high)
        gamma = inside * (self.churn * share * torch.ones_like(t.sigma)).clamp(max=math.sqrt(2) - 1)
        z = z + t.sigma * (gamma * (2 + gamma)).sqrt() * self.inflate * noise(z)
        noisier = Level(t.alpha, t.sigma * (1 + gamma), t.log_snr - 2 * torch.log1p(gamma))
        return self.solver.step(denoise, z, noisier, s, noise, memory)
