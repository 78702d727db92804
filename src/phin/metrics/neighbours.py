"""Balls around points that reach their k-th neighbour: what precision, recall, density and coverage count by.

All of it is done for the whole sets and, for the jackknife, for the sets without each group. Row l of a
result is without group l, and the last row is of the whole; points are numbered in the order of their groups.
Counts jump when a neighbour goes, of which a jackknife makes too much: errors are once to 1.6 times those of
repetition.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import GROUPS, Estimate, jackknife

ROWS = 256
NOWHERE = -1.0  # the squared radius of a ball that holds nothing
ROUNDING = 1e-9, 1e-12  # relative, and as a share of the mean squared length


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points in groups of one size: number i is in group i mod `groups`, and comes with its group.

    Args:
        points: Of which the last few, that would fill no group, are left out.
        groups: How many groups.
    """

    points: Float64[Tensor, "n dims"]
    groups: int = GROUPS
    _radii: dict[int, Float64[Tensor, "left n"]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, points: Float[Tensor, "n dims"], groups: int = GROUPS) -> "Cloud":
        """Points as they come."""
        whole = points.detach().cpu().double()[: len(points) // groups * groups]
        return cls(whole.view(-1, groups, points.shape[1]).transpose(0, 1).flatten(0, 1), groups)

    def __len__(self) -> int:
        return len(self.points)

    def present(self) -> Bool[Tensor, "left n"]:
        """Which points there are without each group, and in the whole."""
        group = torch.arange(self.groups).repeat_interleave(len(self) // self.groups)
        left = torch.arange(self.groups + 1)
        return group != left[:, None]

    def mean(self, found: Tensor) -> Float64[Tensor, "left"]:
        """The mean of (left, n) over the points that there are."""
        present = self.present()
        return torch.where(present, found.double(), 0).sum(1) / present.sum(1)

    def squared_radii(self, k: int) -> Float64[Tensor, "left n"]:
        """The squared distance of each point from its k-th neighbour; `NOWHERE` for those that are left out.

        It is a hair more, so that a point at this very distance is inside in spite of rounding. It is found
        when it is first asked for, and kept.

        Raises:
            PhinError: Without a group, there are no k neighbours.
        """
        if k not in self._radii:
            self._radii[k] = self._squared_radii(k)
        return self._radii[k]

    def _squared_radii(self, k: int) -> Float64[Tensor, "left n"]:
        size, groups = len(self) // self.groups, self.groups
        if size * (groups - 1) <= k:
            raise PhinError(
                f"{len(self)} pictures have no {k} neighbours each without a tenth of them; give more "
                "pictures"
            )
        nearest = torch.empty(len(self), groups, min(k, size), dtype=torch.float64)
        for rows, squared in squared_distances(self.points, self.points):
            squared[torch.arange(len(squared)), rows] = torch.inf  # no point is its own neighbour
            nearest[rows] = squared.view(len(squared), groups, size).topk(min(k, size), largest=False).values
        without = [nearest[:, torch.arange(groups) != left] for left in range(groups)]
        radii = [part.flatten(1).kthvalue(k).values for part in [*without, nearest]]
        relative, share = ROUNDING
        spread = (self.points - self.points.mean(0)).square().sum(1).mean()
        return torch.where(self.present(), torch.stack(radii) * (1 + relative) + share * spread, NOWHERE)


def counts(centres: Cloud, squared: Float64[Tensor, "left n"], points: Cloud) -> Int64[Tensor, "left m"]:
    """In how many balls each point is."""
    found = torch.empty(len(squared), len(points), dtype=torch.int64)
    for rows, apart in squared_distances(points.points, centres.points):
        for left, reach in enumerate(squared):
            found[left, rows] = (apart <= reach).sum(1)
    return found


def reached(centres: Cloud, squared: Float64[Tensor, "left n"], points: Cloud) -> Bool[Tensor, "left n"]:
    """Which balls have a point in them."""
    nearest = torch.empty(len(centres), points.groups, dtype=torch.float64)
    for rows, apart in squared_distances(centres.points, points.points):
        nearest[rows] = apart.view(len(apart), points.groups, -1).amin(2)
    without = [nearest[:, torch.arange(points.groups) != left].amin(1) for left in range(points.groups)]
    return torch.stack([*without, nearest.amin(1)]) <= squared


def estimate(values: Float64[Tensor, "left"]) -> Estimate:
    """From the values without each group, and of the whole."""
    *left, whole = values.tolist()
    return jackknife(whole, left)


def squared_distances(
    a: Float64[Tensor, "n dims"], b: Float64[Tensor, "m dims"]
) -> Iterator[tuple[Int64[Tensor, "rows"], Float64[Tensor, "rows m"]]]:
    """Numbers of some of a; and their squared distances from b, |a|² + |b|² - 2 a b about the mean of b."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    length = b.square().sum(1)
    for rows in torch.arange(len(a)).split(ROWS):
        part = a[rows]
        yield rows, torch.addmm(length, part, b.T, alpha=-2).add_(part.square().sum(1)[:, None]).clamp_(min=0)


Points = Float[Tensor, "_ _"] | Cloud
"""Features; or the cloud of them, which several measures may have in common."""


def clouds(a: Points, b: Points) -> tuple[Cloud, Cloud]:
    """Both sets as clouds.

    Raises:
        PhinError: They have different dimensions.
    """
    first, second = (points if isinstance(points, Cloud) else Cloud.of(points) for points in (a, b))
    dims = first.points.shape[1], second.points.shape[1]
    if dims[0] != dims[1]:
        raise PhinError(f"features of {dims[0]} and {dims[1]} dimensions cannot be compared")
    return first, second
