"""Latent diffusion: the autoencoder, its latents as data, and models that live in them."""

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin import models, nll
from phin.cli import main
from phin.data import encoded as encoding
from phin.data import folder
from phin.data.base import WHOLE, Batch, Endless, some
from phin.data.encoded import Encoded
from phin.data.numbers import Numbers
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.noise import normal, seeded
from phin.diffusion.parameterization import v
from phin.diffusion.schedules import Cosine
from phin.diffusion.solvers import SOLVERS, prior
from phin.diffusion.solvers import sample as walk
from phin.diffusion.weights import snr_plus_one
from phin.errors import PhinError
from phin.evaluation import PicturePlan, evaluate
from phin.evaluation.costs import operations
from phin.families.elbo import Normal
from phin.families.latent import KLAutoencoder, KLConfig, LatentDenoiser, LatentFacts, Latents, Pixels, space
from phin.families.likelihood import Gaussian, Laplace
from phin.metrics.features import Features, Seen
from phin.metrics.frechet import frechet_distance, moments
from phin.models import Model, samples
from phin.nets.unet import UNet, UNetConfig
from phin.pictures import to_integers
from phin.recipes import DiffusionRecipe, Facts, KLAutoencoderRecipe, train
from phin.recipes.latent import encoded
from phin.sampling import guided
from phin.training.denoising import Denoising

KL = KLConfig(channels=(8, 16), latents=3, patch=1)
AUTOENCODER = KLAutoencoderRecipe(data="digits", net=KL, train=tiny.BRIEF)
FLAT = UNetConfig(channels=(16,), blocks=1, patch=1, attention=(True,), heads=2)
LATENT = DiffusionRecipe(
    data="digits", net=FLAT, train=tiny.BRIEF, sample=replace(tiny.SAMPLE, threshold="none")
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of an autoencoder and of a model in its latents."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = replace(AUTOENCODER, train=replace(tiny.BRIEF, steps=20, batch=32, lr=1e-2))
    found = {"autoencoder": train(recipe, folder / "autoencoder").folder}
    latent = replace(LATENT, autoencoder=str(found["autoencoder"]))
    return found | {"latent": train(latent, folder / "latent").folder}


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phin.nets.precision.bf16_is_fast", lambda device: False)


@pytest.fixture
def latents(runs: dict[str, Path]) -> Encoded:
    return encoded(datasets.load("digits"), str(runs["autoencoder"]))


@pytest.fixture
def model(runs: dict[str, Path]) -> Model:
    return phin.load(runs["latent"])


def random_latents(likelihood: Laplace | Gaussian = Laplace(0.1)) -> Latents:
    torch.manual_seed(0)
    net = KL.build((1, 8, 8), likelihood)
    tiny.randomise(net)
    head = net.encoder[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight[:3] *= torch.tensor([4.0, 2.0, 1.0])[:, None]
    return Latents(net, LatentFacts(KL, "laplace(0.1)", ""))


# the space


def test_latents_have_mean_zero_and_variance_one_in_every_channel() -> None:
    """Of draws, so that the variance within posteriors counts, too; by a direct estimate from draws."""
    latents, x = random_latents(), torch.randn(64, 1, 8, 8)
    latents.fit(x)
    posterior, noise = latents.encode(x), seeded(0, range(64))
    draws = torch.stack([posterior.sample(noise) for _ in range(200)]).double()
    by_channel = draws.movedim(2, 0).flatten(1)
    n = draws[0, :, 0].numel()  # given the means, the draws add 200 times as many
    assert by_channel.mean(1).abs().max() < 4.5 / math.sqrt(200 * n)
    assert (by_channel.var(1) - 1).abs().max() < 4.5 * math.sqrt(2 / (200 * n))
    within = posterior.log_var.exp().movedim(1, 0).flatten(1).mean(1)
    assert (within > 0.01).all()  # or the means' variance alone would do
    assert not torch.allclose(latents.scale, latents.scale[0].expand(3), rtol=0.05)


def test_shift_and_scale_change_no_picture() -> None:
    latents, x = random_latents(), torch.randn(5, 1, 8, 8)
    raw = latents.autoencoder.posterior(x)
    plain = latents.autoencoder.likelihood.mean(latents.autoencoder.decode(raw.mean))
    latents.fit(x)
    torch.testing.assert_close(latents.decode(latents.encode(x).mean), plain, rtol=1e-4, atol=1e-5)
    encoded = latents.encode(x)
    scale, shift = (part.view(3, 1, 1) for part in (latents.scale, latents.shift))
    torch.testing.assert_close(encoded.mean * scale + shift, raw.mean.movedim(-1, 1), rtol=1e-4, atol=1e-5)
    std, own = (torch.exp(part.log_var / 2) for part in (encoded, raw))
    torch.testing.assert_close(std * scale, own.movedim(-1, 1), rtol=1e-4, atol=1e-5)


def test_encoding_goes_in_parts_and_takes_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    latents, x = random_latents(), torch.randn(7, 1, 8, 16)
    whole = latents.encode(x)
    assert latents.shape((1, 8, 16)) == whole.mean.shape[1:] == (3, 4, 8)
    monkeypatch.setattr("phin.families.latent.BATCH", 2)
    torch.testing.assert_close(latents.encode(x), whole)
    torch.testing.assert_close(latents.decode(whole.mean).shape, x.shape)
    with pytest.raises(PhinError, match="side 7 of"):
        latents.shape((1, 7, 8))


def test_the_autoencoder_costs_what_a_vae_of_its_posterior_does() -> None:
    """Its loss is -log p(x | z) + beta KL(q(z | x) || N(0, I)), by the formulas of both."""
    net = random_latents(Laplace(0.5)).autoencoder
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    elbo = net.elbo(x, seeded(0, range(4)))
    q = net.posterior(x)
    kl = 0.5 * (q.mean**2 + q.log_var.exp() - 1 - q.log_var).flatten(1).sum(1)
    torch.testing.assert_close(elbo.kl[:, 0], kl, rtol=1e-4, atol=1e-4)
    z = q.mean + torch.exp(q.log_var / 2) * seeded(0, range(4))(q.mean)
    absolute = (net.likelihood.mean(net.decode(z)) - x).abs() / 0.5 + math.log(2 * 0.5)
    torch.testing.assert_close(elbo.reconstruction, absolute.flatten(1).sum(1), rtol=1e-4, atol=1e-3)
    task = replace(AUTOENCODER, likelihood="laplace(0.5)", beta=0.25).task(datasets.load("digits"))
    task.model.load_state_dict(net.state_dict())
    with torch.no_grad():
        found = task.validate(task.model)
    assert found["loss"] == pytest.approx(found["reconstruction"] + 0.25 * found["kl"])
    assert found["bound"] == pytest.approx(found["reconstruction"] + found["kl"])
    x = some(datasets.load("digits"), "valid", 1000).x
    seen = net.reconstruct(x, seeded(0, range(len(x)), "validation")).detach()
    psnr = [20 * math.log10(2 / math.sqrt((a - b).square().mean())) for a, b in zip(seen, x, strict=True)]
    assert found["psnr"] == pytest.approx(np.mean(psnr), rel=1e-4)


def test_an_autoencoder_learns_to_reconstruct_and_is_told_nothing(runs: dict[str, Path]) -> None:
    model = phin.load(runs["autoencoder"])
    assert model.facts == Facts((1, 8, 8), 0, 0, (), False)
    before = AUTOENCODER.task(datasets.load("digits"))
    with torch.no_grad():
        untrained = before.validate(before.model)["psnr"]
    assert model.metadata["training"]["state"]["validation"]["psnr"] > untrained + 3
    assert phin.sample(model, n=3)[0].shape == (8, 8)
    with pytest.raises(
        PhinError, match=r"drop = 0\.5: an autoencoder for latent diffusion is told no labels"
    ):
        replace(AUTOENCODER, drop=0.5)
    with pytest.raises(PhinError, match="told no labels"):
        KL.build((1, 8, 8), Laplace(0.1), classes=10)
    picture = before.picture(before.model)
    assert picture is not None
    assert picture.shape == (8 * 10 + 2, 10 * 10 + 2)


def test_an_autoencoder_of_numbers_is_told_no_text() -> None:
    recipe = replace(AUTOENCODER, data="numbers", net=replace(KL, patch=2))
    data = Numbers(tiny.handwriting())
    assert recipe.facts(data) == Facts((1, 28, 28), 0, 0, (), True)
    task = recipe.task(data)
    assert task(0, slice(None)).loss.isfinite().all()


# latents as data


def test_encoded_images_are_latents_of_the_images(latents: Encoded) -> None:
    """A cached one is what its image would be encoded to, with the noise of its place in the run."""
    plain = datasets.load("digits")
    for step in (0, 3, 200):
        x, cond, total = plain.train(5, step, 12)
        mean, log_var = latents.encoder.encode(x)
        noise = normal(5, "posterior", range(12 * step, 12 * (step + 1)), (3, 4, 4))
        found = latents.train(5, step, 12)
        torch.testing.assert_close(found.x, mean + torch.exp(log_var / 2) * noise, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.cond["label"], cond["label"])
        assert found.total == total
        for rank in range(5):
            part = latents.train(5, step, 12, slice(rank, None, 5))
            assert torch.equal(part.x, found.x[rank::5])
    assert (latents.shape, latents.eight_bit, latents.classes) == ((3, 4, 4), False, 10)
    assert (latents.name, latents.count("test")) == ("digits", plain.count("test"))


def test_a_fixed_choice_of_latents_is_always_drawn_in_the_same_way(latents: Encoded) -> None:
    first = latents.split("valid", 20).x
    assert torch.equal(latents.split("valid", 20).x, first)
    torch.testing.assert_close(latents.split("valid", 30).x[:20], first, rtol=1e-4, atol=1e-5)
    mean, log_var = latents.encoder.encode(datasets.load("digits").split("valid", 20).x)
    off = (first - mean) / torch.exp(log_var / 2)
    assert abs(off.mean()) < 4.5 / math.sqrt(off.numel())
    assert abs(off.var() - 1) < 4.5 * math.sqrt(2 / off.numel())


def test_training_images_are_encoded_once(latents: Encoded) -> None:
    calls: list[int] = []
    encoder = latents.encoder

    class Counting:
        shape = staticmethod(encoder.shape)

        @staticmethod
        def encode(x: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(len(x))
            return encoder.encode(x)

    counted = Encoded(latents.pixels, Counting())
    for step in range(200):
        counted.train(0, step, 20)
    count = datasets.load("digits").count("train")
    assert sum(calls) == count


def test_images_of_the_disk_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, and never again: a training step of latents reads none."""
    for i in range(50):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.new("L", (8, 8), 5 * i).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    kept = datasets.load(f"folder:{tmp_path}")
    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    stored, space = datasets.load(f"folder:{tmp_path}"), random_latents()
    monkeypatch.setattr(encoding, "BATCH", 16)
    read, at_once = folder.read, list[int]()

    def counted(path: Path) -> np.ndarray:
        at_once[-1] += 1
        return read(path)

    encode = space.encode
    monkeypatch.setattr(folder, "read", counted)
    monkeypatch.setattr(type(space), "encode", lambda self, x: (at_once.append(0), encode(x))[1])
    at_once.append(0)
    found = Encoded(stored, space)
    batch = found.train(0, 0, 12)
    assert at_once == [16, 16, 8, 0]
    found.train(0, 1, 12)
    assert sum(at_once) == 40
    expected = Encoded(kept, space).train(0, 0, 12)
    torch.testing.assert_close(batch.x, expected.x)
    assert batch.cond["label"].tolist() == expected.cond["label"].tolist()


def test_what_is_made_as_needed_is_encoded_as_needed(runs: dict[str, Path], tmp_path: Path) -> None:
    recipe = replace(AUTOENCODER, data="mnist", net=replace(KL, patch=2))
    net = recipe.model(recipe.facts(Sheets()))
    assert isinstance(net, KLAutoencoder)
    found = Encoded(Sheets(), Latents(net, LatentFacts(recipe.net, "", "")))
    assert found.train(0, 0, 6).x.shape == (6, 3, 1, 1)
    assert found.count("train") is None


class Sheets(Endless):
    """4 x 4 pictures, drawn as needed."""

    name, shape, classes, vocabulary, class_names, eight_bit = "sheets", (1, 4, 4), 0, 0, (), False

    def train(self, seed: int, step: int, size: int, rows: slice = slice(None)) -> Batch:
        return Batch(normal(seed, "sheets", range(step * size, (step + 1) * size), (1, 4, 4))[rows], {}, size)

    def split(self, which: str, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        return Batch(normal(seed, which, range(n or 9)[rows], (1, 4, 4)), {}, n or 9)


def test_in_pixels_latent_training_is_training() -> None:
    """With an encoder that leaves data as they are: loss, gradient, validation and pictures are the same."""
    plain = datasets.load("digits")
    tasks = []
    for data in (plain, Encoded(plain, Pixels())):
        torch.manual_seed(0)
        denoiser = Denoiser(UNet(tiny.NET, 1, classes=10), v)
        tiny.randomise(denoiser)
        tasks.append(Denoising(denoiser, data, Cosine(), snr_plus_one, batch=12, seed=3, preview=tiny.SAMPLE))
    for step in (0, 5):
        losses = [task(step, slice(None)) for task in tasks]
        assert torch.equal(losses[0].loss, losses[1].loss)
    assert tasks[0].validate(tasks[0].model) == tasks[1].validate(tasks[1].model)
    np.testing.assert_array_equal(*(task.picture(task.model) for task in tasks))  # pyright: ignore


# models in latents


def test_a_sample_is_the_decoded_end_of_a_walk_among_latents(model: Model) -> None:
    net, config = models.drawing(model)
    assert isinstance(net, LatentDenoiser)
    noise, levels = seeded(9, [0]), config.levels()
    cond = {"label": torch.tensor([4])}
    with torch.no_grad():
        z = prior(levels.at(0), torch.empty(1, 3, 4, 4), noise)
        z = walk(guided(net, cond, config), SOLVERS[config.solver](), levels, z, noise)
        scale, shift = (part.view(3, 1, 1) for part in (net.space.scale, net.space.shift))
        raw = net.space.autoencoder.decode((z * scale + shift).movedim(1, -1))
        expected = net.space.autoencoder.likelihood.mean(raw)
    torch.testing.assert_close(samples(model, labels=[4], seed=9)[0][None], expected, rtol=1e-4, atol=1e-5)


def test_samples_have_noise_of_their_own_whatever_the_batch(model: Model) -> None:
    labels = [3, 1, 4, 1, 5]
    together = torch.stack(samples(model, labels=labels, seed=2))
    alone = torch.stack(samples(model, labels=labels, seed=2, batch=1))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        samples(model, labels=labels[:2], seed=2)[1], together[1], rtol=1e-4, atol=1e-5
    )
    assert (together[1] - together[3]).abs().max() > 1e-3


def test_the_file_is_all_that_a_model_needs(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported and loaded where there is neither autoencoder nor data, it draws the same."""
    expected = phin.sample(phin.load(runs["latent"]), labels=[1, 2], seed=5)
    best = shutil.copy(runs["latent"] / "best.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", lambda name: pytest.fail(f"{name} was loaded"))
    hidden = runs["autoencoder"].rename(runs["autoencoder"].with_name("hidden"))
    try:
        assert main(["export", str(best), "--out", "small.safetensors", "--dtype", "fp16"]) == 0
        for found in (best, "small.safetensors"):
            drawn = phin.sample(phin.load(found), labels=[1, 2], seed=5)
            np.testing.assert_allclose(
                np.stack(drawn).astype(int), np.stack(expected).astype(int), atol=0 if found is best else 8
            )
    finally:
        hidden.rename(runs["autoencoder"])


def test_the_autoencoder_is_not_trained_on(runs: dict[str, Path], model: Model) -> None:
    kept, net = phin.load(runs["autoencoder"]).net.state_dict(), model.net
    assert isinstance(net, LatentDenoiser)
    for name, weight in net.space.autoencoder.state_dict().items():
        assert torch.equal(weight, kept[name]), name
    assert (net.space.scale != 1).all()
    assert model.facts.shape == (1, 8, 8)
    assert model.facts.latents is not None
    assert (model.facts.latents.net, model.facts.latents.likelihood) == (KL, "laplace(0.1)")


def test_an_interrupted_run_ends_as_the_uninterrupted_one(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(LATENT, autoencoder=str(runs["autoencoder"]), train=replace(tiny.BRIEF, steps=6))
    whole = train(recipe, tmp_path / "whole")
    drawn = Encoded.train

    def interrupting(self: Encoded, seed: int, step: int, *rest: Any) -> Batch:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return drawn(self, seed, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Encoded, "train", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts")
    parts = train(recipe, tmp_path / "parts")
    assert parts.step == whole.step == 6
    for name in ("best", "last"):
        one, other = (phin.load(getattr(result, name)).net.state_dict() for result in (whole, parts))
        assert all(torch.equal(weight, other[key]) for key, weight in one.items())


def test_a_run_does_not_go_on_in_other_latents(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "autoencoder"
    shutil.copytree(runs["autoencoder"], folder)
    recipe = replace(LATENT, autoencoder=str(folder))
    train(recipe, tmp_path / "latent")
    shutil.rmtree(folder)
    train(replace(AUTOENCODER, train=replace(tiny.BRIEF, seed=1)), folder)
    with pytest.raises(PhinError, match=r"holds another run \(facts\.latents\.weights is "):
        train(replace(recipe, train=replace(tiny.BRIEF, steps=3)), tmp_path / "latent")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample": tiny.SAMPLE}, "sample.threshold clip keeps pixels in their range, .* give none"),
        ({"flip": True}, "a mirrored latent is not that of one: leave it out"),
        ({"net": UNetConfig(values=256)}, "net.values = 256 is for 8-bit images, not for latents: give 0"),
    ],
)
def test_what_is_of_pixels_is_refused_in_latents(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(LATENT, autoencoder="runs/autoencoder", **wrong)


def test_other_models_are_no_autoencoders(runs: dict[str, Path], tmp_path: Path) -> None:
    digits = tiny.write(tiny.LABELLED, tmp_path / "labelled.safetensors")
    for source, data, message in (
        (digits, "digits", "is a diffusion, which has no latents for a diffusion model: give a run such as"),
        (
            runs["autoencoder"],
            "cifar10",
            "encodes digits, of 1 x 8 x 8, and cifar10 has 3 x 4 x 4: train one",
        ),
        (runs["autoencoder"], "odd", "side 7 of"),
        (runs["autoencoder"], "other", "encodes digits, and other is other data: train one by `phin train "),
        (tmp_path / "none", "digits", "unknown model"),
    ):
        sheets = Sheets()
        sheets.name = "digits" if data == "odd" else data
        sheets.shape = {"cifar10": (3, 4, 4), "odd": (1, 7, 8)}.get(data, (1, 8, 8))
        with pytest.raises(PhinError, match=message):
            encoded(sheets, str(source))
    with pytest.raises(PhinError, match="unknown model 'runs/none'"):
        train(replace(LATENT, autoencoder="runs/none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_of_other_data_will_do_where_they_are_what_is_encoded(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are made of MNIST's digits; and a folder's autoencoder is of somebody's own choice."""
    sheets, known = Sheets(), models.load(runs["autoencoder"])
    for own, name, good in (
        ("mnist", "mnist", True),
        ("mnist", "numbers", True),
        ("mnist", "words", True),
        ("folder:many", "mnist", True),
        ("mnist", "fashion-mnist", False),
        ("numbers", "mnist", False),
        ("mnist", "folder:many", False),
    ):
        sheets.name, sheets.shape = name, (1, 8, 8)
        model = replace(known, recipe=replace(known.recipe, data=own))
        monkeypatch.setattr("phin.recipes.trained.load", lambda source, model=model: model)
        monkeypatch.setattr(Latents, "fit", lambda space, x: None)
        if good:
            assert encoded(sheets, "run").pixels is sheets
            continue
        with pytest.raises(
            PhinError, match=rf"encodes {own}, and {name} is other data.* --data {name} --out"
        ):
            encoded(sheets, "run")


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("mnist-ddpm", ()),
        ("mnist-vdm", ("--net.values", "0", "--objective", "continuous_bound(decoder=gaussian)")),
    ],
)
def test_a_recipe_of_pixels_learns_latents_by_the_options_that_its_refusal_names(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, further: tuple[str]
) -> None:
    command = ["train", name, "--data", "digits", "--autoencoder", str(runs["autoencoder"]), *further]
    command += ["--steps", "1", "--batch", "8", "--picture-every", "0", "--out", str(tmp_path / "run")]
    for known, message in (((), "give none, as in "), (("--sample.threshold", "none"), "or change those: ")):
        narrow = () if not known else ("--net.channels", "8", "8", "8", "--net.attention", *["False"] * 3)
        assert main([*command, *known, *narrow]) == 2
        options = capsys.readouterr().err.strip().partition(message)[2].split()
        assert options[:2] == ["--sample.threshold", "none"]
        assert not (tmp_path / "run").exists()
    assert main([*command, *options]) == 0
    net = models.drawing(phin.load(tmp_path / "run"))[0]
    assert isinstance(net, LatentDenoiser)


def test_commands_work_in_latents_or_say_why_not(
    runs: dict[str, Path], model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> Any:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def fails(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([*map(str, words)]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().err

    folder, out = runs["latent"], tmp_path / "drawn"
    facts = run("sample", "--model", folder, "--label", 3, "--label", 5, "--gif", "--out", out)
    names = [Path(picture["file"]).name for picture in facts["pictures"]]
    assert names == ["0000_3.png", "0001_5.png"]
    with Image.open(out / "0000_3.gif") as film:
        assert film.size == (8, 8)
        assert getattr(film, "n_frames", 1) > 1
    first = out / "0000_3.png"
    for edit in (
        ("vary", "-n", 2),
        ("inpaint", "--keep", "left", "-n", 2),
        ("reconstruct", "--label", 3),
    ):
        run(
            "edit",
            edit[0],
            "--model",
            folder,
            "--image",
            first,
            *edit[1:],
            "--steps",
            3,
            "--out",
            tmp_path / edit[0],
        )
    run(
        "edit",
        "interpolate",
        "--model",
        folder,
        "--image",
        first,
        out / "0001_5.png",
        "--out",
        tmp_path / "way",
    )
    with Image.open(first) as image, Image.open(tmp_path / "inpaint" / "0001.png") as painted:
        kept, found = (np.asarray(picture).astype(int) for picture in (image, painted))
    np.testing.assert_array_equal(found[:, :4], kept[:, :4])
    assert (found[:, 4:] != kept[:, 4:]).any()
    assert "latents, which have none: give none" in fails(
        "sample", "--model", folder, "--threshold", "clip", "--out", tmp_path / "no"
    )
    noisy = tiny.write(tiny.NOISY, tmp_path / "noisy.safetensors")
    said = fails("sample", "--model", folder, "--classifier", noisy, "--out", tmp_path / "no")
    assert "lives in latents, of which" in said
    eight_bit = replace(model, facts=replace(model.facts, eight_bit=True))
    with pytest.raises(PhinError, match="lives in latents, and their likelihood is not that of images"):
        nll.nll(eight_bit, n=2)


class Means(Features):
    """Looks at how bright pictures are, above and below."""

    name, dims, class_names = "means", 2, tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        assert shape == (1, 8, 8)

    def __call__(self, pictures: Tensor) -> Seen:
        means = pictures.double().unflatten(2, (2, 4)).mean((1, 3, 4)) / 255
        return Seen(means, torch.zeros(len(means), 10))


def test_a_latent_model_is_measured_in_pictures(model: Model) -> None:
    """Its figures are those of the pictures that it draws, against real pictures."""
    plan = PicturePlan(n=100, kept=50, compared=20)
    figures = evaluate(model, plan=plan, features=Means())
    assert figures["measures"]["frechet"]["n"] == 100
    label = datasets.load("digits").split("train", 1437, 0).cond["label"][:100]
    drawn = torch.stack(samples(model, labels=label.tolist()))
    assert figures["label"]["right"] == int((label == 0).sum())  # as all are read
    real = datasets.load("digits").split("test", 100, 0).x
    expected = frechet_distance(*(moments(Means()(to_integers(x)).features) for x in (drawn, real)))
    assert figures["measures"]["frechet"]["value"] == pytest.approx(expected, rel=2e-2)
    assert figures["training_flops"] > 0


def test_what_a_latent_model_costs_is_known_without_its_autoencoder(model: Model) -> None:
    """Its steps cost what those of the same model in pictures of the latents' shape do."""
    found = operations(
        replace(model, recipe=replace(LATENT, autoencoder="runs/none")), datasets.load("digits")
    )
    plain = replace(model, net=nn.Identity(), recipe=LATENT, facts=replace(model.facts, latents=None))
    assert found == pytest.approx(operations(plain, Shaped()), rel=1e-3)


def test_what_a_latent_model_costs_is_counted_once(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of copies of a training, each of which is read with an autoencoder of its own."""
    data, built = datasets.load("digits"), list[Any]()
    expected = operations(models.load(runs["latent"]), data)
    monkeypatch.setattr(DiffusionRecipe, "task", lambda *given: built.append(given))
    assert operations(models.load(runs["latent"]), data) == expected
    assert not built


class Shaped(Sheets):
    """What has the shape of the latents."""

    name, shape, classes, class_names = "shaped", (3, 4, 4), 10, tuple("0123456789")

    def train(self, seed: int, step: int, size: int, rows: slice = slice(None)) -> Batch:
        x = torch.zeros(size, 3, 4, 4)[rows]
        return Batch(x, {"label": torch.zeros(len(x), dtype=torch.long)}, size)


def test_space_is_pixels_unless_it_is_latents(model: Model, tmp_path: Path) -> None:
    plain = phin.load(tiny.write(tiny.LABELLED, tmp_path / "plain.safetensors"))
    assert isinstance(plain.net, Denoiser)
    home, x = space(plain.net), torch.randn(2, 1, 8, 8)
    assert home.shape((1, 8, 8)) == (1, 8, 8)
    assert torch.equal(home.decode(x), x)
    assert torch.equal(home.encode(x).sample(seeded(0, range(2))), x)
    assert isinstance(model.net, LatentDenoiser)
    assert space(model.net) is model.net.space
    assert isinstance(model.net.space.encode(x), Normal)
