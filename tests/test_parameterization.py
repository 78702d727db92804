"""Each parameterization gives back x from what its paper says the network predicts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.parameterization import PARAMETERIZATIONS, edm, posterior_mean, v
from phin.diffusion.schedules import Cosine, Discrete

CASES = pytest.mark.parametrize(
    ("name", "scaling"), [(name, scaling) for name in PARAMETERIZATIONS for scaling in SCALINGS]
)


def edm_target(sigma_data: float) -> Callable[[Tensor, Tensor, Level], Tensor]:
    """(x - c_skip y) / c_out for y = x + sigma eps (Karras et al., table 1): EDM's data are not scaled."""

    def target(x: Tensor, eps: Tensor, level: Level) -> Tensor:
        sigma = level.sigma / level.alpha
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
        return (x - c_skip * (x + sigma * eps)) / c_out

    return target


def mean_target(x: Tensor, eps: Tensor, level: Level) -> Tensor:
    """mu-tilde of DDPM's eq. 7, by the step of its chain that begins next to the level; x at the last."""
    bar = torch.cat([torch.ones(1).double(), Discrete().alpha_bar])
    nearest = (Discrete().table - level.log_snr).abs().argmin(-1, keepdim=True)
    before, now = bar[nearest], torch.sigmoid(level.log_snr)
    alpha = now / before
    u = (level.alpha * x + level.sigma * eps) / torch.hypot(level.alpha, level.sigma)
    of_x = before.sqrt() * (1 - alpha) / torch.sigmoid(-level.log_snr)
    of_u = alpha.sqrt() * (1 - before) / torch.sigmoid(-level.log_snr)
    return torch.where(nearest == 0, x, of_x * x + of_u * u)


TARGET: dict[str, Callable[[Tensor, Tensor, Level], Tensor]] = {
    "x": lambda x, eps, level: x,
    "eps": lambda x, eps, level: eps,
    "v": lambda x, eps, level: (
        (level.alpha * eps - level.sigma * x) / (level.alpha**2 + level.sigma**2).sqrt()
    ),
    "score": lambda x, eps, level: -eps * torch.hypot(level.alpha, level.sigma) / level.sigma,
    "flow": lambda x, eps, level: eps - x,
    "edm": edm_target(0.5),
    "mean": mean_target,
}


def example(scaling: str) -> tuple[Tensor, Tensor, Level, Tensor]:
    level = SCALINGS[scaling](torch.linspace(-12, 14, 105, dtype=torch.float64)).view(2)
    x, eps = torch.randn(2, 105, 8, dtype=torch.float64)
    return x, eps, level, level.alpha * x + level.sigma * eps


@CASES
def test_the_true_output_gives_back_x(name: str, scaling: str) -> None:
    x, eps, level, z = example(scaling)
    skip, out = PARAMETERIZATIONS[name]()(level)
    torch.testing.assert_close(skip * z + out * TARGET[name](x, eps, level), x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("sigma_data", [0.2, 1.0, 3.0])
def test_edm_for_any_standard_deviation_of_the_data(scaling: str, sigma_data: float) -> None:
    x, eps, level, z = example(scaling)
    skip, out = edm(sigma_data)(level)
    torch.testing.assert_close(skip * z + out * edm_target(sigma_data)(x, eps, level), x, rtol=0, atol=1e-11)
    # Its two promises: a target of unit variance, and errors of the network amplified as little as can be.
    of_x, of_eps = (1 - skip * level.alpha) / out, -skip * level.sigma / out
    torch.testing.assert_close((of_x * sigma_data) ** 2 + of_eps**2, torch.ones_like(out))
    for other in (skip * 0.99, skip * 1.01):
        least = ((1 - other * level.alpha) * sigma_data) ** 2 + (other * level.sigma) ** 2
        assert (out**2 <= least).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_edm_for_data_of_unit_variance_is_v(scaling: str) -> None:
    """Up to the sign: x̂ = skip z + out F, and EDM's F is -v."""
    _, _, level, _ = example(scaling)
    (v_skip, v_out), (edm_skip, edm_out) = v(level), edm(1.0)(level)
    torch.testing.assert_close(v_skip, edm_skip)
    torch.testing.assert_close(v_out, -edm_out)


@CASES
def test_coefficients_are_finite_in_float32(name: str, scaling: str) -> None:
    level = SCALINGS[scaling](torch.linspace(-30, 30, 121))
    exact = PARAMETERIZATIONS[name]()(SCALINGS[scaling](level.log_snr.double()))
    for rounded, coefficient in zip(PARAMETERIZATIONS[name]()(level), exact, strict=True):
        torch.testing.assert_close(rounded.double(), coefficient, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_posterior_mean_is_x_rewritten(scaling: str) -> None:
    """On a chain's own levels, its squared error over the step's smallest variance is that of x, times
    SNR(s) - SNR(t): the same term of the bound."""
    chain = Discrete(Cosine(), 30)
    param = posterior_mean(chain)
    for i in range(1, 30):
        level = SCALINGS[scaling](chain.table[i])
        z, F, wrong = torch.randn(3, 5).double()
        skip, out = param(level)
        off = (out * wrong).square()  # of x̂, for an output F + wrong
        torch.testing.assert_close((skip * z + out * (F + wrong)) - (skip * z + out * F), out * wrong)
        before, now = chain.alpha_bar[i - 1], chain.alpha_bar[i]
        var = (1 - before) / (1 - now) * chain.betas[i]
        gain = torch.exp(chain.table[i - 1]) - torch.exp(chain.table[i])
        torch.testing.assert_close(wrong.square() / var, gain * off, rtol=1e-8, atol=0)
