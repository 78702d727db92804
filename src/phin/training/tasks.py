"""What can be trained: each task draws its batches and gives their losses; the loop does the rest."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phin.data.augment import Augmentation, augment
from phin.data.base import Batch, Data, Which
from phin.diffusion.denoiser import Denoiser, Prediction
from phin.diffusion.level import Level
from phin.diffusion.losses import denoising_loss, stratified
from phin.diffusion.noise import normal, stream
from phin.diffusion.schedules import Schedule
from phin.diffusion.weights import Weight
from phin.errors import PhinError
from phin.nets.classifier import Classifier
from phin.pictures import scatter, tile, to_bytes
from phin.sampling import SampleConfig, draw
from phin.training.loop import Losses, Task


class Denoising(Task):
    """Denoising: a diffusion model.

    Args:
        model: The denoiser to train.
        data: What it learns.
        density: The levels it is trained at are those of this schedule at uniform times.
        weight: How an error counts at each level.
        drop: The share of examples whose condition is left out, for classifier-free guidance.
        batch: Examples a step (of `numbers`: cells).
        seed: Of batches, times, noise and dropping.
        preview: How the pictures that show the progress are sampled.
        examples: Held-out examples of the validation, at most.
    """

    model: Denoiser

    def __init__(
        self,
        model: Denoiser,
        data: Data,
        density: Schedule,
        weight: Weight,
        drop: float = 0.1,
        batch: int = 128,
        seed: int = 0,
        preview: SampleConfig = SampleConfig(),
        examples: int = 256,
    ) -> None:
        super().__init__()
        self.model, self.data, self.density, self.weight = model, data, density, weight
        self.drop, self.batch, self.seed, self.preview, self.examples = drop, batch, seed, preview, examples

    def forward(self, step: int, rows: slice) -> Losses:
        """The weighted denoising loss of each example, at stratified times."""
        x, cond, total = self.data.train(self.seed, step, self.batch, rows)
        places = range(*rows.indices(total))
        uniform = torch.from_numpy(stream(self.seed, "time", step).random(total, dtype=np.float32))
        level = self.density(stratified(uniform)[rows].to(self.device)).view(x.ndim)
        if self.drop and cond:
            dropped = torch.from_numpy(stream(self.seed, "drop", step).random(total) < self.drop)[rows]
            cond = {k: v.masked_fill(dropped.view(-1, *[1] * (v.ndim - 1)), -1) for k, v in cond.items()}
        eps = normal(self.seed, "noise", [step * self.batch + place for place in places], x.shape[1:])
        given = self.model.given(**_to(cond, self.device))
        loss = denoising_loss(given, x.to(self.device), level, self.weight, lambda _: eps.to(self.device))
        return Losses(loss, level.log_snr.flatten())

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The same loss on held-out examples, and a baseline.

        The baseline is the best denoiser that knows no more than each pixel's mean and variance.
        """
        assert isinstance(model, Denoiser)
        x, cond, _ = _some(self.data, "valid", self.examples)
        seen = _some(self.data, "train", 8 * self.examples).x.to(self.device)
        mean, variance = seen.mean(0), seen.var(0)

        def pixelwise(z: Tensor, level: Level) -> Prediction:
            gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
            return Prediction(mean + gain * (z - level.alpha * mean))

        times = stratified(torch.full((len(x),), 0.5))[
            torch.from_numpy(stream(0, "validation").permutation(len(x)))
        ]
        level = self.density(times.to(self.device)).view(x.ndim)
        eps = normal(0, "validation", range(len(x)), x.shape[1:])
        losses = {
            name: denoising_loss(
                denoise, x.to(self.device), level, self.weight, lambda _: eps.to(self.device)
            )
            for name, denoise in (("loss", model.given(**_to(cond, self.device))), ("baseline", pixelwise))
        }
        return {name: loss.mean().item() for name, loss in losses.items()}

    def _at_most(self, which: Which, examples: int) -> int:
        return min(examples, self.data.count(which) or examples)

    def picture(self, model: nn.Module) -> np.ndarray | None:
        """Samples: some numbers, one of each class, or a cloud of points."""
        assert isinstance(model, Denoiser)
        drawn = [
            draw(model, self.preview, shape, cond, seed=0, indices=range(n))
            for shape, cond, n in _previews(self.data)
        ]
        if len(self.data.shape) == 1:
            return scatter(drawn[0])
        return tile([picture for samples in drawn for picture in to_bytes(samples)], columns=5)


def _previews(data: Data) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor], int]]:
    """Shape, condition and number of the samples that show how far a training is."""
    if data.vocabulary:
        *sides, width = data.shape
        for length in range(1, 6):
            text = torch.arange(5 * length).view(5, length) % data.vocabulary
            yield (*sides, width * length), {"text": text}, 5
    elif data.classes:
        yield data.shape, {"label": torch.arange(data.classes)}, data.classes
    else:
        yield data.shape, {}, 4096 if len(data.shape) == 1 else 10


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


def _some(data: Data, which: Which, n: int) -> Batch:
    """`n` examples of a split, or all that a small set has."""
    try:
        return data.split(which, n)
    except PhinError:
        return data.split(which)


def _to(cond: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in cond.items()}
