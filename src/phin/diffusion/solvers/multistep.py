"""Multistep methods: one evaluation a step, and those of the steps before used again.

A method of order p needs a start whose error is of order p, too. Where the lower orders that the papers begin
with do not reach that, the first steps are made by a single-step method, at the price of a few more
evaluations; `starter=False` leaves that out, and `order` says what remains.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoiser import Denoise
from ..level import Level
from ..noise import Noise
from .exponential import DPMpp2S, DPMpp3S, Node, carry, integral


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M): an exponential integrator in lambda = log_snr / 2, x̂ extrapolated along a line.

        z_s = sigma_s / sigma_t z - alpha_s (e^-h - 1) D,    D = x̂ + (x̂ - x̂_previous) / (2 r),
        h = lambda_s - lambda_t,    r = h_previous / h.

    One evaluation a step; the first step is DDIM's.

    References:
        DPM-Solver++ (Lu et al., 2022), arXiv:2211.01095, algorithm 2.
    """

    order = 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: Node | None
    ) -> tuple[Tensor, Node]:
        """One multistep update."""
        x, now = denoise(z, t).x, t.log_snr / 2
        h = s.log_snr / 2 - now
        drive = x if memory is None else x + h / (2 * (now - memory.at)) * (x - memory.value)
        return s.sigma / t.sigma * z - s.alpha * torch.expm1(-h) * drive, Node(now, x)


_Past = tuple[Node, ...]
"""The nodes of the steps before, newest first."""


@dataclass(frozen=True)
class DPMpp3M:
    """DPM-Solver++(3M): the exact integral of the parabola through the last three x̂.

    The first step is DPM-Solver++(2S)'s (one more evaluation), the second goes along a line. (Code that is
    widely copied counts the parabola's bend half, which leaves order 2.)

    References:
        DPM-Solver++ (Lu et al., 2022), arXiv:2211.01095: the multistep solver for k = 3.
    """

    starter: bool = True
    """False: the first step is DDIM's, and the order 2."""

    @property
    def order(self) -> int:
        """3 with a good start."""
        return 3 if self.starter else 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: _Past | None
    ) -> tuple[Tensor, _Past]:
        """One multistep update."""
        nodes = (Node(t.log_snr / 2, denoise(z, t).x), *(memory or ()))[:3]
        if self.starter and memory is None:
            return DPMpp2S().after(denoise, z, t, s, nodes[0]), nodes
        return carry(z, t, s, nodes), nodes


@dataclass(frozen=True)
class DEIS:
    """DEIS: the exact integral of the cubic through the last four ε̂ (an exponential Adams-Bashforth method).

        z_s = alpha_s / alpha_t z + sigma_s ∫ e^(u - u_s) ε̂(u) du,    u = -lambda = log(sigma / alpha).

    That is the paper's AB-DEIS with its polynomial in log rho, rho = sigma / alpha, since a solver knows of
    no time. For small equal steps its weights are (55, -59, 37, -9) / 24, those of iPNDM. The first two steps
    are DPM-Solver++(3S)'s (four more evaluations in all), the third is of the same method with three values.

    References:
        Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023),
            arXiv:2204.13902, section 3.
    """

    starter: bool = True
    """False: begin with one value, then two and three, as the paper; the order is then 2."""

    @property
    def order(self) -> int:
        """4 with a good start."""
        return 4 if self.starter else 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: _Past | None
    ) -> tuple[Tensor, _Past]:
        """One multistep update."""
        x = denoise(z, t).x
        a, b = -t.log_snr / 2, -s.log_snr / 2
        nodes = (Node(a, (z - t.alpha * x) / t.sigma), *(memory or ()))[:4]
        if self.starter and len(nodes) < 3:
            return DPMpp3S().after(denoise, z, t, s, Node(-a, x)), nodes
        return s.alpha / t.alpha * z + s.sigma * integral(nodes, a, b), nodes


class _Unsettled(NamedTuple):
    """What UniPC remembers: the nodes that it predicted with, and whence, so that it can do so better."""

    z: Tensor | None
    """The corrected state at `level`; None if the step from it needs no correction."""
    level: Level
    nodes: _Past
    predicted: Tensor
    """Where the step led: what else was done to the state there, as by a corrector, is kept."""


@dataclass(frozen=True)
class UniPC:
    """UniPC-p: predict with the last p values of x̂; correct with the value there, at the next step's call.

    One evaluation a step. The corrector raises the order from p to p + 1; the state that a step hands on is
    the predicted one, and the next step, which calls the denoiser there anyway, begins by correcting it. The
    last state is not corrected, like in the paper. Two values need no exact integral: as there, its factor is
    B(h) / 2, with B_2 the predictor of p = 2 is DPM-Solver++(2M)'s; all else does not depend on B.

    Order 4 (p = 3) takes a first step of DPM-Solver++(3S)'s, with two more evaluations.

    References:
        UniPC: A Unified Predictor-Corrector Framework (Zhao et al., 2023), arXiv:2302.04867, algorithms 1-2.

    Raises:
        ValueError: If p is not 1, 2 or 3, or b not 1 or 2.
    """

    p: int = 2
    """Values of x̂ that the predictor goes by."""
    b: int = 2
    """1: B(h) = h, 2: B(h) = 1 - e^-h."""
    starter: bool = True
    """False: p = 3 begins as UniPC-1, as the paper, and its order is 3."""

    def __post_init__(self) -> None:
        if self.p not in (1, 2, 3):
            raise ValueError(f"p = {self.p} must be 1, 2 or 3")
        if self.b not in (1, 2):
            raise ValueError(f"b = {self.b} must be 1 or 2, for B(h) = h or 1 - exp(-h)")

    @property
    def order(self) -> int:
        """p + 1, with a good start."""
        return self.p + 1 if self.starter else min(self.p + 1, 3)

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: _Unsettled | None
    ) -> tuple[Tensor, _Unsettled]:
        """Evaluate, correct the last step, predict the next."""
        here = Node(t.log_snr / 2, denoise(z, t).x)
        if memory is None:
            if self.p == 3 and self.starter:
                start = DPMpp3S().after(denoise, z, t, s, here)
                return start, _Unsettled(None, t, (here,), start)
            nodes: _Past = (here,)
        else:
            if memory.z is not None:
                z = self._carry(memory.z, memory.level, t, (*memory.nodes, here)) + (z - memory.predicted)
            nodes = (here, *memory.nodes)[: self.p]
        predicted = self._carry(z, t, s, nodes)
        return predicted, _Unsettled(z, t, nodes, predicted)

    def _carry(self, z: Tensor, t: Level, s: Level, nodes: _Past) -> Tensor:
        """`carry`, but along a line by B(h) / 2. The first node is at t."""
        if len(nodes) != 2:
            return carry(z, t, s, nodes)
        (a, x), (there, other) = nodes
        h = s.log_snr / 2 - a
        held = -torch.expm1(-h)
        line = (h if self.b == 1 else held) / 2 * h / (there - a)
        return s.sigma / t.sigma * z + s.alpha * (held * x + line * (other - x))
