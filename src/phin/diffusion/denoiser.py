"""The denoiser: a network, read as x̂ = E[x | z].

Everything that samples, guides or measures sees only a `Denoise`, a function (z, level) -> Prediction whose
condition is already bound; the exact denoisers of the tests and a trained network are the same thing to it.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .level import Level
from .parameterization import Parameterization
from .schedules import Schedule


class Prediction(NamedTuple):
    """What a denoiser says of z."""

    x: Tensor
    """E[x | z], of z's shape."""
    frac: Tensor | None = None
    """Learned: where the log of the reverse variance lies between the smallest (0) and the largest (1)."""


Denoise = Callable[[Tensor, Level], Prediction]
"""(z, level) -> Prediction, the condition bound. Level: one level (), or one a picture (B, 1, ..., 1)."""


class Denoiser(nn.Module):
    """A network F(z, log_snr, **cond) with a parameterization: x̂ = skip z + out F(in z, log_snr).

    The network sees z / sqrt(sigma² + alpha² sigma_data²), of unit variance for data of that standard
    deviation, and the log-SNR, whatever the scaling: a model trained under one scaling is sampled under any
    other.

    Args:
        net: `net(z, log_snr, **cond)`, log_snr (B,), gives the channels of z, or twice as many with
            `learn_var`.
        param: What the network's output means.
        learn_var: The second half of the channels is the variance's place, (F + 1) / 2 in [0, 1] (improved
            DDPM, arXiv:2102.09672, eq. 15).
        sigma_data: Standard deviation of the data that the input is scaled for; EDM uses 0.5, all others 1.
        schedule: The schedule, where it was learned together with the network and belongs to the weights.

    Raises:
        ValueError: If sigma_data is not positive.
    """

    guidance: float | None = None
    """The guidance scale that distillation has put into the weights; None is none, and more may be added."""

    def __init__(
        self,
        net: nn.Module,
        param: Parameterization,
        learn_var: bool = False,
        sigma_data: float = 1.0,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data = {sigma_data} must be positive and finite")
        self.net = net
        self.param = param
        self.learn_var = learn_var
        self.sigma_data = sigma_data
        self.schedule = schedule

    def forward(self, z: Tensor, level: Level, **cond: Any) -> Prediction:
        """E[x | z] at the level, under the condition.

        Raises:
            ValueError: If the network gives another number of channels than it should.
        """
        level = level.over(z)
        variance = level.sigma**2 + (level.alpha * self.sigma_data) ** 2
        log_snr = level.log_snr.to(z).flatten().expand(len(z))
        raw = self.net(z * variance.rsqrt(), log_snr, **cond)
        channels = z.shape[1] * (1 + self.learn_var)
        if raw.shape[1] != channels:
            raise ValueError(
                f"the network gave {raw.shape[1]} channels in place of {channels}, for z with {z.shape[1]} "
                f"and learn_var = {self.learn_var}"
            )
        frac = None
        if self.learn_var:
            raw, frac = raw.chunk(2, dim=1)
            frac = (frac + 1) / 2
        skip, out = self.param(level)
        return Prediction(skip * z + out * raw.to(z), frac)

    def given(self, **cond: Any) -> "Given":
        """This denoiser with its condition bound.

        Raises:
            ValueError: If the network takes no condition of that name.
        """
        takes = [
            name for name in inspect.signature(self.net.forward).parameters if name not in ("z", "log_snr")
        ]
        for name in cond:
            if name not in takes:
                raise ValueError(
                    f"the network takes no condition {name!r}; it takes {', '.join(takes) or 'none'}"
                )
        return Given(self, cond)


@dataclass(frozen=True)
class Given:
    """A denoiser with its condition bound: a `Denoise`."""

    denoiser: Denoiser
    cond: dict[str, Any]

    def __call__(self, z: Tensor, level: Level) -> Prediction:
        return self.denoiser(z, level, **self.cond)

    def rows(self, rows: Tensor) -> "Given":
        """The same for some rows of the batch (n,): those of each condition."""
        return Given(self.denoiser, {name: value[rows] for name, value in self.cond.items()})

    def fits(self, other: "Given", z: Tensor) -> bool:
        """Whether `beside` can serve both: one denoiser, conditions of the same names and shapes.

        They have a row for each of z.
        """
        return (
            self.denoiser is other.denoiser
            and self.cond.keys() == other.cond.keys()
            and all(
                isinstance(mine, Tensor)
                and isinstance(theirs := other.cond[name], Tensor)
                and mine.shape == theirs.shape
                and mine.shape[:1] == z.shape[:1]
                for name, mine in self.cond.items()
            )
        )

    def beside(self, other: "Given", z: Tensor, level: Level) -> tuple[Prediction, Prediction]:
        """The predictions under both conditions, in one pass over a doubled batch."""
        both = {name: torch.cat([value, other.cond[name]]) for name, value in self.cond.items()}
        if level.log_snr.numel() > 1:
            level = level._make(torch.cat([field, field]) for field in level)
        x, frac = self.denoiser(torch.cat([z, z]), level, **both)
        fracs = (None, None) if frac is None else frac.chunk(2)
        first, second = x.chunk(2)
        return Prediction(first, fracs[0]), Prediction(second, fracs[1])
