"""Counts the modes that a model of stacked MNIST draws: the digit reader reads each layer by itself."""

from typing import Any

import torch

from phin.data.stacked import Stacked
from phin.evaluation.drawing import Drawing
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING
from phin.metrics.features import Features
from phin.metrics.modes import count, tally
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
    counts = count(features, (x for _, x in drawing.batches(n)), layers)
    found = tally(torch.cat(gathered(counts[None])).sum(0))
    real = tally(count(features, data.split("test", n, plan.seed).x.split(BATCH), layers))
    return {
        "n": n,
        "modes": {"found": found.found, "of": found.modes, "kl": found.kl},
        "real": {"found": real.found, "of": real.modes, "kl": real.kl},
        "pictures_per_second": n / drawing.seconds,
        "reader": features.name,
        "seed": plan.seed,
        "sampling": drawing.facts,
    }


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    drawn, real = figures["modes"], figures["real"]
    titles = {"found": f"modes drawn, of {drawn['of']:,}", "kl": "KL divergence from even, nats"}
    lines = [
        [title, *(f"{one[key]:.4g}" for one in (drawn, real)), "", f"{figures['n']:,}"]
        for key, title in titles.items()
    ]
    return [HEADING, *lines]
