"""A bound level by level: against the least error of data that are known exactly, and as a picture."""

import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from coins import DARK, EXACT, LIGHT, SHARE, bernoulli
from PIL import Image
from torch import Tensor, nn

from phin import cli, models, nll
from phin import data as datasets
from phin.data.base import Batch, Images, from_integers
from phin.data.base import Part as Split
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import vp
from phin.diffusion.parameterization import x as predicts_x
from phin.diffusion.schedules import Cosine, Discrete, Geometric, Learned, Schedule
from phin.metrics.curve import Part, curve
from phin.metrics.likelihood import METHODS, Bounding, Options, measure, rate
from phin.oracle import Mixture
from phin.recipes import Facts

COARSE = Geometric(sigma_min=0.25, sigma_max=20.0)
"""Without the levels at which two values are never mistaken for each other."""
COIN = Mixture.atoms([1 - SHARE, SHARE], torch.tensor([[DARK], [LIGHT]]).double() * 2 / 255 - 1)


def least_error(log_snr: Tensor) -> Tensor:
    """E|x - E[x | z]|² of a pixel at log-SNRs (n,), by quadrature."""
    errors = []
    for one in log_snr:
        level = vp(one)
        z = torch.linspace(-1, 1, 1501, dtype=torch.float64)[:, None] * (level.alpha + 9 * level.sigma)
        p = COIN.log_prob(z, level).exp() * (z[1] - z[0])
        errors.append(p @ COIN.posterior_cov(z, level)[:, 0, 0])
    return torch.stack(errors)


def bounding(method: str, schedule: Schedule, **options: Any) -> Bounding:
    way = METHODS[method](schedule, Options(**options))
    assert isinstance(way, Bounding)
    return way


def agrees(parts: list[Part], expected: list[float]) -> None:
    """Each within its error, and the errors of the right size."""
    pairs = zip(parts, expected, strict=True)
    off = np.array([(part.rate.value - true) / part.rate.error for part, true in pairs])
    assert np.abs(off).max() < 4.5
    assert 0.6 < np.sqrt(np.mean(off**2)) < 1.6


@pytest.mark.parametrize(("method", "first"), [("chain", 2), ("discrete", 1)])
@pytest.mark.parametrize("times", [3, 60])
def test_each_step_of_a_short_chain_costs_what_the_least_error_says(
    method: str, first: int, times: int
) -> None:
    """(SNR(s) - SNR(t)) E|x - x̂|² / 2 at t, in bits a dimension; by few times an image or by many."""
    way = bounding(method, COARSE, steps=24, times=times)
    parts = curve(EXACT, bernoulli(4800 // times), way)
    assert [(part.first, part.last) for part in parts] == [(t, t) for t in range(first, 25)]
    log_snr = COARSE.log_snr(torch.arange(25).double() / 24)
    exact = -0.5 * log_snr.exp().diff() * least_error(log_snr[1:]) / math.log(2)
    agrees(parts, exact[first - 1 :].tolist())


def test_many_steps_share_parts_and_none_is_left_out() -> None:
    chain = Discrete(COARSE, 300)
    parts = curve(EXACT, bernoulli(600), bounding("chain", chain), points=20)
    assert len(parts) <= 20
    assert [part.first for part in parts[:3]] == [part.last for part in parts[:3]] == [2, 3, 4]
    assert (parts[0].first, parts[-1].last) == (2, 300)
    assert all(b.first == a.last + 1 for a, b in pairwise(parts))
    exact = torch.zeros(301).double()
    exact[2:] = 0.5 * -chain.table.exp().diff() * least_error(chain.table[1:]) / math.log(2)
    agrees(parts, [float(exact[int(part.first) : int(part.last) + 1].mean()) for part in parts])


@pytest.mark.parametrize("schedule", [COARSE, Learned(3.0, -6.0).requires_grad_(False)])
def test_in_continuous_time_it_is_the_least_error_by_log_snr(schedule: Schedule) -> None:
    """SNR E|x - x̂|² / 2 for each nat, whatever the schedule's interior; its area is the diffusion term."""
    parts = curve(EXACT, bernoulli(400), bounding("continuous", schedule), points=30)
    clean, noisy = (float(schedule.log_snr(torch.tensor(t).double())) for t in (0.0, 1.0))
    edges = np.linspace(clean, noisy, 31)
    assert [part.first for part in parts] == pytest.approx(edges[:-1].tolist())
    assert [part.last for part in parts] == pytest.approx(edges[1:].tolist())
    fine = torch.linspace(clean, noisy, 121, dtype=torch.float64)
    integrand = 0.5 * fine.exp() * least_error(fine) / math.log(2)
    exact = [float(torch.trapezoid(integrand[4 * i : 4 * i + 5], dx=1 / 4)) for i in range(30)]
    agrees(parts, exact)
    area = sum(part.rate.value * (part.first - part.last) for part in parts)
    error = math.hypot(*(part.rate.error * (part.first - part.last) for part in parts))
    assert area == pytest.approx(float(torch.trapezoid(integrand, dx=(clean - noisy) / 120)), abs=4.5 * error)


class Nothing(nn.Module):
    """x̂ = 0, whatever it sees: every estimate of an image is |x|² and its weight, without chance."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(z)


def test_the_error_is_that_of_a_mean_over_images() -> None:
    """Two estimates of one image are one, if they say the same."""
    x = torch.randint(256, (50, 1, 2, 3), generator=torch.Generator().manual_seed(0)).byte()
    data = Batch(from_integers(x), {}, 50)
    parts = curve(Denoiser(Nothing(), predicts_x), data, bounding("chain", COARSE, steps=25, times=48))
    size = data.x.double().square().flatten(1).sum(1)
    log_snr = COARSE.log_snr(torch.arange(1, 26).double() / 25)
    for part, gain in zip(parts, -0.5 * log_snr.exp().diff(), strict=True):
        said = rate(gain * size, 6)
        assert part.draws == 100
        assert part.rate.value == pytest.approx(said.value, rel=1e-5)
        assert part.rate.error == pytest.approx(said.error, rel=1e-5)


@pytest.mark.parametrize(("images", "times"), [(1, 1), (1, 8), (3, 3), (7, 2), (40, 5), (129, 1)])
def test_every_part_has_estimates_enough(images: int, times: int) -> None:
    """However few there are: then there are fewer parts."""
    for method in ("chain", "continuous"):
        parts = curve(EXACT, bernoulli(images), bounding(method, Cosine(), times=times))
        assert 1 <= len(parts) <= max(1, images * times // 8)
        assert sum(part.draws for part in parts) == images * times
        assert min(part.draws for part in parts) >= min(4, images * times)
        assert all(math.isfinite(part.rate.value) for part in parts)
        assert all(math.isfinite(part.rate.error) == (images > 1) for part in parts)


def test_batches_do_not_matter_and_the_bound_stays_what_it_is() -> None:
    way, data = bounding("chain", Cosine(), times=4, steps=20), bernoulli(30)
    before = measure(EXACT, data, way)
    told: list[int] = []
    whole, parts = curve(EXACT, data, way), curve(EXACT, data, way, batch=7, watch=told.append)
    assert [part.rate.value for part in parts] == pytest.approx([part.rate.value for part in whole])
    assert sum(told) == 30
    assert measure(EXACT, data, way).total == before.total


# The command


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with random weights, of 30 images of random grey."""
    k = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    split = Split(torch.from_numpy(k), torch.arange(30) % 10)
    images = Images("digits", {"train": split, "valid": split, "test": split}, tiny.DIGITS)
    entry = replace(datasets.DATA["digits"], load=lambda: images)
    monkeypatch.setitem(datasets.DATA, "digits", entry)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(tiny.FACTS, tiny.LABELLED, Facts((1, 8, 8), 10, 0, tiny.DIGITS, True))
    return tiny.write(tiny.LABELLED, tmp_path / "model.safetensors")


@pytest.mark.parametrize("method", ["chain", "discrete", "continuous"])
def test_the_command_draws_the_curve_and_tells_it(
    method: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "curve.png"
    argv = ["nll", "--model", str(model), "--method", method, "-n", "30", "--times", "10"]
    assert cli.main([*argv, "--curve", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    picture = np.asarray(Image.open(io.BytesIO(out.read_bytes())).convert("L"))
    assert picture.shape[1] > 1000
    assert picture.std() > 5
    assert facts["picture"] == str(out)
    points = facts["curve"]["points"]
    assert len(points) > 25
    assert sum(point["draws"] for point in points if point.get("steps") != [1, 1] or method != "chain") == 300
    if method == "continuous":
        assert (points[0]["log_snr"][0], points[-1]["log_snr"][1]) == pytest.approx((10, -10), abs=1e-6)
        return
    assert points[0]["steps"][0] == 1
    assert points[-1]["steps"][1] == 1000
    for a, b in pairwise(points):
        assert b["steps"][0] == a["steps"][1] + 1
        assert b["log_snr"][0] < a["log_snr"][1]
    table = (
        Discrete(Cosine()).table
        if method == "chain"
        else Cosine().log_snr(torch.arange(1, 1001).double() / 1000)
    )
    assert points[4]["log_snr"][0] == pytest.approx(float(table[points[4]["steps"][0] - 1]))
    if method == "chain":
        assert points[0]["value"] == facts["terms"]["reconstruction"]["value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "ode", "--curve", "curve.png"], "method ode: it has no terms by level"),
        (["--curve", "curve.jpg"], "curve.jpg is no PNG file"),
    ],
)
def test_mistakes(options: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nll", "--model", str(model), "-n", "2", *options]) == 2
    assert message in capsys.readouterr().err


def test_one_image_has_a_curve_without_errors(model: Path) -> None:
    facts = nll.nll(models.load(model), "continuous", n=1, times=16, curve=True)
    assert [point["error"] for point in facts["curve"]["points"]] == [None, None]
    assert nll.picture(facts).startswith(b"\x89PNG")
