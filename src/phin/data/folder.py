"""A folder of pictures as a data set, with one sub-folder a class or none at all."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from phin.data.base import Images, Part, by_tenths
from phin.errors import PhinError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
"""The modes of image files that are read, and what they are read as: grey or colour."""
IN_MEMORY = 2**28  # bytes of pixels; more of them stay on the disk


@dataclass(frozen=True, eq=False)
class Stored:
    """A split that stays on the disk: its pictures are read each time they are asked for."""

    root: Path
    names: Shaped[np.ndarray, " n"]
    """Of the files, from the root, in bytes: each takes as much as the longest."""
    labels: Tensor | None = None

    @property
    def images(self) -> UInt8[Tensor, "n channels height width"]:
        """All of them, in memory."""
        return torch.from_numpy(np.stack([read(self.root / os.fsdecode(name)) for name in self.names]))

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
    root = Path(path).expanduser()
    if not path or not os.path.isdir(root):
        raise PhinError(
            f"folder:{path} is not a folder; give the path of one with images, as in folder:photos"
        )
    try:
        names, class_names = _find(root)
    except OSError as error:
        raise PhinError(
            f"{error.filename} cannot be read ({error.strerror}); check its permissions"
        ) from error
    if len(names) < 3:
        raise PhinError(
            f"{root} has {len(names)} images ({', '.join(sorted(SUFFIXES))}); "
            "it takes at least 3: to train, to validate and to test"
        )
    names.sort(key=lambda name: blake2b(os.fsencode(name), digest_size=8).digest())
    labels = None
    if class_names:
        number = {name: i for i, name in enumerate(class_names)}
        labels = torch.tensor([number[name.split("/", 1)[0]] for name in names])
    shape = read(root / names[0]).shape
    if len(names) * int(np.prod(shape)) <= IN_MEMORY:
        images = np.empty((len(names), *shape), np.uint8)
        for i, image in enumerate(_read_all(root, names)):
            images[i] = image
        splits = by_tenths(Part(torch.from_numpy(images), labels))
    else:
        for _ in _read_all(root, names):
            pass
        splits = by_tenths(Stored(root, np.array([os.fsencode(name) for name in names]), labels))
    return Images(f"folder:{path}", splits, class_names)


def _find(root: Path) -> tuple[list[str], tuple[str, ...]]:
    """The pictures below a folder, by their names from there, and the names of their classes."""
    own = _children(root, lambda child: _is_picture(child.name) and child.is_file())
    below: dict[str, list[str]] = {}
    for name in _children(root, lambda child: child.is_dir()):
        files = (
            (Path(folder, file).relative_to(root).as_posix(), file)
            for folder, _, files in os.walk(root / name, onerror=_refuse)
            for file in files
        )
        below[name] = [file for file, last in files if _is_picture(last) and (root / file).is_file()]
    class_names = tuple(name for name, files in below.items() if files)
    if own and class_names:
        raise PhinError(
            f"{root} has images of its own, such as {own[0]}, and others in {class_names[0]}/; "
            "put all into sub-folders (one a class) or none"
        )
    return own or [file for files in below.values() for file in files], class_names


def _refuse(error: OSError) -> None:
    """For `os.walk`, which would pass over folders that cannot be read."""
    raise error


def _children(root: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Names of what is in a folder and not hidden, in order: a million of them take less than their paths."""
    with os.scandir(root) as children:
        return sorted(child.name for child in children if not child.name.startswith(".") and wanted(child))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _read_all(root: Path, names: Sequence[str]) -> Iterator[UInt8[np.ndarray, "channels height width"]]:
    """Each picture, which has to be like the first."""
    shape = read(root / names[0]).shape
    for name in names:
        image = read(root / name)
        if image.shape != shape:
            sizes = describe(image.shape), describe(shape)
            raise PhinError(
                f"{root / name} is {sizes[0]} and {root / names[0]} is {sizes[1]}; make all images alike"
            )
        yield image


def read(file: Path) -> UInt8[np.ndarray, "channels height width"]:
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
