"""A number as it is told: with its error, its interval, how many it is of, and what it was measured by."""

import math
from typing import Any

from phin.metrics.jackknife import Estimate

ANY = (-math.inf, math.inf)
POSITIVE = (0.0, math.inf)


def known(estimate: Estimate, ends: tuple[float, float] = ANY) -> dict[str, Any]:
    """An estimate, JSON-able; None is an error, or an interval, that one cannot tell, as of one example.

    Args:
        estimate: The number and its error.
        ends: Between which values the number can be: an interval does not reach beyond.
    """
    if math.isnan(estimate.error):
        return {"value": estimate.value, "error": None, "interval": None}
    low, high = estimate.interval
    interval = [max(low, ends[0]), min(high, ends[1])]
    return {"value": estimate.value, "error": estimate.error, "interval": interval}


def figure(
    estimate: Estimate, n: int, split: str, m: int | None = None, ends: tuple[float, float] = POSITIVE
) -> dict[str, Any]:
    """An estimate as of `known`, and what it is of.

    Args:
        estimate: The number and its error.
        n: Of how many pictures, or other examples.
        split: The split of the data that they were measured by, or are from.
        m: How many of it; n if None.
        ends: As of `known`.
    """
    return {**known(estimate, ends), "n": n, "reference": {"split": split, "n": n if m is None else m}}
