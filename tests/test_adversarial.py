"""Training of generative adversarial networks: batches, clipping, what is kept, and what decides."""

import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill_resume
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin.cli import main
from phin.data.base import WHOLE, some
from phin.data.numbers import Numbers
from phin.diffusion.noise import Noise, normal
from phin.errors import PhinError
from phin.families.gan import GANConfig, Generator, play
from phin.metrics.frechet import frechet_distance
from phin.metrics.untrained import Untrained, joint_moments
from phin.recipes import GANRecipe, train
from phin.training.adversarial import Adversarial
from phin.training.checkpoint import read_weights
from phin.training.config import TrainConfig
from phin.training.log import Meter
from phin.training.optimizer import Optimizer

BRIEF = TrainConfig(
    steps=6,
    batch=10,
    lr=1e-2,
    muon=False,
    betas=(0.0, 0.99),
    clip=100.0,
    precision="float32",
    validate_every=1.0,
    picture_every=0.0,
    trackers=(),
)
TINY = GANRecipe(data="digits", net=GANConfig(channels=(6, 8), latent=5, label=3), every=1, train=BRIEF)
DIGITS = datasets.load("digits")


def task(recipe: GANRecipe = TINY) -> Adversarial:
    found = recipe.task(DIGITS)
    assert isinstance(found, Adversarial)
    return found


def test_both_play_for_the_batchs_labels_with_noise_of_each_place() -> None:
    game = task()
    losses = game(3, WHOLE)
    x, cond, _ = DIGITS.train(0, 3, 10)
    z = normal(0, "noise", range(30, 40), (5,))
    expected = torch.stack(play(game.model, x, z, cond["label"], TINY.penalty), 1)
    assert losses.by_part is not None
    torch.testing.assert_close(losses.by_part, expected)
    torch.testing.assert_close(losses.loss, expected.sum(1))
    assert list(game.parts()) == ["generator", "discriminator"]
    for parts in (2, 3):
        for rank in range(parts):
            torch.testing.assert_close(game(3, slice(rank, None, parts)).loss, losses.loss[rank::parts])
    assert not torch.allclose(game(4, WHOLE).loss, losses.loss)


def test_a_rare_penalty_counts_as_often_as_a_steady_one() -> None:
    rare, none = task(replace(TINY, every=4)), task(replace(TINY, penalty=0.0))
    steady = task()
    for other in (rare, none):
        other.model.load_state_dict(steady.model.state_dict())
    taken = [
        [(one(step, WHOLE).loss - none(step, WHOLE).loss).sum().item() for step in range(8)]
        for one in (rare, steady)
    ]
    assert [amount > 0 for amount in taken[0]] == [True, False, False, False] * 2
    assert taken[0][0] == pytest.approx(4 * taken[1][0], rel=1e-3)
    assert taken[0][4] == pytest.approx(4 * taken[1][4], rel=1e-3)


def test_the_players_gradients_are_clipped_apart_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[list[float]] = []
    step = Optimizer.step

    def watched(self: Optimizer, lr: float) -> None:
        players = [
            [p.grad for name, p in self.plain.items() if name.startswith(part) and p.grad is not None]
            for part in ("generator.", "discriminator.")
        ]
        lengths.append([nn.utils.get_total_norm(gradients).item() for gradients in players])
        step(self, lr)

    monkeypatch.setattr(Optimizer, "step", watched)
    found: list[dict[str, float]] = []
    for clip in (100.0, 0.01):
        train(replace(TINY, train=replace(BRIEF, clip=clip)), tmp_path / str(clip))
        found.append(next(r for r in kill_resume.records(tmp_path / str(clip)) if "lr" in r))
    first, clipped = lengths[0], lengths[6:]
    for record in found:  # of the first step, which is the same in both: as they were
        told = [record[f"gradient_norm/{part}"] for part in ("generator", "discriminator")]
        assert told == pytest.approx(first, rel=1e-5)
        assert record["loss/generator"] + record["loss/discriminator"] == pytest.approx(
            record["loss"], rel=1e-6
        )
        assert "gradient_norm" not in record
    assert min(first) > 0.02
    assert np.array(clipped) == pytest.approx(np.full((6, 2), 0.01), rel=1e-3)


def test_losses_and_norms_are_told_by_part() -> None:
    meter = Meter(torch.device("cpu"), ("a", "b"))
    for loss, by_part, norms in (
        ([3.0, 6.0], [[1.0, 2.0], [2.0, 4.0]], (7.0, 1.0)),
        ([9.0], [[3.0, 6.0]], (5.0, 2.0)),
    ):
        told = meter.counted(torch.tensor(loss), None, None, torch.tensor(by_part))
        meter.add(told, *norms)
    expected = {"loss": 6.0, "loss/a": 2.0, "loss/b": 4.0, "gradient_norm/a": 6.0, "gradient_norm/b": 1.5}
    assert meter.read() == expected
    assert meter.read() == {}


def test_what_is_kept_is_the_averaged_generator_alone(tmp_path: Path) -> None:
    result = train(TINY, tmp_path)
    last, best = (read_weights(path)[0] for path in (result.last, result.best))
    torch.manual_seed(0)
    generator = set(task().model.generator.state_dict())
    assert set(best) == generator
    assert {name[4:] for name in last if name.startswith("ema.")} == generator
    assert any(name.startswith("model.discriminator.") for name in last)
    model = phin.load(tmp_path)
    assert isinstance(model.net, Generator)
    for name, weight in model.net.state_dict().items():
        torch.testing.assert_close(weight, best[name], rtol=0, atol=0)
        assert not torch.equal(weight, last[f"model.generator.{name}"])
    assert {picture.shape for picture in phin.sample(model, labels=[3, -1], n=2)} == {(8, 8)}
    one = phin.samples(model, labels=[3], seed=2)[0]
    torch.testing.assert_close(one, phin.samples(model, labels=[3, 4, 5], seed=2)[0])


@pytest.mark.parametrize("penalty", [{"penalty": 0.0, "spectral": True}, {"every": 3}])
def test_a_run_that_goes_on_is_the_uninterrupted_one_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, penalty: dict[str, Any]
) -> None:
    net = replace(TINY.net, spectral_norm=penalty.pop("spectral", False))
    recipe = replace(TINY, net=net, train=replace(BRIEF, validate_every=0.3, picture_every=0.5), **penalty)
    train(recipe, tmp_path / "alone")
    forward = Adversarial.forward

    def interrupting(self: Adversarial, step: int, rows: slice) -> Any:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return forward(self, step, rows)

    monkeypatch.setattr(Adversarial, "forward", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    train(recipe, tmp_path / "stopped")
    assert kill_resume.difference(tmp_path / "alone", tmp_path / "stopped") is None


class Copying(Generator):
    """Gives held-out pictures out as its own, as if of other labels, if it is to."""

    def __init__(self, shift: int) -> None:
        super().__init__(TINY.net, (1, 8, 8), 10)
        self.x, cond, _ = some(DIGITS, "valid", 2000)
        self.label, self.at, self.shift = cond["label"], 0, shift

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        assert label is not None
        here = slice(self.at, self.at + count)
        assert torch.equal(label, self.label[here])
        self.at += count
        return self.x.roll(self.shift, 0)[here]


@torch.no_grad()
def test_the_number_that_decides_is_0_of_the_data_themselves_under_their_own_labels_only() -> None:
    game = task()
    found = game.validate(Copying(0))
    assert list(found) == ["distance", "baseline", "floor"]
    assert found["distance"] == pytest.approx(0, abs=1e-6)
    assert game.validate(Copying(1))["distance"] > found["floor"]
    assert 0 < found["floor"] < found["baseline"]
    fresh = game.validate(game.product.eval())
    assert fresh == game.validate(game.product.eval())
    assert fresh["distance"] > found["baseline"]
    assert fresh["floor"] == found["floor"]


@torch.no_grad()
def test_more_noise_and_less_variety_are_further_away() -> None:
    x, cond, _ = DIGITS.split("train", 1000)
    eye = Untrained(1)

    def distance(other: Tensor) -> float:
        pair = (joint_moments(eye(pictures), cond["label"], 10, 1.0) for pictures in (x, other))
        return frechet_distance(*pair)

    eps = normal(0, "noise", range(len(x)), x.shape[1:])
    noisier = [distance(x + amount * eps) for amount in (0.0, 0.1, 0.3, 1.0)]
    assert noisier == sorted(noisier)
    assert noisier[0] < 1e-8 < noisier[1]
    fewer = [distance(x[:count].repeat(1000 // count, 1, 1, 1)) for count in (1000, 100, 10, 1)]
    assert fewer == sorted(fewer)
    assert torch.equal(Untrained(1)(x[:4]), eye(x[:4]))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_joint_distance_of_features_under_swapped_labels_in_closed_form(scale: float) -> None:
    """A feature of ±1 that tells one of two labels, or the other: a line along (1, ±c), c = scale / sqrt(2).

    Of two such lines, N(0, aa') and N(0, bb'), the squared distance is |a|² + |b|² - 2 |ab|.
    """
    label = torch.arange(2).repeat(500)
    feature = (2.0 * label - 1)[:, None]
    right, swapped = (joint_moments(sign * feature, label, 2, scale) for sign in (1, -1))
    c2 = scale**2 / 2
    unbiased = 1000 / 999
    expected = unbiased * (2 * (1 + c2) - 2 * abs(1 - c2))
    assert frechet_distance(right, swapped) == pytest.approx(expected, rel=1e-9)
    plain = [joint_moments(sign * feature, None, 2, scale) for sign in (1, -1)]
    assert frechet_distance(*plain) == pytest.approx(0, abs=1e-9)


def test_without_labels_neither_player_is_told_any(tmp_path: Path) -> None:
    recipe = replace(TINY, labels=False)
    assert recipe.facts(DIGITS).classes == 0
    game = task(recipe)
    assert not any("embed" in name for name, _ in game.named_parameters())
    result = train(recipe, tmp_path)
    assert result.validation["distance"] > 0
    model = phin.load(tmp_path)
    assert len(phin.sample(model, n=3)) == 3
    with pytest.raises(PhinError, match="takes no labels"):
        phin.sample(model, labels=[1])


def test_the_picture_has_a_column_for_each_class() -> None:
    game = task()
    picture = game.picture(game.product.eval())
    assert picture.shape == (5 * 10 + 2, 10 * 10 + 2)


def test_it_learns(tmp_path: Path) -> None:
    """Four fifths of the way from where it began to the data, in a hundred steps."""
    net = GANConfig(channels=(24, 32), latent=16, label=8)
    recipe = replace(TINY, net=net, train=replace(BRIEF, steps=100, batch=64, lr=2e-3))
    torch.manual_seed(0)
    with torch.no_grad():
        before = (game := task(recipe)).validate(game.product.eval())
    after = train(recipe, tmp_path).validation
    assert after["distance"] - after["floor"] < 0.2 * (before["distance"] - before["floor"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"penalty": -1.0}, "penalty must be finite and not negative, but is -1.0"),
        ({"penalty": math.nan}, "but is nan"),
        ({"every": 0}, "every = 0"),
    ],
)
def test_a_wrong_field_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(TINY, **wrong)
    for net, said in (
        ({"channels": ()}, "channels"),
        ({"latent": 0}, "latent = 0"),
        ({"label": -1}, "label = -1"),
    ):
        with pytest.raises(PhinError, match=said):
            replace(TINY.net, **net)


def test_data_that_are_no_pictures_with_labels_are_refused() -> None:
    facts = TINY.facts(DIGITS)
    with pytest.raises(PhinError, match="vectors"):
        TINY.model(replace(facts, shape=(2,)))
    with pytest.raises(PhinError, match="8 x 6"):
        TINY.model(replace(facts, shape=(1, 8, 6)))
    with pytest.raises(PhinError, match="numbers has texts"):
        replace(TINY, data="numbers", labels=False).task(Numbers({}))


def test_the_command_line_draws_and_exports_and_gives_no_likelihood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(TINY, "run")
    capsys.readouterr()
    assert main(["sample", "--model", "run", "--label", "3", "-n", "2", "--out", "o", "--grid"]) == 0
    assert sorted(path.name for path in Path("o").iterdir()) == ["0000_3.png", "0001_3.png", "grid.png"]
    assert main(["export", "run", "--out", "small.safetensors", "--dtype", "fp16"]) == 0
    generator = phin.load("run").net
    assert isinstance(generator, Generator)
    weights = sum(parameter.numel() for parameter in generator.parameters())
    assert 2 * weights < Path("small.safetensors").stat().st_size < 2 * weights + 8000  # and nothing else
    ours, theirs = (phin.samples(phin.load(name), n=2) for name in ("run", "small.safetensors"))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.01)
    capsys.readouterr()
    for model in ("run", "small.safetensors"):
        assert main(["nll", "--model", model]) == 2
        said = capsys.readouterr().err
        assert "is a GAN, which draws, and gives no image a likelihood" in said
        assert said.count("\n") == 1
    assert main(["sample", "--model", "run", "--steps", "5"]) == 2
    assert "leave steps out" in capsys.readouterr().err
