"""What the recipes of all variational autoencoders have in common."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phin.data.base import Data
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder
from phin.families.hvae import ChainConfig, LadderConfig
from phin.families.latent import KLConfig
from phin.families.likelihood import LIKELIHOODS, Likelihood
from phin.families.vae import VAEConfig
from phin.recipes.base import Facts, Recipe
from phin.registry import build
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task


@dataclass(frozen=True)
class AutoencoderRecipe(Recipe):
    """A variational autoencoder."""

    data: str = "mnist"
    """Data set of pictures, such as mnist or folder:PATH; `phin data list` shows all."""
    net: VAEConfig | ChainConfig | LadderConfig | KLConfig = VAEConfig()
    """The networks."""
    likelihood: str = "discretized_logistic(5)"
    """What the decoder says of a pixel: discretized_logistic(5), a mixture of five over its 256 values,
    discretized_gaussian, bernoulli, gaussian(0.1), the squared error, laplace(0.1), the absolute one."""
    drawn: bool = False
    """Whether the pixels of a sample are drawn from that, or are its mean."""
    beta: float = 1.0
    """What the latents' part of the bound costs; 1 is the bound itself."""
    kl_warmup: float = 0.0
    """Share of the budget in which that cost rises from 0."""
    free: float = 0.0
    """Nats that each channel of the latents may tell of a picture at no cost (free bits)."""
    particles: int = 1
    """Draws of the latents whose weights are averaged: more than 1 is the importance-weighted bound."""
    drop: float = 0.1
    """Share of examples trained without their label; 1 makes a model of the data as a whole."""
    measure: int = 0
    """Pictures that each validation draws and measures; 0 is none."""
    features: str | None = None
    """What looks at those: digit-reader, fashion-reader, inception, a file of Inception's weights (.pth), or
    the run of a classifier; None is what the data set has."""
    train: TrainConfig = TrainConfig(minutes=10)

    def __post_init__(self) -> None:
        self._likelihood()
        for name in ("beta", "free"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise PhinError(f"{name} must not be negative or infinite, but is {value}")
        for name in ("kl_warmup", "drop"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise PhinError(f"{name} is a share, from 0 to 1, not {value}")
        if self.particles < 1:
            raise PhinError(f"particles = {self.particles}: at least 1 is needed")
        if self.particles > 1 and self.free:
            raise PhinError(
                f"free = {self.free} is of the bound of 1 particle, whose terms are divergences; with "
                f"{self.particles} give 0"
            )

    def _likelihood(self) -> Likelihood:
        return build(self.likelihood, LIKELIHOODS, "likelihood")

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        facts = Facts.of(data).unconditional() if self.drop == 1 else Facts.of(data)
        if data.vocabulary or facts.alphabet:
            raise PhinError(
                f"an autoencoder is told labels, and {self.data} has texts: take a diffusion model's recipe"
            )
        return facts

    def model(self, facts: Facts) -> Autoencoder:
        """The untrained model."""
        if len(facts.shape) == 1:
            raise PhinError(
                f"an autoencoder is of pictures, and {self.data} has vectors of {facts.shape[0]} numbers: "
                "take a diffusion model's recipe"
            )
        likelihood = self._likelihood()
        if likelihood.eight_bit and not facts.eight_bit:
            raise PhinError(
                f"likelihood {self.likelihood} is of 8-bit images, and {self.data} has none: take a density, "
                "such as gaussian(0.1)"
            )
        return self.net.build(facts.shape, likelihood, facts.classes, self.drawn)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.recipes.features import measuring
        from phin.training.autoencoding import Autoencoding

        return Autoencoding(
            self.model(self.facts(data)),
            data,
            self.beta,
            self.kl_warmup,
            self.free,
            self.particles,
            self.drop,
            self.train.batch,
            self.train.seed,
            measure=measuring(data, self.measure, told=self.drop < 1, source=self.features),
        )
