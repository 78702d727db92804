import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from phin.errors import PhinError
from phin.training.ema import EMA, power


def profile(width: float, updates: int, decay: float | None = None) -> torch.Tensor:
    """How much each update weighs in the average: the i-th makes the weights the i-th unit vector."""
    model = nn.Linear(updates, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, width, decay)
    units = torch.eye(updates)
    for t in range(1, updates + 1):
        model.load_state_dict({"weight": units[t - 1 : t]})
        ema.update(t)
    return ema.model.get_parameter("weight")[0]


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25])
def test_profile_is_the_power_function_of_the_paper(width: float) -> None:
    weights = profile(width, n := 800)
    i = torch.arange(n + 1, dtype=torch.float64)
    torch.testing.assert_close(weights, ((i / n) ** (power(width) + 1)).diff(), rtol=1e-9, atol=1e-15)
    time = (i[1:] - 0.5) / n
    mean = (weights * time).sum()
    spread = (weights * (time - mean) ** 2).sum().sqrt()
    assert weights.sum().item() == pytest.approx(1)
    assert spread.item() == pytest.approx(width, rel=0.01)


@given(st.floats(0.001, 0.2886))
def test_exponent_has_the_width_it_is_asked_for(width: float) -> None:
    gamma = power(width)
    assert gamma >= 0
    assert math.sqrt(gamma + 1) / (gamma + 2) / math.sqrt(gamma + 3) == pytest.approx(width, rel=1e-6)


def test_the_ends_are_no_averaging_and_the_plain_mean() -> None:
    assert profile(0, 50).tolist() == [0.0] * 49 + [1.0]
    torch.testing.assert_close(profile(1 / math.sqrt(12), 50), torch.full((50,), 0.02, dtype=torch.float64))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_a_constant_decay_is_the_exponential_average_whatever_the_width(decay: float) -> None:
    """Update i of t weighs (1 - decay) decay^(t - i); what is left of 1 is on the weights of the start."""
    weights = profile(0.1, n := 60, decay)
    age = torch.arange(n - 1, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(weights, (1 - decay) * decay**age, rtol=1e-9, atol=1e-15)
    model = nn.Linear(1, 1)
    start = model.weight.item()
    ema = EMA(model, 0.1, decay)
    nn.init.zeros_(model.weight)
    for t in range(1, n + 1):
        ema.update(t)
    assert ema.model.get_parameter("weight").item() == pytest.approx(start * decay**n, rel=1e-5)


@pytest.mark.parametrize("width", [-0.1, 0.3, math.nan])
def test_a_width_that_no_profile_has_is_refused(width: float) -> None:
    with pytest.raises(PhinError, match=str(width)):
        power(width)


def test_buffers_are_copied_and_the_copy_only_predicts() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = EMA(model, 0.1)
    for t in range(1, 4):
        model(torch.randn(8, 3))
        ema.update(t)
    assert torch.equal(ema.model.get_buffer("1.running_mean"), model.get_buffer("1.running_mean"))
    assert int(ema.model.get_buffer("1.num_batches_tracked")) == 3
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_a_width_too_small_to_have_an_exponent_is_no_average() -> None:
    assert power(1e-160) == power(0) == math.inf
