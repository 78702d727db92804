"""The tasks: batches, noise, times and dropping are what they say, row by row, and the losses are theirs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phin.data
from phin.data.augment import Augmentation
from phin.data.base import WHOLE, Batch, Endless, Which
from phin.diffusion.denoiser import Denoise, Denoiser, Given
from phin.diffusion.losses import denoising_loss
from phin.diffusion.noise import Noise, normal, stream
from phin.diffusion.objectives import Simple, Terms
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import Cosine, Discrete, Schedule
from phin.diffusion.weights import Weight, snr_plus_one
from phin.errors import PhinError
from phin.nets.classifier import Classifier, ClassifierConfig, NoisyClassifier
from phin.oracle import Gaussian
from phin.training.classification import Classification, NoisyClassification
from phin.training.denoising import Denoising

BATCH = 12
VIEWS = Augmentation()


@dataclass(frozen=True)
class Sheets(Endless):
    """Labelled 4 x 4 pictures, drawn as needed."""

    draw: Callable[[np.random.Generator, int], Tensor] = lambda rng, n: torch.from_numpy(
        rng.standard_normal((n, 1, 4, 4), dtype=np.float32)
    )
    name: str = "sheets"
    shape: tuple[int, ...] = (1, 4, 4)
    classes: int = 10
    vocabulary: int = 0
    class_names: tuple[str, ...] = tuple("0123456789")
    eight_bit: bool = False

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        return self._batch(stream(seed, "sheets", step), size, rows)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        return self._batch(stream(seed, f"sheets {which}"), n or 40, rows)

    def _batch(self, rng: np.random.Generator, n: int, rows: slice) -> Batch:
        x, label = self.draw(rng, n), torch.from_numpy(rng.integers(0, 10, n))
        return Batch(x[rows], {"label": label[rows]}, n)


@dataclass
class Seen:
    """An objective that is `Simple` and remembers what it was given."""

    calls: list[tuple[Tensor, Tensor, Tensor, dict[str, Any]]] = field(default_factory=list[Any])

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        cond = denoise.cond if isinstance(denoise, Given) else {}
        self.calls.append((x, t, noise(x), cond))
        return Simple()(denoise, x, schedule, t, weight, noise)


class Net(nn.Module):
    """Something small that depends on all that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(self.gain * z + (log_snr / 10 + label / 7).view(-1, 1, 1, 1))


def denoising(seen: Seen | None = None, **options: Any) -> Denoising:
    options = {"batch": BATCH, "seed": 3, "data": Sheets(), "density": Cosine(), **options}
    return Denoising(Denoiser(Net(), v), weight=snr_plus_one, objective=seen or Simple(), **options)


def readers() -> list[Classification | NoisyClassification]:
    torch.manual_seed(0)
    config = ClassifierConfig((8,), (1,))
    return [
        Classification(Classifier(config, 1, 10), Sheets(), VIEWS, batch=BATCH),
        NoisyClassification(NoisyClassifier(config, 1, 10), Sheets(), Cosine(), VIEWS, batch=BATCH),
        NoisyClassification(NoisyClassifier(config, 1, 10), Sheets(), Discrete(), VIEWS, batch=BATCH),
    ]


@pytest.mark.parametrize("processes", [2, 5])
def test_rows_of_several_processes_make_up_the_batch(processes: int) -> None:
    """Times, noise, dropping and views belong to a row's place in the batch, whoever takes the row."""
    for task in [denoising(drop=0.4), denoising(flip=True), *readers()]:
        for part in task.model.parameters():
            nn.init.normal_(part, std=0.5)
        whole, parts = task(7, WHOLE), [task(7, slice(rank, None, processes)) for rank in range(processes)]
        assert len(whole.loss) == BATCH
        for rank, part in enumerate(parts):
            torch.testing.assert_close(part.loss, whole.loss[rank::processes])
            if whole.log_snr is not None:
                torch.testing.assert_close(part.log_snr, whole.log_snr[rank::processes])
        assert whole.loss.unique().numel() == BATCH
        assert not torch.isclose(task(8, WHOLE).loss, whole.loss).any()  # and another step is another one


def test_a_dropped_condition_is_minus_one_and_the_others_stay() -> None:
    task = denoising(seen := Seen(), drop=0.3)
    dropped = 0
    for step in range(50):
        task(step, WHOLE)
        given, told = Sheets().train(3, step, BATCH).cond["label"], seen.calls[-1][3]["label"]
        assert ((told == given) | (told == -1)).all()
        dropped += int((told == -1).sum())
    n = 50 * BATCH
    assert abs(dropped / n - 0.3) < 4.5 * (0.3 * 0.7 / n) ** 0.5
    denoising(seen, drop=0.0)(0, WHOLE)
    assert torch.equal(seen.calls[-1][3]["label"], Sheets().train(3, 0, BATCH).cond["label"])


def test_every_other_picture_is_mirrored_anew_and_validated_ones_are_not() -> None:
    task = denoising(seen := Seen(), flip=True)
    mirrored: list[list[bool]] = []
    for step in range(50):
        task(step, WHOLE)
        x, flipped = Sheets().train(3, step, BATCH).x, seen.calls[-1][0]
        mirrored.append([torch.equal(now, then.flip(-1)) for now, then in zip(flipped, x, strict=True)])
        same = [torch.equal(now, then) for now, then in zip(flipped, x, strict=True)]
        assert mirrored[-1] == [not one for one in same]
    n = 50 * BATCH
    assert abs(sum(map(sum, mirrored)) / n - 0.5) < 4.5 * (0.25 / n) ** 0.5
    assert len({tuple(row) for row in mirrored}) == 50
    task.validate(task.model)
    assert torch.equal(seen.calls[-1][0], Sheets().split("valid", 256).x)
    denoising(seen)(0, WHOLE)  # and nothing is unless it is asked for
    assert torch.equal(seen.calls[-1][0], Sheets().train(3, 0, BATCH).x)


def test_flips_are_for_pictures_without_text() -> None:
    flipped = replace(tiny.POINTS, flip=True)
    with pytest.raises(PhinError, match=r"flip mirrors pictures, .* and moons has no pictures: leave it out"):
        flipped.task(phin.data.load("moons"))
    text = Sheets(vocabulary=10, classes=0)
    with pytest.raises(PhinError, match="numbers has text in its pictures"):
        replace(tiny.NUMBERS, flip=True).task(text)


def test_no_two_examples_of_a_run_have_the_same_noise() -> None:
    task = denoising(seen := Seen())
    for step in range(3):
        task(step, WHOLE)
    eps = torch.cat([call[2] for call in seen.calls])
    assert torch.equal(eps, normal(3, "noise", range(3 * BATCH), (1, 4, 4)))
    times = torch.stack([call[1] for call in seen.calls])
    assert torch.equal((times * BATCH).floor(), torch.arange(BATCH).expand(3, BATCH).float())
    assert len(times.unique()) == 3 * BATCH


def test_the_validation_is_the_loss_at_the_middles_of_equal_strata() -> None:
    """Of sqrt(t), each with its weight dt / d sqrt(t) = 2 sqrt(t): so it is a mean over uniform times."""
    task = denoising(seen := Seen(), examples=25)
    validation = task.validate(task.model)
    x, t, eps, cond = seen.calls[0]
    root = t.sqrt()
    torch.testing.assert_close(root.sort().values, (torch.arange(25) + 0.5) / 25)
    level = Cosine()(t).view(4)
    loss = denoising_loss(task.model.given(**cond), x, level, snr_plus_one, lambda _: eps)
    assert validation["loss"] == pytest.approx((2 * root * loss).mean().item(), rel=1e-5)
    assert torch.equal(x, Sheets().split("valid", 25).x)
    assert torch.equal(cond["label"], Sheets().split("valid", 25).cond["label"])  # nothing is dropped
    assert validation == task.validate(task.model)


def test_the_baseline_of_independent_gaussian_pixels_is_the_best_denoiser() -> None:
    mean, std = torch.linspace(-0.5, 0.5, 16).view(1, 4, 4), torch.linspace(0.1, 1.2, 16).view(1, 4, 4)

    def exactly(rng: np.random.Generator, n: int) -> Tensor:
        """Draws whose mean and variance are those of the distribution."""
        x = rng.standard_normal((n, 1, 4, 4))
        return mean + std * torch.from_numpy((x - x.mean(0)) / x.std(0)).float()

    task = denoising(seen := Seen(), data=Sheets(exactly), examples=200)
    baseline = task.validate(task.model)["baseline"]
    data = Gaussian(mean.flatten().double(), torch.diag(std.flatten().double() ** 2))
    x, t, eps, _ = seen.calls[0]
    least = denoising_loss(
        data.denoise,
        x.flatten(1).double(),
        Cosine()(t.double()).view(2),
        snr_plus_one,
        lambda _: eps.flatten(1).double(),
    )
    assert baseline == pytest.approx((2 * t.double().sqrt() * least).mean().item(), rel=1e-4)


def test_the_baseline_of_one_picture_is_to_know_it() -> None:
    task = denoising(data=Sheets(lambda rng, n: torch.ones(n, 1, 4, 4)), examples=4)
    assert task.validate(task.model)["baseline"] == pytest.approx(0, abs=1e-9)


class Looking(Classifier):
    """A classifier that remembers what it saw."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig((8,), (0,)), 1, 10)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().forward(x)


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_a_classifier_learns_from_fresh_views_with_smoothed_targets(smoothing: float) -> None:
    same = Sheets(lambda rng, n: torch.linspace(-1, 1, 16).view(1, 1, 4, 4).repeat(n, 1, 1, 1))
    model = Looking()
    task = Classification(model, same, Augmentation(), smoothing, BATCH)
    losses = [task(step, WHOLE).loss for step in (0, 1)]
    first, second = model.seen
    assert not torch.isclose(first, second).flatten(1).all(1).any()
    for step, (seen, loss) in enumerate(zip((first, second), losses, strict=True)):
        label = same.train(0, step, BATCH).cond["label"]
        logs = model(seen).log_softmax(1)
        target = (1 - smoothing) * F.one_hot(label, 10) + smoothing / 10
        torch.testing.assert_close(loss, -(target * logs).sum(1))
