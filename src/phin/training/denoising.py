"""Training of diffusion models: by denoising."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.augment import mirror
from phin.data.base import Batch, Data, Which, some
from phin.data.degraded import Degraded
from phin.data.encoded import pixels
from phin.data.number_words import LANGUAGES
from phin.data.words import Words, random_numbers
from phin.diffusion.denoiser import Denoise, Denoiser, Prediction
from phin.diffusion.dequantization import dequantized
from phin.diffusion.level import Level
from phin.diffusion.losses import Times, Uniform, stratified
from phin.diffusion.noise import normal, stream, uniform
from phin.diffusion.objectives import Objective, Simple, Terms
from phin.diffusion.schedules import Schedule
from phin.diffusion.weights import Weight
from phin.pictures import scatter, still, tile, to_bytes
from phin.sampling import SampleConfig, draw
from phin.training.ahead import Ahead
from phin.training.loop import Losses, Task
from phin.training.measuring import Measuring


class Denoising(Task):
    """Denoising: a diffusion model.

    Args:
        model: The denoiser to train.
        data: What it learns; latents if they are what the model lives in.
        density: The levels it is trained at are those of this schedule at uniform times.
        weight: How an error counts at each level.
        objective: What training lowers.
        times: How times are drawn.
        drop: The share of examples whose condition is left out, for classifier-free guidance; 1 is a model
            without conditions. Of data that are given images as well, all else is left out of as many more,
            so that an image alone will do.
        batch: Examples a step (of `numbers`: cells).
        seed: Of batches, times, noise and dropping.
        preview: How the pictures that show the progress are sampled.
        examples: Held-out examples of the validation, at most.
        flip: Whether every picture, each time it is seen, has one chance in two of being mirrored.
        measure: What measures samples at each validation.
        dequantize: Whether every image of 8 bits, each time it is seen, gets uniform noise of its own within
            the bins of its values.
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
        objective: Objective = Simple(),
        times: Times | None = None,
        flip: bool = False,
        measure: Measuring | None = None,
        dequantize: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.data, self.density, self.weight = model, data, density, weight
        self.objective, self.times = objective, times or Uniform()
        self.drop, self.batch, self.seed, self.preview, self.examples = drop, batch, seed, preview, examples
        self.flip, self.measure, self.dequantize = flip, measure, dequantize
        self._ahead = Ahead(self.shown)

    def networks(self) -> tuple[nn.Module, ...]:
        """The denoiser's."""
        return (self.model.net,)

    def forward(self, step: int, rows: slice) -> Losses:
        """The objective of each example, at stratified times."""
        shown = self.shown if self.device.type == "cpu" else self._ahead
        (x, cond, total), eps = shown(step, rows)
        t, weight = (drawn[rows] for drawn in self._drawn(step, total))
        cond = self.dropped(step, rows, cond, total)
        terms = self._terms(self.model, self._given(self.model, cond), x, t, eps)
        # Uniform times have nothing to learn, and what does not learn need not be told.
        weighed = None if isinstance(self.times, Uniform) else weight.to(terms.loss)
        return Losses(terms.loss, terms.log_snr, weighed)

    def shown(self, step: int, rows: slice) -> tuple[Batch, Tensor]:
        """Rows of the batch of a step, as the model is to see them, and the noise of each."""
        x, cond, total = self.data.train(self.seed, step, self.batch, rows)
        if self.flip:
            draws = stream(self.seed, "flip", step).random(total)[rows]
            x = mirror(x, draws)
            cond |= {"image": mirror(cond["image"], draws)} if "image" in cond else {}
        numbers = [step * self.batch + place for place in range(*rows.indices(total))]
        eps = normal(self.seed, "noise", numbers, x.shape[1:])
        return Batch(self._spread(x, self.seed, numbers), cond, total), eps

    def dropped(self, step: int, rows: slice, cond: dict[str, Tensor], total: int) -> dict[str, Tensor]:
        """The condition of rows of the batch of a step, left out (-1) of `drop` of the batch."""
        if not self.drop:
            return cond
        draws = torch.from_numpy(stream(self.seed, "drop", step).random(total))[rows]
        others = self.drop * (2 if "image" in cond else 1)
        shares = {name: self.drop if name == "image" else others for name in cond}
        return {
            k: v.masked_fill((draws < shares[k]).view(-1, *[1] * (v.ndim - 1)), -1) for k, v in cond.items()
        }

    def fewest(self, batch: int) -> int:
        """Of `numbers`, with cells for a batch, there are fewer."""
        return self.data.fewest(batch)

    def learn(self, step: int, loss: Tensor) -> None:
        """The times learn where losses are large."""
        self.times.learn(self._drawn(step, len(loss))[0], loss)

    def _drawn(self, step: int, total: int) -> tuple[Tensor, Tensor]:
        """The times of the whole batch of a step, and their weights."""
        return self.times(
            stratified(torch.from_numpy(stream(self.seed, "time", step).random(total, dtype=np.float32)))
        )

    def _given(self, model: Denoiser, cond: Mapping[str, Tensor]) -> Denoise:
        """The denoiser under the condition, unless that is always left out."""
        return model.given(**({} if self.drop == 1 else _to(cond, self.device)))

    def _terms(self, model: Denoiser, denoise: Denoise, x: Tensor, t: Tensor, eps: Tensor) -> Terms:
        x, eps = (part.to(self.device, non_blocking=True) for part in (x, eps))
        return self.objective(denoise, x, model.schedule or self.density, t, self.weight, lambda _: eps)

    def _some(self, which: Which, n: int) -> Batch:
        """A fixed choice of examples, as the model is to see them."""
        x, cond, total = some(self.data, which, n)
        return Batch(self._spread(x, 0, range(len(x))), cond, total)

    def _spread(self, x: Tensor, seed: int, numbers: Sequence[int]) -> Tensor:
        """Images with the noise of their numbers, if they are to be dequantized."""
        if not self.dequantize:
            return x
        return dequantized(x, uniform(seed, "dequantization", numbers, x.shape[1:]))

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Each pixel's mean and variance."""
        seen = self._some("train", 8 * self.examples).x.to(self.device)
        return seen.mean(0), seen.var(0, correction=0)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The same loss and its parts on held-out examples, and a baseline; and measures of samples, if any.

        The baseline is the best denoiser that knows no more than each pixel's mean and variance.
        """
        assert isinstance(model, Denoiser)
        x, cond, _ = self._some("valid", self.examples)
        mean, variance = self._moments

        def pixelwise(z: Tensor, level: Level) -> Prediction:
            gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
            return Prediction(mean + gain * (z - level.alpha * mean))

        uniform = stratified(torch.full((len(x),), 0.5))[
            torch.from_numpy(stream(0, "validation").permutation(len(x)))
        ]
        times, weight = uniform.square(), 2 * uniform  # the terms of a bound are largest at the first times
        eps = normal(0, "validation", range(len(x)), x.shape[1:])
        terms = self._terms(model, self._given(model, cond), x, times, eps)
        baseline = self._terms(model, pixelwise, x, times, eps).loss
        found = {"loss": terms.loss, "baseline": baseline, "simple": terms.simple, "bound": terms.bound}
        means = {
            name: (weight.to(part) * part).mean().item() for name, part in found.items() if part is not None
        }
        return means | self.measured(model)

    def measured(self, model: Denoiser) -> dict[str, float]:
        """Measures of samples, if any are to be taken."""
        return self.measure(partial(self._draw, model)) if self.measure else {}

    def _draw(self, model: Denoiser, cond: dict[str, Tensor], numbers: Sequence[int]) -> Tensor:
        *sides, width = pixels(self.data).shape
        cells = cond["text"].shape[1] if "text" in cond else 1
        return draw(model, self.preview, (*sides, width * cells), cond, seed=0, indices=numbers)

    def picture(self, model: nn.Module) -> np.ndarray | None:
        """Samples: some numbers, one of each class, or a cloud of points."""
        assert isinstance(model, Denoiser)
        if isinstance(self.data, Degraded):
            return self._restored(model, self.data)
        drawn = [
            draw(model, self.preview, shape, cond, seed=0, indices=range(n))
            for shape, cond, n in _previews(pixels(self.data), conditional=self.drop < 1)
        ]
        if len(self.data.shape) == 1:
            return scatter(drawn[0])
        videos = len(self.data.shape) == 4
        return tile([still(x) for samples in drawn for x in samples], columns=1 if videos else 5)

    def _restored(self, model: Denoiser, data: Degraded) -> np.ndarray:
        """What is given of held-out pictures, above what is drawn of it, above the pictures."""
        x, cond, n = some(data, "valid", 10)
        drawn = draw(model, self.preview, data.shape, cond, seed=0, indices=range(n))
        rows = [cond["image"][:, :-1], drawn.cpu(), x]
        return tile([*to_bytes(torch.cat(rows))], columns=n)


def _previews(data: Data, conditional: bool) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor], int]]:
    """Shape, condition and number of the samples that show how far a training is."""
    if conditional and isinstance(data, Words):
        numbers = random_numbers(5, seed=0)
        said = [data.alphabet.tokens(say(number)) for say in LANGUAGES.values() for number in numbers]
        yield data.shape, {"prompt": torch.stack(said)}, len(said)
    elif conditional and data.vocabulary:
        *sides, width = data.shape
        for length in range(1, 6):
            text = torch.arange(5 * length).view(5, length) % data.vocabulary
            yield (*sides, width * length), {"text": text}, 5
    elif conditional and data.classes:
        yield data.shape, {"label": torch.arange(data.classes)}, data.classes
    else:
        yield data.shape, {}, 4096 if len(data.shape) == 1 else 10


def _to(cond: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in cond.items()}
