"""Image to image: a data set that is conditioned on what a degradation leaves of each picture.

What is given of a picture is a picture, too, of its size, with NaN wherever nothing is known of it.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from phin.data.base import WHOLE, Batch, Derived, Which
from phin.data.words import Words
from phin.diffusion.noise import stream
from phin.errors import PhinError


class Degradation(abc.ABC):
    """What is left of a picture: of what can be seen of it, all that is not hidden."""

    hides: ClassVar[bool]
    """Whether something is hidden."""

    @abc.abstractmethod
    def size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the smallest picture (C, h, w) that shows all that can be seen of one of this shape (C, H, W).

        Raises:
            PhinError: There is none.
        """

    @abc.abstractmethod
    def enlarge(self, small: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c height width"]:
        """Such a picture at the full size."""

    @abc.abstractmethod
    def see(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """What can be seen of pictures, at their size. Seen again, it is the same."""

    @abc.abstractmethod
    def hidden(
        self, draws: Float[np.ndarray, "batch 4"], sides: tuple[int, int]
    ) -> Bool[Tensor, "batch h w"]:
        """What is hidden of each picture, by its draws in [0, 1)."""


@dataclass(frozen=True)
class Average(Degradation):
    """Means over blocks of factor x factor pixels: what super-resolution begins from."""

    factor: int = 4
    hides: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or self.factor < 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PhinError(f"average over blocks of 2 pixels a side or more, such as 4, not {self.factor}")

    def size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One pixel a block."""
        channels, *sides = shape
        for side in sides:
            if side % self.factor:
                raise PhinError(
                    f"side {side} of {tuple(sides)} is not a multiple of {self.factor}, over which degrade "
                    f"average({self.factor}) takes means: take another factor, or crop the pictures"
                )
        return (channels, *(side // self.factor for side in sides))

    def enlarge(self, small: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c height width"]:
        """Each pixel as a block."""
        return small.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def see(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """Each block as its mean."""
        blocks = x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor))
        return self.enlarge(blocks.mean((-1, -3)))

    def hidden(
        self, draws: Float[np.ndarray, "batch 4"], sides: tuple[int, int]
    ) -> Bool[Tensor, "batch h w"]:
        """Nothing."""
        return torch.zeros(len(draws), *sides, dtype=torch.bool)


@dataclass(frozen=True)
class Hide(Degradation):
    """All but a box, at a place of its own in each picture: what inpainting begins from.

    The box's height is uniform among the whole numbers of pixels from `least` to `most` of the picture's, its
    width likewise, and so is its place among those inside.
    """

    least: float = 0.25
    most: float = 1.0
    hides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most <= 1:
            raise PhinError(
                f"hide a box whose sides are shares of the picture's, above 0 and up to 1, the least first, "
                f"as in hide(0.25, 1), not hide({self.least}, {self.most})"
            )

    def size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the picture, of which something is left now and then."""
        if all(self._ends(side)[0] == side for side in shape[1:]):
            height, width = shape[1:]
            raise PhinError(
                f"hide({self.least}, {self.most}) hides all of every picture of {height} x {width}, and "
                "leaves nothing to begin from: let the least share be smaller, as in hide(0.25, 1)"
            )
        return shape

    def enlarge(self, small: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c height width"]:
        """As it is."""
        return small

    def see(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """Every pixel."""
        return x

    def hidden(
        self, draws: Float[np.ndarray, "batch 4"], sides: tuple[int, int]
    ) -> Bool[Tensor, "batch h w"]:
        """The box."""
        along = [
            self._stretch(draws[:, 2 * axis], draws[:, 2 * axis + 1], side) for axis, side in enumerate(sides)
        ]
        return along[0][:, :, None] & along[1][:, None, :]

    def _ends(self, side: int) -> tuple[int, int]:
        """The fewest and the most pixels of a side that the box takes."""
        return max(1, round(self.least * side)), max(1, round(self.most * side))

    def _stretch(
        self, length: Float[np.ndarray, " batch"], place: Float[np.ndarray, " batch"], side: int
    ) -> Bool[Tensor, "batch side"]:
        """The part of a side that the box takes."""
        least, most = self._ends(side)
        taken = least + (length * (most - least + 1)).astype(np.int64)
        begin = (place * (side - taken + 1)).astype(np.int64)
        at = np.arange(side)
        return torch.from_numpy((at >= begin[:, None]) & (at < (begin + taken)[:, None]))


def condition(given: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c_and_1 h w"]:
    """What a network is told of pictures: what is known, and in a last channel where it is, 1 or -1.

    Where nothing is known all channels are -1; so a picture of -1 is "not given", as in every condition.
    """
    known = ~given.isnan().any(1, keepdim=True)
    return torch.cat([given.masked_fill(~known, -1), 2 * known.to(given) - 1], 1)


@dataclass(frozen=True, eq=False)
class Degraded(Derived):
    """A data set of pictures in which what is left of each is its condition `image`, beside its label.

    Args:
        pixels: The data.
        degradation: What is left.
        labels: Whether the labels are kept, of data that have any.

    Raises:
        PhinError: Data that have no pictures, or texts to them; sides that do not fit the degradation.
    """

    degradation: Degradation
    labels: bool = True

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.vocabulary or isinstance(self.pixels, Words):
            raise PhinError(
                f"degrade is for pictures, with labels or without, and {self.name} has none such: leave it "
                "out, or take other data, such as mnist or folder:PATH"
            )
        self.degradation.size(self.shape)

    @property
    def classes(self) -> int:
        """As of the data, if labels are kept."""
        return self.pixels.classes if self.labels else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """As of the data, if labels are kept."""
        return self.pixels.class_names if self.labels else ()

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """The examples that the data would give; what is hidden of one goes by its place in the run."""
        batch = self.pixels.train(seed, step, size, rows)
        return self._told(batch, stream(seed, "hidden", step).random((batch.total, 4))[rows])

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """The examples that the data would give, of which always the same is hidden."""
        batch = self.pixels.split(which, n, seed, rows)
        return self._told(batch, stream(seed, f"hidden {which}").random((batch.total, 4))[rows])

    def _told(self, batch: Batch, draws: Float[np.ndarray, "batch 4"]) -> Batch:
        x, cond, total = batch
        height, width = x.shape[2:]
        hidden = self.degradation.hidden(draws, (height, width))[:, None]
        image = condition(self.degradation.see(x).masked_fill(hidden, torch.nan))
        return Batch(x, {**(cond if self.labels else {}), "image": image}, total)


DEGRADATIONS: dict[str, type[Degradation]] = {"average": Average, "hide": Hide}
