"""Training and measuring a classifier of noisy pictures, on two Gaussian classes, where all is known.

Pictures of class k are N(±SHADE, SPREAD²), pixel by pixel. Along the mean of its D pixels z is all that one
needs to know of it, so that the best classifier is right with probability Phi(alpha SHADE sqrt(D) / s),
s² = alpha² SPREAD² + sigma².
"""

import math

import pytest
import torch
from torch import Tensor, nn

from phin.data.augment import Augmentation
from phin.data.base import WHOLE, Batch, Endless, Which
from phin.diffusion.denoiser import Prediction
from phin.diffusion.guidance import classifier
from phin.diffusion.level import Level, vp
from phin.diffusion.noise import stream
from phin.diffusion.schedules import Cosine
from phin.metrics import noisy
from phin.nets.classifier import ClassifierConfig, NoisyClassifier
from phin.oracle import Mixture
from phin.training.classification import NoisyClassification

SHADE, SPREAD, SIDE = 0.1, 0.3, 4
DIMS = SIDE**2
STILL = Augmentation(shift=0, rotate=0, scale=0, stretch=0, shear=0)
MIXTURE = Mixture.of(
    [0.5, 0.5],
    torch.stack([torch.full((DIMS,), -SHADE), torch.full((DIMS,), SHADE)]).double(),
    (SPREAD**2 * torch.eye(DIMS).double()).expand(2, -1, -1),
)


class Shades(Endless):
    """The two classes, as a data set."""

    name, shape, classes, vocabulary = "shades", (1, SIDE, SIDE), 2, 0
    class_names, eight_bit = ("dark", "light"), False

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        rng = stream(seed, "shades", step)
        label = torch.from_numpy(rng.integers(0, 2, size))
        x = torch.from_numpy(rng.standard_normal((size, *self.shape))).float()
        x = SPREAD * x + SHADE * (2 * label - 1).view(-1, 1, 1, 1)
        return Batch(x[rows], {"label": label[rows]}, size)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        return self.train(1 + seed, len(which), n or 1000, rows)


class Exact(NoisyClassifier):
    """log p(k | z)."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig((8,), (1,)), 1, 2)

    def forward(self, z: Tensor, level: Level) -> Tensor:
        level = Level(*(field.flatten(1) if field.ndim else field for field in level))
        return MIXTURE.class_log_prob(z.flatten(1).double(), level)


def task(model: NoisyClassifier, batch: int) -> NoisyClassification:
    return NoisyClassification(model, Shades(), Cosine(), STILL, batch=batch)


def surprise(level: Level) -> float:
    """E[-log p(k | z)], by quadrature along the mean: 1-D classes N(±a, 1), by symmetry of the one at +a.

    There log p(1 | u) / p(0 | u) = 2 a u.
    """
    a = (level.alpha * SHADE * math.sqrt(DIMS) / torch.hypot(level.alpha * SPREAD, level.sigma)).item()
    u = torch.linspace(-9, 9, 4001).double()
    density = torch.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
    return torch.trapezoid(density * nn.functional.softplus(-2 * a * (u + a)), u).item()


def test_the_exact_classifiers_loss_is_the_conditional_entropy_at_the_levels_of_the_density() -> None:
    """No loss is lower: noise of another size than its level says, or labels of others, would cost."""
    losses = task(Exact(), 4096)(0, slice(None))
    loss, log_snr = losses.loss, losses.log_snr
    assert log_snr is not None
    times = (torch.arange(256) + 0.5) / 256
    expected = [surprise(Level(*(field.double() for field in Cosine()(t)))) for t in times]
    assert (loss.mean() - sum(expected) / 256).abs() < 4.5 * loss.std() / math.sqrt(4096)
    for low, high in ((-10, -3), (-3, 0), (0, 3), (3, 10)):
        here = (log_snr > low) & (log_snr < high)
        truth = torch.tensor([surprise(vp(one)) for one in log_snr[here][::8].double()])
        assert (loss[here].mean() - truth.mean()).abs() < 4.5 * loss[here].std() / here.sum().sqrt() + 1e-3


class Listening(Exact):
    """Keeps what it is shown."""

    def forward(self, z: Tensor, level: Level) -> Tensor:
        self.seen = z, level
        return super().forward(z, level)


def test_every_example_of_every_step_has_noise_of_its_own() -> None:
    net, drawn = Listening(), []
    for step in (0, 1):
        task(net, 50)(step, slice(None))
        z, level = net.seen
        drawn += [(z - level.alpha * Shades().train(0, step, 50).x) / level.sigma]
        assert level.log_snr.unique().numel() == 50
    eps = torch.cat(drawn).flatten(1)
    near = torch.cdist(eps, eps) + 9 * torch.eye(100)
    assert near.min() > 1
    assert (eps.std() - 1).abs() < 4.5 / (2 * eps.numel()) ** 0.5


def test_processes_share_a_batch_and_steps_differ() -> None:
    shared = task(Exact(), 10)
    whole = shared(3, slice(None)).loss
    for parts in (2, 3):
        for rank in range(parts):
            part = shared(3, slice(rank, None, parts)).loss
            torch.testing.assert_close(part, whole[rank::parts])
    assert not torch.allclose(shared(4, slice(None)).loss, whole)


def test_rates_are_those_of_the_best_classifier() -> None:
    """Phi(alpha SHADE sqrt(D) / s), whatever the size of the batches."""
    x, cond, _ = Shades().train(5, 0, 4000)
    rates = noisy.rates(Exact(), x, cond["label"])
    assert list(rates) == list(noisy.LOG_SNRS)
    for log_snr, rate in rates.items():
        level = vp(torch.tensor(log_snr, dtype=torch.float64))
        a = level.alpha * SHADE * math.sqrt(DIMS) / torch.hypot(level.alpha * SPREAD, level.sigma)
        assert rate.n == 4000
        assert abs(rate.value - torch.special.ndtr(a).item()) < 4.5 * rate.error
    assert noisy.rates(Exact(), x, cond["label"], batch=333) == rates


def test_validation_is_repeatable_and_knows_guessing() -> None:
    found = task(Exact(), 8).validate(Exact())
    assert found == task(Exact(), 16).validate(Exact())
    assert list(found)[:2] == ["loss", "baseline"]
    assert found["baseline"] == pytest.approx(math.log(2))
    assert found["loss"] < 0.9 * found["baseline"]
    errors = [found[f"error/{log_snr:g}"] for log_snr in noisy.LOG_SNRS]
    assert errors[0] == pytest.approx(1 - 0.9088, abs=0.045)  # Phi(4 / 3), but for a little noise
    assert errors == sorted(errors)
    unsure = Exact()
    unsure.forward = lambda z, level: torch.zeros(len(z), 2)  # pyright: ignore[reportAttributeAccessIssue]
    assert task(Exact(), 8).validate(unsure)["loss"] == pytest.approx(math.log(2))


def test_a_trained_one_guides_as_bayes_rule_says() -> None:
    """It learns nine tenths of what can be known, and its gradient moves the denoiser towards the class."""
    net, steps = NoisyClassifier(ClassifierConfig((16,), (1,)), 1, 2), 200
    training = task(net, 256)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for step in range(steps):
        optimizer.zero_grad()
        training(step, slice(None)).loss.mean().backward()
        optimizer.step()
        schedule.step()
    losses = [task(model, 4096)(10_000, slice(None)).loss.mean().item() for model in (net, Exact())]
    assert math.log(2) - losses[0] > 0.9 * (math.log(2) - losses[1])
    label = torch.ones(500, dtype=torch.long)

    def base(z: Tensor, level: Level) -> Prediction:
        return Prediction(MIXTURE.denoise(z.double(), level).x.float())

    def log_prob(z: Tensor, level: Level) -> Tensor:
        return net.given(label)(z.unflatten(1, (1, SIDE, SIDE)), level)

    level = vp(torch.tensor(0.0, dtype=torch.float64))
    z = (level.alpha * MIXTURE.sample(500) + level.sigma * torch.randn(500, DIMS).double()).float()
    wanted = MIXTURE.parts[1].denoise(z.double(), level).x.float() - base(z, level).x
    moved = classifier(base, log_prob)(z, level).x - base(z, level).x
    assert (moved - wanted).square().sum() < 0.6 * wanted.square().sum()
    assert moved.mean().item() == pytest.approx(wanted.mean().item(), rel=0.2)
