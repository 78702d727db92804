"""Counts the modes that a model of stacked MNIST draws: the digit reader reads each layer by itself."""

import math
from typing import Any

import torch

from phin.data.stacked import Stacked
from phin.evaluation.drawing import Drawing
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING, plus_minus
from phin.metrics.features import Features
from phin.metrics.figure import figure
from phin.metrics.modes import Modes, count, tally
from phin.metrics.processes import gathered
from phin.metrics.summary import BATCH

USUAL = 25_600  # pictures, as of Metz et al.


def evaluate(drawing: Drawing, data: Stacked, features: Features, plan: Plan) -> dict[str, Any]:
    """How many modes there are among the model's pictures, and how even they are; and in as many real ones.

    Several processes draw a part each, and all of them know the result.

    Args:
        drawing: How the model draws.
        data: What it learned.
        features: What reads digits.
        plan: On how much it is measured.

    Raises:
        PhinError: Pictures that are not finite.
    """
    n, layers = plan.n or USUAL, data.shape[0]
    counts = count(features, drawing.batches(n), layers)
    found = tally(torch.cat(gathered(counts[None])).sum(0))
    real = data.split("test", n, plan.seed).x
    parts = ((range(n)[start : start + BATCH], real[start : start + BATCH]) for start in range(0, n, BATCH))
    return {
        "n": n,
        "reference": {"split": "test", "n": n},
        "modes": _told(found),
        "real": _told(tally(count(features, parts, layers))),
        "pictures_per_second": n / drawing.seconds,
        "reader": features.name,
        "seed": plan.seed,
        "sampling": drawing.facts,
    }


def _told(found: Modes) -> dict[str, Any]:
    """JSON-able."""
    estimates = {"found": (found.found, (0.0, found.modes)), "kl": (found.kl, (0.0, math.log(found.modes)))}
    told = {name: figure(one, found.n, "test", ends=ends) for name, (one, ends) in estimates.items()}
    return {**told, "of": found.modes}


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    drawn, real = figures["modes"], figures["real"]
    titles = {"found": f"modes drawn, of {drawn['of']:,}", "kl": "KL divergence from even, nats"}
    lines = [
        [title, *(plus_minus(one[key], 4) for one in (drawn, real)), "", f"{figures['n']:,}"]
        for key, title in titles.items()
    ]
    return [HEADING, *lines]
