"""What every recipe is, and what every model has to know of its data."""

import abc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from phin.data.base import Data
from phin.diffusion.schedules import Schedule
from phin.diffusion.weights import Weight, simple
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task


@dataclass(frozen=True)
class Facts:
    """What a model has to know of its data, kept beside its weights: the data are not needed to use it."""

    shape: tuple[int, ...]
    """One example (C, *sides); of number strings, one cell."""
    classes: int
    vocabulary: int
    class_names: tuple[str, ...]
    eight_bit: bool

    @classmethod
    def of(cls, data: Data) -> "Facts":
        """The facts of a data set."""
        return cls(data.shape, data.classes, data.vocabulary, data.class_names, data.eight_bit)

    def unconditional(self) -> "Facts":
        """The same data without labels and text."""
        return replace(self, classes=0, vocabulary=0, class_names=())


@dataclass(frozen=True)
class Recipe(abc.ABC):
    """Everything that makes a model: plain values, each with a default."""

    data: str = "mnist"
    """Data set; `phin data list` shows all."""
    train: TrainConfig = TrainConfig(minutes=10)

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data)

    @abc.abstractmethod
    def model(self, facts: Facts) -> nn.Module:
        """The untrained model.

        Raises:
            PhinError: Data of which no such model can be made.
        """

    @abc.abstractmethod
    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data.

        Raises:
            PhinError: As `model`.
        """


def finite(density: Schedule, weight: Weight = simple) -> bool:
    """Whether levels, and the weight of the squared error of x at them, are positive and finite in float32.

    It is looked at both ends and in the middle.
    """
    with torch.no_grad():
        level = density(torch.tensor([0.0, 0.5, 1.0]))
        numbers = level.alpha, level.sigma, level.log_snr.exp() * weight(level.log_snr)
    return all(bool((number.isfinite() & (number > 0)).all()) for number in numbers)
