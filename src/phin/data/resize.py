"""Pictures of any size made alike, as a folder has to have them to be a data set."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from phin.data import folder
from phin.errors import PhinError

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = frozenset({"1", "L", "LA"})
COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Modes of 8 bits; others would lose something."""


class Resized(NamedTuple):
    """What came of it."""

    pictures: int
    enlarged: int
    """Those that had a shorter side, and are blurred."""
    grey: bool
    classes: tuple[str, ...]


def resize(
    path: str, out: Path, side: int, grey: bool = False, watch: Callable[[int], None] = lambda pictures: None
) -> Resized:
    """Copies a folder of pictures as PNG files of side x side pixels, all or none of them.

    The shorter side of each picture is scaled to `side` by Lanczos's filter, and of the longer one the middle
    is kept. Pictures are turned as their camera was held, white shows through what is transparent, and
    sub-folders, which are classes, stay.

    Args:
        path: The folder.
        out: The new one.
        side: Pixels.
        grey: Whether colours are dropped; if all pictures are grey they stay so.
        watch: Told how many more are done.

    Raises:
        PhinError: No folder, no pictures in it, one that is broken or has more than 8 bits, a side that is no
            side, or a new folder that has something in it, is in the old one, or is the one that one is in.
    """
    if side < 1:
        raise PhinError(f"side = {side}: give at least 1 pixel, best a multiple of 4")
    root, out = folder.folder(path), out.expanduser().resolve()
    if out == Path.cwd():
        raise PhinError(f"{out} is the folder you are in: give an --out below it or elsewhere")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PhinError(f"{out} is there already: give another --out, or remove it")
    if out.is_relative_to(root.resolve()):
        raise PhinError(f"{out} is in {root}, whose pictures it would be among: give an --out beside it")
    names, _, classes = folder.find(root)
    if not len(names):
        raise PhinError(f"{root} has no images ({', '.join(sorted(folder.SUFFIXES))})")
    grey = grey or all(_mode(root / name) in GREY for name in names)
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        enlarged = 0
        for name in sorted(names):  # in whatever order the disk lists them, the same names come of it
            with _opened(root / name) as picture:
                square = _square(picture, side, grey)
                enlarged += min(picture.size) < side
            target = (whole / name).with_suffix(".png")
            while target.exists():  # of a.jpg and a.png
                target = target.with_name(f"{target.name}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            square.save(target)
            watch(1)
        whole.chmod(root.stat().st_mode & 0o777 | 0o700)  # as public as the old one
        if out.exists():
            out.rmdir()
        os.replace(whole, out)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    return Resized(len(names), enlarged, grey, classes)


@contextmanager
def _opened(file: Path) -> Iterator["Image"]:
    """A picture, whose pixels are read when they are needed."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if picture.mode not in GREY | COLOUR:
                raise PhinError(
                    f"{file} has the mode {picture.mode}, not of 8 bits: convert it, or remove it"
                )
            yield picture
    except PhinError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise PhinError(f"{file} cannot be read as an image ({error}); repair or remove it") from error


def _mode(file: Path) -> str:
    with _opened(file) as picture:
        return picture.mode


def _square(picture: "Image", side: int, grey: bool) -> "Image":
    """The middle of a picture."""
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(picture)
    if turned.has_transparency_data:
        paper = Image.new("RGBA", turned.size, "white")
        turned = Image.alpha_composite(paper, turned.convert("RGBA"))
    return ImageOps.fit(turned.convert("L" if grey else "RGB"), (side, side), Image.Resampling.LANCZOS)
