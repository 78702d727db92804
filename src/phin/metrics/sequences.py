"""What sequences are like on average: their spectrum, and the moments of angles on the circle."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import GROUPS, Estimate, jackknife

HIGHEST = 3
"""Circular moments E[e^(i p theta)] are compared up to this order p."""


def spectrum(x: Float[Tensor, "n channels length"]) -> Float[Tensor, "n frequencies"]:
    """The power of each sequence at k waves over its length L, k = 0 .. L / 2, all channels together.

        P_k = w_k |1/L sum_j x_j e^(-2 pi i j k / L)|²,

    w_k being 2, or 1 where -k is the same frequency: so the powers add up to the mean of x_j² (Parseval).
    """
    length = x.shape[-1]
    amplitude = torch.fft.rfft(x.double(), norm="forward")
    k = torch.arange(amplitude.shape[-1])
    weight = torch.where((k == 0) | (2 * k == length), 1.0, 2.0).to(amplitude.device)
    return (weight * amplitude.abs().square()).sum(1)


def angles(x: Float[Tensor, "n 2 length"]) -> Complex[Tensor, "n values"]:
    """e^(i p theta_j) of the angle at each place j, for every order p."""
    return _moments(_turns(x))


def steps(x: Float[Tensor, "n 2 length"]) -> Complex[Tensor, "n values"]:
    """e^(i p (theta_{j + d} - theta_j)) of steps over d = 1, 2, 4, 8 places, by order p: means over j."""
    turns = _turns(x)
    apart = [d for d in (1, 2, 4, 8) if d < x.shape[-1]]
    found = [_moments(turns[:, d:] * turns[:, :-d].conj()).unflatten(1, (HIGHEST, -1)) for d in apart]
    return torch.cat([part.mean(2) for part in found], 1)


def off_circle(x: Float[Tensor, "n 2 length"]) -> Float[Tensor, "n"]:
    """How far each sequence is from the unit circle, on average over its places."""
    return (torch.linalg.vector_norm(x.double(), dim=1) - 1).abs().mean(1)


def _turns(x: Float[Tensor, "n 2 length"]) -> Complex[Tensor, "n length"]:
    """e^(i theta) of the directions of points of the plane."""
    return torch.sgn(torch.complex(*x.double().unbind(1)))


def _moments(turns: Complex[Tensor, "n length"]) -> Complex[Tensor, "n values"]:
    return turns[:, None].expand(-1, HIGHEST, -1).cumprod(1).flatten(1)


def mean_error(x: Num[Tensor, "n values"], real: Num[Tensor, "m values"]) -> Estimate:
    """How far the means of a statistic are from those of real data, in all: 0 if they are equal.

        sum_k |mean x_k - mean real_k| / sum_k |mean real_k|

    Chance alone makes it positive, by about 1 / sqrt(n): it is to be compared with what as many real data
    get. The error is the jackknife's over `GROUPS` groups, each left out on both sides.

    Args:
        x: The statistic of each sequence.
        real: That of real ones.

    Raises:
        PhinError: Too few sequences for groups, or values that are not finite.
    """
    if min(len(x), len(real)) < 2 * GROUPS:
        raise PhinError(f"{len(x)} and {len(real)} sequences are too few: give at least {2 * GROUPS} of each")
    if not bool(x.isfinite().all() and real.isfinite().all()):
        raise PhinError("a sequence has values that are not finite; look for NaN in what made it")

    def of(rows: Callable[[int], Tensor]) -> float:
        made, true = (part[rows(len(part))].mean(0) for part in (x, real))
        return float((made - true).abs().sum() / true.abs().sum())

    without = [of(lambda n, left=group: torch.arange(n) % GROUPS != left) for group in range(GROUPS)]
    return jackknife(of(torch.arange), without)


@dataclass(frozen=True)
class Statistic:
    """A property of sequences whose means are compared."""

    title: str
    of: Callable[[Tensor], Tensor]
    """Sequences (n, C, L) -> real or complex values (n, K)."""
    circular: bool = False
    """Whether it is one of angles, given by their cosines and sines."""


STATISTICS: dict[str, Statistic] = {
    "spectrum": Statistic("error of the spectrum", spectrum),
    "angles": Statistic("error of circular moments of angles", angles, circular=True),
    "steps": Statistic("error of circular moments of steps", steps, circular=True),
}
