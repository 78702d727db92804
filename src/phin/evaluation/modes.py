"""Counts the modes that a model of stacked MNIST draws: the digit reader reads each layer by itself."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from phin import models
from phin.data.stacked import Stacked
from phin.evaluation.pictures import Plan
from phin.evaluation.table import HEADING
from phin.metrics.modes import count, tally
from phin.metrics.processes import gathered, process
from phin.models import Model, Watch
from phin.nets.classifier import Classifier
from phin.sampling import Guide

USUAL = 25_600  # pictures, as of Metz et al.
AT_ONCE = 64


def evaluate(
    model: Model,
    data: Stacked,
    plan: Plan,
    watch: Watch | None = None,
    guide: Guide | None = None,
    drawn: Callable[[int], None] = lambda pictures: None,
    **choices: Any,
) -> dict[str, Any]:
    """How many modes there are among the model's pictures, and how even they are; and in as many real ones.

    Arguments as of `pictures.evaluate`; several processes draw a part each, and all of them know the result.

    Raises:
        PhinError: As `samples`.
    """
    reader = models.load("mnist-classifier")
    assert isinstance(reader.net, Classifier)
    n, (rank, processes) = plan.n or USUAL, process()
    draw = models.drawer(model, plan.seed, watch, guide, choices)
    begun = time.perf_counter()

    def pictures() -> Iterator[Tensor]:
        places = range(rank, n, processes)
        for part in (places[start : start + AT_ONCE] for start in range(0, len(places), AT_ONCE)):
            yield draw(data.shape, {}, part).cpu()
            drawn(len(part))

    counts = count(reader.net, pictures(), data.shape[0])
    found = tally(torch.cat(gathered(counts[None])).sum(0))
    seconds = time.perf_counter() - begun
    real = tally(count(reader.net, data.split("test", n, plan.seed).x.split(AT_ONCE), data.shape[0]))
    return {
        "n": n,
        "modes": {"found": found.found, "of": found.modes, "kl": found.kl},
        "real": {"found": real.found, "of": real.modes, "kl": real.kl},
        "pictures_per_second": n / seconds,
        "reader": reader.metadata["name"],
        "seed": plan.seed,
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
