"""Uniform dequantization: where the noise lies, what the bins cost, and training on it."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from phin import data as datasets
from phin import models, nll
from phin.data.base import WHOLE, Images, Part, from_integers
from phin.diffusion.denoiser import Denoise, Denoiser
from phin.diffusion.dequantization import bin_nats, dequantized
from phin.diffusion.level import SCALINGS
from phin.diffusion.noise import Noise, normal, uniform
from phin.diffusion.objectives import Simple, Terms
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import SCHEDULES, Cosine, Schedule
from phin.diffusion.weights import Weight, likelihood, simple
from phin.errors import PhinError
from phin.nets.unet import UNetConfig
from phin.recipes import RECIPES, DiffusionRecipe, Facts
from phin.registry import build
from phin.training.denoising import Denoising


def test_uniform_noise_fills_the_bins_and_no_more() -> None:
    """Centred, 2 / 255 wide, of the variance width² / 12; the bins of neighbours meet and do not overlap."""
    x = from_integers(torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)).expand(200, 1, 16, 16)
    noisy = dequantized(x, uniform(0, "dequantization", range(200), (1, 16, 16)))
    u = (noisy - x) * 127.5
    assert -0.5 - 1e-4 < u.min() < -0.499
    assert 0.499 < u.max() < 0.5 + 1e-4
    assert abs(float(u.mean())) < 4.5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(float(u.var()) * 12 - 1) < 0.05
    ends = (
        dequantized(x[0].double(), torch.full((16, 16), end, dtype=torch.float64)).flatten() for end in (0, 1)
    )
    lower, upper = ends
    torch.testing.assert_close(upper[:-1], lower[1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(upper[-1] - lower[0], torch.tensor(512 / 255).double(), rtol=0, atol=1e-6)


def test_what_is_dequantized_is_rounded_back() -> None:
    """The middle of the draw changes nothing; any draw stays nearest to its own value."""
    x = from_integers(torch.randint(256, (3, 1, 5, 5)).byte())
    assert torch.equal(dequantized(x, torch.full_like(x, 0.5)), x)
    for u in (0.001, 0.999):
        k = ((dequantized(x, torch.full_like(x, u)) + 1) * 127.5).round()
        assert torch.equal(k, ((x + 1) * 127.5).round())


def test_the_uniform_density_over_all_bins_needs_8_bits() -> None:
    """Its density is (255 / 512)^D: -log2 of it and the bins make 8 bits a dimension."""
    density = 7 * math.log(255 / 512)
    assert (bin_nats(7) - density) / (7 * math.log(2)) == pytest.approx(8, rel=1e-12)
    assert bin_nats(7) / 7 == pytest.approx(math.log(127.5))
    assert bin_nats(2, bins=3) == 0  # values -1, 0 and 1: the bins have the volume 1


@pytest.mark.parametrize("wrong", [0.0, 1.1, math.nan])
def test_what_has_no_bin_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="x has the value"):
        dequantized(torch.tensor([[1.0, wrong]]), torch.zeros(1, 2))


# Training


BATCH = 12


def images(n: int = 40) -> Images:
    k = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 1, 4, 4), dtype=np.uint8))
    return Images("squares", {"train": Part(k), "valid": Part(k.flip(0)), "test": Part(k)})


@dataclass
class Seen:
    """An objective that is `Simple` and remembers what it was given."""

    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list[Any])

    def __call__(
        self, denoise: Denoise, x: Tensor, schedule: Schedule, t: Tensor, weight: Weight, noise: Noise
    ) -> Terms:
        self.calls.append((x, noise(x)))
        return Simple()(denoise, x, schedule, t, weight, noise)


class Net(nn.Module):
    """Something small."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return torch.tanh(self.gain * z + (log_snr / 10).view(-1, 1, 1, 1))


def denoising(data: Images | None = None, seen: Seen | None = None, **options: Any) -> Denoising:
    options = {"batch": BATCH, "seed": 3, "dequantize": True, **options}
    return Denoising(
        Denoiser(Net(), v), data or images(), Cosine(), simple, objective=seen or Simple(), **options
    )


def test_every_example_is_spread_over_its_bins_by_its_number() -> None:
    """With the numbers that its noise has, so that no two of a run are the same, nor two epochs."""
    task = denoising(seen=(seen := Seen()))
    for step in range(8):
        task(step, WHOLE)
    numbers = range(8 * BATCH)
    x = torch.cat([images().train(3, step, BATCH).x for step in range(8)])
    given = torch.cat([call[0] for call in seen.calls])
    assert torch.equal(given, dequantized(x, uniform(3, "dequantization", numbers, (1, 4, 4))))
    assert (given - x).abs().max() <= 1 / 255 + 1e-6
    assert (given - x).unique().numel() > 0.99 * given.numel()
    assert torch.equal(torch.cat([call[1] for call in seen.calls]), normal(3, "noise", numbers, (1, 4, 4)))


@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_and_a_resumed_run_see_the_same(processes: int) -> None:
    """A step is a function of its number: bit for bit, whoever takes which rows, whatever came before."""
    task = denoising(seen=(seen := Seen()))
    task(7, WHOLE)
    whole = seen.calls[0][0]
    later = denoising(seen=(parts := Seen()))
    for rank in range(processes):
        later(7, slice(rank, None, processes))
    for rank, (x, _) in enumerate(parts.calls):
        assert torch.equal(x, whole[rank::processes])


def test_without_it_nothing_is_changed() -> None:
    denoising(seen=(seen := Seen()), dequantize=False)(2, WHOLE)
    assert torch.equal(seen.calls[0][0], images().train(3, 2, BATCH).x)
    task = denoising(seen=(seen := Seen()), dequantize=False)
    task.validate(task.model)
    assert torch.equal(seen.calls[0][0], images().split("valid", 40).x)


def test_the_validation_is_of_dequantized_images() -> None:
    """The same noise each time. Of images that are all black, the baseline knows the variance of the bin."""
    task = denoising(seen=(seen := Seen()))
    assert task.validate(task.model) == task.validate(task.model)
    x = images().split("valid", 40).x
    given = seen.calls[0][0]
    assert torch.equal(given, seen.calls[2][0])
    assert 0.9 / 255 < (given - x).abs().max() <= 1 / 255 + 1e-6
    black = Part(torch.zeros(256, 1, 32, 32, dtype=torch.uint8))
    task = denoising(Images("black", {"train": black, "valid": black, "test": black}))
    t = ((torch.arange(256) + 0.5) / 256).double().square()
    snr, variance = Cosine()(t).log_snr.exp(), (2 / 255) ** 2 / 12
    least = (2 * t.sqrt() * snr * variance / (1 + snr * variance)).mean().item()
    assert task.validate(task.model)["baseline"] == pytest.approx(least, rel=0.03)


# The recipe


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"objective": "bound", "density": "discrete(linear)"},
            "objective bound needs the very values of 8-bit images",
        ),
        (
            {"objective": "continuous_bound(decoder=discretized_gaussian(1))"},
            r"objective continuous_bound\(.*\) needs the very values",
        ),
        (
            {"net": UNetConfig(values=256), "parameterization": "x"},
            "net.values = 256 needs the very values of 8-bit images",
        ),
    ],
)
def test_what_needs_the_values_is_refused(choices: dict[str, Any], message: str) -> None:
    DiffusionRecipe(**choices)
    with pytest.raises(PhinError, match=message):
        DiffusionRecipe(dequantize=True, **choices)


def test_a_bound_that_ends_in_a_density_is_not() -> None:
    recipe = DiffusionRecipe(
        net=UNetConfig((8, 16)),
        objective="continuous_bound(decoder=gaussian(0.1))",
        dequantize=True,
        drop=1.0,
    )
    task = recipe.task(images())
    assert isinstance(task, Denoising)
    assert task.dequantize
    assert task(0, slice(0, 2)).loss.isfinite().all()


def test_data_without_8_bits_are_refused() -> None:
    recipe = replace(RECIPES["digits"], dequantize=True)
    with pytest.raises(PhinError, match="dequantize spreads the values of 8-bit images, and digits has none"):
        recipe.task(datasets.load("digits"))


def test_the_recipe_lowers_the_bound_of_the_likelihood() -> None:
    """Its error, plain and uniform in log-SNR, is the likelihood's; its clean end is far inside a bin."""
    recipe = RECIPES["mnist-dequantized"]
    assert isinstance(recipe, DiffusionRecipe)
    density = build(recipe.density, SCHEDULES, "schedule", SCALINGS)
    ends = density.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    at = torch.linspace(ends[1].item(), ends[0].item(), 9, dtype=torch.float64)
    torch.testing.assert_close(likelihood(density)(at), (ends[0] - ends[1]).expand(9), rtol=1e-6, atol=0)
    assert recipe.weight == "simple"
    assert math.exp(-ends[0] / 2) < 0.05 * 2 / 255  # noise against a grey level
    assert 0.5 * torch.sigmoid(ends[1]) / math.log(2) < 1e-3  # bits a black pixel costs at the noisy end


def test_a_model_of_dequantized_images_is_measured_by_the_ode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless asked otherwise: a bound on the likelihood of the grey levels would think it blind to them."""
    k = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8))
    part = Part(k)
    entry = datasets.DATA["digits"]
    own = replace(entry, load=lambda: Images("digits", {"train": part, "valid": part, "test": part}))
    monkeypatch.setitem(datasets.DATA, "digits", own)  # pyright: ignore[reportArgumentType]
    recipe = replace(tiny.LABELLED, dequantize=True, drop=1.0)
    monkeypatch.setitem(tiny.FACTS, recipe, Facts((1, 8, 8), 0, 0, (), True))
    model = models.load(tiny.write(recipe, tmp_path / "model.safetensors"))
    found = nll.nll(model, n=2, rtol=0.5)
    assert (found["method"], found["dequantization"]) == ("ode", "uniform")
    assert nll.nll(model, "continuous", n=2, times=1)["method"] == "continuous"
