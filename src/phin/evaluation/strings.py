"""Measures a model of numbers: what a reader makes of its pictures, beside what it makes of real ones.

It is asked for random strings, and a classifier reads its pictures and real evaluation pictures of the same
strings. The Frechet distance of their cells guards against accuracy that is bought with diversity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from phin.data.numbers import Numbers, held_out, random_strings
from phin.errors import PhinError
from phin.evaluation.drawing import Drawing
from phin.evaluation.plan import PromptPlan, enough
from phin.evaluation.table import HEADING, percent, plus_minus
from phin.metrics import reading
from phin.metrics.summary import fewest
from phin.nets.classifier import Classifier


@dataclass(frozen=True)
class Plan(PromptPlan):
    """On how much a model is measured."""

    n_frechet: int = 2000
    """Cells for the Frechet distance: those of the first pictures that have as many."""

    def __post_init__(self) -> None:
        enough(self, "n_unseen", n=10, n_unseen=10, n_frechet=50)


def evaluate(drawing: Drawing, data: Numbers, reader: Classifier, plan: Plan = Plan()) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        drawing: How a diffusion model of numbers draws.
        data: The numbers.
        reader: What reads its pictures, of the ten digits.
        plan: On how much.

    Raises:
        PhinError: Too few cells for the reader's features, before any is drawn; pictures that are not finite.
    """
    questions = _questions(data, plan.n, plan.seed, None)
    cells = list(accumulate(map(len, questions.asked)))
    part = slice(1 + sum(count < plan.n_frechet for count in cells))
    found, least = max(cells[part]), fewest(reader.head.in_features)
    if found < least:
        raise PhinError(
            f"{found:,} cells are too few for the {reader.head.in_features:,} features of the reader, whose "
            f"covariance they leave open: give n and n_frechet of {least:,} or more"
        )

    def judge(asked: Questions, drawn: Sequence[Tensor]) -> dict[str, Any]:
        return reading.scores(reader, asked.asked, drawn, asked.real, held_out)

    drawn = drawing.prompted(questions.asked)
    seconds = drawing.seconds
    whole = judge(questions, drawn)
    facts = {"digits": whole["digits"], "strings": whole["strings"]}
    if plan.n_unseen:
        others = _questions(data, plan.n_unseen, plan.seed, True)
        unseen = judge(others, drawing.prompted(others.asked))
        facts |= {"unseen_digits": unseen["digits"], "unseen_strings": unseen["strings"]}
    return {
        **facts,
        **reading.distances(reader, drawn[part], questions.real[part], questions.train[part]),
        "pictures_per_second": plan.n / seconds,
        "cells_per_second": cells[-1] / seconds,
        "sampling": drawing.facts,
    }


class Questions(NamedTuple):
    """What a model is asked to draw, and real pictures of the same."""

    asked: list[str]
    real: Sequence[Tensor]
    """From the test split."""
    train: Sequence[Tensor]
    """From the training split."""


def _questions(data: Numbers, n: int, seed: int, unseen: bool | None) -> Questions:
    asked = random_strings(n, seed, unseen)
    real, train = (data.pictures(asked, which, seed) for which in ("test", "train"))
    return Questions(asked, real, train)


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    titles = {
        "digits": "digits read right",
        "strings": "whole numbers read right",
        "unseen_digits": "digits of numbers never trained on",
        "unseen_strings": "whole numbers never trained on",
    }
    lines = [HEADING]
    for key, title in titles.items():
        if found := figures.get(key):
            real = percent(found["real_rate"], found["real_error"])
            made, share = percent(found["rate"], found["error"]), percent(found["share"])
            lines.append([title, made, real, share, f"{found['n']:,}"])
    made, floor = (f"{d['value']:.3f} ± {d['error']:.3f}" for d in (figures["frechet"], figures["floor"]))
    ratio = "" if (over := figures["frechet_over_floor"]) is None else plus_minus(over)
    count = f"{figures['frechet_cells']:,}"
    return [*lines, ["Frechet distance of cells", made, floor, ratio, count]]
