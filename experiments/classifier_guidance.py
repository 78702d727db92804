"""Guidance by a classifier of noisy digits: what it buys, and what it costs.

    python experiments/classifier_guidance.py --minutes 30
    python experiments/classifier_guidance.py --model runs/mnist --classifier runs/mnist-noisy-classifier

A model of MNIST draws without being told what (guidance 0), and the gradient of the classifier leads it to
the digit that is asked for: not at all at scale 0, by Bayes' rule at 1, further above. For comparison, the
same model told its labels. The conditional Frechet distance is that of each digit's pictures from test
pictures of the digit, the mean over digits: unlike that of all pictures, it grows when a wrong one is drawn.

References:
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), arXiv:2105.05233, section 4.
"""

import math
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from experiment import Digits, Subject, main, number, percent
from torch import Tensor

import phin
from phin import data as datasets
from phin import models
from phin.data.base import Batch
from phin.errors import PhinError
from phin.evaluation import pictures
from phin.metrics.features import Features
from phin.metrics.frechet import frechet_estimate
from phin.metrics.jackknife import Estimate
from phin.metrics.summary import Summary, summarised
from phin.models import Model
from phin.pictures import to_integers
from phin.recipes import named
from phin.report import markdown


@dataclass(frozen=True)
class ClassifierGuidance(Digits):
    """A model guided by a classifier, at several scales."""

    minutes: float = 30.0
    """Time to train each, the model and the classifier."""
    model: str | None = None
    """A run of `phin train mnist` to guide, in place of training one."""
    classifier: str | None = None
    """A run of `phin train mnist-noisy-classifier`, in place of training one."""
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    """Of the classifier's gradient."""
    n: int = 5000
    """Pictures to draw, to read, and to compare with as many test pictures."""
    steps: int = 20
    """Of sampling."""

    name: ClassVar[str] = "classifier_guidance"

    def check(self) -> None:
        super().check()
        training("mnist", self.features, self.n, self.seed)
        for scale in self.scales:
            if not math.isfinite(scale):
                raise PhinError(f"--scales {scale}: give finite numbers, such as 1")
        for source in filter(None, (self.model, self.classifier)):
            phin.load(source)

    def run(self) -> str:
        noisy = "mnist-noisy-classifier"
        classifier = self.given(self.classifier, noisy, named(noisy))
        model = self.given(self.model, "mnist", self.recipe("mnist"))
        # A file of its own for each classifier, whose further training makes other figures.
        subject = Subject(model.model, self.folder / f"mnist-by-{classifier.weights[:12]}.json")
        path = str(classifier.model.path)

        def measured(scale: float, guidance: float) -> dict[str, Any]:
            how = {"features": self.features, "n": self.n, "seed": self.seed, "steps": self.steps}
            return subject.measure(guided, classifier=path, scale=scale, guidance=guidance, **how)

        found = {f"classifier, scale {scale:g}": measured(scale, guidance=0.0) for scale in self.scales}
        found["told the label"] = measured(0.0, guidance=1.0)
        found["real digits"] = training(model.model.recipe.data, self.features, self.n, self.seed)
        rows = [
            [
                title,
                percent(one["digits"]["rate"], one["digits"]["error"]),
                number(one["conditional"]),
                number(one["frechet"]),
            ]
            for title, one in found.items()
        ]
        note = (
            f"{self.n:,} pictures against as many test pictures, in the features of the digit reader; ± is "
            f"one standard error. Model: {self.model or self.trained}; classifier: "
            f"{self.classifier or self.trained}; {self.steps} steps, seed {self.seed}. Real digits are those "
            "of the training set."
        )
        return f"{markdown(['', 'digits right', 'conditional Frechet', 'Frechet'], rows)}\n\n{note}"


def guided(
    model: Model, classifier: str, scale: float, features: str | None, n: int, seed: int, **choices: Any
) -> dict[str, Any]:
    """What is to be said of pictures that a classifier has led to the labels of training pictures."""
    data = datasets.load(model.recipe.data)
    label = data.split("train", n, seed).cond["label"]
    guide = models.guide(model, models.load(classifier), scale) if scale else None
    drawn = phin.samples(model, labels=label.tolist(), seed=seed, guide=guide, **choices)
    return compared(
        pictures.chosen(features, data.name), torch.stack(drawn), label, data.split("test", n, seed)
    )


@cache
def training(data: str, features: str | None, n: int, seed: int) -> dict[str, Any]:
    """The same of training pictures."""
    real = datasets.load(data)
    x, cond, _ = real.split("train", n, seed)
    return compared(pictures.chosen(features, data), x, cond["label"], real.split("test", n, seed))


def compared(features: Features, x: Tensor, label: Tensor, test: Batch) -> dict[str, Any]:
    """Digits read right, and the Frechet distances from test pictures: of all, and digit by digit."""

    def summary(x: Tensor, label: Tensor) -> Summary:
        return summarised(features, to_integers(x), labels=label)

    whole, real = summary(x, label), test.cond["label"]
    each = [
        frechet_estimate(
            summary(x[label == digit], label[label == digit]).moments,
            summary(test.x[real == digit], real[real == digit]).moments,
        )
        for digit in label.unique()
    ]
    values, errors = ([getattr(one, name) for one in each] for name in ("value", "error"))
    conditional = Estimate(math.fsum(values) / len(each), math.hypot(*errors) / len(each))
    return {
        "digits": {"rate": whole.rate.value, "error": whole.rate.error},
        "frechet": vars(frechet_estimate(whole.moments, summary(test.x, real).moments)),
        "conditional": vars(conditional),
    }


if __name__ == "__main__":
    sys.exit(main(ClassifierGuidance))
