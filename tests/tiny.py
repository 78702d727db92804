"""Models small enough to be made in a moment, with random weights, and files of them."""

from pathlib import Path

import torch
from torch import nn

from phin.data.base import Part, Which
from phin.data.numbers import Handwriting
from phin.nets.classifier import ClassifierConfig
from phin.nets.mlp import MLPConfig
from phin.nets.unet import UNetConfig
from phin.recipes import ClassifierRecipe, DiffusionRecipe, Facts, NoisyClassifierRecipe, Recipe, describe
from phin.sampling import SampleConfig
from phin.training.checkpoint import save_weights
from phin.training.config import TrainConfig

DIGITS = tuple("0123456789")
BRIEF = TrainConfig(steps=2, batch=10, trackers=(), picture_every=0, precision="float32")
NET = UNetConfig(channels=(8, 16), blocks=1, heads=2)
SAMPLE = SampleConfig(steps=3, guidance=2.0)

NUMBERS = DiffusionRecipe(data="numbers", net=NET, train=BRIEF, sample=SAMPLE)
LABELLED = DiffusionRecipe(data="digits", net=NET, train=BRIEF, sample=SAMPLE)
POINTS = DiffusionRecipe(
    data="moons", net=MLPConfig(width=8, depth=1), train=BRIEF, sample=SampleConfig(steps=3, threshold="none")
)
READER = ClassifierRecipe(data="mnist", net=ClassifierConfig(channels=(8, 8), blocks=(0, 0)), train=BRIEF)
NOISY = NoisyClassifierRecipe(
    data="digits", net=ClassifierConfig(channels=(8, 8), blocks=(1, 1)), train=BRIEF
)

FACTS = {
    NUMBERS: Facts((1, 28, 28), 0, 10, (), True),
    LABELLED: Facts((1, 8, 8), 10, 0, DIGITS, False),
    POINTS: Facts((2,), 0, 0, (), False),
    READER: Facts((1, 28, 28), 10, 0, DIGITS, True),
    NOISY: Facts((1, 8, 8), 10, 0, DIGITS, False),
}


def writing(first: int, count: int) -> Part:
    """Squares of one value each, whose last decimal is the digit and whose others tell the copies apart."""
    values = torch.arange(first, first + count, dtype=torch.uint8)
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 4:24, 4:24] = values[:, None, None, None]
    return Part(images, values % 10)


def handwriting() -> dict[Which, Handwriting]:
    """Digits 10 to 79 are for training, 80 to 159 for validation, 160 to 249 for tests."""
    ranges: dict[Which, tuple[int, int]] = {"train": (10, 70), "valid": (80, 80), "test": (160, 90)}
    return {which: Handwriting(writing(*squares)) for which, squares in ranges.items()}


def randomise(model: nn.Module) -> None:
    """Gives every weight a random value, those that begin as zero, too."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)


def write(recipe: Recipe, path: Path) -> Path:
    """A file of random weights."""
    torch.manual_seed(0)
    model = recipe.model(FACTS[recipe])
    randomise(model)
    save_weights(path, model.state_dict(), describe("tiny", recipe, FACTS[recipe]))
    return path
