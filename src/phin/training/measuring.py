"""Measures of what a model draws while it is trained."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from phin.data.base import Batch, Data
from phin.errors import PhinError
from phin.metrics.features import Features
from phin.metrics.frechet import frechet_estimate
from phin.metrics.summary import Summary, fewest, summarised
from phin.pictures import to_integers

BATCH = 64  # pictures drawn at once

Draw = Callable[[dict[str, Tensor], Sequence[int]], Tensor]
"""(the condition of each sample, their numbers) -> samples in the range of the data."""


class Measuring:
    """How far what a model draws is from held-out pictures, and training pictures from these.

    Pictures are drawn of the labels of the held-out ones, with the same noise every time. The test split
    stays unseen: what a training is steered by is no measure of it.

    Args:
        features: What looks at pictures.
        data: What the model learns.
        n: How many pictures are drawn.
        told: Whether the model is told their labels.

    Raises:
        PhinError: Data that the features do not take, fewer held-out ones than n, or too few for so many
            features; and later, as `Summary.check`.
    """

    def __init__(self, features: Features, data: Data, n: int, told: bool = True) -> None:
        features.check(data.shape)
        self.features, self.data, self.n, self.told = features, data, n, told
        held = data.count("valid")
        if held is not None and held < n:
            raise PhinError(
                f"measure = {n}: {data.name} has {held:,} held-out pictures; measure by at most as many"
            )
        if n < (least := fewest(features.dims)):
            raise PhinError(
                f"measure = {n} pictures are too few for the {features.dims:,} features of {features.name}, "
                f"whose covariance they leave open: give {least:,} or more"
            )

    def __call__(self, draw: Draw) -> dict[str, float]:
        """The Frechet distance, that of training pictures, and the share that is read as it should be."""
        pictures, cond = list[Tensor](), self._held.cond if self.told else {}
        for start in range(0, self.n, BATCH):
            own = {name: value[start : start + BATCH] for name, value in cond.items()}
            pictures.append(to_integers(draw(own, range(self.n)[start : start + BATCH])))
        drawn = summarised(self.features, torch.cat(pictures), labels=cond.get("label"))
        reference, floor = self._reference
        found = {"frechet": frechet_estimate(drawn.moments, reference.moments).value, "frechet_floor": floor}
        return found | ({"read": drawn.rate.value} if "label" in cond else {})

    @cached_property
    def _held(self) -> Batch:
        return self.data.split("valid", self.n)

    @cached_property
    def _reference(self) -> tuple[Summary, float]:
        """Held-out pictures, and the distance of as many training pictures."""
        held, train = (
            summarised(self.features, to_integers(x))
            for x in (self._held.x, self.data.split("train", self.n).x)
        )
        held.check("held-out pictures", self.features)
        return held, frechet_estimate(train.moments, held.moments).value
