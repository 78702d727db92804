"""The Frechet distance between two sets of features, each summed up by its mean and covariance."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy.typing import NDArray
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import Estimate as Estimate
from phin.metrics.jackknife import jackknife


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of feature vectors, in float64; `a + b` are those of both sets together.

    Attributes:
        n: How many vectors.
        mean: (d,).
        scatter: (d, d), the sum of (f - mean)(f - mean)^T: unlike the covariance, it adds up.

    References:
        Updating formulae and a pairwise algorithm for computing sample variances (Chan et al., 1979).
    """

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The unbiased estimate, (d, d).

        Raises:
            PhinError: Fewer than two vectors have no covariance.
        """
        if self.n < 2:
            raise PhinError(f"{self.n} feature vectors have no covariance; give over 1,000")
        return self.scatter / (self.n - 1)

    def __add__(self, other: "Moments") -> "Moments":
        _check_dimensions(self, other)
        n = self.n + other.n
        if n == 0:
            return self
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between)


def moments(features: Float[Tensor, "n d"] | Num[np.ndarray, "n d"]) -> Moments:
    """Moments of one batch of features; add the batches' moments together for those of the whole.

    Raises:
        PhinError: A feature is NaN or infinite.
    """
    f = torch.as_tensor(features).detach().double().cpu().numpy()
    bad = ~np.isfinite(f)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise PhinError(
            f"feature {column} of picture {row} is {f[row, column]}, and {bad.any(1).sum()} of {len(f)} "
            "pictures have such features; look for NaN in the pictures or in the network's weights"
        )
    mean = f.mean(0) if len(f) else np.zeros(f.shape[1])
    centred = f - mean
    return Moments(len(f), mean, centred.T @ centred)


def _check_dimensions(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise PhinError(
            f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared; "
            "take both from the same network"
        )


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared 2-Wasserstein distance of the Gaussians with these moments, in the features' units squared.

    `|mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)`. The last trace is the sum of the
    singular values of A^1/2 B^1/2, whose squares are the eigenvalues of A^1/2 B A^1/2: real, symmetric in a
    and b, and as exact for singular covariances as for others (`sqrtm(A B)` is none of that).

    The estimate is biased upwards, by about 1/n: only distances at the same n compare, and 0 is not to be
    had. State n, and the distance of two real sets of that size (the floor). With n <= d a covariance lacks
    full rank, most of the distance is bias, and a warning says so.

    Raises:
        PhinError: Fewer than two vectors on either side, or different dimensions.

    References:
        GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al.,
        2017), arXiv:1706.08500, equation 6.
        The Fréchet distance between multivariate normal distributions (Dowson, Landau, 1982).
    """
    _check_dimensions(a, b)
    first, second = a.covariance, b.covariance
    n, d = min(a.n, b.n), len(a.mean)
    if n <= d:
        warnings.warn(
            f"a Frechet distance from {n} pictures in {d} dimensions is mostly bias; use many more than {d}",
            stacklevel=2,
        )
    cross = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    apart = a.mean - b.mean
    return max(0.0, float(apart @ apart + np.trace(first) + np.trace(second) - 2 * cross))


def frechet_estimate(a: Sequence[Moments], b: Sequence[Moments]) -> Estimate:
    """The Frechet distance of two sets, each given as the moments of k equal, independent groups.

    The value is the distance of the whole sets. The error is that of the `jackknife` which leaves out the
    i-th group of both.

    Raises:
        PhinError: Fewer than two groups, or not as many in a as in b; and as `frechet_distance`.
    """
    k = len(a)
    if k < 2 or len(b) != k:
        raise PhinError(f"{k} and {len(b)} groups of features; give as many on either side, and at least 2")

    def without(groups: Sequence[Moments], i: int) -> Moments:
        return reduce(add, (group for j, group in enumerate(groups) if j != i))

    left = [frechet_distance(without(a, i), without(b, i)) for i in range(k)]
    return jackknife(frechet_distance(reduce(add, a), reduce(add, b)), left)
