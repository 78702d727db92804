"""Decoders: probabilities that sum to 1, of the mean and variance that the papers say."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from phin.diffusion.bound import chain_decoder
from phin.diffusion.decoder import DECODERS, categorical, discretized_gaussian, gaussian, integers
from phin.diffusion.denoiser import Denoise, Prediction
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.schedules import Cosine, Discrete, Linear
from phin.oracle import Gaussian

GRID = (2 * torch.arange(256, dtype=torch.float64) / 255 - 1)[:, None]
fracs = st.one_of(st.floats(0, 1), st.just(0.0), st.just(1.0))


def level(log_snr: float, scaling: str = "vp") -> Level:
    return SCALINGS[scaling](torch.tensor(log_snr, dtype=torch.float64))


def says(x: float | Tensor, frac: Tensor | None = None) -> Denoise:
    """A denoiser that always says the same."""
    return lambda z, level: Prediction(torch.zeros_like(z) + x, frac)


def never(z: Tensor, level: Level) -> Prediction:
    raise AssertionError("the decoder called the network")


@given(st.floats(-3, 3), st.floats(-15, 30), fracs, st.booleans())
def test_a_discretised_gaussian_sums_to_one(x: float, log_snr: float, frac: float, learned: bool) -> None:
    denoise = says(x, torch.full_like(GRID, frac) if learned else None)
    decode = discretized_gaussian(0.3 if learned else frac)
    p = decode(denoise, GRID, GRID, level(log_snr)).exp()
    assert abs(float(p.sum()) - 1) < 1e-12


@settings(max_examples=40)
@given(st.floats(-3, 3), st.floats(-15, 20), st.sampled_from(list(SCALINGS)))
def test_a_categorical_sums_to_one_and_is_bayes_rule(u: float, log_snr: float, scaling: str) -> None:
    """Of 256 Gaussians, one for each value, all equally likely; and it needs no network."""
    at = level(log_snr, scaling)
    z = torch.full_like(GRID, u) * at.alpha
    log_p = categorical()(never, GRID, z, at)
    assert abs(float(log_p.exp().sum()) - 1) < 1e-12
    joint = Normal(at.alpha * GRID, at.sigma).log_prob(z).flatten()
    torch.testing.assert_close(log_p, joint - joint.logsumexp(0), rtol=1e-9, atol=1e-9)


def integral(x: float, var: Tensor) -> Tensor:
    """Of N(x, var) over each of the 256 bins, the outer ones open, by differences of its distribution."""
    normal = Normal(torch.tensor(x, dtype=torch.float64), var.sqrt())
    upper, lower = normal.cdf(GRID + 1 / 255), normal.cdf(GRID - 1 / 255)
    upper[-1], lower[0] = 1.0, 0.0
    return (upper - lower)[:, 0] if var.numel() == 1 else (upper - lower).diagonal()


@settings(max_examples=40)
@given(st.floats(-1.2, 1.2), st.floats(-2, 12), fracs, st.sampled_from(list(SCALINGS)))
def test_a_discretised_gaussian_is_the_integral_over_the_bin(
    x: float, log_snr: float, frac: float, scaling: str
) -> None:
    """About x̂, with sigma² of the variance preserving process (large) or half of it (small), under any
    scaling."""
    var = level(log_snr).sigma ** 2 * 0.5 ** (1 - frac)
    p = discretized_gaussian(frac)(says(x), GRID, GRID, level(log_snr, scaling)).exp()
    torch.testing.assert_close(p, integral(x, var), rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("inner", [Linear(), Cosine()])
@pytest.mark.parametrize("T", [2, 50, 1000])
def test_a_chains_decoder_has_ddpms_first_variance(inner: Linear | Cosine, T: int) -> None:
    """beta_1 if large; if small beta-tilde_2, for beta-tilde_1 would be 0; learned, the logarithm between."""
    chain = Discrete(inner, T)
    beta, bar = chain.betas, chain.alpha_bar
    small, large = beta[1] * (1 - bar[0]) / (1 - bar[1]), beta[0]
    at = chain.scaling(chain.table[0])
    learned = torch.linspace(0, 1, 256, dtype=torch.float64)[:, None]
    for frac, said, var in (
        (0.0, None, small),
        (1.0, None, large),
        (0.4, None, small**0.6 * large**0.4),
        (0.4, learned, (small ** (1 - learned) * large**learned)[:, 0]),
    ):
        p = chain_decoder(chain, frac)(says(0.1, said), GRID, GRID, at).exp()
        torch.testing.assert_close(p, integral(0.1, var), rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("x", [0.0, -3.0, 1e6, -1e6, 1e18, 1e30])
@pytest.mark.parametrize("log_snr", [-30.0, 10.0, 40.0])
def test_logarithms_stay_finite(x: float, log_snr: float) -> None:
    """However far off the network is: from afar every closed bin is -(x̂ / std)² / 2 away."""
    mean = torch.full_like(GRID, x).requires_grad_()
    at = level(log_snr)
    log_p = discretized_gaussian(1.0)(says(mean), GRID, GRID, at)
    assert log_p.isfinite().all()
    if abs(x) > 1e3:
        far = torch.full_like(log_p, -0.5 * (x / float(at.sigma)) ** 2)
        torch.testing.assert_close(log_p[1:-1], far[1:-1], rtol=1e-4, atol=0)
    if abs(x) < 10:
        log_p.sum().backward()
        assert mean.grad is not None
        assert mean.grad.isfinite().all()


@pytest.mark.parametrize("make", [discretized_gaussian, categorical])
def test_in_float32(make: Any) -> None:
    x = GRID.float()[torch.randint(256, (40, 30))][..., 0]
    z = x + 0.01 * torch.randn_like(x)

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(z * 0.99)

    ours, exact = make()(denoise, x, z, level(9.0)), make()(denoise, x.double(), z.double(), level(9.0))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-3)


@given(st.floats(-3, 3), st.floats(0.01, 9), st.floats(-12, 12), st.sampled_from(list(SCALINGS)))
def test_a_density_is_the_exact_posterior_of_gaussian_data(
    z: float, variance: float, log_snr: float, scaling: str
) -> None:
    data = Gaussian(torch.tensor([0.3]).double(), torch.tensor([[variance]]).double())
    at = level(log_snr, scaling)
    z_t = torch.full((256, 1), z, dtype=torch.float64) * torch.hypot(at.alpha, at.sigma)
    bayes = data.log_prob(GRID) + Normal(at.alpha * GRID, at.sigma).log_prob(z_t)[:, 0]
    bayes = bayes - data.log_prob(z_t, at)
    torch.testing.assert_close(gaussian(variance)(data.denoise, GRID, z_t, at), bayes, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", DECODERS)
def test_dimensions_add_up_and_each_example_may_have_its_level(name: str) -> None:
    decode = DECODERS[name]()
    x = GRID[torch.randint(256, (6, 2, 3))][..., 0]
    z = x + 0.1 * torch.randn_like(x)

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(torch.tanh(z))

    ladder = vp(torch.linspace(0, 8, 6).double())
    whole = decode(denoise, x, z, ladder.view(3))
    assert whole.shape == (6,)
    for i in range(6):
        parts = decode(denoise, x[i].reshape(6, 1), z[i].reshape(6, 1), ladder.at(i))
        torch.testing.assert_close(whole[i], parts.sum())


@pytest.mark.parametrize("bins", [2, 17, 256])
def test_integers(bins: int) -> None:
    k = torch.arange(bins)
    off = 0.12 * (2 * torch.rand(bins) - 1)
    assert torch.equal(integers(2 * (k + off) / (bins - 1) - 1, bins), k)
    p = [
        make(bins=bins)(says(0.2), x, torch.zeros_like(x), level(3.0)).exp().sum()
        for make in (discretized_gaussian, categorical)
        for x in [2 * k[:, None].double() / (bins - 1) - 1]
    ]
    torch.testing.assert_close(torch.stack(p), torch.ones(2).double())


@pytest.mark.parametrize("make", [discretized_gaussian, categorical])
@pytest.mark.parametrize(
    ("value", "named"),
    [(0.0, "0"), (math.nan, "nan"), (1.002, "1.002"), (-1 - 2 / 255, "-1.00784"), (math.inf, "inf")],
)
def test_what_is_no_value_of_8_bits_is_refused(make: Any, value: float, named: str) -> None:
    x = GRID[:8].clone().reshape(4, 2)
    x[2, 1] = value
    with pytest.raises(ValueError, match=f"x has the value {named},"):
        make()(says(0.0), x, x, level(5.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: discretized_gaussian(5), "frac = 5"),
        (lambda: discretized_gaussian(math.nan), "frac = nan"),
        (lambda: discretized_gaussian(small=-1), "small = -1"),
        (lambda: discretized_gaussian(small=0), "small = 0"),
        (lambda: discretized_gaussian(bins=1), "bins = 1"),
        (lambda: categorical(bins=1), "bins = 1"),
        (lambda: gaussian(0), "variance = 0"),
        (lambda: gaussian(-1), "variance = -1"),
    ],
)
def test_a_decoder_that_is_none_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
