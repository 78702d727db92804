"""What all experiments share: models trained alike, figures that are measured once, and a table of them."""

import abc
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import tyro

import phin
from phin import data as datasets
from phin.cli.terminal import exit_code, messages
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, pictures
from phin.evaluation.subject import Subject
from phin.models import Model
from phin.nets.unet import UNetConfig
from phin.nll import nll
from phin.recipes import DiffusionRecipe, Recipe, named
from phin.report import markdown
from phin.training.checkpoint import atomic, open_folder

Figure = Mapping[str, Any]
"""A number under "value" and its standard error under "error", which is None where there is none."""


@dataclass(frozen=True)
class Experiment(abc.ABC):
    """A question that takes training to answer."""

    minutes: float = 10.0
    """Time to train each model."""
    train_steps: int | None = None
    """Steps to train each model, in place of a time."""
    seed: int = 0
    """Of everything random."""
    out: Path = Path("runs/experiments")
    """Where the experiment has its folder: models, figures, table and pictures."""

    name: ClassVar[str]

    def check(self) -> None:
        """Sees to it, before anything is trained, that what is asked for can be had.

        Raises:
            PhinError: It cannot.
        """
        for field in fields(self):
            option, value = f"--{field.name.replace('_', '-')}", getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,)
            if not values:
                raise PhinError(f"{option} is empty: give at least one, or leave it out")
            if field.name != "seed" and (few := [x for x in values if type(x) is int and x < 1]):
                raise PhinError(f"{option} {few[0]}: at least 1 is needed")

    @abc.abstractmethod
    def run(self) -> str:
        """Trains and measures what is not there yet. Returns the table, in Markdown."""

    @property
    def folder(self) -> Path:
        """All of it is there."""
        return self.out / self.name

    def train(self, name: str, recipe: Recipe) -> Subject:
        """The model of a recipe, trained as far as all others; one that is there only goes on."""
        config = replace(
            recipe.train,
            minutes=None if self.train_steps else self.minutes,
            steps=self.train_steps,
            seed=self.seed,
            picture_every=0.0,  # they would take more of the time from one model than from another
            trackers=(),
        )
        command = f"python {shlex.join(sys.argv)}"
        done = phin.train(replace(recipe, train=config), self.folder / name, name, command)
        return Subject(phin.load(done.folder), self.folder / f"{name}.json", done.step)

    def given(self, source: str | None, name: str, recipe: Recipe) -> Subject:
        """A model that was trained elsewhere, from its run's folder or file; or else as of `train`."""
        if source is None:
            return self.train(name, recipe)
        return Subject(phin.load(source), self.folder / f"{name}.json")

    @property
    def trained(self) -> str:
        """How far all are trained, in words."""
        return f"{self.train_steps:,} steps" if self.train_steps else f"{self.minutes:g} min"


@dataclass(frozen=True)
class Digits(Experiment):
    """An experiment on MNIST."""

    channels: tuple[int, ...] = (96, 192)
    """Of the network's resolutions."""
    blocks: int = 2
    """Residual blocks of each."""
    n: int = 2000
    """Pictures to draw, to read, and to compare with as many test pictures."""
    steps: int = 50
    """Of sampling."""
    features: str | None = None
    """What reads pictures and compares them with real ones, as of `phin evaluate`; the digit reader."""

    def check(self) -> None:
        super().check()
        reference("mnist", self.features, self.n, self.seed)

    def recipe(self, name: str) -> DiffusionRecipe:
        """A recipe, with this experiment's network."""
        recipe = named(name)
        assert isinstance(recipe, DiffusionRecipe)
        assert isinstance(recipe.net, UNetConfig)
        return replace(recipe, net=replace(recipe.net, channels=self.channels, blocks=self.blocks))

    def drawn(self, subject: Subject, **choices: Any) -> dict[str, Any]:
        """What is to be said of a model's pictures; choices of sampling replace the model's own."""
        return subject.measure(drawn, features=self.features, n=self.n, seed=self.seed, **choices)


def drawn(model: Model, features: str | None, n: int, seed: int, **choices: Any) -> dict[str, Any]:
    """Digits read right and the Frechet distance, beside those of real pictures, as of `phin evaluate`."""
    found = pictures.evaluate(model, reference(model.recipe.data, features, n, seed), **choices).figures
    return {"digits": found["label"], "frechet": found["measures"]["frechet"]}


@cache
def reference(data: str, features: str | None, n: int, seed: int) -> Reference:
    """Real pictures, the same for all models; what is not asked for is measured on few."""
    plan = PicturePlan(n, kept=20, compared=0, seed=seed)
    return Reference(datasets.load(data), pictures.chosen(features, data), plan)


@dataclass(frozen=True)
class Comparison(Digits):
    """Models of MNIST under the same measures."""

    n_bound: int = 1000
    """Test images, for the bound."""
    n_ode: int = 100
    """Test images, for the ODE."""
    rtol: float = 1e-3
    """Tolerated error of a step of the ODE."""

    def check(self) -> None:
        super().check()
        for n in (self.n_bound, self.n_ode):
            datasets.load("mnist").split("test", n)
        if not self.rtol > 0:
            raise PhinError(f"--rtol {self.rtol:g}: it must be positive, such as 0.001")

    def compare(self, subjects: Mapping[str, tuple[Subject, dict[str, Any]]]) -> str:
        """The table of models and how each is sampled, by their titles."""
        rows: list[list[str]] = []
        seen: dict[str, Any] = {}
        for title, (subject, sampling) in subjects.items():
            recipe = subject.model.recipe
            assert isinstance(recipe, DiffusionRecipe)
            bound = ""  # in bits there is none for dequantized images
            if not recipe.dequantize:
                bound = number(subject.measure(nll, n=self.n_bound, seed=self.seed)["bits_per_dim"])
            flow = subject.measure(nll, n=self.n_ode, seed=self.seed, method="ode", rtol=self.rtol)
            solved = "" if flow["converged"] == flow["images"] else f" ({flow['converged']} solved)"
            seen = self.drawn(subject, guidance=1.0, **sampling)
            right = percent(seen["digits"]["rate"], seen["digits"]["error"])
            likely = [bound, number(flow["bits_per_dim"]) + solved]
            rows.append([title, *likely, right, number(seen["frechet"]), f"{subject.steps:,}"])
        real = percent(seen["digits"]["real_rate"], seen["digits"]["real_error"])
        rows.append(["real digits", "", "", real, number(seen["frechet"]["floor"]), ""])
        heading = ["", "bound, bits/dim", "ODE, bits/dim", "digits right", "Frechet", "training steps"]
        note = (
            f"{self.trained} of training each, seed {self.seed}; ± is one standard error. Bits a dimension, "
            f"given the labels: of {self.n_bound:,} test images by the bound, of {self.n_ode:,} by the "
            f"probability-flow ODE (rtol {self.rtol:g}, uniform dequantization). Digits and distances: "
            f"{self.n:,} pictures, in {self.steps} steps at most. Of real digits, test images are read, and "
            "training images are so far from them."
        )
        return f"{markdown(heading, rows)}\n\n{note}"


def number(figure: Figure, digits: int = 3) -> str:
    """A figure and its standard error."""
    value, error = figure["value"], figure["error"]
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def percent(rate: float, error: float) -> str:
    """A share and its standard error."""
    return f"{100 * rate:.1f} ± {100 * error:.1f} %"


def main(kind: type[Experiment], argv: Sequence[str] | None = None) -> int:
    """Runs an experiment from its command line. Prints its table, and leaves it in table.md, too."""

    def run() -> None:
        experiment = tyro.cli(kind, args=argv, description=sys.modules[kind.__module__].__doc__)
        with messages():
            experiment.check()
            open_folder(experiment.folder)
            text = experiment.run()
        with atomic(experiment.folder / "table.md") as path:
            path.write_text(text + "\n", encoding="utf-8")
        print(text)

    return exit_code(run, "the same command goes on")
