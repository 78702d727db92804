"""Training of autoencoders: the loss is what it says, row by row, at every moment, and after a stop."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill_resume
import numpy as np
import pytest
import tiny
import torch
from latents import EACH, SMALL, model_of
from torch import Tensor

import phin
from phin.data.base import WHOLE, Batch, Endless, Which
from phin.data.numbers import Numbers
from phin.data.words import Words
from phin.diffusion.bound import to_bits
from phin.diffusion.noise import seeded, stream
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder
from phin.families.elbo import Elbo, importance_weighted
from phin.families.hvae import ChainConfig
from phin.families.vae import VAEConfig
from phin.metrics.features import Features, Seen
from phin.metrics.frechet import frechet_distance, moments
from phin.pictures import to_integers
from phin.recipes import HVAERecipe, KLAutoencoderRecipe, Recipe, VAERecipe, train
from phin.recipes.features import FEATURES, READING
from phin.training.autoencoding import Autoencoding
from phin.training.loop import Losses

BATCH = 12
DIMS = 96


class Sheets(Endless):
    """Labelled 8-bit pictures of 8 x 12, drawn as needed; the label is how bright they are."""

    name, shape, classes, vocabulary, eight_bit = "sheets", (1, 8, 12), 4, 0, True
    class_names = tuple("0123")

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        return self._batch(stream(seed, "sheets", step), size, rows)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        return self._batch(stream(seed, f"sheets {which}"), n or 40, rows)

    def _batch(self, rng: np.random.Generator, n: int, rows: slice) -> Batch:
        label = rng.integers(0, 4, n)
        k = rng.integers(0, 64, (n, *self.shape)) + 64 * label.reshape(-1, 1, 1, 1)
        x = torch.from_numpy(k).float() * (2 / 255) - 1
        return Batch(x[rows], {"label": torch.from_numpy(label)[rows]}, n)


def task_of(kind: str, **options: Any) -> Autoencoding:
    return Autoencoding(model_of(kind), Sheets(), **{"batch": BATCH, "seed": 3, "examples": 20, **options})


def bound(task: Autoencoding, step: int, label: Tensor | None = None, k: int = 1) -> Elbo:
    """What the model says of the batch of a step."""
    x, cond, _ = task.data.train(3, step, BATCH)
    label = cond["label"] if label is None else label
    indices = [step * BATCH * k + i for i in range(BATCH * k)]
    return task.model.elbo(x.repeat_interleave(k, 0), seeded(3, indices, "noise"), label.repeat_interleave(k))


@EACH
@pytest.mark.parametrize("processes", [2, 5])
@torch.no_grad()
def test_rows_of_several_processes_make_up_the_batch(kind: str, processes: int) -> None:
    task = task_of(kind, drop=0.4, free=0.1 if kind != "chain" else 0.0)
    whole = task(7, WHOLE).loss
    for rank in range(processes):
        torch.testing.assert_close(task(7, slice(rank, None, processes)).loss, whole[rank::processes])
    assert whole.unique().numel() == BATCH
    assert not torch.isclose(task(8, WHOLE).loss, whole).any()


@EACH
@torch.no_grad()
def test_the_loss_is_the_bound_in_bits_a_dimension(kind: str) -> None:
    task = task_of(kind, drop=0.0)
    torch.testing.assert_close(task(2, WHOLE).loss, to_bits(bound(task, 2).total, DIMS))


@torch.no_grad()
def test_the_latents_part_costs_beta_and_rises_along_a_line() -> None:
    task = task_of("ladder", drop=0.0, beta=2.5, kl_warmup=0.4)
    found = bound(task, 0)
    for progress, weight in ((0.0, 0.0), (0.1, 0.625), (0.2, 1.25), (0.4, 2.5), (0.9, 2.5)):
        task.progress = progress
        expected = found.reconstruction + weight * found.kl.sum(1)
        torch.testing.assert_close(task(0, WHOLE).loss, to_bits(expected, DIMS))
    assert task_of("vae").weight == 1  # at once, without a warm-up


def test_the_loop_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a budget of 10 steps, step k begins at k / 10."""
    seen: list[float] = []
    forward = Autoencoding.forward

    def watched(self: Autoencoding, step: int, rows: slice) -> Losses:
        seen.append(self.weight)
        return forward(self, step, rows)

    monkeypatch.setattr(Autoencoding, "forward", watched)
    recipe = replace(VAE, kl_warmup=0.5, beta=2.0, train=replace(tiny.BRIEF, steps=10))
    train(recipe, tmp_path)
    assert seen == pytest.approx([2 * min(1, k / 5) for k in range(10)])


def test_free_bits_cost_nothing_and_pull_at_nothing() -> None:
    """Each channel's divergence is its own or `free`, whichever is more; below, it has no gradient."""
    task = task_of("ladder", drop=0.0)
    found = bound(task, 1)
    channels = torch.cat(found.path.kl, 1)
    task.free = channels.detach().median().item()
    kept = channels > task.free
    assert 0.3 < kept.double().mean() < 0.7
    expected = found.reconstruction + torch.where(kept, channels, task.free).sum(1)
    torch.testing.assert_close(task(1, WHOLE).loss, to_bits(expected, DIMS))

    task.free = 1e6  # of anything that the latents may tell: the reconstruction's gradient is left
    weights = list(task.model.parameters())
    losses = task(1, WHOLE).loss, to_bits(bound(task, 1).reconstruction, DIMS)
    ours, theirs = (
        torch.autograd.grad(loss.sum(), weights, allow_unused=True, materialize_grads=True) for loss in losses
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@EACH
@torch.no_grad()
def test_several_particles_are_the_importance_weighted_bound(kind: str) -> None:
    """Each example's K draws are its own, and beta weighs the latents' part of every weight."""
    task = task_of(kind, drop=0.0, particles=3, beta=0.7)
    found = bound(task, 4, k=3)
    log_weight = (-found.reconstruction - 0.7 * found.path.ratio).view(BATCH, 3)
    torch.testing.assert_close(task(4, WHOLE).loss, to_bits(-importance_weighted(log_weight), DIMS))
    assert log_weight.std(1).min() > 0
    torch.testing.assert_close(task(4, slice(1, None, 2)).loss, task(4, WHOLE).loss[1::2])


@torch.no_grad()
def test_a_share_of_the_labels_is_left_out() -> None:
    task = task_of("vae", drop=0.3)
    given = bound(task, 5).total
    without = bound(task, 5, torch.full((BATCH,), -1)).total
    dropped = torch.from_numpy(stream(3, "drop", 5).random(BATCH) < 0.3)
    assert 0 < dropped.sum() < BATCH
    torch.testing.assert_close(task(5, WHOLE).loss, to_bits(torch.where(dropped, without, given), DIMS))
    alone = Autoencoding(model_of("vae", classes=0), Sheets(), drop=1.0, batch=BATCH)
    assert alone(0, WHOLE).loss.isfinite().all()  # a model without labels is told none


@EACH
@torch.no_grad()
def test_the_validation_is_the_bound_whatever_training_makes_of_it(kind: str) -> None:
    task = task_of(kind, beta=0.1, kl_warmup=1.0, free=0.5, drop=0.5)
    found = task.validate(task.model)
    x, cond, _ = task.data.split("valid", 20)
    noise = seeded(0, range(20), "validation")
    pair = [task.model.elbo(x, noise, cond["label"]) for _ in range(2)]
    total = torch.stack([elbo.total for elbo in pair]).mean()
    assert found["loss"] == pytest.approx(to_bits(float(total), DIMS), rel=1e-5)
    assert found["loss"] == pytest.approx(found["reconstruction"] + found["kl"])
    assert next(iter(found)) == "loss"
    if kind != "vae":
        by_level = [found[f"kl/{t}"] for t in range(1, pair[0].kl.shape[1] + 1)]
        assert sum(by_level) == pytest.approx(found["kl"])
        assert by_level[0] == pytest.approx(
            to_bits(float((pair[0].kl + pair[1].kl)[:, 0].mean() / 2), DIMS), rel=1e-5
        )
    assert task.validate(task.model) == found


@torch.no_grad()
def test_collapsed_latents_are_counted_out() -> None:
    """The posterior of two of five latents is made to ignore x: three are active."""
    task = task_of("vae", examples=60)
    weight = task.model.get_parameter("encode.0.5.weight")
    assert weight.shape == (2 * 5, 6 * 12)
    weight[[1, 4]] = 0
    assert task.validate(task.model)["active"] == pytest.approx(0.6)
    weight[:5] = 0
    assert task.validate(task.model)["active"] == 0


@torch.no_grad()
def test_the_baseline_is_how_often_each_pixel_has_each_value() -> None:
    """Of pictures whose pixels are all independent and of few values: their entropy, given enough of them."""

    class Coins(Sheets):
        def _batch(self, rng: np.random.Generator, n: int, rows: slice) -> Batch:
            heads = rng.random((n, *self.shape)) < np.linspace(0.05, 0.5, DIMS).reshape(self.shape)
            x = torch.from_numpy(np.where(heads, 1.0, -1.0)).float()
            return Batch(x[rows], {"label": torch.zeros(n).long()[rows]}, n)

    task = Autoencoding(model_of("vae"), Coins(), examples=500)
    p = torch.linspace(0.05, 0.5, DIMS).double()
    entropy = -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()
    assert task.validate(task.model)["baseline"] == pytest.approx(float(entropy), rel=5e-3)


def test_a_picture_shows_samples_of_each_class_above_reconstructions() -> None:
    task = task_of("vae")
    with torch.no_grad():
        picture = task.picture(task.model)
    assert picture.shape == (4 * (8 + 2) + 2, 4 * (12 + 2) + 2)
    held = task.data.split("valid", 4).x
    third = picture[22:30, 2:14]
    assert np.array_equal(third, ((held[0, 0] + 1) * 127.5).round().byte().numpy())


# --- recipes

VAE = VAERecipe(data="digits", net=VAEConfig((8, 12), 1, 4), likelihood="gaussian(0.3)", train=tiny.BRIEF)
FAMILY = {
    "vae": VAE,
    "chain": HVAERecipe(
        data="digits",
        net=ChainConfig((8, 12), latents=(2, 3, 4)),
        likelihood="laplace(0.3)",
        train=tiny.BRIEF,
    ),
    "ladder": HVAERecipe(data="digits", net=SMALL["ladder"], likelihood="gaussian", train=tiny.BRIEF),  # pyright: ignore
}


@pytest.mark.parametrize("kind", FAMILY)
def test_training_learns_and_is_found_again(kind: str, tmp_path: Path) -> None:
    recipe = replace(FAMILY[kind], train=replace(tiny.BRIEF, steps=20, batch=32, lr=5e-3))
    result = train(recipe, tmp_path / "run")
    before = recipe.task(phin.data.load("digits"))  # pyright: ignore
    with torch.no_grad():
        assert result.validation["loss"] < before.validate(before.model)["loss"] - 0.05
    model = phin.load(tmp_path / "run")
    assert model.recipe == recipe
    assert isinstance(model.net, Autoencoder)
    assert [picture.shape for picture in phin.sample(model, labels=[3], n=2)] == [(8, 8)] * 2


@pytest.mark.parametrize("kind", ["vae", "ladder"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the warm-up."""
    recipe: Recipe = replace(FAMILY[kind], kl_warmup=0.8, train=replace(tiny.BRIEF, steps=8))
    train(recipe, tmp_path / "alone", "one")
    forward, stops = Autoencoding.forward, [3, 5]

    def interrupted(self: Autoencoding, step: int, rows: slice) -> Losses:
        if step in stops:
            stops.remove(step)
            signal.raise_signal(signal.SIGINT)
        return forward(self, step, rows)

    monkeypatch.setattr(Autoencoding, "forward", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped", "one")
    train(recipe, tmp_path / "stopped", "one")
    assert kill_resume.difference(tmp_path / "alone", tmp_path / "stopped") is None


class Halves(Features):
    """Looks at the brightness of both halves; what is brighter than so much is called so."""

    name, dims, class_names = "halves", 2, tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        pass

    def __call__(self, pictures: Tensor) -> Seen:
        sides = pictures.float().unflatten(3, (2, -1)).mean((1, 2, 4))
        return Seen(sides, -(sides.sum(1, keepdim=True) / 20 - torch.arange(10)).abs())


@pytest.mark.parametrize("kind", ["vae", "ladder"])
def test_a_validation_measures_what_the_model_draws(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of the labels of held-out ones, by the averaged weights."""
    monkeypatch.setitem(READING, "digits", "halves")
    monkeypatch.setitem(FEATURES, "halves", Halves)
    run = train(replace(FAMILY[kind], measure=100), tmp_path / "run")
    x, cond, _ = phin.data.load("digits").split("valid", 100)
    drawn = torch.stack(phin.samples(phin.load(run.last), labels=cond["label"].tolist()))
    made, held = (Halves()(to_integers(part)) for part in (drawn, x))
    distance = frechet_distance(moments(made.features), moments(held.features))
    assert run.validation["frechet"] == pytest.approx(distance, rel=1e-3)
    right = (made.logits.argmax(1) == cond["label"]).double().mean().item()
    assert run.validation["read"] == pytest.approx(right, abs=0.011)
    assert next(iter(run.validation)) == "loss"
    told = train(replace(FAMILY[kind], measure=100, drop=1.0), tmp_path / "untold").validation
    assert "frechet" in told
    assert "read" not in told
    assert "frechet" not in train(FAMILY[kind], tmp_path / "none").validation
    with pytest.raises(PhinError, match="is not made to draw"):
        KLAutoencoderRecipe(measure=100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson'; there are discretized_logistic"),
        ({"beta": -1.0}, "beta must not be negative or infinite, but is -1"),
        ({"free": float("nan")}, "free .* nan"),
        ({"kl_warmup": 1.5}, "kl_warmup is a share, from 0 to 1, not 1.5"),
        ({"drop": -0.1}, "drop is a share"),
        ({"particles": 0}, "particles = 0: at least 1"),
        ({"particles": 2, "free": 0.1}, "free = 0.1 is of the bound of 1 particle"),
    ],
)
def test_a_wrong_field_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(VAE, **wrong)  # pyright: ignore[reportArgumentType]


def test_data_and_likelihood_must_fit() -> None:
    with pytest.raises(PhinError, match="discretized_gaussian is of 8-bit images, and digits has none"):
        replace(VAE, likelihood="discretized_gaussian").model(tiny.FACTS[tiny.LABELLED])
    with pytest.raises(PhinError, match="moons has vectors of 2 numbers"):
        replace(VAE, data="moons").model(tiny.FACTS[tiny.POINTS])
    with pytest.raises(PhinError, match="numbers has texts"):
        replace(VAE, data="numbers").facts(Numbers(tiny.handwriting()))
    words = Words(tiny.handwriting())
    with pytest.raises(PhinError, match="words has texts"):
        replace(VAE, data="words").facts(words)  # pyright: ignore
    assert replace(VAE, data="words", drop=1.0).facts(words).alphabet is None  # pyright: ignore
    with pytest.raises(PhinError, match=r"free = 0.1 is of divergences, and a chain's terms are estimates"):
        replace(FAMILY["chain"], free=0.1)
