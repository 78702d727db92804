"""Autoencoders for latent diffusion, and the latents that a trained one makes of a data set."""

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from torch import nn

from phin import data as datasets
from phin.data.base import Data, some
from phin.data.encoded import Encoded
from phin.errors import PhinError
from phin.families.autoencoder import Autoencoder
from phin.families.latent import KLAutoencoder, KLConfig, LatentFacts, Latents
from phin.recipes.autoencoder import AutoencoderRecipe
from phin.recipes.base import Facts, Recipe
from phin.training.config import TrainConfig

if TYPE_CHECKING:  # what only training needs is imported when a training starts
    from phin.training.loop import Task

FITTED = 4096  # training examples that shift and scale of the latents are taken from
MADE_OF = {"numbers": "mnist", "words": "mnist"}
"""Data sets whose pictures are made of another's, of which an autoencoder will do."""


@dataclass(frozen=True)
class KLAutoencoderRecipe(AutoencoderRecipe):
    """An autoencoder for latent diffusion: it is told no labels, and its latents cost next to nothing."""

    net: KLConfig = KLConfig()
    """The networks."""
    likelihood: str = "laplace(0.1)"
    """What the decoder says of a pixel: laplace(0.1) is the absolute error, gaussian(0.1) the squared one."""
    beta: float = 1e-2
    """What the latents' part of the bound costs: little, and so they are near zero and smooth."""
    drop: float = 1.0
    """1: the latents are to hold all that there is, labels included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure:
            raise PhinError(
                f"measure = {self.measure}: an autoencoder for latent diffusion is not made to draw; give 0"
            )
        if self.drop != 1:
            raise PhinError(
                f"drop = {self.drop}: an autoencoder for latent diffusion is told no labels; give 1"
            )

    def facts(self, data: Data) -> Facts:
        """What the model has to know of its data: no labels, no text."""
        return Facts.of(data).unconditional()

    def model(self, facts: Facts) -> Autoencoder:
        """The untrained model."""
        return super().model(facts.unconditional())

    def task(self, data: Data) -> "Task":
        """What the training loop trains: the untrained model, on the data."""
        from phin.training.compression import Compression

        model, train = self.model(self.facts(data)), self.train
        weighed = self.beta, self.kl_warmup, self.free, self.particles
        return Compression(model, data, *weighed, self.drop, train.batch, train.seed)


def encoded(data: Data, source: str) -> Encoded:
    """A data set in the latents of a trained autoencoder, whose shift and scale are taken from it.

    Args:
        data: The data.
        source: The run of the autoencoder, or its file.

    Raises:
        PhinError: There is none, it is a model of another kind, or it learned other data: of another kind, or
            of another name, unless these are made of them, or they are a folder, which no recipe names and
            somebody must have chosen.
    """
    from phin.recipes.trained import load  # which knows how all recipes' models are made

    try:
        model = load(source)
    except PhinError as error:
        raise PhinError(f"autoencoder: {error}; train one, as by `phin train mnist-autoencoder`") from None
    net, recipe = model.net, model.recipe
    if not isinstance(net, KLAutoencoder) or not isinstance(recipe, KLAutoencoderRecipe):
        raise PhinError(
            f"{model.path} is a {model.metadata['family']}, which has no latents for a diffusion model: give "
            "a run such as that of `phin train mnist-autoencoder`"
        )
    own = model.facts.shape
    if len(data.shape) != len(own) or data.shape[0] != own[0]:
        sizes = [" x ".join(map(str, shape)) for shape in (own, data.shape)]
        raise PhinError(
            f"{model.path} encodes {recipe.data}, of {sizes[0]}, and {data.name} has {sizes[1]}: train one "
            f"with --data {data.name}"
        )
    if recipe.data not in (data.name, MADE_OF.get(data.name)) and not recipe.data.startswith(datasets.FOLDER):
        raise PhinError(
            f"{model.path} encodes {recipe.data}, and {data.name} is other data: train one by `phin train "
            f"mnist-autoencoder --data {data.name} --out RUN`, and give it as --autoencoder RUN; or take a "
            f"recipe of {data.name}"
        )
    space = Latents(net, LatentFacts(recipe.net, recipe.likelihood, _sum(net)))
    space.shape(data.shape)  # which refuses sides that the resolutions do not divide
    space.fit(some(data, "train", FITTED).x)
    return Encoded(data, space)


def _sum(net: nn.Module) -> str:
    """The beginning of the SHA-256 sum of a network's weights."""
    digest = sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


recipes: dict[str, Recipe] = {
    "mnist-autoencoder": KLAutoencoderRecipe(data="mnist"),
    "fashion-mnist-autoencoder": KLAutoencoderRecipe(data="fashion-mnist"),
    "cifar10-autoencoder": KLAutoencoderRecipe(
        data="cifar10", net=KLConfig(channels=(64, 128)), train=TrainConfig(minutes=30)
    ),
}
