"""What is kept of a set of pictures, so that millions of them take no more memory than thousands."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.features import Features, Seen
from phin.metrics.frechet import Moments, moments
from phin.metrics.inception_score import Certainty, certainty
from phin.metrics.jackknife import GROUPS
from phin.metrics.neighbours import Cloud
from phin.metrics.processes import gathered
from phin.metrics.reading import Rate

BATCH = 500  # pictures that a network sees at once
SAME = 1e-10  # variance of features, as a share of their squared mean: no more than rounding


@dataclass(eq=False)
class Summary:
    """Running sums over a set of pictures, and the features of its first few.

    Args:
        kept: Of how many pictures, the first ones, the features are kept.
    """

    kept: int = 0
    n: int = 0
    moments: list[Moments] = field(default_factory=list[Moments])
    """Of the features of each group."""
    certainties: list[Certainty] = field(default_factory=list[Certainty])
    """Of the class probabilities of each group."""
    right: int = 0
    """How many were read as what their labels say."""
    first: list[tuple[Int64[Tensor, "n"], Float[Tensor, "n dims"]]] = field(default_factory=list)
    """Numbers and features of those that are kept."""

    def add(
        self,
        places: Sequence[int] | range,
        seen: Seen,
        labels: Int64[Tensor, "n"] | None = None,
    ) -> None:
        """Takes in some pictures.

        Args:
            places: Their numbers in the set: number i belongs to group i mod `GROUPS`.
            seen: What the network makes of them.
            labels: What they should be read as.

        Raises:
            PhinError: A feature is NaN or infinite.
        """
        number, (features, logits) = torch.as_tensor(places), (part.cpu() for part in seen)
        if not bool(features.isfinite().all()):
            row, column = (~features.isfinite()).nonzero()[0].tolist()
            raise PhinError(
                f"feature {column} of picture {int(number[row])} is {float(features[row, column])}; look for "
                "NaN in the weights of the network that measures, or take another by --features"
            )
        parts = [number % GROUPS == group for group in range(GROUPS)]
        sums = [moments(features[part]) for part in parts], [certainty(logits[part]) for part in parts]
        self._merge(len(number), *sums)
        if labels is not None:
            self.right += int((logits.argmax(1) == labels.cpu()).sum())
        if (early := number < self.kept).any():
            self.first.append((number[early], features[early].float()))
            vars(self).pop("cloud", None)

    def _merge(self, n: int, found: list[Moments], certain: list[Certainty]) -> None:
        self.moments = list(map(add, self.moments, found)) if self.n else found
        self.certainties = list(map(add, self.certainties, certain)) if self.n else certain
        self.n += n

    @property
    def features(self) -> Float[Tensor, "kept dims"]:
        """Those of the first pictures, in their order."""
        number, features = (torch.cat(parts) for parts in zip(*self.first, strict=True))
        return features[number.argsort()]

    @cached_property
    def cloud(self) -> Cloud:
        """The same, with what several measures need of the distances among them."""
        return Cloud.of(self.features)

    @property
    def rate(self) -> Rate:
        """How many were read as what their labels say."""
        return Rate(self.right, self.n)

    def check(self, what: str, features: Features) -> None:
        """Refuses pictures that cannot be measured.

        Args:
            what: What they are, for the message.
            features: What has seen them.

        Raises:
            PhinError: Their features have no covariance, even without a group, or they are all the same.
        """
        enough(self.n, what, features)
        whole = reduce(add, self.moments)
        if np.trace(whole.scatter) <= SAME * self.n * (whole.mean @ whole.mean):
            raise PhinError(
                f"all {self.n:,} {what} look the same to {features.name}: there is only one picture, or "
                "nothing in them; look at some"
            )

    def gathered(self) -> "Summary":
        """That of the pictures of all processes, known to all of them."""
        whole = Summary(self.kept)
        features = [*zip(*self.first, strict=True)]
        d, classes = len(self.moments[0].mean), len(self.certainties[0].total)
        both = [*zip(self.moments, self.certainties, strict=True)]
        flat = torch.cat(
            [
                torch.tensor([[m.n, c.entropy] for m, c in both], dtype=torch.float64),
                torch.stack([c.total for c in self.certainties]),
                torch.from_numpy(np.stack([m.mean for m in self.moments])),
                torch.from_numpy(np.stack([m.scatter.reshape(-1) for m in self.moments])),
            ],
            1,
        )
        for part in gathered(flat):
            counts, totals, means, scatters = part.split([2, classes, d, d * d], 1)
            n = [int(count) for count in counts[:, 0]]
            found = [
                Moments(k, mean.numpy(), scatter.view(d, d).numpy())
                for k, mean, scatter in zip(n, means, scatters, strict=True)
            ]
            certain = [
                Certainty(k, total, float(e)) for k, total, e in zip(n, totals, counts[:, 1], strict=True)
            ]
            whole._merge(sum(n), found, certain)
        whole.right = sum(int(part.sum()) for part in gathered(torch.tensor([self.right])))
        if self.kept:
            parts = (gathered(torch.cat(column)) for column in features)
            whole.first = [*zip(*parts, strict=True)]
        return whole


def enough(n: int, what: str, features: Features) -> None:
    """Refuses too few pictures, before any is looked at; arguments as of `Summary.check`.

    Raises:
        PhinError: So many pictures have no covariance of their features, even without a group.
    """
    if n < (least := fewest(features.dims)):
        raise PhinError(
            f"{n:,} {what} are too few for the {features.dims:,} features of {features.name}, whose "
            f"covariance they leave open: give {least:,} or more, or take fewer features by --features"
        )


def fewest(dims: int) -> int:
    """The fewest pictures that have a covariance of so many features, even without the largest group.

    The least n for which n - ceil(n / GROUPS) is above `dims`, for a covariance of n vectors has a rank of
    n - 1 at most.
    """
    return math.ceil(GROUPS * (dims + 1) / (GROUPS - 1))


def summarised(
    features: Features,
    pictures: UInt8[Tensor, "n channels height width"],
    kept: int = 0,
    labels: Int64[Tensor, "n"] | None = None,
) -> Summary:
    """The summary of pictures that are all there."""
    summary = Summary(kept)
    for start in range(0, len(pictures), BATCH):
        rows = slice(start, start + BATCH)
        places = range(len(pictures))[rows]
        summary.add(places, features(pictures[rows]), None if labels is None else labels[rows])
    return summary
