"""A number as it is told: with its error, its interval, how many it is of, and what it was measured by."""

import math
from typing import Any

from phin.metrics.jackknife import Estimate


def figure(
    estimate: Estimate, n: int, split: str, m: int | None = None, ends: tuple[float, float] = (0.0, math.inf)
) -> dict[str, Any]:
    """An estimate, JSON-able.

    Args:
        estimate: The number and its error.
        n: Of how many pictures, or other examples.
        split: The split of the data that they were measured by, or are from.
        m: How many of it; n if None.
        ends: Between which values the number can be: an interval does not reach beyond.
    """
    low, high = estimate.interval
    return {
        "value": estimate.value,
        "error": estimate.error,
        "interval": [max(low, ends[0]), min(high, ends[1])],
        "n": n,
        "reference": {"split": split, "n": n if m is None else m},
    }
