"""Students: what they are trained by, what is kept of them, and how they are asked to draw."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

import phin
from phin import edits, models
from phin import nll as likelihood
from phin.cli import main
from phin.data.base import WHOLE
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.level import SCALINGS, Level, ve, vp
from phin.diffusion.noise import stream
from phin.diffusion.solvers import DDIM, DPMpp2M, sample
from phin.errors import PhinError
from phin.recipes import DiffusionRecipe, describe, restore, train
from phin.recipes.distillation import DISTILLATIONS, Consistency, Progressive, Tuning, student
from phin.sampling import guided
from phin.training import distilling
from phin.training.checkpoint import save_weights
from phin.training.distilling import (
    ConsistencyDistilling,
    ConsistencyTuning,
    Distilling,
    ProgressiveDistilling,
)

SMALL: dict[str, dict[str, Any]] = {
    "consistency": {"walk": 2, "reuse": 2},
    "tuning": {"stages": 3},
    "progressive": {"start": 8},
}
EACH = pytest.mark.parametrize("method", DISTILLATIONS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Teachers with random weights, and students of the one of labelled pictures, no better than it."""
    folder = tmp_path_factory.mktemp("files")
    recipes = {"labelled": tiny.LABELLED, "points": tiny.POINTS, "reader": tiny.READER}
    paths = {
        name: str(tiny.write(recipe, folder / f"{name}.safetensors")) for name, recipe in recipes.items()
    }
    like = {"told": replace(tiny.LABELLED, drop=0.0)}
    like["leaky"] = replace(tiny.LABELLED, net=replace(tiny.NET, dropout=0.5))
    for name in SCALINGS:
        grid = f"cosine(log_snr_max=8, log_snr_min=-9, scaling={name})"
        like[name] = replace(tiny.LABELLED, sample=replace(tiny.SAMPLE, grid=grid))
    for name, recipe in like.items():  # the same weights, of another recipe
        paths[name] = str(folder / f"{name}.safetensors")
        known = describe("tiny", recipe, tiny.FACTS[tiny.LABELLED])
        save_weights(Path(paths[name]), phin.load(paths["labelled"]).net.state_dict(), known)
    for method in DISTILLATIONS:
        recipe = student(paths["labelled"], method, train=tiny.BRIEF, **SMALL[method])
        known = describe(f"{method}-fast", recipe, tiny.FACTS[tiny.LABELLED])
        paths[method] = str(folder / f"{method}.safetensors")
        save_weights(Path(paths[method]), phin.load(paths["labelled"]).net.state_dict(), known)
    return paths


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations go by short walks."""
    monkeypatch.setattr(distilling, "EXACT", 3)


def task_of(source: str, method: str, **options: Any) -> Distilling:
    recipe = student(source, method, train=tiny.BRIEF, **{**SMALL[method], **options})
    task = recipe.task(recipe.load())
    assert isinstance(task, Distilling)
    return task


class Counting(nn.Module):
    """A network that counts the rows it sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        self.rows += len(z)
        return self.inner(z, log_snr, label)


# --- training


@EACH
@pytest.mark.parametrize("data", ["labelled", "points"])
def test_a_student_begins_as_its_teacher_which_is_not_trained(
    files: dict[str, str], method: str, data: str
) -> None:
    task = task_of(files[data], method)
    teacher = phin.load(files[data]).net
    for net in (task.model, task.teacher):
        for name, weight in teacher.state_dict().items():
            assert torch.equal(net.state_dict()[name], weight)
    assert all(weight.requires_grad for weight in task.model.parameters())
    assert not any(weight.requires_grad for weight in task.teacher.parameters())
    task(0, WHOLE).loss.sum().backward()
    assert all(weight.grad is None for weight in task.teacher.parameters())


@EACH
def test_rows_of_several_processes_make_up_the_batch(files: dict[str, str], method: str) -> None:
    processes = 3
    task = task_of(files["labelled"], method)
    whole = task(7, WHOLE)
    assert len(whole.loss) == tiny.BRIEF.batch
    assert whole.log_snr is not None
    for rank in range(processes):
        part = task(7, slice(rank, None, processes))
        torch.testing.assert_close(part.loss, whole.loss[rank::processes])
        assert torch.equal(part.log_snr, whole.log_snr[rank::processes])
    assert not torch.isclose(task(8, WHOLE).loss, whole.loss).any()


def without_label(task: Distilling) -> int:
    """The first step in which not all is told."""
    return next(step for step in range(30) if (task.shown(step, WHOLE)[0].cond["label"] == -1).any())


def test_the_loss_of_consistency_is_the_distance_from_where_the_guided_teacher_leads(
    files: dict[str, str],
) -> None:
    """Written out for each row: at the lower rung the end itself, at the upper one the student's word."""
    task = task_of(files["labelled"], "consistency", guidance=2.5, middle=0.0, metric="squared")
    step = without_label(task)
    losses = task(step, WHOLE)
    assert losses.log_snr is not None
    (x, cond, total), eps = task.shown(step, WHOLE)
    assert sorted(losses.log_snr.tolist()) == [-9.0] * (total // 2) + [0.0] * (total // 2)
    config = replace(tiny.SAMPLE, guidance=2.5)
    grid = task.schedule
    for k in range(total):
        label = cond["label"][k : k + 1]
        t = float(losses.log_snr[k])
        s = 0.0 if t < -1 else 8.0
        middle = (grid.inverse(torch.tensor(t).double()) + grid.inverse(torch.tensor(s).double())) / 2
        levels = vp(torch.tensor([t, float(grid.log_snr(middle)), s]).double())
        z = levels.alpha[0] * x[k : k + 1] + levels.sigma[0] * eps[k : k + 1]
        states: list[Tensor] = []
        with torch.no_grad():
            teacher = guided(task.teacher, {"label": label}, config)
            sample(teacher, DPMpp2M(), levels, z, watch=lambda z, level, states=states: states.append(z))
            own = task.model.given(label=label)
            goal = states[-1] / levels.alpha[-1] if s == 8 else own(states[-1], levels.at(-1)).x
            said = own(z, levels.at(0)).x
        torch.testing.assert_close(losses.loss[k], (said - goal).square().mean(), rtol=1e-3, atol=1e-5)


def test_walks_are_learned_from_as_often_as_was_said(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches 0 1 0 1 2 3 2 3 ...; and a task that begins in the middle makes what is missing."""
    monkeypatch.setattr(distilling, "POOL", 2)
    task = task_of(files["labelled"], "consistency")
    task.teacher.net = counting = Counting(task.teacher.net)
    losses, counts = [], []
    for step in range(8):
        before = counting.rows
        losses.append(task(step, WHOLE))
        counts.append(counting.rows - before)
    walk = 2 * 2 * tiny.BRIEF.batch  # two steps, with and without the label
    assert counts == [walk, walk, 0, 0, walk, walk, 0, 0]
    for first, again in ((0, 2), (1, 3), (4, 6)):
        assert torch.equal(losses[first].loss, losses[again].loss)  # the student has not changed
    assert not torch.isclose(losses[0].loss, losses[4].loss).any()
    assert isinstance(task, ConsistencyDistilling)
    assert len(task._pool) <= 2
    for step in (3, 6):
        assert torch.equal(task_of(files["labelled"], "consistency")(step, WHOLE).loss, losses[step].loss)


def test_rungs_of_a_batch_are_shared_out_evenly(files: dict[str, str]) -> None:
    task = task_of(files["points"], "consistency", calls=4)
    seen = torch.cat([task(step, WHOLE).log_snr for step in range(20)])
    levels, counts = seen.unique(return_counts=True)
    assert levels.tolist() == [-9.0, -5.0, -1.0, 3.0]
    assert (counts - len(seen) / 4).abs().max() <= 20


def test_the_loss_of_progressive_distillation_by_stages(files: dict[str, str]) -> None:
    """The guided teacher teaches the first stage, the student as it was at its end the second."""
    task = task_of(files["labelled"], "progressive", calls=2, start=8, guidance=2.5)
    assert isinstance(task, ProgressiveDistilling)
    task.progress = 0.3
    first = task(0, WHOLE)
    assert set(first.log_snr.tolist()) <= {-9.0, -5.0, -1.0, 3.0}  # four steps, and the teacher eight
    for weight in task.model.parameters():
        nn.init.normal_(weight, std=0.3)
    task.progress = 0.5
    second = task(1, WHOLE)
    assert set(second.log_snr.tolist()) == {-9.0, -1.0}
    for name, weight in task.model.state_dict().items():
        assert torch.equal(task.former.state_dict()[name], weight)
    before = {name: weight.clone() for name, weight in task.model.state_dict().items()}
    nn.init.zeros_(next(iter(task.model.parameters())))
    task.progress = 0.9
    task(2, WHOLE)
    for name, weight in before.items():
        assert torch.equal(task.former.state_dict()[name], weight)

    for progress, step, teacher_of, spacing in ((0.3, 0, "guided", 4.0), (0.9, 1, "former", 8.0)):
        fresh = task_of(files["labelled"], "progressive", calls=2, start=8, guidance=2.5)
        assert isinstance(fresh, ProgressiveDistilling)
        fresh.progress = progress
        losses = fresh(step, WHOLE)
        assert losses.log_snr is not None
        (x, cond, total), eps = fresh.shown(step, WHOLE)
        for k in range(total):
            told = {"label": cond["label"][k : k + 1]}
            t = float(losses.log_snr[k])
            last = t + spacing > 6
            levels = vp(torch.tensor([t, t + spacing / 2, t + spacing]).double())
            z = levels.alpha[0] * x[k : k + 1] + levels.sigma[0] * eps[k : k + 1]
            config = replace(tiny.SAMPLE, guidance=2.5)
            teacher = (
                guided(fresh.teacher, told, config) if teacher_of == "guided" else fresh.former.given(**told)
            )
            states: list[Tensor] = []
            with torch.no_grad():
                x_hat = sample(
                    teacher,
                    DDIM(),
                    Level(*(field[:2] for field in levels)) if last else levels,
                    z,
                    watch=lambda z, level, states=states: states.append(z),
                )
                goal = x_hat
                if not last:
                    (a_t, _, a_s), (b_t, _, b_s) = levels.alpha, levels.sigma
                    goal = (states[-1] - b_s / b_t * z) / (a_s - b_s / b_t * a_t)
                said = fresh.model.given(**told)(z, levels.at(0)).x
            weight = max(float(np.exp(t)), 1.0)
            expected = weight * (said - goal).square().mean()
            torch.testing.assert_close(losses.loss[k], expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_progressive_distillation_is_the_same_in_whatever_scaling_the_teacher_is_sampled(
    files: dict[str, str], progress: float
) -> None:
    found: list[tuple[Tensor, dict[str, float]]] = []
    for name in SCALINGS:
        task = task_of(files[name], "progressive", calls=1, start=4)
        task.progress = progress
        with torch.no_grad():
            found.append((task(0, WHOLE).loss, task.validate(task.model)))
    for loss, validation in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-4, atol=1e-6)
        assert validation == pytest.approx(found[0][1], rel=1e-4)


def test_every_stage_has_its_own_curve_of_the_learning_rate(files: dict[str, str], tmp_path: Path) -> None:
    """To 0 twice, and the second teacher is what the first curve ended with."""
    brief = replace(tiny.BRIEF, steps=8, lr=1e-3, warmup=0.0, log_every=1 / 8)
    recipe = student(files["points"], "progressive", train=brief, calls=2, start=8)
    train(recipe, tmp_path / "run", "fast")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    curve = [0.5e-3 * (1 + np.cos(np.pi * (i + 0.5) / 4)) for i in range(4)]
    assert [line["lr"] for line in lines if "lr" in line] == pytest.approx(2 * curve)
    task = task_of(files["points"], "progressive", calls=2, start=8)
    assert [task.lap(share) for share in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 0, 0.5, 1]
    assert task_of(files["points"], "tuning").lap(0.75) == 0.75


# --- tuning


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.99])
def test_the_loss_of_tuning_is_ects(files: dict[str, str], guidance: float, progress: float) -> None:
    """Written out for each row where alpha = 1, and its gradient, of which none goes through the target."""
    task = task_of(files["labelled"], "tuning", guidance=guidance)
    task.progress = progress
    step = without_label(task)
    losses = task(step, WHOLE)
    losses.loss.sum().backward()
    assert losses.log_snr is not None
    gradients = {name: weight.grad for name, weight in task.model.named_parameters()}
    task.model.zero_grad()
    (x, cond, total), eps = task.shown(step, WHOLE)
    gap = {0.0: 2, 0.5: 4, 0.99: 8}[progress]
    expected: list[Tensor] = []
    told: list[bool] = []
    for k in range(total):
        label = cond["label"][k : k + 1]
        t = math.exp(-float(losses.log_snr[k]) / 2)
        r = t * (1 - (1 + 8 / (1 + math.exp(t))) / gap)
        told.append(r < math.exp(-4))  # the clean end, log-SNR 8
        at, near = (ve(torch.tensor(-2 * math.log(s)).double()) for s in (t, math.exp(-4) if told[-1] else r))
        z = x[k : k + 1] + t * eps[k : k + 1]
        own = task.model.given(label=label)
        with torch.no_grad():
            y = x[k : k + 1]
            if guidance != 1:
                y = guided(task.teacher, {"label": label}, replace(tiny.SAMPLE, guidance=guidance))(z, at).x
            goal = y if told[-1] else own(z + (r - t) * (z - y) / t, near).x
        c = 0.00054
        apart = ((own(z, at).x - goal).square().mean() + c * c).sqrt() - c
        expected.append(apart / (t if told[-1] else t - r))
    assert any(told) or progress > 0.9
    assert not all(told)
    torch.testing.assert_close(losses.loss, torch.stack(expected), rtol=2e-3, atol=1e-4)
    torch.stack(expected).sum().backward()
    for name, weight in task.model.named_parameters():
        there = gradients[name]
        assert (there is None) == (weight.grad is None)
        if there is not None and weight.grad is not None:
            assert (there - weight.grad).norm() <= 5e-3 * weight.grad.norm() + 1e-4


def test_levels_of_tuning_are_lognormal_between_the_ends(files: dict[str, str]) -> None:
    """Each stratum of the distribution has one of every batch."""
    task = task_of(files["points"], "tuning")
    noise = torch.distributions.Normal(-1.1, 2.0)
    low, high = noise.cdf(torch.tensor([-4.0, 4.5]))
    for step in range(20):
        log_snr = task(step, WHOLE).log_snr
        assert log_snr is not None
        place = (noise.cdf(-log_snr / 2) - low) / (high - low) * len(log_snr)
        assert place.floor().clamp(0, len(log_snr) - 1).sort().values.tolist() == list(range(len(log_snr)))


class Leaking(nn.Module):
    """A network that keeps what its dropout leaves out, and whether it is trained."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.masks: list[Tensor] = []

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        self.masks.append(nn.functional.dropout(torch.ones_like(z), 0.5, self.training))
        return self.inner(z, log_snr, label) * self.masks[-1]


def test_both_answers_of_a_pair_have_the_same_dropout(files: dict[str, str]) -> None:
    task = task_of(files["labelled"], "tuning")
    task.progress = 0.5
    task.model.net = leaking = Leaking(task.model.net)
    for step in range(2):
        torch.manual_seed(step)
        task(step, WHOLE)
    said, target, later, _ = leaking.masks
    assert said.unique().tolist() == [0, 2]
    assert torch.equal(said, target)
    assert not torch.equal(said, later)


def test_what_consistency_holds_a_student_to_is_said_without_dropout(files: dict[str, str]) -> None:
    task = task_of(files["leaky"], "consistency", metric="squared")
    assert isinstance(task, ConsistencyDistilling)
    torch.manual_seed(5)
    loss = task(3, WHOLE).loss
    assert task.model.training
    start = task._start(3, WHOLE)
    own = task.model.given(**start.cond)
    torch.manual_seed(5)
    with torch.no_grad():
        said = own(start.z, start.level).x
        task.model.eval()
        word = own(start.landed, start.below).x
        assert not torch.isclose(own(start.z, start.level).x, said).all()
    ends = start.end.view(-1, 1, 1, 1)
    goal = torch.where(ends, start.landed / start.below.alpha, word)
    torch.testing.assert_close(loss, (said - goal).square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("walker", ["ddpm", "ddim(eta=0.5)", "dpmpp_2m_sde", "churn", "pc", "consistency"])
def test_a_walker_that_draws_noise_is_refused(files: dict[str, str], walker: str) -> None:
    with pytest.raises(PhinError, match=r"^walker .* draws noise, .*: take a deterministic solver"):
        task_of(files["points"], "consistency", walker=walker)


@pytest.mark.parametrize("walker", ["ddim(eta=0)", "heun", "deis", "unipc_3", "churn(churn=0)"])
def test_a_walker_that_stays_on_the_path_is_taken(files: dict[str, str], walker: str) -> None:
    assert torch.isfinite(task_of(files["points"], "consistency", walker=walker)(0, WHOLE).loss).all()


@EACH
def test_a_student_learns_without_its_condition_if_its_teacher_did(
    files: dict[str, str], method: str
) -> None:
    """As often as that, and in the same rows; not if it was told not to, or the teacher does not know how."""
    task = task_of(files["labelled"], method)
    left_out = 0
    for step in range(6):
        shown = task.shown(step, WHOLE)[0].cond["label"]
        draws = torch.from_numpy(stream(0, "drop", step).random(tiny.BRIEF.batch))
        everything = task.denoising.data.train(0, step, tiny.BRIEF.batch).cond["label"]
        assert torch.equal(shown, torch.where(draws < 0.1, -1, everything))
        left_out += int((shown == -1).sum())
    assert left_out > 0
    step = without_label(task)
    seen: list[Tensor] = []
    task.model.net.register_forward_hook(lambda net, z, kw, out: seen.append(kw["label"]), with_kwargs=True)
    task(step, WHOLE)
    assert torch.equal(seen[0], task.shown(step, WHOLE)[0].cond["label"])
    for other in (task_of(files["labelled"], method, null=False), task_of(files["told"], method)):
        assert all((other.shown(step, WHOLE)[0].cond["label"] >= 0).all() for step in range(6))


@EACH
def test_a_student_draws_without_a_label_only_if_it_has_learned_to(
    files: dict[str, str], method: str, tmp_path: Path
) -> None:
    """A file from before a student could, which does not say so, has not."""
    model = phin.load(files[method])
    assert len(models.samples(model, labels=[-1, 3])) == 2
    known = describe("old", model.recipe, model.facts)
    del known["recipe"]["distilled"]["null"]
    save_weights(tmp_path / "old.safetensors", model.net.state_dict(), known)
    old = phin.load(tmp_path / "old.safetensors")
    assert len(models.samples(old, labels=[3])) == 1
    with pytest.raises(PhinError, match=r"trained with labels alone, .* \(-1\): give labels, 0 to 9$"):
        models.samples(old, labels=[3, -1])


def test_a_resumed_stage_has_its_teacher(files: dict[str, str]) -> None:
    """What a checkpoint keeps of the task makes a new one go on with the same loss."""
    task = task_of(files["labelled"], "progressive")
    for weight in task.model.parameters():
        nn.init.normal_(weight, std=0.3)
    task.progress = 0.6
    task(4, WHOLE)
    for weight in task.model.parameters():
        nn.init.normal_(weight, std=0.3)
    loss = task(5, WHOLE).loss
    fresh = task_of(files["labelled"], "progressive")
    fresh.model.load_state_dict(task.model.state_dict())
    for name, tensor in fresh.memory().items():
        tensor.copy_(task.memory()[name])
    fresh.progress = 0.7
    assert torch.equal(fresh(5, WHOLE).loss, loss)
    fresh.progress = 0.1  # of a budget that was made larger: the first stage's teacher is gone
    assert torch.equal(fresh(5, WHOLE).loss, loss)


@EACH
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(
    files: dict[str, str], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit."""
    recipe = student(files["points"], method, train=replace(tiny.BRIEF, steps=6), **SMALL[method])
    whole = train(recipe, tmp_path / "whole", "fast")

    class Stopped(Exception):
        pass

    kind = {
        "consistency": ConsistencyDistilling,
        "tuning": ConsistencyTuning,
        "progressive": ProgressiveDistilling,
    }[method]
    forward = kind.forward

    def dying(self: Distilling, step: int, rows: slice) -> Any:
        if step == 4:
            raise Stopped
        return forward(self, step, rows)

    monkeypatch.setattr(kind, "forward", dying)
    often = replace(recipe, train=replace(recipe.train, save_minutes=0.0))
    with pytest.raises(Stopped):
        train(often, tmp_path / "parts", "fast")
    monkeypatch.setattr(kind, "forward", forward)
    parts = train(often, tmp_path / "parts", "fast")
    assert parts.step == whole.step == 6
    one, two = (phin.load(result.folder).net.state_dict() for result in (whole, parts))
    for name, weight in one.items():
        assert torch.equal(weight, two[name])
    assert parts.validation == whole.validation
    assert {"error", "baseline", "error/-9"} <= whole.validation.keys()


def test_the_validation_is_zero_for_a_student_that_knows_the_ends(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(files["labelled"], "consistency")
    with torch.no_grad():
        _, _, ends, guesses = task._examination
        found = task.validate(task.model)
        monkeypatch.setattr(task, "answers", lambda model, z, cond: ends)
        exact = task.validate(task.model)
    assert exact["error"] == exact["error/-9"] == exact["error/-1"] == 0
    assert found["error"] == pytest.approx((found["error/-9"] + found["error/-1"]) / 2)
    apart = [
        (g - e).square().flatten(1).mean(1).sqrt().mean().item() for g, e in zip(guesses, ends, strict=True)
    ]
    assert found["baseline"] == pytest.approx(sum(apart) / 2)


# --- what is made


@EACH
def test_a_description_gives_the_recipe_back(files: dict[str, str], method: str) -> None:
    recipe = student(files["labelled"], method, guidance=3.0, calls=2, middle=-0.5)
    facts = tiny.FACTS[tiny.LABELLED]
    assert restore(json.loads(json.dumps(describe("fast", recipe, facts)))) == (recipe, facts)
    assert isinstance(recipe.distilled, DISTILLATIONS[method])
    model = phin.load(files[method])
    assert (model.metadata["family"], model.metadata["name"]) == ("diffusion", f"{method}-fast")


def test_levels_of_calls() -> None:
    """Half-way is the middle, and those of fewer calls are among those of more."""
    made = Consistency(calls=4, first=-8.0, middle=-1.0)
    assert made.supported == (1, 2, 4)
    assert made.rungs(4) == [-8.0, -4.5, -1.0, 2.5]
    for calls in made.supported:
        config = replace(tiny.SAMPLE, **made.sampler(calls))
        assert config.levels().log_snr.tolist() == made.rungs(calls)
        assert set(made.rungs(calls)) <= set(made.rungs(4))
    assert Progressive(calls=4, start=16).supported == (4,)
    assert Progressive(calls=4, start=16).stages == 2
    begun = {calls: Progressive(calls=calls).steps for calls in (1, 2, 3, 8, 9, 12, 16)}
    assert begun == {1: 16, 2: 16, 3: 24, 8: 16, 9: 18, 12: 24, 16: 32}
    assert Progressive(calls=3).stages == 3
    assert Tuning(calls=3).supported == (1, 2, 3)


def calls_of(model: models.Model, monkeypatch: pytest.MonkeyPatch, **choices: Any) -> int:
    """Rows that the network sees, drawing three pictures."""
    assert isinstance(model.net, Denoiser)
    counting = Counting(model.net.net)
    with monkeypatch.context() as patch:
        patch.setitem(model.net._modules, "net", counting)
        models.samples(model, labels=[1, 2, 3], **choices)
    return counting.rows


def test_a_call_is_a_call(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance costs the teacher another, and the student nothing."""
    assert calls_of(phin.load(files["labelled"]), monkeypatch, steps=2) == 12
    model = phin.load(files["consistency"])
    assert calls_of(model, monkeypatch) == 6
    assert calls_of(model, monkeypatch, steps=1) == 3
    assert calls_of(model, monkeypatch, guidance=2.0) == 6  # its own
    assert calls_of(phin.load(files["progressive"]), monkeypatch) == 6
    assert [calls_of(phin.load(files["tuning"]), monkeypatch, steps=n) for n in (1, 2)] == [3, 6]


def test_what_one_call_draws_is_the_students_word(files: dict[str, str]) -> None:
    model = phin.load(files["consistency"])
    assert isinstance(model.net, Denoiser)
    from phin.diffusion.noise import seeded
    from phin.nets.precision import autocast

    z = seeded(5, range(2))(torch.zeros(2, 1, 8, 8))
    with torch.no_grad(), autocast(z.device):
        said = model.net.given(label=torch.tensor([3, 4]))(z, vp(torch.tensor(-9.0).double())).x.clamp(-1, 1)
    drawn = torch.stack(models.samples(model, labels=[3, 4], steps=1, seed=5))
    torch.testing.assert_close(drawn, said)


@pytest.mark.parametrize(
    ("method", "choices", "message"),
    [
        ("consistency", {"steps": 3}, "is distilled to draw in 1 or 2 steps, not in 3: give 1 or 2"),
        ("tuning", {"steps": 3}, "is distilled to draw in 1 or 2 steps, not in 3: give 1 or 2"),
        ("progressive", {"steps": 1}, "is distilled to draw in 2 steps, not in 1: give 2"),
        ("consistency", {"guidance": 1.0}, "is distilled at guidance 2, not at 1: leave guidance out"),
        ("consistency", {"solver": "heun"}, "is distilled for solver consistency, not heun: leave it out"),
        ("progressive", {"grid": "cosine"}, r"for grid knots\(-1, -9\), not cosine: leave it out"),
        ("consistency", {"step": 2}, "sampling has no option 'step'"),
    ],
)
def test_what_a_student_was_not_made_for_is_refused(
    files: dict[str, str], method: str, choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(PhinError, match=message):
        models.samples(phin.load(files[method]), labels=[1], **choices)


def test_a_student_is_no_denoiser(files: dict[str, str], tmp_path: Path) -> None:
    model = phin.load(files["consistency"])
    message = "is distilled, and knows no noise levels but those of its calls: give its teacher"
    with pytest.raises(PhinError, match=message):
        likelihood.nll(model, n=2)
    with pytest.raises(PhinError, match=message):
        edits.Editor(model, [])
    with pytest.raises(PhinError, match=message):
        models.guide(model, model)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("reader", {}, "is a classifier, and no diffusion model to distill"),
        ("consistency", {}, "is distilled already: give its teacher, .*labelled.safetensors"),
        ("points", {"guidance": 2.0}, "is told nothing that could guide it: leave guidance 2 out"),
        (
            "labelled",
            {"method": "magic"},
            "unknown method 'magic'; there are consistency, tuning, progressive",
        ),
        (
            "labelled",
            {"method": "progressive", "metric": "squared"},
            "method progressive has no metric; it has",
        ),
        ("told", {"guidance": 2.0}, "never learned to do without its condition: leave guidance 2 out"),
        ("labelled", {"method": "tuning", "walk": 2}, "method tuning has no walk; it has"),
        ("labelled", {"method": "tuning", "q": 1.0}, "q = 1.0: a gap that shrinks"),
        ("labelled", {"method": "tuning", "stages": 0}, "stages = 0: at least 1"),
        ("labelled", {"method": "tuning", "density": "normal"}, "unknown schedule 'normal'"),
        ("labelled", {"calls": 0}, "calls = 0: at least 1"),
        ("labelled", {"walk": 0}, "walk = 0: at least 1"),
        ("labelled", {"reuse": 0}, "reuse = 0: at least 1"),
        ("labelled", {"middle": -9.5}, "middle = -9.5: .* above that of the first, -9"),
        ("labelled", {"middle": 8.5}, "middle = 8.5: the last call would be at log-SNR 8.5, .* ends at 8;"),
        ("labelled", {"middle": 4.0, "calls": 4}, "would be at log-SNR 10.5"),
        ("labelled", {"method": "progressive", "middle": 3.0, "start": 16}, "would be at log-SNR 13.5"),
        ("labelled", {"guidance": float("nan")}, "guidance = nan"),
        ("labelled", {"metric": "l3"}, "unknown metric 'l3'; there are squared, pseudo_huber, charbonnier"),
        ("labelled", {"metric": "charbonnier(0)"}, "c = 0 must be positive"),
        ("labelled", {"walker": "rk4"}, "unknown solver 'rk4'"),
        (
            "labelled",
            {"method": "progressive", "start": 12},
            "start = 12: 2 calls are halved out of 4, 8, 16",
        ),
        ("labelled", {"method": "progressive", "start": 2}, "start = 2: 2 calls are halved"),
    ],
)
def test_what_cannot_be_distilled_is_named(
    files: dict[str, str], source: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PhinError, match=message):
        student(files[source], **options)


def test_guidance_of_what_is_told_nothing_is_1(files: dict[str, str]) -> None:
    recipe = student(files["points"])
    assert recipe.distilled is not None
    assert recipe.distilled.guidance == recipe.sample.guidance == 1
    assert student(files["labelled"]).sample.guidance == tiny.SAMPLE.guidance


def test_another_network_than_the_teachers_is_refused(files: dict[str, str]) -> None:
    recipe = student(files["labelled"])
    wider = replace(recipe, net=replace(tiny.NET, channels=(8, 24)))
    with pytest.raises(PhinError, match="is another network than this"):
        wider.task(wider.load())


# --- at the command line


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*argv: object, code: int = 0) -> Any:
        assert main([*map(str, argv), "--json"]) == code
        said = capsys.readouterr()
        if code:
            assert said.err.startswith("phin: error: ")
            assert said.err.count("\n") == 1
        return json.loads(said.out)

    return run


def test_distill_and_draw(files: dict[str, str], run: Callable[..., Any]) -> None:
    brief = ["--steps", 2, "--batch", 10, "--picture-every", 1, "--precision", "float32", "--trackers"]
    chosen = ["--guidance", 3, "--middle", -0.5, "--walk", 3]
    facts = run("distill", "--model", files["labelled"], *chosen, *brief)
    assert facts["folder"] == "runs/tiny-fast"
    assert facts["step"] == 2
    assert Path("runs/tiny-fast/samples/000002.png").exists()
    model = phin.load("runs/tiny-fast")
    assert isinstance(model.recipe, DiffusionRecipe)
    assert isinstance(model.recipe.distilled, Consistency)
    assert model.recipe.distilled.walk == 3
    assert (model.recipe.distilled.guidance, model.recipe.distilled.middle) == (3.0, -0.5)
    assert model.metadata["command"].startswith("phin distill --model")
    drawn = run("sample", "--model", "runs/tiny-fast", "--label", 4, "--steps", 1, "--out", "o")
    assert drawn["sampling"]["steps"] == 1
    assert drawn["sampling"]["guidance"] == 3.0
    again = run("distill", "--model", files["labelled"], *chosen, *brief)
    assert (again["step"], again["validation"]) == (2, facts["validation"])
    wrong = run("sample", "--model", "runs/tiny-fast", "--label", 4, "--steps", 7, "--out", "p", code=2)
    assert "in 1 or 2 steps, not in 7" in wrong["error"]
    assert not Path("p").exists()
    other = run("distill", "--model", files["labelled"], "--guidance", 2, *brief, code=2)
    assert "holds another run (recipe.distilled.guidance is 3.0 there and 2.0 here)" in other["error"]


def test_distill_by_other_methods(files: dict[str, str], run: Callable[..., Any]) -> None:
    brief = ["--steps", 3, "--batch", 10, "--picture-every", 0, "--precision", "float32", "--trackers"]
    halved = ["distill", "--model", files["labelled"], "--method", "progressive", "--calls", 3, "--start"]
    wrong = run(*halved, 7, *brief, code=2)["error"]
    assert "start = 7: 3 calls are halved out of 6, 12, 24, ... steps: give one of these" in wrong
    run(*halved, 6, "--out", "halved", *brief)
    recipe = phin.load("halved").recipe
    assert isinstance(recipe, DiffusionRecipe)
    assert recipe.distilled == Progressive(files["labelled"], 2.0, 3, -9.0, -1.0, True, 6)
    run("distill", "--model", files["labelled"], "--method", "tuning", "--out", "tuned", *brief)
    recipe = phin.load("tuned").recipe
    assert isinstance(recipe, DiffusionRecipe)
    assert recipe.distilled == Tuning(files["labelled"], 2.0, null=True)
    drawn = run("sample", "--model", "tuned", "--label", -1, "--steps", 1, "--out", "o")
    assert drawn["sampling"]["steps"] == 1


def test_nothing_to_distill(files: dict[str, str], run: Callable[..., Any], tmp_path: Path) -> None:
    Path("empty").mkdir()
    for source, message in (
        (files["reader"], "no diffusion model to distill"),
        ("empty", "the folder empty has no weights"),
        ("nothing", "unknown model 'nothing'"),
    ):
        assert message in run("distill", "--model", source, "--steps", 2, code=2)["error"]
    assert "minutes or steps" in run("distill", "--minutes", 1, "--steps", 2, code=2)["error"]
    assert not Path("runs").exists()
