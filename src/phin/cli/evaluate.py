"""`phin evaluate`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .command import Command
from .guiding import guided
from .options import Classifier, ClassifierScale, Flag, Guidance, Levels, ModelName, Solver
from .terminal import bar, progress, show_table


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a trained model: how good a generator's pictures are, or how a classifier reads real ones."""

    model: ModelName = "numbers"
    features: Annotated[str | None, tyro.conf.arg(aliases=("--reader",))] = None
    """What looks at the pictures: digit-reader, fashion-reader, inception, a file of Inception's weights
    (.pth), or a classifier's run or file. By default the reader of the data, or Inception-v3."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None
    """Pictures or sequences to draw: 10,000, or as many as the data have to train on. Of numbers, 1,000
    random strings; 1,000 videos; 1,000 pictures of image to image."""
    n_unseen: int = 500
    """Of numbers: further strings, none of which was ever trained on."""
    n_frechet: int = 2000
    """Of numbers: cells for the Frechet distance."""
    seed: int = 0
    """Of what is asked for, of the choice of real pictures, and of the sampler's noise."""
    steps: int | None = None
    """Evaluations of the model a picture. This and the next three are the model's own by default."""
    solver: Solver = None
    guidance: Guidance = None
    levels: Levels = None
    classifier: Classifier = None
    classifier_scale: ClassifierScale = None
    out: Path | None = None
    """A folder to write the figures to, and pictures: samples, and those most like training pictures."""
    record: Flag = False
    """Write the figures into the model's file, too."""

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str) -> Command:
        """The model may be named first, without `--model`."""
        named = argv and not argv[0].startswith("-")
        return super().parse(["--model", *argv] if named else argv, prog)

    def run(self) -> dict[str, Any]:
        from phin import evaluation, models
        from phin.diffusion.denoiser import Denoiser

        choices = self.given("steps", "solver", "guidance", grid="levels")
        model, reader, total, plan = models.load(self.model), None, 0, None
        guide = guided(model, self.classifier, self.classifier_scale)
        join()
        if model.facts.vocabulary and isinstance(model.net, Denoiser):
            plan = evaluation.Plan(
                n_unseen=self.n_unseen, n_frechet=self.n_frechet, seed=self.seed, **self.given("n")
            )
            reader = models.load(self.features or "mnist-classifier")
            total = plan.states(models.choose(model, choices).steps)
        elif model.facts.alphabet:
            plan = evaluation.WordPlan(n_unseen=self.n_unseen, seed=self.seed, **self.given("n"))
            reader = models.load(self.features or "mnist-classifier")
            total = plan.states(models.choose(model, choices).steps)
        elif isinstance(model.net, Denoiser | models.OneShot):
            plan = evaluation.PicturePlan(n=self.n, seed=self.seed)
        usual = 1000 if len(model.facts.shape) == 4 or models.degradation(model) else 10_000
        with progress(total) as watch, bar(self.n or usual, "drawing") as drawn:
            figures = evaluation.evaluate(
                model,
                reader,
                plan,
                watch if reader else None,
                guide,
                features=self.features,
                out=self.out,
                drawn=drawn,
                **choices,
            )
        if self.record and first():
            evaluation.record(model, figures)
        return {"model": str(model.path), **figures}

    def show(self, facts: dict[str, Any]) -> None:
        if not first():
            return
        show_figures(facts)
        if self.out:
            print(f"\n{self.out}")


def show_figures(figures: dict[str, Any]) -> None:
    """Prints what `evaluate` found."""
    from phin.evaluation import rows, summary

    show_table(rows(figures))
    if said := summary(figures):
        print(f"\n{said}")


def join() -> None:
    """Joins the processes that `torchrun` or `accelerate launch` have started, if they have."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=True)


def first() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"
