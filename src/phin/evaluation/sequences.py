"""Measures a model of sequences: its spectrum, and of angles their circular moments, beside real ones.

The reference is the test split. What as many training sequences get stands beside every figure.
"""

from typing import Any

from phin.data.sequences import Sequences
from phin.evaluation.drawing import Drawing
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING, plus_minus
from phin.metrics.figure import figure
from phin.metrics.jackknife import mean
from phin.metrics.sequences import STATISTICS, mean_error, off_circle

USUAL = 10_000
AT_ONCE = 500


def evaluate(drawing: Drawing, data: Sequences, plan: Plan) -> dict[str, Any]:
    """How far the means of every statistic are from the test split's; arguments as of `modes.evaluate`.

    Raises:
        PhinError: Sequences that are not finite.
    """
    n = plan.n or USUAL
    x = drawing.together(n, at_once=AT_ONCE)
    train, test = (data.split(which, n, plan.seed).x for which in ("train", "test"))
    found = {
        name: {**figure(made, n, "test"), "floor": figure(floor, n, "test")}
        for name, statistic in STATISTICS.items()
        if data.circular or not statistic.circular
        for made, floor in [[mean_error(statistic.of(part), statistic.of(test)) for part in (x, train)]]
    }
    circle: dict[str, Any] = {}
    if data.circular:
        circle = {
            name: figure(mean(off_circle(part)), n, "test") for name, part in (("drawn", x), ("real", test))
        }
    return {
        "n": n,
        "statistics": found,
        "off_circle": circle,
        "sequences_per_second": n / drawing.seconds,
        "sampling": drawing.facts,
    }


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    n, lines = f"{figures['n']:,}", [HEADING]
    for name, found in figures["statistics"].items():
        made, floor = plus_minus(found), plus_minus(found["floor"])
        lines.append(
            [STATISTICS[name].title, made, floor, f"{found['value'] / found['floor']['value']:.3g}", n]
        )
    if circle := figures["off_circle"]:
        lines.append(["distance from the circle", *map(plus_minus, circle.values()), "", n])
    return lines
