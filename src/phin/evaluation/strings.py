"""Measures a model of numbers: what a reader makes of its pictures, beside what it makes of real ones.

It is asked for random strings, and a classifier reads its pictures and real evaluation pictures of the same
strings. The Frechet distance of their cells guards against accuracy that is bought with diversity.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from phin import models
from phin.data.numbers import Numbers, held_out, random_strings
from phin.errors import PhinError
from phin.evaluation.plan import PromptPlan, enough
from phin.evaluation.table import HEADING, percent
from phin.metrics import reading
from phin.models import Model, Watch
from phin.nets.classifier import Classifier
from phin.sampling import Guide


@dataclass(frozen=True)
class Plan(PromptPlan):
    """On how much a model is measured."""

    n_frechet: int = 2000
    """Cells for the Frechet distance: those of the first pictures that have as many."""

    def __post_init__(self) -> None:
        enough(self, "n_unseen", n=10, n_unseen=10, n_frechet=50)


def evaluate(
    model: Model,
    data: Numbers,
    reader: Model | None = None,
    plan: Plan = Plan(),
    watch: Watch | None = None,
    guide: Guide | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        model: A diffusion model of numbers.
        data: The numbers.
        reader: What reads its pictures; by default the one that comes with phin.
        plan: On how much.
        watch: Sees every state of every batch that is sampled.
        guide: As of `samples`.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: No such model or reader; and as `samples`.
    """
    sampling = models.choose(model, choices)
    reader = reader or models.load("mnist-classifier")
    read = reader.net
    if not isinstance(read, Classifier):
        raise PhinError(
            f"{reader.path} is no classifier of clean pictures; give one, such as mnist-classifier"
        )

    def ask(n: int, unseen: bool | None) -> tuple[Questions, list[Tensor], float]:
        questions = _questions(data, n, plan.seed, unseen)
        begun = time.perf_counter()
        drawn = models.samples(model, **questions.wanted, seed=plan.seed, watch=watch, guide=guide, **choices)
        return questions, drawn, time.perf_counter() - begun

    def judge(questions: Questions, drawn: Sequence[Tensor], n: int) -> dict[str, Any]:
        asked, _, real, train = questions
        return reading.evaluate(read, asked[:n], drawn[:n], real[:n], train[:n], held_out).to_dict()

    questions, drawn, seconds = ask(plan.n, None)
    whole = judge(questions, drawn, plan.n)
    cells = list(accumulate(map(len, questions.asked)))
    some = judge(questions, drawn, 1 + sum(count < plan.n_frechet for count in cells))
    facts = {"digits": whole["digits"], "strings": whole["strings"]}
    if plan.n_unseen:
        unseen = judge(*ask(plan.n_unseen, True)[:2], plan.n_unseen)
        facts |= {"unseen_digits": unseen["digits"], "unseen_strings": unseen["strings"]}
    return facts | {
        "frechet": some["frechet"],
        "floor": some["floor"],
        "frechet_over_floor": some["frechet_over_floor"],
        "frechet_cells": some["cells"],
        "pictures_per_second": plan.n / seconds,
        "cells_per_second": cells[-1] / seconds,
        "sampling": {**asdict(sampling), "seed": plan.seed, **(guide.facts if guide else {})},
        "reader": reader.metadata["name"],
    }


class Questions(NamedTuple):
    """What a model is asked to draw, and real pictures of the same."""

    asked: list[str]
    wanted: dict[str, Any]
    """The strings, as arguments of `samples`."""
    real: Sequence[Tensor]
    """From the test split."""
    train: Sequence[Tensor]
    """From the training split."""


def _questions(data: Numbers, n: int, seed: int, unseen: bool | None) -> Questions:
    asked = random_strings(n, seed, unseen)
    real, train = (data.pictures(asked, which, seed) for which in ("test", "train"))
    return Questions(asked, {"prompts": asked}, real, train)


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
    ratio = figures["frechet_over_floor"]
    count = f"{figures['frechet_cells']:,}"
    return [*lines, ["Frechet distance of cells", made, floor, f"{ratio:.1f}" if ratio else "", count]]
