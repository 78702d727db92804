"""A number and how far chance may have moved it: the jackknife over groups of pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

GROUPS = 10
"""Groups that pictures are taken in: number i belongs to group i mod 10."""

REACH = 2.2621571628
"""Student's t with 9 degrees of freedom is within ± this with probability 95 %."""
NORMAL = 1.9599639845
"""And the normal distribution's deviate, within ± this."""


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float
    reach: float = REACH
    """Errors from the value to the end of an interval of 95 %; by default of a jackknife over `GROUPS`."""
    without: tuple[float, ...] = field(default=(), compare=False, repr=False)
    """Of a jackknife, the values without each group."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.value - self.reach * self.error, self.value + self.reach * self.error


def mean(values: Float[Tensor, " n"]) -> Estimate:
    """The mean of independent values, of which there is one at least, and its standard error s / sqrt(n)."""
    deviation = float(values.double().std()) if len(values) > 1 else math.nan
    return Estimate(float(values.double().mean()), deviation / math.sqrt(len(values)), NORMAL)


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """An estimate from the value of all, and the values without each of k equal, independent groups.

    With D_i the value without group i, `error² = (k - 1) / k * sum((D_i - mean(D))²)`. It needs no more
    than that the value is a smooth function of many pictures. A bootstrap, which draws pictures again, would
    not do: twins have no distance, and fewer different pictures have a larger bias.

    Args:
        value: Of all.
        without: Without each group, at least 2.

    References:
        The jackknife, the bootstrap and other resampling plans (Efron, 1982), chapter 3.
    """
    k, mean = len(without), math.fsum(without) / len(without)
    error = math.sqrt((k - 1) / k * math.fsum((one - mean) ** 2 for one in without))
    return Estimate(value, error, without=tuple(without))


def ratio(above: Estimate, below: Estimate) -> Estimate | None:
    """One estimate over another, by the `jackknife` that leaves out a group of all that went into both.

    So the error is that of both, less what they have in common, such as a reference.

    Args:
        above: Of a jackknife.
        below: Of one over as many groups. Where it is 0, or is without a group, there is no ratio.
    """
    if not (below.value and all(below.without)):
        return None
    pairs = zip(above.without, below.without, strict=True)
    return jackknife(above.value / below.value, [a / b for a, b in pairs])
