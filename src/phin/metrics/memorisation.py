"""Whether what a model draws is nearer to its training data than other real data are.

References:
    A non-parametric test to detect data-copying in generative models (Meehan et al., 2020), arXiv:2004.05675,
    section 2, without its cells.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64, Num
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import GROUPS, Estimate, jackknife

ROWS = 4096  # of the training data, at once


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest training example of each of some points."""

    distance: Float64[Tensor, "n"]
    index: Int64[Tensor, "n"]


def nearest(x: Num[Tensor, "n dims"], train: Num[Tensor, "m dims_train"]) -> Nearest:
    """The nearest training examples, and their Euclidean distances in the units of x: 0 of copies.

    Raises:
        PhinError: Different dimensions, or no training data.
    """
    if x.shape[1] != train.shape[1] or not len(train):
        raise PhinError(
            f"{len(train):,} training examples of {train.shape[1]} dimensions are no neighbours of points of "
            f"{x.shape[1]}; give some of the same"
        )
    centre = train[:ROWS].float().mean(0)  # of shifted points, differences lose less to rounding
    x = x.float()
    best = torch.full((len(x),), torch.inf)
    index = torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(train), ROWS):
        part = train[start : start + ROWS].float() - centre
        found, place = torch.addmm(part.square().sum(1), x - centre, part.T, alpha=-2).min(1)
        nearer = found < best
        best, index = torch.where(nearer, found, best), torch.where(nearer, start + place, index)
    apart = x.double() - train[index].double()  # exact, whatever was lost in finding them
    return Nearest(apart.square().sum(1).sqrt(), index)


def copying(generated: Float64[Tensor, "n"], test: Float64[Tensor, "m"], groups: int = GROUPS) -> Estimate:
    """The probability that a generated example is nearer to the training data than a test example is.

    `P(D < D') + P(D = D') / 2`, with D the distance from the nearest training example: 1/2 if the model draws
    as the data are distributed, near 1 if it copies. It is also above 1/2 where what is drawn is merely
    smooth or typical: look at the most similar pairs. Below 1/2, the model draws what is far from all data.
    The error is the `jackknife`'s that leaves out every tenth of both sets.

    Args:
        generated: Distances of generated examples from the training data.
        test: Distances of real examples that the model was not trained on.
        groups: Groups of the jackknife.

    Raises:
        PhinError: Fewer than one in a group.
    """
    if min(len(generated), len(test)) < groups:
        raise PhinError(
            f"{len(generated)} and {len(test)} distances are too few to compare: give {groups} or more"
        )
    less = (generated[:, None] < test).double() + (generated[:, None] == test).double() / 2
    own, others = (torch.arange(len(a)) % groups for a in (generated, test))
    left = [float(less[own != group][:, others != group].mean()) for group in range(groups)]
    return jackknife(float(less.mean()), left)
