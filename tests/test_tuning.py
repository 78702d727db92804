"""The search for samplers: levels that are best, and what is then taken for so many steps."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import phin
from phin import models, tuning
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS
from phin.diffusion.noise import seeded
from phin.diffusion.parameterization import PARAMETERIZATIONS
from phin.diffusion.schedules import SCHEDULES
from phin.diffusion.solvers import SOLVERS, evaluations, prior
from phin.errors import PhinError
from phin.recipes.distillation import Consistency
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


def test_a_ladder_is_said_as_a_grid() -> None:
    ladder = torch.tensor([-8.25, -1, 0.125, 7]).double()
    assert knots(ladder) == "knots(7.000, 0.125, -1.000, -8.250)"
    levels = build(knots(ladder), SCHEDULES, "schedule", SCALINGS).levels(4)
    assert torch.equal(levels.log_snr, ladder)


@pytest.mark.parametrize("name", tuning.CANDIDATES)
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
    save_weights(path, net.state_dict(), {"name": "exact"})
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


def test_the_best_of_the_finalists_is_taken_and_judged_by_other_noise(
    exact: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances are known: where each solver begins, and where its best levels lead.

    The third at the beginning would end best, but only two are searched for; of these the second ends better.
    """
    own = models.choose(exact, {}).solver
    first, second, third, *others = (solver for solver in tuning.CANDIDATES if solver != own)
    begins = {first: 8.0, second: 9.0, third: 10.0, own: 50.0} | dict.fromkeys(others, 40.0)
    ends = begins | {first: 5.0, second: 2.0, third: 1.0, own: 45.0}
    shift = torch.tensor([0, 0.5, -0.5, 0]).double()

    class Known:
        def __init__(self, model: Any, n: int, seed: int, which: int, choices: Any) -> None:
            self.which = which

        def distance(self, solver: str, ladder: Tensor) -> float:
            start = replace(models.choose(exact, {}), steps=len(ladder)).levels().log_snr
            away = float((ladder - start - shift).square().sum() / shift.square().sum())
            return ends[solver] + (begins[solver] - ends[solver]) * away + 100 * self.which

    monkeypatch.setattr(tuning, "Paths", Known)
    (found,) = tune(exact, steps=(4,))
    start = replace(models.choose(exact, {}), steps=4).levels().log_snr
    assert found == Tuned(4, second, knots(start + shift), 102, 100 + begins[own])


def test_a_prompted_model_is_asked_for_single_digits_as_it_is_chosen(
    exact: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(models, "samples", lambda model, **how: asked.append(how) or [])
    Paths(replace(exact, facts=replace(exact.facts, vocabulary=10)), 12, 3, 0, {"guidance": 2.0})
    assert asked == [{"prompts": [*"012345678901"], "n": 1, "seed": 6, "guidance": 2.0, **tuning.EXACT}]


def test_a_tuned_sampler_is_nearer_to_the_exact_path(exact: models.Model) -> None:
    found = tune(exact, steps=(3, 5), n=8)
    assert [one.steps for one in found] == [3, 5]
    for one in found:
        assert one.distance < one.before / 4
        proof = Paths(exact, 8, 0, 1, {})
        grid = build(one.grid, SCHEDULES, "schedule", SCALINGS).levels(one.steps).log_snr
        assert proof.distance(one.solver, grid) == one.distance
    assert found == tune(exact, steps=(3, 5), n=8)


def test_what_was_tuned_is_taken_for_its_steps_alone(exact: models.Model) -> None:
    tuning.record(exact, [Tuned(4, "ddim", "linear", 0.0, 0.0), Tuned(5, "ddim", "linear", 0.0, 0.0)])
    tuning.record(exact, [Tuned(4, "deis", "knots(7, 1, -2, -8)", 0.0, 0.0)])
    tuning.record(exact, [Tuned(6, "unipc_3", "flow", 0.0, 0.0)])
    _, metadata = read_weights(exact.path)
    assert metadata["name"] == "exact"
    model = replace(exact, metadata={**exact.metadata, **metadata})
    own = models.choose(model, {})
    assert own == models.drawing(model)[1]
    four = {"steps": 4, "solver": "deis", "grid": "knots(7, 1, -2, -8)"}
    assert models.choose(model, {"steps": 4}) == replace(own, **four)
    assert models.choose(model, {"steps": 6}) == replace(own, steps=6, solver="unipc_3", grid="flow")
    assert models.choose(model, {"steps": 5}) == replace(own, steps=5, solver="ddim", grid="linear")
    for choices in ({"steps": 7}, {"steps": 4, "solver": "ddim"}, {"steps": 4, "grid": "karras"}):
        assert models.choose(model, choices) == replace(own, **choices)
    drawn = (phin.sample(model, n=2, **choices) for choices in ({"steps": 4}, four))
    assert all((a == b).all() for a, b in zip(*drawn, strict=True))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": (4, 1)}, "steps = 1"),
        ({"steps": (200,)}, "steps = 200"),
        ({"n": 1}, "n = 1"),
        ({"solver": "heun"}, "solver is what is sought"),
        ({"guidance": math.inf}, "guidance"),
        ({"colour": 3}, "no option 'colour'"),
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
