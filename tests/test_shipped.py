"""The models that come with phin: small, and able to say what made them and how good they are."""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import phin
from phin.metrics.reading import read, score
from phin.models import Model, shipped
from phin.nets.classifier import Classifier
from phin.recipes import ClassifierRecipe

MEGABYTE = 10**6
LARGE = {"numbers", "numbers-fast", "mnist-vdm"}
"""May take 8 MB, all others 4."""


@cache
def model(name: str) -> Model:
    return phin.load(name)


@pytest.mark.parametrize("name", shipped())
def test_each_says_how_it_was_made_and_how_good_it_is(name: str) -> None:
    known = model(name).metadata
    assert known["name"] == name
    assert re.match("phin (train|compare|distill) ", known["command"])
    assert not re.search(r"[ =][/~]", known["command"])  # a path of the machine that it was trained on
    assert known["recipe"]["train"]["seed"] == 0
    assert known["training"]["state"]["step"] > 0
    assert set(known["training"]["versions"]) >= {"torch", "python", "phin"}
    assert known.get("figures") or known.get("likelihood")


@pytest.mark.parametrize("name", shipped())
def test_each_is_small(name: str) -> None:
    assert model(name).path.stat().st_size <= (8 if name in LARGE else 4) * MEGABYTE


def test_all_together_are_small() -> None:
    assert sum(model(name).path.stat().st_size for name in shipped()) <= 45 * MEGABYTE


@pytest.mark.parametrize("name", shipped())
def test_each_draws_the_digits_that_it_is_asked_for(name: str) -> None:
    """At least half of thirty, as the shipped reader reads them; guessing gets three."""
    if isinstance(model(name).recipe, ClassifierRecipe):
        return
    digits = list(range(10)) * 3
    if model(name).facts.classes:
        pictures = phin.sample(model(name), labels=digits, seed=0)
    elif model(name).facts.vocabulary or model(name).facts.alphabet:
        pictures = phin.sample(model(name), prompts=[str(digit) for digit in digits], seed=0)
    else:  # it is told nothing: whatever it draws has ink on black
        (picture,) = phin.sample(model(name), seed=0, steps=10)
        assert picture.mean() < 64 < 192 < picture.max()
        return
    assert right(pictures, [str(digit) for digit in digits]) >= 15


@pytest.mark.parametrize("calls", [1, 2])
def test_the_distilled_one_needs_no_more_than_a_call_or_two(calls: int) -> None:
    """19 of 20 digits; of thousands, 98.6 to 99 % are read as what they should be."""
    prompts = [f"{k:05}" for k in range(123, 100_000, 2_500)]
    pictures = phin.sample(model("numbers-fast"), prompts=prompts, seed=0, steps=calls)
    assert right(pictures, prompts) >= 0.95 * 5 * len(prompts)


def right(pictures: Sequence[NDArray[np.uint8]], asked: Sequence[str]) -> int:
    """How many digits the shipped reader reads as what was asked for."""
    reader = model("mnist-classifier").net
    assert isinstance(reader, Classifier)
    shown = [picture[:, : 28 * len(text)] for picture, text in zip(pictures, asked, strict=True)]
    return score(asked, read(reader, shown), unseen=lambda text: False).digits.right
