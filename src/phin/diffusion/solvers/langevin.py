"""Langevin dynamics: walks that stay at one level and draw z towards its marginal there.

    z <- z + size score(z) + sqrt(2 size) noise,    score = (alpha x̂ - z) / sigma².

As a corrector it mends what a predictor did wrong; annealed, it is a sampler of its own. A walk of finite
steps has a bias, which the size sets and not the number of levels: for N(0, v) its variance tends to
v / (1 - size / (2 v)).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..denoiser import Denoise
from ..level import Level
from ..noise import Noise
from .base import Solver
from .sde import ReverseDiffusion


class Corrector(Protocol):
    """Moves z at one level, and keeps its marginal, or nearly so."""

    @property
    def order(self) -> int:
        """Weak order of the bias in the step size of the ladder; 0 if more levels do not remove it."""
        ...

    def correct(self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
        """z at level s, corrected there; t is the level that the step came from."""
        ...


def _score(denoise: Denoise, z: Tensor, level: Level) -> Tensor:
    return (level.alpha * denoise(z, level).x - z) / level.sigma**2


def _check_walk(steps: int) -> None:
    if steps < 0:
        raise ValueError(f"steps = {steps} of Langevin dynamics: at least 0")


@dataclass(frozen=True)
class Langevin:
    """Fixed steps of size rate h sigma², h the ladder's step in lambda = log_snr / 2.

    So finer ladders have a limit: a process with the same marginals that forgets faster.

    Raises:
        ValueError: If rate <= 0 or steps < 0.
    """

    rate: float = 1.0
    """How much is forgotten on the way, a nat of lambda."""
    steps: int = 1
    """Steps at each level, one evaluation each."""
    order = 1

    def __post_init__(self) -> None:
        _check_walk(self.steps)
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate = {self.rate} must be above 0, and finite")

    def correct(self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
        """Some steps at level s."""
        size = self.rate * (s.log_snr - t.log_snr) / 2 * s.sigma**2
        for _ in range(self.steps):
            z = z + size * _score(denoise, z, s) + (2 * size).sqrt() * noise(z)
        return z


@dataclass(frozen=True)
class SNRLangevin:
    """Steps of the size 2 (snr |noise| / |score|)², about 2 snr² sigma², each picture by its own norms.

    The rule is for pictures. In few dimensions a score can all but vanish, and such a step leads far away:
    take `Langevin` for points. (Song's code takes the mean of the norms over the batch; here no picture
    depends on another.)

    Algorithm 5, for VP processes, has a further factor 1 - beta, which is 1 but for a few per cent; without
    it the walk is the same in all scalings.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, algorithm 4.

    Raises:
        ValueError: If snr <= 0 or steps < 0.
    """

    snr: float = 0.16
    """r."""
    steps: int = 1
    """M: steps at each level, one evaluation each."""
    order = 0

    def __post_init__(self) -> None:
        _check_walk(self.steps)
        if not 0 < self.snr < math.inf:
            raise ValueError(f"snr = {self.snr} must be above 0, and finite")

    def correct(self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
        """Some steps at level s."""
        axes = tuple(range(1, z.ndim))
        for _ in range(self.steps):
            score, fresh = _score(denoise, z, s), noise(z)
            ratio = fresh.square().sum(axes, keepdim=True) / score.square().sum(axes, keepdim=True)
            size = 2 * self.snr**2 * ratio
            z = z + size * score + (2 * size).sqrt() * fresh
        return z


@dataclass(frozen=True)
class Corrected:
    """Predictor-corrector: a step of any solver, then a walk at the level where it ends.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, algorithm 1.
    """

    predictor: Solver = ReverseDiffusion()
    corrector: Corrector = SNRLangevin()

    @property
    def order(self) -> int:
        """The lower of both."""
        return min(self.predictor.order, self.corrector.order)

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """Predict, then correct."""
        z, memory = self.predictor.step(denoise, z, t, s, noise, memory)
        return self.corrector.correct(denoise, z, t, s, noise), memory


@dataclass(frozen=True)
class AnnealedLangevin:
    """NCSN's sampler: z / alpha is carried over to the next level, and walks there.

        z <- z + size / 2 score + sqrt(size) noise,    size = scale sigma_s²,

    in the paper's notation scale = epsilon / sigma_L². The walk at the first level, whose law the start has
    already, is left out. Made for a `geometric` ladder of VE levels, it is the same in all scalings. Its bias
    does not vanish on finer ladders.

    References:
        Generative Modeling by Estimating Gradients of the Data Distribution (Song and Ermon, 2019),
            arXiv:1907.05600, algorithm 1.

    Raises:
        ValueError: If scale <= 0 or steps < 0.
    """

    scale: float = 0.2
    """epsilon / sigma_L²: 2e-5 / 0.01² in the paper."""
    steps: int = 5
    """T: steps at each level, one evaluation each. The paper has 100 at 10 levels; more levels need fewer."""
    order = 0

    def __post_init__(self) -> None:
        _check_walk(self.steps)
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale = {self.scale} must be above 0, and finite")

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """To the next level, and a walk there."""
        z = s.alpha / t.alpha * z
        size = self.scale * s.sigma**2
        for _ in range(self.steps):
            z = z + size / 2 * _score(denoise, z, s) + size.sqrt() * noise(z)
        return z, None
