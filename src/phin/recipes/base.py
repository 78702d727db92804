"""What every recipe is, and what every model has to know of its data."""

import abc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from phin import data as datasets
from phin.data.base import Data
from phin.data.encoded import Encoded
from phin.data.words import Alphabet, Words
from phin.diffusion.schedules import Schedule
from phin.diffusion.weights import Weight, simple
from phin.families.latent import LatentFacts, Latents
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
    latents: LatentFacts | None = None
    """Those that the model lives in; None is pixels."""
    alphabet: Alphabet | None = None
    """What prompts in words are made of; None takes none."""

    @classmethod
    def of(cls, data: Data) -> "Facts":
        """The facts of a data set; of one in latents, those of what it is decoded to, and of the latents."""
        if isinstance(data, Encoded):
            assert isinstance(data.encoder, Latents)
            return replace(cls.of(data.pixels), latents=data.encoder.facts)
        alphabet = data.alphabet if isinstance(data, Words) else None
        return cls(
            data.shape, data.classes, data.vocabulary, data.class_names, data.eight_bit, alphabet=alphabet
        )

    def unconditional(self) -> "Facts":
        """The same data without labels, text and prompts."""
        return replace(self, classes=0, vocabulary=0, class_names=(), alphabet=None)


@dataclass(frozen=True)
class Recipe(abc.ABC):
    """Everything that makes a model: plain values, each with a default."""

    data: str = "mnist"
    """Data set; `phin data list` shows all."""
    train: TrainConfig = TrainConfig(minutes=10)

    def load(self) -> Data:
        """The data set, as the model is to learn it.

        Raises:
            PhinError: It cannot be had.
        """
        return datasets.load(self.data)

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
