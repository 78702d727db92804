"""Generative adversarial networks."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phin.data.base import Data
from phin.errors import PhinError
from phin.families.gan import Discriminator, GANConfig, Generator, Players
from phin.recipes.base import Facts, Recipe
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task


# Without momentum, with which players circle; gradients as long as the clip are no more than a bad start's.
_TRAIN = TrainConfig(minutes=10, batch=64, lr=3e-3, muon=False, betas=(0.0, 0.99), clip=10.0)


@dataclass(frozen=True)
class GANRecipe(Recipe):
    """A generative adversarial network: what is kept of it is the generator."""

    data: str = "mnist"
    """Data set of pictures, such as mnist or folder:PATH; `phin data list` shows all."""
    net: GANConfig = GANConfig()
    """The networks."""
    labels: bool = True
    """Whether both players are told the labels, of data that have any."""
    penalty: float = 1.0
    """R1's gamma: how little the discriminator may slope at the data; 0 is none."""
    every: int = 4
    """Steps from one of R1 to the next, which saves time; it counts as much as if it were taken at each."""
    measure: int = 0
    """Pictures that each validation draws and measures; 0 is none."""
    features: str | None = None
    """What looks at those: digit-reader, fashion-reader, inception, a file of Inception's weights (.pth), or
    the run of a classifier; None is what the data set has."""
    train: TrainConfig = _TRAIN

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < float("inf"):
            raise PhinError(f"penalty must be finite and not negative, but is {self.penalty}")
        if self.every < 1:
            raise PhinError(f"every = {self.every}: R1 is taken at every step, 1, or at every so many")

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data."""
        return Facts.of(data) if self.labels else Facts.of(data).unconditional()

    def model(self, facts: Facts) -> Generator:
        """The untrained generator: what judges it is of no use afterwards."""
        return Generator(self.net, facts.shape, facts.classes)

    def task(self, data: Data) -> "Task":
        """What the training loop trains: both players, untrained, on the data."""
        from phin.recipes.features import measuring
        from phin.training.adversarial import Adversarial

        facts = self.facts(data)
        if data.vocabulary or facts.alphabet:
            raise PhinError(
                f"a GAN is told labels at most, and {self.data} has texts: take a diffusion model's recipe"
            )
        players = Players(self.model(facts), Discriminator(self.net, facts.shape, facts.classes))
        return Adversarial(
            players,
            data,
            self.penalty,
            self.every,
            self.train.batch,
            self.train.seed,
            measure=measuring(data, self.measure, told=self.labels, source=self.features),
        )


recipes: dict[str, Recipe] = {
    "mnist-gan": GANRecipe(data="mnist"),
    "fashion-mnist-gan": GANRecipe(data="fashion-mnist"),
    "cifar10-gan": GANRecipe(
        data="cifar10",
        net=GANConfig(channels=(64, 128, 256)),
        train=replace(_TRAIN, minutes=60),
    ),
    "stacked-mnist-gan": GANRecipe(data="stacked-mnist"),
}
