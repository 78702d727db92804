"""Guidance: what it is exactly, and what it is not."""

from collections.abc import Iterator

import torch
from torch import Tensor

from phin.diffusion.denoiser import Denoise, Prediction
from phin.diffusion.guidance import classifier, classifier_free, clip, dynamic_threshold
from phin.diffusion.level import Level, vp
from phin.diffusion.schedules import Flow
from phin.diffusion.solvers import DPMpp3M, Heun, walk
from phin.oracle import Gaussian

from .instruments import (
    LINE,
    PLANE,
    around,
    at,
    derivative,
    dice,
    each_scaling,
    line,
    no_noise,
    number,
)
from .law import Case, law

NULL = PLANE.denoise
CLASS = PLANE.parts[1]


def sure(z: Tensor, level: Level, k: int = 1) -> Tensor:
    """log p(k | z) by Bayes' rule from the parts' densities: (B,)."""
    joint = PLANE.weights[k].log() + PLANE.parts[k].log_prob(z, level)
    return joint - PLANE.log_prob(z, level)


def score_of(denoise: Denoise, z: Tensor, level: Level) -> Tensor:
    """The score that a denoiser stands for, (alpha x̂ − z) / sigma²."""
    return (level.alpha * denoise(z, level).x - z) / level.sigma**2


@law(
    "Guidance at scale 0 and 1",
    "x̂_0 = x̂(z),  x̂_1 = x̂(z | y)",
    "Ho and Salimans 2022, arXiv:2207.12598, eq. 6 with scale = 1 + w",
    1e-12,
)
def ends() -> Iterator[Case]:
    """The guided denoiser at both ends, against scores of the mixture and of its class by autograd."""
    for name, level in each_scaling(-2.0, 2.0):
        z = PLANE.marginal(level).sample(20, dice())
        for scale, data in [(0.0, PLANE), (1.0, CLASS)]:
            gradient = derivative(lambda z, data=data, level=level: data.log_prob(z, level), z)
            guided = classifier_free(CLASS.denoise, NULL, scale)
            yield Case(
                f"scale {scale:g}, {name}", guided(z, level).x, (z + level.sigma**2 * gradient) / level.alpha
            )


@law(
    "The noisy classifier",
    "p(y | z) = p(y) p(z | y) / p(z) = ∫ p(y | x) p(x | z) dx",
    "Dhariwal and Nichol 2021, arXiv:2105.05233, section 4",
    1e-9,
)
def noisy_classifier() -> Iterator[Case]:
    """The class posterior at a level, against the clean one averaged over x given z by quadrature."""
    x, _ = line(-9, 9, 2401)
    clean = LINE.class_log_prob(x).exp()
    for name, level in each_scaling(-2.0, 0.5, 3.0):
        z, _ = around(level, 2.0, 9)
        log_joint = LINE.log_prob(x) - 0.5 * ((z[:, None] - level.alpha * x) / level.sigma)[..., 0] ** 2
        p = torch.softmax(log_joint, 1)
        yield Case(name, p @ clean, LINE.class_log_prob(z, level).exp())


@law(
    "Guidance is the gradient of a classifier",
    "x̂(z | y) − x̂(z) = σ² / α ∇ log p(y | z)",
    "Ho and Salimans 2022, arXiv:2207.12598, section 3.2; Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 13",
    1e-9,
)
def implicit_classifier() -> Iterator[Case]:
    """The two denoisers' difference, against automatic differentiation of Bayes' rule."""
    for name, level in each_scaling(-2.0, 0.5, 3.0):
        z = PLANE.marginal(level).sample(30, dice())
        gradient = derivative(lambda z, level=level: sure(z, level), z)
        found = CLASS.denoise(z, level).x - NULL(z, level).x
        yield Case(name, level.alpha / level.sigma**2 * found, gradient)


@law(
    "Classifier guidance at scale 1 is exact",
    "x̂ + σ² / α ∇ log p(y | z) = E[x | z, y]",
    "Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 14 and algorithm 2",
    1e-9,
)
def classifier_exact() -> Iterator[Case]:
    """The guided denoiser with the exact classifier, against the class's own denoiser."""
    for name, level in each_scaling(-2.0, 0.5, 3.0):
        for k, part in enumerate(PLANE.parts):
            z = PLANE.marginal(level).sample(20, dice(k))
            guided = classifier(NULL, lambda z, level, k=k: sure(z, level, k))
            yield Case(f"class {k}, {name}", guided(z, level).x, part.denoise(z, level).x)


@law(
    "A classifier and no classifier are one",
    "x̂ + w σ²/α ∇ log p(y | z) = x̂ + w (x̂_y − x̂)",
    "Ho and Salimans 2022, arXiv:2207.12598, section 3.2",
    1e-9,
)
def both_guidances() -> Iterator[Case]:
    """Classifier guidance with the exact classifier, against classifier-free guidance, at any scale."""
    for name, level in each_scaling(-2.0, 2.0):
        z = PLANE.marginal(level).sample(20, dice())
        for scale in (0.5, 2.0, 5.0):
            one = classifier(NULL, sure, scale)
            other = classifier_free(CLASS.denoise, NULL, scale)
            yield Case(f"scale {scale:g}, {name}", one(z, level).x, other(z, level).x)


@law(
    "Guidances add up",
    "scale a by a classifier on scale b without one = scale a + b",
    "Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.3; Bayes' rule",
    1e-9,
)
def guidances_add() -> Iterator[Case]:
    """A classifier on top of a denoiser that is guided already, against one guidance."""
    for name, level in each_scaling(-1.0, 2.0):
        z = PLANE.marginal(level).sample(20, dice())
        for a, b in [(1.0, 1.5), (0.5, 0.5)]:
            both = classifier(classifier_free(CLASS.denoise, NULL, b), sure, a)
            one = classifier_free(CLASS.denoise, NULL, a + b)
            yield Case(f"{a:g} + {b:g}, {name}", both(z, level).x, one(z, level).x)


@law(
    "Guidance is the score of a tilt, level by level",
    "∇ log [p(z) p(y | z)^w] = ∇ log p(z) + w ∇ log p(y | z)",
    "Ho and Salimans 2022, arXiv:2207.12598, section 3.1; Dhariwal and Nichol 2021, section 4.3",
    1e-9,
)
def tilt() -> Iterator[Case]:
    """The guided denoiser's score, against automatic differentiation of the tilted density at that level."""
    for name, level in each_scaling(-2.0, 2.0):
        z = PLANE.marginal(level).sample(20, dice())
        for scale in (0.5, 2.0, 5.0):

            def tilted(z: Tensor, level: Level = level, scale: float = scale) -> Tensor:
                return PLANE.log_prob(z, level) + scale * sure(z, level)

            guided = classifier_free(CLASS.denoise, NULL, scale)
            yield Case(f"scale {scale:g}, {name}", score_of(guided, z, level), derivative(tilted, z))


WIDE = Gaussian(torch.zeros(1).double(), number(1.0).reshape(1, 1))
NARROW = Gaussian(number(0.8).reshape(1), number(0.3).reshape(1, 1))
"""All data, and a class of them. p(x) p(y | x)^w is Gaussian, too."""


def tilted(scale: float) -> Gaussian:
    """The data tilted by p(y | x)^scale ∝ (NARROW / WIDE)^scale, in closed form: precisions add up."""
    precision = (1 - scale) / WIDE.cov + scale / NARROW.cov
    mean = ((1 - scale) * WIDE.mean / WIDE.cov + scale * NARROW.mean / NARROW.cov) / precision
    return Gaussian(mean.reshape(1), 1 / precision)


@law(
    "Guidance is not diffusion of the tilted data",
    "∇ log q_w(z) − s_w(z) = (P_w − 1/v_w) z + …,  P_w = (1−w)/v_∅ + w/v_y,  v = α²c + σ²",
    "Bradley and Nakkiran 2024, arXiv:2408.09000; Du et al. 2023, arXiv:2302.11552",
    1e-9,
)
def not_the_tilt() -> Iterator[Case]:
    """How far the guided score is from the score of the tilted data, noised, for Gaussians: the oracle's two
    scores, against precisions worked out by hand. It is not 0, but for w = 0 and 1 and without noise.
    """
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    for name, level in each_scaling(-1.0, 1.0):
        for scale in (2.0, 4.0):
            guided = score_of(classifier_free(NARROW.denoise, WIDE.denoise, scale), z, level)
            found = guided - tilted(scale).score(z, level)
            a, s2 = level.alpha, level.sigma**2
            wide, narrow = a**2 + s2, 0.3 * a**2 + s2
            precision = (1 - scale) / wide + scale / narrow
            clean = (1 - scale) + scale / 0.3
            v, m = a**2 / clean + s2, (scale * 0.8 / 0.3) / clean
            by_hand = -precision * z + scale * a * 0.8 / narrow + (z - a * m) / v
            yield Case(f"scale {scale:g}, {name}", found, by_hand)


@law(
    "Without noise it is",
    "s_w(z) → ∇ log p(x) p(y | x)^w  as σ → 0, with an error of order σ²",
    "Bradley and Nakkiran 2024, arXiv:2408.09000",
    1e-2,
)
def tilt_at_the_end() -> Iterator[Case]:
    """The order in which the gap to the tilted data's score closes with ever less noise, by its slope."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    log_snrs = number(7.0, 8.0, 9.0)
    for scale in (2.0, 4.0):
        gaps = []
        for log_snr in log_snrs:
            level = vp(log_snr)
            guided = score_of(classifier_free(NARROW.denoise, WIDE.denoise, scale), level.alpha * z, level)
            gaps.append((guided - tilted(scale).score(level.alpha * z, level)).abs().mean().log())
        order = (gaps[-1] - gaps[0]) / (log_snrs[-1] - log_snrs[0])
        yield Case(f"scale {scale:g}", order, -1.0)


@law(
    "Guidance of equal classes only shifts",
    "x ~ N(m_∅ + w (m_y − m_∅), c) if both have covariance c",
    "Ho and Salimans 2022, arXiv:2207.12598, eq. 6, for Gaussians",
    1e-4,
)
def shift() -> Iterator[Case]:
    """A guided sampler from the exact start, against the flow of the shifted Gaussian."""
    cov = number(0.8, 0.5, 0.5, 0.6).reshape(2, 2)
    null, cond = Gaussian(number(0.1, -0.2), cov), Gaussian(number(0.6, 0.5), cov)
    levels = Flow(8.0, -6.0).levels(200)
    for scale in (0.5, 2.0, 4.0):
        target = Gaussian(null.mean + scale * (cond.mean - null.mean), cov)
        z = target.marginal(levels.at(0)).sample(10, dice())
        found = walk(classifier_free(cond.denoise, null.denoise, scale), DPMpp3M(), levels, z, no_noise)
        yield Case(f"scale {scale:g}", found, target.flow(z, levels.at(0), levels.at(-1)))


@law(
    "Guidance at scale 1 samples the class",
    "z_1 ↦ the class's own flow",
    "Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.2",
    1e-3,
)
def samples_class() -> Iterator[Case]:
    """The mixture's denoiser with the exact classifier of two classes, walked down by Heun's method, against
    that class's flow in closed form.
    """
    levels = Flow(6.0, -8.0).levels(60)
    for k, part in enumerate(PLANE.parts[:2]):
        z = part.marginal(levels.at(0)).sample(10, dice(k))
        guided = classifier(NULL, lambda z, level, k=k: sure(z, level, k))
        found = walk(guided, Heun(), levels, z, no_noise)
        yield Case(f"class {k}", found, part.flow(z, levels.at(0), levels.at(-1)))


@law(
    "The classes make the whole",
    "E[x | z] = Σ_y p(y | z) E[x | z, y]",
    "law of total expectation; Ho and Salimans 2022, arXiv:2207.12598, algorithm 1",
    1e-10,
)
def total_expectation() -> Iterator[Case]:
    """The score of the mixture by autograd, against the classes' denoisers weighed by Bayes' rule."""
    for name, level in each_scaling(-2.0, 2.0):
        z = PLANE.marginal(level).sample(20, dice())
        gradient = derivative(lambda z, level=level: PLANE.log_prob(z, level), z)
        each = [
            sure(z, level, k).exp()[:, None] * part.denoise(z, level).x for k, part in enumerate(PLANE.parts)
        ]
        yield Case(name, sum(each, torch.zeros_like(z)), (z + level.sigma**2 * gradient) / level.alpha)


def _fixed(x: Tensor) -> Denoise:
    return lambda z, level: Prediction(x)


PICTURES = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=dice(8))


@law(
    "Guidance in an interval",
    "scale w inside (λ_low, λ_high), 1 outside",
    "Kynkäänniemi et al. 2024, arXiv:2404.07724",
    1e-12,
)
def interval() -> Iterator[Case]:
    """Levels inside and outside, against the formula with the scale that holds there."""
    c, n = PICTURES
    for log_snr in (-6.0, -2.0, 0.0, 0.9, 1.1, 6.0):
        scale = 3.5 if -3.0 < log_snr < 1.0 else 1.0
        guided = classifier_free(_fixed(c), _fixed(n), 3.5, interval=(-3.0, 1.0))
        yield Case(f"λ = {log_snr:g}", guided(c, at(log_snr)).x, (1 - scale) * n + scale * c)


@law(
    "Rescaled guidance",
    "x̂ = φ x̂_w std(x̂_y) / std(x̂_w) + (1 − φ) x̂_w",
    "Lin et al. 2023, arXiv:2305.08891, section 3.4",
    1e-11,
)
def rescale() -> Iterator[Case]:
    """The result, against the formula picture by picture."""
    c, n = PICTURES
    for phi in (0.3, 0.7, 1.0):
        guided = n + 4.0 * (c - n)
        expected = torch.stack(
            [phi * g * (one.std() / g.std()) + (1 - phi) * g for g, one in zip(guided, c, strict=True)]
        )
        found = classifier_free(_fixed(c), _fixed(n), 4.0, rescale=phi)(c, at(0.0)).x
        yield Case(f"φ = {phi}", found, expected)


@law(
    "Thresholding",
    "x̂ ← clamp(x̂, ±q) / q,  q = max(1, quantile of |x̂|);  static: clamp(x̂, ±1)",
    "Saharia et al. 2022, arXiv:2205.11487, section 2.3",
    1e-12,
)
def thresholds() -> Iterator[Case]:
    """Pictures inside and outside the range of the data, against sorted magnitudes."""
    for size in (0.1, 1.0, 4.0):
        x = size * PICTURES[0]
        expected = []
        for picture in x:
            magnitudes = picture.abs().flatten().sort().values
            place = 0.9 * (len(magnitudes) - 1)
            low, high = magnitudes[int(place)], magnitudes[int(place) + 1]
            q = max(1.0, (low + (place - int(place)) * (high - low)).item())
            expected.append(picture.clamp(-q, q) / q)
        found = dynamic_threshold(_fixed(x), 0.9)(x, at(0.0)).x
        yield Case(f"dynamic, size {size:g}", found, torch.stack(expected))
        yield Case(
            f"static, size {size:g}", clip(_fixed(x))(x, at(0.0)).x, torch.where(x.abs() > 1, x.sign(), x)
        )
