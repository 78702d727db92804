"""Losses: what a weight makes of the noise's squared error, and why denoising learns the score."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from phin.diffusion import weights
from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import Level
from phin.diffusion.losses import Importance, denoising_loss
from phin.diffusion.parameterization import edm, flow
from phin.diffusion.weights import Weight

from .instruments import (
    CONTINUOUS,
    LINE,
    around,
    derivative,
    dice,
    divergence,
    each_scaling,
    legendre,
    line,
    normal,
    number,
    wrong,
)
from .law import Case, law
from .parameterizations import output

DATA, DRAWN = (torch.randn(64, 3, generator=dice(seed), dtype=torch.float64) for seed in (1, 2))
"""Examples, and the noise that they get."""


def by_weight(
    weight: Weight, direct: Callable[[Tensor, Tensor, Tensor, Tensor, Level], Tensor]
) -> Iterator[Case]:
    """The loss under a weight, against the squared error that the paper writes, formed of x, eps, their
    predictions and the level, example by example.
    """
    for name, level in each_scaling(-4.0, 0.0, 4.0):
        found = denoising_loss(wrong, DATA, level, weight, noise=lambda x: DRAWN)
        z = level.alpha * DATA + level.sigma * DRAWN
        x = wrong(z, level).x
        eps = (z - level.alpha * x) / level.sigma
        yield Case(name, found, direct(DATA, DRAWN, x, eps, level).mean(1))


@law("L_simple", "|ε − ε̂|²", "DDPM, arXiv:2006.11239, eq. 14", 1e-12)
def simple() -> Iterator[Case]:
    """The unweighted loss, against the squared error of the noise."""
    yield from by_weight(weights.simple, lambda x, eps, x_hat, eps_hat, level: (eps - eps_hat) ** 2)


@law(
    "The v loss", "|v − v̂|² = (SNR + 1) |x − x̂|²", "Salimans and Ho 2022, arXiv:2202.00512, section 4", 1e-12
)
def snr_plus_one() -> Iterator[Case]:
    """The weighted loss, against the squared error of v."""

    def v(x: Tensor, eps: Tensor, level: Level) -> Tensor:
        return (level.alpha * eps - level.sigma * x) / level.alpha.hypot(level.sigma)

    yield from by_weight(
        weights.snr_plus_one,
        lambda x, eps, x_hat, eps_hat, level: (v(x, eps, level) - v(x_hat, eps_hat, level)) ** 2,
    )


@law(
    "The truncated loss",
    "max(|x − x̂|², |ε − ε̂|²) = max(SNR, 1) |x − x̂|²",
    "Salimans and Ho 2022, arXiv:2202.00512, section 4",
    1e-12,
)
def truncated() -> Iterator[Case]:
    """The weighted loss, against the larger of the two squared errors."""
    yield from by_weight(
        weights.truncated_snr,
        lambda x, eps, x_hat, eps_hat, level: torch.maximum((x - x_hat) ** 2, (eps - eps_hat) ** 2),
    )


@law("Min-SNR", "min(SNR, γ) |x − x̂|²", "Hang et al. 2023, arXiv:2303.09556, section 3.4", 1e-12)
def min_snr() -> Iterator[Case]:
    """The weighted loss, against the clipped error of the data."""
    for gamma in (1.0, 5.0):
        yield from by_weight(
            weights.min_snr(gamma),
            lambda x, eps, x_hat, eps_hat, level, gamma=gamma: (
                (level.alpha / level.sigma).square().clamp(max=gamma) * (x - x_hat) ** 2
            ),
        )


@law("Perception prioritized", "|ε − ε̂|² / (k + SNR)^γ", "Choi et al. 2022, arXiv:2204.00227", 1e-12)
def p2() -> Iterator[Case]:
    """The weighted loss, against the formula in alpha and sigma."""
    for gamma, k in [(1.0, 1.0), (0.5, 2.0)]:
        yield from by_weight(
            weights.p2(gamma, k),
            lambda x, eps, x_hat, eps_hat, level, gamma=gamma, k=k: (
                (eps - eps_hat) ** 2 / (k + (level.alpha / level.sigma) ** 2) ** gamma
            ),
        )


@law(
    "The sigmoid weight",
    "|ε − ε̂|² / (1 + e^{λ − b})",
    "Kingma and Gao 2023, arXiv:2303.00848; Hoogeboom et al. 2024, arXiv:2410.19324",
    1e-12,
)
def sigmoid_weight() -> Iterator[Case]:
    """The weighted loss, against the formula in alpha and sigma."""
    for bias in (-1.0, 2.0):
        yield from by_weight(
            weights.sigmoid(bias),
            lambda x, eps, x_hat, eps_hat, level, bias=bias: (
                (eps - eps_hat) ** 2 / (1 + (level.alpha / level.sigma) ** 2 * number(-bias).exp())
            ),
        )


@law(
    "EDM's loss",
    "λ(σ) c_out² |F − F̂|²,  λ(σ) = 1 / c_out²",
    "EDM, arXiv:2206.00364, eq. 8 and table 1",
    1e-11,
)
def edm_loss() -> Iterator[Case]:
    """The weighted loss, against the squared error of the network's output."""
    for std in (0.5, 1.0):
        yield from by_weight(
            weights.edm(std),
            lambda x, eps, x_hat, eps_hat, level, std=std: (
                (
                    output(edm(std), x, level.alpha * x + level.sigma * eps, level)
                    - output(edm(std), x_hat, level.alpha * x + level.sigma * eps, level)
                )
                ** 2
            ),
        )


@law(
    "The flow-matching loss",
    "|(ε − x) − v̂|² = (1 + e^{−λ/2})² |ε − ε̂|²",
    "Flow matching, arXiv:2210.02747, eq. 23; Kingma and Gao 2023, arXiv:2303.00848",
    1e-11,
)
def flow_loss() -> Iterator[Case]:
    """The loss under that weight, against the squared error of a network that puts out a velocity."""
    yield from by_weight(
        lambda log_snr: (1 + torch.exp(-log_snr / 2)) ** 2,
        lambda x, eps, x_hat, eps_hat, level: (
            (eps - x - output(flow, x_hat, level.alpha * x + level.sigma * eps, level)) ** 2
        ),
    )


@law(
    "The weight of the likelihood",
    "½ ∫ w(λ(t)) |ε − ε̂|² dt = ½ ∫ |ε − ε̂|² dλ",
    "VDM, arXiv:2107.00630, eq. 17-18; Song et al. 2021, arXiv:2101.09258, theorem 1",
    1e-7,
)
def likelihood() -> Iterator[Case]:
    """The weighted loss at times of every schedule, against the unweighted one at levels uniform in log-SNR,
    between the same two levels.
    """
    log_snr, w = legendre(-2.0, 3.0, 80)
    x, eps = DATA[:1].expand(80, 3), DRAWN[:1].expand(80, 3)

    def at(level: Level, weight: Weight) -> Tensor:
        return denoising_loss(wrong, x, level, weight, noise=lambda _: eps)

    for name, schedule in CONTINUOUS.items():
        expected = w @ at(schedule.scaling(log_snr), weights.simple)
        clean, noisy = (schedule.inverse(number(end)).item() for end in (3.0, -2.0))
        t, v = legendre(clean, noisy, 80)
        yield Case(name, v @ at(schedule(t), weights.likelihood(schedule)), expected)


@law(
    "The least loss is the posterior variance",
    "min L = SNR · E[tr Cov[x | z]]",
    "Guo, Shamai and Verdú 2005, IEEE Trans. Inf. Theory 51",
    1e-7,
)
def least_loss() -> Iterator[Case]:
    """The loss of the exact denoiser by quadrature over data and noise, against its posterior variance."""
    for name, level in each_scaling(-2.0, 0.0, 2.0):
        x, eps, p = pairs()
        loss = p @ denoising_loss(LINE.denoise, x, level, noise=lambda _, eps=eps: eps)
        z, w = around(level)
        spread = (w * LINE.log_prob(z, level).exp()) @ LINE.posterior_cov(z, level)[:, 0, 0]
        yield Case(name, loss, level.log_snr.exp() * spread)


def pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Quadrature over data and noise on the line: x, eps and weights, (n, 1), (n, 1), (n,)."""
    x, px = line(-3.5, 4.0, 376)
    eps, pe = normal(64)
    p = (LINE.log_prob(x).exp() * px)[:, None] * pe
    return x.repeat_interleave(len(eps), 0), eps.repeat(len(x), 1), p.flatten()


@law(
    "Denoising learns the score",
    "E|s − ∇ log q(z | x)|² = E|s − ∇ log p(z)|² + E|∇ log q(z | x)|² − E|∇ log p(z)|²",
    "Vincent 2011, Neural Computation 23; Song et al., arXiv:2011.13456, eq. 7",
    1e-7,
)
def denoising_is_matching() -> Iterator[Case]:
    """The denoising loss of a wrong model by quadrature over data and noise, against explicit score matching
    over z and a constant.
    """
    for name, level in each_scaling(-1.0, 1.0):
        x, eps, p = pairs()
        loss = p @ denoising_loss(wrong, x, level, noise=lambda _, eps=eps: eps) / level.sigma**2
        z, w = around(level)
        q = w * LINE.log_prob(z, level).exp()
        score = LINE.score(z, level)[:, 0]
        model = ((level.alpha * wrong(z, level).x - z) / level.sigma**2)[:, 0]
        constant = 1 / level.sigma**2 - q @ score**2
        yield Case(name, loss, q @ (model - score) ** 2 + constant)


@law(
    "Score matching without the score",
    "½ E|s − ∇ log p|² = E[½ |s|² + div s] + ½ E|∇ log p|²",
    "Hyvärinen 2005, JMLR 6, theorem 1",
    1e-8,
)
def implicit_matching() -> Iterator[Case]:
    """Both sides by quadrature, the divergence by automatic differentiation."""
    for name, level in each_scaling(-1.0, 1.0):
        z, w = around(level)
        q = w * LINE.log_prob(z, level).exp()

        def model(z: Tensor, level: Level = level) -> Tensor:
            return (level.alpha * wrong(z, level).x - z) / level.sigma**2

        s, score = model(z)[:, 0], LINE.score(z, level)[:, 0]
        implicit = q @ (0.5 * s**2 + divergence(model, z)) + 0.5 * q @ score**2
        yield Case(name, implicit, 0.5 * q @ (s - score) ** 2)


@law(
    "The denoiser is the best guess",
    "E|x − f(z)|² = E|x − E[x | z]|² + E|f(z) − E[x | z]|²",
    "orthogonality of the posterior mean; EDM, arXiv:2206.00364, eq. 2-3",
    1e-8,
)
def best_guess() -> Iterator[Case]:
    """The loss of a wrong denoiser by quadrature over data and noise, against least loss plus distance."""
    for name, level in each_scaling(-1.0, 1.0):
        x, eps, p = pairs()
        loss = p @ denoising_loss(wrong, x, level, noise=lambda _, eps=eps: eps) * torch.exp(-level.log_snr)
        z, w = around(level)
        q = w * LINE.log_prob(z, level).exp()
        least = q @ LINE.posterior_cov(z, level)[:, 0, 0]
        yield Case(name, loss, least + q @ (wrong(z, level).x - LINE.denoise(z, level).x)[:, 0] ** 2)


@law(
    "The exact denoiser is the minimum",
    "E|x − x̂ − θ h|² = E|x − x̂|² + θ² E|h|² for x̂ = E[x | z] and any h",
    "DDPM, arXiv:2006.11239, eq. 14; EDM, arXiv:2206.00364, eq. 2",
    1e-7,
)
def stationary() -> Iterator[Case]:
    """The loss of x̂ + θ h(z) by quadrature: its curvature in θ against E|h|², with θ = 0 at the bottom."""
    x, eps, p = pairs()
    for name, level in each_scaling(-1.0, 1.0):

        def bump(z: Tensor, level: Level = level) -> Tensor:
            return torch.cos(z / (level.alpha + level.sigma))

        def loss(theta: Tensor, level: Level = level) -> Tensor:
            def off(z: Tensor, level: Level) -> Prediction:
                return Prediction(LINE.denoise(z, level).x + theta * bump(z, level))

            found = denoising_loss(off, x, level, weights.simple, noise=lambda _: eps)
            return p @ found * torch.exp(-level.log_snr)

        grid, w = around(level)
        square = (w * LINE.log_prob(grid, level).exp()) @ bump(grid)[:, 0] ** 2
        theta = number(0.0).requires_grad_()
        first = derivative(loss, theta)
        second = derivative(lambda theta, loss=loss: derivative(loss, theta), theta)
        yield Case(name, torch.stack([first, second]).detach(), torch.stack([0 * square, 2 * square]))


@law(
    "Importance sampling of t is unbiased",
    "E_{t~p}[L_t / (T p_t)] = E_t[L_t],  p_t ∝ √E[L_t²]",
    "Improved DDPM, arXiv:2102.09672, eq. 18",
    1e-7,
)
def importance() -> Iterator[Case]:
    """After losses of very different sizes were learned: the weighted mean over the draw by quadrature, and
    the probabilities themselves, against the plain mean and the formula.
    """
    losses = number(0.1, 3.0, 1.0, 20.0)
    rounds = losses * number(*range(1, 13)).reshape(3, 4) ** number(1.0, -1.0, 0.0, 0.5)
    times = Importance(bins=4, length=3, share=0.01)
    for seen in rounds:
        times.learn((torch.arange(4) + 0.5) / 4, seen)
    root = (rounds**2).mean(0).sqrt()
    probabilities = 0.99 * root / root.sum() + 0.01 / 4
    yield Case("probabilities", times.probabilities(), probabilities)
    # on each bin's share of [0, 1) time is linear in the draw
    edges = [0.0, *probabilities.cumsum(0).tolist()]
    total, mean_time = number(0.0), number(0.0)
    for low, high in pairwise(edges):
        u, w = legendre(low, high, 4)
        t, weight = times(u)
        total = total + w @ (weight * losses[(4 * t).long()])
        mean_time = mean_time + w @ (weight * t)
    yield Case("mean loss", total, losses.mean())
    yield Case("mean time", mean_time, 0.5)
