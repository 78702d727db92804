"""The probability-flow ODE, to any accuracy: data to latent and back, and the exact likelihood.

The ODE whose solutions have the marginals of the diffusion is written here in u = z / sqrt(alpha² + sigma²)
and over the log-SNR, l. With a² = sigmoid(l), the signal's share of u's variance,

    du / dl = a / 2 (x̂ - a u).

Why so: time, schedule and scaling are gone, so that no choice of theirs can make the ODE stiff; nothing is
divided by what vanishes, and the right side tends to 0 at both ends; u stays of unit variance, so that one
tolerance means the same at every level; and data of another size only shift l, hence structure of every
size takes about the same length of l to resolve. In time, or in sigma, it is squeezed into a corner.

All is computed in float64 but for the denoiser, which is called in the dtype of what it is given: a float32
network stays one, and its rounding (1e-7) is then the least error that can be asked for. bfloat16 autocast is
switched off, since its rounding (4e-3) would be all that a step size control sees.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, eq. 13 (the ODE) and
        eq. 39 (the likelihood).
    A family of embedded Runge-Kutta formulae (Dormand and Prince, 1980), J. Comput. Appl. Math. 6, table 2.
    Solving Ordinary Differential Equations I (Hairer, Norsett and Wanner, 1993), sections II.4 and II.5; II
        (Hairer and Wanner, 1996), section IV.2, for the step sizes.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .denoiser import Denoise, Given
from .level import Level, check_finite, vp
from .noise import stream
from .schedules import Schedule
from .solvers import Solver

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(t (n,), y (n, ...), rows (n,)) -> dy/dt (n, ...), of the examples `rows` of the batch, each at its t."""

Norm = Callable[[Tensor], Tensor]
"""Errors in units of what is tolerated (n, ...) -> their size in each example (n,); 1 is just tolerated."""

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
"""c: where in the step each stage is taken."""

STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""a: what each stage is made of. The last is the result itself, so that its slope begins the next step."""

FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
"""b of the embedded method of order 4, which the error is told from."""

_ERROR = tuple(fifth - fourth for fifth, fourth in zip((*STAGES[-1], 0.0), FOURTH, strict=True))
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0  # Hairer's dopri5
_BETA = 0.04  # of the PI controller: the share of the error before
# Any data's dynamics are made of rises of sigmoid(l + a constant), about 4 nats wide. The ODE often begins
# where nothing moves; steps that grow without bound there would leap over what comes, and see no error.
_MAX_STEP = 1.0


class Solution(NamedTuple):
    """Where an ODE took each example, and whether it may be believed."""

    y: Tensor
    """The state (B, ...): at the end, or as far as the example came."""
    converged: Tensor
    """(B,), bool."""
    reached: Tensor
    """Where the example stands (B,), float64: the end, or where no step was small enough."""
    error: Tensor
    """Estimated error of its last attempted step (B,), in units of what is tolerated; over 1: refused."""
    steps: Tensor
    """Steps attempted (B,), int64."""
    evaluations: Tensor
    """Evaluations of the field (B,), int64."""

    def complaint(self, numbers: Sequence[int] | None = None) -> str:
        """What did not converge, in words; empty where all did. `reached` is taken for a log-SNR.

        Args:
            numbers: What the examples are called; by default their rows.
        """
        if self.converged.all():
            return ""
        k, lost = int((~self.converged).nonzero()[0]), int((~self.converged).sum())
        name = k if numbers is None else numbers[k]
        return (
            f"{lost} of {len(self.converged)} examples did not converge: example {name} came to log-SNR "
            f"{self.reached[k]:.4g} in {self.steps[k]} steps, the last with {self.error[k]:.3g} times the "
            "tolerated error"
        )


def rms(scaled: Tensor) -> Tensor:
    """The root of the mean square of each example."""
    return scaled.flatten(1).square().mean(1).sqrt()


def dormand_prince(
    field: Field, t: Tensor, y: Tensor, h: Tensor, first: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the method of order 5, in six evaluations.

    Args:
        field: The right side.
        t: Times (n,).
        y: States (n, ...).
        h: Sizes of the step (n,), of either sign.
        first: field(t, y), the last slope of the step before.
        rows: Which examples these are (n,).

    Returns:
        The states at t + h, the estimated errors of the step (those of the embedded method of order 4), and
        the slopes at t + h.
    """
    size = _column(h, y)
    slopes, state = [first], y
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        state = y + size * _combine(weights, slopes)
        slopes.append(field(t + node * h, state, rows))
    return state, size * _combine(_ERROR, slopes), slopes[-1]


@torch.no_grad()
def integrate(
    field: Field,
    y: Tensor,
    a: float,
    b: float,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_steps: int = 1000,
    norm: Norm = rms,
    max_step: float = math.inf,
) -> Solution:
    """Solves dy/dt = field from t = a to t = b, of either order, by Dormand-Prince 5(4).

    Every example has its own time, step size and error, so that its neighbours in the batch change nothing,
    and leaves the batch when it is done. A step is taken if norm(error / (atol + rtol |y|)) <= 1. An example
    that finds no step small enough, or none within `max_steps`, is returned as far as it came and marked.

    Args:
        field: The right side, called without gradients; float64.
        y: The start (B, ...), float64.
        a: Where it is.
        b: Where to go.
        rtol: Tolerated error of a step, relative to the state.
        atol: Tolerated error of a step, absolute.
        max_steps: Steps to attempt, refused ones included.
        norm: The size of an example's error.
        max_step: The largest step to take.

    Raises:
        ValueError: If a tolerance is not positive, or max_steps < 1.
    """
    if not (rtol > 0 and atol > 0 and max_steps >= 1):
        raise ValueError(
            f"rtol = {rtol}, atol = {atol} must be positive, and max_steps = {max_steps} at least 1"
        )
    n, y = len(y), y.double()
    reached = torch.full((n,), a, dtype=torch.float64, device=y.device)
    done = Solution(
        y.clone(),
        torch.full_like(reached, a == b, dtype=torch.bool),
        reached,
        torch.zeros_like(reached),
        torch.zeros_like(reached, dtype=torch.int64),
        torch.zeros_like(reached, dtype=torch.int64),
    )
    if a == b or n == 0:
        return done
    rows, t = torch.arange(n, device=y.device), reached.clone()
    slope = field(t, y, rows)
    h = _first_step(field, t, y, slope, rows, b - a, rtol, atol, norm)
    before = torch.full_like(t, 1e-4)  # the error of the last step that was taken, not below this
    fresh = torch.ones_like(t, dtype=torch.bool)  # whether the last attempt was taken: only then may h grow
    for step in range(1, max_steps + 1):
        h = h.clamp(-max_step, max_step)
        last = (b - t).abs() <= h.abs()
        h = torch.where(last, b - t, h)
        new, off, new_slope = dormand_prince(field, t, y, h, slope, rows)
        error = norm(off / (atol + rtol * torch.maximum(y.abs(), new.abs())))
        taken = error <= 1  # not so if it is not a number
        ahead = torch.where(last, torch.full_like(t, b), t + h)
        t, y, slope = (
            torch.where(_column(taken, old), new, old)
            for old, new in ((t, ahead), (y, new), (slope, new_slope))
        )
        factor = _SAFETY * error ** (0.75 * _BETA - 0.2) * before**_BETA
        factor = factor.nan_to_num(_SHRINK).clamp(_SHRINK, _GROW)
        factor = torch.where(taken & fresh, factor, factor.clamp(max=1))
        h = h * torch.where(taken, factor, factor.clamp(max=_SAFETY))
        before, fresh = torch.where(taken, error.clamp(min=1e-4), before), taken
        arrived = taken & last
        stuck = h.abs() < 16 * torch.finfo(torch.float64).eps * t.abs().clamp(min=1)
        leaves = arrived | stuck if step < max_steps else torch.ones_like(arrived)
        if leaves.any():
            gone = rows[leaves]
            done.y[gone], done.converged[gone], done.reached[gone] = y[leaves], arrived[leaves], t[leaves]
            done.error[gone], done.steps[gone], done.evaluations[gone] = error[leaves], step, 2 + 6 * step
            stay = ~leaves
            rows, t, y, slope, h = rows[stay], t[stay], y[stay], slope[stay], h[stay]
            before, fresh = before[stay], fresh[stay]
            if not len(rows):
                break
    return done


def _first_step(
    field: Field,
    t: Tensor,
    y: Tensor,
    slope: Tensor,
    rows: Tensor,
    span: float,
    rtol: float,
    atol: float,
    norm: Norm,
) -> Tensor:
    """A first step size (n,), from the sizes of the state, its slope and its curvature (Hairer, II.4)."""
    scale = atol + rtol * y.abs()
    size, speed = norm(y / scale), norm(slope / scale)
    small = torch.where((size < 1e-5) | (speed < 1e-5), torch.full_like(t, 1e-6), 0.01 * size / speed)
    small = small.clamp(max=abs(span)) * math.copysign(1, span)
    ahead = field(t + small, y + _column(small, y) * slope, rows)
    bend = norm((ahead - slope) / scale) / small.abs()
    steepest = torch.maximum(speed, bend)
    guess = torch.where(steepest <= 1e-15, (1e-3 * small.abs()).clamp(min=1e-6), (0.01 / steepest) ** (1 / 5))
    h = torch.minimum(100 * small.abs(), guess).clamp(max=abs(span)).nan_to_num(1e-6)
    return h * math.copysign(1, span)


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """sum_i weights_i slopes_i, term by term, so that a row is the same whatever the batch."""
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = total + weight * slope
    return total


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, ..., 1), to be broadcast against `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


# --- the probability-flow ODE

Select = Callable[[Tensor], Denoise]
"""rows (n,) of the batch -> the denoiser of these examples, their conditions bound."""


def flow(
    denoise: Denoise,
    z: Tensor,
    t: Level,
    s: Level,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_steps: int = 1000,
    select: Select | None = None,
) -> Solution:
    """Where the probability-flow ODE takes z from level t to level s, either of which may be the noisier.

    Args:
        denoise: The denoiser.
        z: States (B, ...) at level t.
        t: The level of z, ().
        s: The level to go to, ().
        rtol: Tolerated error of a step, relative to the state.
        atol: Tolerated error of a step, in units of the standard deviation sqrt(alpha² + sigma²).
        max_steps: Steps to attempt.
        select: The denoiser of some rows of the batch, for as examples arrive the others go on without them.
            By default a `Given` takes those rows of its condition, and any other denoiser is the same for
            every row; a guided denoiser with conditions of B rows needs it.

    Returns:
        The states at level s in the dtype of z; `reached` is a log-SNR.

    Raises:
        ValueError: If z is not finite, or on a tolerance that is not positive.

    Warns:
        RuntimeWarning: If an example does not converge; it says at which level and with what error.
    """
    check_finite(z)
    choose = select or _rows_of(denoise)

    def field(log_snr: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        a = _column(_share(log_snr), u)
        return a / 2 * (_predict(choose(rows), u.to(z), log_snr).double() - a * u)

    u = z.double() / _size(t)
    ends = float(t.log_snr), float(s.log_snr)
    with torch.autocast(z.device.type, enabled=False):
        solution = integrate(field, u, *ends, rtol, atol, max_steps, max_step=_MAX_STEP)
    _warn(solution)
    return solution._replace(y=(solution.y * _size(s)).to(z))


def encode(
    denoise: Denoise,
    x: Tensor,
    levels: Level,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_steps: int = 1000,
    select: Select | None = None,
) -> Solution:
    """The latent z of data x (B, ...), at the noisiest level of the ladder; options as of `flow`.

    x is taken to stand at the cleanest level, z = alpha x.
    """
    clean = levels.at(-1)
    return flow(denoise, clean.alpha * x, clean, levels.at(0), rtol, atol, max_steps, select)


def decode(
    denoise: Denoise,
    z: Tensor,
    levels: Level,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_steps: int = 1000,
    select: Select | None = None,
) -> Solution:
    """The data of a latent z (B, ...): back from the noisiest level of the ladder, z / alpha at the cleanest.

    The inverse of `encode`. It does not end with x̂ as `sample` does; for that ask the denoiser once more.
    """
    clean = levels.at(-1)
    solution = flow(denoise, z, levels.at(0), clean, rtol, atol, max_steps, select)
    return solution._replace(y=solution.y / clean.alpha)


@torch.no_grad()
def invert(denoise: Denoise, solver: Solver, levels: Level, x: Tensor) -> Tensor:
    """The latent z of data x (B, ...) by a deterministic solver's own steps, up the ladder (DDIM inversion).

    `sample` with the same solver and ladder comes back to x up to the solver's error, which is not controlled
    here; `encode` controls it.

    Args:
        denoise: The denoiser.
        solver: A deterministic one: `DDIM()`, `Heun()`.
        levels: The ladder (N,), noisy to clean, as for `sample`.
        x: Data, taken to stand at the cleanest level.

    Raises:
        ValueError: If the solver draws noise, or x has a value that is not finite.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), arXiv:2010.02502, section 4.3.
    """

    def noise(like: Tensor) -> Tensor:
        raise ValueError(
            f"{solver} draws noise, so it has no inverse: take a deterministic one, such as DDIM()"
        )

    check_finite(x)
    z: Tensor = levels.at(-1).alpha * x
    memory: Any = None
    for t, s in Level(*(field.flip(0) for field in levels)).steps():
        z, memory = solver.step(denoise, z, t, s, noise, memory)
    return z


# --- the likelihood

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(f (n, ...), z (n, ...) that it was computed from, rows (n,)) -> estimates (n, P) of the trace of df/dz."""


class Trace(Protocol):
    """A way to take the trace of the denoiser's Jacobian."""

    @property
    def estimates(self) -> int:
        """P, how many estimates of the trace it gives."""
        ...

    def std_error(self, values: Tensor) -> Tensor:
        """Standard error (B,) of the mean of the estimates (B, P)."""
        ...

    def begin(self, like: Tensor, seed: int, indices: Sequence[int]) -> Divergence:
        """For one solution of the ODE, along which all that is random stays what it is.

        Args:
            like: The batch (B, ...).
            seed: Of what is random.
            indices: The examples' numbers in their stream (B,).
        """
        ...


@dataclass(frozen=True)
class Exact:
    """The trace itself: the Jacobian's diagonal, in D backward passes for D dimensions."""

    @property
    def estimates(self) -> int:
        return 1

    def std_error(self, values: Tensor) -> Tensor:
        return torch.zeros_like(values[:, 0])

    def begin(self, like: Tensor, seed: int, indices: Sequence[int]) -> Divergence:
        def divergence(f: Tensor, z: Tensor, rows: Tensor) -> Tensor:
            flat = f.flatten(1)
            diagonal = [_gradient(flat[:, i], z).flatten(1)[:, i] for i in range(flat.shape[1])]
            return sum(diagonal, torch.zeros_like(flat[:, 0]))[:, None]

        return divergence


Law = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""(generator, shape) -> independent numbers of mean 0 and variance 1."""


def rademacher(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Signs: the law of least variance, 2 (|J|² - sum_i J_ii²) for a symmetric J."""
    return 2.0 * generator.integers(0, 2, shape) - 1.0


def gaussian(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers: variance 2 |J|² for a symmetric J."""
    return generator.standard_normal(shape)


@dataclass(frozen=True)
class Hutchinson:
    """Estimates v^T J v, whose mean over v of mean 0 and covariance I is the trace: one backward pass each.

    Example k draws its probes from its own stream, whatever the batch, and keeps them along the ODE.

    References:
        FFJORD (Grathwohl et al., 2019), arXiv:1810.01367, eq. 7-8.
    """

    probes: int = 1
    law: Law = rademacher

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"probes = {self.probes}: at least 1 is needed, and 2 for a standard error")

    @property
    def estimates(self) -> int:
        return self.probes

    def std_error(self, values: Tensor) -> Tensor:
        if self.probes == 1:
            return torch.full_like(values[:, 0], math.nan)
        return values.std(1) / math.sqrt(self.probes)

    def begin(self, like: Tensor, seed: int, indices: Sequence[int]) -> Divergence:
        shape = (self.probes, *like.shape[1:])
        drawn = np.stack([self.law(stream(seed, "probe", i), shape) for i in indices])
        probes = torch.as_tensor(drawn).to(like)  # (B, P, ...)

        def divergence(f: Tensor, z: Tensor, rows: Tensor) -> Tensor:
            each = [
                (_gradient((f * v).flatten(1).sum(1), z) * v).flatten(1).sum(1)
                for v in probes[rows].unbind(1)
            ]
            return torch.stack(each, 1)

        return divergence


LogDensity = Callable[[Tensor, Level], Tensor]
"""(z (B, ...), its level (B, 1, ..., 1)) -> log-density (B,), nats, both in float64."""


def standard(z: Tensor, level: Level) -> Tensor:
    """log N(z; 0, alpha² + sigma²): the marginal of data N(0, I), and in the limit of noise of any other."""
    variance = level.alpha**2 + level.sigma**2
    return -0.5 * (z**2 / variance + torch.log(2 * math.pi * variance)).flatten(1).sum(1)


class LogProb(NamedTuple):
    """Log-likelihoods, and what there is to know of their errors."""

    nats: Tensor
    """log p(x) (B,), float64. Where the ODE did not converge, with the terminal density of where it came."""
    std_error: Tensor
    """Of the mean over the probes (B,): 0 for the exact trace, nan for a single probe."""
    solution: Solution
    """Of the ODE; y is the latent z (B, ...) at the noisiest level."""


@torch.no_grad()
def log_prob(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    trace: Trace = Exact(),
    rtol: float = 1e-5,
    atol: float = 1e-6,
    terminal: LogDensity = standard,
    seed: int = 0,
    indices: Iterable[int] | None = None,
    max_steps: int = 1000,
    select: Select | None = None,
) -> LogProb:
    """Log-likelihood of data under the model that the probability-flow ODE defines, by change of variables.

        log p(x) = log p(z_1) + D log(n_1 alpha_0 / n_0) + ∫ tr(d/du du/dl) dl,    n² = alpha² + sigma²,

    along the solution from z_0 = alpha_0 x at the schedule's cleanest level to z_1 at its noisiest. It is the
    density at x of z_0 / alpha_0, of data with noise of standard deviation sigma_0 / alpha_0, which neither
    scaling nor the schedule between its ends can change. The log-determinant over D is integrated with the
    state, under the same tolerances, and may be off by no more than the state.

    Args:
        denoise: The denoiser, differentiable in z.
        x: Data (B, ...).
        schedule: Its two ends matter.
        trace: `Exact()` or `Hutchinson(probes)`.
        rtol: Tolerated error of a step, relative to the state and to the log-determinant.
        atol: The same, absolute: in standard deviations, and in nats a dimension.
        terminal: log-density of z_1. By default the prior that samples start from; for exact denoisers the
            exact marginal, such as `mixture.log_prob`.
        seed: Of the probes.
        indices: The examples' numbers, which their probes go by; 0 to B - 1 by default.
        max_steps: Steps to attempt.
        select: As of `flow`.

    Raises:
        ValueError: If x is not finite, there are not as many indices, or a tolerance is not positive.

    Warns:
        RuntimeWarning: If an example does not converge; it says at which level and with what error.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, section 4.3 and
            appendix D.2.
    """
    check_finite(x)
    choose = select or _rows_of(denoise)
    numbers = range(len(x)) if indices is None else list(indices)
    if len(numbers) != len(x):
        raise ValueError(f"{len(numbers)} indices were given for {len(x)} examples")
    divergence = trace.begin(x, seed, numbers)
    levels = schedule.levels(2)
    clean, noisy = float(levels.log_snr[1]), float(levels.log_snr[0])
    shape, dims = x.shape[1:], math.prod(x.shape[1:])

    def field(log_snr: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        u, a = y[:, :dims], _share(log_snr)[:, None]
        with torch.inference_mode(False), torch.enable_grad():
            z = u.reshape(-1, *shape).to(x).clone().requires_grad_()
            x_hat = _predict(choose(rows), z, log_snr)
            # Of the whole right side: it all but vanishes at high SNR, as does its estimates' variance then.
            traces = divergence(x_hat - _column(a, z).to(z) * z, z, rows)
        drift = x_hat.detach().double().flatten(1) - a * u
        return a / 2 * torch.cat([drift, traces.double() / dims], 1)

    def norm(scaled: Tensor) -> Tensor:
        return torch.maximum(rms(scaled[:, :dims]), rms(scaled[:, dims:]))

    share = 1 / (1 + math.exp(-clean))  # a² at the cleanest level
    u = math.sqrt(share) * x.double().flatten(1)
    state = F.pad(u, (0, trace.estimates))
    with torch.autocast(x.device.type, enabled=False):
        solution = integrate(field, state, clean, noisy, rtol, atol, max_steps, norm, _MAX_STEP)
    _warn(solution, numbers)
    u, traces = solution.y[:, :dims].reshape(x.shape), solution.y[:, dims:]
    level = schedule.scaling(_column(solution.reached, u))
    size = torch.hypot(level.alpha, level.sigma)
    volume = dims * (size.log().flatten() + math.log(share) / 2)
    nats = terminal(size * u, level) + volume + dims * traces.mean(1)
    return LogProb(nats, dims * trace.std_error(traces), solution._replace(y=(size * u).to(x)))


LAWS: dict[str, Law] = {"rademacher": rademacher, "gaussian": gaussian}
"""Laws of probes, by name."""


def _rows_of(denoise: Denoise) -> Select:
    return denoise.rows if isinstance(denoise, Given) else lambda rows: denoise


def _predict(denoise: Denoise, u: Tensor, log_snr: Tensor) -> Tensor:
    """x̂ at log-SNRs (n,), in the dtype of u, which is z under a variance preserving scaling."""
    return denoise(u, vp(_column(log_snr, u)).to(u)).x


def _gradient(scalars: Tensor, z: Tensor) -> Tensor:
    """d sum(scalars) / dz, the graph being kept; 0 if they do not depend on z."""
    if not scalars.requires_grad:
        return torch.zeros_like(z)
    return torch.autograd.grad(scalars.sum(), z, retain_graph=True, materialize_grads=True)[0]


def _share(log_snr: Tensor) -> Tensor:
    """a = alpha / sqrt(alpha² + sigma²)."""
    return torch.sigmoid(log_snr).sqrt()


def _size(level: Level) -> float:
    """n = sqrt(alpha² + sigma²)."""
    return math.hypot(level.alpha, level.sigma)


def _warn(solution: Solution, numbers: Sequence[int] | None = None) -> None:
    if complaint := solution.complaint(numbers):
        warnings.warn(complaint, RuntimeWarning, stacklevel=4)
