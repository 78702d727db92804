"""How many of the thousand modes of stacked MNIST a model draws, and how evenly.

References:
    Unrolled generative adversarial networks (Metz et al., 2016), arXiv:1611.02163, section 3.3.1.
    PacGAN: the power of two samples in generative adversarial networks (Lin et al., 2018), arXiv:1712.04086,
        section 4.2 (the count, and the divergence of the drawn from the modes of the data).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.features import Features
from phin.metrics.jackknife import GROUPS, Estimate, jackknife
from phin.pictures import to_integers


@dataclass(frozen=True)
class Modes:
    """What was counted in n pictures.

    Attributes:
        found: Modes of which there is at least one picture. Of K equally likely ones, n pictures of the data
            miss K (1 - 1 / K)^n on average.
        modes: How many there are, K.
        n: Pictures.
        kl: KL(drawn || uniform) = sum_k p_k log(K p_k) in nats, of the shares p_k of the pictures. Of equally
            likely modes it is (K - 1) / (2 n) on average, if n is large against K.
    """

    found: Estimate
    modes: int
    n: int
    kl: Estimate


def read_modes(reader: Features, x: Float[Tensor, "n layers height width"]) -> Int64[Tensor, "n"]:
    """The mode of each picture, a number of one digit a layer, of which the first has the highest value.

    Each layer is rounded to 8 bits and read by itself.
    """
    layers = to_integers(x.flatten(0, 1)[:, None])
    digits = torch.cat([reader(part).logits.argmax(1).cpu() for part in layers.split(512)])
    value = len(reader.class_names) ** torch.arange(x.shape[1]).flip(0)
    return (digits.view(len(x), -1) * value).sum(1)


def count(
    reader: Features,
    pictures: Iterable[tuple[Sequence[int] | range, Float[Tensor, "_ layers height width"]]],
    layers: int,
) -> Int64[Tensor, "groups modes"]:
    """How many of the pictures are of each mode: to be added up over processes.

    Args:
        reader: What reads them.
        pictures: In batches, with their numbers: number i belongs to group i mod `GROUPS`.
        layers: Of each.
    """
    modes = len(reader.class_names) ** layers
    counts = torch.zeros(GROUPS * modes, dtype=torch.int64)
    for places, x in pictures:
        group = torch.as_tensor(places) % GROUPS
        counts += torch.bincount(group * modes + read_modes(reader, x), minlength=len(counts))
    return counts.view(GROUPS, modes)


def tally(counts: Int64[Tensor, "groups modes"]) -> Modes:
    """What to say of so many pictures of each mode, with the errors of the `jackknife` over groups.

    Raises:
        PhinError: There are no pictures without one of the groups.
    """
    whole, left = counts.sum(0), counts.sum(0) - counts
    if not bool(left.any(1).all()):
        raise PhinError(f"{int(whole.sum())} pictures are too few for modes: give 25,600 of stacked MNIST")

    def kl(count: Tensor) -> float:
        share = count.double() / count.sum()
        return torch.xlogy(share, share * len(share)).sum().item()

    def found(count: Tensor) -> float:
        return float((count > 0).sum())

    estimates = [jackknife(of(whole), [of(part) for part in left]) for of in (found, kl)]
    return Modes(estimates[0], counts.shape[1], int(whole.sum()), estimates[1])
