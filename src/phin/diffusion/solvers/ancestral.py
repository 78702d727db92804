"""Steps that split z into x̂ and noise, and mix them anew: DDPM and DDIM, and those of consistency models."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoise
from ..level import Level
from ..noise import Noise


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
    order = 1

    def __post_init__(self) -> None:
        if not 0 <= self.frac <= 1:
            raise ValueError(f"frac = {self.frac} must be in [0, 1]: 0 is the small variance, 1 the large")

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
    order = 1

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
class MultistepConsistency:
    """A call, and new noise: z_s = alpha_s x̂ + sigma_s noise.

    For a student that says the end of the path x̂ = f(z, t) (`distill`), every state has the right law, in any
    number of steps. For a denoiser it has not: means of what z may come from are less varied than the data.

    References:
        Consistency Models (Song et al., 2023), arXiv:2303.01469, algorithm 1 (whose f ends at a
        little noise ε, so that it adds sqrt(τ² - ε²)).
    """

    order = 0

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One call, and new noise."""
        return s.alpha * denoise(z, t).x + s.sigma * noise(z), None
