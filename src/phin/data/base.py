"""What training and evaluation see of any data set: `Batch` and `Data`; and image sets held in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor

from phin.data.fetch import Files
from phin.diffusion.noise import stream
from phin.errors import PhinError

Which = Literal["train", "valid", "test"]
WHOLE = slice(None)


class Batch(NamedTuple):
    """Examples and what they are conditioned on."""

    x: Float[Tensor, "batch *shape"]
    """(B, C, *sides), float32; images are in [-1, 1], points of the plane have about unit scale."""
    cond: dict[str, Tensor]
    """Keyword arguments of the network's forward: {}, {"label": (B,) int64}, {"text": (B, L) int64}, ..."""
    total: int
    """Examples in the whole batch, of which these may be one process's part."""


class Data(Protocol):
    """A data set. All randomness is a pure function of the arguments: a resumed run sees the same batches."""

    @property
    def name(self) -> str:
        """The name that `load` knows."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """One example (C, *sides); of `numbers`, one cell."""
        ...

    @property
    def classes(self) -> int:
        """How many labels there are; 0 when unlabelled."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many characters a text is made of; 0 unless conditioned on text."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels in words."""
        ...

    @property
    def eight_bit(self) -> bool:
        """Whether x is made of 8-bit integers k: x = 2 k / 255 - 1."""
        ...

    def count(self, which: Which) -> int | None:
        """How many examples a split has; None where they are made as needed."""
        ...

    def fewest(self, size: int) -> int:
        """The fewest examples that a training batch of this size has."""
        ...

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """The rows `rows` of the training batch of step `step`: the part of one process."""
        ...

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Rows of a fixed choice of `n` examples of a split, which are the first of those of a larger `n`."""
        ...


class Endless:
    """What data sets have in common whose examples are made as needed."""

    def count(self, which: Which) -> int | None:
        """None: as many as are asked for."""

    def fewest(self, size: int) -> int:
        """As many as it is to have."""
        return size


@dataclass(frozen=True, eq=False)
class Derived:
    """A data set made of another: what is not said otherwise is as of that one.

    Args:
        pixels: The other one.
    """

    pixels: Data

    @property
    def name(self) -> str:
        """As of the data."""
        return self.pixels.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the data."""
        return self.pixels.shape

    @property
    def classes(self) -> int:
        """As of the data."""
        return self.pixels.classes

    @property
    def vocabulary(self) -> int:
        """As of the data."""
        return self.pixels.vocabulary

    @property
    def class_names(self) -> tuple[str, ...]:
        """As of the data."""
        return self.pixels.class_names

    @property
    def eight_bit(self) -> bool:
        """As of the data."""
        return self.pixels.eight_bit

    def count(self, which: Which) -> int | None:
        """As of the data."""
        return self.pixels.count(which)

    def fewest(self, size: int) -> int:
        """As of the data."""
        return self.pixels.fewest(size)


def some(data: Data, which: Which, n: int) -> Batch:
    """`n` examples of a split, or all that a small set has."""
    count = data.count(which)
    return data.split(which, n if count is None else min(n, count))


@lru_cache(maxsize=8)
def _epoch(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return stream(seed, "order", epoch).permutation(count)


def shuffled(seed: int, positions: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " n"]:
    """Which of `count` examples stand at these positions of an endless stream: each once an epoch."""
    epochs, places = np.divmod(positions, count)
    order = np.empty_like(positions)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        order[now] = _epoch(seed, int(epoch), count)[places[now]]
    return order


def from_integers(values: UInt8[Tensor, "*shape"], levels: int = 256) -> Float[Tensor, "*shape"]:
    """The image x = 2 k / (levels - 1) - 1 of integers k in 0 .. levels - 1, exact when rounded back."""
    return values.to(torch.float32).mul_(2 / (levels - 1)).sub_(1)


class Split(Protocol):
    """One split: integer images, in memory or elsewhere, and the label of each if there are classes."""

    @property
    def images(self) -> UInt8[Tensor, "n channels height width"]:
        """All of them, in memory."""
        ...

    @property
    def labels(self) -> Integer[Tensor, " n"] | None:
        """Of each."""
        ...

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> Self:
        """Some of them."""
        ...

    def __len__(self) -> int: ...


S = TypeVar("S", bound=Split)


@dataclass(frozen=True, eq=False)
class Part:
    """A split in memory."""

    images: UInt8[Tensor, "n channels height width"]
    labels: Integer[Tensor, " n"] | None = None

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> "Part":
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return Part(self.images[index], None if self.labels is None else self.labels[index])

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Images:
    """A fixed set of images, uint8.

    Args:
        name: As in the registry.
        splits: The images of each split.
        class_names: The labels in words; none when unlabelled.
        levels: The images' integers are 0 .. levels - 1.
    """

    name: str
    splits: Mapping[Which, Split]
    class_names: tuple[str, ...] = ()
    levels: int = 256
    vocabulary: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One image, (C, H, W)."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, ...]:  # for which one may have to be read
        return tuple(self.splits["train"][:1].images.shape[1:])

    @property
    def classes(self) -> int:
        """How many labels there are; 0 when unlabelled."""
        return len(self.class_names)

    @property
    def eight_bit(self) -> bool:
        """Whether x = 2 k / 255 - 1 of 8-bit integers k."""
        return self.levels == 256

    def count(self, which: Which) -> int | None:
        """How many images a split has."""
        return len(self.splits[which])

    def fewest(self, size: int) -> int:
        """As many as it is to have."""
        return size

    def order(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Int[np.ndarray, " n"]:
        """Which training images `train` gives: step * size .. (step + 1) * size - 1 of an endless stream."""
        positions = np.arange(step * size, (step + 1) * size)[rows]
        return shuffled(seed, positions, len(self.splits["train"]))

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Rows of a batch of the endless shuffled stream of images."""
        return self._batch(self.splits["train"][self.order(seed, step, size, rows)], size)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Rows of the whole split in its own order, or of `n` images drawn by `seed` without repetition.

        They are drawn because files have an order of their own: the first half of MNIST's test set is the
        easier one.

        Raises:
            PhinError: The split has fewer than `n` images.
        """
        part = self.splits[which]
        if n is None:
            return self._batch(part[rows], len(part))
        if not 0 < n <= len(part):
            raise PhinError(
                f"{n} {which} images asked of {self.name}, which has {len(part)}; ask for 1 to {len(part)}"
            )
        return self._batch(part[stream(seed, f"split {which}").permutation(len(part))[:n][rows]], n)

    def _batch(self, part: Split, total: int) -> Batch:
        cond = {} if part.labels is None else {"label": part.labels.long()}
        return Batch(from_integers(part.images, self.levels), cond, total)


def with_validation(train: S, test: S, valid: int) -> dict[Which, S]:
    """The splits of a set that comes in two: the last `valid` training images are kept for validation."""
    return {"train": train[: len(train) - valid], "valid": train[len(train) - valid :], "test": test}


def by_tenths(part: S) -> dict[Which, S]:
    """The splits of a small set that comes in one: the last tenth for testing, the one before to validate."""
    tenth = max(1, len(part) // 10)
    return with_validation(part[: len(part) - tenth], part[len(part) - tenth :], tenth)


@dataclass(frozen=True)
class Entry:
    """A line of the registry: how to load a data set, and what can be said of it without loading it.

    Attributes:
        title: Its full name, as it must stand beside results.
        shape: One example.
        examples: Training and test examples together; none when they are drawn as needed.
        classes: How many labels; 0 when unlabelled.
        licence: Its licence.
        source: Where it comes from.
        load: Makes the data set, fetching its files if need be.
        files: What has to be fetched; none if nothing has.
    """

    title: str
    shape: tuple[int, ...]
    examples: int | None
    classes: int
    licence: str
    source: str
    load: Callable[[], Data]
    files: Files | None = None
