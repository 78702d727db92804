"""Autoencoders small enough to be made in a moment, with random weights."""

import pytest
import torch
from torch import Tensor, nn

from phin.families.autoencoder import Autoencoder
from phin.families.hvae import ChainConfig, LadderConfig
from phin.families.likelihood import DiscretizedLogistic
from phin.families.vae import VAEConfig

SMALL = {
    "vae": VAEConfig(channels=(8, 12), blocks=1, latents=5),
    "chain": ChainConfig(channels=(8, 12), latents=(2, 3, 5)),
    "ladder": LadderConfig(channels=(8, 12), rungs=(2, 1), latents=(2, 3, 5)),
}
EACH = pytest.mark.parametrize("kind", SMALL)


def model_of(
    kind: str, shape: tuple[int, ...] = (1, 8, 12), classes: int = 4, drawn: bool = False
) -> Autoencoder:
    """Random weights everywhere, so that all depends on all."""
    net = SMALL[kind].build(shape, DiscretizedLogistic(2), classes, drawn)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def pictures(n: int, shape: tuple[int, ...] = (1, 8, 12)) -> Tensor:
    return torch.randint(0, 256, (n, *shape)) * (2 / 255) - 1
