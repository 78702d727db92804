"""The search for samplers: levels that are best, and what is then taken for so many steps."""

import json
import math
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import DIGITS
from torch import Tensor

import phin
from phin import data as datasets
from phin import models, tuning
from phin.cli import main
from phin.data.base import Images, Part, from_integers
from phin.data.numbers import Numbers
from phin.data.words import Words
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.noise import seeded
from phin.diffusion.parameterization import PARAMETERIZATIONS
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import DEIS, SOLVERS, DPMpp3M, UniPC, evaluations, prior
from phin.edits import Editor
from phin.errors import PhinError
from phin.metrics.features import Features, Seen
from phin.pictures import png, to_integers
from phin.recipes import Facts, tuned
from phin.recipes.distillation import Consistency
from phin.recipes.features import FEATURES
from phin.registry import build
from phin.training.checkpoint import read_weights, save_weights
from phin.tuning import APART, Paths, Tuned, knots, placed, tune


def test_levels_are_moved_to_where_the_distance_is_least() -> None:
    """A distance whose minimum is known, inside of the range, and one that pulls a level out of it."""
    best = torch.tensor([-9, -7.2, -3.1, -0.9, 8]).double()  # some of it many moves away
    found = placed(lambda ladder: float((ladder - best).square().sum()), torch.linspace(-9, 8, 5).double())
    torch.testing.assert_close(found, best, rtol=0, atol=0.125)  # half of the last move
    pulled = placed(lambda ladder: float(-ladder[1]), torch.tensor([-9, 0, 1, 8]).double())
    assert pulled[0] == -9
    assert (pulled.diff() >= APART).all()
    assert pulled[2] - pulled[1] < APART + tuning.LAST + 0.01  # it came as near as it may
    high = placed(lambda ladder: float(-ladder.sum()), torch.tensor([-9, 0, 8]).double())
    assert high[-1] == 8
    close = torch.tensor([-9, -8, -7.99, 0, 8]).double()  # a gap of a long ladder, nearer than levels are put
    found = placed(lambda ladder: float((ladder[3] - 1).square()), close)
    torch.testing.assert_close(found, torch.tensor([-9, -8, -7.99, 1, 8]).double())


def test_a_ladder_is_said_as_a_grid() -> None:
    ladder = torch.tensor([-8.25, -1, 0.125, 7]).double()
    assert knots(ladder) == "knots(7.000, 0.125, -1.000, -8.250)"
    levels = build(knots(ladder), SCHEDULES, "schedule", SCALINGS).levels(4)
    assert torch.equal(levels.log_snr, ladder)


@pytest.mark.parametrize("name", [*chain(*tuning.FAMILIES)])
def test_so_many_steps_are_so_many_calls(name: str) -> None:
    """Of every candidate, or else one would win by calls that others are not allowed."""
    levels = build("cosine", SCHEDULES, "schedule", SCALINGS)
    solver = build(name, SOLVERS, "solver")
    assert [evaluations(solver, levels.levels(steps)) for steps in (2, 3, 4, 10)] == [2, 3, 4, 10]


class Narrow(torch.nn.Module):
    """Predicts x̂ = E[x | z] of x ~ N(0, SPREAD²) exactly, from z of unit scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))  # a model has some

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma, _ = SCALINGS["vp"](log_snr.view(-1, 1))
        return alpha * SPREAD**2 * z / (alpha**2 * SPREAD**2 + sigma**2)


SPREAD = 0.25


@pytest.fixture
def exact(tmp_path: Path) -> models.Model:
    """A model of points on the plane, N(0, SPREAD²), that is right."""
    recipe = phin.RECIPES["swiss-roll"]
    assert isinstance(recipe, phin.recipes.DiffusionRecipe)
    net, path = Denoiser(Narrow(), PARAMETERIZATIONS["x"]()).eval(), tmp_path / "exact.safetensors"
    return models.Model(net, recipe, recipe.facts(recipe.load()), {"family": "diffusion"}, path)


def test_the_paths_end_where_the_ode_of_a_gaussian_does(exact: models.Model) -> None:
    """Along it z stays in proportion to its standard deviation sqrt(alpha² SPREAD² + sigma²)."""
    paths = Paths(exact, 8, 3, 1, {})
    levels = exact.recipe.sample.levels()  # pyright: ignore[reportAttributeAccessIssue]
    start = prior(levels.at(0), torch.empty(8, 2, dtype=torch.float64), seeded(7, range(8)))
    first, last = (torch.hypot(level.alpha * SPREAD, level.sigma) for level in (levels.at(0), levels.at(-1)))
    alpha = levels.alpha[-1]
    expected = start / first * last * alpha * SPREAD**2 / last**2
    torch.testing.assert_close(torch.stack(paths.ends).double(), expected, rtol=1e-3, atol=0)


def test_the_distance_is_that_of_the_pictures_of_as_many_steps(exact: models.Model) -> None:
    """Root mean square over values, mean over pictures, from the same noise."""
    found = Paths(exact, 3, 3, 1, {}).distance("ddim", torch.tensor([-8, -1, 2.5, 7]).double())
    grid = "knots(7, 2.5, -1, -8)"
    long, short = (
        phin.samples(exact, n=3, seed=7, **sampler)
        for sampler in (tuning.EXACT, {"solver": "ddim", "grid": grid, "steps": 4})
    )
    each = [math.sqrt(((a - b) ** 2).mean()) for a, b in zip(long, short, strict=True)]
    assert found == pytest.approx(sum(each) / 3, rel=1e-6)
    assert len(set(each)) == 3


def test_the_best_finalist_is_taken_and_judged_by_other_noise(
    exact: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances are known: where each solver begins, and where its best levels lead.

    Of the first family the second solver would end best of all, but the first one begins better, and is its
    finalist. Of the finalists the last ends best, though it begins worst.
    """
    families = ("heun", "euler"), ("ddim",), ("unipc_2",)
    begins = {"heun": 8.0, "euler": 9.0, "ddim": 10.0, "unipc_2": 20.0, models.choose(exact, {}).solver: 50.0}
    ends = begins | {"heun": 5.0, "euler": 1.0, "ddim": 4.0, "unipc_2": 3.0}
    shift = torch.tensor([0, 0.5, -0.5, 0]).double()

    class Known:
        def __init__(self, model: Any, n: int, seed: int, which: int, choices: Any) -> None:
            self.which = which

        def distance(self, solver: str, ladder: Tensor) -> float:
            start = replace(models.choose(exact, {}), steps=len(ladder)).levels().log_snr
            away = float((ladder - start - shift).square().sum() / shift.square().sum())
            return ends[solver] + (begins[solver] - ends[solver]) * away + 100 * self.which

    monkeypatch.setattr(tuning, "Paths", Known)
    own = models.choose(exact, {})
    start = replace(own, steps=4).levels().log_snr
    for some, solver in ((families, "unipc_2"), (families[:1], "heun")):
        (found,) = tune(exact, steps=(4,), families=some)
        sampling = replace(own, steps=4, solver=solver, grid=knots(start + shift))
        assert found == Tuned(sampling, 100 + ends[solver], 150)


def test_the_finalists_are_unipc_dpmpp_3m_and_deis() -> None:
    kinds = [{type(build(name, SOLVERS, "solver")) for name in family} for family in tuning.FAMILIES]
    assert kinds == [{UniPC}, {DPMpp3M}, {DEIS}]


def test_a_prompted_model_is_asked_for_single_digits_as_it_is_chosen(
    exact: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(models, "samples", lambda model, **how: asked.append(how) or [])
    Paths(replace(exact, facts=replace(exact.facts, vocabulary=10)), 12, 3, 0, {"guidance": 2.0})
    assert asked == [{"prompts": [*"012345678901"], "n": 1, "seed": 6, "guidance": 2.0, **tuning.EXACT}]


def test_a_tuned_sampler_is_nearer_to_the_exact_path(
    exact: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tuning.EXACT, "steps", 50)
    found = tune(exact, steps=(3, 4), n=4, families=[tuning.DPMPP_3M])
    assert [one.sampling.steps for one in found] == [3, 4]
    proof = Paths(exact, 4, 0, 1, {})
    for one in found:
        assert one.distance < one.before / 4
        assert proof.distance(one.sampling.solver, one.sampling.levels().log_snr) == one.distance
    # What was found before, the levels of its own number of steps above all, has no part in a search.
    own = models.choose(exact, {})
    before = Tuned(replace(own, grid=f"knots({', '.join(map(str, range(own.steps, 0, -1)))})"), 0.0, 0.0)
    again = tune(replace(exact, tuned=(before,)), steps=(3,), n=4, families=[tuning.DPMPP_3M])
    assert again == found[:1]


class Timid(torch.nn.Module):
    """E[x | z] of x ~ N(mean / 2, WIDTH²), mean LIGHT or -LIGHT by the label, and 0 of none: at guidance 2,
    exactly that of N(mean, WIDTH²)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:
        alpha, sigma, _ = SCALINGS["vp"](log_snr.view(-1, 1, 1, 1))
        mean = torch.where(label < 0, 0, LIGHT * (1 - 2 * (label % 2))).view(-1, 1, 1, 1) / 2
        return (alpha * WIDTH**2 * z + sigma**2 * mean) / (alpha**2 * WIDTH**2 + sigma**2)


LIGHT, WIDTH = 0.4, 0.01  # so narrow that chance moves no variance by much


class Pixels(Features):
    """Pictures as they are."""

    name, dims = "pixels", 4

    def check(self, shape: tuple[int, ...]) -> None:
        pass

    def __call__(self, pictures: Tensor) -> Seen:
        x = from_integers(pictures).flatten(1)
        return Seen(x, x)


@pytest.fixture
def timid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.Model:
    """A model of MNIST, of pictures of 2 x 2, which are in truth N(LIGHT, WIDTH²) and N(-LIGHT, WIDTH²)."""
    monkeypatch.setattr(tuning, "CELLS", 100)
    monkeypatch.setitem(tuning.EXACT, "steps", 20)
    label = torch.arange(tuning.CELLS) % 10
    x = LIGHT * (1 - 2 * (label % 2)).view(-1, 1, 1, 1) + WIDTH * torch.randn(tuning.CELLS, 1, 2, 2)
    part = Part(to_integers(x), label)
    data = Images("mnist", {"train": part, "valid": part, "test": Part(part.images[:0], label[:0])}, DIGITS)
    entry = replace(datasets.DATA["mnist"], load=lambda: data, files=None)
    monkeypatch.setitem(datasets.DATA, "mnist", entry)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(FEATURES, "digit-reader", Pixels)
    net, recipe = Denoiser(Timid(), PARAMETERIZATIONS["x"]()).eval(), phin.RECIPES["mnist"]
    return models.Model(
        net, recipe, Facts((1, 2, 2), 10, 0, DIGITS, True), {}, tmp_path / "timid.safetensors"
    )


def test_guidance_is_judged_by_the_distance_from_real_pictures(timid: models.Model) -> None:
    """Of N(g LIGHT / 2, WIDTH²) and its mirror image from the truth, in closed form: means are 0 and
    variances WIDTH² in three directions; in the fourth, of equal pixels, there is 4 (g LIGHT / 2)² more."""
    found = tuning.judged(timid)
    own = models.choose(timid, {}).guidance
    assert set(found) == {*tuning.GUIDANCES, own}
    for guidance, distance in found.items():
        apart = math.hypot(WIDTH, guidance * LIGHT) - math.hypot(WIDTH, 2 * LIGHT)
        assert distance == pytest.approx(apart**2, abs=3e-3)
    (best,) = tune(timid, steps=(2,), n=2, families=[["ddim"]])
    assert best.sampling.guidance == 2
    (asked,) = tune(timid, steps=(2,), n=2, families=[["ddim"]], guidance=1.25)
    assert asked.sampling.guidance == 1.25
    paths = Paths(timid, 2, 0, 1, {"guidance": 2.0})  # where levels are placed at that guidance, too
    assert paths.distance("ddim", best.sampling.levels().log_snr) == best.distance


def test_guidance_that_cannot_be_judged_is_not_sought(
    exact: models.Model,
    timid: models.Model,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Models that are told nothing or always something, data without a reader, a reader that is not here."""
    assert tuning.judged(exact) == {}
    for change in ({"drop": 0.0}, {"data": "digits"}):
        assert tuning.judged(replace(timid, recipe=replace(timid.recipe, **change))) == {}
    assert tuning.judged(replace(timid, facts=timid.facts.unconditional())) == {}
    caplog.set_level("INFO")
    message = "the fashion reader stayed at home"

    def away() -> Features:
        raise PhinError(message)

    monkeypatch.setitem(FEATURES, "fashion-reader", away)
    assert tuning.judged(replace(timid, recipe=replace(timid.recipe, data="fashion-mnist"))) == {}
    assert f"that of the model is taken, 1.5: {message}" in caplog.text


@pytest.mark.parametrize("kind", [Numbers, Words])
def test_guidance_of_numbers_is_judged_by_their_cells(kind: type[Numbers] | type[Words]) -> None:
    """Real pictures of what is asked for; a reader sees all of their cells, and no other pixels."""
    data = kind({which: tiny.handwriting()[which] for which in ("train", "valid", "test")})
    asked, real = tuning.held_out(data, seed=3)
    assert {len(prompt) for prompt in asked["prompts"]} == {5}
    sizes: list[tuple[int, ...]] = []
    values: list[int] = []

    class Brightest(Pixels):
        dims = 1

        def __call__(self, pictures: Tensor) -> Seen:
            sizes.append(tuple(pictures.shape))
            values.extend(pictures.flatten(1).amax(1).tolist())  # of `tiny.handwriting`, digits by the last
            return Seen(torch.rand(len(pictures), 1), torch.rand(len(pictures), 2))

    tuning.seen(Brightest(), real)
    assert {size[1:] for size in sizes} == {(1, 28, 28)}
    assert [value % 10 for value in values] == [
        int(prompt[cell]) for cell in range(5) for prompt in asked["prompts"]
    ]
    assert all(80 <= value < 160 for value in values)  # of the split for validation


def found(**sampling: Any) -> Tuned:
    return Tuned(replace(phin.RECIPES["swiss-roll"].sample, **sampling), 0.5, 1.0)  # pyright: ignore


def test_what_was_tuned_is_taken_for_what_it_was_tuned_for(exact: models.Model) -> None:
    own = models.choose(exact, {})
    one = found(steps=4, solver="deis", grid="knots(7, 1, -2, -8)", guidance=2.0)
    other = found(steps=4, solver="ddim", grid="linear", guidance=1.0)
    usual = found(steps=own.steps, solver="unipc_3", grid="flow", guidance=3.0)
    model = replace(exact, tuned=(one, other, usual))
    for choices, taken in (
        ({"steps": 4}, one),  # the newest
        ({"steps": 4, "guidance": 2.0}, one),
        ({"steps": 4, "guidance": 1}, other),
        ({"steps": 4, "threshold": "none"}, one),
        ({"guidance": 3.0}, usual),
        ({}, usual),
    ):
        assert models.choose(model, choices) == taken.sampling
    for choices in (
        {"steps": 5},
        {"steps": 4, "guidance": 1.5},
        {"steps": 4, "threshold": "clip"},
        {"steps": 4, "solver": "deis"},
        {"steps": 4, "grid": "karras"},
        {"guidance": 2.0},
        {"solver": "ddim"},
    ):
        assert models.choose(model, choices) == replace(own, **choices)
    drawn = phin.sample(model, n=2, steps=4), phin.sample(exact, n=2, **asdict(one.sampling))
    assert all((a == b).all() for a, b in zip(*drawn, strict=True))
    with pytest.raises(PhinError, match="guidance = nan"):
        models.choose(model, {"steps": 4, "guidance": math.nan})


def test_a_classifier_leads_elsewhere_than_what_was_tuned(tmp_path: Path) -> None:
    model = phin.load(tiny.write(tiny.LABELLED, tmp_path / "model.safetensors"))
    own = models.choose(model, {})
    model = replace(model, tuned=(Tuned(replace(own, solver="ddim"), 0.0, 0.0),))
    guide = models.guide(model, phin.load(tiny.write(tiny.NOISY, tmp_path / "noisy.safetensors")))
    assert models.configured(model, {}) == replace(own, solver="ddim")
    assert models.configured(model, {}, guide) == own
    drawn = models.samples(model, labels=[3], guide=guide), models.samples(model, labels=[3])
    expected = (
        models.samples(replace(model, tuned=()), labels=[3], guide=guide),
        models.samples(model, labels=[3], **asdict(replace(own, solver="ddim"))),
    )
    assert all(torch.equal(a[0], b[0]) for a, b in zip(drawn, expected, strict=True))


def test_edits_are_no_whole_walks_and_keep_the_models_own_levels(tmp_path: Path) -> None:
    model = phin.load(tiny.write(tiny.LABELLED, tmp_path / "model.safetensors"))
    own = models.choose(model, {})
    model = replace(model, tuned=(Tuned(replace(own, grid="linear"), 0.0, 0.0),))
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(np.zeros((8, 8), np.uint8)))
    assert Editor(model, [picture]).config == own


def test_what_was_found_is_kept_beside_the_weights_and_is_theirs_alone(tmp_path: Path) -> None:
    """Nothing of it goes into the weights' file; and the newest of what was sought for the same stays."""
    path = tiny.write(tiny.POINTS, tmp_path / "model.safetensors")
    before = path.read_bytes()
    first, second = found(steps=4, solver="ddim"), found(steps=5, solver="ddim")
    tuning.record(phin.load(path), [first, second])
    assert phin.load(path).tuned == (first, second)
    again, guided = found(steps=4, solver="deis"), found(steps=4, guidance=2.0)
    tuning.record(phin.load(path), [again])
    tuning.record(phin.load(path), [guided])
    assert phin.load(path).tuned == (guided, again, second)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "model.tuned.json"}

    tensors, metadata = read_weights(path)
    save_weights(path, tensors, {**metadata, "figures": {}})  # the same weights, described anew
    assert phin.load(path).tuned == (guided, again, second)
    name = next(iter(tensors))
    save_weights(path, {**tensors, name: tensors[name] + 1e-3}, metadata)
    assert phin.load(path).tuned == ()
    tuning.record(phin.load(path), [second])
    assert phin.load(path).tuned == (second,)


def test_of_a_model_that_comes_with_phin_it_is_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, cache = tmp_path / "package", tmp_path / "cache"
    package.mkdir()
    tiny.write(tiny.POINTS, package / "moons.safetensors")
    monkeypatch.setattr("phin.recipes.trained.SHIPPED", package)
    monkeypatch.setenv("PHIN_CACHE", str(cache))
    model = phin.load("moons")
    tuned.probe(model.tuned_file)
    assert [*(cache / "tuned").iterdir()] == []  # which leaves nothing
    tuning.record(model, [found(steps=4)])
    assert phin.load("moons").tuned == (found(steps=4),)
    assert [file.name for file in package.iterdir()] == ["moons.safetensors"]
    assert [file.name for file in (cache / "tuned").iterdir()] == ["moons.tuned.json"]


def test_what_was_found_goes_along_with_an_export(tmp_path: Path) -> None:
    """Rounded weights are others, and the file beside them says so."""
    path = tiny.write(tiny.POINTS, tmp_path / "model.safetensors")
    tuning.record(phin.load(path), [found(steps=4)])
    for name, dtype in (("half", "fp16"), ("whole", "float32")):
        out = tmp_path / f"{name}.safetensors"
        assert main(["export", str(path), "--out", str(out), "--dtype", dtype]) == 0
        assert phin.load(out).tuned == (found(steps=4),)


@pytest.mark.parametrize(
    "spoiled",
    [
        "{",
        "[]",
        '{"weights": "", "tuned": 3}',
        '{"weights": "", "tuned": [{}]}',
        '{"weights": "", "tuned": [{"sampling": {"steps": "4"}, "distance": 0, "before": 0}]}',
        '{"weights": "", "tuned": [{"sampling": {"guidance": "much"}, "distance": 0, "before": 0}]}',
        '{"weights": "", "tuned": [{"sampling": {"grid": "spiral"}, "distance": 0, "before": 0}]}',
        '{"weights": "", "tuned": [{"sampling": {"solver": 3}, "distance": 0, "before": 0}]}',
    ],
)
def test_a_damaged_file_of_what_was_found_is_told(tmp_path: Path, spoiled: str) -> None:
    path = tiny.write(tiny.POINTS, tmp_path / "model.safetensors")
    (tmp_path / "model.tuned.json").write_text(spoiled)
    with pytest.raises(PhinError, match=r"(?s)model\.tuned\.json is damaged \(.*\): remove it"):
        phin.load(path)


def test_the_command_tunes_and_its_sampler_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tuning.EXACT, "steps", 9)
    monkeypatch.setattr(tuning, "FIRST", 0.0)  # the levels stay where they are
    path = tiny.write(tiny.POINTS, tmp_path / "model.safetensors")
    assert main(["tune", "--model", str(path), "--steps", "3", "-n", "2", "--guidance", "1.0"]) == 0
    (kept,) = phin.load(path).tuned
    assert kept == tune(replace(phin.load(path), tuned=()), steps=(3,), n=2, guidance=1.0)[0]
    shown = capsys.readouterr().out
    assert kept.sampling.grid in shown
    assert str(tmp_path / "model.tuned.json") in shown
    assert main(["tune", "--model", str(path), "--steps", "4", "-n", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tuned"] == [asdict(phin.load(path).tuned[0])]
    words = ["sample", "--model", str(path), "--steps", "3", "-n", "2", "--json", "--out", str(tmp_path)]
    assert main(words) == 0
    sampling = json.loads(capsys.readouterr().out)["sampling"]
    assert {name: sampling[name] for name in asdict(kept.sampling)} == asdict(kept.sampling)


def test_what_could_not_be_kept_is_not_sought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder can be made where a file is."""
    (tmp_path / "package").mkdir()
    tiny.write(tiny.POINTS, tmp_path / "package" / "moons.safetensors")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("phin.recipes.trained.SHIPPED", tmp_path / "package")
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: pytest.fail("searched"))
    assert main(["tune", "--model", "moons"]) == 2
    assert "moons.tuned.json cannot be written (Not a directory): copy" in capsys.readouterr().err


def test_a_model_of_image_to_image_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(tiny.LABELLED, degrade="average(2)")
    monkeypatch.setitem(tiny.FACTS, recipe, tiny.FACTS[tiny.LABELLED])
    path = tiny.write(recipe, tmp_path / "model.safetensors")
    for search in ("Paths", "judged"):
        monkeypatch.setattr(tuning, search, lambda *_, **__: pytest.fail("searched"))
    assert main(["tune", "--model", str(path)]) == 2
    said = capsys.readouterr().err
    assert "begins from pictures, and tuning has none to give it: choose" in said
    assert "--image" not in said


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": (4, 1)}, "steps = 1"),
        ({"steps": (200,)}, "steps = 200"),
        ({"n": 1}, "n = 1"),
        ({"solver": "heun"}, "solver is what is sought"),
        ({"guidance": math.inf}, "guidance"),
        ({"colour": 3}, "no option 'colour'"),
        ({"threshold": "some"}, "unknown threshold 'some'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(exact: models.Model, how: dict[str, Any], message: str) -> None:
    with pytest.raises(PhinError, match=message):
        tune(exact, **how)


def test_a_student_knows_its_own_levels_alone(exact: models.Model) -> None:
    recipe = replace(exact.recipe, distilled=Consistency("swiss-roll"))
    with pytest.raises(PhinError, match=r"is distilled, .*: give its teacher, swiss-roll"):
        tune(replace(exact, recipe=recipe))


def test_a_model_that_does_not_denoise_has_nothing_to_tune() -> None:
    with pytest.raises(PhinError, match="does not draw by denoising"):
        tune(models.load("mnist-classifier"))
