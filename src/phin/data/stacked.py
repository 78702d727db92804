"""Stacked MNIST: three random digits as the red, green and blue of a picture, which makes a thousand modes.

Nothing tells a model of them apart: the pictures have no labels, and whether a model draws all of the
thousand can be counted (`metrics/modes.py`).

References:
    Unrolled generative adversarial networks (Metz et al., 2016), arXiv:1611.02163, section 3.3.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from phin.data import mnist
from phin.data.base import WHOLE, Batch, Endless, Entry, Part, Which, from_integers, with_validation
from phin.diffusion.noise import stream

SIDE = 28
LAYERS = 3


@dataclass(frozen=True, eq=False)
class Stacked(Endless):
    """Pictures of three layers, composed as needed: each a random image of the split, apart from the others.

    Args:
        images: (n, 28, 28) of each split.
    """

    images: Mapping[Which, UInt8[Tensor, "n height width"]]
    name: str = "stacked-mnist"
    shape: tuple[int, ...] = (LAYERS, SIDE, SIDE)
    classes: int = 0
    vocabulary: int = 0
    class_names: tuple[str, ...] = ()
    eight_bit: bool = True

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Fresh pictures at every step."""
        return self._batch("train", stream(seed, "stacked", step), size, rows)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Pictures of the images of a split; as many as it has images when nobody says."""
        n = len(self.images[which]) if n is None else n
        return self._batch(which, stream(seed, f"stacked split {which}"), n, rows)

    def _batch(self, which: Which, rng: np.random.Generator, size: int, rows: slice) -> Batch:
        images = self.images[which]
        chosen: Int[np.ndarray, "n layers"] = rng.integers(len(images), size=(size, LAYERS))[rows]
        return Batch(from_integers(images[torch.from_numpy(chosen)]), {}, size)


def load() -> Stacked:
    """The stacked digits, on MNIST."""
    splits: Mapping[Which, Part] = with_validation(*mnist.parts(mnist.MNIST_FILES), mnist.VALIDATION)
    return Stacked({which: part.images[:, 0] for which, part in splits.items()})


STACKED_MNIST = Entry(
    title="Stacked MNIST: three digits as red, green and blue",
    shape=(LAYERS, SIDE, SIDE),
    examples=None,
    classes=0,
    licence="CC BY-SA 3.0",
    source="composed as needed from MNIST (after Metz et al., 2016)",
    load=load,
    files=mnist.MNIST_FILES,
)
