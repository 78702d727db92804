"""Points of the plane: standardised, and of the shape that their name promises."""

import math

import numpy as np
import pytest
import torch

import phin.data
from phin.data import points
from phin.data.points import Points

N = 200_000
SETS = [name for name, entry in phin.data.DATA.items() if entry.shape == (2,)]


def draw(name: str) -> np.ndarray:
    return phin.data.load(name).split("train", N).x.double().numpy()


@pytest.mark.parametrize("name", SETS)
def test_mean_zero_and_variance_one_on_average(name: str) -> None:
    x = draw(name)
    np.testing.assert_allclose(x.mean(0), 0, atol=5 / math.sqrt(N))
    assert x.var(0).mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", SETS)
def test_batches_are_pure_and_fresh(name: str) -> None:
    data = phin.data.load(name)
    whole = data.train(0, 7, 64)
    assert whole.x.dtype == torch.float32
    assert whole.cond == {}
    assert torch.equal(whole.x, data.train(0, 7, 64).x)
    halves = [data.train(0, 7, 64, rows).x for rows in (slice(0, 20), slice(20, 64))]
    assert torch.equal(torch.cat(halves), whole.x)
    for other in (
        data.train(0, 8, 64),
        data.train(1, 7, 64),
        data.split("valid", 64),
        data.split("test", 64),
    ):
        assert not torch.isin(other.x, whole.x).any()


def test_eight_gaussians_are_eight_and_equal() -> None:
    x = draw("eight-gaussians")
    angle = np.arctan2(x[:, 1], x[:, 0]) / (math.pi / 4)
    counts = np.bincount(np.round(angle).astype(int) % 8, minlength=8)
    assert np.all(abs(counts - N / 8) < 5 * math.sqrt(N / 8))
    centres = math.sqrt(2 * (1 - 0.01)) * np.exp(1j * math.pi / 4 * np.round(angle))
    assert np.abs(x[:, 0] + 1j * x[:, 1] - centres).max() < 0.1 * 6
    assert np.mean(abs(x[:, 0] + 1j * x[:, 1] - centres) ** 2) == pytest.approx(2 * 0.1**2, rel=0.02)


def test_checkerboard_is_uniform_on_every_second_square() -> None:
    board = draw("checkerboard") * math.sqrt(4 / 3) + 2
    counts = np.histogram2d(*board.T, bins=4, range=[[0, 4], [0, 4]])[0]
    black = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    assert counts[~black].sum() <= 2, "but for rounding at an edge"
    assert np.all(abs(counts[black] - N / 8) < 5 * math.sqrt(N / 8))


def test_swiss_roll_is_a_spiral_of_one_and_a_half_turns() -> None:
    mean = np.array([2, 2 / (3 * math.pi)])
    scale = math.sqrt((9.75 * math.pi**2 - mean @ mean) / 2 + 0.25)
    x = draw("swiss-roll") * scale + mean
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    turns = np.round((radius - angle) / (2 * math.pi))
    off = radius - angle - 2 * math.pi * turns
    assert set(turns) == {1, 2} or set(turns) <= {0, 1, 2, 3}
    assert off.std() == pytest.approx(0.5, rel=0.05)


def test_moons_are_half_circles() -> None:
    variance = (1 + (1.25 - 2 / math.pi) / 2 - 0.3125) / 2 + 0.05**2
    x = draw("moons") * math.sqrt(variance) + [0.5, 0.25]
    upper, lower = np.hypot(x[:, 0], x[:, 1]), np.hypot(x[:, 0] - 1, x[:, 1] - 0.5)
    off = np.where(abs(upper - 1) < abs(lower - 1), upper, lower) - 1
    assert abs(off).max() < 0.3
    assert off.std() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("name", [*SETS, "sines", "angles", "digits"])
def test_a_smaller_choice_is_the_beginning_of_a_larger_one(name: str) -> None:
    """In any number, that of a block and more included."""
    data = phin.data.load(name)
    sizes = [1, 7, 20]
    if name != "digits":
        sizes += [0, points.SPLIT, points.SPLIT + 3, 2 * points.SPLIT + 5]
    most = data.split("test", sizes[-1], seed=2)
    for n in sizes:
        found = data.split("test", n, seed=2)
        assert (len(found.x), found.total) == (n, n)
        assert torch.equal(found.x, most.x[:n])
    assert len(most.x.unique(dim=0)) == sizes[-1]  # no block comes twice


def test_a_new_set_is_one_function() -> None:
    data = Points("diagonal", lambda rng, n: np.repeat(rng.random((n, 1)), 2, 1))
    x = data.train(0, 0, 10).x
    assert torch.equal(x[:, 0], x[:, 1])
