"""Sequences have the spectrum and the circular moments of their laws, and what has others is found out."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from scipy.special import ive
from torch import Tensor, nn

import phin
import phin.data
from phin.cli import main
from phin.data.sequences import LENGTH, START, STEADY, TURN, WAVES, Sequences, powers
from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.evaluation import PicturePlan, evaluate, rows
from phin.families.base import OneShot
from phin.metrics.sequences import HIGHEST, STATISTICS, angles, mean_error, off_circle, spectrum, steps
from phin.models import Model
from phin.pictures import COLOURS, plot
from phin.recipes import DiffusionRecipe, Facts, describe
from phin.sampling import SampleConfig
from phin.training.checkpoint import save_weights

N = 5_000
SETS = ("sines", "angles")
RECIPE = DiffusionRecipe(
    data="angles", net=tiny.NET, train=tiny.BRIEF, sample=SampleConfig(steps=3, threshold="none")
)


def load(name: str) -> Sequences:
    data = phin.data.load(name)
    assert isinstance(data, Sequences)
    return data


def of_a_sine(k: int, amplitude: float, phase: float, length: int = 16) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * k * torch.arange(length).double() / length + phase)[None, None]


def test_a_sine_has_half_its_squared_amplitude_at_its_frequency() -> None:
    for k, weight in ((0, 1), (1, 0.5), (5, 0.5), (8, 1)):
        phase = 0.3 if 0 < k < 8 else math.pi / 2  # else it is a constant, or alternates
        expected = torch.zeros(9).double()
        expected[k] = weight * 1.7**2
        torch.testing.assert_close(spectrum(of_a_sine(k, 1.7, phase))[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [7, 8])
def test_the_powers_of_all_channels_add_up_to_the_mean_square(length: int) -> None:
    x = torch.randn(5, 3, length).double()
    torch.testing.assert_close(spectrum(x).sum(1), x.square().mean(2).sum(1))


def test_sines_have_their_spectrum_and_nothing_else() -> None:
    found = spectrum(load("sines").split("train", N).x)
    lines = list(WAVES)
    assert powers().sum() == pytest.approx(1)
    np.testing.assert_allclose(powers() / powers()[0], [1 / k for k in WAVES])
    others = [k for k in range(LENGTH // 2 + 1) if k not in lines]
    assert found[:, others].max() < 1e-12
    spread = found[:, lines].std(0) / math.sqrt(N)
    assert ((found[:, lines].mean(0) - torch.from_numpy(powers())).abs() < 5 * spread).all()
    relative = found[:, lines] / torch.from_numpy(powers())
    # u in [1/2, 3/2] is the amplitude: E[u^4] / E[u²]² = 1.5125 / (13/12)²
    torch.testing.assert_close(
        relative.square().mean(0), torch.full((6,), 1.28876).double(), rtol=0.08, atol=0
    )
    assert relative.min() >= 0.25 / (13 / 12) - 1e-5
    assert relative.max() <= 2.25 / (13 / 12) + 1e-5
    assert torch.corrcoef(found[:, lines].T).fill_diagonal_(0).abs().max() < 5 / math.sqrt(N)


def test_phases_of_sines_are_uniform_and_independent() -> None:
    phase = torch.fft.rfft(load("sines").split("test", N).x[:, 0].double())[:, list(WAVES)].angle()
    for p in (1, 2):
        turns = torch.polar(torch.ones_like(phase), p * phase)
        assert turns.mean(0).abs().max() < 5 / math.sqrt(N)
        assert ((turns.mH @ turns) / N).fill_diagonal_(0).abs().max() < 5 / math.sqrt(N)


def bessel(p: int, kappa: float) -> float:
    return float(ive(p, kappa) / ive(0, kappa))


def test_angles_have_the_moments_of_von_mises_walks() -> None:
    x = load("angles").split("train", N).x
    assert off_circle(x).max() < 1e-6
    place = torch.arange(LENGTH)
    found = angles(x).mean(0).view(HIGHEST, LENGTH)
    stepped = steps(x).mean(0).view(4, HIGHEST)
    for k, p in enumerate(range(1, HIGHEST + 1)):
        turn = torch.polar(torch.tensor(bessel(p, STEADY)).double(), torch.tensor(p * TURN).double())
        assert (found[k] - bessel(p, START) * turn**place).abs().max() < 5 / math.sqrt(N)
        for row, d in zip(stepped, (1, 2, 4, 8), strict=True):
            assert (row[k] - turn**d).abs() < 5 / math.sqrt(N)


@pytest.mark.parametrize("name", SETS)
def test_batches_are_pure_and_fresh(name: str) -> None:
    data = load(name)
    whole = data.train(0, 7, 64)
    assert (whole.x.dtype, whole.cond, whole.total) == (torch.float32, {}, 64)
    assert whole.x.shape[1:] == data.shape
    halves = [data.train(0, 7, 64, places).x for places in (slice(0, 64, 2), slice(1, 64, 2))]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole.x)
    for other in (
        data.train(0, 8, 64),
        data.train(1, 7, 64),
        data.split("valid", 64),
        data.split("test", 64),
    ):
        assert torch.cdist(other.x.flatten(1), whole.x.flatten(1)).min() > 0.1


def test_the_error_is_that_of_the_means_in_closed_form() -> None:
    x = load("sines").split("test", 500).x
    assert mean_error(spectrum(x), spectrum(x)).value == 0
    assert mean_error(spectrum(x.flip(2)), spectrum(x)).value < 1e-6
    assert mean_error(spectrum(2 * x), spectrum(x)).value == pytest.approx(3)
    walk = load("angles").split("test", 500).x
    back = walk * torch.tensor([1.0, -1.0])[:, None]  # the other way round
    m = steps(walk).mean(0)
    assert mean_error(steps(back), steps(walk)).value == pytest.approx(
        float(2 * m.imag.abs().sum() / m.abs().sum())
    )
    turned = torch.stack([-walk[:, 1], walk[:, 0]], 1)
    assert mean_error(steps(turned), steps(walk)).value < 1e-6
    m = angles(walk).mean(0).view(3, -1).abs().sum(1)
    away = torch.tensor([2**0.5, 2.0, 2**0.5]).double()  # |i^p - 1|
    assert mean_error(angles(turned), angles(walk)).value == pytest.approx(float(away @ m / m.sum()))
    assert mean_error(angles(3 * turned), angles(turned)).value < 1e-6
    torch.testing.assert_close(off_circle(3 * walk), torch.full((500,), 2.0).double(), atol=1e-5, rtol=0)


def test_the_error_of_the_error_is_how_far_it_strays() -> None:
    rng = np.random.default_rng(0)
    away = np.array([0.3, -0.2, 0.5])
    found = [
        mean_error(
            *(
                torch.from_numpy(1 + a + 0.5 * rng.standard_normal((n, 3)))
                for n, a in ((400, away), (200, 0 * away))
            )
        )
        for _ in range(200)
    ]
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(np.abs(away).sum() / 3, abs=4 * values.std() / math.sqrt(200))
    assert np.mean([one.error**2 for one in found]) ** 0.5 == pytest.approx(values.std(), rel=0.15)


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(PhinError, match="5 and 40 sequences are too few"):
        mean_error(torch.ones(5, 2), torch.ones(40, 2))
    with pytest.raises(PhinError, match="not finite"):
        mean_error(torch.full((40, 2), torch.nan), torch.ones(40, 2))


class Imitator(OneShot):
    """Draws from the law of a data set, changed in some way."""

    def __init__(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))
        self.name, self.change = name, change

    def generate(self, count: int, noise: Noise) -> Tensor:
        key = int(1e6 * float(noise(torch.empty(count, 1))[0].abs()))
        return self.change(load(self.name).train(key, 0, count).x)


def figures_of(name: str, change: Callable[[Tensor], Tensor], **more: Any) -> dict[str, Any]:
    facts = Facts.of(load(name))
    model = Model(Imitator(name, change), replace(RECIPE, data=name), facts, {}, Path("model"))
    return evaluate(model, **{"plan": PicturePlan(n=600), **more})


def test_a_model_of_the_law_has_no_more_error_than_real_data_have() -> None:
    for name, applies in (("sines", {"spectrum"}), ("angles", set(STATISTICS))):
        figures = figures_of(name, lambda x: x)
        assert figures["statistics"].keys() == applies
        assert figures["sampling"] == {"seed": 0}
        for found in figures["statistics"].values():
            assert 0 < found["floor"]["value"] < 0.4
            assert found["value"] < found["floor"]["value"] + 4 * (found["floor"]["error"] + found["error"])
        assert len(rows(figures)) == 1 + len(applies) + (name == "angles")
    assert figures["off_circle"]["drawn"]["value"] < 1e-6
    for found in (*figures["statistics"].values(), figures["off_circle"]["real"]):
        assert (found["n"], found["reference"]) == (600, {"split": "test", "n": 600})
        assert 0 <= found["interval"][0] <= found["value"] <= found["interval"][1]
    with pytest.raises(PhinError, match="features inception look at pictures, and model draws none"):
        figures_of("sines", lambda x: x, features="inception")
    with pytest.raises(PhinError, match="compared = 30 is for models that draw pictures"):
        figures_of("sines", lambda x: x, plan=PicturePlan(n=600, compared=30))


def test_a_model_of_another_law_is_found_out() -> None:
    weak = figures_of("sines", lambda x: 0.8 * x)["statistics"]["spectrum"]
    assert weak["value"] == pytest.approx(0.36, abs=4 * weak["error"] + 0.02)
    figures = figures_of("angles", lambda x: 0.9 * x.flip(2))
    assert figures["statistics"]["steps"]["value"] > 20 * figures["statistics"]["steps"]["floor"]["value"]
    assert figures["off_circle"]["drawn"]["value"] == pytest.approx(0.1, abs=1e-4)
    assert figures["off_circle"]["real"]["value"] < 1e-6


def test_a_plot_has_time_to_the_right_and_large_values_above() -> None:
    x = torch.stack([torch.linspace(-3, 3, 32), torch.full((32,), -1.5)])
    shown = plot(x, side=60, step=2)
    assert shown.shape == (60, 64, 3)
    rising = np.abs(shown.astype(int) - COLOURS[0]).sum(2).argmin(0)
    assert rising[3] > 50
    assert rising[-4] < 10
    assert (np.diff(rising[4:-4]) <= 0).all()
    flat = np.abs(shown.astype(int) - COLOURS[1]).sum(2).argmin(0)[20:-2]
    assert set(flat) <= {44, 45}  # 3/4 of the way down


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    facts = Facts((2, LENGTH), 0, 0, (), False)
    net = RECIPE.model(facts)
    tiny.randomise(net)
    save_weights(tmp_path / "model.safetensors", net.state_dict(), describe("tiny", RECIPE, facts))
    return tmp_path / "model.safetensors"


def test_sampled_sequences_are_written_as_numbers_and_plotted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["sample", "--model", str(model), "-n", "3", "--grid", "--gif", "--out", str(out)]) == 0
    drawn = phin.sample(phin.load(model), n=3)
    np.testing.assert_allclose(np.load(out / "sequences.npy", allow_pickle=False), drawn, atol=1e-4)
    assert drawn[0].shape == (2, LENGTH)
    with Image.open(out / "0001.png") as image, Image.open(out / "0001.gif") as film:
        expected = plot(torch.from_numpy(drawn[1]))
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < 1
        assert film.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert {"sequences.npy", "grid.png"} <= {path.name for path in out.iterdir()}
    assert str(out / "sequences.npy") in capsys.readouterr().out


def test_sequences_are_learned(tmp_path: Path) -> None:
    brief = replace(tiny.BRIEF, steps=60, batch=32, lr=2e-2, validate_every=1.0, picture_every=1.0)
    result = phin.train(replace(RECIPE, train=brief), tmp_path / "run")
    assert result.validation["loss"] < 0.7 * result.validation["baseline"]
    with Image.open(next((tmp_path / "run" / "samples").iterdir())) as sheet:
        assert sheet.size == (5 * (4 * LENGTH + 2) + 2, 2 * (64 + 2) + 2)
