"""Measures of what a model draws while it is trained."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from phin.data.base import Batch, Data
from phin.errors import PhinError
from phin.metrics.features import Features
from phin.metrics.frechet import frechet_estimate
from phin.metrics.processes import process, whole
from phin.metrics.summary import Summary, fewest, summarised
from phin.pictures import to_integers

log = logging.getLogger(__name__)

BATCH = 64  # pictures drawn at once

Draw = Callable[[dict[str, Tensor], Sequence[int]], Tensor]
"""(the condition of each sample, their numbers) -> samples in the range of the data."""


class Measuring:
    """How far what a model draws is from held-out pictures, and training pictures from these.

    Pictures are drawn of the conditions of the held-out ones (labels, texts, what is given of a picture),
    with the same noise every time. The test split stays unseen: what a training is steered by is no measure
    of it. Pictures of `numbers` are measured cell by cell.

    Several processes, if they have been joined, draw a part each, and all of them know the result.

    Args:
        features: What looks at pictures.
        data: What the model learns.
        n: How many pictures are drawn; of `numbers`, cells, three to a picture.
        told: Whether the model is told their conditions.

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
        """The Frechet distance, that of training pictures, and the share that is read as it should be.

        The share is told where the model is told labels or digits, and the features read these. Pictures that
        are not finite, or all alike, are measured by nothing, and a line in the log says so.
        """
        rank, processes = process()
        pictures, cond = list[Tensor](), self._held.cond if self.told else {}
        finite = True
        places = range(rank, len(self._held.x) if self.told else self.n, processes)
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            own = {name: value[part.start : part.stop : processes] for name, value in cond.items()}
            x = draw(own, part)
            finite = finite and bool(x.isfinite().all())
            pictures.append(to_integers(x).cpu())
        label = self._read(cond)
        drawn = summarised(self.features, self._cells(whole(torch.cat(pictures))), labels=label)
        try:
            if not whole(torch.tensor([finite])).all():
                raise PhinError("the pictures that are drawn are not finite")
            drawn.check("pictures that are drawn", self.features)
        except PhinError as reason:
            log.warning("not measured: %s", reason)
            return {}
        reference, floor = self._reference
        found = {"frechet": frechet_estimate(drawn.moments, reference.moments).value, "frechet_floor": floor}
        return found if label is None else found | {"read": drawn.rate.value}

    def _read(self, cond: dict[str, Tensor]) -> Tensor | None:
        """What each picture, or cell, is to be read as; None where nobody asked, or the features cannot."""
        names = tuple(map(str, range(self.data.vocabulary))) or self.data.class_names
        known = cond.get("text", cond.get("label"))
        return known.flatten() if known is not None and names == self.features.class_names else None

    def _cells(self, pictures: Tensor) -> Tensor:
        """The cells of pictures of numbers, one after the other; other pictures as they are."""
        if not self.data.vocabulary:
            return pictures
        return pictures.unflatten(-1, (-1, self.data.shape[-1])).movedim(-2, 1).flatten(0, 1)

    @cached_property
    def _held(self) -> Batch:
        return self.data.split("valid", self.n)

    @cached_property
    def _reference(self) -> tuple[Summary, float]:
        """Held-out pictures, and the distance of as many training pictures."""
        held, train = (
            summarised(self.features, self._cells(to_integers(x)))
            for x in (self._held.x, self.data.split("train", self.n).x)
        )
        held.check("held-out pictures", self.features)
        return held, frechet_estimate(train.moments, held.moments).value
