"""A comparison of tiny models: what its report says is what the measures say, and nothing is done twice."""

import copy
import json
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny
import torch
from test_autoencoding import Sheets
from torch import Tensor, nn

import phin
from phin import data as datasets
from phin import models, report, tuning
from phin.cli import main
from phin.comparison import Plan, compare, measures, page, walks
from phin.comparison.entrants import enter
from phin.comparison.measures import Measures
from phin.comparison.page import Cell, Line
from phin.data.base import Images, Part, Which
from phin.data.numbers import Numbers
from phin.diffusion.editing import slerp
from phin.diffusion.noise import Noise, seeded
from phin.errors import PhinError
from phin.evaluation import PicturePlan, Reference, costs, pictures
from phin.evaluation.costs import operations
from phin.families.autoencoder import Autoencoder
from phin.families.base import OneShot
from phin.families.gan import GANConfig
from phin.families.latent import KLConfig
from phin.families.vae import VAEConfig
from phin.metrics.features import Features, Reader, Seen
from phin.models import Model
from phin.nets.unet import UNetConfig
from phin.nll import nll
from phin.recipes import RECIPES, Facts, GANRecipe, KLAutoencoderRecipe, Recipe, VAERecipe
from phin.recipes.features import FEATURES
from phin.training.adversarial import Adversarial
from phin.training.autoencoding import Autoencoding
from phin.training.checkpoint import read_weights
from phin.training.compression import Compression
from phin.training.loop import Losses, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N = 40
PLAN = Plan(n=N, n_curve=24, n_nll=4, ladder=(2,))
WORDS = ["tiny-ddpm:1", "tiny-gan:1", "tiny-vae:1", "tiny-vae:2"]
DRAWN = {"parameterization": "eps", "density": "discrete(linear)", "weight": "simple"}
SELDOM = replace(tiny.BRIEF, validate_every=0.5)
TINY: dict[str, Recipe] = {
    "tiny": replace(tiny.LABELLED, data="mnist", train=SELDOM),
    "tiny-ddpm": replace(
        tiny.LABELLED,
        data="mnist",
        train=SELDOM,
        **DRAWN,
        sample=replace(tiny.SAMPLE, solver="ddpm", guidance=1.0, grid="discrete(linear)"),
    ),
    "tiny-gan": GANRecipe(net=GANConfig(channels=(8,), latent=4, label=3), train=SELDOM),
    "tiny-vae": VAERecipe(
        net=VAEConfig(channels=(8,), blocks=1, latents=4),
        likelihood="discretized_logistic(2)",
        train=SELDOM,
    ),
}


def squares(n: int) -> Part:
    """Pictures of 8 x 8 whose brightness is their class."""
    rng = np.random.default_rng(n)
    labels = torch.from_numpy(rng.integers(0, 10, n))
    return Part(
        (25 * labels[:, None, None, None] + torch.from_numpy(rng.integers(0, 9, (n, 1, 8, 8)))).to(
            torch.uint8
        ),
        labels,
    )


SPLITS: dict[Which, Part] = {"train": squares(78), "valid": squares(90), "test": squares(50)}
DATA = Images("mnist", SPLITS, tiny.DIGITS)


class Brightness(Features):
    """Looks at brightness."""

    name = "brightness"
    dims = 2
    class_names = tiny.DIGITS

    def check(self, shape: tuple[int, ...]) -> None:
        pass

    def __call__(self, pictures: Tensor) -> Seen:
        inner = pictures[:, 0].double() / 25
        mean = inner.mean((1, 2))
        logits = -(mean[:, None] - 0.16 - torch.arange(10)).abs()
        return Seen(torch.stack([mean, inner[:, 0, 0]], 1).float(), logits.float())


@pytest.fixture(scope="module", autouse=True)
def placed() -> Iterator[None]:
    """The data set `mnist`, its reader, and tiny recipes of it."""
    with pytest.MonkeyPatch.context() as patch:
        entry = replace(datasets.DATA["mnist"], load=lambda: DATA, files=None)
        patch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
        written = replace(datasets.DATA["numbers"], load=lambda: Numbers(tiny.handwriting()), files=None)
        patch.setitem(datasets.DATA, "numbers", written)  # pyright: ignore[reportArgumentType]
        patch.setitem(FEATURES, "digit-reader", Brightness)
        patch.setattr(costs, "STEPS", 4)  # of which one has a GAN's penalty
        worse = count()  # of autoencoders, the first validation is the best
        patch.setattr(Autoencoding, "validate", lambda task, model: {"loss": float(next(worse))})
        for name, recipe in TINY.items():
            patch.setitem(RECIPES, name, recipe)
        yield


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes most of the time is left out: counting operations, and drawing the page."""
    monkeypatch.setattr(measures, "costs", lambda model, data: {"parameters": 1, "training_flops": 1.0})
    monkeypatch.setattr("phin.comparison.report_page", lambda *_: "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return compare(WORDS, out=folder, plan=PLAN, command="phin compare this")


@cache
def reference(n: int) -> Reference:
    return Reference(DATA, Brightness(), PicturePlan(n))


def measured(model: Model, n: int, **choices: Any) -> dict[str, Any]:
    """What `phin evaluate` says."""
    return pictures.evaluate(model, reference(n), **choices).figures


# The figures


def test_every_figure_is_what_the_measures_say(found: dict[str, Any], folder: Path) -> None:
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == found
    assert [row["title"] for row in found["models"]] == [
        *("tiny-ddpm, 1 epoch", "tiny-gan, 1 epoch", "tiny-vae, 1 epoch", "tiny-vae, 2 epochs")
    ]
    assert [row["family"] for row in found["models"]] == ["diffusion", "gan", "vae", "vae"]
    distances = set()
    for row in found["models"]:
        model = phin.load(row["folder"])
        quality = measured(model, N)
        assert row["quality"]["measures"] == quality["measures"]
        assert row["quality"]["label"] == quality["label"]
        assert row["quality"]["memorisation"] == quality["memorisation"]
        distances.add(quality["measures"]["frechet"]["value"])
        if row["family"] == "gan":
            assert "is a GAN" in row["likelihood"]["none"]
        else:
            assert row["likelihood"]["bits_per_dim"] == nll(model, n=4, seed=0)["bits_per_dim"]
            assert row["likelihood"]["method"] == {"diffusion": "chain", "vae": "elbo"}[row["family"]]
        floors = [one["floor"] for one in (quality["measures"]["frechet"], row["by_calls"][0]["frechet"])]
        assert floors[0] != floors[1]  # of other numbers of pictures
    assert len(distances) == 4
    assert len({row["weights"] for row in found["models"]}) == 4


def test_what_was_tuned_is_no_part_of_a_comparison(tmp_path: Path, brief: None) -> None:
    """A recipe is measured as it draws, whoever has tuned its run since."""
    first = compare(["tiny-ddpm:1"], out=tmp_path, plan=PLAN)["models"][0]
    model = phin.load(first["folder"])
    sampling = replace(models.choose(model, {}), solver="ddim", steps=first["by_calls"][-1]["steps"])
    tuning.record(model, [tuning.Tuned(sampling, 1.0, 2.0)])
    assert models.choose(phin.load(first["folder"]), {"steps": sampling.steps}).solver == "ddim"
    for figures in [Path(first["folder"], "figures.json"), *Path(first["folder"]).rglob("copies/*.json")]:
        figures.unlink(missing_ok=True)
    again = compare(["tiny-ddpm:1"], out=tmp_path, plan=PLAN)["models"][0]
    assert again["by_calls"][-1]["frechet"] == first["by_calls"][-1]["frechet"]
    assert again["quality"]["sampling"] == first["quality"]["sampling"]


def test_operations_are_counted_of_a_recipe_that_measures_much() -> None:
    """More held-out pictures than are kept to count over."""
    recipe = replace(TINY["tiny-ddpm"], measure=len(DATA.splits["valid"]) + 1)
    model = Model(nn.Identity(), recipe, Facts.of(DATA), {}, Path())
    plain = replace(model, recipe=replace(recipe, measure=0))
    assert operations(model, DATA) == operations(plain, DATA) > 0


def test_quality_by_calls_is_that_of_so_many_steps(found: dict[str, Any]) -> None:
    ddpm, *others = found["models"]
    assert [point["steps"] for point in ddpm["by_calls"]] == [2, 3]  # the ladder's, and the recipe's own
    model = phin.load(ddpm["folder"])
    for point in ddpm["by_calls"]:
        seen = measured(model, 24, steps=point["steps"])
        assert point["frechet"]["value"] == pytest.approx(seen["measures"]["frechet"]["value"])
        assert point["label"] == seen["label"]
        assert point["calls"] == point["steps"]
    for row in others:
        (point,) = row["by_calls"]
        assert point["calls"] == 1
        seen = measured(phin.load(row["folder"]), 24)
        assert point["frechet"]["value"] == pytest.approx(seen["measures"]["frechet"]["value"])


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"guidance": 2.0}, 6),
        ({"guidance": 1.0}, 3),
        ({"guidance": 0.0}, 3),
        ({"guidance": 1.0, "solver": "heun"}, 5),
        ({"guidance": 2.0, "solver": "heun", "steps": 4}, 14),
    ],
)
def test_calls_are_passes_of_the_network_over_a_picture(
    tmp_path: Path, choices: dict[str, Any], expected: int
) -> None:
    model = phin.load(tiny.write(tiny.LABELLED, tmp_path / "model.safetensors"))
    passed: list[int] = []
    assert isinstance(model.net, models.Denoiser)
    model.net.net.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    models.samples(model, labels=[3, 4], **choices)
    assert sum(passed) == 2 * expected
    assert measures.calls(model, choices) == expected


def test_quality_by_time_is_that_of_the_weights_at_that_time(found: dict[str, Any]) -> None:
    for row, epochs in zip(found["models"], (1, 1, 1, 2), strict=True):
        steps = math.ceil(78 * epochs / 10)
        assert [point["step"] for point in row["by_time"]] == [math.ceil(k * steps / 5) for k in range(1, 6)]
        for point in row["by_time"][::4]:
            model = phin.load(Path(row["folder"], "copies", f"{point['step']:06}.safetensors"))
            seen = measured(model, 24)
            assert point["frechet"]["value"] == pytest.approx(seen["measures"]["frechet"]["value"])
            assert point["examples"] == 10 * point["step"]
        seconds = [point["seconds"] for point in row["by_time"]]
        assert seconds == sorted(seconds)
        assert seconds[-1] <= 60 * row["training"]["minutes"]


def test_what_a_training_took(found: dict[str, Any]) -> None:
    for row, epochs in zip(found["models"], (1, 1, 1, 2), strict=True):
        took = row["training"]
        state = json.loads(Path(row["folder"], "run.json").read_text(encoding="utf-8"))["training"]["state"]
        assert took["steps"] == state["step"] == math.ceil(78 * epochs / 10)
        assert took["kept_at_step"] < took["steps"] or row["family"] != "vae"
        assert took["epochs"] == 10 * took["steps"] / 78
        alone = state["seconds"] - state["aside"]
        assert took["milliseconds_a_step"] == pytest.approx(1000 * alone / took["steps"])
        assert took["images_per_second"] == pytest.approx(10 * took["steps"] / alone)
        assert took["minutes"] == state["seconds"] / 60
        model = phin.load(row["folder"])
        assert took["flops_an_image"] == pytest.approx(operations(model, DATA))
        assert took["flops"] == pytest.approx(10 * took["steps"] * operations(model, DATA))
        assert row["parameters"] == sum(p.numel() for p in model.net.parameters())


def test_what_a_latent_model_took_is_told_with_its_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = KLAutoencoderRecipe(
        data="mnist", net=KLConfig(channels=(8, 16), latents=3, patch=1), train=tiny.BRIEF
    )
    monkeypatch.setattr(Compression, "validate", Autoencoding.validate)
    first = phin.train(before, tmp_path / "before")
    latent = replace(
        tiny.LABELLED,
        data="mnist",
        net=UNetConfig(channels=(16,), blocks=1, patch=1, attention=(False,)),
        train=SELDOM,
        sample=replace(tiny.SAMPLE, threshold="none"),
        autoencoder=str(first.folder),
    )
    monkeypatch.setitem(RECIPES, "tiny-latent", latent)
    found = compare(["tiny-latent:1", "tiny-vae:1"], out=tmp_path / "both", plan=PLAN)
    took, model = found["models"][0]["training"], phin.load(first.folder)
    state = model.metadata["training"]["state"]
    assert took["autoencoder_minutes"] == state["seconds"] / 60
    assert took["autoencoder_flops"] == pytest.approx(operations(model, DATA) * state["examples"])
    assert "autoencoder_flops" not in found["models"][1]["training"]
    lines = {line.title: line.cells for line in page.groups(found)["What it took"]}
    for title, form in (("minutes", page.plain), ("flops", page.si)):
        cell, other = lines[{"minutes": "minutes of training", "flops": "operations of training"}[title]]
        assert cell is not None
        assert other is not None
        assert (cell.text, cell.under) == (form(took[title]), f"+ {form(took[f'autoencoder_{title}'])}")
        assert other.under == ""


def test_minutes_are_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but steps takes of them what one family needs more of than another."""
    made, data = enter(["tiny", "tiny-gan"], minutes=7)
    assert data is DATA
    for entrant in made:
        train = entrant.recipe.train
        assert (train.minutes, train.steps, train.picture_every) == (7, None, 0)
        assert (entrant.title, entrant.name) == (entrant.source, f"{entrant.source}-7-minutes")
    names = [enter(["tiny"], **options)[0][0].name for options in ({"epochs": 7}, {"epochs": 7, "seed": 2})]  # pyright: ignore
    assert names == ["tiny-7-epochs", "tiny-7-epochs-seed-2"]
    assert (
        enter(["fashion-mnist-vae"], epochs=1, data="mnist")[0][0].name
        == "fashion-mnist-vae-of-mnist-1-epochs"
    )


class Wide(Brightness):
    """As many features as Inception-v3 has; and nobody looks before all is known to be right."""

    dims = 2048

    def __call__(self, pictures: Tensor) -> Seen:
        return forbid()


def many(train: int, test: int) -> Images:
    sizes: dict[Which, int] = {"train": train, "valid": 1, "test": test}
    return Images(
        "many", {which: Part(torch.zeros(n, 1, 1, 1, dtype=torch.uint8)) for which, n in sizes.items()}
    )


def test_curves_are_of_as_many_pictures_as_the_features_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,277 less a tenth of them, 228, are 2,049: the least of which 2,048 features have a covariance."""
    with pytest.raises(PhinError, match=r"^n_curve = 2,000, for the points of the curves: 2,000 test"):
        Measures(many(3000, 2500), Wide(), Plan(n_curve=2000))
    with pytest.raises(PhinError, match=r"^n_curve = 2,276, .*: 2,276 test pictures are too few"):
        Measures(many(3000, 2500), Wide(), Plan(n_curve=2276))
    with pytest.raises(PhinError, match=r"^2,276 test pictures are too few for the 2,048 features"):
        Measures(many(3000, 2276), Wide())
    monkeypatch.setattr(measures, "Reference", lambda data, features, plan: plan)
    for (train, test), features, expected in (
        ((3000, 2500), Wide(), 2277),
        ((2277, 2277), Wide(), 2277),
        ((3000, 2500), Brightness(), 2000),
        ((78, 50), Brightness(), 78),
    ):
        assert Measures(many(train, test), features).fewer.n == expected  # pyright: ignore


def test_a_model_that_collapsed_is_named_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One draws a single picture, another has no numbers left: both are told of, once measured for good."""

    def generate(net: OneShot, cond: Any, seed: int, indices: Any, noise: Any = None) -> Tensor:
        drawn = torch.full((len([*indices]), 1, 8, 8), 0.25)
        return drawn if isinstance(net, Autoencoder) else drawn * math.nan

    monkeypatch.setattr(models, "generate", generate)
    monkeypatch.setattr(measures, "costs", lambda model, data: {"parameters": 1, "training_flops": 1.0})
    words = ["tiny-vae:1", "tiny-ddpm:1", "tiny-gan:1"]
    found = compare(words, out=tmp_path, plan=PLAN)
    vae, ddpm, gan = found["models"]
    assert "all 40 pictures that" in vae["quality"]["none"]
    assert "tiny-vae-1-epochs" in vae["quality"]["none"]
    assert "not finite" in gan["quality"]["none"]
    assert {"none", "n", "calls", "step"} <= vae["by_time"][0].keys()
    assert ddpm["quality"]["measures"]["frechet"]["value"] > 0
    assert vae["parameters"] == 1
    assert vae["quality"]["active"] == measures.active(phin.load(vae["folder"]), DATA)["active"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = Seen_(text)
    rows = {row[0].split(" n = ")[0]: row[1:] for row in seen.rows if len(row) == 5}
    assert [cell == page.NONE for cell in rows["FID (brightness)"]] == [True, False, True, False]
    one = ddpm["quality"]["measures"]["frechet"]
    low, high = (f"{end:.3g}" for end in one["interval"])
    assert rows["FID (brightness)"][1] == f"{one['value']:.3g} [{low}, {high}]"
    assert f'title="± {one["error"]:.2g}; n = 40 against 40 (test)"' in text
    assert rows["active units of its latents by level"][0].endswith(" of 4")
    assert re.search("tiny-vae, 1 epoch: no figures of what it draws, for all 40 pictures that", text)
    assert "tiny-gan, 1 epoch: none after 2 steps of training, for sample 0" in text
    assert page.nearest(found).startswith(f"Nearest to the data is {ddpm['title']}")
    assert page.rows(found)[1][1] == page.NONE
    monkeypatch.setattr(pictures, "evaluate", forbid)
    assert compare(words, out=tmp_path, plan=PLAN)["models"] == found["models"]
    alone = {**found, "models": [vae, gan]}
    assert page.nearest(alone) == "Nothing that any of them drew could be measured."
    assert "nearest to the data" not in page.tiles(alone, page.groups(alone))
    assert 'class="why"' in "".join(page._reasons(alone["models"]))


# Once is enough


def is_gan(model: Model) -> bool:
    return isinstance(model.recipe, GANRecipe)


def forbid(*_: Any, **__: Any) -> Any:
    pytest.fail("this was done before")


def test_the_same_again_does_nothing_twice(
    found: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "evaluate", forbid)
    monkeypatch.setattr(measures, "nll", lambda model, **how: nll(model) if is_gan(model) else forbid())
    text = (folder / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr("phin.comparison.report_page", lambda *_: text)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*.*")}
    fewer = compare(WORDS[2:], out=folder, plan=PLAN, command="phin compare this")
    assert fewer["models"] == found["models"][2:]
    again = compare(WORDS, out=folder, plan=PLAN, command="phin compare this")
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*.*")} == kept


@pytest.mark.usefixtures("brief")
def test_a_crash_half_way_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the second model is measured; the first is not measured again, nor is any trained."""
    plan, words = replace(PLAN, n_curve=20), ["tiny-vae:1", "tiny-gan:1"]
    evaluate, done = pictures.evaluate, list[str]()

    def counted(model: Model, *rest: Any, **choices: Any) -> Any:
        if len(done) == 10:
            raise KeyboardInterrupt
        done.append(str(model.path))
        return evaluate(model, *rest, **choices)

    monkeypatch.setattr(pictures, "evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        compare(words, out=tmp_path, plan=plan)
    assert not (tmp_path / "report.json").exists()
    weights = {path: path.read_bytes() for path in tmp_path.glob("*/last.safetensors")}
    assert len(weights) == 2
    before, done[:] = [*done], []
    found = compare(words, out=tmp_path, plan=plan)
    assert not set(before) & set(done)
    assert (len(before), len(done)) == (10, 4)  # of 7 for each: as it draws, by calls, and at five moments
    assert {path: path.read_bytes() for path in weights} == weights
    monkeypatch.setattr(pictures, "evaluate", evaluate)
    for row in found["models"]:
        assert row["quality"]["measures"] == measured(phin.load(row["folder"]), N)["measures"]


@pytest.mark.usefixtures("brief")
def test_a_comparison_that_is_killed_in_its_second_training_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first model is not trained again, the second from its checkpoint on, to the same weights."""
    for name in ("tiny-vae", "tiny-gan"):
        kept = replace(TINY[name], train=replace(SELDOM, save_minutes=0.0))
        monkeypatch.setitem(RECIPES, name, kept)
    plan, words, steps = replace(PLAN, n_curve=20), ["tiny-vae:1", "tiny-gan:1"], list[tuple[str, int]]()
    whole = compare(words, out=tmp_path / "whole", plan=plan)

    class Killed(BaseException):
        """As by a signal that nobody can catch."""

    def watch(kind: type[Task], last: int | None = None) -> None:
        forward = kind.forward

        def watched(task: Task, step: int, rows: slice) -> Losses:
            if step == last:
                raise Killed
            steps.append((kind.__name__, step))
            return forward(task, step, rows)

        patch.setattr(kind, "forward", watched)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        watch(Adversarial, 5)
        with pytest.raises(Killed):
            compare(words, out=out, plan=plan)
    assert not (out / "report.json").exists()
    weights = (out / "tiny-vae-1-epochs" / "last.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        watch(Autoencoding)
        watch(Adversarial)
        found = compare(words, out=out, plan=plan)
    assert steps == [("Adversarial", step) for step in range(8)]  # each once
    assert (out / "tiny-vae-1-epochs" / "last.safetensors").read_bytes() == weights
    assert [row["weights"] for row in found["models"]] == [row["weights"] for row in whole["models"]]
    for name in ("best", "last"):
        files = (run / "tiny-gan-1-epochs" / f"{name}.safetensors" for run in (out, tmp_path / "whole"))
        one, other = (read_weights(file)[0] for file in files)
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_figures_depend_on_the_pictures_and_on_who_looks() -> None:
    facts = tiny.FACTS[tiny.READER]
    readers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        readers.append(Reader(tiny.READER.model(facts), "reader", (1, 8, 8), tiny.DIGITS))  # pyright: ignore
    sums = [measures._asked(Reference(DATA, reader, PicturePlan(30, 20, 0))) for reader in readers]
    assert sums[0] == sums[1] != sums[2]
    assert measures._asked(Reference(DATA, readers[0], PicturePlan(31, 20, 0))) != sums[0]


# Walks


class Echo(OneShot):
    """Draws its noise, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(()))

    def generate(self, count: int, noise: Noise, label: Tensor | None = None) -> Tensor:
        first, second = noise(torch.empty(count, 1, 2, 3)), noise(torch.empty(count, 1, 2, 3))
        return torch.cat([first, second], 1) + (0 if label is None else 100 * label.view(-1, 1, 1, 1))


def test_a_walk_goes_along_great_circles_of_all_noise() -> None:
    facts = replace(tiny.FACTS[tiny.LABELLED], shape=(2, 2, 3))
    model = Model(Echo(), tiny.LABELLED, facts, {}, Path("echo"))
    ends = seeded(3, (0, 1), "walk")
    circles = []
    for _ in range(2):
        a, b = ends(torch.empty(2, 1, 2, 3)).split(1)
        circles.append(slerp(a, b, torch.linspace(0, 1, 5))[:, 0])
    torch.testing.assert_close(walks.walk(model, 2, 5, 3), torch.cat(circles, 1) + 200)
    torch.testing.assert_close(walks.walk(model, None, 5, 3), torch.cat(circles, 1))
    assert not torch.allclose(circles[0], circles[1])
    noise = walks.between(0, torch.tensor([0.5]))(torch.empty(1, 20_000))
    assert noise.square().mean().item() == pytest.approx(1, abs=0.03)  # of a straight line, 1/2


def test_a_diffusion_models_walk_leads_from_a_sample_to_a_sample(tmp_path: Path) -> None:
    """By a solver that draws at every step."""
    recipe = replace(tiny.LABELLED, sample=replace(tiny.SAMPLE, solver="ddpm"))
    tiny.FACTS[recipe] = tiny.FACTS[tiny.LABELLED]
    model = phin.load(tiny.write(recipe, tmp_path / "model.safetensors"))
    way = walks.walk(model, 7, 3, 0)
    net, config = models.drawing(model)
    cond = {"label": torch.tensor([7, 7])}
    ends = models.draw(net, config, (1, 8, 8), cond, 0, range(2), noise=seeded(0, (0, 1), "walk"))
    torch.testing.assert_close(way[[0, 2]], ends, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(way[1], way[0], atol=1e-2)


# The page


class Seen_(HTMLParser):
    """The cells of the table of figures by the first of their row, and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.best: list[list[int]] = []
        self.links: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [link for name in ("src", "href") if (link := given.get(name))]
        if tag == "table":
            self.inside = given.get("class") == "versus"
        if self.inside and tag == "tr":
            self.rows.append([])
            self.best.append([])
        if self.inside and tag in ("td", "th"):
            if given.get("class") == "best":
                self.best[-1].append(len(self.rows[-1]) - 1)
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += f" {data}".strip() if not self.rows[-1][-1] else f" {data}"


def test_the_page_has_every_figure_and_needs_nothing_else(found: dict[str, Any], folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    seen = Seen_(text)
    for row in found["models"]:
        if "none" not in row["likelihood"]:
            rate = row["likelihood"]["bits_per_dim"]
            assert rate["reference"] == {"split": "test", "n": rate["n"]}
            assert f'title="± {rate["error"]:.2g}; n = {rate["n"]} against {rate["n"]} (test)"' in text
    assert all(link.startswith("data:image/png;base64,") for link in seen.links)
    assert len(seen.links) == 1 + 2 * 4  # real pictures, samples and walks
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    rows = {row[0].split(" n = ")[0]: row[1:] for row in seen.rows if len(row) == 6}
    for i, row in enumerate(found["models"]):
        for name, title in (("frechet", "FID"), ("recall", "recall"), ("coverage", "coverage")):
            one, cells = row["quality"]["measures"][name], rows[f"{title} (brightness)"]
            for cell, told in ((cells[i], one), (cells[4], one["floor"])):
                low, high = (f"{end:.3g}" for end in told["interval"])
                assert cell == f"{told['value']:.3g} [{low}, {high}]"
        over = row["quality"]["measures"]["frechet"]["over_floor"]
        low, high = (f"{end:.3g}" for end in over["interval"])
        ratios = rows["times the floor which is real pictures' own"]
        assert ratios[i] == f"{over['value']:.3g} [{low}, {high}]"
        rate = row["quality"]["label"]
        low, high = (f"{100 * end:.2f}" for end in rate["interval"])
        assert rows["read as the label asked for"][i] == f"{100 * rate['rate']:.2f} % [{low}, {high}]"
        assert rows["steps"][i] == str(row["training"]["steps"])
        likely = row["likelihood"]
        cell = next(cells for title, cells in rows.items() if title.startswith("bits"))[i]
        if "none" in likely:
            assert cell == "\N{EN DASH}"
            assert (
                "no bits a dimension, for it is a GAN, which draws, and gives no image a likelihood." in text
            )
        else:
            low, high = (f"{end:.3f}" for end in likely["bits_per_dim"]["interval"])
            assert cell == f"{likely['bits_per_dim']['value']:.3f} [{low}, {high}]\n{likely['method']}"
    assert text.count("<svg") == 6 + 3  # distances, precision; over time, calls; and a plot for each recipe
    assert "phin compare this" in text
    table = page.rows(found)
    assert [row[0] for row in table[1:]] == [*(row["title"] for row in found["models"]), "real pictures"]
    assert len({len(row) for row in table}) == 1


def test_the_best_are_those_that_are_not_told_apart_from_it() -> None:
    def line(better: Any, *cells: tuple[float, float] | None) -> set[int]:
        made = tuple(None if cell is None else Cell(cell[0], "", error=cell[1]) for cell in cells)
        return Line("", "", made, None, better).best

    assert line("low", (1.0, 0.1), (1.2, 0.1), (1.3, 0.1), None) == {0, 1}  # 2 sqrt(0.02) is 0.28
    assert line("high", (1.0, 0.1), (1.2, 0.1), (1.3, 0.1)) == {1, 2}
    assert line("low", (2.0, 0.0), (1.0, 0.0)) == {1}
    assert line("low", (2.0, 0.0), None) == set()
    assert line("low", (2.0, 0.8), (1.0, 0.0)) == set()
    assert line(None, (2.0, 0.0), (1.0, 0.0)) == set()


def test_who_is_nearest_and_who_cannot_be_told_from_it(found: dict[str, Any]) -> None:
    changed = copy.deepcopy(found)
    names = [model["title"] for model in changed["models"]]
    for model, (value, error) in zip(
        changed["models"], [(3, 0.1), (1.2, 0.1), (1, 0.1), (9, 0.1)], strict=True
    ):
        over = {"value": value / 0.5, "error": 9.0, "interval": [0, 9]}  # in which the floor's error is, too
        model["quality"]["measures"]["frechet"] |= {"value": value, "error": error, "over_floor": over}
    said = page.nearest(changed)
    assert said.startswith(f"Nearest to the data is {names[2]}, 2 times as far from test pictures as ")
    assert said.endswith(f"; {names[1]} cannot be told from it.")
    near = page.tiles(changed, page.groups(changed)).split('<div class="tile">')[1]
    assert [name for name in names if re.search(rf"</i>{re.escape(name)}\b", near)] == names[1:3]
    changed["models"][1]["quality"]["measures"]["frechet"]["value"] = 1.4
    assert "told" not in page.nearest(changed)


def test_large_numbers_are_short() -> None:
    numbers = [0.5, 12, 999, 1000, 35_746_307, 999_999, 2.5e15]
    assert [page.si(number) for number in numbers] == ["0.5", "12", "999", "1 k", "35.7 M", "1 M", "2.5 P"]
    assert [page.plain(number) for number in (0.04652, 99.4, 1021.7)] == ["0.0465", "99.4", "1,022"]


@pytest.mark.parametrize(("words", "columns"), [("mnist", 5), ("fashion-mnist", 3), ("a" * 40, 1)])
def test_a_legend_has_room_for_all_of_its_names(words: str, columns: int) -> None:
    names = [f"{words} {i}" for i in range(7)]

    def draw(axes: "Axes") -> None:
        for name in names:
            axes.plot([0, 1], label=name)

    svg = report.plot([draw], "x", "y", size=(5.0, 3.6))
    (width,) = re.findall(r'viewBox="0 0 ([\d.]+) ', svg)
    begin = {name: float(x) for x, name in re.findall(r' x="([\d.]+)"[^>]*>([^<]+ \d)</text>', svg)}
    assert list(begin) == names
    assert max(x + 4 * len(name) for name, x in begin.items()) <= float(width)  # a letter is wider than 4
    assert len({*begin.values()}) == columns


def test_columns_of_real_pictures_are_labels() -> None:
    sheet = page.real(DATA)
    assert sheet.shape == (6 * 10 + 2, 10 * 10 + 2)
    brightness = np.array([[sheet[10 * i + 5, 10 * k + 5] // 25 for k in range(10)] for i in range(6)])
    np.testing.assert_array_equal(brightness, np.tile(np.arange(10), (6, 1)))


# The command line


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("elsewhere", "brief")
def test_the_command_compares(capsys: pytest.CaptureFixture[str]) -> None:
    words = "compare tiny --epochs 1 -n 30 --n-curve 20 --n-nll 2 --ladder 1"
    assert main([*words.split(), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["command"] == f"phin {words}".replace("-n 30", "--n 30")
    assert [row["name"] for row in facts["models"]] == ["tiny-1-epochs"]
    assert facts["models"][0]["by_calls"][0]["calls"] == 2  # one step, guided
    assert main(words.split()) == 0
    said = capsys.readouterr()
    assert "The report is runs/compare/report.html" in said.out
    assert "measuring" not in said.err


REFUSED = [
    ("", "name the recipes to compare"),
    ("nobody --minutes 1", "unknown recipe 'nobody'"),
    ("mnist-classifier --minutes 1", "mnist-classifier draws no pictures to compare"),
    ("mnist-autoencoder:2", "mnist-autoencoder draws no pictures to compare"),
    ("mnist-superres --minutes 1", "mnist-superres draws from a picture that it is given"),
    ("tiny --minutes 1 --epochs 1", "give minutes or epochs, one of the two"),
    ("tiny:2 tiny-gan --minutes 1", "tiny:2 has epochs for its budget"),
    ("tiny:2 tiny-gan", "tiny-gan has no budget"),
    ("tiny:0", "0 epochs are too few"),
    ("tiny --epochs -1", "-1 epochs are too few"),
    ("tiny:1.5", "behind the colon are epochs, a whole number"),
    ("tiny: --epochs 1", "behind the colon are epochs, a whole number"),
    ("tiny --minutes 0", "minutes must be positive"),
    ("tiny --minutes nan", "minutes must be positive"),
    ("tiny cifar10-gan --epochs 1", "tiny is a recipe of mnist and cifar10-gan of cifar10"),
    ("tiny:1 tiny:1", "tiny, 1 epoch is named twice"),
    ("numbers --minutes 1", "numbers is no set of single pictures"),
    ("swiss-roll --minutes 1", "swiss-roll is no set of single pictures"),
    ("tiny --epochs 1 --data nowhere", "there is no data set 'nowhere'"),
    ("tiny --epochs 1 --data folder:nowhere", "nowhere"),
    ("tiny --epochs 1 -n 3", "n = 3 is too few"),
    ("tiny --epochs 1 --n-curve 3", "n_curve = 3, for the points of the curves: n = 3 is too few"),
    ("tiny --epochs 1 --n-nll 51", "mnist has 50 test images"),
    ("tiny --epochs 1 --n-nll 1", "at least 2 images"),
    ("tiny --epochs 1 --ladder 5 0", "0 steps are too few"),
    ("tiny-ddpm --epochs 1 --ladder 1001", "1001"),
    ("tiny --epochs 1 --features nobody", "unknown model 'nobody'"),
    ("tiny --epochs 1 --seed -1", "seed must not be negative"),
    ("tiny --epochs 1 --out /proc/phin", "/proc/phin cannot be written to"),
    ("tiny mnist-latent --epochs 1", "mnist-latent: autoencoder: unknown model 'runs/mnist-autoencoder'"),
    ("tiny mnist-ddpm:x --epochs 1", "behind the colon are epochs"),
]


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_cannot_be_compared_is_one_line_and_nothing_is_trained(
    words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phin.comparison.train", forbid)
    assert main(["compare", *words.split()]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not said.out
    assert not [*Path().iterdir()]


def test_data_that_are_made_as_needed_have_no_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(datasets.DATA["mnist"], load=Sheets)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PhinError, match="sheets has no epochs"):
        enter(["tiny"], epochs=1)


@pytest.mark.usefixtures("brief")
def test_a_bar_shows_every_drawing(tmp_path: Path) -> None:
    told: dict[str, list[int]] = {}

    def bar(total: int, doing: str) -> Any:
        told.setdefault(f"{doing} {total}", [])
        return nullcontext(told[f"{doing} {total}"].append)

    compare(["tiny-vae:1"], out=tmp_path, plan=replace(PLAN, n_curve=20), bar=bar)
    assert {name: sum(done) for name, done in told.items()} == {
        "drawing tiny-vae-1-epochs 40": 40,
        "drawing tiny-vae-1-epochs 20": 6 * 20,  # by calls, and at five moments
        "measuring tiny-vae-1-epochs 4": 4,
    }
