"""Bounds on the likelihood, against closed forms and quadrature; no number here is drawn at random.

`noise` hands out the nodes of a quadrature, so the mean over a batch is the exact expectation. With a
Gaussian the terms are polynomials of degree two, for which two nodes would do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from phin.diffusion.bound import (
    Bound,
    bound,
    chain_bound,
    chain_decoder,
    chain_term,
    chain_terms,
    consistency_bound,
    normal_kl,
    prior_kl,
    reweighting,
    to_bits,
)
from phin.diffusion.decoder import Decoder, categorical, gaussian
from phin.diffusion.denoiser import Denoise, Prediction
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.losses import denoising_loss
from phin.diffusion.schedules import SCHEDULES, Cosine, Discrete, Flow, Geometric, Linear, Schedule, Sigmoid
from phin.diffusion.weights import likelihood
from phin.oracle import Gaussian, Mixture

MEAN, VAR = 0.4, 0.3
GAUSSIAN = Gaussian(torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[VAR]], dtype=torch.float64))
MIXTURE = Mixture.of(
    [0.35, 0.65],
    torch.tensor([[-0.9], [0.8]], dtype=torch.float64),
    torch.tensor([[[0.04]], [[0.09]]], dtype=torch.float64),
)
SMOOTH = [name for name in SCHEDULES if name not in ("discrete", "learned")]
CHAINS = [Discrete(Linear(), 20), Discrete(Cosine(), 7), Discrete(Geometric(), 12)]


def hermite(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) of a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def trapezoid(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) of a standard normal, for what bends sharply."""
    nodes = torch.linspace(-9, 9, n, dtype=torch.float64)
    return nodes, torch.softmax(-0.5 * nodes**2, 0)


def legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) of the uniform distribution on [0, 1], dense where schedules are steep."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    u = np.pi * (nodes + 1)
    return torch.from_numpy((u - np.sin(u)) / (2 * np.pi)), torch.from_numpy(weights / 2 * (1 - np.cos(u)))


def strata(n: int) -> tuple[Tensor, Tensor]:
    """The middles of n equal parts of [0, 1), one for each step, and their shares."""
    return (torch.arange(n).double() + 0.5) / n, torch.full((n,), 1 / n, dtype=torch.float64)


@dataclass
class Nodes:
    """A quadrature over x and the noises that are drawn by turns."""

    x: Tensor
    """(B, 1)."""
    weight: Tensor
    """(B,)."""
    draws: list[Tensor]
    """(B, 1) each."""

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, n: int, noises: int = 1) -> "Nodes":
        """The product of nodes of x (N,) and n for each of the noises."""
        return cls.product(x, weight, *hermite(n), noises)

    @classmethod
    def product(cls, x: Tensor, weight: Tensor, node: Tensor, share: Tensor, noises: int = 1) -> "Nodes":
        """The product of nodes of x (N,) and these (M,) for each of the noises."""
        axes = torch.meshgrid(x, *[node] * noises, indexing="ij")
        shares = torch.meshgrid(weight, *[share] * noises, indexing="ij")
        values = [axis.reshape(-1, 1) for axis in axes]
        return cls(values[0], torch.stack(shares).prod(0).flatten(), values[1:])

    @classmethod
    def gaussian(cls, n: int = 3, noises: int = 1) -> "Nodes":
        node, share = hermite(n)
        return cls.of(MEAN + VAR**0.5 * node, share, n, noises)

    @classmethod
    def mixture(cls, n: int, noises: int = 1) -> "Nodes":
        node, share = hermite(n)
        x = torch.cat([part.mean + part.cov[0, 0].sqrt() * node for part in MIXTURE.parts])
        return cls.of(x, (MIXTURE.weights[:, None] * share).flatten(), n, noises)

    def times(self, t: Tensor, share: Tensor) -> tuple["Nodes", Tensor]:
        """The product with times (N,), and a time for each."""
        n, b = len(t), len(self.x)
        nodes = Nodes(
            self.x.repeat(n, 1),
            (share[:, None] * self.weight).flatten(),
            [draw.repeat(n, 1) for draw in self.draws],
        )
        return nodes, t.repeat_interleave(b)

    def noise(self) -> Callable[[Tensor], Tensor]:
        draws = cycle(self.draws)
        return lambda like: next(draws).to(like)

    def mean(self, values: Tensor) -> float:
        return float(self.weight @ values)


def exact(data: Gaussian | Mixture) -> Decoder:
    """log p(x | z) by Bayes' rule."""

    def log_prob(denoise: Denoise, x: Tensor, z: Tensor, level: Level) -> Tensor:
        given_x = Normal(level.alpha * x, level.sigma).log_prob(z)[:, 0]
        return data.log_prob(x) + given_x - data.log_prob(z, level)

    return log_prob


def vdm(
    data: Gaussian | Mixture, schedule: Schedule, nodes: Nodes, decoder: Decoder, T: int | None, n: int = 300
) -> float:
    """The exact expectation of VDM's bound of the exact denoiser, over x, noise and time."""
    nodes, times = nodes.times(*(legendre(n) if T is None else strata(T)))
    return nodes.mean(bound(data.denoise, nodes.x, schedule, decoder, T, times, nodes.noise()).total)


def prior_gap(schedule: Schedule) -> float:
    """KL(p(z_1) || prior) of the Gaussian: what no denoiser can mend."""
    level = schedule(torch.ones(()).double())
    z = GAUSSIAN.marginal(level)
    prior = Normal(0.0, torch.hypot(level.alpha, level.sigma))
    return float(kl_divergence(Normal(z.mean[0], z.cov[0, 0].sqrt()), prior))


def snr(schedule: Schedule, t: Tensor) -> Tensor:
    return torch.exp(schedule.log_snr(t))


def steps_gap(snrs: Tensor, f: Tensor | float = 0.0) -> float:
    """What T steps of fixed variance cost a Gaussian of variance v, by log-SNRs from clean to noisy.

    q(z_s | z_t) has the variance ρ = 1 + (SNR(s) - SNR(t)) v / (1 + v SNR(t)) times the smallest, and is
    taken for one of e^{f r}: a KL of (ρ e^{-f r} - 1 - log ρ + f r) / 2.
    """
    s, t = snrs[:-1], snrs[1:]
    rho = 1 + (s - t) * VAR / (1 + VAR * t)
    fr = f * (torch.log1p(s) - torch.log1p(t))
    return float(0.5 * (rho * torch.exp(-fr) - 1 - torch.log(rho) + fr).sum())


ENTROPY = float(0.5 * math.log(2 * math.pi * math.e * VAR))


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gap_of_the_exact_denoiser_in_closed_form(name: str) -> None:
    """Bound - entropy: never negative, falling with T, and at last the prior's alone."""
    schedule, nodes = SCHEDULES[name](), Nodes.gaussian()
    gaps = []
    for T in (10, 100, 1000, None):
        gaps.append(vdm(GAUSSIAN, schedule, nodes, gaussian(VAR), T) - ENTROPY)
        expected = prior_gap(schedule)
        if T is not None:
            expected += steps_gap(snr(schedule, torch.linspace(0, 1, T + 1).double()))
        assert gaps[-1] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert gaps[-1] >= -1e-9
    assert all(more > less for more, less in pairwise(gaps))


def test_the_gap_on_a_mixture_by_mutual_information() -> None:
    """I-MMSE: half the integral of |x - x̂|² over the SNR is I(x; z_0) - I(x; z_1), so in continuous time
    the gap is that of the prior alone; with T steps it halves as T doubles."""
    schedule, nodes = Geometric(math.exp(-3.5), math.e, scaling=vp), Nodes.mixture(40)
    level = schedule(torch.ones(()).double())
    z = level.alpha * nodes.x + level.sigma * nodes.draws[0]
    prior = nodes.mean(MIXTURE.log_prob(z, level) - Normal(0.0, 1.0).log_prob(z)[:, 0])

    def gap(T: int | None, nodes: Nodes) -> float:
        entropy = -nodes.mean(MIXTURE.log_prob(nodes.x))
        return vdm(MIXTURE, schedule, nodes, exact(MIXTURE), T, 100) - entropy

    assert gap(None, nodes) == pytest.approx(prior, rel=1e-4)
    gaps = [gap(T, Nodes.mixture(24)) - prior for T in (10, 100, 200)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("T", [2, 10, 100, 1000])
@pytest.mark.parametrize("inner", [Linear(), Cosine()])
def test_the_gap_of_a_chain_in_closed_form(inner: Schedule, T: int) -> None:
    """By fixed small, middle and large variance; a learned one that is right leaves the prior's gap alone."""
    chain = Discrete(inner, T)
    nodes, times = Nodes.gaussian().times(*strata(T - 1))

    def gap(denoise: Denoise, frac: float) -> float:
        ours = chain_bound(denoise, nodes.x, chain, gaussian(VAR), times, frac, nodes.noise())
        return nodes.mean(ours.total) - ENTROPY

    for frac in (0.0, 0.4, 1.0):
        expected = prior_gap(chain) + steps_gap(torch.exp(chain.table), frac)
        assert gap(GAUSSIAN.denoise, frac) == pytest.approx(expected, rel=1e-6, abs=1e-9)

    def learned(z: Tensor, level: Level) -> Prediction:
        return Prediction(GAUSSIAN.denoise(z, level).x, best_frac(chain, level).expand_as(z))

    assert gap(learned, 0.5) == pytest.approx(prior_gap(chain), rel=1e-6, abs=1e-9)


def best_frac(chain: Discrete, level: Level) -> Tensor:
    """The place of the exact reverse variance of the Gaussian: f r = log ρ."""
    i = torch.searchsorted(-chain.table, -level.log_snr).clamp(min=1)
    s, t = torch.exp(chain.table[i - 1]), torch.exp(chain.table[i])
    return torch.log(1 + (s - t) * VAR / (1 + VAR * t)) / (torch.log1p(s) - torch.log1p(t))


@pytest.mark.parametrize("chain", CHAINS)
def test_the_best_learned_variance_lies_between_small_and_large(chain: Discrete) -> None:
    """For data of a variance below 1: there the slope of each term in f vanishes, and it falls before."""
    nodes = Nodes.gaussian()
    for t in range(2, chain.T + 1):
        best = best_frac(chain, chain.scaling(chain.table[t - 1]))
        assert 0 < best < 1
        slopes = []
        for f in (0.9 * best, best, best + 0.1 * (1 - best)):
            frac = f.expand_as(nodes.x).clone().requires_grad_()
            term = chain_term(
                lambda z, level, frac=frac: GAUSSIAN.denoise(z, level)._replace(frac=frac),
                nodes.x,
                chain,
                torch.tensor(t),
                noise=nodes.noise(),
            )
            slopes.append(float(torch.autograd.grad(nodes.weight @ term, frac)[0].sum()))
        scale = abs(slopes[0]) + abs(slopes[2])
        assert slopes[0] < 0 < slopes[2]
        assert abs(slopes[1]) < 1e-7 * scale


# --- KL divergences

numbers, positive = st.floats(-3, 3), st.floats(0.01, 10)


@settings(max_examples=40)
@given(numbers, positive, numbers, positive)
def test_kl_between_gaussians(a: float, s: float, b: float, u: float) -> None:
    """Not negative, 0 only for equals, and another one the other way round."""
    m, v, n, w = (torch.tensor([value], dtype=torch.float64) for value in (a, s, b, u))
    ours = normal_kl(m, 2 * v.log(), n, 2 * w.log())
    torch.testing.assert_close(ours, kl_divergence(Normal(m, v), Normal(n, w)), rtol=1e-9, atol=1e-12)
    assert ours >= 0
    assert normal_kl(m, 2 * v.log(), m, 2 * v.log()) == 0
    if abs(s / u - 1) > 1e-3:
        assert ours > 0
        assert ours != normal_kl(n, 2 * w.log(), m, 2 * v.log())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("log_snr", [-12.0, -3.0, 0.0, 5.0])
def test_the_priors_kl(scaling: str, log_snr: float) -> None:
    level = SCALINGS[scaling](torch.tensor(log_snr).double())
    x = torch.randn(5, 2, 3).double()
    q = Normal(level.alpha * x, level.sigma)
    expected = kl_divergence(q, Normal(0.0, torch.hypot(level.alpha, level.sigma))).sum((1, 2))
    torch.testing.assert_close(prior_kl(x, level), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("inner", [Linear(), Cosine()])
@pytest.mark.parametrize("frac", [0.0, 0.5, 1.0])
def test_each_term_is_ddpms_kl_in_ddpms_notation(inner: Schedule, frac: float) -> None:
    """Between q(x_{t-1} | x_t, x_0), eq. 6-7, and p of the same mean with x̂ and a variance up to beta."""
    chain = Discrete(inner, 50)
    beta, bar = chain.betas, chain.alpha_bar
    x, eps = torch.randn(2, 4, 3, 2).double()

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(torch.tanh(2 * z))

    terms = chain_terms(denoise, x, chain, torch.arange(2, 51), frac=frac, noise=lambda like: eps)
    for i in range(1, 50):
        level = chain.scaling(chain.table[i])
        z = bar[i].sqrt() * x + (1 - bar[i]).sqrt() * eps

        def mean(x: Tensor, i: int = i, z: Tensor = z) -> Tensor:
            of_x, of_z = bar[i - 1].sqrt() * beta[i], (1 - beta[i]).sqrt() * (1 - bar[i - 1])
            return (of_x * x + of_z * z) / (1 - bar[i])

        tilde = (1 - bar[i - 1]) / (1 - bar[i]) * beta[i]
        p = Normal(mean(denoise(z, level).x), (tilde ** (1 - frac) * beta[i] ** frac).sqrt())
        expected = kl_divergence(Normal(mean(x), tilde.sqrt()), p).sum((1, 2))
        torch.testing.assert_close(terms[i - 1], expected, rtol=1e-7, atol=1e-10)


def test_l_0_is_the_decoders_and_batches_may_mix_steps() -> None:
    chain, k = CHAINS[0], torch.randint(256, (20, 3))
    x, eps = 2 * k.double() / 255 - 1, torch.randn(20, 3).double()

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(torch.tanh(z), torch.sigmoid(z))

    every = chain_terms(denoise, x, chain, noise=lambda like: eps)
    assert every.shape == (20, 20)
    at = chain.scaling(chain.table[0])
    first = -chain_decoder(chain)(denoise, x, at.alpha * x + at.sigma * eps, at)
    torch.testing.assert_close(every[0], first)
    t = torch.arange(1, 21)
    mixed = chain_term(denoise, x, chain, t, noise=lambda like: eps)
    torch.testing.assert_close(mixed, every.diagonal())


# --- how the forms hang together


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("frac", [0.0, 0.7])
def test_one_drawn_step_stands_for_all(chain: Discrete, frac: float) -> None:
    """Over one time in each stratum, the mean of the Monte Carlo choice is the sum, of any denoiser."""
    for form, noises in ((chain_bound, 1), (consistency_bound, 3)):
        nodes = Nodes.gaussian(4, noises)
        many, times = nodes.times(*strata(chain.T - 1))
        whole = form(crude, nodes.x, chain, gaussian(VAR), frac=frac, noise=nodes.noise())
        drawn = form(crude, many.x, chain, gaussian(VAR), times, frac, many.noise())
        assert many.mean(drawn.diffusion) == pytest.approx(nodes.mean(whole.diffusion), rel=1e-9)
        terms = nodes.mean(whole.prior) + nodes.mean(whole.diffusion) + nodes.mean(whole.reconstruction)
        assert nodes.mean(whole.total) == pytest.approx(terms, rel=1e-12)


def crude(z: Tensor, level: Level) -> Prediction:
    """A wrong, smooth denoiser, the same under every scaling, with a learned variance."""
    u = z / torch.hypot(level.alpha, level.sigma)
    return Prediction(torch.tanh(u + 0.3), torch.sigmoid(u))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("learned", [False, True])
def test_the_earlier_form_is_the_same_number(chain: Discrete, learned: bool) -> None:
    """E log q(x_{1:T} | x) / p(x, x_{1:T}), with each latent between its two neighbours or without; of any
    denoiser, and with one x."""
    nodes = Nodes.of(torch.tensor([0.6]).double(), torch.ones(1).double(), 28, noises=3)

    def denoise(z: Tensor, level: Level) -> Prediction:
        said = crude(z, level)
        return said if learned else said._replace(frac=None)

    forms = [
        form(denoise, nodes.x, chain, gaussian(VAR), frac=0.3, noise=nodes.noise())
        for form in (chain_bound, consistency_bound)
    ]
    assert nodes.mean(forms[0].total) == pytest.approx(nodes.mean(forms[1].total), rel=1e-6)


@pytest.mark.parametrize("chain", CHAINS)
def test_the_earlier_form_varies_more(chain: Discrete) -> None:
    """Term by term with one draw of the noise, for the exact denoiser with the exact variance."""
    nodes = Nodes.gaussian(5, noises=3)

    def denoise(z: Tensor, level: Level) -> Prediction:
        return Prediction(GAUSSIAN.denoise(z, level).x, best_frac(chain, level).expand_as(z))

    many, times = nodes.times(*strata(chain.T - 1))
    share = many.weight.view(chain.T - 1, 5, -1)  # by step, x and noises
    spread: list[float] = []
    for form in (chain_bound, consistency_bound):
        drawn = form(denoise, many.x, chain, gaussian(VAR), times, noise=many.noise()).diffusion
        each = drawn.view_as(share)
        mean = (share * each).sum(-1, keepdim=True) / share.sum(-1, keepdim=True)
        spread.append(float((share * (each - mean).square()).sum()))
    assert spread[1] > 3 * spread[0]


def test_vdms_bound_on_a_chains_own_times_is_ddpms() -> None:
    """With the small variance: on a chain time 0 is step 1, so the first of T steps is free."""
    for chain in CHAINS:
        nodes = Nodes.gaussian(8)
        ddpm = chain_bound(
            lambda z, level: crude(z, level)._replace(frac=None),
            nodes.x,
            chain,
            gaussian(VAR),
            noise=nodes.noise(),
        )
        T = chain.T
        many, times = nodes.times(*strata(T))
        ours = bound(crude, many.x, chain, gaussian(VAR), T, times, many.noise())
        for one, other in zip(ours, ddpm, strict=True):
            assert many.mean(one) == pytest.approx(nodes.mean(other), rel=1e-9)


def test_continuous_time_is_the_limit_of_many_steps() -> None:
    """Of any denoiser; and half of the likelihood's weight on the loss, over dimensions."""
    nodes, schedule = Nodes.gaussian(12), Geometric(0.05, 20.0)
    many, times = nodes.times(*legendre(200))
    endless = bound(crude, many.x, schedule, gaussian(VAR), None, times, many.noise()).diffusion
    off = []
    for T in (400, 800):
        some, at = nodes.times(*strata(T))
        off.append(some.mean(bound(crude, some.x, schedule, gaussian(VAR), T, at, some.noise()).diffusion))
    off = [value - many.mean(endless) for value in off]
    assert abs(off[1]) < 0.005 * many.mean(endless)
    assert off[0] / off[1] == pytest.approx(2, rel=0.02)
    loss = denoising_loss(crude, many.x, schedule(times), likelihood(schedule), many.noise()) / 2
    assert many.mean(loss) == pytest.approx(many.mean(endless), rel=1e-9)


def test_in_continuous_time_only_the_ends_of_the_schedule_matter() -> None:
    """Four schedules with the same ends; with 10 steps they differ. Of any denoiser."""
    high, low = 10.0, -10.0
    schedules = [
        Cosine(log_snr_max=high, log_snr_min=low),
        Flow(high, low),
        Sigmoid(log_snr_max=high, log_snr_min=low),
        Geometric(math.exp(-5), math.exp(5)),
    ]
    nodes = Nodes.gaussian(20)

    def total(schedule: Schedule, T: int | None) -> float:
        many, times = nodes.times(*(legendre(400) if T is None else strata(T)))
        return many.mean(bound(crude, many.x, schedule, gaussian(VAR), T, times, many.noise()).total)

    endless = [total(schedule, None) for schedule in schedules]
    assert endless == pytest.approx([endless[0]] * 4, rel=1e-6)
    few = [total(schedule, 10) for schedule in schedules]
    assert max(few) - min(few) > 0.01 * endless[0]
    assert total(Cosine(log_snr_max=11.0, log_snr_min=-10.0), None) != pytest.approx(endless[0], rel=1e-2)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_no_term_depends_on_the_scaling(scaling: str) -> None:
    nodes = Nodes.gaussian(4, noises=3)
    times = torch.linspace(0, 0.99, len(nodes.x)).double()

    def terms(scaling: str) -> list[Tensor]:
        inner = Cosine(scaling=SCALINGS[scaling])
        chain = Discrete(inner, 9)
        found: list[Bound] = [
            bound(crude, nodes.x, inner, gaussian(VAR), None, times, nodes.noise()),
            bound(crude, nodes.x, inner, gaussian(VAR), 5, times, nodes.noise()),
            chain_bound(crude, nodes.x, chain, gaussian(VAR), noise=nodes.noise()),
            consistency_bound(crude, nodes.x, chain, gaussian(VAR), noise=nodes.noise()),
            consistency_bound(crude, nodes.x, chain, gaussian(VAR), times, noise=nodes.noise()),
        ]
        return [term for each in found for term in each]

    for ours, theirs in zip(terms(scaling), terms("vp"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


# --- L_simple


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("frac", [0.0, 0.5, 1.0])
def test_l_simple_is_a_reweighting(chain: Discrete, frac: float) -> None:
    """L_{t-1} = weight |eps - ε̂|² + D constant; in DDPM's notation the weight is that of eq. 12."""
    weight, constant = reweighting(chain, frac)
    beta, bar = chain.betas, chain.alpha_bar
    tilde = (1 - bar[:-1]) / (1 - bar[1:]) * beta[1:]
    var = tilde ** (1 - frac) * beta[1:] ** frac
    theirs = beta[1:] ** 2 / (2 * var * (1 - beta[1:]) * (1 - bar[1:]))
    torch.testing.assert_close(weight, theirs, rtol=1e-8, atol=0)
    x, eps = torch.randn(2, 4, 3).double()

    def denoise(z: Tensor, level: Level) -> Prediction:
        return crude(z, level)._replace(frac=None)

    steps = torch.arange(2, chain.T + 1)
    terms = chain_terms(denoise, x, chain, steps, frac=frac, noise=lambda like: eps)
    for row, t in enumerate(steps):
        level = chain.scaling(chain.table[t - 1])
        z = level.alpha * x + level.sigma * eps
        error = (eps - (z - level.alpha * denoise(z, level).x) / level.sigma).square().sum(1)
        torch.testing.assert_close(terms[row], weight[row] * error + 3 * constant[row], rtol=1e-8, atol=1e-9)


def test_l_simple_counts_clean_steps_for_less_than_the_bound() -> None:
    weight = reweighting(Discrete(Linear(), 1000)).weight
    assert weight.argmax() == 0
    assert weight[0] > 50 * weight[500]


# --- images


VALUES = torch.tensor([0.0, 40.0, 41.0, 200.0, 255.0]).double()
SHARES = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15]).double()
POINTS = (2 * VALUES / 255 - 1)[:, None]


def points(z: Tensor, level: Level) -> Prediction:
    """E[x | z] of pixels that have five values only: a softmax."""
    square = (z - level.alpha * POINTS[:, 0]).square() / level.sigma**2
    return Prediction((SHARES.log() - square / 2).softmax(-1) @ POINTS)


def test_the_bound_of_8_bit_data_is_above_their_entropy_and_near_it() -> None:
    """Two of the five values are neighbours: a decoder that is off by a bin would cost a nat."""
    entropy = float(torch.special.entr(SHARES).sum())
    nodes = Nodes.product(POINTS[:, 0], SHARES, *trapezoid(250))
    schedule = Geometric(sigma_min=5e-4, sigma_max=200.0)
    found: list[float] = []
    for T in (30, 100, None):
        many, times = nodes.times(*(legendre(150) if T is None else strata(T)))
        ours = bound(points, many.x, schedule, categorical(), T, times, many.noise())
        found.append(many.mean(ours.total) - entropy)
    assert found[0] > found[1] > found[2] > 0
    assert found[2] < 1e-3
    gaps: list[float] = []
    for T in (30, 200, 800):
        chain = Discrete(schedule, T)
        ours = chain_bound(points, nodes.x, chain, noise=nodes.noise())
        gaps.append(nodes.mean(ours.total) - entropy)
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.03


# --- precision, units, mistakes


@pytest.mark.parametrize("form", [bound, chain_bound, consistency_bound])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_float32_network_sees_float32(form: Callable[..., Bound], drawn: bool) -> None:
    """And sums agree with float64's."""
    x, eps = torch.randn(2, 8, 1, 4, 4)
    times = torch.linspace(0, 0.999, 8).double() if drawn or form is bound else None
    schedule = Cosine() if form is bound else CHAINS[0]
    seen: list[torch.dtype] = []

    def denoise(z: Tensor, level: Level) -> Prediction:
        seen.append(z.dtype)
        return crude(z, level)

    def run(x: Tensor) -> Bound:
        return form(denoise, x, schedule, gaussian(), times=times, noise=lambda like: eps.to(like))

    ours = run(x)
    assert set(seen) == {torch.float32}
    for single, double in zip(ours, run(x.double()), strict=True):
        assert single.shape == (8,)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_by_default_times_are_stratified_and_noise_is_fresh() -> None:
    """Within 4.5 standard errors of the exact expectation."""
    x = GAUSSIAN.sample(20_000)
    ours = bound(GAUSSIAN.denoise, x, Cosine(), gaussian(VAR)).total
    expected = ENTROPY + prior_gap(Cosine())
    assert abs(float(ours.mean()) - expected) < 4.5 * float(ours.std()) / len(x) ** 0.5


def test_bits() -> None:
    """A fair choice of one of 256 values in each of 784 dimensions is 8 bits a dimension."""
    assert to_bits(784 * math.log(256), 784) == pytest.approx(8)
    torch.testing.assert_close(to_bits(torch.tensor([0.0, 6 * math.log(2)]), 3), torch.tensor([0.0, 2.0]))


CALLS: dict[str, Callable[..., object]] = {
    "bound": lambda x, **options: bound(crude, x, Cosine(), gaussian(), **options),
    "chain": lambda x, **options: chain_bound(crude, x, CHAINS[0], gaussian(), **options),
    "terms": lambda x, **options: chain_terms(crude, x, CHAINS[0], **options),
    "consistency": lambda x, **options: consistency_bound(crude, x, CHAINS[0], gaussian(), **options),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_data_must_be_finite(name: str, value: float) -> None:
    x = torch.zeros(3, 2)
    x[1, 1] = value
    with pytest.raises(ValueError, match=f"x has the value {value}"):
        CALLS[name](x)


@pytest.mark.parametrize("name", ["bound", "chain", "consistency"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_times_are_times(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"times has the value {value}"):
        CALLS[name](torch.zeros(2, 1), times=torch.tensor([0.5, value]).double())


def test_a_bound_has_at_least_two_steps() -> None:
    x, chain = torch.zeros(2, 1), Discrete(T=1)
    for call in (
        lambda: bound(crude, x, Cosine(), gaussian(), steps=1),
        lambda: chain_bound(crude, x, chain),
        lambda: chain_term(crude, x, chain, torch.tensor(1)),
        lambda: consistency_bound(crude, x, chain),
        lambda: chain_decoder(chain),
        lambda: reweighting(chain),
    ):
        with pytest.raises(ValueError, match="T = 1: a bound needs at least 2 steps"):
            call()


@pytest.mark.parametrize("frac", [-0.1, 3.0, math.nan])
def test_a_fixed_variance_lies_between_the_two(frac: float) -> None:
    for call in (chain_bound, consistency_bound):
        with pytest.raises(ValueError, match=f"frac = {frac}: it lies between 0"):
            call(crude, torch.zeros(2, 1), CHAINS[0], frac=frac)


@pytest.mark.parametrize("t", [0, 21])
def test_a_chain_has_the_steps_1_to_T(t: int) -> None:
    with pytest.raises(ValueError, match=f"t = {t}: the steps of this chain are 1..20"):
        chain_term(crude, torch.zeros(2, 1), CHAINS[0], torch.tensor([1, t]))
