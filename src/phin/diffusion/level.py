"""A level of noise, and the four usual ways to scale it.

Every isotropic Gaussian diffusion is, at each moment,

    z = alpha x + sigma eps,    eps ~ N(0, I),    log_snr = log(alpha^2 / sigma^2).

The log signal-to-noise ratio says how noisy z is; the *scaling* says only in which units z is written. Time
exists nowhere but inside schedules.

References:
    Variational Diffusion Models (Kingma et al., 2021), arXiv:2107.00630, eq. 1-2 and section 5.1.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor


def check_finite(x: Tensor) -> None:
    """Refuses data (B, ...) with a value that is NaN or infinite, which would spread without a word.

    Raises:
        ValueError: It names the first example that has one, and the value.
    """
    wrong = ~x.isfinite().reshape(len(x), -1).all(1)
    if wrong.any():
        k = int(wrong.nonzero()[0])
        value = float(x[k][~x[k].isfinite()].flatten()[0])
        raise ValueError(f"x has the value {value} in example {k}: data must be finite")


class Level(NamedTuple):
    """Noise levels, tensors of one shape: () for one, (N,) for a ladder, (B, 1, ..., 1) for a batch."""

    alpha: Tensor
    """Factor of the data, > 0."""
    sigma: Tensor
    """Standard deviation of the noise, > 0."""
    log_snr: Tensor
    """log(alpha^2 / sigma^2), in nats."""

    def at(self, i: int) -> Self:
        """Level i of a ladder; negative counts from the clean end."""
        return self._make(field[i] for field in self)

    def view(self, ndim: int) -> Self:
        """A batch's levels (B,) as (B, 1, ..., 1) with `ndim` axes, to be broadcast against z.

        A single level stays.
        """
        return self._make(field.reshape(-1, *[1] * (ndim - 1)) if field.ndim else field for field in self)

    def to(self, like: Tensor) -> Self:
        """The levels with the dtype and on the device of `like`."""
        return self._make(field.to(like) for field in self)

    def over(self, z: Tensor) -> Self:
        """The levels as factors of z: a batch's are `view`ed and moved `to` z; a single one stays as it is.

        A 0-dimensional tensor promotes no other and may be on the CPU: it keeps its precision.
        """
        return self.view(z.ndim).to(z) if self.log_snr.ndim else self

    def steps(self) -> Iterator[tuple[Self, Self]]:
        """The transitions (t, s) of a ladder, from noisy to clean: N levels have N - 1."""
        for i in range(len(self.log_snr) - 1):
            yield self.at(i), self.at(i + 1)


Scaling = Callable[[Tensor], Level]
"""log_snr -> Level."""


def vp(log_snr: Tensor) -> Level:
    """Variance preserving: alpha^2 + sigma^2 = 1 (DDPM, improved DDPM, VDM)."""
    return Level(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt(), log_snr)


def ve(log_snr: Tensor) -> Level:
    """Variance exploding: alpha = 1, sigma = exp(-log_snr / 2) (NCSN, EDM)."""
    return Level(torch.ones_like(log_snr), torch.exp(-0.5 * log_snr), log_snr)


def subvp(log_snr: Tensor) -> Level:
    """Sub-VP: sigma = 1 - alpha^2 (score SDE, arXiv:2011.13456, eq. 29).

    With r = alpha / sigma = exp(log_snr / 2): alpha = 2 r / (1 + sqrt(1 + 4 r^2)), the positive root of
    r alpha^2 + alpha - r = 0.
    """
    r = torch.exp(0.5 * log_snr)
    sigma = 2 / (1 + torch.hypot(torch.ones_like(r), 2 * r))
    return Level(r * sigma, sigma, log_snr)


def flow(log_snr: Tensor) -> Level:
    """Straight lines: alpha + sigma = 1 (flow matching, rectified flow)."""
    return Level(torch.sigmoid(0.5 * log_snr), torch.sigmoid(-0.5 * log_snr), log_snr)


SCALINGS: dict[str, Scaling] = {"vp": vp, "ve": ve, "subvp": subvp, "flow": flow}
