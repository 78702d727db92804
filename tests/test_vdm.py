"""Variational diffusion models: the learned schedule and its gradients, the bound, a pixel's posterior."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phin import data as datasets
from phin.diffusion.bound import bound, to_bits
from phin.diffusion.decoder import categorical
from phin.diffusion.denoiser import Prediction
from phin.diffusion.level import SCALINGS, Level
from phin.diffusion.objectives import ContinuousBound
from phin.diffusion.schedules import Cosine, Learned, least_variance
from phin.diffusion.weights import simple
from phin.errors import PhinError
from phin.nets.posterior import Posterior, PosteriorMean
from phin.nets.unet import UNetConfig
from phin.oracle import Gaussian
from phin.recipes import RECIPES, DiffusionRecipe, Facts

NARROW = Gaussian(torch.tensor([0.2, -0.1]).double(), torch.diag(torch.tensor([0.5, 0.02])).double())
PICTURES = Facts((1, 8, 8), 10, 0, tuple("0123456789"), True)


def learned(seed: int = 0, log_snr_max: float = 13.25, log_snr_min: float = -5.0) -> Learned:
    """A learned schedule in the middle of learning: any interior."""
    torch.manual_seed(seed)
    schedule = Learned(log_snr_max, log_snr_min).double()
    for parameter in (schedule.linear, schedule.heights, schedule.steepness, schedule.centres):
        nn.init.normal_(parameter, std=2.0)
    return schedule


def some(n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Images of 8 bits, times and noise."""
    x = 2 / 255 * torch.randint(0, 256, (n, 1, 3, 3)).double() - 1
    return x, torch.rand(n).double(), torch.randn_like(x)


# The schedule


@pytest.mark.parametrize("seed", range(4))
def test_whatever_it_has_learned_it_falls_between_its_ends(seed: int) -> None:
    schedule = learned(seed, log_snr_max=9.0, log_snr_min=-4.0)
    t = torch.linspace(0, 1, 1001).double()
    log_snr = schedule.log_snr(t)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(log_snr[[0, -1]], torch.tensor([9.0, -4.0]).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_slope_and_inverse_are_those_of_the_curve(seed: int) -> None:
    schedule = learned(seed)
    t = torch.linspace(0.001, 0.999, 101).double().requires_grad_()
    by_hand = torch.autograd.grad(schedule.log_snr(t).sum(), t)[0]
    torch.testing.assert_close(schedule.slope(t), by_hand, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.inverse(schedule.log_snr(t)), t.detach(), rtol=0, atol=1e-9)


def expected_loss(schedule: Learned, t: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """VDM's diffusion term in continuous time for the exact denoiser of NARROW."""
    interior = schedule.interior(t)
    log_snr, slope = schedule.between(*interior)
    snr = torch.exp(log_snr)
    variance = NARROW.axes[0]
    least = (variance / (1 + snr[:, None] * variance)).sum(1)
    return -0.5 * slope * snr * least, interior


def test_the_mean_of_the_bound_depends_on_the_ends_alone() -> None:
    """By Simpson's rule; in closed form it is a difference of log(1 + SNR c) / 2."""
    t = torch.linspace(0, 1, 20001).double()
    simpson = torch.full_like(t, 2.0)
    simpson[1::2] = 4.0
    simpson[[0, -1]] = 1.0
    ends = torch.tensor([9.0, -4.0]).double().exp()
    exact = 0.5 * torch.log1p(ends[:, None] * NARROW.axes[0]).sum(1).diff().abs().item()
    for seed in range(3):
        loss, _ = expected_loss(learned(seed, log_snr_max=9.0, log_snr_min=-4.0), t)
        assert (simpson @ loss).item() / 3 / 20000 == pytest.approx(exact, rel=1e-6)


def test_the_interior_descends_the_variance_and_the_ends_the_mean() -> None:
    t = torch.rand(32).double()
    schedule = learned(1)

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(loss, list(schedule.parameters()))
        return dict(zip((name for name, _ in schedule.named_parameters()), found, strict=True))

    loss, _ = expected_loss(schedule, t)
    mean = gradients(loss.mean())
    loss, _ = expected_loss(schedule, t)
    square = gradients(loss.square().mean() / (2 * loss.detach().mean()))
    loss, interior = expected_loss(schedule, t)
    least_variance(interior, loss)
    found = gradients(loss.mean())
    torch.testing.assert_close(found.pop("ends"), mean.pop("ends"))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, square[name])
        assert not torch.allclose(gradient, mean[name], rtol=0.05)


def test_learning_the_interior_lowers_the_variance() -> None:
    """The best interior makes every time cost the same; the straight one does not."""
    schedule, t = Learned(9.0, -9.0).double(), torch.linspace(0, 1, 512).double()
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.03)

    def spread() -> float:
        loss, _ = expected_loss(schedule, t)
        return (loss.std() / loss.mean()).item()

    before = spread()
    for _ in range(200):
        loss, interior = expected_loss(schedule, t)
        least_variance(interior, loss)
        schedule.zero_grad()
        loss.mean().backward()
        schedule.ends.grad = None
        optimizer.step()
    assert before > 0.5
    assert spread() < before / 5
    torch.testing.assert_close(schedule.ends.detach(), torch.tensor([9.0, -9.0]).double())


# The bound as an objective


class Shrink(nn.Module):
    """A denoiser that is good for nothing."""

    def __call__(self, z: Tensor, level: Level) -> Prediction:
        return Prediction(0.7 * z / level.alpha)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("make", [lambda s: Learned(scaling=s).double(), lambda s: Cosine(scaling=s)])
def test_the_objective_is_the_bound_in_bits(make: type, scaling: str) -> None:
    schedule, denoise = make(SCALINGS[scaling]), Shrink()
    x, t, eps = some()
    terms = ContinuousBound(categorical())(denoise, x, schedule, t, simple, lambda _: eps)
    with torch.no_grad():
        exact = bound(denoise, x, schedule, categorical(), None, t, lambda _: eps)
    torch.testing.assert_close(terms.loss.detach(), to_bits(exact.total, 9), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(terms.log_snr, schedule.log_snr(t).detach())


def test_far_values_do_not_count_in_a_decoder() -> None:
    """The softmax over all 256, whether few or many are within reach of the noise; a batch has the widest."""
    x, _, eps = some()
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    each = [torch.full((64, 1, 1, 1), log_snr).double() for log_snr in (0.0, 4.0, 5.9, 8.0, 10.0, 13.0)]
    for log_snr in [*each, torch.linspace(3, 14, 64).double().view(64, 1, 1, 1)]:
        level = SCALINGS["vp"](log_snr)
        z = level.alpha * x + level.sigma * eps
        logits = -0.5 * log_snr.exp()[..., None] * ((z / level.alpha)[..., None] - values) ** 2
        of_x = (x[..., None] - values).abs().argmin(-1, keepdim=True)
        exact = logits.log_softmax(-1).gather(-1, of_x).flatten(1).sum(1)
        torch.testing.assert_close(categorical()(Shrink(), x, z, level), exact, rtol=1e-10, atol=1e-10)


# The posterior of a pixel


class Constant(nn.Module):
    """The same logits whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return self.logits.view(1, -1, *[1] * (z.ndim - 2)).expand(len(z), -1, *z.shape[2:])


@pytest.mark.parametrize("channels", [1, 3])
def test_with_the_true_frequencies_of_independent_pixels_it_is_the_exact_denoiser(channels: int) -> None:
    """E[x | z] by brute force: the sum over all values of value, frequency and likelihood."""
    values, n = torch.linspace(-1, 1, 5).double(), 200
    logits = torch.randn(channels, 5).double()
    frequency = logits.softmax(-1)
    net = Posterior(Constant(logits.flatten()), values=5).double()
    log_snr = torch.linspace(-8, 14, n).double()
    level = SCALINGS["vp"](log_snr).view(3)
    z = torch.randn(n, channels, 4).double()
    likelihood = torch.exp(
        -0.5 * ((z[..., None] - level.alpha[..., None] * values) / level.sigma[..., None]) ** 2
    )
    joint = likelihood * frequency[:, None]
    exact = (joint * values).sum(-1) / joint.sum(-1)
    seen = joint.sum(-1) > 1e-250  # where brute force has numbers left
    torch.testing.assert_close(net(z, log_snr)[seen], exact[seen], rtol=1e-9, atol=1e-9)


def test_at_a_high_snr_it_falls_on_the_grid() -> None:
    x, _, eps = some()
    level = SCALINGS["vp"](torch.tensor(16.0))
    z = (level.alpha * x + level.sigma * eps).float()
    net = Posterior(Constant(torch.randn(256)))
    torch.testing.assert_close(net(z, torch.full((len(z),), 16.0)), x.float(), rtol=0, atol=1e-6)


def test_the_gradient_of_the_posterior_mean_is_its_derivative() -> None:
    values = torch.linspace(-1, 1, 6).double()
    logits, y = torch.randn(4, 3, 6).double().requires_grad_(), torch.randn(4, 3).double().requires_grad_()
    precision = (20 * torch.rand(4, 3).double()).requires_grad_()

    def mean(*inputs: Tensor) -> Tensor:
        return PosteriorMean.apply(*inputs, values)[0]

    assert torch.autograd.gradcheck(mean, (logits, y, precision))
    plain = (logits - 0.5 * precision[..., None] * (y[..., None] - values) ** 2).softmax(-1) @ values
    torch.testing.assert_close(mean(logits, y, precision), plain)


def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    net, z, log_snr = (
        Posterior(Constant(torch.randn(256))),
        torch.randn(7, 1, 4, 4),
        torch.linspace(-5, 12, 7),
    )

    def answers() -> tuple[Tensor, Tensor]:
        at = z.clone().requires_grad_()
        x = net(at, log_snr)
        return x.detach(), torch.autograd.grad(x.square().sum(), at)[0]

    whole = answers()
    monkeypatch.setattr("phin.nets.posterior._CACHED", 2 * 16 * 256)
    for one, other in zip(whole, answers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_its_slope_is_the_posterior_variance() -> None:
    """d x̂ / d z = (alpha / sigma²) Var[x | z], which likelihoods by the ODE are made of; also under vmap."""
    logits = torch.randn(8).double()
    net, values = Posterior(Constant(logits), values=8).double(), torch.linspace(-1, 1, 8).double()
    level = SCALINGS["vp"](torch.tensor(3.0).double())
    z = torch.randn(1, 1, 5).double()

    def denoise(z: Tensor) -> Tensor:
        return net(z, level.log_snr[None])

    log_p = logits - 0.5 * level.log_snr.exp() * (z[..., None] / level.alpha - values) ** 2
    p = log_p.softmax(-1)
    variance = p @ values**2 - (p @ values) ** 2
    jacobian = torch.func.jacrev(denoise)(z).reshape(5, 5)
    torch.testing.assert_close(jacobian, torch.diag((level.alpha / level.sigma**2 * variance).flatten()))


# The recipe


def test_the_recipe_is_of_the_data_as_a_whole() -> None:
    recipe = RECIPES["mnist-vdm"]
    assert isinstance(recipe, DiffusionRecipe)
    facts = recipe.facts(datasets.load("digits"))
    assert (facts.classes, facts.class_names, facts.shape) == (0, (), (1, 8, 8))
    model = recipe.model(replace(PICTURES, shape=(1, 28, 28)).unconditional())
    assert isinstance(model.schedule, Learned)
    assert any(name.startswith("schedule.") for name in model.state_dict())


@pytest.mark.parametrize(
    ("choices", "facts"),
    [
        ({"parameterization": "eps"}, PICTURES),
        ({}, replace(PICTURES, eight_bit=False)),
    ],
)
def test_values_are_for_8_bit_images_and_x(choices: dict[str, str], facts: Facts) -> None:
    recipe = replace(DiffusionRecipe(net=UNetConfig(values=256), parameterization="x"), **choices)
    with pytest.raises(PhinError, match=r"net.values = 256"):
        recipe.model(facts)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"density": "learned"}, "learned by objective continuous_bound"),
        ({"objective": "continuous_bound", "density": "discrete(linear)"}, "is a chain"),
    ],
)
def test_densities_and_objectives_that_do_not_go_together_are_refused(
    choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(PhinError, match=message):
        DiffusionRecipe(**choices)


def test_the_bound_of_what_is_not_8_bit_wants_a_decoder() -> None:
    recipe = DiffusionRecipe(data="digits", net=UNetConfig((8, 16)), objective="continuous_bound")
    with pytest.raises(PhinError, match="has none: give it a density"):
        recipe.task(datasets.load("digits"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"log_snr_max": -5.0, "log_snr_min": 5.0}, "must be below"), ({"units": 0}, "units = 0")],
)
def test_a_schedule_that_is_none_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learned(**arguments)
