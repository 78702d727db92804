"""Measures a model that is prompted in words: which digits a reader finds in the cells of its pictures.

It is asked for random numbers, the languages taking turns, and a classifier reads its pictures and real
evaluation pictures of the same numbers. The reader knows ten digits and no blank: a cell is blank that has
half the ink of MNIST's palest digit, or less, and what it reads in others is the digit.
"""

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from phin.data.base import from_integers
from phin.data.number_words import LANGUAGES
from phin.data.numbers import LONGEST, SIDE
from phin.data.words import BLANK, Words, cells, random_numbers
from phin.evaluation.drawing import Drawing
from phin.evaluation.plan import PromptPlan, enough
from phin.evaluation.table import HEADING, percent
from phin.metrics.reading import Rate
from phin.nets.classifier import Classifier
from phin.pictures import to_integers

INK = 10.0
"""White pixels' worth of ink that a cell has at least if it is not blank; MNIST's palest digit has 19.9."""


@dataclass(frozen=True)
class Plan(PromptPlan):
    """On how much a model is measured."""

    def __post_init__(self) -> None:
        enough(self, "n_unseen", n=20, n_unseen=20)


def evaluate(drawing: Drawing, data: Words, reader: Classifier, plan: Plan = Plan()) -> dict[str, Any]:
    """The figures of a model, JSON-able.

    Args:
        drawing: How a diffusion model of numbers in words draws.
        data: The numbers.
        reader: What reads its pictures, of the ten digits.
        plan: On how much.

    Raises:
        PhinError: Pictures that are not finite.
    """
    found: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for part, n, unseen in (("", plan.n, False), ("unseen_", plan.n_unseen, True)):
        if not n:
            continue
        numbers, languages = random_numbers(n, plan.seed, unseen), [*islice(cycle(LANGUAGES), n)]
        said = [LANGUAGES[language](number) for language, number in zip(languages, numbers, strict=True)]
        drawn = drawing.prompted(said)
        asked, real = cells(numbers), data.pictures(numbers, "test", plan.seed)
        made, seen = (read_cells(reader, pictures) for pictures in (torch.stack(drawn), real))
        for group, members in GROUPS.items():
            own = torch.tensor([language in members for language in languages])
            rates = (_rates(asked[own], each[own]) for each in (made, seen))
            for kind, of_made, of_real in zip(KINDS, *rates, strict=True):
                found[group][f"{part}{kind}"] = of_made.beside(of_real)
    return {
        "languages": found,
        "pictures_per_second": (plan.n + plan.n_unseen) / drawing.seconds,
        "sampling": drawing.facts,
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
    return Rate.of(right[~blank]), Rate.of(right[blank]), Rate.of(right.all(1))


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
            if not counted["n"]:
                continue
            kind = titles[key.removeprefix("unseen_")]
            title = f"{group}: {kind}" + (", never trained on" if key.startswith("unseen_") else "")
            made, real = (percent(counted[f"{of}rate"], counted[f"{of}error"]) for of in ("", "real_"))
            lines.append([title, made, real, percent(counted["share"]), f"{counted['n']:,}"])
    return lines


KINDS = ("digits", "blanks", "numbers")
GROUPS = {
    "words": tuple(name for name in LANGUAGES if name != "digits"),
    **{name: (name,) for name in LANGUAGES},
}
"""What figures are told of: all words together, and each language."""
