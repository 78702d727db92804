"""What decoders say of pixels: probabilities that sum to 1, densities, their means and draws."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch import distributions as exact

from phin.errors import PhinError
from phin.families.likelihood import (
    LIKELIHOODS,
    Bernoulli,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
)
from phin.registry import build

DISCRETE = [DiscretizedLogistic(), DiscretizedLogistic(3), DiscretizedGaussian()]
ALL = [*DISCRETE, Bernoulli(), Gaussian(), Gaussian(0.3), Laplace(), Laplace(0.3)]
VALUES = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1


def raws(likelihood: Likelihood, spread: float, n: int = 50) -> Tensor:
    """Raw of n pictures of one pixel: locations within `spread`, log-scales from e^-12 to e^6."""
    raw = torch.randn(n, likelihood.numbers, 1, 1, dtype=torch.float64) * spread
    if likelihood.numbers > 1:
        scales = slice(1, 2) if likelihood.numbers == 2 else slice(3, 6)
        raw[:, scales] = torch.empty_like(raw[:, scales]).uniform_(-12, 6)
    return raw


def table(likelihood: Likelihood, raw: Tensor) -> Tensor:
    """log P of the 256 values for each raw (n, 1 pixel): (n, 256)."""
    n = len(raw)
    x = VALUES.repeat(n).view(-1, 1, 1, 1).to(raw)
    return likelihood.log_prob(raw.repeat_interleave(256, 0), x).view(n, 256)


@pytest.mark.parametrize("likelihood", DISCRETE, ids=str)
@pytest.mark.parametrize("spread", [0.5, 30.0])
def test_the_256_values_have_all_the_probability(likelihood: Likelihood, spread: float) -> None:
    log_p = table(likelihood, raws(likelihood, spread))
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(50).double(), rtol=0, atol=1e-11)
    assert (log_p <= 0).all()


def cdf(likelihood: Likelihood, raw: Tensor, edge: Tensor) -> Tensor:
    """P(X < edge) of one component, from torch's distributions."""
    mean, scale = raw[:, 0], (raw[:, 1] + 7).exp().log1p().sub(7).exp()
    if isinstance(likelihood, DiscretizedGaussian):
        return exact.Normal(mean, scale).cdf(edge)
    base = exact.Uniform(torch.zeros(()).double(), torch.ones(()).double())
    flips = [exact.SigmoidTransform().inv, exact.AffineTransform(mean, scale)]
    return exact.TransformedDistribution(base, flips).cdf(edge)


@pytest.mark.parametrize("likelihood", [DiscretizedLogistic(), DiscretizedGaussian()], ids=str)
def test_a_bin_is_as_wide_as_the_values_are_apart_and_the_last_are_open(likelihood: Likelihood) -> None:
    raw = torch.tensor([[0.1, -2.0], [-0.98, -1.0], [1.3, -0.5]]).double()[..., None, None]
    edges = (VALUES[:-1] + 1 / 255).view(-1, 1, 1)
    below = torch.stack([cdf(likelihood, raw, edge) for edge in edges], 1).flatten(1)
    ends = torch.zeros(3, 1).double(), torch.ones(3, 1).double()
    expected = torch.cat([ends[0], below, ends[1]], 1).diff(dim=1)
    torch.testing.assert_close(table(likelihood, raw).exp(), expected, rtol=1e-9, atol=1e-15)


def test_a_mixture_is_the_mean_of_its_parts() -> None:
    pi, parts = torch.tensor([0.2, 0.5, 0.3]).double(), torch.randn(4, 2, 3, 1, 1).double()
    logits = pi.log().view(1, 3, 1, 1).expand(4, 3, 1, 1) + 5
    mixed = table(DiscretizedLogistic(3), torch.cat([parts.flatten(1, 2), logits], 1))
    alone = torch.stack([table(DiscretizedLogistic(), parts[:, :, j]) for j in range(3)], -1)
    torch.testing.assert_close(mixed, (alone.exp() @ pi).log())


def test_values_far_from_the_mean_do_not_cancel_in_float32() -> None:
    """A bin 1,000 scales away has probability e^-1000, which is no difference of floats."""
    for likelihood in (DiscretizedLogistic(), DiscretizedGaussian()):
        raw = torch.tensor([[-0.9, math.log(math.expm1(7 + math.log(1.9 / 1000))) - 7]])[..., None, None]
        x = VALUES[[254]].view(1, 1, 1, 1)
        ours = likelihood.log_prob(raw, x.float())
        theirs = likelihood.log_prob(raw.double(), x)
        assert float(theirs) < -900
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=0)


@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian(0.3), Laplace(), Laplace(0.3)], ids=str)
def test_densities_are_what_they_say(likelihood: Gaussian | Laplace) -> None:
    raw, x = torch.randn(5, 2 * likelihood.numbers, 3, 2).double(), torch.randn(5, 2, 3, 2).double()
    location, *scales = raw.view(5, likelihood.numbers, 2, 3, 2).unbind(1)
    given = likelihood.std if isinstance(likelihood, Gaussian) else likelihood.scale
    least = math.log(1 / 255)
    scale = given or (least + torch.log1p((scales[0] - least).exp())).exp()
    kind = exact.Normal if isinstance(likelihood, Gaussian) else exact.Laplace
    expected = kind(location, scale).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(raw, x), expected)
    torch.testing.assert_close(likelihood.mean(raw), location)


def test_a_fixed_scale_makes_a_squared_or_an_absolute_error() -> None:
    x, one, other = torch.randn(3, 4, 1, 5, 5).double()
    gap = Gaussian(0.2).log_prob(one, x) - Gaussian(0.2).log_prob(other, x)
    square = ((other - x) ** 2 - (one - x) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(gap, square / (2 * 0.2**2))
    gap = Laplace(0.2).log_prob(one, x) - Laplace(0.2).log_prob(other, x)
    torch.testing.assert_close(gap, ((other - x).abs() - (one - x).abs()).flatten(1).sum(1) / 0.2)


def test_bernoulli_is_a_probability_of_black_and_white() -> None:
    raw = torch.tensor([-3.0, 0.0, 40.0]).double().view(3, 1, 1, 1)
    black, white = (Bernoulli().log_prob(raw, torch.full_like(raw, side)) for side in (-1.0, 1.0))
    torch.testing.assert_close(white, exact.Bernoulli(logits=raw).log_prob(torch.ones(()).double()).flatten())
    torch.testing.assert_close(torch.logaddexp(black, white), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(Bernoulli().mean(raw).flatten(), (white.exp() - black.exp()))


@pytest.mark.parametrize("likelihood", DISCRETE, ids=str)
def test_the_mean_of_the_values(likelihood: Likelihood) -> None:
    for spread in (0.5, 3.0):
        raw = raws(likelihood, spread, 100)
        expected = (table(likelihood, raw).exp() * VALUES).sum(1)
        torch.testing.assert_close(likelihood.mean(raw).flatten(), expected, rtol=0, atol=1 / 255)
    raw = raws(likelihood, 0.5, 50)
    scales = slice(1, 2) if likelihood.numbers == 2 else slice(3, 6)
    raw[:, scales].uniform_(-3, 2)  # some bins wide: the mean is exact
    expected = (table(likelihood, raw).exp() * VALUES).sum(1)
    torch.testing.assert_close(likelihood.mean(raw).flatten(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("likelihood", [*DISCRETE, Bernoulli()], ids=str)
def test_draws_have_the_probabilities(likelihood: Likelihood) -> None:
    """In ten bands of values, within 4.5 standard errors."""
    n = 40_000
    raw = torch.randn(1, likelihood.numbers, 1, 1).double() * 0.5
    x = likelihood.draw(raw.expand(n, -1, -1, -1), torch.randn_like).flatten()
    k = ((x + 1) * 127.5).round().long()
    torch.testing.assert_close(x, VALUES[k])
    if isinstance(likelihood, Bernoulli):
        white = torch.sigmoid(raw).item()
        assert abs((x > 0).double().mean().item() - white) < 4.5 * (white * (1 - white) / n) ** 0.5
        return
    p = table(likelihood, raw).exp().flatten()
    bands = torch.tensor([0, 1, 20, 60, 100, 128, 160, 200, 240, 255, 256])
    for first, last in pairwise(bands):
        expected = p[first:last].sum().item()
        share = ((k >= first) & (k < last)).double().mean().item()
        assert abs(share - expected) < 4.5 * (expected * (1 - expected) / n) ** 0.5 + 1e-9


@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian(0.3), Laplace(), Laplace(0.3)], ids=str)
def test_draws_of_densities_have_the_distribution(likelihood: Likelihood) -> None:
    """The Kolmogorov-Smirnov distance from the exact distribution is below 2 / sqrt(n)."""
    n = 40_000
    raw = torch.tensor([0.4, -1.0])[: likelihood.numbers].double().view(1, -1, 1, 1)
    x = likelihood.draw(raw.expand(n, -1, -1, -1), torch.randn_like).flatten().sort().values
    least = math.log(1 / 255)
    scale = 0.3 if likelihood.numbers == 1 else math.exp(least + math.log1p(math.exp(-1.0 - least)))
    kind = exact.Normal if isinstance(likelihood, Gaussian) else exact.Laplace
    ranks = (torch.arange(n).double() + 0.5) / n
    assert (kind(0.4, scale).cdf(x) - ranks).abs().max() < 2 / n**0.5


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_no_scale_reaches_zero(likelihood: Likelihood) -> None:
    """However sure a network is, what it says is finite, and its gradients are, at black and white, too."""
    raw = torch.full((2, likelihood.numbers, 1, 2), -1e3, requires_grad=True)
    x = torch.tensor([-1.0, 1.0]).expand(2, 1, 1, 2)
    log_p = likelihood.log_prob(raw, x)
    log_p.sum().backward()
    assert raw.grad is not None
    assert log_p.isfinite().all()
    assert raw.grad.isfinite().all()


def test_a_density_is_no_finer_than_half_a_bin() -> None:
    raw = torch.zeros(1, 2, 1, 1)
    raw[:, 1] = -1e3
    x = torch.zeros(1, 1, 1, 1)
    normal, laplace = exact.Normal(0.0, 1 / 255), exact.Laplace(0.0, 1 / 255)
    torch.testing.assert_close(Gaussian().log_prob(raw, x), normal.log_prob(x).flatten())
    torch.testing.assert_close(Laplace().log_prob(raw, x), laplace.log_prob(x).flatten())


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_gradients_are_those_of_the_value(likelihood: Likelihood) -> None:
    raw = (0.5 * torch.randn(2, 2 * likelihood.numbers, 1, 3)).double().requires_grad_()
    x = VALUES[[0, 255, 3, 128, 254, 1]].view(1, 2, 1, 3).expand(2, -1, -1, -1)
    assert torch.autograd.gradcheck(lambda raw: likelihood.log_prob(raw, x), raw)


@pytest.mark.parametrize("likelihood", DISCRETE, ids=str)
def test_other_values_are_refused(likelihood: Likelihood) -> None:
    raw = torch.zeros(1, likelihood.numbers, 1, 1)
    with pytest.raises(ValueError, match=r"x has the value 0, and .* knows only the 256 values"):
        likelihood.log_prob(raw, torch.zeros(1, 1, 1, 1))


def test_entries_are_built_from_text_and_each_is_tested_here() -> None:
    assert {type(likelihood) for likelihood in ALL} == set(LIKELIHOODS.values())
    assert build("discretized_logistic(5)", LIKELIHOODS, "likelihood") == DiscretizedLogistic(5)
    assert build("gaussian(0.1)", LIKELIHOODS, "likelihood") == Gaussian(0.1)
    parts = [f"discretized_logistic({mixed})" for mixed in ("0", "2.5", "101")]
    for text in ("gaussian(0)", "laplace(-1)", *parts):
        with pytest.raises(PhinError, match=r"1 to 100 parts|must be positive|not understood"):
            build(text, LIKELIHOODS, "likelihood")
