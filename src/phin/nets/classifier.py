"""Small convolutional classifiers: one reads pictures and measures them, one reads noisy ones and guides."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from phin.diffusion.level import Level
from phin.errors import PhinError
from phin.nets.embed import LevelEmbedding, zero


@dataclass(frozen=True)
class ClassifierConfig:
    """The shape of a `Classifier`."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage, which begins by halving the sides. The last are the features."""
    blocks: tuple[int, ...] = (0, 2, 2)
    """Residual blocks of each stage."""

    def __post_init__(self) -> None:
        if min(self.channels, default=1) < 1:
            raise PhinError(f"channels = {self.channels}: each stage needs at least 1")
        if min(self.blocks, default=0) < 0:
            raise PhinError(f"blocks = {self.blocks}: none may be negative")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: no running statistics, and quick channels-last."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """`x + conv(gelu(norm(x)))`, or `x + conv(gelu((1 + scale) norm(x) + shift))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        h = self.norm(x)
        if modulation is not None:
            scale, shift = modulation.to(h.dtype).chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        return x + self.conv(F.gelu(h))


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


class NoisyClassifier(nn.Module):
    """p(y | z) at every noise level: a `Classifier` whose blocks are told the level.

    It sees z / sqrt(alpha² + sigma²) and the log-SNR, whatever the scaling, as a denoiser's network does.

    Raises:
        PhinError: A configuration without blocks, which could not be told anything.
    """

    def __init__(self, config: ClassifierConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        self.plain = Classifier(config, in_channels, classes)
        self.widths = [2 * layer.conv.out_channels for layer in self.plain.body if isinstance(layer, Block)]
        if not self.widths:
            raise PhinError(
                f"blocks = {config.blocks}: it is blocks that are told the noise level; give some"
            )
        width = max(config.channels)
        self.level = LevelEmbedding(width)
        self.modulation = nn.Linear(width, sum(self.widths))
        zero(self.modulation)

    def forward(
        self, z: Float[Tensor, "batch channels height width"], level: Level
    ) -> Float[Tensor, "batch classes"]:
        """Logits of z at its level: one for all, or one a picture (B, 1, 1, 1)."""
        log_snr = level.log_snr.to(z).flatten().expand(len(z))
        told = self.modulation(F.silu(self.level(log_snr)))[..., None, None]
        modulations = iter(told.split(self.widths, dim=1))
        x = z / torch.hypot(level.alpha, level.sigma)
        for layer in self.plain.body:
            x = layer(x, next(modulations)) if isinstance(layer, Block) else layer(x)
        with torch.autocast(z.device.type, enabled=False):
            return self.plain.head(x.mean((2, 3)).to(self.plain.head.weight.dtype))

    def given(self, label: Int64[Tensor, "batch"]) -> Callable[[Tensor, Level], Tensor]:
        """(z, level) -> log p(label | z) in nats (B,), for `guidance.classifier`; 0 for -1, "not given"."""

        def log_prob(z: Tensor, level: Level) -> Tensor:
            each = self(z, level).log_softmax(1)
            return torch.where(label < 0, 0, each.gather(1, label.clamp(min=0)[:, None])[:, 0])

        return log_prob
