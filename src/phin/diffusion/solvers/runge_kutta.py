"""Runge-Kutta methods on the probability-flow ODE: Euler and Heun."""

from dataclasses import dataclass

from torch import Tensor

from ..denoiser import Denoise
from ..level import Level
from ..noise import Noise


@dataclass(frozen=True)
class Euler:
    """Euler's method on d(z / alpha) / d(sigma / alpha) = ε̂, the probability-flow ODE in EDM's variables.

    One step is DDIM's with eta = 0, whatever the scaling.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
            arXiv:2206.00364, eq. 1.
    """

    order = 1

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

    order = 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One Heun step."""
        x = denoise(z, t).x
        eps = (z - t.alpha * x) / t.sigma
        end = s.alpha * x + s.sigma * eps
        eps_end = (end - s.alpha * denoise(end, s).x) / s.sigma
        return end + (s.sigma - s.alpha * t.sigma / t.alpha) * (eps_end - eps) / 2, None
