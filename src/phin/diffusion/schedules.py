"""Schedules: from time to noise level, and back.

Time t is in [0, 1], 0 = data and 1 = noise; log_snr(t) falls strictly. A schedule serves three ends alike:
it is the process a model is trained under, the density that training levels are drawn from (t uniform), and
the grid that a sampler walks (t equally spaced). A new one is a class with `log_snr` and `inverse`, and an
entry at the foot.

Several curves reach an infinite SNR, or none, at their ends. `Truncated` cuts them at stated log-SNRs by an
affine change of time, so that no caller ever meets alpha = 0 or sigma = 0.
"""

import abc
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .level import Level, Scaling, flow, subvp, ve, vp


class Schedule(nn.Module, abc.ABC):
    """A map from time in [0, 1] to `Level`, by a log-SNR and a scaling."""

    def __init__(self, scaling: Scaling = vp) -> None:
        super().__init__()
        if not callable(scaling) or isinstance(scaling, Schedule):
            kind = type(scaling).__name__
            raise ValueError(f"a scaling is a function of log-SNR, such as level.vp, and no {kind}")
        self.scaling = scaling

    @abc.abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at times t of any shape: finite on [0, 1] and strictly decreasing."""

    @abc.abstractmethod
    def inverse(self, log_snr: Tensor) -> Tensor:
        """The time at which the schedule has this log-SNR."""

    def check(self) -> None:
        """Refuses a curve that is none; a subclass calls it once its own is defined.

        Raises:
            ValueError: If the log-SNR is infinite somewhere, or does not fall.
        """
        t = torch.linspace(0, 1, 1001, dtype=torch.float64)
        with torch.no_grad():
            log_snr = self.log_snr(t)
        wrong = (
            ~(log_snr.isfinite() & (log_snr.diff(prepend=log_snr.new_tensor([torch.inf])) < 0))
        ).nonzero()
        if len(wrong):
            i = int(wrong[0])
            before = f" after {log_snr[i - 1]:g} at t = {t[i - 1]:g}" if i else ""
            raise ValueError(
                f"the log-SNR of {type(self).__name__} must be finite and fall strictly, but it is "
                f"{log_snr[i]:g} at t = {t[i]:g}{before}"
            )

    def forward(self, t: Tensor) -> Level:
        """The levels at times t, of t's shape, dtype and device."""
        return self.scaling(self.log_snr(t))

    def slope(self, t: Tensor) -> Tensor:
        """d log_snr / dt < 0 at times t. The SDE of the schedule has g^2 = -sigma^2 d log_snr / dt."""
        with torch.inference_mode(False), torch.enable_grad():
            t = t.detach().clone().requires_grad_()
            return torch.autograd.grad(self.log_snr(t).sum(), t)[0]

    def grid(self, steps: int) -> Tensor:
        """The times (steps,), float64, of a sampling ladder from noise to data: equally spaced in t."""
        return torch.linspace(1.0, 0.0, steps, dtype=torch.float64)

    def levels(self, steps: int) -> Level:
        """The sampling ladder: `steps` levels from noise to data.

        They are in float64 on the CPU: exact coefficients, and no waiting for a device.

        Raises:
            ValueError: If steps < 1, or if a discrete chain has fewer.
        """
        if steps < 1:
            raise ValueError(f"steps = {steps}: at least 1 is needed")
        with torch.no_grad():
            return self(self.grid(steps))

    def chain(self, T: int) -> Tensor:
        """The log-SNRs (T,), float64, of the chain of T steps, i = 1..T.

        They are the schedule's own at i / T, but for those that a paper defines by a table of betas.
        """
        with torch.no_grad():
            return self.log_snr(torch.arange(1, T + 1, dtype=torch.float64) / T)


class Truncated(Schedule):
    """A curve with infinite ends, cut at two stated log-SNRs: log_snr(t) = curve(start + (end - start) t)."""

    start: float
    end: float

    @abc.abstractmethod
    def curve(self, u: Tensor) -> Tensor:
        """The log-SNR of the uncut curve at u in (0, 1)."""

    @abc.abstractmethod
    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        """The u at which the uncut curve has this log-SNR."""

    def cut(self, log_snr_max: float, log_snr_min: float) -> None:
        """Set the ends. A subclass calls it once its curve is defined."""
        if not log_snr_min < log_snr_max:
            raise ValueError(f"log_snr_min = {log_snr_min} must be below log_snr_max = {log_snr_max}")
        ends = torch.tensor([log_snr_max, log_snr_min], dtype=torch.float64)
        self.start, self.end = map(float, self.curve_inverse(ends))
        self.check()

    def log_snr(self, t: Tensor) -> Tensor:
        return self.curve(self.start + (self.end - self.start) * t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return (self.curve_inverse(log_snr) - self.start) / (self.end - self.start)


def _log_snr_of_betas(betas: Tensor) -> Tensor:
    """log-SNR (T,) of the VP chain of these betas, alpha_bar_i = prod_{j <= i} (1 - beta_j)."""
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


# Of the standard normal distribution. torch leaves them untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
_probability: Callable[[Tensor], Tensor] = torch.special.ndtr
_quantile: Callable[[Tensor], Tensor] = torch.special.ndtri

_MAX_BETA = 0.999  # improved DDPM, section 3.2: betas are clipped so that no step destroys everything


class Linear(Truncated):
    """Betas that grow linearly: log alpha^2 = -B(t), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2.

    The chain of T steps has beta_i from beta_min / T to beta_max / T, equally spaced (clipped at 0.999):
    for T = 1000 DDPM's 1e-4 to 0.02 exactly. The low-noise end is cut at `log_snr_max`; the other is B(1),
    log-SNR -10.05.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, section 4.
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, eq. 32-33.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, log_snr_max: float = 10.0, scaling: Scaling = vp
    ) -> None:
        super().__init__(scaling)
        if not 0 < beta_min < beta_max:
            raise ValueError(f"betas must satisfy 0 < beta_min < beta_max, not {beta_min}, {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max
        self.cut(log_snr_max, self.curve(torch.ones((), dtype=torch.float64)).item())

    def integral(self, u: Tensor) -> Tensor:
        """B(u), the integral of beta from 0 to u."""
        return self.beta_min * u + 0.5 * (self.beta_max - self.beta_min) * u * u

    def integral_inverse(self, b: Tensor) -> Tensor:
        """The u with B(u) = b, in the form of the quadratic's root that does not cancel."""
        return (
            2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b))
        )

    def curve(self, u: Tensor) -> Tensor:
        b = self.integral(u)
        return -b - torch.log(-torch.expm1(-b))

    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        return self.integral_inverse(F.softplus(-log_snr))

    def chain(self, T: int) -> Tensor:
        betas = torch.linspace(self.beta_min / T, self.beta_max / T, T, dtype=torch.float64)
        return _log_snr_of_betas(betas.clamp(max=_MAX_BETA))


class LinearSubVP(Truncated):
    """Song's sub-VP process: alpha from the linear betas, sigma = 1 - alpha^2, so a log-SNR of its own.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, eq. 29.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, log_snr_max: float = 10.0) -> None:
        super().__init__(subvp)
        self.linear = Linear(beta_min, beta_max)
        self.cut(log_snr_max, self.curve(torch.ones((), dtype=torch.float64)).item())

    def curve(self, u: Tensor) -> Tensor:
        b = self.linear.integral(u)
        return -b - 2 * torch.log(-torch.expm1(-b))

    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        return self.linear.integral_inverse(-2 * torch.log(subvp(log_snr).alpha))


class Cosine(Truncated):
    """alpha_bar(t) = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) pi / 2).

    The chain of T steps has its betas clipped at 0.999.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), arXiv:2102.09672,
            eq. 17.
    """

    def __init__(
        self, s: float = 0.008, log_snr_max: float = 10.0, log_snr_min: float = -10.0, scaling: Scaling = vp
    ) -> None:
        super().__init__(scaling)
        if not 0 <= s < math.inf:
            raise ValueError(f"s = {s}: a cosine schedule starts at an angle of 0 or more")
        self.s = s
        self.origin = s / (1 + s) * math.pi / 2
        self.cut(log_snr_max, log_snr_min)

    def _angle(self, u: Tensor) -> Tensor:
        return (u + self.s) / (1 + self.s) * (math.pi / 2)

    def curve(self, u: Tensor) -> Tensor:
        a = self._angle(u)  # cos^2(origin) - cos^2(a) = sin(a - origin) sin(a + origin) does not cancel
        return 2 * torch.log(torch.cos(a)) - torch.log(
            torch.sin(a - self.origin) * torch.sin(a + self.origin)
        )

    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        alpha, sigma, _ = vp(log_snr)
        a = torch.atan2(torch.hypot(sigma, alpha * math.sin(self.origin)), alpha * math.cos(self.origin))
        return a * (1 + self.s) * (2 / math.pi) - self.s

    def chain(self, T: int) -> Tensor:
        log_f = 2 * torch.log(torch.cos(self._angle(torch.arange(T + 1, dtype=torch.float64) / T)))
        return _log_snr_of_betas((-torch.expm1(log_f.diff())).clamp(max=_MAX_BETA))


class Sigmoid(Truncated):
    """alpha_bar(t) = (S(last) - S(v)) / (S(last) - S(first)), with v from first to last along a line in t.

    S(v) = sigmoid(v / tau).

    References:
        Scalable Adaptive Computation for Iterative Generation (Jabri et al., 2022), arXiv:2212.11972.
        On the Importance of Noise Scheduling for Diffusion Models (Chen, 2023), arXiv:2301.10972,
            algorithm 1.
    """

    def __init__(
        self,
        first: float = -3.0,
        last: float = 3.0,
        tau: float = 1.0,
        log_snr_max: float = 10.0,
        log_snr_min: float = -10.0,
        scaling: Scaling = vp,
    ) -> None:
        super().__init__(scaling)
        if not (first < last and tau > 0):
            raise ValueError(f"a sigmoid schedule needs first < last and tau > 0, not {first}, {last}, {tau}")
        self.first, self.last = first / tau, last / tau
        self.constant = _log_2_cosh(self.first / 2) - _log_2_cosh(self.last / 2)
        self.cut(log_snr_max, log_snr_min)

    def curve(self, u: Tensor) -> Tensor:
        # S(a) - S(b) = sinh((a - b) / 2) / (2 cosh(a / 2) cosh(b / 2)) does not cancel.
        half = (self.last - self.first) / 2
        return torch.log(torch.sinh(half * (1 - u))) - torch.log(torch.sinh(half * u)) + self.constant

    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        # The equation above, in w = exp(v), is linear: (e^last - w) / (w - e^first) = k.
        span = log_snr.new_tensor(self.last - self.first)
        k = torch.exp(log_snr - self.constant + span / 2)
        return torch.log1p(torch.expm1(span) / (1 + k)) / span


class Geometric(Schedule):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t with alpha = 1.

    A log-SNR linear in time (NCSN, the VE SDE).

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), arXiv:2011.13456, eq. 30-31.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, scaling: Scaling = ve) -> None:
        super().__init__(scaling)
        _check_sigmas(sigma_min, sigma_max)
        self.start, self.end = -2 * math.log(sigma_min), -2 * math.log(sigma_max)
        self.check()

    def log_snr(self, t: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * t

    def inverse(self, log_snr: Tensor) -> Tensor:
        return (log_snr - self.start) / (self.end - self.start)


class Karras(Schedule):
    """sigma(t)^(1/rho) linear in time, alpha = 1: EDM's sampling grid.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
            arXiv:2206.00364, eq. 5.
    """

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, scaling: Scaling = ve
    ) -> None:
        super().__init__(scaling)
        _check_sigmas(sigma_min, sigma_max)
        if not rho > 0:
            raise ValueError(f"rho = {rho} must be positive")
        self.rho = rho
        self.start, self.end = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        self.check()

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * self.rho * torch.log(self.start + (self.end - self.start) * t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(log_snr / (-2 * self.rho)) - self.start) / (self.end - self.start)


class LogNormal(Truncated):
    """log sigma ~ N(mean, std^2) for t uniform.

    EDM's training density. Cut four standard deviations off by default.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
            arXiv:2206.00364, table 1.
    """

    def __init__(
        self, mean: float = -1.2, std: float = 1.2, deviations: float = 4.0, scaling: Scaling = ve
    ) -> None:
        super().__init__(scaling)
        if not (std > 0 and deviations > 0):
            raise ValueError(f"std and deviations must be positive, not {std}, {deviations}")
        self.mean, self.std = mean, std
        self.cut(-2 * (mean - deviations * std), -2 * (mean + deviations * std))

    def curve(self, u: Tensor) -> Tensor:
        return -2 * (self.mean + self.std * _quantile(u))

    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        deviation = (-0.5 * log_snr - self.mean) / self.std
        return _probability(deviation)


class Flow(Truncated):
    """Straight paths, alpha = 1 - t and sigma = t, cut where log((1 - t)^2 / t^2) meets the stated ends.

    References:
        Flow Matching for Generative Modeling (Lipman et al., 2023), arXiv:2210.02747, eq. 20-22 with
            sigma_min = 0.
        Flow Straight and Fast (Liu et al., 2023), arXiv:2209.03003.
    """

    def __init__(
        self, log_snr_max: float = 10.0, log_snr_min: float = -10.0, scaling: Scaling = flow
    ) -> None:
        super().__init__(scaling)
        self.cut(log_snr_max, log_snr_min)

    def curve(self, u: Tensor) -> Tensor:
        return 2 * (torch.log1p(-u) - torch.log(u))

    def curve_inverse(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)


class Knots(Schedule):
    """Any falling log-SNR: straight lines in time between given knots, equally spaced, from data to noise.

    A ladder of as many steps as there are knots has these very levels: so a search can place each by itself.

    Args:
        log_snr: The knots, two or more, falling strictly; by default from 10 to -10, one line.
        scaling: Of the levels.
    """

    def __init__(self, *log_snr: float, scaling: Scaling = vp) -> None:
        super().__init__(scaling)
        self.knots = tuple(map(float, log_snr or (10.0, -10.0)))
        if len(self.knots) < 2:
            raise ValueError(f"knots = {self.knots}: at least two are needed, from data to noise")
        for clean, noisy in pairwise(self.knots):
            if not -math.inf < noisy < clean < math.inf:
                raise ValueError(f"knots must be finite and fall strictly, but {noisy:g} follows {clean:g}")

    def log_snr(self, t: Tensor) -> Tensor:
        knots, pieces = t.new_tensor(self.knots), len(self.knots) - 1
        place = t * pieces
        before = place.detach().floor().clamp(0, pieces - 1).long()
        return torch.lerp(knots[before], knots[before + 1], place - before)

    def inverse(self, log_snr: Tensor) -> Tensor:
        rising, pieces = log_snr.new_tensor(self.knots[::-1]), len(self.knots) - 1
        after = torch.bucketize(log_snr, rising).clamp(1, pieces)
        low, high = rising[after - 1], rising[after]
        return (pieces - after + (high - log_snr) / (high - low)) / pieces


class Learned(Schedule):
    """A log-SNR that is learned with the network: a monotone curve between two learned ends.

        log_snr(t) = log_snr_max + (log_snr_min - log_snr_max) s(t),    s(t) = (m(t) - m(0)) / (m(1) - m(0)),
        m(t) = a t + sum_k w_k sigmoid(v_k (t - c_k)),    with a, w_k, v_k > 0.

    The continuous bound depends on the ends alone, so they are learned by the bound itself. The interior only
    spreads the Monte Carlo error of the bound, and is learned to make that small; see `least_variance`.

    Args:
        log_snr_max: The end at t = 0 before training.
        log_snr_min: The end at t = 1 before training.
        units: K, the sigmoids of the curve, which starts nearly straight.
        scaling: Of the levels.

    References:
        Variational Diffusion Models (Kingma et al., 2021), arXiv:2107.00630, sections 3.2 and 5.3, appendices
            H and I.2.
    """

    def __init__(
        self, log_snr_max: float = 13.25, log_snr_min: float = -5.0, units: int = 32, scaling: Scaling = vp
    ) -> None:
        super().__init__(scaling)
        if not log_snr_min < log_snr_max:
            raise ValueError(f"log_snr_min = {log_snr_min} must be below log_snr_max = {log_snr_max}")
        if units < 1:
            raise ValueError(f"units = {units}: a curve has at least 1")
        self.ends = nn.Parameter(torch.tensor([float(log_snr_max), float(log_snr_min)]))
        steep = 2.0 * units
        self.linear = nn.Parameter(torch.tensor([0.5]))
        self.heights = nn.Parameter(torch.full((units,), -5.0))
        self.steepness = nn.Parameter(torch.full((units,), steep))
        self.centres = nn.Parameter(torch.linspace(0, 1, units))
        self.check()

    def interior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """s(t), which rises from 0 to 1, and ds / dt."""
        a, w, v = (F.softplus(p.to(t)) for p in (self.linear, self.heights, self.steepness))

        def at(t: Tensor) -> tuple[Tensor, Tensor]:
            sigmoid = torch.sigmoid(v * (t[..., None] - self.centres.to(t)))
            rise = a[0] + (w * v * sigmoid * (1 - sigmoid)).sum(-1)
            return a[0] * t + (w * sigmoid).sum(-1), rise

        first, last = (at(t.new_tensor(end))[0] for end in (0.0, 1.0))
        value, rise = at(t)
        return (value - first) / (last - first), rise / (last - first)

    def between(self, place: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
        """The log-SNR where s = place, and its slope where ds / dt = rise."""
        high, low = self.ends.to(place)
        return high + (low - high) * place, (low - high) * rise

    def log_snr(self, t: Tensor) -> Tensor:
        return self.between(*self.interior(t))[0]

    def slope(self, t: Tensor) -> Tensor:
        return self.between(*self.interior(t))[1]

    def inverse(self, log_snr: Tensor) -> Tensor:
        """By bisection, to the last bit; it has no gradient."""
        with torch.no_grad():
            low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
            for _ in range(64):
                middle = (low + high) / 2
                later = self.log_snr(middle) > log_snr
                low, high = torch.where(later, middle, low), torch.where(later, high, middle)
            return (low + high) / 2


def least_variance(interior: tuple[Tensor, ...], loss: Tensor) -> None:
    """Makes the interior of a learned schedule descend the variance of the loss instead of its mean.

    The mean of the bound over t does not depend on the interior, so the variance is lowered with the square,
    whose gradient 2 L dL is that of the loss times 2 L: the gradients that come back to `interior` are
    multiplied by L, example by example, in units of the batch's mean, so that they stay as large as they
    were (arXiv:2107.00630, appendix I.2).

    Args:
        interior: s(t) and ds / dt (B,), as `Learned.interior` gave them, from which the loss was computed.
        loss: The diffusion term L of each example (B,).
    """
    factor = loss.detach() / loss.detach().mean()

    def weigh(gradient: Tensor) -> Tensor:
        return gradient * factor

    for part in interior:
        part.register_hook(weigh)


class Shifted(Schedule):
    """log_snr(t) = inner(t) + by: another schedule with so much more or less noise at every time.

    The more numbers tell of the same thing, the more noise it takes to hide it: averaging k neighbours of a
    picture of higher resolution, or k frames that show the same, divides the variance of their noise by k.
    `by = -log k` makes up for it: 2 log(32 / d) takes a schedule from pictures of side 32 to those of side d.

    Args:
        inner: The schedule to shift; `Cosine()` by default.
        by: What is added to its log-SNR; negative is more noise.

    Raises:
        ValueError: If by is not finite; if the inner schedule is a chain, or is learned.

    References:
        simple diffusion (Hoogeboom et al., 2023), arXiv:2301.11093, section 3.1.
        Scaling Rectified Flow Transformers (Esser et al., 2024), arXiv:2403.03206, eq. 23 (straight paths).
    """

    def __init__(self, inner: Schedule | None = None, by: float = -2.0) -> None:
        inner = inner or Cosine()
        super().__init__(inner.scaling)
        if isinstance(inner, Discrete):
            raise ValueError("a chain is not shifted: make it of a shifted schedule, as in discrete(shifted)")
        if isinstance(inner, Learned):
            raise ValueError("a learned schedule is not shifted: it finds its own ends")
        self.inner, self.by = inner, by
        self.check()

    def log_snr(self, t: Tensor) -> Tensor:
        return self.inner.log_snr(t) + self.by

    def inverse(self, log_snr: Tensor) -> Tensor:
        return self.inner.inverse(log_snr - self.by)

    def chain(self, T: int) -> Tensor:
        return self.inner.chain(T) + self.by


class Discrete(Schedule):
    """The chain of T steps: T levels, a function of time only on its grid t = i / T, i = 1..T.

    A time between two grid points belongs to the upper one, so that t uniform in (0, 1] draws i uniformly.
    The table is `inner.chain(T)`: DDPM's and improved DDPM's own betas where they define them.

    Args:
        inner: The schedule to make a chain of; DDPM's `Linear()` by default.
        T: Number of steps.

    Raises:
        ValueError: If T < 1, or if the table is not strictly decreasing (the message names the place).
    """

    def __init__(self, inner: Schedule | None = None, T: int = 1000) -> None:
        inner = inner or Linear()
        super().__init__(inner.scaling)
        if T < 1 or T % 1:
            raise ValueError(f"T = {T}: a chain has a whole number of steps, at least 1")
        self.inner, self.T = inner, T
        self.table = inner.chain(T)  # not a buffer: it stays float64 whatever the module is cast to
        rises = (~(self.table.diff() < 0)).nonzero()
        if len(rises):
            i = int(rises[0]) + 1
            raise ValueError(
                f"the log-SNR of {type(inner).__name__} must fall strictly, but step {i + 1} has "
                f"{self.table[i]:g} after {self.table[i - 1]:g}"
            )

    @property
    def alpha_bar(self) -> Tensor:
        """The cumulative products alpha_bar_i (T,) of the variance preserving chain, float64."""
        return torch.sigmoid(self.table)

    @property
    def betas(self) -> Tensor:
        """The betas (T,), float64: beta_i = 1 - alpha_bar_i / alpha_bar_{i-1}, with alpha_bar_0 = 1."""
        return -torch.expm1(F.logsigmoid(self.table).diff(prepend=self.table.new_zeros(1)))

    def log_snr(self, t: Tensor) -> Tensor:
        # The tolerance lets i / T, rounded to float32, stay step i.
        steps = torch.ceil(t.double() * self.T - max(1e-3, self.T * 2**-23)).long().clamp(1, self.T)
        return self.table.to(t)[steps - 1]

    def inverse(self, log_snr: Tensor) -> Tensor:
        """The grid time whose log-SNR is nearest."""
        ascending = self.table.flip(0).to(log_snr)
        middles = (ascending[1:] + ascending[:-1]) / 2
        return (self.T - torch.bucketize(log_snr, middles)).to(log_snr) / self.T

    def slope(self, t: Tensor) -> Tensor:
        """A chain has no slope.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a discrete chain has no slope d log_snr / dt: use the schedule that it was made of")

    def grid(self, steps: int) -> Tensor:
        """Respaced times: steps from T to 1, equally spaced and rounded, with both ends, none twice."""
        if steps > self.T:
            raise ValueError(f"steps = {steps}: the chain has only T = {self.T}")
        return torch.linspace(self.T, 1, steps, dtype=torch.float64).round() / self.T


def _log_2_cosh(x: float) -> float:
    return abs(x) + math.log1p(math.exp(-2 * abs(x)))


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigmas must satisfy 0 < sigma_min < sigma_max, not {sigma_min}, {sigma_max}")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Linear,
    "linear_subvp": LinearSubVP,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "geometric": Geometric,
    "karras": Karras,
    "lognormal": LogNormal,
    "flow": Flow,
    "knots": Knots,
    "learned": Learned,
    "shifted": Shifted,
    "discrete": Discrete,
}
