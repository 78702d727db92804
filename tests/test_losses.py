"""The loss is the expected squared error, at unbiased times."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.losses import antithetic, denoising_loss, stratified
from phin.diffusion.weights import min_snr
from phin.oracle import Gaussian, Mixture

LOG_SNR = torch.linspace(-8, 8, 9, dtype=torch.float64)
GAUSSIAN = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([[0.8, 0.5], [0.5, 0.6]]).double())
MIXTURE = Mixture.of(
    [0.7, 0.3],
    torch.tensor([[0.6, -0.2], [-1.2, 0.5]]).double(),
    torch.tensor([[[0.2, 0.1], [0.1, 0.1]], [[0.1, 0.0], [0.0, 0.3]]]).double(),
)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_the_loss_of_the_exact_denoiser_is_the_least(scaling: str, data: Gaussian | Mixture) -> None:
    """SNR times the trace of Cov[x | z], mean over dimensions; both sides on the same 10,000 draws, within
    4.5 errors."""
    n = 10_000
    x = data.sample(n, torch.Generator().manual_seed(2))
    eps = torch.randn(n, 2, dtype=torch.float64)
    for i in range(len(LOG_SNR)):
        level = SCALINGS[scaling](LOG_SNR).at(i)
        z = level.alpha * x + level.sigma * eps
        least = (level.alpha / level.sigma) ** 2 * data.posterior_cov(z, level).diagonal(
            dim1=-2, dim2=-1
        ).mean(-1)
        excess = denoising_loss(data.denoise, x, level, noise=lambda like: eps) - least
        assert excess.mean().abs() < 4.5 * excess.std() / n**0.5
        assert excess.std() > 0

        def worse(z: Tensor, level: Level) -> Prediction:
            return Prediction(data.denoise(z, level).x + 0.5 * torch.exp(-level.log_snr / 2))

        excess = denoising_loss(worse, x, level, noise=lambda like: eps) - least
        assert abs(excess.mean() - 0.25) < 4.5 * excess.std() / n**0.5  # what is off by d in eps adds d²


@pytest.mark.parametrize("scaling", SCALINGS)
def test_each_example_has_its_own_level_and_weight(scaling: str) -> None:
    x, eps = torch.randn(2, len(LOG_SNR), 3, 2, 2, dtype=torch.float64)
    ladder, weight = SCALINGS[scaling](LOG_SNR), min_snr(5)

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(z / torch.hypot(level.alpha, level.sigma))

    together = denoising_loss(denoise, x, ladder.view(4), weight, lambda like: eps)
    assert together.shape == (len(x),)
    for i in range(len(x)):
        level = ladder.at(i)
        z = level.alpha * x[i] + level.sigma * eps[i]
        eps_error = (z - level.alpha * denoise(z, level).x) / level.sigma - eps[i]
        torch.testing.assert_close(together[i], weight(LOG_SNR[i]) * eps_error.square().mean())
        alone = denoising_loss(denoise, x[i : i + 1], level, weight, lambda like, i=i: eps[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1])


def test_levels_that_are_not_yet_shaped_go_to_their_own_example_too() -> None:
    """(B,) levels broadcast against (B, B) data would pair levels with dimensions, and nobody would see
    it."""
    x, eps = torch.randn(2, len(LOG_SNR), len(LOG_SNR), dtype=torch.float64)
    ladder = vp(LOG_SNR)

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(0.5 * z)

    torch.testing.assert_close(
        denoising_loss(denoise, x, ladder, noise=lambda like: eps),
        denoising_loss(denoise, x, ladder.view(2), noise=lambda like: eps),
    )


uniforms = st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=1, max_size=70)


@given(uniforms)
def test_stratified_has_one_time_in_each_stratum(u: list[float]) -> None:
    n = len(u)
    t = stratified(torch.tensor(u, dtype=torch.float64))
    assert (t * n).floor().clamp(max=n - 1).tolist() == list(range(n))
    torch.testing.assert_close(
        t * n - torch.arange(n), torch.tensor(u, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert ((t >= 0) & (t <= 1)).all()


@given(uniforms)
def test_antithetic_times_are_pairs(u: list[float]) -> None:
    draws = torch.tensor(u, dtype=torch.float64)
    t = antithetic(draws)
    half = (len(u) + 1) // 2
    assert len(t) == len(u)
    assert torch.equal(t[:half], draws[:half])
    torch.testing.assert_close(t[half:] + t[: len(u) - half], torch.ones(len(u) - half, dtype=torch.float64))


@pytest.mark.parametrize("choose", [stratified, antithetic])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_times_are_unbiased(choose: Callable[[Tensor], Tensor], n: int) -> None:
    """Averaged over draws u that fill [0, 1) evenly, the times fill [0, 1) evenly."""
    m = 1000
    u = (torch.arange(m, dtype=torch.float64) + 0.5) / m
    t = torch.stack([choose(v.expand(n)) for v in u]).flatten().sort().values
    torch.testing.assert_close(
        t, (torch.arange(len(t), dtype=torch.float64) + 0.5) / len(t), rtol=0, atol=0.5 / m
    )
