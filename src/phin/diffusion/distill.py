"""Distillation: from a denoiser that takes many calls to a student that takes few.

The probability-flow ODE leads every noisy z at a level t to one end. A denoiser says the mean x̂ of all the
data that z may come from, and that is a long walk away from the end; a student f is trained to say the end
itself, in one call, or a part of the way.

*Consistency.* All points of one path have one end, f(z_t, t) = f(z_s, s), and at the clean end of the process
the path is there: f(z, t_min) = z / alpha. So the student is to say at t what it says itself, without
gradient, at a cleaner level s of the same path; where s is the clean end it is told. The teacher leads from t
to s by any solver. Two calls are a call, new noise at a middle level, and a call there
(`solvers.MultistepConsistency`).

*Progressive.* One DDIM step of the student is to land where two of the teacher land; then the student becomes
the teacher, and is asked for half as many steps.

Whatever guidance the teacher's denoiser has, the student learns with it: afterwards it costs nothing.

References:
    Consistency Models (Song et al., 2023), arXiv:2303.01469.
    Consistency Models Made Easy (Geng et al., 2024), arXiv:2406.14548: tuning of a trained diffusion model.
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
    not to go through it. With the data x as the teacher's x̂ the walk needs no teacher, and this is
    consistency training: the target is right on the average, in the limit of short steps.

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
