"""Density and coverage: precision and recall by the balls of real points only, which no outlier can enlarge.

References:
    Reliable fidelity and diversity metrics for generative models (Naeem et al., 2020), arXiv:2002.09797,
    equations 4 to 6, with k = 5.
"""

from phin.metrics.jackknife import Estimate
from phin.metrics.neighbours import Points, clouds, counts, estimate, reached

NEIGHBOURS = 5


def density(generated: Points, real: Points, k: int = NEIGHBOURS) -> Estimate:
    """In how many balls of real points a generated one is, over k: `mean_j sum_i 1[|y_j - x_i| <= r_i] / k`.

    It is about 1 for real points; more where what is drawn keeps to where real points are dense. The error is
    the `jackknife`'s that leaves out every tenth of both sets.

    Raises:
        PhinError: Too few points for k neighbours, or features of different dimensions.
    """
    inside, centres = clouds(generated, real)
    return estimate(inside.mean(counts(centres, centres.squared_radii(k), inside)) / k)


def coverage(generated: Points, real: Points, k: int = NEIGHBOURS) -> Estimate:
    """The share of real points in whose ball a generated one is: `mean_i 1[any_j |y_j - x_i| <= r_i]`.

    With as many generated points as real ones, of the same distribution, it is about 1 - 2^-k. The error is
    as of `density`.

    Raises:
        PhinError: As `density`.
    """
    inside, centres = clouds(generated, real)
    return estimate(centres.mean(reached(centres, centres.squared_radii(k), inside)))
