"""The evidence lower bound: of linear Gaussian models, where all is known, and of diffusion models."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as exact

from phin.diffusion.bound import bound, chain_bound, chain_terms, consistency_bound, prior_kl
from phin.diffusion.decoder import Decoder, categorical, discretized_gaussian, gaussian
from phin.diffusion.level import Level
from phin.diffusion.noise import Noise
from phin.diffusion.schedules import Cosine, Discrete
from phin.families.elbo import Elbo, Normal, Path, Rung, active, chain, importance_weighted, ladder
from phin.oracle import Gaussian, Mixture

# --- quadrature over all noise that is drawn


def nodes(dims: int, n: int) -> tuple[Tensor, Tensor]:
    """Gauss and Hermite's nodes (n^dims, dims) and weights of N(0, I)."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    grid = torch.cartesian_prod(*[torch.from_numpy(x)] * dims).view(-1, dims)
    weights = torch.cartesian_prod(*[torch.from_numpy(w / w.sum())] * dims).view(-1, dims).prod(1)
    return grid, weights


def columns(grid: Tensor, *sizes: int) -> Noise:
    """Noise that is some columns of the grid, and at the next call the next ones."""
    parts = iter(grid.split(list(sizes), 1))
    return lambda like: next(parts).view(like.shape)


tensor = partial(torch.tensor, dtype=torch.float64)


def normal(mean: float | Tensor, std: float | Tensor) -> exact.Normal:
    """In float64 throughout."""
    return exact.Normal(
        tensor(mean) if isinstance(mean, float) else mean, tensor(std) if isinstance(std, float) else std
    )


# --- Gaussians of latents


def test_divergences_and_entropies_are_those_of_normal_distributions() -> None:
    mean, log_var, other_mean, other_log_var, z = torch.randn(5, 4, 3, 6).double().unbind(0)
    ours, theirs = Normal(mean, log_var), Normal(other_mean, other_log_var)
    p, q = (normal(n.mean, (n.log_var / 2).exp()) for n in (ours, theirs))
    torch.testing.assert_close(ours.kl(theirs), exact.kl_divergence(p, q).flatten(1, -2).sum(1))
    torch.testing.assert_close(ours.log_prob(z), p.log_prob(z).sum(1))
    torch.testing.assert_close(ours.entropy(), p.entropy().sum(1))
    flat = Normal(mean[:, 0], log_var[:, 0])
    plain = exact.kl_divergence(normal(flat.mean, (flat.log_var / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(flat.kl(Normal.standard(flat.mean)), plain)


def test_a_variance_is_bounded_below_and_otherwise_free() -> None:
    raw = torch.tensor([[0.3, 0.3, 0.3, -1e4, -3.0, 40.0]], requires_grad=True)
    found = Normal.of(raw)
    assert found.mean[0].tolist() == pytest.approx([0.3] * 3)
    assert found.log_var[0].tolist() == pytest.approx([-10, -3, 40], abs=1e-3)
    found.sample(torch.randn_like).sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_gradients_pass_through_a_draw() -> None:
    """Of E f(z): by mean E f', by log-variance E f'' std² / 2, here of f = z³."""
    mean, log_var = tensor([[0.7]]), tensor([[-0.4]])
    grid, w = nodes(1, 8)
    raw = [t.expand(8, 1).clone().requires_grad_() for t in (mean, log_var)]
    (w @ Normal(*raw).sample(columns(grid, 1)).pow(3)).sum().backward()
    var = float(log_var.exp())
    assert raw[0].grad is not None
    assert raw[1].grad is not None
    assert float(raw[0].grad.sum()) == pytest.approx(3 * (0.7**2 + var))
    assert float(raw[1].grad.sum()) == pytest.approx(6 * 0.7 * var / 2)


# --- probabilistic principal components: p(z) = N(0, I), p(x | z) = N(W z + b, s² I), by Tipping and Bishop

W = tensor([[0.9, 0.1], [-0.4, 0.6], [0.2, 0.5]])
B = tensor([0.3, -0.2, 0.1])
NOISE = 0.4
X = tensor([0.8, -0.5, 0.6])
DATA = Gaussian(B, W @ W.T + NOISE**2 * torch.eye(3).double())


def posterior(w: Tensor = W) -> Gaussian:
    """p(z | x) at X."""
    cov = torch.linalg.inv(torch.eye(2).double() + w.T @ w / NOISE**2)
    return Gaussian(cov @ w.T @ (X - B) / NOISE**2, cov)


def elbo(n: int, encode: Callable[[Tensor], Normal], noise: Noise, w: Tensor = W) -> Elbo:
    path = chain(X.expand(n, 3), [encode], [], noise)
    likelihood = normal(path.out @ w.T + B, NOISE).log_prob(X).sum(1)
    return Elbo(-likelihood, path)


def constant(mean: list[float], std: list[float]) -> Callable[[Tensor], Normal]:
    m, s = (tensor(values) for values in (mean, std))
    return lambda x: Normal(m.expand(len(x), -1), 2 * s.log().expand(len(x), -1))


@pytest.mark.parametrize("mean", [[0.0, 0.0], [0.7, -0.3]])
def test_what_the_bound_loses_is_the_divergence_from_the_posterior(mean: list[float]) -> None:
    grid, w = nodes(2, 4)
    found = elbo(len(grid), constant(mean, [0.5, 1.2]), columns(grid, 2))
    lost = Gaussian(tensor(mean), torch.diag(tensor([0.25, 1.44]))).kl(posterior())
    assert float(w @ found.total) == pytest.approx(float(lost - DATA.log_prob(X)), rel=1e-12)
    assert float(-w @ found.log_weight) == pytest.approx(float(w @ found.total), rel=1e-12)
    assert float(lost) > 0.1


def test_gradients_of_the_bound_are_those_of_what_it_loses() -> None:
    """By mean and variance of q, through the draw and its density, of both estimates of what latents cost."""
    grid, w = nodes(2, 6)
    at = tensor([[0.7, -0.3], [-1.0, 0.4]]).requires_grad_()

    def encode(x: Tensor) -> Normal:
        return Normal(at[0].expand(len(x), -1), at[1].expand(len(x), -1))

    lost = Gaussian(at[0], torch.diag(at[1].exp())).kl(posterior())
    (expected,) = torch.autograd.grad(lost, at)
    for form in (lambda found: found.total, lambda found: -found.log_weight):
        (ours,) = torch.autograd.grad(w @ form(elbo(len(grid), encode, columns(grid, 2))), at)
        torch.testing.assert_close(ours, expected)


def test_with_the_posterior_every_draw_is_the_evidence() -> None:
    """Which is diagonal if the columns of W are orthogonal: then nothing is lost, nor random."""
    w = tensor([[0.9, 0.0], [0.0, 0.6], [0.3, 0.0]])
    exactly = posterior(w)
    std = exactly.cov.diagonal().sqrt().tolist()
    found = elbo(50, constant(exactly.mean.tolist(), std), torch.randn_like, w)
    evidence = Gaussian(B, w @ w.T + NOISE**2 * torch.eye(3).double()).log_prob(X)
    torch.testing.assert_close(found.log_weight, evidence.expand(50), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.kl.sum(1), exactly.kl(Gaussian(*standard())).expand(50))


def standard() -> tuple[Tensor, Tensor]:
    return torch.zeros(2).double(), torch.eye(2).double()


def test_importance_weights_close_the_gap() -> None:
    """K = 1 is the bound; two are better, which quadrature over both tells; many come to log p."""
    encode = constant([0.6, -0.2], [0.7, 0.9])
    evidence = float(DATA.log_prob(X))
    grid, w = nodes(2, 32)
    log_weight = elbo(len(grid), encode, columns(grid, 2)).log_weight
    one = float(w @ importance_weighted(log_weight[:, None]))
    assert one == pytest.approx(float(w @ log_weight))
    pairs = torch.stack(torch.broadcast_tensors(log_weight[:, None], log_weight), -1)
    two = float(w @ importance_weighted(pairs) @ w)
    assert one + 0.05 < two < evidence - 0.01
    assert float(w @ log_weight.exp()) == pytest.approx(math.exp(evidence), rel=1e-6)  # p(x), without bias
    many = elbo(200_000, encode, torch.randn_like).log_weight
    off = (importance_weighted(many) - evidence).abs()
    assert float(off) < 4 * float(many.exp().std() / many.exp().mean()) / 200_000**0.5
    groups = [float(importance_weighted(many.view(-1, k)).mean()) for k in (1, 4, 16, 64)]
    assert groups == sorted(groups)
    assert groups[-1] < evidence


# --- a hierarchy of Gaussians: x - z_1 - z_2

A, C, S1, SX = 0.8, 1.1, 0.5, 0.3  # p(z_1 | z_2) = N(A z_2, S1²), p(x | z_1) = N(C z_1, SX²)
AT = 0.9  # x


def scalar(slope: float, std: float, shift: float = 0.0) -> Callable[[Tensor], Normal]:
    return lambda z: Normal(slope * z + shift, torch.full_like(z, 2 * math.log(std)))


def joint() -> tuple[float, Gaussian]:
    """log p(x), and p(z_1, z_2 | x)."""
    latent = tensor([[A**2 + S1**2, A], [A, 1.0]])
    cross = latent @ tensor([C, 0.0])
    spread = C * cross[0] + SX**2
    evidence = normal(0.0, spread.sqrt()).log_prob(tensor(AT))
    return float(evidence), Gaussian(cross / spread * AT, latent - torch.outer(cross, cross) / spread)


def test_the_levels_of_a_chain_add_up() -> None:
    """To log p(x) less the divergence of the joint posterior, of q(z_1 | x) = N(p x + q, .), q(z_2 | z_1)."""
    grid, w = nodes(2, 4)
    x = torch.full((len(grid), 1), AT, dtype=torch.float64)
    path = chain(x, [scalar(0.6, 0.4, 0.1), scalar(0.7, 0.8)], [scalar(A, S1)], columns(grid, 1, 1))
    found = Elbo(-normal(C * path.out, SX).log_prob(x).sum(1), path)
    m = 0.6 * AT + 0.1
    q = Gaussian(
        tensor([m, 0.7 * m]),
        tensor([[0.16, 0.7 * 0.16], [0.7 * 0.16, 0.49 * 0.16 + 0.64]]),
    )
    evidence, true = joint()
    lost = float(q.kl(true))
    assert float(w @ found.total) == pytest.approx(lost - evidence, rel=1e-12)
    assert float(-w @ found.log_weight) == pytest.approx(lost - evidence, rel=1e-12)
    top = exact.kl_divergence(normal(0.7 * (m + 0.4 * grid[:, 0]), 0.8), normal(0.0, 1.0))
    torch.testing.assert_close(found.kl[:, 1], top)
    assert [part.shape for part in path.means] == [(16, 1), (16, 1)]
    torch.testing.assert_close(path.means[1], 0.7 * path.out)


def test_the_levels_of_a_ladder_add_up() -> None:
    """With q(z_2 | x) and q(z_1 | z_2, x) exact, the bound is log p(x) at every draw."""
    evidence, true = joint()
    (m1, m2), cov = true.mean.tolist(), true.cov.tolist()
    slope = cov[0][1] / cov[1][1]

    def top(_: Tensor) -> tuple[Normal, Normal, Callable[[Tensor], Tensor]]:
        q = scalar(0.0, math.sqrt(cov[1][1]), m2)(torch.zeros(30, 1).double())
        return Normal.standard(q.mean), q, lambda z: z

    def lower(z: Tensor) -> tuple[Normal, Normal, Callable[[Tensor], Tensor]]:
        q = scalar(slope, math.sqrt(cov[0][0] - slope * cov[0][1]), m1 - slope * m2)(z)
        return scalar(A, S1)(z), q, lambda below: below

    path = ladder(torch.zeros(()), [top, lower], torch.randn_like)
    reconstruction = -normal(C * path.out, SX).log_prob(tensor(AT)).sum(1)
    found = Elbo(reconstruction, path)
    torch.testing.assert_close(
        found.log_weight, torch.full((30,), evidence, dtype=torch.float64), rtol=1e-11, atol=0
    )
    above = exact.kl_divergence(normal(m2, math.sqrt(cov[1][1])), normal(0.0, 1.0))
    torch.testing.assert_close(found.kl[:, 1], above.expand(30).double())  # levels are told from z_1 up
    assert (found.kl >= 0).all()
    torch.testing.assert_close(path.means[1], torch.full((30, 1), m2, dtype=torch.float64))


# --- a diffusion model is a hierarchy of latents as large as x, with an encoder that learns nothing

POINTS = Mixture.of([0.3, 0.5, 0.2], tensor([[-1.0], [0.2], [1.1]]), 0.2 * torch.ones(3, 1, 1).double())
PIXEL = 2 * 181 / 255 - 1


def rungs_of(chain: Discrete) -> list[Level]:
    """Levels 1..T of a chain, in float64."""
    return [chain.scaling(log_snr) for log_snr in chain.table]


def forward(s: Level | None, t: Level) -> Callable[[Tensor], Normal]:
    """q(z_t | z_s); of s = None, q(z_t | x)."""
    if s is None:
        return lambda x: Normal(t.alpha * x, torch.log(t.sigma**2).expand_as(x))
    var = t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2
    return lambda z: Normal(t.alpha / s.alpha * z, torch.log(var).expand_as(z))


def backward(x: Tensor, z: Tensor, s: Level, t: Level) -> Normal:
    """q(z_s | z_t, x), by Bayes' rule: the product of two Gaussians of z_s."""
    onward = t.alpha / s.alpha
    var_onward = t.sigma**2 - (onward * s.sigma) ** 2
    precision = 1 / s.sigma**2 + onward**2 / var_onward
    mean = (s.alpha * x / s.sigma**2 + onward * z / var_onward) / precision
    return Normal(mean, -torch.log(precision).expand_as(mean))


def reverse(s: Level, t: Level) -> Callable[[Tensor], Normal]:
    """p(z_s | z_t): the same at x̂(z_t), with the small variance."""
    return lambda z: backward(POINTS.denoise(z, t).x, z, s, t)


def as_chain(levels: list[Level], x: Tensor, noise: Noise) -> Path:
    encode = [forward(None, levels[0]), *(forward(*pair) for pair in pairwise(levels))]
    return chain(x, encode, [reverse(*pair) for pair in pairwise(levels)], noise)


def as_ladder(levels: list[Level], x: Tensor, noise: Noise) -> Path:
    def top(_: Tensor) -> tuple[Normal, Normal, Callable[[Tensor], Tensor]]:
        return Normal.standard(x), forward(None, levels[-1])(x), lambda z: z

    def rung(s: Level, t: Level) -> Rung:
        return lambda z: (reverse(s, t)(z), backward(x, z, s, t), lambda below: below)

    steps = [rung(*pair) for pair in pairwise(levels)]
    return ladder(x, [top, *reversed(steps)], noise)


DECODER = pytest.mark.parametrize(
    "decoder",
    [discretized_gaussian(), gaussian(0.5), categorical()],
    ids=["discretized", "density", "categorical"],
)
EITHER = pytest.mark.parametrize("form", [as_chain, as_ladder])
N = 36  # nodes of each latent


@DECODER
@EITHER
def test_a_diffusion_model_is_a_hierarchical_autoencoder(
    form: Callable[[list[Level], Tensor, Noise], Path], decoder: Decoder
) -> None:
    """The bound of a hierarchy with the diffusion's encoder is DDPM's, by quadrature, to 1e-9."""
    schedule = Discrete(Cosine(log_snr_max=1.5, log_snr_min=-2.0), 3)
    levels = rungs_of(schedule)
    grid, w = nodes(3, N)
    x = torch.full((len(grid), 1), PIXEL, dtype=torch.float64)
    path = form(levels, x, columns(grid, 1, 1, 1))
    ours = Elbo(-decoder(POINTS.denoise, x, path.out, levels[0]), path)

    line, u = nodes(1, N)
    one = torch.full((N, 1), PIXEL, dtype=torch.float64)
    theirs = chain_bound(POINTS.denoise, one, schedule, decoder, noise=lambda like: line)
    total = float(u @ theirs.total)
    assert float(w @ ours.total) == pytest.approx(total, abs=1e-9)
    assert float(-w @ ours.log_weight) == pytest.approx(total, abs=1e-9)
    assert float(w @ ours.reconstruction) == pytest.approx(float(u @ theirs.reconstruction), abs=1e-9)


def test_the_levels_of_the_hierarchy_are_the_terms_of_the_bound() -> None:
    """Of the ladder, DDPM's KLs step by step and its prior; of the chain, the terms of the earlier form."""
    schedule = Discrete(Cosine(log_snr_max=1.5, log_snr_min=-2.0), 3)
    levels = rungs_of(schedule)
    grid, w = nodes(3, N)
    x = torch.full((len(grid), 1), PIXEL, dtype=torch.float64)
    line, u = nodes(1, N)
    one = torch.full((N, 1), PIXEL, dtype=torch.float64)
    found = w @ Elbo(w, as_ladder(levels, x, columns(grid, 1, 1, 1))).kl
    steps = chain_terms(POINTS.denoise, one, schedule, torch.tensor([2, 3]), noise=lambda like: line) @ u
    assert found[:2].tolist() == pytest.approx(steps.tolist(), abs=1e-9)
    assert float(found[2]) == pytest.approx(float(prior_kl(one, levels[2])[0]), abs=1e-9)

    earlier = w @ Elbo(w, as_chain(levels, x, columns(grid, 1, 1, 1))).kl
    parts = iter(
        [*grid.split(1, 1), *grid.split(1, 1), grid[:, :1], grid[:, :1]]
    )  # of t = 1, t = 2, x_1, x_2
    form = consistency_bound(POINTS.denoise, x, schedule, gaussian(), noise=lambda like: next(parts))
    assert float(earlier[:2].sum()) == pytest.approx(float(w @ form.diffusion), abs=1e-9)
    assert float(earlier[2]) == pytest.approx(float(w @ form.prior), abs=1e-9)
    assert not torch.allclose(earlier, found, atol=1e-3)  # the levels are not each other's, their sum is
    assert float(earlier.sum()) == pytest.approx(float(found.sum()), abs=1e-9)


@EITHER
def test_vdms_bound_is_the_same_hierarchy_with_one_more_level(
    form: Callable[[list[Level], Tensor, Noise], Path],
) -> None:
    schedule, T = Cosine(log_snr_max=1.5, log_snr_min=-2.0), 2
    levels = [schedule(tensor(i / T)) for i in range(T + 1)]
    grid, w = nodes(3, N)
    x = torch.full((len(grid), 1), PIXEL, dtype=torch.float64)
    path = form(levels, x, columns(grid, 1, 1, 1))
    ours = w @ Elbo(-categorical()(POINTS.denoise, x, path.out, levels[0]), path).total

    line, u = nodes(1, N)
    one = torch.full((N, 1), PIXEL, dtype=torch.float64)
    each = [
        bound(
            POINTS.denoise,
            one,
            schedule,
            categorical(),
            T,
            torch.full((N,), t, dtype=torch.float64),
            lambda like: line,
        ).total
        for t in (0.25, 0.75)
    ]
    assert float(ours) == pytest.approx(float(torch.stack(each).mean(0) @ u), abs=1e-9)


# --- collapse


def test_active_latents_are_those_whose_mean_varies() -> None:
    """Burda et al.'s statistic of a posterior of which half has collapsed: Var_x E[z | x] > 0.01."""
    x = torch.randn(4000, 4).double()
    spread = torch.tensor([1.0, 0.11, 0.09, 0.0])
    means = x * spread + torch.tensor([0.0, 5.0, 5.0, 5.0])
    assert active(means, means).tolist() == [True, True, False, False]


def test_what_varies_with_the_draw_of_upper_levels_alone_is_not_active() -> None:
    """A mean that follows another level's draw, and nothing of x."""
    x, first, second = torch.randn(3, 4000, 2).double()
    share = torch.tensor([0.5, 0.0])
    ours, theirs = share * x + first, share * x + second
    assert active(ours, theirs).tolist()[0]
    assert ((ours - ours.mean(0)) * (theirs - theirs.mean(0))).mean(0)[0].item() == pytest.approx(
        0.25, abs=0.1
    )
    assert active(ours, ours).tolist() == [True, True]  # which one draw could not tell
    small = share * x + 0.3 * torch.stack([first, second])
    assert active(small[0], small[1]).tolist() == [True, False]
