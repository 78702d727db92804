"""Guidance: its formulas, its limits, and what it costs."""

import math

import pytest
import torch
from torch import Tensor, nn

from phin.diffusion.denoiser import Denoiser, Prediction
from phin.diffusion.guidance import classifier_free, clip, dynamic_threshold
from phin.diffusion.level import Level, vp
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import Cosine
from phin.diffusion.solvers import DDIM, Ancestral, DPMpp2M, Solver, sample
from phin.oracle import Mixture

MIXTURE = Mixture.of(
    [0.5, 0.3, 0.2],
    torch.tensor([[0.9, -0.5], [-1.0, 0.8], [-0.9, -0.9]]).double(),
    torch.tensor([[[0.2, 0.1], [0.1, 0.1]], [[0.1, 0.0], [0.0, 0.2]], [[0.05, 0.0], [0.0, 0.05]]]).double(),
)
COND, NULL = MIXTURE.parts[1].denoise, MIXTURE.denoise
LADDER = vp(torch.linspace(-6, 6, 7, dtype=torch.float64))


class Net(nn.Module):
    """A conditional network that counts the pictures of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls.append(len(z))
        shift = log_snr / 10 + (0 if label is None else label)
        return torch.tanh(z + shift.reshape(-1, *[1] * (z.ndim - 1)))


def noisy(level: Level, n: int = 20) -> Tensor:
    return level.alpha * MIXTURE.sample(n) + level.sigma * torch.randn(n, 2, dtype=torch.float64)


@pytest.mark.parametrize("i", range(7))
def test_scale_0_is_unconditional_and_1_conditional(i: int) -> None:
    level = LADDER.at(i)
    z = noisy(level)
    assert torch.equal(classifier_free(COND, NULL, 1.0)(z, level).x, COND(z, level).x)
    assert torch.equal(classifier_free(COND, NULL, 0.0)(z, level).x, NULL(z, level).x)


@pytest.mark.parametrize("scale", [-0.5, 0.5, 2.5, 7.0])
def test_the_scale_extrapolates(scale: float) -> None:
    for i in range(7):
        level = LADDER.at(i)
        z = noisy(level)
        expected = NULL(z, level).x + scale * (COND(z, level).x - NULL(z, level).x)
        torch.testing.assert_close(classifier_free(COND, NULL, scale)(z, level).x, expected)


def test_each_picture_may_have_its_own_level() -> None:
    level = LADDER.view(2)
    z = torch.cat([noisy(LADDER.at(i), 1) for i in range(7)])
    guided = classifier_free(COND, NULL, 2.5, interval=(-3, 3), rescale=0.5)
    each = torch.cat([guided(z[i : i + 1], LADDER.at(i)).x for i in range(7)])
    torch.testing.assert_close(guided(z, level).x, each)


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_outside_the_interval_it_is_conditional(scale: float) -> None:
    guided, everywhere = (
        classifier_free(COND, NULL, scale, interval=(-3.0, 1.0)),
        classifier_free(COND, NULL, scale),
    )
    for i in range(7):
        level = LADDER.at(i)
        z = noisy(level)
        expected = everywhere if -3 < level.log_snr < 1 else COND
        torch.testing.assert_close(guided(z, level).x, expected(z, level).x)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescale_draws_each_pictures_deviation_back(rescale: float) -> None:
    """Lin et al., eq. 15-16: the result's standard deviation is between the two, and its direction that of
    the guided."""
    c, n = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    guided = n + 4 * (c - n)
    x = classifier_free(lambda z, level: Prediction(c), lambda z, level: Prediction(n), 4.0, rescale=rescale)(
        c, LADDER.at(3)
    ).x
    deviation = [t.flatten(1).std(1) for t in (x, c, guided)]
    torch.testing.assert_close(deviation[0], rescale * deviation[1] + (1 - rescale) * deviation[2])
    torch.testing.assert_close(x, guided * (deviation[0] / deviation[2]).view(-1, 1, 1, 1))


def test_two_conditions_of_one_network_are_one_call() -> None:
    net = Net()
    denoiser = Denoiser(net, v)
    z, level = torch.randn(4, 1, 2, 2), LADDER.at(2)
    label = torch.arange(4)
    cond, null = denoiser.given(label=label), denoiser.given(label=torch.full((4,), -1))
    expected = null(z, level).x + 2.5 * (cond(z, level).x - null(z, level).x)
    net.calls.clear()
    torch.testing.assert_close(classifier_free(cond, null, 2.5)(z, level).x, expected)
    assert net.calls == [8]
    for scale in (0.0, 1.0):  # what is not needed is not computed
        net.calls.clear()
        classifier_free(cond, null, scale)(z, level)
        assert net.calls == [4]
    net.calls.clear()
    classifier_free(cond, null, 2.5, interval=(5.0, 6.0))(z, level)
    assert net.calls == [4]


def test_conditions_that_are_not_alike_take_two_calls() -> None:
    """The null condition may be not to give one; and two networks are autoguidance."""
    net, weaker = Net(), Net()
    z, level = torch.randn(4, 1, 2, 2), LADDER.at(2)
    cond = Denoiser(net, v).given(label=torch.arange(4))
    for null in (cond.denoiser.given(), Denoiser(weaker, v).given(label=torch.arange(4))):
        expected = null(z, level).x + 2.5 * (cond(z, level).x - null(z, level).x)
        torch.testing.assert_close(classifier_free(cond, null, 2.5)(z, level).x, expected)


def test_the_learned_variance_is_the_conditional_one() -> None:
    frac = torch.rand(3, 2)

    def cond(z: Tensor, level: Level) -> Prediction:
        return Prediction(z, frac)

    def null(z: Tensor, level: Level) -> Prediction:
        return Prediction(-z, 1 - frac)

    for scale in (1.0, 2.5):
        assert classifier_free(cond, null, scale)(torch.randn(3, 2), LADDER.at(1)).frac is frac


@pytest.mark.parametrize("solver", [Ancestral(), DDIM(), DPMpp2M()], ids=repr)
def test_guidance_at_scale_1_samples_the_class(solver: Solver) -> None:
    """Guided to each of its classes and counted by the exact classifier, a mixture gives the class asked for,
    with its mean and covariance, within 4.5 errors."""
    n = 4000
    levels = Cosine().levels(200)
    z = torch.randn(n, 2, dtype=torch.float64)
    for k, part in enumerate(MIXTURE.parts):
        x = sample(classifier_free(part.denoise, MIXTURE.denoise, 1.0), solver, levels, z)
        off = x - part.mean
        outer = off.unsqueeze(-1) * off.unsqueeze(-2)
        assert (off.mean(0).abs() < 4.5 * off.std(0) / n**0.5 + 1e-3).all()
        assert ((outer.mean(0) - part.cov).abs() < 4.5 * outer.std(0) / n**0.5 + 0.02 * part.cov.amax()).all()
        truth = MIXTURE.class_log_prob(part.sample(n))[:, k].exp()
        ours = MIXTURE.class_log_prob(x)[:, k].exp()
        assert (ours.mean() - truth.mean()).abs() < 4.5 * (2 / n) ** 0.5 * truth.std() + 1e-3


def test_more_guidance_makes_the_class_surer() -> None:
    levels, z = Cosine().levels(50), torch.randn(1000, 2, dtype=torch.float64)
    sure = [
        MIXTURE.class_log_prob(sample(classifier_free(COND, NULL, scale), DDIM(), levels, z))[:, 1]
        .exp()
        .mean()
        for scale in (0.0, 0.5, 1.0, 2.0)
    ]
    assert sure == sorted(sure)
    assert sure[0] == pytest.approx(0.3, abs=0.06)


def test_clip() -> None:
    frac = torch.rand(4, 3)
    x = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.9, 1.0, 1.1])
    clipped = clip(lambda z, level: Prediction(z, frac))
    prediction = clipped(x, LADDER.at(0))
    assert torch.equal(prediction.x, torch.tensor([-1.0, -1.0, -0.2, 0.0, 0.9, 1.0, 1.0]))
    assert prediction.frac is frac
    assert torch.equal(clip(lambda z, level: Prediction(z), -0.5, 2.0)(x, LADDER.at(0)).x, x.clamp(-0.5, 2))


def test_dynamic_threshold() -> None:
    """Picture by picture: q is the quantile of |x̂|, at least 1; x̂ is clamped to ±q and divided by it."""
    x = torch.randn(3, 2, 10, 10, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0]).double().view(
        -1, 1, 1, 1
    )
    out = dynamic_threshold(lambda z, level: Prediction(z), quantile=0.9)(x, LADDER.at(0)).x
    assert torch.equal(out[0], x[0])  # within the range already
    for i in (1, 2):
        magnitudes = x[i].abs().flatten().sort().values
        place = 0.9 * (len(magnitudes) - 1)
        low, high = magnitudes[math.floor(place)], magnitudes[math.ceil(place)]
        q = low + (place - math.floor(place)) * (high - low)
        assert q > 1
        torch.testing.assert_close(out[i], x[i].clamp(-q, q) / q)
    assert out.abs().max() <= 1
