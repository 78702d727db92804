"""DDPM's ablation on MNIST: the loss, what is predicted, and the variance of the reverse steps.

    python experiments/ablation.py --minutes 10

L is the bound of the chain, and L_simple its reweighting, the squared error of the noise, whatever is
predicted. Both fixed variances share a training, of L that with the small one; they differ in the bound and
in the samples. A learned variance is trained by L with all else, or beside L_simple by the hybrid loss.
Overfitting would show as bits a dimension that test images need more than training images.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, table 2 and section 4.2.
    Improved DDPM (Nichol and Dhariwal, 2021), arXiv:2102.09672, tables 1 and 2.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

from experiment import Digits, Figure, Subject, main, number

from phin import data as datasets
from phin.nll import nll
from phin.report import markdown

Loss = Literal["L", "L_simple"]


class Variance(NamedTuple):
    """A reverse variance."""

    training: str
    """What it is trained as: fixed or learned."""
    frac: float
    """Between the small one (0) and the large one (1), if it is fixed."""
    solver: str


OBJECTIVES: dict[Loss, dict[str, str]] = {
    "L": {"fixed": "bound", "learned": "bound"},
    "L_simple": {"fixed": "simple", "learned": "hybrid"},
}
VARIANCES = {
    "small": Variance("fixed", 0.0, "ddpm"),
    "large": Variance("fixed", 1.0, "ddpm_large"),
    "learned": Variance("learned", 0.0, "ddpm"),
}


@dataclass(frozen=True)
class Ablation(Digits):
    """Losses, predictions and variances."""

    losses: tuple[Loss, ...] = tuple(OBJECTIVES)
    """What is lowered."""
    predictions: tuple[str, ...] = ("mean", "eps", "x")
    """What the network predicts."""
    n: int = 1000
    """Pictures to draw, to read, and to compare with as many test pictures."""
    n_bound: int = 1000
    """Training images, and test images, for the bound."""

    name: ClassVar[str] = "ablation"

    def check(self) -> None:
        super().check()
        for split in ("train", "test"):
            datasets.load("mnist").split(split, self.n_bound)
        for prediction in self.predictions:
            replace(self.recipe("mnist-ddpm"), parameterization=prediction)

    def run(self) -> str:
        rows: list[list[str]] = []
        seen: dict[str, Any] = {}
        for loss in self.losses:
            for prediction in self.predictions:
                subjects = {way: self.subject(loss, prediction, way) for way in OBJECTIVES[loss]}
                for title, variance in VARIANCES.items():
                    subject = subjects[variance.training]
                    train, test = (self.bits(subject, split, variance.frac) for split in ("train", "test"))
                    error = math.hypot(train["error"], test["error"])
                    apart = {"value": test["value"] - train["value"], "error": error}
                    seen = self.drawn(subject, steps=self.steps, solver=variance.solver)["frechet"]
                    figures = [number(figure) for figure in (train, test, apart, seen)]
                    rows.append([loss, prediction, title, *figures, f"{subject.steps:,}"])
        heading = ["loss", "prediction", "variance", "train", "test", "test - train", "Frechet", "steps"]
        note = (
            f"{self.trained} of training each, seed {self.seed}; ± is one standard error. Bits a dimension, "
            f"by the bound and given the labels: {self.n_bound:,} images of each split. Frechet distance: "
            f"{self.n:,} pictures in {self.steps} steps; of training pictures it is {number(seen['floor'])}."
        )
        return f"{markdown(heading, rows)}\n\n{note}"

    def subject(self, loss: Loss, prediction: str, way: str) -> Subject:
        """The model trained by a loss, with a prediction and a fixed or learned variance."""
        recipe = replace(
            self.recipe("mnist-ddpm"),
            objective=OBJECTIVES[loss][way],
            parameterization=prediction,
            learn_variance=way == "learned",
        )
        return self.train(f"{loss}-{prediction}-{way}", recipe)

    def bits(self, subject: Subject, split: str, frac: float) -> Figure:
        """Bits a dimension of a split, by the bound."""
        return subject.measure(nll, split=split, n=self.n_bound, seed=self.seed, frac=frac)["bits_per_dim"]


if __name__ == "__main__":
    sys.exit(main(Ablation))
