"""Guidance: its formulas, its limits, and what it costs."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phin.diffusion.denoiser import Denoiser, Prediction
from phin.diffusion.guidance import classifier, classifier_free, clip, dynamic_threshold
from phin.diffusion.level import SCALINGS, Level, Scaling, vp
from phin.diffusion.noise import seeded
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


# --- by a classifier


def log_prob(k: int) -> Callable[[Tensor, Level], Tensor]:
    """The exact classifier of noisy data."""
    return lambda z, level: MIXTURE.class_log_prob(z, level)[..., k]


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.5, 1.0, 7.0])
def test_the_exact_classifier_does_what_classifier_free_guidance_does(scaling: Scaling, scale: float) -> None:
    """Bayes' rule, to rounding: at scale 1 it gives the conditional denoiser, at any other null + scale
    (cond - null), at every level and under every scaling."""
    level = scaling(torch.linspace(-12, 12, 9, dtype=torch.float64)).view(3)
    z = level.alpha * MIXTURE.sample(20) + level.sigma * torch.randn(9, 20, 2, dtype=torch.float64)
    for k, part in enumerate(MIXTURE.parts):
        guided = classifier(NULL, log_prob(k), scale)(z, level).x
        expected = classifier_free(part.denoise, NULL, scale)(z, level).x
        torch.testing.assert_close(guided, expected, rtol=1e-8, atol=1e-9)


def test_a_classifier_guides_each_example_at_its_own_level_as_if_alone() -> None:
    level = LADDER.view(2)
    z = torch.cat([noisy(LADDER.at(i), 1) for i in range(7)])
    guided = classifier(NULL, log_prob(1), 2.5)
    each = torch.cat([guided(z[i : i + 1], LADDER.at(i)).x for i in range(7)])
    torch.testing.assert_close(guided(z, level).x, each)


def test_the_exact_classifier_at_scale_1_samples_the_posterior() -> None:
    """Its mean and covariance, of each class. A class is a Gaussian, so that a deterministic solver is an
    affine map of its start, which is N(0, I), and a few points tell all of it."""
    starts = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.7, -1.9]]).double()

    def each(z: Tensor, level: Level) -> Tensor:
        return MIXTURE.class_log_prob(z, level).diagonal(dim1=0, dim2=2)

    x = sample(classifier(NULL, each), DPMpp2M(), Cosine(log_snr_min=-14).levels(200), starts.expand(3, 4, 2))
    for (origin, *ends, other), part in zip(x, MIXTURE.parts, strict=True):
        slope = torch.stack(ends, 1) - origin[:, None]
        torch.testing.assert_close(other, origin + slope @ starts[-1], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(origin, part.mean, rtol=0, atol=5e-4)
        torch.testing.assert_close(slope @ slope.T, part.cov, rtol=0, atol=0.01 * part.cov.amax().item())


def test_the_same_dice_give_the_same_samples_as_the_conditional_denoiser() -> None:
    levels = Cosine().levels(20)
    z = torch.randn(50, 2).double()
    guided, exact = (
        sample(denoise, Ancestral(), levels, z, seeded(0, range(50)))
        for denoise in (classifier(NULL, log_prob(1)), COND)
    )
    torch.testing.assert_close(guided, exact, rtol=1e-8, atol=1e-8)


def test_scale_0_is_the_base_itself() -> None:
    assert classifier(NULL, log_prob(0), 0.0) is NULL


@pytest.mark.parametrize(("free", "scale"), [(0.0, 1.0), (1.0, 1.5), (2.5, -0.5)])
def test_scales_of_both_guidances_add_up_in_either_order(free: float, scale: float) -> None:
    """And where the classifier acts on the conditional denoiser alone, they multiply."""
    by, level = log_prob(1), LADDER.view(3)
    z = level.alpha * MIXTURE.sample(20) + level.sigma * torch.randn(7, 20, 2, dtype=torch.float64)
    cond, null = COND(z, level).x, NULL(z, level).x
    for guided, total in (
        (classifier(classifier_free(COND, NULL, free), by, scale), free + scale),
        (classifier_free(classifier(COND, by, scale), classifier(NULL, by, scale), free), free + scale),
        (classifier(classifier(NULL, by, free), by, scale), free + scale),
        (classifier_free(classifier(NULL, by, scale), NULL, free), free * scale),
    ):
        expected = null + total * (cond - null)
        torch.testing.assert_close(guided(z, level).x, expected, rtol=1e-8, atol=1e-9)


def test_clipping_comes_last() -> None:
    level = LADDER.at(1)
    z = noisy(level)
    outside = classifier(clip(NULL), log_prob(1), 9.0)(z, level).x
    inside = clip(classifier(NULL, log_prob(1), 9.0))(z, level).x
    assert outside.abs().max() > 1.5
    assert inside.abs().max() == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_network_guides_whether_autograd_records_or_not(mode: Callable[[], Any]) -> None:
    """In float32, with levels in float64; the base's variance stays, and no gradient is left behind."""
    net = nn.Linear(2, 3)
    frac = torch.rand(5, 2)

    def by(z: Tensor, level: Level) -> Tensor:
        logits = net(z / torch.hypot(level.alpha, level.sigma)) * (1 + torch.sigmoid(level.log_snr))
        return logits.log_softmax(1)[:, 2]

    with mode():
        z, level = torch.linspace(-2, 2, 10).view(5, 2), vp(torch.tensor(-1.0, dtype=torch.float64))
        base = Prediction(torch.tanh(z), frac)
        x, kept = classifier(lambda z, level: base, by, 2.0)(z, level)
    assert kept is frac
    assert x.dtype == torch.float32
    assert x.requires_grad == (mode is torch.enable_grad)
    assert net.weight.grad is None
    with mode():
        sharpness = 1 + torch.sigmoid(level.log_snr)
        p = (net(z) * sharpness).softmax(1)
        slope = sharpness * (torch.tensor([0.0, 0.0, 1.0]) - p) @ net.weight
        torch.testing.assert_close(x, base.x + 2 * level.sigma**2 / level.alpha * slope)


@pytest.mark.parametrize("i", range(7))
def test_what_is_guided_can_be_differentiated(i: int) -> None:
    """The Jacobian of the guided denoiser is that of the conditional: alpha / sigma² Cov[x | z, y]."""
    level = LADDER.at(i)
    z, guided = noisy(level, 4), classifier(NULL, log_prob(1))
    jacobian = torch.autograd.functional.jacobian(lambda z: guided(z, level).x.sum(0), z)
    exact = level.alpha / level.sigma**2 * MIXTURE.parts[1].posterior_cov(z, level)
    torch.testing.assert_close(jacobian.movedim(1, 0), exact, rtol=1e-7, atol=1e-8)


# --- thresholds


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


def test_quantiles_of_many_values_and_of_half_precision() -> None:
    """torch.quantile has 16 million values at most, and no half precision."""
    x = torch.linspace(-4, 4, 2**24 + 3).view(1, -1)
    out = dynamic_threshold(lambda z, level: Prediction(z), quantile=0.5)(x, LADDER.at(0)).x
    torch.testing.assert_close(out, (x / 2).clamp(-1, 1))
    x = torch.linspace(-4, 4, 101).view(1, -1).bfloat16()
    out = dynamic_threshold(lambda z, level: Prediction(z), quantile=0.5)(x, LADDER.at(0)).x
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), (x.float() / 2).clamp(-1, 1), rtol=2e-2, atol=2e-2)


# --- limits


def test_a_level_on_the_bound_of_the_interval_is_outside() -> None:
    level = LADDER.at(3)
    z, here = noisy(level), level.log_snr.item()
    for interval in ((here, 99.0), (-99.0, here)):
        guided = classifier_free(COND, NULL, 3.0, interval)
        assert torch.equal(guided(z, level).x, COND(z, level).x)


def test_rescale_acts_at_scale_0_too() -> None:
    """There x̂ is the unconditional prediction, with the deviation of the conditional one."""
    c, n = torch.randn(2, 5, 3, 4)
    x = classifier_free(lambda z, level: Prediction(c), lambda z, level: Prediction(n), 0.0, rescale=1.0)(
        c, LADDER.at(3)
    ).x
    torch.testing.assert_close(x.flatten(1).std(1), c.flatten(1).std(1))
    torch.testing.assert_close(F.normalize(x.flatten(1)), F.normalize(n.flatten(1)))


@pytest.mark.parametrize("shape", [(5, 1), (5, 3, 4)])
def test_rescale_leaves_what_has_no_deviation(shape: tuple[int, ...]) -> None:
    """A constant prediction, and data of one dimension."""
    c = torch.arange(5.0).view(5, *[1] * (len(shape) - 1)).expand(shape)
    cond, null = (lambda z, level, x=x: Prediction(x) for x in (c, -c))
    guided = classifier_free(cond, null, 2.0, rescale=0.7)
    torch.testing.assert_close(guided(c, LADDER.at(3)).x, 3 * c)


@pytest.mark.parametrize("wrong", ["lengths", "none", "label of one", "level of one"])
def test_conditions_that_cannot_be_joined_take_two_calls(wrong: str) -> None:
    net = Texts()
    z, level = torch.randn(2, 1, 2, 2), LADDER.at(2)
    label, text = torch.tensor([1, 2]), torch.tensor([[1, 2], [3, 4]])
    denoiser = Denoiser(net, v)
    cond, null = denoiser.given(label=label, text=text), denoiser.given(label=label - 5, text=text)
    if wrong == "lengths":
        null = denoiser.given(label=label, text=torch.full((2, 1), -1))
    elif wrong == "none":
        cond, null = denoiser.given(label=label), denoiser.given(label=None)
    elif wrong == "label of one":
        cond, null = denoiser.given(label=label[:1]), denoiser.given(label=label[1:])
    else:
        level = level.view(4)._make(field.view(1) for field in level)
    expected = null(z, level).x + 2.5 * (cond(z, level).x - null(z, level).x)
    torch.testing.assert_close(classifier_free(cond, null, 2.5)(z, level).x, expected)


class Texts(nn.Module):
    """A network that takes a label, or one for all, and a text of any length."""

    def forward(
        self, z: Tensor, log_snr: Tensor, label: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        shift = log_snr / 10 + (0 if label is None else label) + (0 if text is None else text.sum(1))
        return torch.tanh(z + shift.reshape(-1, *[1] * (z.ndim - 1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: classifier_free(COND, NULL, math.nan),
        lambda: classifier_free(COND, NULL, math.inf),
        lambda: classifier_free(COND, NULL, 2.0, rescale=math.nan),
        lambda: classifier_free(COND, NULL, 2.0, rescale=1.5),
        lambda: classifier_free(COND, NULL, 2.0, (3.0, -3.0)),
        lambda: classifier_free(COND, NULL, 2.0, (math.nan, 3.0)),
        lambda: clip(COND, 1.0, 1.0),
        lambda: clip(COND, math.nan),
        lambda: dynamic_threshold(COND, 0.0),
        lambda: dynamic_threshold(COND, 1.01),
        lambda: dynamic_threshold(COND, math.nan),
    ],
)
def test_numbers_that_cannot_be_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"nan|inf|not|range|quantile"):
        make()
