"""The loss is the expected squared error, at unbiased times."""

from collections import deque
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.losses import TIMES, Importance, Uniform, antithetic, denoising_loss, stratified
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


@pytest.mark.parametrize("shape", [(), (1,), (9,), (9, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_of_any_precision_leave_the_loss_in_that_of_the_data(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """One level () keeps its own precision; the loss is the exact one, but for the rounding of the data's."""
    x, eps = torch.randn(2, len(LOG_SNR), 4)
    levels = vp(LOG_SNR.to(dtype)) if shape[:1] == (9,) else vp(LOG_SNR.to(dtype)[4:5])
    level = levels._make(field.reshape(shape) for field in levels)

    def unit(z: Tensor, level: Level) -> Prediction:
        return Prediction(z * level.alpha / (level.alpha**2 + level.sigma**2))

    found = denoising_loss(unit, x, level, min_snr(5), noise=lambda like: eps)
    exact = denoising_loss(unit, x.double(), levels, min_snr(5), noise=lambda like: eps.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


uniforms = st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=1, max_size=70)


@given(uniforms)
def test_stratified_has_one_time_in_each_stratum(u: list[float]) -> None:
    n = len(u)
    t = stratified(torch.tensor(u, dtype=torch.float64))
    assert (t * n + 1e-12).floor().clamp(max=n - 1).tolist() == list(range(n))
    torch.testing.assert_close(
        t * n - torch.arange(n), torch.tensor(u, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert ((t >= 0) & (t < 1)).all()


def test_no_stratified_time_is_rounded_up_to_1() -> None:
    """The last of 64 draws that are 1 but for a bit: 63 + u is 64 in float32."""
    nearly = torch.full((64,), 1 - 2**-24)
    assert nearly[0] < 1
    assert stratified(nearly).max() < 1
    assert stratified(nearly.double())[-1] == 1 - 2**-24 / 64


@given(uniforms)
def test_antithetic_times_are_pairs(u: list[float]) -> None:
    draws = torch.tensor(u, dtype=torch.float64)
    t = antithetic(draws)
    half = (len(u) + 1) // 2
    assert len(t) == len(u)
    assert torch.equal(t[:half], draws[:half])
    assert (t < 1).all()  # as of u = 0, too
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


def remembering(losses: Tensor, share: float = 0.001) -> Importance:
    """Importance sampling that has seen these losses (bins, length)."""
    bins, length = losses.shape
    times = Importance(bins, length, share)
    for column in losses.T:
        times.learn((torch.arange(len(losses)).double() + 0.5) / len(losses), column)
    return times


def second_moment(times: Importance, losses: Tensor) -> float:
    """E[(weight loss)²], by enumeration of bins and of the equally likely losses (bins, length) of each."""
    p = times.probabilities()
    upto = p.cumsum(0)
    _, weight = times(upto - p / 2)  # one draw in the middle of each bin's share
    return float((p * weight.square() * losses.double().square().mean(1)).sum())


histories = st.integers(1, 12).flatmap(
    lambda bins: st.lists(
        st.lists(st.floats(2**-7, 2**13, width=32), min_size=3, max_size=3), min_size=bins, max_size=bins
    )
)


@given(histories, st.sampled_from([0.001, 0.1, 1.0]))
def test_importance_is_unbiased_whatever_it_remembers(history: list[list[float]], share: float) -> None:
    """p w = 1 / n on every bin, and within a bin a draw moves the time at the rate of its weight: so the
    weighted mean of any function of time is its mean at uniform times."""
    times = remembering(torch.tensor(history), share)
    p = times.probabilities()
    n = len(p)
    torch.testing.assert_close(p.sum(), torch.tensor(1.0).double())
    upto = p.cumsum(0)
    first, last = (times(upto - p * part) for part in (0.75, 0.25))
    for t, weight in (first, last):
        torch.testing.assert_close(p * weight, torch.full_like(p, 1 / n), rtol=1e-9, atol=0)
        assert ((t * n).floor() == torch.arange(n)).all()
        assert (weight <= 1 / share * (1 + 1e-9)).all()
    torch.testing.assert_close(last[0] - first[0], last[1] * p / 2, rtol=1e-6, atol=0)


def test_importance_has_the_least_variance() -> None:
    """E[(w L)²] >= (mean over bins of sqrt(E[L²]))², by Cauchy and Schwarz: reached but for the share that is
    uniform, where it is (1 - share)^-1 of it at most. Losses that are one number a bin have no variance."""
    generator = torch.Generator().manual_seed(5)
    scale = torch.logspace(0, 3, 50)
    losses = scale[:, None] * torch.rand(50, 10, generator=generator)
    least = float(losses.double().square().mean(1).sqrt().mean() ** 2)
    uniform = float(losses.double().square().mean())
    found = second_moment(remembering(losses), losses)
    assert least <= found < least / (1 - 0.001)
    assert uniform > 3 * found

    known, share = scale[:, None].double(), 0.01
    p = (1 - share) * known[:, 0] / known.sum() + share / 50
    closed_form = float((known[:, 0].square() / (50**2 * p)).sum())
    found = second_moment(remembering(known.float(), share), known)
    assert found == pytest.approx(closed_form, rel=1e-6)
    assert 0 < found - known.mean() ** 2 < 0.005 * (known.square().mean() - known.mean() ** 2)


def test_importance_is_uniform_until_every_bin_has_its_losses() -> None:
    times, u = Importance(5, 3), torch.linspace(0, 0.999, 40)
    for i in [0, 1, 2, 3, 4] * 2 + [0, 1, 2, 3]:
        times.learn(torch.tensor([(i + 0.5) / 5]), torch.tensor([float(i + 1)]))
        t, weight = times(u)
        torch.testing.assert_close(t, u.double(), rtol=0, atol=1e-9)
        torch.testing.assert_close(weight, torch.ones(40).double())
    times.learn(torch.tensor([0.9]), torch.tensor([5.0]))
    expected = 0.999 * torch.arange(1, 6).double() / 15 + 0.001 / 5
    torch.testing.assert_close(times.probabilities(), expected)
    torch.testing.assert_close(Uniform()(u), (u, torch.ones(40)))


def test_importance_remembers_the_last_losses_of_each_bin() -> None:
    """Whatever the batches, with many of one bin in one of them: as the last ones of a list."""
    bins, length = 6, 4
    times, expected = Importance(bins, length), [deque[float](maxlen=length) for _ in range(bins)]
    for size in (1, 3, 30, 2, 64, 7):
        t, loss = torch.rand(size).double() ** 2, torch.rand(size)
        times.learn(t, loss)
        for i, one in zip((t * bins).long().tolist(), loss.tolist(), strict=True):
            expected[i].append(one)
    assert (times.count >= length).all()
    assert [sorted(row) for row in times.losses.tolist()] == [sorted(row) for row in expected]


def test_stratified_draws_of_importance_are_stratified() -> None:
    """Of B draws, a bin gets B p_i, to the next integer but one."""
    times = remembering(torch.logspace(-2, 1, 20)[:, None])
    t, _ = times(stratified(torch.rand(64, dtype=torch.float64)))
    counts = torch.bincount((t * 20).long(), minlength=20)
    assert ((counts - 64 * times.probabilities()).abs() < 2).all()
    assert (t.diff() > 0).all()


def test_importance_refuses_what_it_cannot_be() -> None:
    for wrong in ({"bins": 0}, {"length": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ValueError, match="importance needs bins >= 1"):
            TIMES["importance"](**wrong)


def test_importance_of_losses_that_are_all_0_is_uniform() -> None:
    times = Importance(4, 2)
    times.learn(torch.arange(8) / 8, torch.zeros(8))
    assert (times.count == 2).all()
    assert times.probabilities().tolist() == [0.25] * 4
