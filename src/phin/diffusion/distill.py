"""Distillation: from a denoiser that takes many calls to a student that takes few.

The probability-flow ODE leads every noisy z at a level t to one end. A denoiser says the mean x̂ of all the
data that z may come from, and that is a long walk away from the end; a student f is trained to say the end
itself, in one call, or a part of the way.

*Consistency.* All points of one path have one end, f(z_t, t) = f(z_s, s), and at the clean end of the process
the path is there: f(z, t_min) = z / alpha. So the student is to say at t what it says itself, without
gradient, at a cleaner level s of the same path; where s is the clean end it is told. The teacher leads from t
to s by any solver. Two calls are a call, new noise at a middle level, and a call there
(`solvers.MultistepConsistency`).

*Tuning.* The same without a walk, at all levels: from one x and one eps come z_t and z_r, and the student is
to say at t what it says at r. On the average z_r is where a DDIM step with x̂ leads from z_t, so the target is
right in the limit of r -> t, to which r goes in the course of the training; where r is 0 the target is x, and
the training that of a denoiser.

*Progressive.* One DDIM step of the student is to land where two of the teacher land; then the student becomes
the teacher, and is asked for half as many steps.

Whatever guidance the teacher's denoiser has, the student learns with it: afterwards it costs nothing.

References:
    Consistency Models (Song et al., 2023), arXiv:2303.01469.
    Consistency Models Made Easy (Geng et al., 2024), arXiv:2406.14548: easy consistency tuning, ECT.
    Progressive Distillation (Salimans and Ho, 2022), arXiv:2202.00512.
    On Distillation of Guided Diffusion Models (Meng et al., 2023), arXiv:2210.03142.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .denoiser import Denoise
from .level import Level
from .ode import Select
from .schedules import Schedule
from .solvers import DDIM, walk

Metric = Callable[[Tensor], Tensor]
"""Difference (B, ...) of two answers -> its size (B,): zero for zero alone, and differentiable there."""


def ladder(schedule: Schedule, t: Tensor, s: Tensor, steps: int) -> Level:
    """The ladders between pairs of levels, equally spaced in the schedule's time, with these very ends.

    Args:
        schedule: Its time places the levels.
        t: Log-SNR of the noisier levels (B,).
        s: Of the cleaner ones (B,).
        steps: How many steps there are between them.

    Returns:
        Levels (steps + 1, B), noisy to clean.

    Raises:
        ValueError: If steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least 1 is needed between two levels")
    share = torch.linspace(0, 1, steps + 1, dtype=t.dtype, device=t.device)[1:-1, None]
    between = schedule.log_snr(torch.lerp(schedule.inverse(t), schedule.inverse(s), share))
    return schedule.scaling(torch.cat([t[None], between, s[None]]))


def consistency_target(student: Select, z: Tensor, level: Level, end: Tensor) -> Tensor:
    """What a point of a path says of its end: z / alpha at the clean end, elsewhere the student's word.

    Where z is a step of a walk that began at z_t, this is what the student is to say at z_t; the gradient is
    not to go through it.

    Args:
        student: Rows of the batch -> the student of these examples.
        z: States (B, ...) at the level.
        level: Levels (B, 1, ..., 1).
        end: Whether it is the clean end, for each example (B,).

    References:
        Consistency Models (Song et al., 2023), arXiv:2303.01469, sections 3 (the
            boundary) and 4 (the loss).
    """
    target = z / level.alpha
    rows = (~end).nonzero().flatten()
    if len(rows):
        said = student(rows)(z[rows], level._make(field[rows] for field in level)).x
        target = target.index_copy(0, rows, said.to(target))
    return target


def nearer(t: Tensor, stage: int, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> Tensor:
    """ECT's mapping function: of a pair of levels the cleaner one, r, in each stage nearer to t.

        r = t max(1 - n(t) / q^stage, 0),    n(t) = 1 + k sigmoid(-b t).

    Args:
        t: sigma / alpha of the noisier level, of any shape.
        stage: 1, 2, ...; the code of the paper counts from 0, and has q^(stage + 1).
        q: By how much the gap shrinks from stage to stage.
        k: Where noise is low the gap is 1 + k / 2 times as wide as where it is high.
        b: How soon noise is high.

    Raises:
        ValueError: If stage < 1 or q <= 1.

    References:
        Consistency Models Made Easy (Geng et al., 2024), arXiv:2406.14548: the mapping function p(r | t) of
            its training schedule, with k = 8 and b = 1.
    """
    if not (stage >= 1 and 1 < q < math.inf):
        raise ValueError(f"a pair of levels needs stage >= 1 and q > 1, not {stage}, {q}")
    return t * (1 - (1 + k * torch.sigmoid(-b * t)) / q**stage).clamp(min=0)


def tuning_target(student: Denoise, x: Tensor, z: Tensor, t: Level, r: Level, end: Tensor) -> Tensor:
    """What a student is to say of z_t: its own word on z_r with the same x and eps; x itself where r is 0.

        z_r = alpha_r x + sigma_r eps,    eps = (z_t - alpha_t x) / sigma_t.

    With a teacher's x̂ in place of the data, this is its DDIM step from t to r, and what guidance it has goes
    into the student. The gradient is not to go through the target.

    Args:
        student: The student, its condition bound; asked of the whole batch, so that its dropout can be that
            of its word on z_t.
        x: The data that z_t was made of (B, ...), or a teacher's x̂ of z_t.
        z: z_t (B, ...).
        t: Its levels (B, 1, ..., 1).
        r: Cleaner levels, likewise; any where r is 0.
        end: Whether r is 0, for each example (B,).

    References:
        Consistency Models Made Easy (Geng et al., 2024), arXiv:2406.14548; with a teacher, Consistency Models
            (Song et al., 2023), arXiv:2303.01469, algorithm 2, by Euler's method.
    """
    eps = (z - t.alpha * x) / t.sigma
    said = student(r.alpha * x + r.sigma * eps, r).x
    return torch.where(end.view(-1, *[1] * (z.ndim - 1)), x, said.to(x))


def progressive_target(teacher: Denoise, z: Tensor, t: Level, m: Level, s: Level) -> Tensor:
    """The x̂ with which one DDIM step from t to s lands where two of the teacher land, over m.

        x̃ = (z_s'' - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)

    The last step of a ladder goes to the data themselves, alpha_s = 1 and sigma_s = 0 (log-SNR inf): there x̃
    is the teacher's x̂ at m.

    References:
        Progressive Distillation (Salimans and Ho, 2022), arXiv:2202.00512, algorithm 2.
    """
    levels = Level(*(torch.stack(fields) for fields in zip(t, m, s, strict=True)))
    z_s = walk(teacher, DDIM(), levels, z, torch.zeros_like)
    shrunk = s.sigma / t.sigma
    return (z_s - shrunk * z) / (s.alpha - shrunk * t.alpha)


def squared(difference: Tensor) -> Tensor:
    """Mean of d² over dimensions: the answer to many targets is their mean."""
    return difference.square().flatten(1).mean(1)


def pseudo_huber(c: float = 0.03) -> Metric:
    """sqrt(mean d² + c²) - c: the length of d, rounded off below c, so that no example outweighs the others.

    References:
        Improved Techniques for Training Consistency Models (Song and Dhariwal, 2023), arXiv:2310.14189,
            section 3.3: there c is 0.00054 sqrt(D) for the sum, which is c = 0.00054 for the mean.
    """
    _check(c)
    return lambda difference: squared(difference).add(c * c).sqrt() - c


def charbonnier(c: float = 0.03) -> Metric:
    """Mean of sqrt(d² + c²) - c over dimensions: |d|, rounded off below c.

    The answer to many targets is near their median, which in pictures of ink on paper has no grey.

    References:
        Charbonnier et al. (1994), Two deterministic half-quadratic regularization algorithms for computed
            imaging.
    """
    _check(c)
    return lambda difference: (difference.square().add(c * c).sqrt() - c).flatten(1).mean(1)


def _check(c: float) -> None:
    if not 0 < c < math.inf:
        raise ValueError(f"c = {c} must be positive and finite")


METRICS: dict[str, Callable[..., Metric]] = {
    "squared": lambda: squared,
    "pseudo_huber": pseudo_huber,
    "charbonnier": charbonnier,
}
"""Name -> factory."""
