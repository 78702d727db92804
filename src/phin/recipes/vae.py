"""Variational autoencoders."""

from dataclasses import dataclass

from phin.families.vae import VAEConfig
from phin.recipes.autoencoder import AutoencoderRecipe
from phin.recipes.base import Recipe
from phin.training.config import TrainConfig


@dataclass(frozen=True)
class VAERecipe(AutoencoderRecipe):
    """A variational autoencoder."""

    net: VAEConfig = VAEConfig()
    """The networks."""
    train: TrainConfig = TrainConfig(minutes=10, batch=64, lr=2e-3)


recipes: dict[str, Recipe] = {
    "mnist-vae": VAERecipe(data="mnist"),
    "fashion-mnist-vae": VAERecipe(data="fashion-mnist"),
    "cifar10-vae": VAERecipe(
        data="cifar10",
        net=VAEConfig(channels=(64, 128), latents=128),
        train=TrainConfig(minutes=60, batch=64, lr=2e-3),
    ),
}
