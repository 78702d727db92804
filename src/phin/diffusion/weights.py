"""Weights of the loss, by level.

A weight is a function of the log-SNR that multiplies the squared error *of the noise*, whatever the network
predicts:

    loss = w(log_snr) |eps - epŝ|² = w(log_snr) (alpha / sigma)² |x - x̂|².

So "what is predicted" and "how errors count" are chosen apart. A squared error of x is w = e^-log_snr, one
of v is 1 + e^-log_snr. Which levels are drawn is a third choice, the schedule's.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .schedules import Schedule

Weight = Callable[[Tensor], Tensor]
"""log_snr -> weight of the squared error of the noise, of the same shape."""


def simple(log_snr: Tensor) -> Tensor:
    """1: DDPM's L_simple (arXiv:2006.11239, eq. 14).

    As a weight of x's error it is the SNR, hence its second name, `snr`.
    """
    return torch.ones_like(log_snr)


def snr_plus_one(log_snr: Tensor) -> Tensor:
    """1 + e^-log_snr: SNR + 1 on x's error, the squared error of v (arXiv:2202.00512, section 4)."""
    return 1 + torch.exp(-log_snr)


def truncated_snr(log_snr: Tensor) -> Tensor:
    """max(1, e^-log_snr): max(SNR, 1) on x's error (arXiv:2202.00512, section 4)."""
    return torch.exp(-log_snr).clamp(min=1)


def min_snr(gamma: float = 5.0) -> Weight:
    """min(1, gamma e^-log_snr): min(SNR, gamma) on x's error (arXiv:2303.09556, section 3.4)."""
    if not gamma > 0:
        raise ValueError(f"gamma = {gamma} must be positive")
    return lambda log_snr: (gamma * torch.exp(-log_snr)).clamp(max=1)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """(k + SNR)^-gamma: perception prioritized (arXiv:2204.00227)."""
    if not (k > 0 and math.isfinite(gamma)):
        raise ValueError(f"p2 needs a finite gamma and k > 0, not {gamma}, {k}")
    return lambda log_snr: (k + torch.exp(log_snr)) ** -gamma


def sigmoid(bias: float = 2.0) -> Weight:
    """A sigmoid of bias - log_snr, for levels uniform in log-SNR (arXiv:2303.00848)."""
    if not math.isfinite(bias):
        raise ValueError(f"bias = {bias} must be finite")
    return lambda log_snr: torch.sigmoid(bias - log_snr)


def edm(sigma_data: float = 0.5) -> Weight:
    """1 + e^-log_snr / sigma_data²: the squared error of EDM's network output (arXiv:2206.00364, table 1)."""
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data = {sigma_data} must be positive and finite")
    return lambda log_snr: 1 + torch.exp(-log_snr) / sigma_data**2


def flow(log_snr: Tensor) -> Tensor:
    """(1 + e^(-log_snr / 2))²: the squared error of flow matching's velocity (arXiv:2210.02747, eq. 23)."""
    return (1 + torch.exp(-0.5 * log_snr)).square()


def likelihood(schedule: Schedule) -> Weight:
    """-d log_snr / dt, for t uniform on this schedule (arXiv:2107.00630, eq. 17).

    Half the expected squared error, summed over dimensions, is then the diffusion term of the bound in nats.

    It depends on the density that levels are drawn from: pass the schedule that draws them.

    Raises:
        ValueError: If the schedule has no slope, as a chain.
    """
    schedule.slope(torch.full((), 0.5))
    return lambda log_snr: -schedule.slope(schedule.inverse(log_snr))


WEIGHTS: dict[str, Callable[..., Weight]] = {
    "simple": lambda: simple,
    "snr": lambda: simple,
    "snr_plus_one": lambda: snr_plus_one,
    "truncated_snr": lambda: truncated_snr,
    "min_snr": min_snr,
    "p2": p2,
    "sigmoid": sigmoid,
    "edm": edm,
    "flow": lambda: flow,
    "likelihood": likelihood,
}
"""Name -> factory."""
