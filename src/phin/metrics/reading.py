"""Pictures of numbers, read back: how many are right, and how far their cells are from real ones.

A picture is an 8-bit array (28, 28 n), or a tensor (1, 28, 28 n) in [-1, 1] that is rounded to 8 bits first.
Cell i is columns 28 i to 28 i + 27.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from phin.data.base import from_integers
from phin.errors import PhinError
from phin.metrics.figure import POSITIVE, figure, known
from phin.metrics.frechet import Moments, frechet_estimate, moments
from phin.metrics.jackknife import NORMAL, ratio
from phin.nets.classifier import Classifier
from phin.pictures import to_bytes

SIDE = 28
Picture = UInt8[np.ndarray, "28 _"] | Float[Tensor, "1 28 _"]


def split(picture: Picture) -> UInt8[np.ndarray, "cells 28 28"]:
    """The cells of a picture, from left to right.

    Raises:
        PhinError: A picture that is not made of cells, or values that are not finite.
    """
    if isinstance(picture, Tensor):
        if not picture.isfinite().all():
            raise PhinError("a picture has values that are not finite; look for NaN in what made it")
        picture = to_bytes(picture)
    if picture.ndim != 2 or picture.dtype != np.uint8:
        raise PhinError(
            f"an array of shape {picture.shape} and type {picture.dtype} is no picture; give 8-bit arrays "
            f"({SIDE}, {SIDE} n), or tensors (1, {SIDE}, {SIDE} n)"
        )
    height, width = picture.shape
    if height != SIDE or width == 0 or width % SIDE:
        raise PhinError(
            f"a picture of {height} x {width} pixels is not made of cells of {SIDE} x {SIDE}; resize it"
        )
    return picture.reshape(SIDE, -1, SIDE).swapaxes(0, 1)


def cells(pictures: Iterable[Picture], batch: int = 512) -> Iterator[Float[Tensor, "batch 1 28 28"]]:
    """The cells of all pictures in turn, in batches, as a network takes them."""
    waiting: list[UInt8[np.ndarray, "28 28"]] = []
    for picture in pictures:
        waiting.extend(split(picture))
        while len(waiting) >= batch:
            yield _images(waiting[:batch])
            waiting = waiting[batch:]
    if waiting:
        yield _images(waiting)


def _images(found: list[UInt8[np.ndarray, "28 28"]]) -> Float[Tensor, "batch 1 28 28"]:
    return from_integers(torch.from_numpy(np.stack(found)[:, None]))


@torch.no_grad()
def read(reader: Classifier, pictures: Sequence[Picture]) -> list[str]:
    """The string in each picture, one digit a cell.

    Raises:
        PhinError: The reader knows other classes than the ten digits.
    """
    if reader.head.out_features != 10:
        raise PhinError(f"the reader knows {reader.head.out_features} classes; give one of the ten digits")
    device = reader.head.weight.device
    digits = "".join(str(d) for x in cells(pictures) for d in reader(x.to(device)).argmax(1).tolist())
    ends = np.cumsum([picture.shape[-1] // SIDE for picture in pictures])
    return [digits[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@torch.no_grad()
def cell_moments(reader: Classifier, pictures: Sequence[Picture], groups: int = 10) -> list[Moments]:
    """Moments of the cells' features, in groups: every `groups`-th picture, from the first, the second, ...

    Raises:
        PhinError: Fewer pictures than groups, or no groups.
    """
    if not 0 < groups <= len(pictures):
        raise PhinError(f"{len(pictures)} pictures do not make {groups} groups; give over 1,000")
    device = reader.head.weight.device

    def group(part: Sequence[Picture]) -> Moments:
        return reduce(add, (moments(reader.features(x.to(device))) for x in cells(part)))

    return [group(pictures[i::groups]) for i in range(groups)]


@dataclass(frozen=True)
class Rate:
    """How many of n were right."""

    right: int
    n: int

    @classmethod
    def of(cls, right: Bool[Tensor, " n"]) -> "Rate":
        """How many of these were."""
        return cls(int(right.sum()), len(right))

    @property
    def value(self) -> float:
        """The share; NaN of none."""
        return self.right / self.n if self.n else math.nan

    @property
    def error(self) -> float:
        """Standard error: half of Wilson's interval of one sigma, not 0 if all are right; NaN of none.

        `sqrt(p (1 - p) / n + 1 / (4 n^2)) / (1 + 1 / n)`

        References:
            Probable inference, the law of succession, and statistical inference (Wilson, 1927).
        """
        if not self.n:
            return math.nan
        p, n = self.value, self.n
        return math.sqrt(p * (1 - p) / n + 1 / (4 * n * n)) / (1 + 1 / n)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson's, with z the normal deviate: within [0, 1], and no point if all are right.

        `(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)`
        """
        p, n, z = self.value, self.n, NORMAL
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = ((p + z * z / (2 * n) + side) / (1 + z * z / n) for side in (-half, half))
        return max(0.0, low), min(1.0, high)

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-able; None is no value."""
        value, error = (self.value, self.error) if self.n else (None, None)
        interval = list(self.interval) if self.n else None
        return {"right": self.right, "n": self.n, "rate": value, "error": error, "interval": interval}

    def beside(self, real: "Rate", split: str = "test") -> dict[str, Any]:
        """It beside that of real pictures of a split, JSON-able: `share` is the one over the other.

        None is no value.
        """
        seen, share = real.facts, self.value / real.value if self.n and real.right else None
        known = {f"real_{key}": seen[key] for key in ("rate", "error", "interval")}
        return {**self.facts, **known, "share": share, "reference": {"split": split, "n": real.n}}


@dataclass(frozen=True)
class Scores:
    """Digits and whole strings read right: of all strings, and of those never trained on."""

    digits: Rate
    strings: Rate
    unseen_digits: Rate
    unseen_strings: Rate


def score(asked: Sequence[str], found: Sequence[str], unseen: Callable[[str], bool]) -> Scores:
    """What was read against what was asked for, digit by digit and string by string.

    Args:
        asked: The strings.
        found: What `read` made of their pictures.
        unseen: Whether a string was never trained on.

    Raises:
        PhinError: Not one picture a string, or a picture of another length than its string.
    """
    if len(asked) != len(found):
        raise PhinError(f"{len(asked)} strings and {len(found)} pictures: give one picture of each string")
    for string, text in zip(asked, found, strict=True):
        if len(string) != len(text):
            raise PhinError(f"the picture of {string!r} has {len(text)} cells; give one of {len(string)}")
    pairs = list(zip(asked, found, strict=True))
    new = [pair for pair in pairs if unseen(pair[0])]
    return Scores(_digits(pairs), _strings(pairs), _digits(new), _strings(new))


def _digits(pairs: Sequence[tuple[str, str]]) -> Rate:
    right = [a == b for string, text in pairs for a, b in zip(string, text, strict=True)]
    return Rate(sum(right), len(right))


def _strings(pairs: Sequence[tuple[str, str]]) -> Rate:
    return Rate(sum(string == text for string, text in pairs), len(pairs))


def scores(
    reader: Classifier,
    asked: Sequence[str],
    generated: Sequence[Picture],
    real: Sequence[Picture],
    unseen: Callable[[str], bool],
) -> dict[str, dict[str, Any]]:
    """What is read right in generated pictures, beside real ones, which is what the reader can reach.

    The result is JSON-able: of each field of `Scores` the rate, as of `Rate.beside`.

    Args:
        reader: What reads them.
        asked: The string of each picture.
        generated: The pictures to judge.
        real: Pictures of the same strings from the evaluation split.
        unseen: Whether a string was never trained on.

    Raises:
        PhinError: As `score`.
    """
    made, best = (score(asked, read(reader, pictures), unseen) for pictures in (generated, real))
    return {name: rate.beside(getattr(best, name)) for name, rate in vars(made).items()}


def distances(
    reader: Classifier, generated: Sequence[Picture], real: Sequence[Picture], train: Sequence[Picture]
) -> dict[str, Any]:
    """The Frechet distance of generated cells from real ones, in the reader's features, JSON-able.

    Beside it is the floor, that of training cells: what real pictures reach.

    Args:
        reader: Whose features they are.
        generated: The pictures to judge.
        real: Pictures of the same strings from the evaluation split.
        train: Pictures of the same strings from the training split.

    Raises:
        PhinError: As `cell_moments` and `frechet_distance`.
    """
    drawn, evaluation, training = (cell_moments(reader, pictures) for pictures in (generated, real, train))
    distance, floor = (frechet_estimate(groups, evaluation) for groups in (drawn, training))
    n, over = sum(group.n for group in drawn), ratio(distance, floor)
    return {
        "frechet": figure(distance, n, "test"),
        "floor": figure(floor, n, "test"),
        "frechet_over_floor": None if over is None else known(over, POSITIVE),
        "frechet_cells": n,
    }
