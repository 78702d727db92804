"""The oracle itself, against other ways to the same numbers: what it gets wrong, every other test would get
wrong."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from phin.diffusion.level import SCALINGS, Level, vp
from phin.oracle import Gaussian, Mixture

MEANS = torch.tensor([[0.3, -0.5], [1.0, 0.8], [-0.9, 0.4]], dtype=torch.float64)
COVS = torch.tensor(
    [[[0.8, 0.5], [0.5, 0.6]], [[0.1, -0.05], [-0.05, 0.2]], [[0.3, 0.0], [0.0, 0.05]]], dtype=torch.float64
)
GAUSSIAN = Gaussian(MEANS[0], COVS[0])
MIXTURE = Mixture.of([0.5, 0.3, 0.2], MEANS, COVS)
BOTH = pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
LEVELS = [
    scaling(torch.tensor(log_snr, dtype=torch.float64))
    for scaling in SCALINGS.values()
    for log_snr in (-5.0, 0.5, 4.0)
]


def points(level: Level, n: int = 50) -> Tensor:
    return torch.hypot(level.alpha, level.sigma) * 1.5 * torch.randn(n, 2, dtype=torch.float64)


@BOTH
def test_log_prob_is_that_of_the_marginal(data: Gaussian | Mixture) -> None:
    weights, parts = (
        (torch.ones(1, dtype=torch.float64), [data])
        if isinstance(data, Gaussian)
        else (data.weights, data.parts)
    )
    for level in LEVELS:
        z = points(level)
        eye = torch.eye(2, dtype=torch.float64)
        terms = [
            MultivariateNormal(
                level.alpha * part.mean, level.alpha**2 * part.cov + level.sigma**2 * eye
            ).log_prob(z)
            for part in parts
        ]
        expected = (weights.log() + torch.stack(terms, -1)).logsumexp(-1)
        torch.testing.assert_close(data.log_prob(z, level), expected)
        torch.testing.assert_close(data.marginal(level).log_prob(z), expected)


@BOTH
def test_score_denoiser_and_posterior_covariance_are_derivatives_of_log_prob(
    data: Gaussian | Mixture,
) -> None:
    for level in LEVELS:
        z = points(level).requires_grad_()
        score = torch.autograd.grad(data.log_prob(z, level).sum(), z)[0]
        torch.testing.assert_close(data.score(z, level), score)
        x = data.denoise(z, level).x
        torch.testing.assert_close(x, (z + level.sigma**2 * score) / level.alpha)  # Tweedie, first order ...
        jacobian = torch.stack(
            [torch.autograd.grad(x[:, i].sum(), z, retain_graph=True)[0] for i in range(2)], 1
        )
        torch.testing.assert_close(
            data.posterior_cov(z, level), jacobian * level.sigma**2 / level.alpha
        )  # ... and second


@BOTH
def test_levels_are_broadcast(data: Gaussian | Mixture) -> None:
    level = vp(torch.linspace(-4, 4, 3, dtype=torch.float64))
    z = torch.randn(3, 2, dtype=torch.float64)
    for of in (data.log_prob, data.score, lambda z, level: data.denoise(z, level).x, data.posterior_cov):
        torch.testing.assert_close(
            of(z, level.view(2)), torch.stack([of(z[i], level.at(i)) for i in range(3)])
        )


@BOTH
def test_samples_have_the_mean_and_covariance(data: Gaussian | Mixture) -> None:
    n = 40_000
    x = data.sample(n, torch.Generator().manual_seed(1))
    off = x - data.mean
    outer = off.unsqueeze(-1) * off.unsqueeze(-2)
    assert (off.mean(0).abs() < 4.5 * x.std(0) / n**0.5).all()
    assert ((outer.mean(0) - data.cov).abs() < 4.5 * outer.std(0) / n**0.5).all()


def test_flow_solves_the_probability_flow_ode() -> None:
    """d(z / alpha) / d(sigma / alpha) = (z - alpha x̂) / sigma, along the claimed path; and it is a flow."""
    for scaling in SCALINGS.values():
        start, here, step = (torch.tensor(v, dtype=torch.float64) for v in (-3.0, 0.7, 1e-4))
        z = points(scaling(start))
        path = {
            d: (GAUSSIAN.flow(z, scaling(start), scaling(here + d * step)), scaling(here + d * step))
            for d in (-1, 0, 1)
        }
        (below, low), (at, level), (above, high) = path.values()
        velocity = (above / high.alpha - below / low.alpha) / (
            high.sigma / high.alpha - low.sigma / low.alpha
        )
        eps = (at - level.alpha * GAUSSIAN.denoise(at, level).x) / level.sigma
        torch.testing.assert_close(velocity, eps, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(GAUSSIAN.flow(at, level, scaling(start)), z)


def test_class_posterior_is_bayes_rule_and_its_gradient_is_guidance() -> None:
    """p(k | z) p(z) = p(k) p(z | k), and x̂_k - x̂ = sigma² / alpha ∇ log p(k | z)."""
    for level in LEVELS:
        z = points(level).requires_grad_()
        log_posterior = MIXTURE.class_log_prob(z, level)
        for k, part in enumerate(MIXTURE.parts):
            joint = MIXTURE.weights[k].log() + part.log_prob(z, level)
            torch.testing.assert_close(log_posterior[:, k] + MIXTURE.log_prob(z, level), joint)
            gradient = torch.autograd.grad(log_posterior[:, k].sum(), z, retain_graph=True)[0]
            push = part.denoise(z, level).x - MIXTURE.denoise(z, level).x
            torch.testing.assert_close(push, level.sigma**2 / level.alpha * gradient)


def test_entropy_and_divergence_are_those_of_torch() -> None:
    ours = [Gaussian(mean, cov) for mean, cov in zip(MEANS, COVS, strict=True)]
    theirs = [MultivariateNormal(mean, cov) for mean, cov in zip(MEANS, COVS, strict=True)]
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.entropy, q.entropy())
        for other, truth in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p.kl(other), kl_divergence(q, truth))


@BOTH
def test_the_posterior_is_bayes_rule(data: Gaussian | Mixture) -> None:
    """log p(x | z) = log p(x) + log q(z | x) - log q(z), at every x; and its mean is the denoiser's."""
    for level in LEVELS:
        x = data.sample(20)
        for z in points(level, 3):
            noise = MultivariateNormal(z, level.sigma**2 * torch.eye(2, dtype=torch.float64))
            expected = data.log_prob(x) + noise.log_prob(level.alpha * x) - data.log_prob(z, level)
            posterior = data.posterior(z, level)
            torch.testing.assert_close(posterior.log_prob(x), expected)
            torch.testing.assert_close(posterior.mean, data.denoise(z, level).x)
            torch.testing.assert_close(posterior.cov, data.posterior_cov(z, level))


def test_atoms_are_a_mixture_of_no_width() -> None:
    """Their denoiser is a softmax over them; far from noise it is the nearest."""
    places = torch.tensor([[-1.0, 0.0], [0.2, 0.5], [1.0, -0.4]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    data = Mixture.atoms(weights.tolist(), places)
    torch.testing.assert_close(data.choice, -(weights * weights.log()).sum())
    torch.testing.assert_close(data.mean, weights @ places)
    for level in LEVELS:
        z = points(level)
        square = (z[:, None] - level.alpha * places).square().sum(-1)
        share = (weights.log() - square / (2 * level.sigma**2)).softmax(-1)
        torch.testing.assert_close(data.class_log_prob(z, level).exp(), share)
        torch.testing.assert_close(data.denoise(z, level).x, share @ places)
        off = places - (share @ places)[:, None]
        cov = torch.einsum("nk,nki,nkj->nij", share, off, off)
        torch.testing.assert_close(data.posterior_cov(z, level), cov)
    clean = vp(torch.tensor(25.0, dtype=torch.float64))
    torch.testing.assert_close(data.denoise(places + 0.01, clean).x, places)
    drawn = data.sample(1000)
    assert {tuple(x) for x in drawn.tolist()} == {tuple(x) for x in places.tolist()}
