"""Training of generative adversarial networks: two players, who move at once."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.base import Data, Which, some
from phin.diffusion.noise import normal
from phin.families.gan import Generator, Players, play
from phin.metrics.frechet import Moments, frechet_distance
from phin.metrics.untrained import Untrained, joint_moments
from phin.pictures import tile, to_bytes
from phin.sampling import generate
from phin.training.loop import Losses, Task
from phin.training.measuring import Measuring


class Adversarial(Task):
    """The game of a generator and a discriminator.

    Samples of a batch are of the labels of its data. Losses tell nothing of quality, for each is measured by
    the other player. Validation takes the Frechet distance of samples from held-out data, jointly with their
    labels, in the features of an untrained network, which needs no reader of the data.

    Args:
        model: Both players.
        data: What the generator learns to make.
        penalty: R1's gamma.
        every: Steps from one of R1 to the next; it counts as much as if it were taken at each.
        batch: Examples a step.
        seed: Of batches and noise.
        examples: Held-out examples of the validation, and samples, at most.
        measure: What else measures samples at each validation.
    """

    model: Players

    def __init__(
        self,
        model: Players,
        data: Data,
        penalty: float,
        every: int = 1,
        batch: int = 128,
        seed: int = 0,
        examples: int = 2000,
        measure: Measuring | None = None,
    ) -> None:
        super().__init__()
        self.model, self.data, self.penalty, self.every = model, data, penalty, every
        self.batch, self.seed, self.examples, self.measure = batch, seed, examples, measure

    @property
    def product(self) -> nn.Module:
        """The generator: what judged it is not needed to draw."""
        return self.model.generator

    def parts(self) -> dict[str, nn.Module]:
        """The players."""
        return dict(self.model.named_children())

    def forward(self, step: int, rows: slice) -> Losses:
        """Both losses of each example and its sample, of the label of which the example is."""
        x, cond, total = self.data.train(self.seed, step, self.batch, rows)
        generator = self.model.generator
        assert isinstance(generator, Generator)
        places = [step * self.batch + place for place in range(*rows.indices(total))]
        z = normal(self.seed, "noise", places, (generator.latent,)).to(self.device)
        label = cond["label"].to(self.device) if generator.classes else None
        penalty = 0.0 if step % self.every else self.every * self.penalty
        game = play(self.model, x.to(self.device), z, label, penalty)
        return Losses(game.both, by_part=torch.stack(game, 1))

    def validate(self, model: nn.Module) -> dict[str, float]:
        """How far samples are from held-out data of the same labels; and measures of samples, if any.

        The baseline is how far noise is that has each pixel's mean and variance; the floor, as many training
        data.
        """
        assert isinstance(model, Generator)
        label = self._some("valid")[1]
        drawn = self._draw(model, self._count, label)
        found = {"distance": self._distance(drawn, label), **self._bounds}
        if self.measure is not None:
            found |= self.measure(lambda cond, places: generate(model, cond, 0, places))
        return found

    def picture(self, model: nn.Module) -> np.ndarray:
        """Samples: five of each class, or fifty."""
        assert isinstance(model, Generator)
        columns = model.classes if 0 < model.classes <= 20 else 10
        label = torch.arange(5 * columns) % columns if model.classes else None
        return tile([*to_bytes(self._draw(model, 5 * columns, label))], columns)

    def _draw(self, model: Generator, n: int, label: Tensor | None) -> Tensor:
        """The first n samples of a fixed stream, in parts for the sake of memory."""
        parts = torch.arange(n).split(256)
        told = [{} if label is None else {"label": label[part]} for part in parts]
        drawn = [generate(model, own, 0, part.tolist()) for own, part in zip(told, parts, strict=True)]
        return torch.cat(drawn)

    @cached_property
    def _count(self) -> int:
        """How many examples are held out, as far as they are looked at."""
        return len(some(self.data, "valid", self.examples).x)

    def _some(self, which: Which) -> tuple[Tensor, Tensor | None]:
        """Examples of a split, and their labels where the generator is told any."""
        x, cond, _ = some(self.data, which, self._count)
        generator = self.model.generator
        assert isinstance(generator, Generator)
        return x.to(self.device), cond["label"].to(self.device) if generator.classes else None

    @cached_property
    def _distance(self) -> Callable[[Tensor, Tensor | None], float]:
        """The Frechet joint distance of pictures and their labels from the held-out ones."""
        held, label = self._some("valid")
        eye = Untrained(self.data.shape[0]).to(self.device)
        weight = eye(held).norm(dim=1).mean().item()  # of labels: both parts are as long, on average

        def of(x: Tensor, label: Tensor | None) -> Moments:
            return joint_moments(eye(x), label, self.data.classes, weight)

        reference = of(held, label)
        return lambda x, label: frechet_distance(of(x, label), reference)

    @cached_property
    def _bounds(self) -> dict[str, float]:
        """The distances of noise and of training data."""
        x, label = self._some("train")
        eps = normal(0, "validation", range(len(x)), x.shape[1:]).to(self.device)
        noise = x.mean(0) + x.std(0, correction=0) * eps
        return {"baseline": self._distance(noise, label), "floor": self._distance(x, label)}
