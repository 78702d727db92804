"""`phin demo`."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .command import Command
from .evaluate import show_figures
from .terminal import progress
from .train import Train


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Get MNIST, train a model of numbers from scratch, draw with it, measure it, and write a report."""

    minutes: float = 10.0
    """How long to train."""
    out: Path = Path("runs/demo")
    """Folder of the run and its report.html. A demo that was interrupted goes on from what is there."""
    seed: int = 0
    """Of everything random."""
    reader: str = "mnist-classifier"
    """The classifier that reads the pictures."""

    again = Train.again

    def run(self) -> dict[str, Any]:
        from phin.demo import demo
        from phin.evaluation import Plan
        from phin.recipes import NUMBERS

        train = replace(NUMBERS.train, minutes=self.minutes, steps=None, seed=self.seed)
        command = (
            f"phin demo --minutes {self.minutes:g} --out {shlex.quote(str(self.out))} --seed {self.seed}"
        )
        recipe, plan = replace(NUMBERS, train=train), Plan(n_unseen=200)
        with progress(plan.states(recipe.sample.steps)) as watch:
            return demo(recipe, self.out, command, self.reader, plan, watch)

    def show(self, facts: dict[str, Any]) -> None:
        show_figures(facts["figures"])
        print(f"\nThe report is {facts['report']}; more pictures: {facts['command']}")
