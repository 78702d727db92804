"""The kernel distance between two sets of features, without bias at any size of the sets."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import GROUPS, Estimate, jackknife

DEGREE = 3


def kernel_distance(
    x: Float[Tensor, "n dims"], y: Float[Tensor, "m dims_y"], groups: int = GROUPS
) -> Estimate:
    """The squared maximum mean discrepancy of two distributions under a cubic kernel, estimated without bias.

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j),
        k(a, b) = (a b / dims + 1)³:

    what is known as KID where features are those of Inception-v3. Of equal distributions it is 0 on average,
    so it falls on either side of 0, and estimates from any n and m compare. It sees means, covariances and
    third moments.

    Published ones are means over random subsets of 1,000; this one is of all pairs, which the mean over
    subsets tends to. The error is the `jackknife`'s that leaves out every tenth of both sets.

    Args:
        x: Features.
        y: Features, of the same network.
        groups: Groups of the jackknife.

    Raises:
        PhinError: Fewer than two in a group, or features of different dimensions.

    References:
        Demystifying MMD GANs (Bińkowski et al., 2018), arXiv:1801.01401, equations 4 and 5 and section 4.
        A kernel two-sample test (Gretton et al., 2012), lemma 6.
    """
    if x.shape[1] != y.shape[1]:
        raise PhinError(f"features of {x.shape[1]} and {y.shape[1]} dimensions cannot be compared")
    if min(len(x), len(y)) < 2 * groups:
        raise PhinError(
            f"{len(x)} and {len(y)} pictures have no kernel distance with an error; give {2 * groups} or "
            "more of each"
        )
    sums = _Sums(_blocks(x, x, groups, True), _blocks(y, y, groups, True), _blocks(x, y, groups, False))
    n, m = (torch.bincount(_group(a, groups), minlength=groups) for a in (x, y))
    every = torch.ones(groups, dtype=torch.float64)
    left = [sums.distance(every - one, n, m) for one in torch.eye(groups, dtype=torch.float64)]
    return jackknife(sums.distance(every, n, m), left)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of the kernel between groups, (groups, groups): of different points within a set, and across."""

    within_x: Tensor
    within_y: Tensor
    across: Tensor

    def distance(
        self, kept: Float64[Tensor, "groups"], n: Int64[Tensor, "groups"], m: Int64[Tensor, "groups"]
    ) -> float:
        """The distance of the groups that are kept, those that are 1 and not 0; n and m are their sizes."""
        x, y = float(kept @ n.double()), float(kept @ m.double())
        within = kept @ self.within_x @ kept / (x * (x - 1)) + kept @ self.within_y @ kept / (y * (y - 1))
        return float(within - 2 * (kept @ self.across @ kept) / (x * y))


def _group(x: Tensor, groups: int) -> Int64[Tensor, "n"]:
    return torch.arange(len(x)) % groups


def _blocks(
    a: Tensor, b: Tensor, groups: int, same: bool, rows: int = 256
) -> Float64[Tensor, "groups groups"]:
    """Sums of the kernel between groups of a and of b, in float64; of the `same`, of different points."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    sums, of = torch.zeros(groups, groups, dtype=torch.float64), _group(a, groups)
    columns = torch.nn.functional.one_hot(_group(b, groups), groups).double()
    for part, group in zip(a.split(rows), of.split(rows), strict=True):
        sums.index_add_(0, group, _kernel(part @ b.T, a.shape[1]) @ columns)
    if same:
        sums.diagonal().index_add_(0, of, -_kernel(a.square().sum(1), a.shape[1]))
    return sums


def _kernel(product: Tensor, dims: int) -> Tensor:
    return (product / dims + 1) ** DEGREE
