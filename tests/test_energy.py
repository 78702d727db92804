"""The energy distance: its closed form, its lack of bias, and the size of its error."""

import math

import pytest
import torch
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.energy import energy_distance


def apart(mean: float, std: float) -> float:
    """E|N(mean, std²)|."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * math.erf(
        mean / (std * math.sqrt(2))
    )


def exact(mean: float, first: float, second: float) -> float:
    """Of two Gaussians on the line with these standard deviations, `mean` apart."""
    return (
        2 * apart(mean, math.hypot(first, second))
        - apart(0, math.sqrt(2) * first)
        - apart(0, math.sqrt(2) * second)
    )


def drawn(n: int, mean: float = 0.0, std: float = 1.0, d: int = 1) -> Tensor:
    return mean + std * torch.randn(n, d, dtype=torch.float64)


def brute(x: Tensor, y: Tensor) -> float:
    """By loops over all pairs of different points."""
    n, m = len(x), len(y)
    total = sum(2 * math.dist(a, b) for a in x.tolist() for b in y.tolist()) / (n * m)
    for points in (x.tolist(), y.tolist()):
        pairs = len(points) * (len(points) - 1)
        total -= sum(math.dist(a, b) for i, a in enumerate(points) for b in points[:i]) * 2 / pairs
    return total


def test_it_is_the_double_loop_and_its_error_the_jackknife() -> None:
    x, y = drawn(9, d=3), drawn(6, 0.4, 1.3, d=3)
    found = energy_distance(x, y)
    assert found.value == pytest.approx(brute(x, y), rel=1e-12)
    squared = 0.0
    for points, brute_without in (
        (x, lambda i: brute(torch.cat([x[:i], x[i + 1 :]]), y)),
        (y, lambda i: brute(x, torch.cat([y[:i], y[i + 1 :]]))),
    ):
        without = torch.tensor([brute_without(i) for i in range(len(points))], dtype=torch.float64)
        squared += (len(points) - 1) / len(points) * (without - without.mean()).square().sum().item()
    assert found.error == pytest.approx(math.sqrt(squared), rel=1e-9)
    back = energy_distance(y, x)
    assert (back.value, back.error) == pytest.approx((found.value, found.error), rel=1e-12)


@pytest.mark.parametrize(("mean", "first", "second"), [(0.0, 1.0, 1.0), (0.7, 1.0, 1.0), (0.2, 0.5, 1.5)])
def test_it_is_the_closed_form_of_two_gaussians(mean: float, first: float, second: float) -> None:
    found = energy_distance(drawn(3000, 0, first), drawn(2000, mean, second))
    assert abs(found.value - exact(mean, first, second)) < 3 * found.error
    assert found.error < 0.05


def test_it_has_no_bias_and_its_error_is_that_of_repetition() -> None:
    """Sets so small that means over all pairs, a point with itself among them, would be off by a third."""
    for mean, low, high in ((2.0, 0.95, 1.25), (0.0, 1.3, 1.6)):  # equal distributions: sqrt(2) too large
        found = [energy_distance(drawn(6), drawn(9, mean)) for _ in range(200)]
        values, errors = torch.tensor([(one.value, one.error) for one in found], dtype=torch.float64).T
        assert abs(values.mean() - exact(mean, 1, 1)) < 3 * values.std() / math.sqrt(len(found))
        assert low < errors.square().mean().sqrt() / values.std() < high


def test_near_points_are_told_apart() -> None:
    """Far from the origin, where squares would cancel: points a ten-thousandth apart."""
    x, y = (1000 + 1e-4 * torch.rand(40, 2, dtype=torch.float64) for _ in range(2))
    assert energy_distance(x, y).value == pytest.approx(energy_distance(x - 1000, y - 1000).value, rel=1e-6)


def test_many_points_are_taken_in_parts() -> None:
    x, y = drawn(1500, d=2).float(), drawn(1300, 0.1, d=2).float()
    a, b = x.double(), y.double()
    far = [(p[:, None] - q).square().sum(-1).sqrt().sum() for p, q in ((a, b), (a, a), (b, b))]
    expected = 2 * far[0] / (1500 * 1300) - far[1] / (1500 * 1499) - far[2] / (1300 * 1299)
    found = energy_distance(x, y)
    assert found.value == pytest.approx(expected.item(), rel=1e-10)
    squared = 0.0
    for p, q, all_p in ((a, b, far[1]), (b, a, far[2])):
        n, m = len(p), len(q)
        own, other = ((p[:, None] - r).square().sum(-1).sqrt().sum(1) for r in (p, q))
        left = 2 * (far[0] - other) / ((n - 1) * m) - (all_p - 2 * own) / ((n - 1) * (n - 2))
        squared += (n - 1) / n * (left - left.mean()).square().sum().item()
    assert found.error == pytest.approx(math.sqrt(squared), rel=1e-9)


def test_what_is_no_cloud_is_refused() -> None:
    with pytest.raises(PhinError, match="2 and 5 points"):
        energy_distance(drawn(2), drawn(5))
    with pytest.raises(PhinError, match="1 and 2 dimensions"):
        energy_distance(drawn(5), drawn(5, d=2))
    with pytest.raises(PhinError, match="not finite"):
        energy_distance(drawn(5), drawn(5).fill_(math.nan))
