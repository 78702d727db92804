"""`phin evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from phin.errors import PhinError

from .command import Command
from .guiding import guided
from .options import Classifier, ClassifierScale, Flag, Guidance, Levels, ModelName, Solver
from .processes import first, join
from .terminal import bar, show_table


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
    n_unseen: int | None = None
    """Of numbers: further strings, none of which was ever trained on; 500."""
    n_frechet: int | None = None
    """Of numbers: cells for the Frechet distance; 2000."""
    reference: Literal["test", "train"] | None = None
    """What pictures are measured by: the test split, the default, or what training could see, the training
    and the validation split, as most published FIDs are."""
    compared: int | None = None
    """Of how many of the pictures the nearest training picture is sought, 1000; 0 leaves that out."""
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

        model = models.load(self.model)
        guide = guided(model, self.classifier, self.classifier_scale)
        join()
        kind, plan, reader, features = evaluation.kind(model), None, None, self.features
        sizes = self.given("n", "n_unseen", "n_frechet", "reference", "compared")
        known = set() if kind is None else {field.name for field in fields(kind)}
        sampling = {} if kind else self.given("features", "steps", "solver", "guidance", "levels")
        for name, value in (sizes | sampling).items():
            if name not in known:
                raise PhinError(
                    f"--{name.replace('_', '-')} {value} is for models of another kind than {model.path}: "
                    "leave it out"
                )
        if kind is not None:
            plan = kind(**sizes, seed=self.seed)
        if features and isinstance(plan, evaluation.PromptPlan):
            reader, features = models.load(features), None
        figures = evaluation.evaluate(
            model,
            reader,
            plan,
            guide=guide,
            features=features,
            out=self.out,
            bar=bar,
            **self.given("steps", "solver", "guidance", grid="levels"),
        )
        if self.record and first():
            evaluation.record(model, figures)
        return {"model": str(model.path), **figures}

    def show(self, facts: dict[str, Any]) -> None:
        show_figures(facts)
        if self.out:
            print(f"\n{self.out}")


def show_figures(figures: dict[str, Any]) -> None:
    """Prints what `evaluate` found."""
    from phin.evaluation import rows, summary

    show_table(rows(figures))
    print(f"\n{summary(figures)}")
