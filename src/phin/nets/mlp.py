"""A residual perceptron, for points and other vectors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from phin.errors import PhinError
from phin.nets.embed import Condition, modulate, zero


@dataclass(frozen=True)
class MLPConfig:
    """Size of a residual perceptron."""

    width: int = 256
    """Features of each layer."""
    depth: int = 4
    """Residual blocks of two layers."""

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if (value := getattr(self, name)) < 1:
                raise PhinError(f"{name} = {value}: at least 1 is needed")


class MLP(nn.Module):
    """F(z, log_snr, label): `depth` times x + second(silu(first((1 + scale) norm(x) + shift))).

    Args:
        config: Size of the network.
        features: Length d of the vectors.
        classes: Number of class labels; 0 for none.
        outputs: Length of the output; d if not given.
    """

    def __init__(
        self, config: MLPConfig, features: int, classes: int = 0, outputs: int | None = None
    ) -> None:
        super().__init__()
        width = config.width
        self.condition = Condition(width, classes)
        self.modulation = nn.Linear(width, 2 * width * (config.depth + 1))
        self.stem = nn.Linear(features, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(config.depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(config.depth))
        self.head = nn.Linear(width, outputs or features)
        zero(self.second)
        zero(self.head)

    def forward(
        self, z: Float[Tensor, "b d"], log_snr: Float[Tensor, "b"], label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b outputs"]:
        """The network's raw output, in float32. A label of -1 is "not given", as is one left out.

        Raises:
            PhinError: A label is given to a network without classes.
        """
        modulation = self.modulation(F.silu(self.condition(log_snr, label)))
        *blocks, last = modulation.chunk(len(self.first) + 1, dim=-1)
        x = self.stem(z)
        for first, second, here in zip(self.first, self.second, blocks, strict=True):
            x = x + second(F.silu(first(modulate(x, here))))
        with torch.autocast(z.device.type, enabled=False):
            return self.head(modulate(x, last).to(self.head.weight.dtype))
