"""Images whose pixels are independent and of two values, and their exact denoiser."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from phin.data.base import Batch, from_integers
from phin.diffusion.denoiser import Denoiser
from phin.diffusion.parameterization import x as predicts_x

DARK, LIGHT, SHARE = 51, 204, 0.25  # two values, -0.6 and 0.6, and the light one's share
SIDES = (1, 2, 3)


class TwoValues(nn.Module):
    """E[x | z] of independent pixels that are -0.6 or 0.6: of a Bernoulli variable."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        log_snr = log_snr.view(-1, 1, 1, 1)
        u = z * (1 + torch.exp(-log_snr)).sqrt()  # x + noise of SNR: the network's input is of unit variance
        odds = math.log(SHARE / (1 - SHARE)) + 2 * 0.6 * u * torch.exp(log_snr)
        return 0.6 * torch.tanh(odds / 2)


EXACT = Denoiser(TwoValues(), predicts_x)


def bernoulli(n: int, seed: int = 0) -> Batch:
    """Images of integers."""
    light = np.random.default_rng(seed).random((n, *SIDES)) < SHARE
    return Batch(from_integers(torch.from_numpy(np.where(light, LIGHT, DARK).astype(np.uint8))), {}, n)
