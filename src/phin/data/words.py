"""Words: pictures of the numbers from 0 to 99,999, and prompts that name them in digits or in words.

A picture has five cells. The digits of its number stand in the first ones, as in `numbers`, and what is left
is black: numbers are written from the left, and what is said first is drawn first. A prompt is one of four,
with equal chances: the digits, or the words of a language of `LANGUAGES`. One number in ten of more than two
digits is never trained on, in none of them: those that `numbers` holds out, too.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from numpy.typing import NDArray
from torch import Tensor

from phin.data import mnist
from phin.data.base import WHOLE, Batch, Endless, Entry, Which, from_integers, with_validation
from phin.data.number_words import LANGUAGES
from phin.data.numbers import LONGEST, SIDE, Handwriting, strings
from phin.diffusion.noise import stream
from phin.errors import PhinError

LISTED = ", ".join(name.capitalize() for name in LANGUAGES if name != "digits")
BLANK = 10
"""What stands in a cell without a digit."""
SPLIT = 1000
"""Pictures of a split when nobody says."""


@dataclass(frozen=True)
class Alphabet:
    """The characters that prompts are made of, and how many a prompt may have."""

    characters: str
    longest: int

    def tokens(self, prompt: str) -> Int64[Tensor, " longest"]:
        """The condition of a picture: its prompt's characters, counted from 1, and 0 after the last.

        Letters are made small, composed (NFC), and spaces are one.

        Raises:
            PhinError: No character, one that is unknown, or too many.
        """
        text = unicodedata.normalize("NFC", " ".join(prompt.lower().split()))
        shown = text if len(text) <= 40 else text[:40] + "..."
        if not text:
            raise PhinError("a prompt is empty; give a number in digits or in words, such as forty-two")
        if strange := next((c for c in text if c not in self.characters), None):
            name = unicodedata.name(strange, "no name")
            raise PhinError(
                f"the prompt {shown!r} has the character {strange!r} (U+{ord(strange):04X}, {name}), which "
                f"is in no number's name; give a number in digits or in words of {LISTED}"
            )
        if len(text) > self.longest:
            raise PhinError(
                f"the prompt {shown!r} has {len(text)} characters, and at most {self.longest} are read; "
                "give one number, from 0 to 99,999"
            )
        return _padded([[1 + self.characters.index(c) for c in text]], self.longest)[0]

    def text(self, tokens: Int64[Tensor, " length"]) -> str:
        """The prompt again."""
        return "".join(self.characters[token - 1] for token in tokens.tolist() if token > 0)


ALPHABET = Alphabet(" -0123456789abcdefghiklmnorstuvwxyzáìíôăơưавдеиклмнопрстцчшыьяảốộờ", 56)


def cells(numbers: Iterable[int]) -> Int64[Tensor, "n cells"]:
    """What stands in each of the five cells of a number's picture: a digit, or BLANK."""
    rows = [[int(digit) for digit in str(number)] for number in numbers]
    return torch.tensor([row + [BLANK] * (LONGEST - len(row)) for row in rows]).view(-1, LONGEST)


@lru_cache(maxsize=3 * LONGEST)
def _numbers(length: int, unseen: bool | None) -> Int[np.ndarray, " n"]:
    """The numbers of so many digits: all, those held out, or those trained on."""
    every = strings(length, unseen)
    return every[every >= (10 ** (length - 1) if length > 1 else 0)]


def _chosen(
    which: Float[np.ndarray, " n"], place: Float[np.ndarray, " n"], unseen: bool | None
) -> Int[np.ndarray, " n"]:
    """Numbers by draws in [0, 1): the length uniform, then the number uniform among those of its length."""
    lengths = range(3 if unseen else 1, LONGEST + 1)
    pools = [_numbers(length, unseen) for length in lengths]
    chosen = (pools[int(a * len(pools))] for a in which)
    return np.array([pool[int(b * len(pool))] for pool, b in zip(chosen, place, strict=True)], dtype=np.int64)


def random_numbers(n: int, seed: int, held_out: bool | None = None) -> list[int]:
    """Numbers for evaluation: the length uniform, then the number uniform among those of its length.

    Args:
        n: How many; the first of a longer list are those of a shorter one.
        seed: Another list for another seed.
        held_out: Only numbers never trained on (three to five digits), only numbers trained on, or all.
    """
    draws = stream(seed, f"number words {held_out}").random((n, 2))
    return _chosen(draws[:, 0], draws[:, 1], held_out).tolist()


@dataclass(frozen=True, eq=False)
class Words(Endless):
    """Pictures of numbers, conditioned on prompts.

    Args:
        handwriting: The digits of each split.
    """

    handwriting: Mapping[Which, Handwriting]
    alphabet: Alphabet = ALPHABET
    name: str = "words"
    shape: tuple[int, ...] = (1, SIDE, LONGEST * SIDE)
    classes: int = 0
    vocabulary: int = 0
    class_names: tuple[str, ...] = ()
    eight_bit: bool = True

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Pictures of numbers that are not held out, each with a prompt in a language of its own."""
        draws = stream(seed, "words", step).random((size, 3 + 3 * LONGEST))[rows]
        return self._batch("train", draws, size, unseen=False)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Pictures of numbers, held out or not (in "train" not)."""
        draws = stream(seed, f"words split {which}").random((SPLIT if n is None else n, 3 + 3 * LONGEST))
        return self._batch(which, draws[rows], len(draws), unseen=False if which == "train" else None)

    def lessons(
        self, seed: int, step: int, size: int, rows: slice | Sequence[int] = WHOLE
    ) -> tuple[Int64[Tensor, "n length"], Int64[Tensor, "n cells"]]:
        """Prompts of numbers that are not held out, and what stands in the cells of their pictures."""
        draws = stream(seed, "lessons", step).random((size, 3))[rows]
        return self._prompted(draws, unseen=False)

    def examination(
        self, n: int, seed: int = 0
    ) -> tuple[Int64[Tensor, "n length"], Int64[Tensor, "n cells"]]:
        """The same of numbers that are held out."""
        return self._prompted(stream(seed, "examination").random((n, 3)), unseen=True)

    def pictures(self, numbers: Sequence[int], which: Which, seed: int) -> Float[Tensor, "n 1 28 140"]:
        """Real pictures of given numbers. Picture k depends on its number, on k and on the seed only."""
        draws = stream(seed, f"number pictures {which}").random((len(numbers), 3 * LONGEST))
        return self._drawn(which, cells(numbers), draws)

    def _batch(self, which: Which, draws: NDArray[np.float64], total: int, unseen: bool | None) -> Batch:
        prompts, shown = self._prompted(draws[:, :3], unseen)
        return Batch(self._drawn(which, shown, draws[:, 3:]), {"prompt": prompts}, total)

    def _prompted(self, draws: NDArray[np.float64], unseen: bool | None) -> tuple[Tensor, Tensor]:
        """Prompts and cells by draws: of the length, the number, and the language."""
        numbers = _chosen(draws[:, 0], draws[:, 1], unseen).tolist()
        languages, place = list(LANGUAGES.values()), {c: k for k, c in enumerate(self.alphabet.characters, 1)}
        said = [
            languages[int(u * len(languages))](number) for u, number in zip(draws[:, 2], numbers, strict=True)
        ]
        return _padded([[place[c] for c in text] for text in said], self.alphabet.longest), cells(numbers)

    def _drawn(self, which: Which, shown: Tensor, draws: NDArray[np.float64]) -> Tensor:
        digits, blank = shown.numpy() % BLANK, shown.numpy() == BLANK
        pictures = self.handwriting[which].pictures(digits, draws)
        pictures.reshape(-1, SIDE, LONGEST, SIDE).swapaxes(1, 2)[blank] = 0
        return from_integers(torch.from_numpy(pictures))


def _padded(rows: Sequence[Sequence[int]], length: int) -> Int64[Tensor, "n length"]:
    """Rows of tokens, with 0 after the last of each."""
    padded = np.zeros((len(rows), length), np.int64)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return torch.from_numpy(padded)


def load() -> Words:
    """The numbers, on MNIST."""
    splits = with_validation(*mnist.parts(mnist.MNIST_FILES), mnist.VALIDATION)
    return Words({which: Handwriting(part) for which, part in splits.items()})


WORDS = Entry(
    title="Numbers of MNIST digits, named in words",
    shape=(1, SIDE, LONGEST * SIDE),
    examples=None,
    classes=0,
    licence="CC BY-SA 3.0",
    source="composed as needed from MNIST",
    load=load,
    files=mnist.MNIST_FILES,
)
