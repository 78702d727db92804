"""Timing in turns, and what is said of it: medians and ratios, each with its spread."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Clock = Callable[[], float]


class Spread(NamedTuple):
    """The median of some numbers, and the quartiles about it."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def spread(values: Sequence[float]) -> Spread:
    """Median, lower and upper quartile."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))


def rates(amount: float, seconds: Sequence[float]) -> Spread:
    """So much a second."""
    return spread([amount / s for s in seconds])


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times as fast we are: their seconds over ours, round by round.

    What slows down the machine in one round slows down both, so that the ratio of a round is steadier than
    either time.
    """
    return spread([their / our for their, our in zip(theirs, ours, strict=True)])


def interleaved(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each action in each round.

    All actions take turns, once a round; so whatever else the machine does meets all of them alike. Each
    round begins with another one, so that none always follows the same.

    Args:
        actions: What to time.
        rounds: How often each is timed.
        warm_up: Rounds before that, which are not timed.
        clock: Seconds.
    """
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            begun = clock()
            actions[name]()
            taken = clock() - begun
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The b of cost = a size^b that fits best: least squares of the logarithms. NaN of one size."""
    if len(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
