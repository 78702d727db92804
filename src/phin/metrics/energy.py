"""The energy distance between two clouds of points."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import Estimate


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m _"]) -> Estimate:
    """The energy distance of the distributions that two sets of points were drawn from, in the points' units.

        2 E|X - Y| - E|X - X'| - E|Y - Y'|,

    with X, X' and Y, Y' independent draws and |.| the Euclidean length: 0 if the distributions are equal,
    else positive. The estimate is the unbiased one, of means over pairs of different points: it falls on
    either side of 0 where the distributions are equal, and estimates from any n and m compare.

    The error is the jackknife's, over the points of both sets: with E_i the estimate without point i of x,
    and E'_j that without point j of y,

        error² = (n - 1) / n sum_i (E_i - mean E)² + (m - 1) / m sum_j (E'_j - mean E')².

    On average it is not too small (Efron and Stein, 1981). Where the distributions are equal it is too large
    by a factor of about sqrt(2).

    Args:
        x: Points, at least 3.
        y: Points, at least 3, apart from those of x.

    Raises:
        PhinError: Fewer points, points of different dimensions, or one that is not finite.

    References:
        Energy statistics: a class of statistics based on distances (Székely and Rizzo, 2013), Journal of
            Statistical Planning and Inference 143, section 2 (times 2 m n / (n + m) it is their test's).
        The jackknife estimate of variance (Efron and Stein, 1981), Annals of Statistics 9, theorem 2.
    """
    if x.shape[1] != y.shape[1]:
        raise PhinError(f"points of {x.shape[1]} and {y.shape[1]} dimensions cannot be compared")
    if min(len(x), len(y)) < 3:
        raise PhinError(
            f"{len(x)} and {len(y)} points have no energy distance with an error; give 3 or more of each"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise PhinError("a point is not finite; look for NaN in what made it")
    n, m = len(x), len(y)
    between, within_x, within_y = lengths(x, y), lengths(x, x), lengths(y, y)
    across, inside_x, inside_y = between.sum(), within_x.sum(), within_y.sum()
    value = 2 * across / (n * m) - inside_x / (n * (n - 1)) - inside_y / (m * (m - 1))

    def variance(own: Tensor, others: Tensor, inside: Tensor) -> Tensor:
        """The jackknife's over one set's points; what the other set adds is the same in all."""
        k, other = len(own), n + m - len(own)
        without = 2 * (across - others) / ((k - 1) * other) - (inside - 2 * own) / ((k - 1) * (k - 2))
        return (k - 1) * without.var(correction=0)

    squared = variance(within_x, between, inside_x) + variance(within_y, lengths(y, x), inside_y)
    return Estimate(float(value), math.sqrt(squared))


def lengths(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], rows: int = 1024) -> Float[Tensor, "n"]:
    """For each point of a, the sum of its distances from all of b, in float64."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    # The faster way by squares and products cancels where points are near.
    plain = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, b, compute_mode=plain).sum(1) for part in a.split(rows)])
