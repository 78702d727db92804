"""A folder of pictures as a data set, with one sub-folder a class or none at all."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from phin.data.base import Images, Part, by_tenths
from phin.errors import PhinError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
"""The modes of image files that are read, and what they are read as: grey or colour."""


def load(path: str) -> Images:
    """The pictures below a folder: all grey or all in colour, all of one size.

    Pictures in the folder itself are unlabelled. If there are none, each sub-folder is a class, by name. A
    tenth of the pictures is for testing and a tenth for validation, chosen by a hash of their names.

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
        files, class_names = _find(root)
    except OSError as error:
        raise PhinError(
            f"{error.filename} cannot be read ({error.strerror}); check its permissions"
        ) from error
    if len(files) < 3:
        raise PhinError(
            f"{root} has {len(files)} images ({', '.join(sorted(SUFFIXES))}); "
            "it takes at least 3: to train, to validate and to test"
        )
    files.sort(key=lambda file: blake2b(file.relative_to(root).as_posix().encode(), digest_size=8).digest())
    labels = None
    if class_names:
        labels = torch.tensor([class_names.index(file.relative_to(root).parts[0]) for file in files])
    part = Part(torch.from_numpy(_read_all(files)), labels)
    return Images(f"folder:{path}", by_tenths(part), class_names)


def _find(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The pictures below a folder, and the names of their classes."""
    children = [child for child in sorted(root.iterdir()) if not child.name.startswith(".")]
    own = [child for child in children if _is_picture(child)]
    below = {
        child.name: [file for file in sorted(child.rglob("*")) if _is_picture(file)]
        for child in children
        if child.is_dir()
    }
    class_names = tuple(name for name, files in below.items() if files)
    if own and class_names:
        raise PhinError(
            f"{root} has images of its own, such as {own[0].name}, and others in {class_names[0]}/; "
            "put all into sub-folders (one a class) or none"
        )
    return own or [file for files in below.values() for file in files], class_names


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _read_all(files: Sequence[Path]) -> UInt8[np.ndarray, "n channels height width"]:
    first = read(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = read(file)
        if image.shape != first.shape:
            sizes = describe(image.shape), describe(first.shape)
            raise PhinError(f"{file} is {sizes[0]} and {files[0]} is {sizes[1]}; make all images alike")
        images[i] = image
    return images


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
