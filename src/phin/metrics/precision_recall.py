"""Precision and recall: how many pictures look real, and how many real ones could have been drawn.

Where a set of points lies is told by balls around each that reach its k-th neighbour.

References:
    Improved precision and recall metric for assessing generative models (Kynkäänniemi et al., 2019),
    arXiv:1904.06991, equations 1 and 2, with k = 3.
"""

from phin.metrics.jackknife import Estimate
from phin.metrics.neighbours import Points, clouds, counts, estimate

NEIGHBOURS = 3


def precision(generated: Points, real: Points, k: int = NEIGHBOURS) -> Estimate:
    """The share of generated points in the ball of some real one: `mean_j 1[any_i |y_j - x_i| <= r_i]`.

    Real points have no more than about 0.8 to show, most often: see what training data have. One real outlier
    with a large ball can make it high, of which `density` is less afraid. The error is the `jackknife`'s that
    leaves out every tenth of both sets.

    Raises:
        PhinError: Too few points for k neighbours, or features of different dimensions.
    """
    inside, centres = clouds(generated, real)
    return estimate(inside.mean(counts(centres, centres.squared_radii(k), inside) > 0))


def recall(generated: Points, real: Points, k: int = NEIGHBOURS) -> Estimate:
    """The share of real points that are in the ball of some generated one: low where modes are missing.

    Generated noise, whose balls are vast, can have all of it: it is worth nothing without precision.
    """
    return precision(real, generated, k)
