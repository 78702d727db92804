"""Every kind of data that is in memory or is made gives a split in parts as it gives it whole."""

from collections.abc import Callable

import numpy as np
import pytest
import test_moving
import test_stacked
import tiny
import torch
from torch import Tensor

import phin
from phin.data.base import Data, Images, Part, Which
from phin.data.degraded import Average, Degraded, Hide
from phin.data.encoded import Encoded
from phin.data.numbers import Numbers
from phin.data.words import Words

N = 40


def images() -> Images:
    """Of noise, labelled."""
    rng = np.random.default_rng(0)
    sizes: dict[Which, int] = {"train": 60, "valid": 50, "test": 45}
    return Images(
        "noise",
        {
            which: Part(
                torch.from_numpy(rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)),
                torch.from_numpy(rng.integers(0, 10, n)),
            )
            for which, n in sizes.items()
        },
        tiny.DIGITS,
    )


class Halved:
    """Encodes images as half of themselves, give or take one."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x / 2, torch.zeros_like(x)


SETS: dict[str, Callable[[], Data]] = {
    "images": images,
    "numbers": lambda: Numbers(tiny.handwriting()),
    "words": lambda: Words(tiny.handwriting()),
    "moving": test_moving.moving,
    "stacked": test_stacked.stacked,
    "points": lambda: phin.data.load("moons"),
    "sequences": lambda: phin.data.load("sines"),
    "averaged": lambda: Degraded(images(), Average()),
    "hidden": lambda: Degraded(test_stacked.stacked(), Hide()),
    "latents": lambda: Encoded(images(), Halved()),
}


@pytest.mark.parametrize("name", SETS)
def test_parts_of_a_split_are_those_of_the_whole(name: str) -> None:
    data = SETS[name]()
    for n in (N, None) if name == "images" else (N,):
        whole = data.split("test", n, 3)
        for rows in (slice(0, 5), slice(5, 12), slice(8, whole.total)):
            part = data.split("test", n, 3, rows)
            assert part.total == whole.total
            assert part.x.tolist() == whole.x[rows].tolist()
            assert part.cond.keys() == whole.cond.keys()
            for key, values in part.cond.items():
                torch.testing.assert_close(values, whole.cond[key][rows], equal_nan=True, rtol=0, atol=0)
