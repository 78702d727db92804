"""The energy distance between two clouds of points."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import Estimate

ROWS = 256  # points a side: distances of as many from each other stay in a processor's cache


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
    x, y = (points.detach().cpu().double() for points in (x, y))
    n, m = len(x), len(y)
    from_x, from_y = between(x, y)
    within_x, within_y = within(x), within(y)
    across, inside_x, inside_y = from_x.sum(), within_x.sum(), within_y.sum()
    value = 2 * across / (n * m) - inside_x / (n * (n - 1)) - inside_y / (m * (m - 1))

    def variance(own: Tensor, others: Tensor, inside: Tensor) -> Tensor:
        """The jackknife's over one set's points; what the other set adds is the same in all."""
        k, other = len(own), n + m - len(own)
        without = 2 * (across - others) / ((k - 1) * other) - (inside - 2 * own) / ((k - 1) * (k - 2))
        return (k - 1) * without.var(correction=0)

    squared = variance(within_x, from_x, inside_x) + variance(within_y, from_y, inside_y)
    return Estimate(float(value), math.sqrt(squared))


def between(
    a: Float64[Tensor, "n d"], b: Float64[Tensor, "m d"]
) -> tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]]:
    """For each point of a, the sum of its distances from all of b; and for each point of b, from all of a."""
    from_a, from_b = a.new_zeros(len(a)), b.new_zeros(len(b))
    for part, sums in zip(a.split(ROWS), from_a.split(ROWS), strict=True):
        for other, others in zip(b.split(ROWS), from_b.split(ROWS), strict=True):
            # The faster way by squares and products cancels where points are near.
            apart = torch.cdist(part, other, compute_mode="donot_use_mm_for_euclid_dist")
            sums += apart.sum(1)
            others += apart.sum(0)
    return from_a, from_b


def within(a: Float64[Tensor, "n d"]) -> Float64[Tensor, "n"]:
    """For each point, the sum of its distances from all of its own set: each pair of parts is taken once."""
    sums = a.new_zeros(len(a))
    for start in range(0, len(a), ROWS):
        end = start + ROWS
        here, there = between(a[start:end], a[end:])
        sums[start:end] += between(a[start:end], a[start:end])[0] + here
        sums[end:] += there
    return sums
