"""Use of the latent: encoding, interpolation, variations and repairs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from phin.diffusion import editing, ode
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.noise import Noise
from phin.diffusion.schedules import Cosine, Flow, Geometric, LinearSubVP
from phin.diffusion.solvers import DDIM, Ancestral, DPMpp2MSDE

from .instruments import (
    GAUSSIAN,
    LINE,
    PLANE,
    dice,
    each_scaling,
    mean_of,
    no_noise,
    noise,
    number,
    slope,
)
from .law import Case, Unit, law
from .solvers import quantile

LADDERS = [("cosine", Cosine()), ("geometric", Geometric()), ("sub-VP", LinearSubVP()), ("flow", Flow())]


@law(
    "Encoding keeps quantiles",
    "P(Z_1 < z_1(x)) = P(X < x)",
    "Song et al. 2021, arXiv:2011.13456, appendix D.5 (unique encoding), in one dimension",
    1e-6,
    Unit.ABSOLUTE,
)
def encoding() -> Iterator[Case]:
    """The latent of a mixture's points by the ODE, in deviations, against the same quantiles of the exact
    marginal at the noisiest level.
    """
    p = torch.linspace(0.05, 0.95, 13, dtype=torch.float64)
    for name, schedule in LADDERS:
        levels = schedule.levels(2)
        noisy, clean = levels.at(0), levels.at(1)
        x = quantile(p, clean)[:, None] / clean.alpha
        z = ode.encode(LINE.denoise, x, levels, 1e-9, 1e-11).y[:, 0]
        size = noisy.alpha.hypot(noisy.sigma)
        yield Case(name, z / size, quantile(p, noisy) / size)


@law(
    "There and back",
    "decode(encode(x)) = x",
    "DDIM, arXiv:2010.02502, section 5.4; Song et al. 2021, arXiv:2011.13456, section 4.3",
    1e-6,
)
def round_trip() -> Iterator[Case]:
    """Data of a mixture through the ODE to noise and back."""
    x = PLANE.sample(10, dice())
    for name, schedule in LADDERS:
        levels = schedule.levels(2)
        z = ode.encode(PLANE.denoise, x, levels, 1e-8, 1e-10).y
        yield Case(name, ode.decode(PLANE.denoise, z, levels, 1e-8, 1e-10).y, x)


@law(
    "DDIM's inversion",
    "|z_N(x) − z(x)| = O(1 / N), step by step up the ladder",
    "DDIM, arXiv:2010.02502, section 4.3 and eq. 14",
    0.1,
    Unit.ABSOLUTE,
)
def inversion() -> Iterator[Case]:
    """Inverted points, against the exact flow of a Gaussian: the slope of the error over the steps."""
    steps = (65, 129, 257)
    x = GAUSSIAN.sample(10, dice())
    for name, scaling in SCALINGS.items():
        errors = []
        for n in steps:
            levels = scaling(torch.linspace(-5, 5, n, dtype=torch.float64))
            clean = levels.at(-1)
            exact = GAUSSIAN.flow(clean.alpha * x, clean, levels.at(0))
            errors.append((ode.invert(GAUSSIAN.denoise, DDIM(), levels, x) - exact).norm().log())
        yield Case(name, -slope(number(*steps).log(), torch.stack(errors)), 1.0)


@law(
    "The great circle",
    "slerp: length 1, at an angle w θ from a and (1 − w) θ from b",
    "Shoemake 1985; DDIM, arXiv:2010.02502, appendix D.5",
    1e-9,
)
def great_circle() -> Iterator[Case]:
    """Lengths and angles of the points between two directions, by arccosines."""
    a, b = (
        one / one.norm(dim=1, keepdim=True)
        for one in torch.randn(2, 6, 5, dtype=torch.float64, generator=dice())
    )
    theta = (a * b).sum(1).acos()
    weights = number(0.0, 0.2, 0.5, 0.9)
    for w, point in zip(weights.tolist(), editing.slerp(a, b, weights), strict=True):
        yield Case(f"w = {w}, length", point.norm(dim=1), torch.ones(6).double())
        yield Case(f"w = {w}, along a", (point * a).sum(1), (w * theta).cos())
        yield Case(f"w = {w}, along b", (point * b).sum(1), ((1 - w) * theta).cos())


@law(
    "Latents between latents stay noise",
    "E|slerp|² / D = 1, where the line has (1 − w)² + w²",
    "White 2016, arXiv:1609.04468; DDIM, arXiv:2010.02502, section 5.3",
    4.5,
    Unit.DEVIATIONS,
)
def stays_noise() -> Iterator[Case]:
    """Mean squares of numbers between pairs of draws from N(0, I) in 400 dimensions, by either way."""
    a, b = torch.randn(2, 200, 400, dtype=torch.float64, generator=dice())
    weights = number(0.25, 0.5)
    for w, circle in zip(weights.tolist(), editing.slerp(a, b, weights), strict=True):
        line = (1 - w) * a + w * b
        found, deviation = mean_of(circle.square().mean(1))
        yield Case(f"circle, w = {w}", found, 1.0, deviation)
        found, deviation = mean_of(line.square().mean(1))
        yield Case(f"line, w = {w}", found, (1 - w) ** 2 + w**2, deviation)


@law(
    "Up again by the forward process",
    "q(z_t | z_s) q(z_s | x) = q(z_t | x)",
    "RePaint, arXiv:2201.09865, algorithm 1, line 10; VDM, arXiv:2107.00630, appendix A.1",
    1e-10,
)
def up_again() -> Iterator[Case]:
    """Factor and variances of data diffused to one level and then to a noisier one, against that level's."""
    one = torch.ones(1, 1).double()
    for (name, t), (_, s) in zip(each_scaling(-2.0), each_scaling(1.5), strict=True):
        mean = editing.renoise(editing.diffuse(one, s, no_noise), s, t, no_noise)
        first = editing.renoise(editing.diffuse(one, s, torch.ones_like), s, t, no_noise) - mean
        second = editing.renoise(editing.diffuse(one, s, no_noise), s, t, torch.ones_like) - mean
        yield Case(f"{name}, mean", mean, t.alpha)
        yield Case(f"{name}, variance", first**2 + second**2, t.sigma**2)


@law(
    "One noise for both ends",
    "(1 − w) z_a + w z_b = α ((1 − w) a + w b) + σ ε",
    "DDPM, arXiv:2006.11239, section 4.4",
    1e-10,
)
def one_noise() -> Iterator[Case]:
    """Where the walks of a stochastic interpolation begin, against either end diffused with one noise."""
    a, b = PLANE.sample(4, dice(1)), PLANE.sample(4, dice(2))
    weights = number(0.0, 0.3, 1.0)
    for name, schedule in LADDERS:
        levels = schedule.levels(10)
        states: list[tuple[Tensor, Level]] = []
        drawn: list[Tensor] = []

        def draw(like: Tensor, drawn: list[Tensor] = drawn) -> Tensor:
            drawn.append(noise(like, dice(3)))
            return drawn[-1]

        editing.interpolate(
            PLANE.denoise,
            DDIM(),
            levels,
            a,
            b,
            weights,
            0.5,
            draw,
            lambda z, level, states=states: states.append((z, level)),
        )
        z, level = states[0]
        ends = [level.alpha * end + level.sigma * drawn[0] for end in (a, b)]
        expected = torch.cat([(1 - w) * ends[0] + w * ends[1] for w in weights])
        yield Case(name, z, expected)


@law(
    "A variation is a draw from the posterior",
    "x' ~ ∫ p(x' | z) q(z | x) dz: mean m + K (x − m), covariance (I − K) C (I + K), K = α²C (α²C + σ²)⁻¹",
    "SDEdit, arXiv:2108.01073, algorithm 1, with the exact denoiser of a Gaussian",
    4.5,
    Unit.DEVIATIONS,
)
def variation() -> Iterator[Case]:
    """Four thousand variations of one point from several strengths, against Gaussian conditioning."""
    levels = vp(torch.linspace(-5, 7, 161, dtype=torch.float64))
    x = number(1.2, 0.1)
    eye = torch.eye(2).double()
    for strength in (0.4, 0.6):
        top = editing.tail(levels, strength).at(0)
        gain = (
            top.alpha**2 * GAUSSIAN.cov @ torch.linalg.inv(top.alpha**2 * GAUSSIAN.cov + top.sigma**2 * eye)
        )
        generator = dice(5)

        def draw(like: Tensor, generator: torch.Generator = generator) -> Tensor:
            return noise(like, generator)

        out = editing.vary(GAUSSIAN.denoise, DPMpp2MSDE(), levels, x.expand(4000, 2), strength, draw)
        found, deviation = mean_of(out)
        exact = GAUSSIAN.mean + gain @ (x - GAUSSIAN.mean)
        yield Case(f"strength {strength}, mean", found, exact, deviation)
        off = out - exact
        found, deviation = mean_of(off[:, :, None] * off[:, None])
        cov = (eye - gain) @ GAUSSIAN.cov + gain @ (top.sigma**2 / top.alpha**2 * eye) @ gain.T
        # of the draw of z through the posterior mean, and of the posterior
        yield Case(f"strength {strength}, covariance", found, cov, deviation)


@law(
    "Repainting fits what is known",
    "x_2 ~ p(x_2 | x_1) = N(m_2 + C_21 (x_1 − m_1) / C_11, …) with many resamplings",
    "RePaint, arXiv:2201.09865, section 4.2",
    0.05,
    Unit.ABSOLUTE,
)
def repainting() -> Iterator[Case]:
    """The mean of two thousand completions of a point of which one coordinate is known, against the
    conditional mean; the error of finite steps and draws is a few hundredths.
    """
    levels = vp(torch.linspace(-5, 6, 41, dtype=torch.float64))
    known = torch.tensor([True, False])
    cov, mean = GAUSSIAN.cov, GAUSSIAN.mean
    for first in (-0.7, 1.5):
        x = number(first, 0.0).expand(2000, 2)
        generator = dice(7)
        draw: Noise = lambda like, generator=generator: noise(like, generator)  # noqa: E731
        out = editing.inpaint(GAUSSIAN.denoise, Ancestral(), levels, x, known, 20, 2, draw)
        expected = mean[1] + cov[1, 0] / cov[0, 0] * (first - mean[0])
        yield Case(f"x_1 = {first}", out[:, 1].mean(), expected)
