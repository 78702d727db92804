"""Recipes: named, typed configurations of everything that can be trained.

A recipe is a tree of dataclasses with plain values. It is what `phin train NAME` takes its options from, what
a run saves as JSON beside its weights, and what builds the model again. A new one is an entry at the foot.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import torch

from phin import data as datasets
from phin.data.augment import Augmentation
from phin.data.base import Data
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.parameterization import PARAMETERIZATIONS
from phin.diffusion.schedules import SCHEDULES, Schedule
from phin.diffusion.weights import WEIGHTS
from phin.errors import PhinError
from phin.nets.classifier import Classifier, ClassifierConfig
from phin.nets.mlp import MLP, MLPConfig
from phin.nets.unet import UNet, UNetConfig
from phin.registry import build
from phin.sampling import SampleConfig
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task
    from phin.training.run import Result


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


@cache
def _schedules() -> Mapping[str, Schedule]:
    """The schedules as they are without arguments: `likelihood(cosine)` is a weight made of one."""
    return {name: make() for name, make in SCHEDULES.items()}


@dataclass(frozen=True)
class DiffusionRecipe:
    """A diffusion model."""

    data: str = "mnist"
    """Data set, such as mnist, numbers or folder:PATH; `phin data list` shows all."""
    net: UNetConfig | MLPConfig = UNetConfig()
    """The network."""
    parameterization: str = "v"
    """What the network predicts: x, eps, v, score, flow, edm(0.5)."""
    density: str = "cosine"
    """Schedule whose levels, at uniform times, the model is trained at; discrete(linear) is DDPM's chain."""
    weight: str = "snr_plus_one"
    """How the noise's squared error counts by level: simple, snr_plus_one, min_snr(5), sigmoid(2), ..."""
    drop: float = 0.1
    """Share of examples that are trained without their condition, for classifier-free guidance."""
    train: TrainConfig = TrainConfig(minutes=10)
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        build(self.parameterization, PARAMETERIZATIONS, "parameterization")
        build(self.density, SCHEDULES, "schedule", SCALINGS)
        build(self.weight, WEIGHTS, "weight", _schedules())
        if not 0 <= self.drop <= 1:
            raise PhinError(f"drop is a share, from 0 to 1, not {self.drop}")

    def model(self, facts: Facts) -> Denoiser:
        """The untrained model."""
        channels, *sides = facts.shape
        if isinstance(self.net, MLPConfig):
            net = MLP(self.net, channels, facts.classes)
        elif sides:
            net = UNet(
                self.net, channels, dims=len(sides), classes=facts.classes, vocabulary=facts.vocabulary
            )
        else:
            raise PhinError(
                f"a U-Net needs pictures, and {self.data} has vectors of {channels} numbers: take an MLP"
            )
        return Denoiser(net, build(self.parameterization, PARAMETERIZATIONS, "parameterization"))

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.tasks import Denoising

        model = self.model(Facts.of(data))
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        weight = build(self.weight, WEIGHTS, "weight", _schedules())
        return Denoising(
            model, data, density, weight, self.drop, self.train.batch, self.train.seed, preview=self.sample
        )


@dataclass(frozen=True)
class ClassifierRecipe:
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

    def model(self, facts: Facts) -> Classifier:
        """The untrained model."""
        if not facts.classes:
            raise PhinError(f"{self.data} has no labels, and a classifier needs them")
        return Classifier(self.net, facts.shape[0], facts.classes)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.tasks import Classification

        model = self.model(Facts.of(data))
        return Classification(model, data, self.views, self.smoothing, self.train.batch, self.train.seed)


T = TypeVar("T")
Recipe = DiffusionRecipe | ClassifierRecipe
FAMILIES: dict[str, type[Recipe]] = {"diffusion": DiffusionRecipe, "classifier": ClassifierRecipe}
"""The kinds of models: a file of weights names its own."""


def describe(name: str, recipe: Recipe, facts: Facts, command: str | None = None) -> dict[str, Any]:
    """What a file of weights says of its model, JSON-able: enough to build it again, or to train it again."""
    family = next(family for family, kind in FAMILIES.items() if isinstance(recipe, kind))
    described = {"name": name, "family": family, "recipe": asdict(recipe), "facts": asdict(facts)}
    return described if command is None else {**described, "command": command}


def restore(description: Mapping[str, Any]) -> tuple[Recipe, Facts]:
    """The recipe and the facts of a description: the inverse of `describe`.

    Raises:
        PhinError: On a family or a field that this version does not know.
    """
    family = description.get("family")
    if family not in FAMILIES:
        raise PhinError(
            f"unknown family of models {family!r}; this version of phin knows {', '.join(FAMILIES)}"
        )
    try:
        return _dataclass(FAMILIES[family], description["recipe"]), _dataclass(Facts, description["facts"])
    except (AttributeError, KeyError, TypeError) as error:
        raise PhinError(
            f"the description of this model is not understood ({error!r}); make it again"
        ) from error


def _dataclass(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of plain values from JSON's dictionaries and lists."""
    hints = get_type_hints(kind)
    if unknown := values.keys() - hints.keys():
        raise PhinError(
            f"{kind.__name__} has no field {min(unknown)!r}; the file is from another version of phin"
        )
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):  # of two configurations, the one whose fields these are
        kinds: tuple[Any, ...] = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        fitting = (kind for kind in kinds if value.keys() <= {field.name for field in fields(kind)})
        return _dataclass(next(fitting, kinds[0]), value)
    return tuple(value) if isinstance(value, list) else value


_POINTS = DiffusionRecipe(
    data="swiss-roll",
    net=MLPConfig(),
    train=TrainConfig(minutes=1, batch=1024),
    sample=SampleConfig(steps=50, threshold="none"),
)

NUMBERS = DiffusionRecipe(data="numbers", train=TrainConfig(minutes=10, batch=64, lr=2e-3))
_READER = ClassifierRecipe(
    train=TrainConfig(minutes=7, batch=256, lr=2e-3, weight_decay=0.05, warmup=0.05), data="mnist"
)

RECIPES: dict[str, Recipe] = {
    "numbers": NUMBERS,
    "mnist": DiffusionRecipe(data="mnist"),
    "fashion-mnist": DiffusionRecipe(data="fashion-mnist"),
    "cifar10": DiffusionRecipe(data="cifar10", train=TrainConfig(minutes=60)),
    "digits": DiffusionRecipe(
        data="digits", net=UNetConfig(channels=(64, 128)), train=TrainConfig(minutes=2)
    ),
    "images": DiffusionRecipe(data="folder:PATH", train=TrainConfig(minutes=60)),
    "swiss-roll": _POINTS,
    "eight-gaussians": replace(_POINTS, data="eight-gaussians"),
    "checkerboard": replace(_POINTS, data="checkerboard"),
    "moons": replace(_POINTS, data="moons"),
    "mnist-classifier": _READER,
    "fashion-classifier": replace(_READER, data="fashion-mnist"),
}


def named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        PhinError: There is none.
    """
    if name not in RECIPES:
        raise PhinError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def train(
    recipe: Recipe | str, out: Path | str | None = None, name: str | None = None, command: str | None = None
) -> "Result":
    """Trains a recipe, by its name or as changed by `replace`; the same call again goes on where it stopped.

    Args:
        recipe: What to train.
        out: Folder for weights, logs and pictures; runs/NAME by default.
        name: The run's name; the recipe's by default.
        command: What a shell was told, noted in the files.

    Raises:
        PhinError: On anything that a user can mend: data that cannot be had, a folder that cannot be written
            to, another recipe's run in the folder, a full disk, a loss that is not finite.
    """
    from phin.training.loop import fit

    if isinstance(recipe, str):
        name, recipe = name or recipe, named(recipe)
    name = name or Path(recipe.data).name
    data = datasets.load(recipe.data)
    torch.manual_seed(recipe.train.seed)  # of the first weights
    task, description = recipe.task(data), describe(name, recipe, Facts.of(data), command)
    return fit(task, recipe.train, Path(out or Path("runs") / name), description)
