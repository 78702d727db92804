"""Training of students that draw in few calls, by what a trained diffusion model says in many."""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.base import Batch, some
from phin.diffusion.denoiser import Denoise, Denoiser, Given, Prediction
from phin.diffusion.distill import (
    Metric,
    consistency_target,
    ladder,
    nearer,
    progressive_target,
    squared,
    tuning_target,
)
from phin.diffusion.level import SCALINGS, Level, vp
from phin.diffusion.losses import stratified
from phin.diffusion.noise import normal, stream
from phin.diffusion.schedules import SCHEDULES, Schedule
from phin.diffusion.solvers import DDIM, DPMpp2M, Solver, sample, walk
from phin.diffusion.weights import truncated_snr
from phin.errors import PhinError
from phin.registry import build
from phin.sampling import SampleConfig, guided
from phin.training.denoising import Denoising
from phin.training.loop import Losses, Task

POOL = 50  # batches whose walks are kept, to be learned from again
EXAMINED = 64  # held-out examples of a validation
EXACT = 16  # steps of the teacher that a validation goes by


def _part(progress: float, stages: int) -> int:
    """Which of so many equal parts of the budget a share of it is in, from 0."""
    return min(int(progress * stages), stages - 1)


class Distilling(Task):
    """A student of a trained diffusion model, whose weights it begins with.

    Args:
        denoising: The training of the student on the data, were it not distilled: its model, batches and
            pictures.
        teacher: The teacher.
        sampling: How the teacher is sampled, with the guidance that the student is to have.
        rungs: Log-SNRs of the student's calls, from noise on.
        null: Whether the student is to draw without its condition, too, and learns from as large a share of
            examples without it as `denoising` leaves it out of: there the guided teacher is its null.
    """

    model: Denoiser

    def __init__(
        self,
        denoising: Denoising,
        teacher: Denoiser,
        sampling: SampleConfig,
        rungs: Sequence[float],
        null: bool,
    ) -> None:
        super().__init__()
        self.denoising, self.model = denoising, denoising.model
        self.teacher, self.sampling = teacher.eval().requires_grad_(False), sampling
        self.rungs, self.null = torch.tensor(rungs, dtype=torch.float64), null
        self.schedule = build(sampling.grid, SCHEDULES, "schedule", SCALINGS)
        self.end = self.schedule.log_snr(torch.zeros(1, dtype=torch.float64))

    def fewest(self, batch: int) -> int:
        return self.denoising.fewest(batch)

    def picture(self, model: nn.Module) -> np.ndarray | None:
        return self.denoising.picture(model)

    def memory(self) -> dict[str, Tensor]:
        return {}

    def student(self, model: Denoiser, cond: Mapping[str, Tensor]) -> Given:
        """The student under a condition; of data without any, that is left out."""
        return model.given(**self._told(cond))

    def master(self, cond: Mapping[str, Tensor]) -> Denoise:
        """The teacher under a condition, guided."""
        return guided(self.teacher, self._told(cond), self.sampling)

    def _told(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {} if self.denoising.drop == 1 else {k: v.to(self.device) for k, v in cond.items()}

    def shown(self, batch: int, rows: slice) -> tuple[Batch, Tensor]:
        """Rows of a batch, as the student is to see them, and the noise of each."""
        (x, cond, total), eps = self.denoising.shown(batch, rows)
        if self.null:
            cond = self.denoising.dropped(batch, rows, cond, total)
        return Batch(x, cond, total), eps

    def noised(self, x: Tensor, eps: Tensor, log_snr: Tensor) -> Tensor:
        """z at levels (B,), on this task's device."""
        x = x.to(self.device)
        level = self.schedule.scaling(log_snr).over(x)
        return level.alpha * x + level.sigma * eps.to(x)

    def places(self, step: int, total: int, count: int) -> Tensor:
        """Which of `count` places each of a whole batch is at (B,): equally many at each, but for chance."""
        draws = stream(self.denoising.seed, "rung", step).random(total)
        return (stratified(torch.from_numpy(draws)) * count).long()

    def answers(self, model: Denoiser, z: list[Tensor], cond: Mapping[str, Tensor]) -> list[Tensor]:
        """What the student says of the ends of the paths through z, one state at each of its rungs."""
        levels = self.schedule.scaling(self.rungs)
        return [self.student(model, cond)(state, levels.at(i)).x for i, state in enumerate(z)]

    @cached_property
    def _examination(self) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Conditions of held-out examples; and, at every rung, their states, ends, and the teacher's x̂."""
        x, cond, _ = some(self.denoising.data, "valid", EXAMINED)
        states: list[Tensor] = []
        ends: list[Tensor] = []
        guesses: list[Tensor] = []
        for i, rung in enumerate(self.rungs):
            eps = normal(0, "validation", range(i * len(x), (i + 1) * len(x)), x.shape[1:])
            z = self.noised(x, eps, rung)
            way = ladder(self.schedule, rung[None], self.end, EXACT)
            levels = Level(*(field[:, 0] for field in way))
            states.append(z)
            ends.append(sample(self.master(cond), DPMpp2M(), levels, z))
            guesses.append(self.master(cond)(z, levels.at(0)).x)
        return cond, states, ends, guesses

    def validate(self, model: nn.Module) -> dict[str, float]:
        """How far from the ODE the student ends: root mean square over pixels, mean over pictures.

        It is the mean over the levels of its calls, then each of them. The baseline is the x̂ of the teacher
        there; measures of samples follow, if any.
        """
        assert isinstance(model, Denoiser)
        cond, states, ends, guesses = self._examination

        def apart(said: Sequence[Tensor]) -> list[float]:
            return [squared(x - end).sqrt().mean().item() for x, end in zip(said, ends, strict=False)]

        found = apart(self.answers(model, states, cond))
        baseline = apart(guesses[: len(found)])
        by_level = {f"error/{rung:g}": error for rung, error in zip(self.rungs.tolist(), found, strict=False)}
        mean = {"error": sum(found) / len(found), "baseline": sum(baseline) / len(baseline)}
        return mean | by_level | self.denoising.measured(model)


class Start(NamedTuple):
    """States of a batch, and where the teacher's walk led from them."""

    cond: dict[str, Tensor]
    z: Tensor
    level: Level
    """Of z (B, 1, ..., 1)."""
    landed: Tensor
    below: Level
    """Of where it landed, likewise."""
    end: Tensor
    """Whether that is the clean end (B,)."""


class ConsistencyDistilling(Distilling):
    """Consistency distillation: of states at one rung, the student is to say what it says at the next.

        loss = |f(z_t, t) - stop(f(z_s, s))|,    z_s: the teacher's walk from z_t, and z_s / alpha at the end.

    Rungs are few, only those of its calls, and the teacher takes several steps between two: what a student
    is never asked for it does not learn, and no error of a long row of targets adds up. A walk costs more
    than all else in a step, so it is learned from several times, `POOL` steps apart.

    Args:
        denoising: As of `Distilling`.
        teacher: Likewise.
        sampling: Likewise.
        rungs: Likewise.
        null: Likewise.
        steps: Of a walk.
        solver: By which the teacher walks; deterministic.
        metric: How far two answers are apart.
        reuse: How often a walk is learned from.

    Raises:
        PhinError: The solver draws noise, and so leaves the path.

    References:
        Consistency Models (Song et al., 2023), arXiv:2303.01469, algorithm 2; the target has the student's
            own weights, not averaged ones (Song and Dhariwal, 2023, arXiv:2310.14189, section 3.2).
    """

    def __init__(
        self,
        denoising: Denoising,
        teacher: Denoiser,
        sampling: SampleConfig,
        rungs: Sequence[float],
        null: bool,
        steps: int,
        solver: Solver,
        metric: Metric,
        reuse: int,
    ) -> None:
        super().__init__(denoising, teacher, sampling, rungs, null)
        self.steps, self.solver, self.metric, self.reuse = steps, solver, metric, reuse
        self._pool: dict[tuple[int, object, object, object], Start] = {}
        trial = vp(torch.tensor([-1.0, 0.0, 1.0]))
        walk(lambda z, _: Prediction(z), solver, trial, torch.ones(1, 1), self._no_noise)

    def forward(self, step: int, rows: slice) -> Losses:
        """The loss of each state."""
        start = self._start(self._batch(step), rows)
        student = self.student(self.model, start.cond)
        said = student(start.z, start.level).x
        self.model.eval()  # what it is held to is its whole word, of which dropout leaves nothing out
        with torch.no_grad():
            target = consistency_target(student.rows, start.landed, start.below, start.end)
        self.model.train(self.training)
        return Losses(self.metric(said - target), start.level.log_snr.flatten())

    def _batch(self, step: int) -> int:
        """The number of the batch that a step learns from: `POOL` of them in turn, several times over."""
        return step // (POOL * self.reuse) * POOL + step % POOL

    def _start(self, batch: int, rows: slice) -> Start:
        """A batch and its walks: a function of its number, whether it was kept or not."""
        key = batch, rows.start, rows.stop, rows.step
        if key not in self._pool:
            self._pool = {k: kept for k, kept in self._pool.items() if k[0] // POOL == batch // POOL}
            self._pool[key] = self._walked(batch, rows)
        return self._pool[key]

    @torch.no_grad()
    def _walked(self, batch: int, rows: slice) -> Start:
        (x, cond, total), eps = self.shown(batch, rows)
        rung = self.places(batch, total, len(self.rungs))[rows]
        log_snrs = torch.cat([self.rungs, self.end])
        z = self.noised(x, eps, log_snrs[rung])
        way = ladder(self.schedule, log_snrs[rung], log_snrs[rung + 1], self.steps)
        levels = Level(*(field.view(*field.shape, *[1] * (z.ndim - 1)).to(z) for field in way))
        landed = walk(self.master(cond), self.solver, levels, z, self._no_noise)
        end = (rung + 1 == len(self.rungs)).to(z.device)
        return Start(cond, z, levels.at(0), landed, levels.at(-1), end)

    def _no_noise(self, like: Tensor) -> Tensor:
        raise PhinError(
            f"walker {self.solver} draws noise, and leaves the path that the student is to see the end of: "
            "take a deterministic solver, such as dpmpp_2m"
        )


class ConsistencyTuning(Distilling):
    """Easy consistency tuning: at all levels the student is to say what it says a little nearer to the data.

        loss = |f(z_t, t) - stop(f(z_r, r))| / (t - r),    t, r in sigma / alpha, r of `nearer`.

    Both states are of the same x and eps, and both answers have the same dropout. At guidance 1, x is of the
    data, and the teacher but where the student begins. Any other guidance is in no data: x is then the guided
    teacher's x̂ of z_t, and z_r its DDIM step, which tends to its path as r to t. Where r is beyond the clean
    end of the process it is 0, and the target x.

    Args:
        denoising: As of `Distilling`.
        teacher: Likewise.
        sampling: Likewise.
        rungs: Likewise.
        null: Likewise.
        density: Levels t are those of this schedule at uniform times, from the first rung to the clean end.
        metric: How far two answers are apart.
        q: By how much t - r shrinks from stage to stage.
        stages: Equal parts of the budget.

    References: Consistency Models Made Easy (Geng et al., 2024), arXiv:2406.14548.
    """

    def __init__(
        self,
        denoising: Denoising,
        teacher: Denoiser,
        sampling: SampleConfig,
        rungs: Sequence[float],
        null: bool,
        density: Schedule,
        metric: Metric,
        q: float,
        stages: int,
    ) -> None:
        super().__init__(denoising, teacher, sampling, rungs, null)
        self.density, self.metric, self.q, self.stages = density, metric, q, stages

    def forward(self, step: int, rows: slice) -> Losses:
        """The loss of each pair."""
        (x, cond, total), eps = self.shown(step, rows)
        log_snr = self._levels(step, total)[rows]
        t, clean = (torch.exp(-0.5 * level) for level in (log_snr, self.end))
        r = nearer(t, 1 + _part(self.progress, self.stages), self.q)
        end = r < clean
        near = torch.where(end, self.end, -2 * r.log())
        z = self.noised(x, eps, log_snr)
        here, there = (self.schedule.scaling(level).over(z) for level in (log_snr, near))
        student = self.student(self.model, cond)
        seed = int(torch.randint(2**62, ()))  # of dropout, alike in both answers
        torch.manual_seed(seed)
        said = student(z, here).x
        with torch.no_grad():
            whole = x.to(z) if self.sampling.guidance == 1 else self.master(cond)(z, here).x
            torch.manual_seed(seed)
            target = tuning_target(student, whole, z, here, there, end.to(z.device))
        gap = (t - r.masked_fill(end, 0)).to(z)
        return Losses(self.metric(said - target) / gap, log_snr.to(z))

    def _levels(self, step: int, total: int) -> Tensor:
        """The log-SNRs t of a whole batch (B,)."""
        draws = stratified(torch.from_numpy(stream(self.denoising.seed, "time", step).random(total)))
        with torch.no_grad():
            clean, noisy = self.density.inverse(self.end), self.density.inverse(self.rungs[0])
            return self.density.log_snr(torch.lerp(clean, noisy, draws))


class ProgressiveDistilling(Distilling):
    """Progressive distillation: one step of the student is to do what two of the teacher do; and again.

        loss = max(SNR, 1) mean |x̃ - x̂(z_t)|²,    x̃ of `progressive_target`.

    The budget has equal parts. In the first, two steps of the guided teacher are one of the student; at the
    beginning of each further one the student as it is becomes the teacher of the next. In each the learning
    rate runs through its whole curve, so that what becomes a teacher has come to rest.

    All is written in the variance-preserving scaling, which is that of the student's ladder.

    Args:
        denoising: As of `Distilling`.
        teacher: Likewise.
        sampling: Likewise.
        rungs: Likewise; they are equally spaced in log-SNR, and so are those of more steps.
        null: Likewise.
        last: The log-SNR at which their spacing ends: beyond it there are the data.
        stages: Parts of the budget: the teacher begins with 2^stages times as many steps as there are rungs.

    References: Progressive Distillation (Salimans and Ho, 2022), arXiv:2202.00512, algorithm 2.
    """

    stage: Tensor

    def __init__(
        self,
        denoising: Denoising,
        teacher: Denoiser,
        sampling: SampleConfig,
        rungs: Sequence[float],
        null: bool,
        last: float,
        stages: int,
    ) -> None:
        super().__init__(denoising, teacher, sampling, rungs, null)
        self.schedule.scaling = vp
        self.last, self.stages = last, stages
        self.former = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.register_buffer("stage", torch.zeros((), dtype=torch.long))

    def memory(self) -> dict[str, Tensor]:
        """The stage, and the student that teaches in it."""
        former = {f"former.{name}": tensor for name, tensor in self.former.state_dict().items()}
        return {"stage": self.stage, **former}

    def lap(self, progress: float) -> float:
        """One curve of the learning rate a stage."""
        return progress * self.stages - _part(progress, self.stages)

    def forward(self, step: int, rows: slice) -> Losses:
        """The loss of each state; the first of a stage makes the student the teacher."""
        # A budget that was made larger may have gone back to a stage whose teacher is gone.
        stage = max(_part(self.progress, self.stages), int(self.stage))
        if stage > self.stage:
            self.former.load_state_dict(self.model.state_dict())
            self.stage.fill_(stage)
        (x, cond, total), eps = self.shown(step, rows)
        count = len(self.rungs) * 2 ** (self.stages - 1 - stage)
        place = self.places(step, total, count)[rows]
        t, m, s = (self.between(place + part, count) for part in (0.0, 0.5, 1.0))
        z = self.noised(x, eps, t)
        levels = [vp(log_snr).view(z.ndim).to(z) for log_snr in (t, m, s)]
        with torch.no_grad():
            teacher = self.master(cond) if stage == 0 else self.student(self.former, cond)
            target = progressive_target(teacher, z, *levels)
        log_snr = levels[0].log_snr.flatten()
        error = squared(target - self.student(self.model, cond)(z, levels[0]).x)
        return Losses(truncated_snr(log_snr) * log_snr.exp() * error, log_snr)

    def between(self, place: Tensor, count: int) -> Tensor:
        """The log-SNR of a place on a ladder of so many steps, from noise on; at its end are the data."""
        log_snr = torch.lerp(self.rungs[0], torch.tensor(self.last).double(), place.double() / count)
        return log_snr.masked_fill(place >= count, math.inf)

    def answers(self, model: Denoiser, z: list[Tensor], cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Of the first rung alone, from which it takes all its steps."""
        return [sample(self.student(model, cond), DDIM(), vp(self.rungs), z[0])]
