"""Moving digits: short videos of a digit of MNIST that moves at a constant velocity and stays in the picture.

Frame t is the image of the digit, moved by start + t velocity whole pixels along each axis. Velocities are
those of the eight neighbours of a pixel, with equal chances; the start is uniform among those that keep all
of the digit's ink within all frames. Videos of the splits are made of different images.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from phin.data import mnist
from phin.data.base import WHOLE, Batch, Endless, Entry, Part, Which, from_integers, with_validation
from phin.data.mnist import DIGITS
from phin.diffusion.noise import stream

SIDE = 28
FRAMES = 8
VELOCITIES = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])
"""Pixels a frame, down and to the right."""
SPLIT = 1000
"""Videos of a split when nobody says."""


def room(images: UInt8[np.ndarray, "n 28 28"]) -> tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, "n 2"]]:
    """How far each image can be moved up and left (at most 0), and down and right, without losing ink."""
    inked = np.stack([images.any(2), images.any(1)], 1)  # rows, columns
    first, last = inked.argmax(2), SIDE - 1 - inked[:, :, ::-1].argmax(2)
    return -first, SIDE - 1 - last


def moved(
    images: UInt8[np.ndarray, "n 28 28"], shifts: Int[np.ndarray, "n frames 2"]
) -> UInt8[np.ndarray, "n frames 28 28"]:
    """Each image as it stands in each frame, moved down and right by less than its side; black around."""
    roomy = np.pad(images, ((0, 0), (SIDE, SIDE), (SIDE, SIDE)))
    windows = sliding_window_view(roomy, (SIDE, SIDE), axis=(1, 2))
    return windows[np.arange(len(images))[:, None], SIDE - shifts[..., 0], SIDE - shifts[..., 1]]


@dataclass(frozen=True, eq=False)
class Moving(Endless):
    """Videos (1, frames, 28, 28), labelled by their digits.

    Args:
        parts: The images of each split.
    """

    parts: Mapping[Which, Part]
    name: str = "moving-digits"
    shape: tuple[int, ...] = (1, FRAMES, SIDE, SIDE)
    classes: int = 10
    vocabulary: int = 0
    class_names: tuple[str, ...] = DIGITS
    eight_bit: bool = True

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Fresh videos at every step."""
        return self._batch("train", stream(seed, self.name, step).random((size, 4))[rows], size)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Videos of the images of a split, apart from those of training even for "train"."""
        draws = stream(seed, f"{self.name} split {which}").random((SPLIT if n is None else n, 4))
        return self._batch(which, draws[rows], len(draws))

    def _batch(self, which: Which, draws: NDArray[np.float64], total: int) -> Batch:
        """Videos by draws in [0, 1): of the image, the velocity, and the two coordinates of the start."""
        part = self.parts[which]
        assert part.labels is not None
        chosen = torch.from_numpy((draws[:, 0] * len(part)).astype(np.int64))
        images = part.images[chosen, 0].numpy()
        velocity = VELOCITIES[(draws[:, 1] * len(VELOCITIES)).astype(np.int64)]
        way = (FRAMES - 1) * velocity
        least, most = room(images)
        least, most = least - np.minimum(way, 0), most - np.maximum(way, 0)
        start = least + (draws[:, 2:] * (most - least + 1)).astype(np.int64)
        shifts = start[:, None] + np.arange(FRAMES)[:, None] * velocity[:, None]
        videos = torch.from_numpy(moved(images, shifts))[:, None]
        return Batch(from_integers(videos), {"label": part.labels[chosen].long()}, total)


def load() -> Moving:
    """The moving digits, on MNIST."""
    return Moving(with_validation(*mnist.parts(mnist.MNIST_FILES), mnist.VALIDATION))


MOVING_DIGITS = Entry(
    title="Videos of moving MNIST digits",
    shape=(1, FRAMES, SIDE, SIDE),
    examples=None,
    classes=10,
    licence="CC BY-SA 3.0",
    source="composed as needed from MNIST (after Srivastava et al., 2015)",
    load=load,
    files=mnist.MNIST_FILES,
)
