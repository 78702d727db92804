"""Exponential integrators: the linear part of the ODE is solved exactly, and x̂ is taken for a polynomial.

With lambda = log_snr / 2, on every path of the probability-flow ODE

    z_s = sigma_s / sigma_t z_t + alpha_s ∫ e^(lambda - lambda_s) x̂(lambda) d lambda.

Put a polynomial through some values of x̂, and the integral is a sum. All of DPM-Solver++ and UniPC is the
choice of these values: where they are taken, and which are used again. DEIS does the same with the noise.

References:
    DPM-Solver++ (Lu et al., 2022), arXiv:2211.01095, section 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoiser import Denoise
from ..level import Level
from ..noise import Noise

# torch leaves it untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
_solve: Callable[[Tensor, Tensor], Tensor] = torch.linalg.solve


class Node(NamedTuple):
    """A value of x̂ on the path, and where it was taken."""

    at: Tensor
    """lambda = log_snr / 2."""
    value: Tensor


def integral(nodes: Sequence[Node], a: Tensor, b: Tensor) -> Tensor:
    """∫_a^b e^(u - b) p(u) du, exactly, of the polynomial p through the nodes (of degree one less)."""
    h = b - a
    # I_k = ∫_0^h e^(u - h) (u / h)^k du, by parts. The I_k cancel for small h, which does no harm: I_k meets
    # the k-th coefficient of p, of order h^k, while its rounding error is of order h^-k.
    moments = [-torch.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k / h * moments[-1])
    places = torch.stack([(node.at - a) / h for node in nodes], -1)
    powers = torch.arange(len(nodes), device=h.device)
    vandermonde = places.unsqueeze(-2) ** powers.unsqueeze(-1)
    weights = _solve(vandermonde, torch.stack(moments, -1))
    total = weights[..., 0] * nodes[0].value
    for k in range(1, len(nodes)):
        total = total + weights[..., k] * nodes[k].value
    return total


def carry(z: Tensor, t: Level, s: Level, nodes: Sequence[Node]) -> Tensor:
    """z at level s if x̂ is the polynomial in lambda through the nodes. With one node it is a DDIM step."""
    return s.sigma / t.sigma * z + s.alpha * integral(nodes, t.log_snr / 2, s.log_snr / 2)


def between(t: Level, s: Level, share: float) -> Level:
    """The level at a share of the way from t to s, in log-SNR.

    A solver does not know the scaling, but any units will do for a state that is used only to ask the
    denoiser; these lie between the units of t and of s.
    """
    return Level(
        t.alpha ** (1 - share) * s.alpha**share,
        t.sigma ** (1 - share) * s.sigma**share,
        t.log_snr + share * (s.log_snr - t.log_snr),
    )


@dataclass(frozen=True)
class DPMpp2S:
    """DPM-Solver++(2S): x̂ from the middle of the step (in log-SNR) holds for all of it. Two evaluations.

    References:
        DPM-Solver++ (Lu et al., 2022), arXiv:2211.01095, algorithm 1, r = 1/2.
    """

    order = 2

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One midpoint step."""
        return self.after(denoise, z, t, s, Node(t.log_snr / 2, denoise(z, t).x)), None

    def after(self, denoise: Denoise, z: Tensor, t: Level, s: Level, here: Node) -> Tensor:
        """z at level s, the first evaluation made."""
        middle = between(t, s, 1 / 2)
        x = denoise(carry(z, t, middle, [here]), middle).x
        return carry(z, t, s, [Node(middle.log_snr / 2, x)])


@dataclass(frozen=True)
class DPMpp3S:
    """DPM-Solver++(3S): evaluations at 0, 1/3 and 2/3 of the step, a line through the first and the newest.

    References:
        DPM-Solver (Lu et al., 2022), arXiv:2206.00927, algorithm 2 (r_1 = 1/3, r_2 = 2/3), written for x̂.
    """

    order = 3

    def step(
        self, denoise: Denoise, z: Tensor, t: Level, s: Level, noise: Noise, memory: None
    ) -> tuple[Tensor, None]:
        """One step of three stages."""
        return self.after(denoise, z, t, s, Node(t.log_snr / 2, denoise(z, t).x)), None

    def after(self, denoise: Denoise, z: Tensor, t: Level, s: Level, here: Node) -> Tensor:
        """z at level s, the first evaluation made."""
        nodes = [here]
        for share in (1 / 3, 2 / 3):
            stage = between(t, s, share)
            x = denoise(carry(z, t, stage, nodes), stage).x
            nodes = [here, Node(stage.log_snr / 2, x)]
        return carry(z, t, s, nodes)
