"""A folder of pictures as a data set, with one sub-folder a class or none at all."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from phin.data.base import Images, Part, by_tenths
from phin.errors import PhinError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
"""The modes of image files that are read, and what they are read as: grey or colour."""
IN_MEMORY = 2**28  # bytes of pixels; more of them stay on the disk
READERS = 4  # threads, which wait for a cold disk side by side; more of them cost more than they save
BLOCK = 16  # files that a thread reads in one go: with one, threads would mostly wait for each other


@dataclass(frozen=True, eq=False)
class Names:
    """Names of files, one after the other in one piece of memory, and some of them in an order.

    A million of them take their bytes, one more that ends each, and eight that say where it begins; those
    that are some of others share the bytes.
    """

    text: bytes
    """Each name ends with a zero, which no name has in it."""
    starts: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """These names, in their order."""
        text, starts = bytearray(), array("q")
        for name in names:
            starts.append(len(text))
            text += os.fsencode(name) + b"\0"
        return cls(bytes(text), np.array(starts, np.int64))

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(name) for name in self.encoded())

    def encoded(self) -> Iterator[bytes]:
        """Each as the file system has it."""
        return (self.text[start : self.text.index(0, start)] for start in self.starts)

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> "Names":
        return Names(self.text, self.starts[rows])

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, eq=False)
class Stored:
    """A split that stays on the disk: its pictures are read each time they are asked for."""

    root: Path
    names: Names
    """Of the files, from the root."""
    labels: Tensor | None = None

    @property
    def images(self) -> UInt8[Tensor, "n channels height width"]:
        """All of them, in memory."""
        return torch.from_numpy(np.stack([*_read_all(self.root, self.names)]))

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> "Stored":
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return Stored(self.root, self.names[rows], None if self.labels is None else self.labels[index])

    def __len__(self) -> int:
        return len(self.names)


def load(path: str) -> Images:
    """The pictures below a folder: all grey or all in colour, all of one size.

    Pictures in the folder itself are unlabelled. If there are none, each sub-folder is a class, by name. A
    tenth of the pictures is for testing and a tenth for validation, chosen by a hash of their names. All are
    read once, and kept if they are not too many; else each is read whenever it is needed.

    Args:
        path: The folder.

    Raises:
        PhinError: No folder, too few pictures, a broken one, or one of another size or kind than the first.
    """
    root = folder(path)
    names, labels, class_names = find(root)
    if len(names) < 3:
        raise PhinError(
            f"{root} has {len(names)} images ({', '.join(sorted(SUFFIXES))}); "
            "it takes at least 3: to train, to validate and to test"
        )
    hashes = (blake2b(name, digest_size=8).digest() for name in names.encoded())
    order = np.argsort(np.fromiter((int.from_bytes(digest) for digest in hashes), np.uint64), kind="stable")
    names, labels = names[order], None if labels is None else labels[torch.from_numpy(order)]
    shape = read(root / next(iter(names))).shape
    if len(names) * int(np.prod(shape)) <= IN_MEMORY:
        images = np.empty((len(names), *shape), np.uint8)
        for i, image in enumerate(_read_all(root, names)):
            images[i] = image
        splits = by_tenths(Part(torch.from_numpy(images), labels))
    else:
        for _ in _read_all(root, names):
            pass
        splits = by_tenths(Stored(root, names, labels))
    return Images(f"folder:{path}", splits, class_names)


def folder(path: str) -> Path:
    """The folder of that path.

    Raises:
        PhinError: There is none.
    """
    if not path or not os.path.isdir(root := Path(path).expanduser()):
        raise PhinError(
            f"folder:{path} is not a folder; give the path of one with images, as in folder:photos"
        )
    return root


def find(root: Path) -> tuple[Names, Tensor | None, tuple[str, ...]]:
    """The pictures below a folder, by their names from there, their classes, and the names of these.

    Raises:
        PhinError: It cannot be read, or has pictures both of its own and in sub-folders.
    """
    try:
        return _found(root)
    except OSError as error:
        raise PhinError(
            f"{error.filename} cannot be read ({error.strerror}); check its permissions"
        ) from error


def _found(root: Path) -> tuple[Names, Tensor | None, tuple[str, ...]]:
    own = Names.of(_pictures(root))
    with os.scandir(root) as children:
        folders = sorted(
            child.name for child in children if not child.name.startswith(".") and child.is_dir()
        )
    counts = dict.fromkeys(folders, 0)

    def below() -> Iterator[str]:
        for folder in folders:
            for name in _all_pictures(root / folder):
                counts[folder] += 1
                yield f"{folder}/{name}"

    names = Names.of(below())
    class_names = tuple(folder for folder, count in counts.items() if count)
    if len(own) and class_names:
        raise PhinError(
            f"{root} has images of its own, such as {min(own)}, and others in {class_names[0]}/; "
            "put all into sub-folders (one a class) or none"
        )
    if not class_names:
        return own, None, ()
    many = torch.tensor([counts[name] for name in class_names])
    return names, torch.arange(len(many)).repeat_interleave(many), class_names


def _pictures(folder: Path) -> Iterator[str]:
    """The names of a folder's own pictures, as the disk has them: no list is made of a million."""
    with os.scandir(folder) as children:
        for child in children:
            if _is_picture(child.name) and child.is_file():
                yield child.name


def _all_pictures(folder: Path) -> Iterator[str]:
    """Those below a folder, too, by their names from there; links to other folders are not followed."""
    yield from _pictures(folder)
    with os.scandir(folder) as children:
        deeper = [child.name for child in children if child.is_dir(follow_symlinks=False)]
    for name in deeper:
        yield from (f"{name}/{below}" for below in _all_pictures(folder / name))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _read_all(root: Path, names: Names) -> Iterator[UInt8[np.ndarray, "channels height width"]]:
    """Each picture, which has to be like the first."""
    first, shape = "", ()
    for file, image in _read(os.path.join(root, name) for name in names):  # a Path would keep its parts
        if not first:
            first, shape = file, image.shape
        if image.shape != shape:
            sizes = describe(image.shape), describe(shape)
            raise PhinError(f"{file} is {sizes[0]} and {first} is {sizes[1]}; make all images alike")
        yield image


def _read(files: Iterator[str]) -> Iterator[tuple[str, UInt8[np.ndarray, "channels height width"]]]:
    """Files and their pixels, in their order, some blocks at a time."""
    with ThreadPoolExecutor(READERS) as readers:
        while blocks := [block for _ in range(READERS) if (block := [*islice(files, BLOCK)])]:
            for block, images in zip(blocks, readers.map(_read_block, blocks), strict=True):
                yield from zip(block, images, strict=True)


def _read_block(files: Sequence[str]) -> list[UInt8[np.ndarray, "channels height width"]]:
    return [read(file) for file in files]


def read(file: Path | str) -> UInt8[np.ndarray, "channels height width"]:
    """The pixels of a picture's file, grey or RGB.

    Raises:
        PhinError: It cannot be read, or is of another kind.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            mode = "transparent" if "transparency" in image.info else image.mode
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(MODES.get(mode)))
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise PhinError(f"{file} cannot be read as an image ({error}); repair or remove it") from error
    if mode not in MODES:
        raise PhinError(f"{file} has the mode {mode}; save it as 8-bit grey or RGB without transparency")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def describe(shape: tuple[int, ...]) -> str:
    """A picture's size and kind, in words, from its (channels, height, width)."""
    channels, height, width = shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"
