import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import phin
from phin import data as datasets
from phin.data import DATA
from phin.data.base import Batch, Which
from phin.diffusion.level import vp
from phin.errors import PhinError
from phin.families.base import OneShot
from phin.nets.classifier import Classifier, NoisyClassifier
from phin.nets.unet import UNetConfig
from phin.recipes import (
    RECIPES,
    AutoencoderRecipe,
    DiffusionRecipe,
    Facts,
    Recipe,
    describe,
    restore,
    train,
)
from phin.training.config import TrainConfig
from phin.training.denoising import Denoising


def facts_of(recipe: Recipe) -> Facts:
    """What the registry says of the recipe's data; a folder of pictures is made up."""
    if recipe.data not in DATA:
        return Facts((3, 32, 32), 2, 0, ("cat", "dog"), True)
    entry = DATA[recipe.data]
    vocabulary = 10 if recipe.data == "numbers" else 0
    facts = Facts(entry.shape, entry.classes, vocabulary, tuple(map(str, range(entry.classes))), True)
    whole = isinstance(recipe, DiffusionRecipe | AutoencoderRecipe) and recipe.drop == 1
    return facts.unconditional() if whole else facts


@pytest.mark.parametrize("name", RECIPES)
def test_a_description_gives_the_recipe_back(name: str) -> None:
    recipe, facts = RECIPES[name], facts_of(RECIPES[name])
    assert restore(json.loads(json.dumps(describe(name, recipe, facts)))) == (recipe, facts)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_a_model_of_its_data(name: str) -> None:
    recipe, facts = RECIPES[name], facts_of(RECIPES[name])
    model = recipe.model(facts)
    x = torch.randn(2, *facts.shape)
    if isinstance(model, Classifier):
        assert model(x).shape == (2, facts.classes)
        return
    if isinstance(model, NoisyClassifier):
        assert model(x, vp(torch.tensor(0.0))).shape == (2, facts.classes)
        return
    conditions = {"text": torch.tensor([[4], [2]])} if facts.vocabulary else {}
    conditions |= {"label": torch.tensor([0, facts.classes - 1])} if facts.classes else {}
    if isinstance(model, OneShot):
        assert model.generate(2, torch.randn_like, **conditions).shape == x.shape
        return
    assert model(x, vp(torch.tensor(0.0)), **conditions).x.shape == x.shape


def test_files_of_other_versions_are_refused() -> None:
    known = describe("tiny", tiny.NUMBERS, tiny.FACTS[tiny.NUMBERS])
    recipe = known["recipe"]
    for wrong, message in (
        ({"family": "oracle"}, "'oracle'"),
        ({"recipe": {**recipe, "flavour": 1}}, "'flavour'"),
        ({"recipe": {**recipe, "net": {**recipe["net"], "depths": 1}}}, "'depths'"),
        ({"recipe": {**recipe, "parameterization": "y"}}, "'y'"),
        ({"facts": {}}, "not understood"),
        ({"facts": None}, "not understood"),
    ):
        with pytest.raises(PhinError, match=message):
            restore({**known, **wrong})
    with pytest.raises(PhinError, match="not understood"):
        restore({"family": "diffusion"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parameterization": "y"}, "unknown parameterization 'y'"),
        ({"density": "cosines"}, "unknown schedule 'cosines'"),
        ({"weight": "min_snr(6"}, "weight 'min_snr\\(6' is not understood"),
        ({"drop": 1.5}, "drop .* not 1.5"),
        ({"drop": float("nan")}, "not nan"),
    ],
)
def test_a_wrong_field_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        replace(tiny.NUMBERS, **wrong)  # pyright: ignore[reportArgumentType]


def test_a_network_must_fit_the_data() -> None:
    with pytest.raises(PhinError, match=r"moons has vectors of 2 numbers"):
        replace(tiny.POINTS, net=UNetConfig()).model(tiny.FACTS[tiny.POINTS])
    for recipe in (tiny.READER, tiny.NOISY):
        with pytest.raises(PhinError, match="moons has no labels"):
            replace(recipe, data="moons").model(tiny.FACTS[tiny.POINTS])
    with pytest.raises(PhinError, match="unknown schedule 'cosines'"):
        replace(tiny.NOISY, density="cosines")


def test_training_from_python_learns_and_is_found_again(tmp_path: Path) -> None:
    recipe = replace(tiny.LABELLED, train=replace(tiny.BRIEF, steps=60, batch=32, lr=2e-2))
    result = train(recipe, tmp_path / "run", command="phin train digits")
    assert result.validation["loss"] < 0.7  # of v, which has unit variance: silence has 1
    model = phin.load(tmp_path / "run")
    assert (model.recipe, model.metadata["name"]) == (recipe, "digits")
    assert model.metadata["command"] == "phin train digits"
    assert {picture.shape for picture in phin.sample(model, n=3)} == {(8, 8)}


def test_the_same_call_goes_on_and_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tiny.POINTS, tmp_path, "points", "phin train points")
    longer = replace(tiny.POINTS, train=replace(tiny.BRIEF, steps=3))
    assert train(longer, tmp_path, "points").step == 3
    with pytest.raises(PhinError, match="holds another run"):
        train(replace(longer, drop=0.5), tmp_path, "points")


def test_a_run_is_the_same_whatever_was_drawn_before(tmp_path: Path) -> None:
    first = train(tiny.POINTS, tmp_path / "first")
    torch.rand(3)
    second = train(tiny.POINTS, tmp_path / "second")
    for name, weight in phin.load(first.folder).net.state_dict().items():
        torch.testing.assert_close(weight, phin.load(second.folder).net.state_dict()[name], rtol=0, atol=0)


def test_runs_of_other_data_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(tiny.POINTS).folder == Path("runs/moons")
    with pytest.raises(PhinError, match="unknown recipe 'moon'; there are numbers"):
        train("moon")


def test_recipes_are_plain_values() -> None:
    """They are saved as JSON, so that a change of a preset's type is a change of format."""
    for recipe in RECIPES.values():
        assert json.loads(json.dumps(asdict(recipe)))
    assert isinstance(RECIPES["numbers"], DiffusionRecipe)
    assert RECIPES["numbers"].sample.guidance <= 1.5
    assert all(isinstance(recipe.train, TrainConfig) for recipe in RECIPES.values())


@pytest.mark.parametrize(
    ("recipe", "wrong", "message"),
    [
        (tiny.LABELLED, {"weight": "likelihood(discrete)"}, "no slope"),
        (tiny.LABELLED, {"weight": "likelihood(simple)"}, "'simple' is no number and none of linear"),
        (tiny.LABELLED, {"weight": "sigmoid(-500)"}, r"sigmoid\(-500\) at density cosine is infinite or 0"),
        (tiny.LABELLED, {"density": "karras(rho=0)"}, "rho = 0 must be positive"),
        (tiny.LABELLED, {"density": "flow(log_snr_min=-60)"}, "in float32"),
        (tiny.LABELLED, {"density": "linear(scaling=linear)"}, "no Linear"),
        (tiny.NOISY, {"density": "geometric(1e-30, 1e30)"}, "infinite somewhere in float32"),
        (tiny.READER, {"smoothing": 1.0}, "smoothing is a share, .* not 1.0"),
        (tiny.READER, {"smoothing": float("nan")}, "not nan"),
    ],
)
def test_what_training_would_stumble_over_is_refused_at_once(
    recipe: Recipe, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(PhinError, match=message):
        replace(recipe, **wrong)  # pyright: ignore[reportArgumentType]


def test_parts_of_a_recipe_may_have_arguments() -> None:
    for changed in (
        {"weight": "likelihood(cosine(s=0.1, scaling=ve))"},
        {"weight": "likelihood(flow)", "density": "flow(scaling=flow)"},
        {"density": "discrete(flow, T=50)"},
        {"density": "discrete(cosine)", "objective": "bound(decoder=gaussian(0.1))"},
    ):
        replace(tiny.LABELLED, **changed)


def test_the_baseline_of_a_validation_reads_the_training_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = datasets.load("digits"), []
    split = type(data).split

    def noted(self: datasets.Data, which: Which, *arguments: Any) -> Batch:
        asked.append(which)
        return split(self, which, *arguments)

    monkeypatch.setattr(type(data), "split", noted)
    task = tiny.LABELLED.task(data)
    with torch.no_grad():
        first = task.validate(task.model)
        assert task.validate(task.model) == first
    assert asked.count("valid") == 2 * asked.count("train")


def test_flow_matching_lowers_the_error_of_the_velocity() -> None:
    """A network that says 0 is off by eps - x, at every level alike."""
    recipe, data = RECIPES["mnist-flow"], datasets.load("digits")
    assert isinstance(recipe, DiffusionRecipe)
    task = replace(recipe, net=tiny.NET, train=replace(tiny.BRIEF, batch=40)).task(data)
    assert isinstance(task, Denoising)
    for weights in task.model.net.parameters():
        torch.nn.init.zeros_(weights)
    (x, _, _), eps = task.shown(0, slice(None))
    losses = task(0, slice(None))
    torch.testing.assert_close(losses.loss, (eps - x).square().mean((1, 2, 3)))
    assert losses.log_snr is not None
    t = torch.sigmoid(-losses.log_snr / 2)  # of alpha = 1 - t and sigma = t: uniform, but for the ends
    assert (t.sort().values - (torch.arange(40) + 0.5) / 40).abs().max() < 2 / 40
    levels = recipe.sample.levels()
    torch.testing.assert_close(levels.alpha + levels.sigma, torch.ones_like(levels.alpha))


def test_ddim_draws_from_ddpms_model() -> None:
    for data, steps in (("mnist", 50), ("fashion-mnist", 50), ("cifar10", 100)):
        ddpm, ddim = RECIPES[f"{data}-ddpm"], RECIPES[f"{data}-ddim"]
        assert isinstance(ddpm, DiffusionRecipe)
        assert isinstance(ddim, DiffusionRecipe)
        assert replace(ddim, sample=ddpm.sample) == ddpm
        assert ddim.sample == replace(ddpm.sample, solver="ddim", steps=steps)


@pytest.mark.parametrize("way", ["ddpm", "ddim", "score-vp", "vdm", "flow"])
def test_the_same_way_of_other_data_is_the_same_way(way: str) -> None:
    mnist, fashion, cifar10 = (RECIPES[f"{data}-{way}"] for data in ("mnist", "fashion-mnist", "cifar10"))
    assert isinstance(mnist, DiffusionRecipe)
    assert isinstance(cifar10, DiffusionRecipe)
    assert fashion == replace(mnist, data="fashion-mnist")
    for field in ("parameterization", "density", "objective", "weight", "learn_variance"):
        assert getattr(cifar10, field) == getattr(mnist, field)
    assert (cifar10.data, cifar10.flip) == ("cifar10", True)
    assert way.startswith("dd") or cifar10.train == RECIPES["cifar10-small"].train
