"""Measures a model that is prompted in words: which digits a reader finds in the cells of its pictures.

It is asked for random numbers, the languages taking turns, and a classifier reads its pictures and real
evaluation pictures of the same numbers. The reader knows ten digits and no blank: a cell is blank that has
half the ink of MNIST's palest digit, or less, and what it reads in others is the digit.
"""

import time
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from phin import models
from phin.data.base import from_integers
from phin.data.number_words import LANGUAGES
from phin.data.numbers import LONGEST, SIDE
from phin.data.words import BLANK, Words, cells, random_numbers
from phin.errors import PhinError
from phin.evaluation.plan import PromptPlan, enough
from phin.evaluation.table import HEADING, percent
from phin.metrics.reading import Rate
from phin.models import Model, Watch
from phin.nets.classifier import Classifier
from phin.pictures import to_integers
from phin.sampling import Guide

INK = 10.0
"""White pixels' worth of ink that a cell has at least if it is not blank; MNIST's palest digit has 19.9."""


@dataclass(frozen=True)
class Plan(PromptPlan):
    """On how much a model is measured."""

    def __post_init__(self) -> None:
        enough(self, "n_unseen", n=20, n_unseen=20)


def evaluate(
    model: Model,
    data: Words,
    reader: Model | None = None,
    plan: Plan = Plan(),
    watch: Watch | None = None,
    guide: Guide | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        model: A diffusion model of numbers in words.
        data: The numbers.
        reader: What reads its pictures; by default the one that comes with phin.
        plan: On how much.
        watch: Sees every state of every batch that is sampled.
        guide: As of `samples`.
        choices: As of `samples`: steps, solver, guidance, grid, threshold.

    Raises:
        PhinError: No such model or reader; and as `samples`.
    """
    sampling = models.configured(model, choices)
    assert sampling is not None
    reader = reader or models.load("mnist-classifier")
    read = reader.net
    if not isinstance(read, Classifier) or read.head.out_features != BLANK:
        raise PhinError(f"{reader.path} is no classifier of clean digits; give one, such as mnist-classifier")
    found: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    seconds = 0.0
    for part, n, unseen in (("", plan.n, False), ("unseen_", plan.n_unseen, True)):
        if not n:
            continue
        numbers, languages = random_numbers(n, plan.seed, unseen), [*islice(cycle(LANGUAGES), n)]
        said = [LANGUAGES[language](number) for language, number in zip(languages, numbers, strict=True)]
        begun = time.perf_counter()
        drawn = models.samples(model, said, seed=plan.seed, watch=watch, guide=guide, **choices)
        seconds += time.perf_counter() - begun
        asked, real = cells(numbers), data.pictures(numbers, "test", plan.seed)
        made, seen = (read_cells(read, pictures) for pictures in (torch.stack(drawn), real))
        for group, members in GROUPS.items():
            own = torch.tensor([language in members for language in languages])
            rates = (_rates(asked[own], each[own]) for each in (made, seen))
            for kind, of_made, of_real in zip(KINDS, *rates, strict=True):
                found[group][f"{part}{kind}"] = _counted(of_made, of_real)
    return {
        "languages": found,
        "pictures_per_second": (plan.n + plan.n_unseen) / seconds,
        "sampling": {**asdict(sampling), "seed": plan.seed, **(guide.facts if guide else {})},
        "reader": reader.metadata["name"],
    }


@torch.no_grad()
def read_cells(reader: Classifier, pictures: Float[Tensor, "n 1 28 140"]) -> Int64[Tensor, "n cells"]:
    """What stands in the cells of pictures, which are rounded to 8 bits first: a digit, or BLANK."""
    images = to_integers(pictures).view(-1, SIDE, LONGEST, SIDE).transpose(1, 2).reshape(-1, 1, SIDE, SIDE)
    device = reader.head.weight.device
    parts = [reader(from_integers(part).to(device)).argmax(1).cpu() for part in images.split(512)]
    ink = images.flatten(1).sum(1) / 255
    return torch.where(ink < INK, BLANK, torch.cat(parts)).view(-1, LONGEST)


def _rates(asked: Int64[Tensor, "n cells"], found: Int64[Tensor, "n cells"]) -> tuple[Rate, Rate, Rate]:
    """How many digits, blank cells and whole numbers are as they should be."""
    right, blank = asked == found, asked == BLANK

    def rate(right: Bool[Tensor, " m"]) -> Rate:
        return Rate(int(right.sum()), len(right))

    return rate(right[~blank]), rate(right[blank]), rate(right.all(1))


def _counted(made: Rate, real: Rate) -> dict[str, Any]:
    found = {"right": made.right, "n": made.n}
    for name, rate in (("", made), ("real_", real)):
        found |= {f"{name}rate": rate.value, f"{name}error": rate.error} if rate.n else {}
    return found | ({"share": made.value / real.value} if real.right else {})


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as a table for people; the first row is its heading."""
    titles = {
        "digits": "digits read right",
        "blanks": "cells left blank",
        "numbers": "whole numbers read right",
    }
    lines = [HEADING]
    for group, found in figures["languages"].items():
        for key, counted in found.items():
            if "rate" not in counted:
                continue
            kind = titles[key.removeprefix("unseen_")]
            title = f"{group}: {kind}" + (", never trained on" if key.startswith("unseen_") else "")
            made, real = (percent(counted[f"{of}rate"], counted[f"{of}error"]) for of in ("", "real_"))
            lines.append([title, made, real, percent(counted.get("share")), f"{counted['n']:,}"])
    return lines


KINDS = ("digits", "blanks", "numbers")
GROUPS = {
    "words": tuple(name for name in LANGUAGES if name != "digits"),
    **{name: (name,) for name in LANGUAGES},
}
"""What figures are told of: all words together, and each language."""
