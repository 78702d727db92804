"""Recipes: named, typed configurations of everything that can be trained.

A recipe is a tree of dataclasses with plain values. It is what `phin train NAME` takes its options from, what
a run saves as JSON beside its weights, and what builds the model again. A new one is an entry at the foot.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import torch

from phin import data as datasets
from phin.data.augment import Augmentation
from phin.data.base import Data
from phin.diffusion.decoder import DECODERS
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.losses import TIMES
from phin.diffusion.objectives import OBJECTIVES, ChainBound, ContinuousBound, Hybrid, Objective
from phin.diffusion.parameterization import PARAMETERIZATIONS, edm
from phin.diffusion.schedules import SCHEDULES, Discrete, Schedule
from phin.diffusion.weights import WEIGHTS, Weight, simple
from phin.errors import PhinError
from phin.nets.classifier import Classifier, ClassifierConfig, NoisyClassifier
from phin.nets.mlp import MLP, MLPConfig
from phin.nets.posterior import Posterior
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

    def unconditional(self) -> "Facts":
        """The same data without labels and text."""
        return replace(self, classes=0, vocabulary=0, class_names=())


def _finite(density: Schedule, weight: Weight = simple) -> bool:
    """Whether levels, and the weight of the squared error of x at them, are positive and finite in float32.

    It is looked at both ends and in the middle.
    """
    with torch.no_grad():
        level = density(torch.tensor([0.0, 0.5, 1.0]))
        numbers = level.alpha, level.sigma, level.log_snr.exp() * weight(level.log_snr)
    return all(bool((number.isfinite() & (number > 0)).all()) for number in numbers)


@dataclass(frozen=True)
class DiffusionRecipe:
    """A diffusion model."""

    data: str = "mnist"
    """Data set, such as mnist, numbers or folder:PATH; `phin data list` shows all."""
    net: UNetConfig | MLPConfig = UNetConfig()
    """The network."""
    parameterization: str = "v"
    """What the network predicts: x, eps, v, score, flow, edm(0.5), mean."""
    density: str = "cosine"
    """Schedule whose levels, at uniform times, the model is trained at; discrete(linear) is DDPM's chain."""
    weight: str = "snr_plus_one"
    """How the noise's squared error counts by level: simple, snr_plus_one, min_snr(5), sigmoid(2), ..."""
    objective: str = "simple"
    """What is lowered: simple, that error; on a chain, bound (the likelihood's) or hybrid(0.001) of both;
    continuous_bound, VDM's, by which a learned density is learned."""
    times: str = "uniform"
    """How times are drawn: uniform, or importance(1000), more often where losses are large."""
    learn_variance: bool = False
    """Whether the reverse variance is learned, too, by objective hybrid or bound."""
    drop: float = 0.1
    """Share of examples trained without their condition, for classifier-free guidance; 1 makes a model of
    the data as a whole, which takes no condition."""
    train: TrainConfig = TrainConfig(minutes=10)
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        build(self.parameterization, PARAMETERIZATIONS, "parameterization", SCALINGS, SCHEDULES)
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        weight = build(self.weight, WEIGHTS, "weight", SCALINGS, SCHEDULES)
        if not _finite(density, weight):
            raise PhinError(
                f"weight {self.weight} at density {self.density} is infinite or 0 at some level, in float32; "
                "take another weight, or less distant ends"
            )
        build(self.times, TIMES, "times")
        objective = self._objective()
        by_chain = isinstance(objective, ChainBound | Hybrid)
        if by_chain and not (isinstance(density, Discrete) and density.T >= 2):
            raise PhinError(
                f"objective {self.objective} is of a chain of at least 2 steps, and density {self.density} "
                "is none: take a density such as discrete(cosine)"
            )
        continuous = isinstance(objective, ContinuousBound)
        if continuous and isinstance(density, Discrete):
            raise PhinError(
                f"objective {self.objective} is of continuous time, and density {self.density} is a chain: "
                "take the density that it was made of, or objective bound"
            )
        if not continuous and any(True for _ in density.parameters()):
            raise PhinError(
                f"density {self.density} is learned by objective continuous_bound, and by {self.objective} "
                "it would flee to where errors are small: take that objective, or another density"
            )
        if self.learn_variance and not by_chain:
            raise PhinError(
                f"objective {self.objective} does not train the variance: take hybrid or bound, or do not "
                "learn it"
            )
        if isinstance(objective, Hybrid) and not self.learn_variance:
            raise PhinError(
                f"objective {self.objective} is for a learned variance: give learn_variance, or take simple"
            )
        if not 0 <= self.drop <= 1:
            raise PhinError(f"drop is a share, from 0 to 1, not {self.drop}")

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data).unconditional() if self.drop == 1 else Facts.of(data)

    def _objective(self) -> Objective:
        return build(self.objective, OBJECTIVES, "objective", parts=DECODERS)

    def model(self, facts: Facts) -> Denoiser:
        """The untrained model."""
        channels, *sides = facts.shape
        values = self.net.values if isinstance(self.net, UNetConfig) else 0
        if values and (self.parameterization != "x" or self.learn_variance or not facts.eight_bit):
            raise PhinError(
                f"net.values = {values} is for 8-bit images, parameterization x and a fixed variance: "
                "give 256 and those, or 0"
            )
        outputs = channels * (values or 1 + self.learn_variance)
        if isinstance(self.net, MLPConfig):
            if sides:
                raise PhinError(f"an MLP needs vectors, and {self.data} has pictures: take a U-Net's recipe")
            net = MLP(self.net, channels, facts.classes, outputs)
        elif sides:
            net = UNet(
                self.net,
                channels,
                outputs,
                dims=len(sides),
                classes=facts.classes,
                vocabulary=facts.vocabulary,
            )
            net.check(sides)
        else:
            raise PhinError(
                f"a U-Net needs pictures, and {self.data} has vectors of {channels} numbers: take an MLP"
            )
        param = build(self.parameterization, PARAMETERIZATIONS, "parameterization", SCALINGS, SCHEDULES)
        sigma_data = param.sigma_data if isinstance(param, edm) else 1.0
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        schedule = density if any(True for _ in density.parameters()) else None
        net = Posterior(net, values) if values else net
        return Denoiser(net, param, self.learn_variance, sigma_data, schedule)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.tasks import Denoising

        model = self.model(self.facts(data))
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        weight = build(self.weight, WEIGHTS, "weight", SCALINGS, SCHEDULES)
        objective = self._objective()
        likely = isinstance(objective, ChainBound | Hybrid | ContinuousBound)
        if likely and objective.decoder is None and not data.eight_bit:
            raise PhinError(
                f"objective {self.objective} ends in the probability of 8-bit images, and {self.data} has "
                f"none: give it a density to end in, as in {self.objective.split('(')[0]}(decoder=gaussian)"
            )
        return Denoising(
            model,
            data,
            density,
            weight,
            self.drop,
            self.train.batch,
            self.train.seed,
            preview=self.sample,
            objective=objective,
            times=build(self.times, TIMES, "times"),
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

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise PhinError(f"smoothing is a share, from 0 to less than 1, not {self.smoothing}")

    def model(self, facts: Facts) -> Classifier:
        """The untrained model."""
        if not facts.classes:
            raise PhinError(f"{self.data} has no labels, and a classifier needs them")
        return Classifier(self.net, facts.shape[0], facts.classes)

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.tasks import Classification

        model = self.model(self.facts(data))
        return Classification(model, data, self.views, self.smoothing, self.train.batch, self.train.seed)


@dataclass(frozen=True)
class NoisyClassifierRecipe:
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
        if not _finite(build(self.density, SCHEDULES, "schedule", SCALINGS)):
            raise PhinError(
                f"density {self.density} is infinite somewhere in float32; take less distant ends"
            )

    def model(self, facts: Facts) -> NoisyClassifier:
        """The untrained model."""
        if not facts.classes:
            raise PhinError(f"{self.data} has no labels, and a classifier needs them")
        return NoisyClassifier(self.net, facts.shape[0], facts.classes)

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.tasks import NoisyClassification

        model = self.model(self.facts(data))
        density = build(self.density, SCHEDULES, "schedule", SCALINGS)
        return NoisyClassification(model, data, density, self.views, self.train.batch, self.train.seed)


T = TypeVar("T")
Recipe = DiffusionRecipe | ClassifierRecipe | NoisyClassifierRecipe
FAMILIES: dict[str, type[Recipe]] = {
    "diffusion": DiffusionRecipe,
    "classifier": ClassifierRecipe,
    "noisy-classifier": NoisyClassifierRecipe,
}
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

_DDPM = DiffusionRecipe(
    data="mnist",
    parameterization="eps",
    density="discrete(linear)",
    weight="simple",
    sample=SampleConfig(solver="ddpm", steps=50, guidance=1.0, grid="discrete(linear)"),
)
# Denoising score matching with the weight sigma²: a network that predicts eps is -sigma times a score.
_SCORE = replace(_DDPM, density="linear", sample=SampleConfig(steps=20, guidance=1.0, grid="linear"))

NUMBERS = DiffusionRecipe(data="numbers", train=TrainConfig(minutes=10, batch=64, lr=2e-3))
_READER = ClassifierRecipe(
    train=TrainConfig(minutes=7, batch=256, lr=2e-3, weight_decay=0.05, warmup=0.05), data="mnist"
)

RECIPES: dict[str, Recipe] = {
    "numbers": NUMBERS,
    "mnist": DiffusionRecipe(data="mnist"),
    "mnist-ddpm": _DDPM,
    "mnist-improved-ddpm": replace(
        _DDPM,
        density="discrete(cosine)",
        objective="hybrid",
        learn_variance=True,
        sample=replace(_DDPM.sample, grid="discrete(cosine)"),
    ),
    "mnist-score-vp": _SCORE,
    "mnist-score-ve": replace(
        _SCORE,
        density="geometric",
        sample=replace(_SCORE.sample, grid="karras(sigma_min=0.01, sigma_max=50)"),
    ),
    "mnist-score-subvp": replace(
        _SCORE, density="linear_subvp", sample=replace(_SCORE.sample, grid="linear_subvp")
    ),
    "mnist-vdm": DiffusionRecipe(
        data="mnist",
        net=UNetConfig(fourier=(5, 6, 7), values=256),
        parameterization="x",
        density="learned",
        objective="continuous_bound",
        drop=1.0,
        train=TrainConfig(minutes=60, batch=64, lr=3e-3),
        sample=SampleConfig(steps=50, guidance=1.0, grid="cosine"),
    ),
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
    "mnist-noisy-classifier": NoisyClassifierRecipe(data="mnist", train=replace(_READER.train, minutes=5)),
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
    task, description = recipe.task(data), describe(name, recipe, recipe.facts(data), command)
    return fit(task, recipe.train, Path(out or Path("runs") / name), description)
