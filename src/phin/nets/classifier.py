"""A small convolutional classifier: what reads digits, and in whose features pictures are compared."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from phin.errors import PhinError


@dataclass(frozen=True)
class ClassifierConfig:
    """The shape of a `Classifier`."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage, which begins by halving the sides. The last are the features."""
    blocks: tuple[int, ...] = (0, 2, 2)
    """Residual blocks of each stage."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: no running statistics, and quick channels-last."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """`x + conv(gelu(norm(x)))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.gelu(self.norm(x)))


class Classifier(nn.Module):
    """Convolutions that halve the sides, residual blocks, the mean over what is left, and a linear layer.

    The mean makes it indifferent to the size of the picture, and nearly so to the place of what it shows.
    """

    def __init__(self, config: ClassifierConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        if not config.channels or len(config.channels) != len(config.blocks):
            raise PhinError(
                f"{len(config.channels)} channels and {len(config.blocks)} blocks; each stage needs both"
            )
        layers: list[nn.Module] = []
        before = in_channels
        for channels, blocks in zip(config.channels, config.blocks, strict=True):
            kernel = 3 if layers else 5  # few channels come in first, so that a wide one is cheap
            layers += [ChannelNorm(before), nn.GELU()] if layers else []
            layers += [nn.Conv2d(before, channels, kernel, stride=2, padding=kernel // 2)]
            layers += [Block(channels) for _ in range(blocks)]
            before = channels
        self.body = nn.Sequential(*layers, ChannelNorm(before), nn.GELU())
        self.head = nn.Linear(before, classes)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def features(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """What the last layer decides on: (B, channels[-1])."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return self.head(self.features(x))
