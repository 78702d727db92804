"""Stacked MNIST, and the count of its modes: on pictures whose every digit is known."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from phin.data import DATA
from phin.data.base import Which, from_integers
from phin.data.stacked import Stacked
from phin.diffusion.noise import Noise
from phin.errors import PhinError
from phin.evaluation import PicturePlan, evaluate, rows
from phin.families.base import OneShot
from phin.metrics.features import Features, Seen
from phin.metrics.modes import count, read_modes, tally
from phin.models import Model
from phin.recipes import Facts, GANRecipe
from phin.recipes.features import FEATURES

SPLITS: dict[Which, tuple[int, int]] = {"train": (0, 100), "valid": (100, 130), "test": (130, 170)}


def stacked() -> Stacked:
    """Image i of all is of one shade, i, so that a picture tells of which images it is made."""
    return Stacked(
        {
            which: torch.arange(*ends, dtype=torch.uint8)[:, None, None].repeat(1, 28, 28)
            for which, ends in SPLITS.items()
        }
    )


def chosen(x: Tensor) -> Tensor:
    """The numbers of the images (n, 3) that pictures are made of."""
    assert (x == x[..., :1, :1]).all()
    return ((x[:, :, 0, 0] + 1) * 127.5).round().long()


@pytest.mark.parametrize("which", SPLITS)
def test_layers_are_images_of_the_split_apart_from_each_other(which: Which) -> None:
    data, n = stacked(), 6000
    batch = data.split(which, n) if which != "train" else data.train(0, 0, n)
    assert (batch.cond, batch.total, batch.x.dtype) == ({}, n, torch.float32)
    low, high = SPLITS[which]
    images = chosen(batch.x) - low
    counts = torch.stack([torch.bincount(layer, minlength=high - low) for layer in images.T]).double()
    assert counts.shape == (3, high - low)
    even = n / (high - low)
    assert (counts - even).abs().max() < 5 * math.sqrt(even)
    assert torch.corrcoef(images.T.double()).fill_diagonal_(0).abs().max() < 5 / math.sqrt(n)


def test_batches_are_pure_and_fresh_and_parts_of_them_fit() -> None:
    data = stacked()
    whole = data.train(3, 7, 50).x
    for places in (slice(0, None, 2), slice(1, None, 2), slice(10, 20)):
        part = data.train(3, 7, 50, places)
        assert torch.equal(part.x, whole[places])
        assert part.total == 50
    for other in (data.train(3, 8, 50), data.train(4, 7, 50), data.split("train", 50)):
        assert not torch.equal(other.x, whole)
    for which, (low, high) in SPLITS.items():
        assert len(data.split(which).x) == high - low
    assert torch.equal(data.split("test", 20).x, data.split("test", 40).x[:20])
    assert not torch.equal(data.split("test", 20, 1).x, data.split("test", 20).x)


class Shades(Features):
    """Reads the digit d off a picture whose shade is 25 d, to within 12 of it."""

    name, dims, class_names, largest = "shades", 1, tiny.DIGITS, 0

    def check(self, shape: tuple[int, ...]) -> None:
        assert shape == (1, 28, 28)

    def __call__(self, pictures: UInt8[Tensor, "n 1 28 28"]) -> Seen:
        self.largest = max(self.largest, len(pictures))
        shade = pictures.double().mean((1, 2, 3))[:, None]
        return Seen(shade.float(), -(shade - 25 * torch.arange(10)).abs().float())


def pictures(modes: Tensor) -> Tensor:
    digits = torch.stack([modes // 100, modes // 10 % 10, modes % 10], 1)
    return from_integers((25 * digits).to(torch.uint8))[..., None, None].expand(-1, -1, 28, 28)


def test_a_mode_is_the_number_that_the_layers_read() -> None:
    modes = torch.tensor([0, 7, 42, 123, 321, 999, 900, 90, 9])
    reader = Shades()
    assert torch.equal(read_modes(reader, pictures(modes)), modes)
    assert torch.equal(read_modes(reader, pictures(torch.arange(1000))), torch.arange(1000))
    assert reader.largest <= 512


def test_pictures_are_counted_by_modes_over_batches() -> None:
    modes = torch.tensor([5, 5, 5, 17, 17, 830])
    batches = [(range(2), pictures(modes[:2])), (range(12, 16), pictures(modes[2:]))]
    counts = count(Shades(), iter(batches), 3)
    assert counts[[0, 1, 2, 3, 4, 5], modes].tolist() == [1] * 6  # number 12 is in group 2
    found = tally(counts)
    assert (found.found.value, found.modes, found.n) == (3, 1000, 6)
    shares = [3 / 6, 2 / 6, 1 / 6]
    assert found.kl.value == pytest.approx(sum(p * math.log(1000 * p) for p in shares))
    # Without its group, the only picture of mode 830 is missed: a value of 2, beside nine of 3.
    assert found.found.error == pytest.approx(math.sqrt(0.9 * (9 * 0.1**2 + 0.9**2)))
    with pytest.raises(PhinError, match="0 pictures are too few"):
        tally(count(Shades(), [], 3))


@pytest.mark.parametrize(
    ("counts", "found", "kl"), [([3, 3, 3, 3], 4, 0), ([5, 5, 0, 0], 2, 2), ([0, 0, 7, 0], 1, 4)]
)
def test_the_divergence_is_the_logarithm_of_the_share_of_modes_that_are_evenly_drawn(
    counts: list[int], found: int, kl: float
) -> None:
    told = tally(torch.tensor(counts).expand(10, -1))
    assert (told.found.value, told.modes, told.n) == (found, 4, 10 * sum(counts))
    assert told.kl.value == pytest.approx(math.log(kl) if kl else 0, abs=1e-12)
    assert told.found.error == 0
    assert told.kl.error == pytest.approx(0, abs=1e-12)


def test_what_even_draws_find_and_how_far_they_seem_from_even() -> None:
    """K (1 - 1 / K)^n modes are missed, and n KL is half a chi-squared of K - 1 degrees, on average."""
    rng, modes, n, runs = np.random.default_rng(0), 50, 400, 400
    even = [1 / modes] * modes
    told = [tally(torch.from_numpy(rng.multinomial(n // 10, even, 10))) for _ in range(runs)]
    missed = np.mean([modes - one.found.value for one in told])
    expected = modes * (1 - 1 / modes) ** n
    assert missed == pytest.approx(expected, abs=4 * math.sqrt(expected / runs))
    spread = math.sqrt(2 * (modes - 1)) / (2 * n)
    bias = (modes - 1) / (2 * n)
    assert np.mean([one.kl.value for one in told]) == pytest.approx(
        bias * (1 + modes / (6 * n)), abs=4 * spread / math.sqrt(runs)
    )


class Two(OneShot):
    """Draws two modes, each as often as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        heads = noise(torch.empty(count, 1))[:, 0] > 0
        return pictures(torch.where(heads, 5, 830))


def test_a_model_of_stacked_digits_is_measured_by_its_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = GANRecipe(data="stacked-mnist"), stacked()
    entry = replace(DATA["stacked-mnist"], load=lambda: data, files=None)
    monkeypatch.setitem(DATA, "stacked-mnist", entry)  # pyright: ignore[reportArgumentType]
    facts = Facts.of(data)
    monkeypatch.setitem(FEATURES, "digit-reader", Shades)
    model = Model(Two(), recipe, facts, {}, Path("model"))
    seen: list[int] = []
    figures = evaluate(
        model, plan=PicturePlan(n=1000, seed=3), bar=lambda total, doing: nullcontext(seen.append)
    )
    assert (figures["n"], sum(seen), max(seen)) == (1000, 1000, 64)
    assert (figures["modes"]["found"]["value"], figures["modes"]["of"]) == (2, 1000)
    assert figures["modes"]["kl"]["value"] == pytest.approx(math.log(500), abs=0.02)
    for one in (figures["modes"]["kl"], figures["real"]["kl"]):
        assert (one["n"], one["reference"]) == (1000, {"split": "test", "n": 1000})
        assert 0 <= one["interval"][0] < one["value"] < one["interval"][1] <= math.log(1000)
    real = read_modes(Shades(), data.split("test", 1000, 3).x)
    assert figures["real"]["found"]["value"] == len(real.unique())
    heading, found, kl = rows(figures)
    assert (found[1], found[4]) == ("2 ± 0", "1,000")
    assert found[2].startswith(f"{len(real.unique())} ± ")
    assert float(kl[1].split()[0]) == pytest.approx(figures["modes"]["kl"]["value"], rel=1e-3)
    assert len(heading) == len(found) == len(kl)
    assert figures["sampling"] == {"seed": 3}
    nothing = torch.full((3, 28, 28), math.nan)
    monkeypatch.setattr(Two, "generate", lambda net, count, noise: nothing.expand(count, -1, -1, -1))
    with pytest.raises(PhinError, match="sample 0 that model drew has values that are not finite"):
        evaluate(model, plan=PicturePlan(n=20))
