"""The Inception Score: pictures that are each of one class, and of all classes together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.jackknife import Estimate, jackknife


@dataclass(frozen=True, eq=False)
class Certainty:
    """What the score needs to know of the class probabilities of some pictures; `a + b` is that of both.

    Attributes:
        n: How many pictures.
        total: (classes,), the sum of p(y | x), float64.
        entropy: The sum of the entropies of p(y | x), nats.
    """

    n: int
    total: Float[Tensor, "classes"]
    entropy: float

    def __add__(self, other: "Certainty") -> "Certainty":
        return Certainty(self.n + other.n, self.total + other.total, self.entropy + other.entropy)


def certainty(logits: Float[Tensor, "n classes"]) -> Certainty:
    """That of one batch; add the batches' together for that of the whole."""
    p = logits.detach().double().softmax(1)
    return Certainty(len(p), p.sum(0).cpu(), float(torch.special.entr(p).sum()))


def inception_score(splits: Sequence[Certainty]) -> Estimate:
    """The score of pictures in splits: `exp(mean KL(p(y | x) || p(y)))`, from 1 to the number of classes.

    It is `exp(H(p(y)) - mean H(p(y | x)))`, the mean over the splits, as published ones are, most often over
    ten. The error is the standard error of that mean; what is published as ± is sqrt(splits) times as large.
    A score is not measured against a reference: only the scores of real pictures tell what it could be. It
    sees nothing of the variety within a class.

    Args:
        splits: Of equal numbers of pictures, at least 2.

    Raises:
        PhinError: Fewer splits, or one without pictures.

    References:
        Improved techniques for training GANs (Salimans et al., 2016), arXiv:1606.03498, section 4.
        A note on the Inception Score (Barratt and Sharma, 2018), arXiv:1801.01973.
    """
    if len(splits) < 2 or not all(split.n for split in splits):
        counts = ", ".join(f"{split.n:,}" for split in splits)
        raise PhinError(
            f"splits of {counts or 'no'} pictures have no Inception Score; give 2 or more with pictures"
        )
    scores = [
        math.exp(float(torch.special.entr(split.total / split.n).sum()) - split.entropy / split.n)
        for split in splits
    ]
    k, total = len(scores), math.fsum(scores)
    return jackknife(total / k, [(total - one) / (k - 1) for one in scores])
