"""Hierarchical variational autoencoders: Markovian chains of latents, and ladders."""

from dataclasses import dataclass, replace

from phin.errors import PhinError
from phin.families.hvae import ChainConfig, LadderConfig
from phin.recipes.autoencoder import AutoencoderRecipe
from phin.recipes.base import Recipe
from phin.training.config import TrainConfig

_LONG = TrainConfig(minutes=60, batch=64, lr=2e-3)


@dataclass(frozen=True)
class HVAERecipe(AutoencoderRecipe):
    """A hierarchical variational autoencoder: a ladder, or a chain if its networks are."""

    net: ChainConfig | LadderConfig = LadderConfig()
    """The networks."""
    train: TrainConfig = TrainConfig(minutes=10, batch=64, lr=2e-3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.free and isinstance(self.net, ChainConfig):
            raise PhinError(
                f"free = {self.free} is of divergences, and a chain's terms are estimates of them: give 0, "
                "or take a ladder"
            )


_CHAIN = HVAERecipe(net=ChainConfig(), kl_warmup=0.1)
# A level that costs its full price before the decoder is sharp enough to have a use for it stays silent.
_LADDER = HVAERecipe(net=LadderConfig(), kl_warmup=0.5)

recipes: dict[str, Recipe] = {
    "mnist-hvae": _CHAIN,
    "mnist-hvae-ladder": _LADDER,
    "fashion-mnist-hvae": replace(_CHAIN, data="fashion-mnist"),
    "fashion-mnist-hvae-ladder": replace(_LADDER, data="fashion-mnist"),
    "cifar10-hvae": replace(
        _CHAIN, data="cifar10", net=ChainConfig(channels=(64, 128), latents=(12, 48, 64)), train=_LONG
    ),
    "cifar10-hvae-ladder": replace(
        _LADDER, data="cifar10", net=LadderConfig(channels=(64, 128), rungs=(2, 3)), train=_LONG
    ),
}
