"""How often a classifier of noisy pictures is right, by noise level."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from phin.diffusion.level import vp
from phin.diffusion.noise import normal
from phin.metrics.reading import Rate
from phin.nets.classifier import NoisyClassifier

LOG_SNRS = (8.0, 4.0, 2.0, 0.0, -2.0, -4.0)
"""Levels to look at: from hardly any noise to where a digit can just be guessed."""


@torch.no_grad()
def rates(
    net: NoisyClassifier,
    x: Float[Tensor, "n channels height width"],
    label: Int64[Tensor, "n"],
    log_snrs: tuple[float, ...] = LOG_SNRS,
    batch: int = 512,
) -> dict[float, Rate]:
    """How many pictures are read right at each log-SNR; picture i has the same noise at all of them."""
    device = net.modulation.weight.device
    right = dict.fromkeys(log_snrs, 0)
    for start in range(0, len(x), batch):
        clean, wanted = (part[start : start + batch].to(device) for part in (x, label))
        eps = normal(0, "classification", range(start, start + len(clean)), clean.shape[1:]).to(device)
        for log_snr in log_snrs:
            level = vp(torch.tensor(log_snr, dtype=torch.float64))
            found = net(level.alpha * clean + level.sigma * eps, level).argmax(1)
            right[log_snr] += int((found == wanted).sum())
    return {log_snr: Rate(count, len(x)) for log_snr, count in right.items()}
