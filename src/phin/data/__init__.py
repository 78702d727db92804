"""Data sets by name: `load("mnist")`, `load("folder:photos")`, and what `phin data` lists and fetches.

A new data set is an `Entry` in a file of its own, and a line in `DATA`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phin.data import cifar10, digits, folder, mnist, moving, numbers, points, sequences, stacked, words
from phin.data.base import Batch, Data, Entry, Images, Part, Which, from_integers
from phin.data.numbers import Numbers, held_out, random_strings, tokens
from phin.errors import PhinError

__all__ = [
    "DATA",
    "Batch",
    "Data",
    "Entry",
    "Images",
    "Listing",
    "Numbers",
    "Part",
    "Which",
    "from_integers",
    "get",
    "held_out",
    "listing",
    "load",
    "random_strings",
    "tokens",
]

FOLDER = "folder:"
NOTHING_TO_FETCH = "nothing to fetch"


@dataclass(frozen=True)
class Listing:
    """A data set as `phin data list` shows it; `where` its files are now is none if they are nowhere."""

    name: str
    title: str
    shape: tuple[int, ...]
    examples: int | None
    classes: int
    licence: str
    source: str
    where: str | None


def load(name: str) -> Data:
    """The data set of that name, fetched if need be.

    Args:
        name: A name in `DATA`, or "folder:PATH" for a folder of images.

    Raises:
        PhinError: An unknown name, files that are damaged or cannot be had, a folder with bad images.
    """
    return folder.load(name.removeprefix(FOLDER)) if name.startswith(FOLDER) else _entry(name).load()


def get(name: str) -> str:
    """Bring the files of a data set, verify them, and say where they are.

    Raises:
        PhinError: As `load`.
    """
    if name.startswith(FOLDER):
        return folder.load(name.removeprefix(FOLDER)).name.removeprefix(FOLDER)
    if (files := _entry(name).files) is None:
        return NOTHING_TO_FETCH
    files.read()
    return files.find() or ""


def listing() -> list[Listing]:
    """What there is, without fetching or verifying anything."""
    return [
        Listing(
            name=name,
            title=entry.title,
            shape=entry.shape,
            examples=entry.examples,
            classes=entry.classes,
            licence=entry.licence,
            source=entry.source,
            where=entry.files.find() if entry.files else NOTHING_TO_FETCH,
        )
        for name, entry in DATA.items()
    ]


def _entry(name: str) -> Entry:
    if name not in DATA:
        raise PhinError(f"there is no data set {name!r}; choose one of {', '.join(DATA)} or {FOLDER}PATH")
    return DATA[name]


DATA: Mapping[str, Entry] = {
    "mnist": mnist.MNIST,
    "fashion-mnist": mnist.FASHION_MNIST,
    "cifar10": cifar10.CIFAR10,
    "cifar10-jpeg": cifar10.CIFAR10_JPEG,
    "digits": digits.DIGITS,
    "numbers": numbers.NUMBERS,
    "words": words.WORDS,
    "stacked-mnist": stacked.STACKED_MNIST,
    "swiss-roll": points.entry("swiss-roll", points.swiss_roll),
    "eight-gaussians": points.entry("eight-gaussians", points.eight_gaussians),
    "checkerboard": points.entry("checkerboard", points.checkerboard),
    "moons": points.entry("moons", points.moons),
    "sines": sequences.SINES,
    "angles": sequences.ANGLES,
    "moving-digits": moving.MOVING_DIGITS,
}
