"""Endless sets of points in the plane, standardised: mean zero, and variance one on average over the axes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from phin.data.base import WHOLE, Batch, Endless, Entry, Which
from phin.diffusion.noise import stream

Draw = Callable[[np.random.Generator, int], Float[np.ndarray, "n *shape"]]

SPLIT = 10_000
"""How many points a split has when nobody says."""


@dataclass(frozen=True)
class Points(Endless):
    """Points drawn as needed; unlabelled."""

    name: str
    draw: Draw
    shape: tuple[int, ...] = (2,)
    classes: int = 0
    vocabulary: int = 0
    class_names: tuple[str, ...] = ()
    eight_bit: bool = False

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Fresh points at every step."""
        drawn = self.draw(stream(seed, f"{self.name} train", step), size)[rows]
        return Batch(torch.from_numpy(drawn.astype(np.float32)), {}, size)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Points apart from those of training, even for "train": the same distribution."""
        n = SPLIT if n is None else n
        # What is drawn depends on how much is: so always as much at once, and the first ones stay the same.
        blocks = range(max(1, math.ceil(n / SPLIT)))
        drawn = [self.draw(stream(seed, f"{self.name} split {which}", k), SPLIT) for k in blocks]
        return Batch(torch.from_numpy(np.concatenate(drawn)[:n][rows].astype(np.float32)), {}, n)


def swiss_roll(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 2"]:
    """A spiral t (cos t, sin t), t uniform in [1.5 pi, 4.5 pi], plus Gaussian noise of 0.5 on each axis."""
    t = math.pi * rng.uniform(1.5, 4.5, n)
    roll = t[:, None] * np.stack([np.cos(t), np.sin(t)], 1) + 0.5 * rng.standard_normal((n, 2))
    mean = np.array([2, 2 / (3 * math.pi)])
    variance = (9.75 * math.pi**2 - mean @ mean) / 2 + 0.5**2  # E t^2 = 9.75 pi^2
    return (roll - mean) / math.sqrt(variance)


def eight_gaussians(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 2"]:
    """Eight Gaussians of standard deviation 0.1, evenly on a circle."""
    angle = rng.integers(8, size=n) * (math.pi / 4)
    radius = math.sqrt(2 * (1 - 0.1**2))
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.standard_normal((n, 2))


def checkerboard(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 2"]:
    """Uniform on the black squares of a 4 x 4 board of side 4."""
    column, row = rng.integers(4, size=n), rng.integers(2, size=n)
    corner = np.stack([column, 2 * row + column % 2], 1) - 2
    return (corner + rng.random((n, 2))) / math.sqrt(4 / 3)  # the variance of each axis: 4^2 / 12


def moons(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 2"]:
    """Two half circles that reach into each other, with Gaussian noise of 0.05 along each axis."""
    angle, upper = rng.uniform(0, math.pi, n), rng.integers(2, size=n) == 1
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    noise = 0.05 * rng.standard_normal((n, 2))
    mean = np.array([0.5, 0.25])
    variance = (1 + (1.25 - 2 / math.pi) / 2 - mean @ mean) / 2 + 0.05**2
    return (np.stack([x, y], 1) + noise - mean) / math.sqrt(variance)


def entry(name: str, draw: Draw) -> Entry:
    """The registry's line of a set of points."""
    return Entry(
        title=name.replace("-", " ").capitalize(),
        shape=(2,),
        examples=None,
        classes=0,
        licence="none needed",
        source="drawn as needed",
        load=lambda: Points(name, draw),
    )
