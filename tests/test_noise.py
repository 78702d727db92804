"""Randomness by counters: pure, independent, and normal."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phin.diffusion.noise import normal, seeded, stream, uniform

seeds = st.integers(0, 2**40)


@given(seeds, st.text(max_size=8), st.integers(0, 2**60))
def test_a_stream_is_a_function_of_its_arguments(seed: int, purpose: str, index: int) -> None:
    first = stream(seed, purpose, index).integers(2**63, size=4)
    stream(seed + 1, purpose, index).integers(2**63, size=9)  # what else is drawn does not matter
    assert (stream(seed, purpose, index).integers(2**63, size=4) == first).all()
    for other in ((seed + 1, purpose, index), (seed, purpose + "'", index), (seed, purpose, index + 1)):
        assert (stream(*other).integers(2**63, size=4) != first).all()


def test_streams_do_not_overlap() -> None:
    """A counter advances with the draws: neighbouring indices are not the same sequence, shifted."""
    drawn = np.concatenate([stream(0, "noise", i).integers(2**63, size=5000) for i in range(20)])
    assert len(np.unique(drawn)) == len(drawn)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_rows_are_those_of_their_index_whatever_the_batch(draw: Callable[..., Tensor]) -> None:
    whole = draw(3, "train", range(10), (2, 5))
    assert whole.dtype == torch.float32
    assert torch.equal(draw(3, "train", [7, 2], (2, 5)), whole[[7, 2]])
    assert torch.equal(torch.cat([draw(3, "train", [i], (2, 5)) for i in range(10)]), whole)
    assert not torch.equal(draw(4, "train", range(10), (2, 5)), whole)
    assert not torch.equal(draw(3, "valid", range(10), (2, 5)), whole)


def test_seeded_noise_goes_on_in_each_pictures_own_stream() -> None:
    like = torch.zeros(4, 3, 2)
    noise = seeded(5, range(4))
    calls = [noise(like) for _ in range(3)]
    assert not torch.equal(calls[0], calls[1])

    alone = seeded(5, [2])
    for call in calls:
        assert torch.equal(alone(like[:1])[0], call[2])

    order = [3, 1, 0]
    shuffled = seeded(5, order)
    for call in calls:
        assert torch.equal(shuffled(like[:3]), call[order])

    again = seeded(5, range(4))
    assert all(torch.equal(again(like), call) for call in calls)


def test_seeded_noise_takes_shape_and_dtype_of_its_argument() -> None:
    single, double = (
        seeded(5, range(2))(torch.zeros(2, 6)),
        seeded(5, range(2))(torch.zeros(2, 6, dtype=torch.float64)),
    )
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


def test_seeded_noise_refuses_another_number_of_pictures() -> None:
    with pytest.raises(ValueError, match="4 pictures and asked for 3"):
        seeded(5, range(4))(torch.zeros(3, 2))


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    """Moments 1 to 4, and correlations between indices, purposes, seeds and neighbours, each within 4.5
    errors."""
    n = 100_000
    base = normal(0, "noise", [0], (n,))[0].double()
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(base.pow(moment).mean() - expected) < 4.5 * (variance / n) ** 0.5
    others = {
        "index": normal(0, "noise", [1], (n,))[0],
        "purpose": normal(0, "time", [0], (n,))[0],
        "seed": normal(1, "noise", [0], (n,))[0],
        "neighbour": base.roll(1),
    }
    for name, other in others.items():
        assert (base * other.double()).mean().abs() < 4.5 / n**0.5, name
    across = normal(0, "noise", range(20_000), (2,)).double()  # few draws from each of many streams
    for row in across.T:
        assert row.mean().abs() < 4.5 / len(row) ** 0.5
        assert abs(row.square().mean() - 1) < 4.5 * (2 / len(row)) ** 0.5
        assert (row[1:] * row[:-1]).mean().abs() < 4.5 / len(row) ** 0.5
    assert across.prod(1).mean().abs() < 4.5 / len(across) ** 0.5


def test_the_streams_are_what_they_were() -> None:
    """Runs and pictures of earlier versions can be had again."""
    assert stream(0, "noise", 0).integers(2**63, size=2).tolist() == [198814657434064734, 7855056192741114445]
    assert stream(7, "time", 5).integers(2**63, size=2).tolist() == [7732720627042793879, 6450593771845144399]
    expected = torch.tensor([[0.6293407082557678, -0.04386710375547409, 1.011321783065796]])
    torch.testing.assert_close(normal(0, "noise", [0], (3,)), expected, rtol=1e-6, atol=0)
