"""Numbers: pictures of strings of one to five digits, composed on the fly from MNIST.

Digit i of a string stands in cell i, 28 pixels square, moved by up to 2 pixels along both axes and clipped at
the cell's border. Leading zeros are legal. One string in ten of more than two digits is never trained on
(`held_out`), and training, validation and test pictures are made of different images.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Integer, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from phin.data import mnist
from phin.data.base import WHOLE, Batch, Endless, Entry, Part, Which, from_integers, with_validation
from phin.diffusion.noise import stream
from phin.errors import PhinError

SIDE = 28
LONGEST = 5
SHIFT = 2
SPLIT_LENGTH = 3
"""A split has strings of one length, that it may be one batch: the middle one."""


def held_out(string: str) -> bool:
    """Whether a string is never trained on: one in ten of those of more than two digits, by their hash."""
    hashed = blake2b(string.encode(), digest_size=8).digest()
    return len(string) > 2 and int.from_bytes(hashed, "big") % 10 == 0


def tokens(string: str) -> Int64[Tensor, " length"]:
    """The condition of a picture: the digits of a string.

    Raises:
        PhinError: Anything but one to five of the digits 0 to 9.
    """
    if not re.fullmatch(f"[0-9]{{1,{LONGEST}}}", string):
        shown = string if len(string) <= 40 else string[:40] + "..."
        raise PhinError(
            f"the prompt {shown!r} is not a string of 1 to {LONGEST} digits 0-9; give one, such as 40213"
        )
    return torch.tensor([int(digit) for digit in string])


@lru_cache(maxsize=3 * LONGEST)
def strings(length: int, unseen: bool | None) -> Int[np.ndarray, " n"]:
    """The strings of a length, as integers: all, those held out, or those trained on."""
    every = np.arange(10**length)
    if unseen is None:
        return every
    return every[np.array([held_out(f"{number:0{length}d}") for number in every]) == unseen]


def random_strings(n: int, seed: int, held_out: bool | None = None) -> list[str]:
    """Strings for evaluation: the length uniform, then the string uniform among those of its length.

    Args:
        n: How many; the first of a longer list are those of a shorter one.
        seed: Another list for another seed.
        held_out: Only strings never trained on (three to five digits), only strings trained on, or all.
    """
    lengths = range(3 if held_out else 1, LONGEST + 1)
    chosen: list[str] = []
    for which, place in stream(seed, f"strings {held_out}").random((n, 2)):
        length = lengths[int(which * len(lengths))]
        numbers = strings(length, held_out)
        chosen.append(f"{numbers[int(place * len(numbers))]:0{length}d}")
    return chosen


def compose(
    digits: UInt8[np.ndarray, "n length 28 28"], shifts: Int[np.ndarray, "n length 2"]
) -> UInt8[np.ndarray, "n 1 28 width"]:
    """Digit i of each picture in cell i, moved down and right by its shift of up to 2 pixels, and clipped.

    Raises:
        PhinError: A shift of more.
    """
    if (np.abs(shifts) > SHIFT).any():
        raise PhinError(f"a shift of {np.abs(shifts).max()} pixels is too far; give {-SHIFT} to {SHIFT}")
    n, length = digits.shape[:2]
    roomy = np.pad(digits, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    windows = sliding_window_view(roomy, (SIDE, SIDE), axis=(2, 3))
    picture, cell = np.ogrid[:n, :length]
    cells = windows[picture, cell, SHIFT - shifts[..., 0], SHIFT - shifts[..., 1]]
    return cells.transpose(0, 2, 1, 3).reshape(n, 1, SIDE, length * SIDE)


class Handwriting:
    """The images of one split, by class."""

    def __init__(self, part: Part) -> None:
        if part.labels is None:
            raise ValueError("handwriting needs labels")
        labels = part.labels.numpy()
        self.images: UInt8[np.ndarray, "n 28 28"] = part.images[:, 0].numpy()
        self.counts: Integer[np.ndarray, " 10"] = np.bincount(labels, minlength=10)
        if not self.counts.all():
            raise ValueError("handwriting needs images of all ten digits")
        self._by_class = np.argsort(labels, kind="stable")
        self._starts = np.cumsum(self.counts) - self.counts

    def pictures(
        self, strings: Int[np.ndarray, "n length"], draws: Float[np.ndarray, "n draws"]
    ) -> UInt8[np.ndarray, "n 1 28 width"]:
        """Pictures of strings of one length, each from its own row of 3 * length or more draws in [0, 1)."""
        n, length = strings.shape
        which, *shifts = draws[:, : 3 * length].reshape(n, length, 3).transpose(2, 0, 1)
        images = self._by_class[self._starts[strings] + (which * self.counts[strings]).astype(np.int64)]
        steps = (np.stack(shifts, -1) * (2 * SHIFT + 1)).astype(np.int64) - SHIFT
        return compose(self.images[images], steps)


@dataclass(frozen=True, eq=False)
class Numbers(Endless):
    """Pictures of strings, conditioned on their digits as text.

    `size` and `n` count cells, so that every batch costs about the same: a batch has strings of one length L,
    and size // L pictures.

    Args:
        handwriting: The digits of each split.
    """

    handwriting: Mapping[Which, Handwriting]
    name: str = "numbers"
    shape: tuple[int, ...] = (1, SIDE, SIDE)
    classes: int = 0
    vocabulary: int = 10
    class_names: tuple[str, ...] = ()
    eight_bit: bool = True

    def fewest(self, size: int) -> int:
        """Those of a batch of the longest strings."""
        return size // LONGEST

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Pictures of strings that are not held out; every five steps have each of the lengths 1 to 5 once.

        Args:
            seed: The run's seed.
            step: From 0.
            size: Cells of the whole batch, over all processes.
            rows: The part of the size // L pictures that this process wants.

        Raises:
            PhinError: The batch has no room for the longest string.
        """
        length = 1 + int(stream(seed, "lengths", step // LONGEST).permutation(LONGEST)[step % LONGEST])
        draws = stream(seed, "numbers", step).random((_pictures(size, length), 1 + 3 * LONGEST))
        return self._batch("train", length, draws[rows], len(draws), unseen=False)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Pictures of strings of three digits, held out or not (in "train" not), n // 3 of them.

        Args:
            which: Whose handwriting.
            n: Cells; as many as the split has images when nobody says.
            seed: Another choice for another seed.
            rows: Of these pictures.
        """
        cells = len(self.handwriting[which].images) if n is None else n
        n_pictures = _pictures(cells, SPLIT_LENGTH)
        draws = stream(seed, f"numbers split {which}").random((n_pictures, 1 + 3 * LONGEST))[rows]
        unseen = False if which == "train" else None
        return self._batch(which, SPLIT_LENGTH, draws, n_pictures, unseen)

    def pictures(self, strings: Sequence[str], which: Which, seed: int) -> list[Float[Tensor, "1 28 width"]]:
        """Real pictures of given strings. Picture k depends on its string, on k and on the seed only.

        Raises:
            PhinError: A string that is not one to five digits.
        """
        draws = stream(seed, f"pictures {which}").random((len(strings), 3 * LONGEST))
        digits = [tokens(string).numpy() for string in strings]
        pictures: dict[int, Float[Tensor, "1 28 width"]] = {}
        for length in {len(string) for string in strings}:
            rows = [k for k, string in enumerate(strings) if len(string) == length]
            drawn = self.handwriting[which].pictures(np.stack([digits[k] for k in rows]), draws[rows])
            pictures.update(zip(rows, from_integers(torch.from_numpy(drawn)), strict=True))
        return [pictures[k] for k in range(len(strings))]

    def _batch(
        self, which: Which, length: int, draws: NDArray[np.float64], total: int, unseen: bool | None
    ) -> Batch:
        numbers = strings(length, unseen)
        chosen = numbers[(draws[:, 0] * len(numbers)).astype(np.int64)]
        digits = chosen[:, None] // 10 ** np.arange(length)[::-1] % 10
        pictures = self.handwriting[which].pictures(digits, draws[:, 1:])
        return Batch(from_integers(torch.from_numpy(pictures)), {"text": torch.from_numpy(digits)}, total)


def _pictures(cells: int, length: int) -> int:
    if cells < LONGEST:
        raise PhinError(
            f"a batch of {cells} cells has no room for the longest string; make it at least {LONGEST}"
        )
    return cells // length


def load() -> Numbers:
    """The number strings, on MNIST."""
    splits = with_validation(*mnist.parts(mnist.MNIST_FILES), mnist.VALIDATION)
    return Numbers({which: Handwriting(part) for which, part in splits.items()})


NUMBERS = Entry(
    title="Number strings of MNIST digits",
    shape=(1, SIDE, SIDE),
    examples=None,
    classes=0,
    licence="CC BY-SA 3.0",
    source="composed as needed from MNIST",
    load=load,
    files=mnist.MNIST_FILES,
)
