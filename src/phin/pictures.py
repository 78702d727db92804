"""From tensors to pictures: 8-bit arrays, grids of them, PNG and GIF files."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_bytes(x: Float[Tensor, "*batch c h w"]) -> UInt8[np.ndarray, "*picture"]:
    """Images in [-1, 1], channels first, as 8-bit ones: (..., H, W) when grey, (..., H, W, C) else.

    x = 2 k / 255 - 1 gives k.
    """
    integers = to_integers(x).movedim(-3, -1).cpu().numpy()
    return integers[..., 0] if integers.shape[-1] == 1 else integers


def to_integers(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The integers k from 0 to 255 whose x = 2 k / 255 - 1 are nearest."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def tile(
    pictures: Sequence[UInt8[np.ndarray, "h _ *channels"]], columns: int, gap: int = 2, paper: int = 32
) -> UInt8[np.ndarray, "height width *channels"]:
    """Pictures of one height in rows of `columns`, `gap` pixels of the grey `paper` between them."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [max(row[j].shape[1] for row in rows if j < len(row)) for j in range(len(rows[0]))]
    height, _, *channels = pictures[0].shape
    sides = (len(rows) * (height + gap) + gap, sum(widths) + gap * (len(widths) + 1))
    sheet = np.full((*sides, *channels), paper, np.uint8)
    for i, row in enumerate(rows):
        left = gap
        for picture, width in zip(row, widths, strict=False):
            top = gap + i * (height + gap)
            sheet[top : top + height, left : left + picture.shape[1]] = picture
            left += width + gap
    return sheet


def scatter(
    points: Float[Tensor, "n 2"], side: int = 256, reach: float = 2.5
) -> UInt8[np.ndarray, "side side"]:
    """A cloud of points of the plane, within [-reach, reach], as a picture of its density."""
    x, y = points.float().cpu().numpy().T
    count, _, _ = np.histogram2d(-y, x, bins=side, range=[[-reach, reach]] * 2)
    white = np.quantile(count[count > 0], 0.95) if count.any() else 1
    return (255 * np.minimum(count / white, 1)).astype(np.uint8)


Picture = UInt8[np.ndarray, "height width *channels"]


def png(picture: Picture) -> bytes:
    """The contents of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", optimize=True)
    return file.getvalue()


def gif(frames: Sequence[Picture], seconds: float = 0.1, rest: float = 1.5) -> bytes:
    """The contents of a GIF file: frames of some seconds each, a rest on the last, and all over again."""
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in frames]
    milliseconds = [round(1000 * seconds)] * len(others) + [round(1000 * rest)]
    file = io.BytesIO()
    first.save(file, "gif", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue()
