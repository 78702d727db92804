"""Every measure of a set of pictures against a reference."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from phin.metrics.density_coverage import coverage, density
from phin.metrics.figure import ANY, POSITIVE, figure, known
from phin.metrics.frechet import frechet_estimate
from phin.metrics.inception_score import inception_score
from phin.metrics.jackknife import Estimate, ratio
from phin.metrics.kernel import kernel_distance
from phin.metrics.precision_recall import precision, recall
from phin.metrics.summary import Summary


@dataclass(frozen=True)
class Measure:
    """A number that a set of pictures has, most often beside a reference."""

    title: str
    of: Callable[[Summary, Summary], Estimate]
    """(the pictures, the reference) -> the number."""
    by_first: bool = True
    """Whether it goes by the first of both sets only, whose features are kept, and not by all."""
    ratio: bool = True
    """Whether it makes sense to divide it by that of real pictures."""
    ends: tuple[float, float] = POSITIVE
    """Between which values it can be."""


SHARE = (0.0, 1.0)
SCORE = (1.0, math.inf)

MEASURES: dict[str, Measure] = {
    "frechet": Measure("FID", lambda x, real: frechet_estimate(x.moments, real.moments), by_first=False),
    "kernel": Measure(
        "KID", lambda x, real: kernel_distance(x.features, real.features), ratio=False, ends=ANY
    ),
    "inception": Measure(
        "Inception Score", lambda x, _: inception_score(x.certainties), by_first=False, ends=SCORE
    ),
    "precision": Measure("precision", lambda x, real: precision(x.cloud, real.cloud), ends=SHARE),
    "recall": Measure("recall", lambda x, real: recall(x.cloud, real.cloud), ends=SHARE),
    "density": Measure("density", lambda x, real: density(x.cloud, real.cloud)),
    "coverage": Measure("coverage", lambda x, real: coverage(x.cloud, real.cloud), ends=SHARE),
}


def measured(x: Summary, real: Summary) -> dict[str, Estimate]:
    """Every measure of pictures x against a reference."""
    return {name: measure.of(x, real) for name, measure in MEASURES.items()}


def figures(
    x: Summary, others: Summary, real: Summary, floor: dict[str, Estimate], split: str
) -> dict[str, dict[str, Any]]:
    """Measures of pictures beside those of other real ones, which are the floor, JSON-able.

    Most measures depend on n: where the floor is of fewer pictures, nothing is divided by it.

    Args:
        x: The pictures.
        others: The pictures of the floor.
        real: The reference.
        floor: What the others get.
        split: The split that the reference is from.
    """
    found, table = measured(x, real), dict[str, dict[str, Any]]()
    for name, measure in MEASURES.items():
        made, least = found[name], floor[name]
        n, k, m = (min(s.n, s.kept) if measure.by_first else s.n for s in (x, others, real))
        over = ratio(made, least) if measure.ratio and k == n else None
        table[name] = {
            **figure(made, n, split, m, measure.ends),
            "floor": figure(least, k, split, m, measure.ends),
            "over_floor": None if over is None else known(over, POSITIVE),
        }
    return table
