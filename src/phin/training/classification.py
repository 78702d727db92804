"""Training of classifiers, of clean pictures and of noisy ones."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from phin.data.augment import Augmentation, augment
from phin.data.base import Data, some
from phin.diffusion.losses import stratified
from phin.diffusion.noise import normal, stream
from phin.diffusion.schedules import Schedule
from phin.metrics import noisy
from phin.nets.classifier import Classifier, NoisyClassifier
from phin.training.loop import Losses, Task


class Classification(Task):
    """Classification, on random views of the pictures.

    Args:
        model: The classifier to train.
        data: Labelled pictures.
        views: How far the random views stray.
        smoothing: Label smoothing: this share of each target is spread over all classes.
        batch: Examples a step.
        seed: Of batches and views.
    """

    model: Classifier

    def __init__(
        self,
        model: Classifier,
        data: Data,
        views: Augmentation,
        smoothing: float = 0.1,
        batch: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.data, self.views = model, data, views
        self.smoothing, self.batch, self.seed = smoothing, batch, seed

    def forward(self, step: int, rows: slice) -> Losses:
        """The cross-entropy of each example."""
        x, cond, _ = self.data.train(self.seed, step, self.batch)
        seen = augment(x, stream(self.seed, "views", step), self.views)[rows].to(self.device)
        logits = self.model(seen)
        labels = cond["label"][rows].to(self.device)
        return Losses(F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing))

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The share of held-out pictures read wrong, and their cross-entropy."""
        x, cond, _ = self.data.split("valid")
        logits = torch.cat([model(part.to(self.device)).float().cpu() for part in x.split(512)])
        wrong = (logits.argmax(1) != cond["label"]).float().mean().item()
        return {"error": wrong, "loss": F.cross_entropy(logits, cond["label"]).item()}


class NoisyClassification(Task):
    """Classification of noisy pictures, at any level, for guidance.

    Targets are not smoothed: guidance needs p(y | z) as it is. With `views`, it is that of data moved a
    little, not quite the denoiser's; without, the classifier comes to know its pictures by heart.

    Args:
        model: The classifier to train.
        data: Labelled pictures.
        density: The levels it is trained at are those of this schedule at uniform times.
        views: How far the random views stray, of which it sees noisy versions.
        batch: Examples a step.
        seed: Of batches, views, times and noise.
        examples: Held-out examples of the validation, at most.
    """

    model: NoisyClassifier

    def __init__(
        self,
        model: NoisyClassifier,
        data: Data,
        density: Schedule,
        views: Augmentation,
        batch: int = 128,
        seed: int = 0,
        examples: int = 1000,
    ) -> None:
        super().__init__()
        self.model, self.data, self.density, self.views = model, data, density, views
        self.batch, self.seed, self.examples = batch, seed, examples

    def forward(self, step: int, rows: slice) -> Losses:
        """The cross-entropy of each example, at stratified times."""
        x, cond, total = self.data.train(self.seed, step, self.batch)
        seen = augment(x, stream(self.seed, "views", step), self.views)[rows].to(self.device)
        uniform = torch.from_numpy(stream(self.seed, "time", step).random(total, dtype=np.float32))
        level = self.density(stratified(uniform)[rows]).over(seen)
        places = range(*rows.indices(total))
        eps = normal(self.seed, "noise", [step * self.batch + place for place in places], x.shape[1:])
        logits = self.model(level.alpha * seen + level.sigma * eps.to(self.device), level)
        loss = F.cross_entropy(logits, cond["label"][rows].to(self.device), reduction="none")
        return Losses(loss, level.log_snr.flatten())

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The cross-entropy of held-out examples and that of pure guessing; the errors by log-SNR."""
        assert isinstance(model, NoisyClassifier)
        x, cond, _ = some(self.data, "valid", self.examples)
        x, label = x.to(self.device), cond["label"].to(self.device)
        times = stratified(torch.full((len(x),), 0.5))[
            torch.from_numpy(stream(0, "validation").permutation(len(x)))
        ]
        level = self.density(times).over(x)
        eps = normal(0, "validation", range(len(x)), x.shape[1:]).to(self.device)
        loss = F.cross_entropy(model(level.alpha * x + level.sigma * eps, level), label)
        errors = {
            f"error/{log_snr:g}": 1 - rate.value for log_snr, rate in noisy.rates(model, x, label).items()
        }
        return {"loss": loss.item(), "baseline": math.log(self.data.classes), **errors}
