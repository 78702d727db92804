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


def frames(x: Float[Tensor, "c *sides"]) -> "list[Picture]":
    """What a sample looks like, frame by frame: a picture, or the plot of a sequence, is one frame.

    Args:
        x: A sequence (C, L), an image (C, H, W) or a video (C, frames, H, W), the latter in [-1, 1].
    """
    if x.ndim == 2:
        return [plot(x)]
    return [*to_bytes(x.movedim(1, 0))] if x.ndim == 4 else [to_bytes(x)]


def still(x: Float[Tensor, "c *sides"]) -> "Picture":
    """What a sample looks like in one picture: the frames of a video from left to right."""
    shown = frames(x)
    return shown[0] if len(shown) == 1 else tile(shown, len(shown), gap=1)


def plot(
    x: Float[Tensor, "c length"], side: int = 64, step: int = 4, reach: float = 3.0
) -> UInt8[np.ndarray, "side width 3"]:
    """A sequence within [-reach, reach] as lines from left to right, a colour to each channel."""
    from PIL import Image, ImageDraw

    fine = 4  # pixels drawn for one shown, which smooths the lines
    channels, length = x.shape
    sheet = Image.new("RGB", (fine * step * length, fine * side), (24, 24, 24))
    pen = ImageDraw.Draw(sheet)
    pen.line([(0, fine * side // 2), (fine * step * length, fine * side // 2)], (72, 72, 72), fine)
    across = fine * step * (np.arange(length) + 0.5)
    down = fine * side * (0.5 - x.float().cpu().numpy().clip(-reach, reach) / (2 * reach))
    for channel in range(channels):
        colour = COLOURS[channel % len(COLOURS)]
        pen.line([*zip(across.tolist(), down[channel].tolist(), strict=True)], colour, 2 * fine, "curve")
    return np.asarray(sheet.resize((step * length, side), Image.Resampling.BOX))


COLOURS = ((255, 176, 64), (96, 176, 255), (128, 224, 128), (240, 128, 208))


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
