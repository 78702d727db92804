"""Classifiers, of clean pictures and of noisy ones."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phin.data.augment import Augmentation
from phin.data.base import Data
from phin.diffusion.level import SCALINGS
from phin.diffusion.schedules import SCHEDULES
from phin.errors import PhinError
from phin.nets.classifier import Classifier, ClassifierConfig, NoisyClassifier
from phin.recipes.base import Facts, Recipe, finite
from phin.registry import build
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task


@dataclass(frozen=True)
class ClassifierRecipe(Recipe):
    """A classifier; its features measure pictures."""

    data: str = "mnist"
    """Labelled data set."""
    net: ClassifierConfig = ClassifierConfig()
    """The network."""
    views: Augmentation = Augmentation()
    """How far the random views of a picture stray."""
    smoothing: float = 0.1
    """Label smoothing."""
    train: TrainConfig = TrainConfig(minutes=6)

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise PhinError(f"smoothing is a share, from 0 to less than 1, not {self.smoothing}")

    def model(self, facts: Facts) -> Classifier:
        """The untrained model."""
        if not facts.classes:
            raise PhinError(f"{self.data} has no labels, and a classifier needs them")
        return Classifier(self.net, facts.shape[0], facts.classes)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.classification import Classification

        model = self.model(self.facts(data))
        return Classification(model, data, self.views, self.smoothing, self.train.batch, self.train.seed)


@dataclass(frozen=True)
class NoisyClassifierRecipe(Recipe):
    """A classifier of noisy pictures; it guides diffusion models of the same data."""

    data: str = "mnist"
    """Labelled data set."""
    net: ClassifierConfig = ClassifierConfig(blocks=(1, 2, 2))
    """The network."""
    density: str = "cosine"
    """Schedule whose levels, at uniform times, the classifier is trained at."""
    views: Augmentation = Augmentation()
    """How far the random views of a picture stray, of which it sees noisy versions."""
    train: TrainConfig = TrainConfig(minutes=5)

    def __post_init__(self) -> None:
        if not finite(build(self.density, SCHEDULES, "schedule", SCALINGS)):
            raise PhinError(
                f"density {self.density} is infinite somewhere in float32; take less distant ends"
            )

    def model(self, facts: Facts) -> NoisyClassifier:
        """The untrained model."""
        if not facts.classes:
            raise PhinError(f"{self.data} has no labels, and a classifier needs them")
        return NoisyClassifier(self.net, facts.shape[0], facts.classes)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.classification import NoisyClassification

        model = self.model(self.facts(data))
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        return NoisyClassification(model, data, density, self.views, self.train.batch, self.train.seed)


_READER = ClassifierRecipe(
    train=TrainConfig(minutes=7, batch=256, lr=2e-3, weight_decay=0.05, warmup=0.05), data="mnist"
)

recipes: dict[str, Recipe] = {
    "mnist-classifier": _READER,
    "fashion-classifier": replace(_READER, data="fashion-mnist"),
    "mnist-noisy-classifier": NoisyClassifierRecipe(data="mnist", train=replace(_READER.train, minutes=5)),
}
