"""`phin distill`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .command import Command
from .options import Guidance, ModelName
from .parsing import parse
from .train import budgeted, show_run, trained


@dataclass(frozen=True, kw_only=True)
class Distill(Command):
    """Make a model that draws in one or two calls, of a trained one."""

    model: ModelName = "numbers"
    method: Literal["consistency", "tuning", "progressive"] = "consistency"
    """consistency: every call says where the path of the ODE ends. tuning: the same, learned at all levels by
    steps that shrink. progressive: DDIM's steps, halved again and again."""
    guidance: Guidance = None
    calls: int | None = None
    """Calls of the network a picture, at most; 2 by default."""
    middle: float | None = None
    """Log-SNR of the second of two calls; -1 by default."""
    walk: int | None = None
    """Of consistency, evaluations of the teacher between two levels of the student; 4 by default."""
    metric: str | None = None
    """Of consistency and tuning, how far two answers are apart: pseudo_huber(0.03), charbonnier(0.03) or
    squared."""
    start: int | None = None
    """Of progressive, the teacher's steps: the calls, doubled several times; by default until there are 16 or
    more."""
    out: Path | None = None
    """Folder of the run; runs/MODEL-fast by default."""
    train: Annotated[Any, tyro.conf.Suppress] = (
        None  # a TrainConfig, which is not imported before it is needed
    )
    command: Annotated[str, tyro.conf.Suppress] = ""

    again = "the same command goes on where it stopped"

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str) -> "Distill":
        """The command `PROG OPTIONS`, with the options of a training."""
        from phin.recipes.distillation import TRAIN
        from phin.training.config import TrainConfig

        train = Annotated[TrainConfig, tyro.conf.arg(name="")]
        kind = make_dataclass(
            "Options",
            [("train", train, TRAIN)],
            bases=(cls,),
            frozen=True,
            namespace={"__doc__": cls.__doc__},
        )
        options = parse(kind, argv, prog, kind(train=budgeted(TRAIN, argv)))
        return cls(**{**vars(options), "command": shlex.join([*prog.split(), *argv])})

    def run(self) -> dict[str, Any]:
        from phin import models
        from phin.recipes.distillation import TRAIN, student

        options = self.given("calls", "middle", "walk", "metric", "start")
        recipe = student(self.model, self.method, self.guidance, self.train or TRAIN, **options)
        name = f"{models.load(self.model).metadata['name']}-fast"
        return trained(recipe, self.out, name, self.command)

    def show(self, facts: dict[str, Any]) -> None:
        show_run(facts)
