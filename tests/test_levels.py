"""Levels and scalings: the identity that makes them one thing, and each scaling's own constraint."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phin.diffusion.level import SCALINGS, Level, Scaling, vp

ALL = pytest.mark.parametrize("name", SCALINGS)
CONSTRAINT: dict[str, Callable[[Level], Tensor]] = {  # = 1
    "vp": lambda level: level.alpha**2 + level.sigma**2,
    "ve": lambda level: level.alpha,
    "subvp": lambda level: level.sigma + level.alpha**2,
    "flow": lambda level: level.alpha + level.sigma,
}
WIDE = torch.linspace(-80, 80, 641, dtype=torch.float64)


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_alpha_and_sigma_have_the_log_snr(name: str, dtype: torch.dtype) -> None:
    """At extreme levels too, and in float32: neither underflows, and neither is the difference of two near
    numbers."""
    log_snr = WIDE.to(dtype)
    level = SCALINGS[name](log_snr)
    assert (level.alpha > 0).all()
    assert (level.sigma > 0).all()
    assert torch.equal(level.log_snr, log_snr)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        2 * (level.alpha.log() - level.sigma.log()), log_snr, rtol=tolerance, atol=tolerance
    )


@ALL
def test_each_scaling_keeps_its_constraint(name: str) -> None:
    level = SCALINGS[name](WIDE)
    torch.testing.assert_close(CONSTRAINT[name](level), torch.ones_like(WIDE), rtol=0, atol=1e-15)


@ALL
def test_float32_agrees_with_float64(name: str) -> None:
    scaling: Scaling = SCALINGS[name]
    exact, rounded = scaling(WIDE), scaling(WIDE.float())
    # an error of 1 ulp in log_snr = 80 is one of 4e-6 in sigma
    torch.testing.assert_close(rounded.alpha.double(), exact.alpha, rtol=1e-5, atol=0)
    torch.testing.assert_close(rounded.sigma.double(), exact.sigma, rtol=1e-5, atol=0)


def test_steps_go_from_noisy_to_clean() -> None:
    ladder = vp(torch.tensor([-3.0, 0.0, 2.0, 5.0]))
    assert [(t.log_snr.item(), s.log_snr.item()) for t, s in ladder.steps()] == [(-3, 0), (0, 2), (2, 5)]
    assert ladder.at(-1).log_snr == 5
    assert all(torch.equal(t.sigma, ladder.sigma[i]) for i, (t, _) in enumerate(ladder.steps()))


def test_view_pairs_each_level_with_its_own_picture() -> None:
    ladder = vp(torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64))
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    level = ladder.view(x.ndim)
    expected = torch.stack([ladder.alpha[i] * x[i] for i in range(3)])
    assert torch.equal(level.alpha * x, expected)
    assert torch.equal(level.view(x.ndim).alpha * x, expected)  # again changes nothing
    single = ladder.at(1)
    assert torch.equal(single.view(x.ndim).alpha * x, ladder.alpha[1] * x)
    assert single.view(x.ndim).alpha.ndim == 0  # so that float64 levels leave float32 pictures float32


def test_to_takes_dtype() -> None:
    level = vp(WIDE).to(torch.zeros((), dtype=torch.float32))
    assert {field.dtype for field in level} == {torch.float32}
    torch.testing.assert_close(level.alpha, vp(WIDE).alpha.float())
