"""Every measure of a set of pictures against a reference."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from phin.metrics.density_coverage import coverage, density
from phin.metrics.frechet import frechet_estimate
from phin.metrics.inception_score import inception_score
from phin.metrics.jackknife import Estimate
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


MEASURES: dict[str, Measure] = {
    "frechet": Measure("FID", lambda x, real: frechet_estimate(x.moments, real.moments), by_first=False),
    "kernel": Measure("KID", lambda x, real: kernel_distance(x.features, real.features), ratio=False),
    "inception": Measure("Inception Score", lambda x, _: inception_score(x.certainties), by_first=False),
    "precision": Measure("precision", lambda x, real: precision(x.cloud, real.cloud)),
    "recall": Measure("recall", lambda x, real: recall(x.cloud, real.cloud)),
    "density": Measure("density", lambda x, real: density(x.cloud, real.cloud)),
    "coverage": Measure("coverage", lambda x, real: coverage(x.cloud, real.cloud)),
}


def measured(x: Summary, real: Summary) -> dict[str, Estimate]:
    """Every measure of pictures x against a reference."""
    return {name: measure.of(x, real) for name, measure in MEASURES.items()}


def figures(
    found: dict[str, Estimate], floor: dict[str, Estimate], x: Summary, real: Summary, split: str
) -> dict[str, dict[str, Any]]:
    """Measures beside those of training pictures, which are the floor, JSON-able.

    Args:
        found: Of the pictures.
        floor: Of as many training pictures.
        x: The pictures.
        real: The reference.
        split: The split that the reference is from.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, measure in MEASURES.items():
        made, least = found[name], floor[name]
        n, m = (min(s.n, s.kept) if measure.by_first else s.n for s in (x, real))
        table[name] = {
            **made.facts,
            "n": n,
            "floor": least.facts,
            "over_floor": made.value / least.value if measure.ratio and least.value else None,
            "reference": {"split": split, "n": m},
        }
    return table
