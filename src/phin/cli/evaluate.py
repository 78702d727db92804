"""`phin evaluate`."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .command import Command
from .guiding import guided
from .options import Classifier, ClassifierScale, Flag, Guidance, Levels, ModelName, Solver
from .terminal import progress, show_table


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a trained model: how a generator's pictures are read, or how a classifier reads real ones."""

    model: ModelName = "numbers"
    reader: str = "mnist-classifier"
    """The classifier that reads the pictures."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 1000
    """Random strings of one to five digits; of a model of single digits, as many labels."""
    n_unseen: int = 500
    """Further strings, none of which was ever trained on."""
    n_frechet: int = 2000
    """Cells for the Frechet distance."""
    seed: int = 0
    """Of the strings, of the real pictures, and of the sampler's noise."""
    steps: int | None = None
    """Evaluations of the model a picture. This and the next three are the model's own by default."""
    solver: Solver = None
    guidance: Guidance = None
    levels: Levels = None
    classifier: Classifier = None
    classifier_scale: ClassifierScale = None
    record: Flag = False
    """Write the figures into the model's file, too."""

    def run(self) -> dict[str, Any]:
        from phin import evaluation, models
        from phin.diffusion.denoiser import Denoiser

        plan = evaluation.Plan(self.n, self.n_unseen, self.n_frechet, self.seed)
        choices = self.given("steps", "solver", "guidance", grid="levels")
        model, reader, total = models.load(self.model), None, 0
        guide = guided(model, self.classifier, self.classifier_scale)
        if isinstance(model.net, Denoiser):
            reader = models.load(self.reader)
            total = plan.states(models.choose(models.drawing(model)[1], choices).steps)
        with progress(total) as watch:
            figures = evaluation.evaluate(model, reader, plan, watch, guide, **choices)
        if self.record:
            evaluation.record(model, figures)
        return {"model": str(model.path), **figures}

    def show(self, facts: dict[str, Any]) -> None:
        show_figures(facts)


def show_figures(figures: dict[str, Any]) -> None:
    """Prints what `evaluate` found."""
    from phin.evaluation import rows

    show_table(rows(figures))
    if "cells_per_second" in figures:
        print(f"\n{figures['cells_per_second']:,.0f} cells were drawn a second")
