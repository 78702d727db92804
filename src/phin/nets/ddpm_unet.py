"""DDPM's own U-Net, to repeat its paper and to sample what others trained with it.

It is told the step t of its chain where all other networks of Phin are told the log-SNR, from which t follows
by the chain's table: any solver may call it at any level.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), arXiv:2006.11239, appendix B, and the code
        published with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from phin.diffusion.schedules import Discrete
from phin.errors import PhinError
from phin.nets.embed import zero


@dataclass(frozen=True)
class DDPMUNetConfig:
    """Size and shape of DDPM's U-Net; if nothing is changed, that of the paper for CIFAR-10."""

    channels: tuple[int, ...] = (128, 256, 256, 256)
    """Channels of each resolution; each is half of the one before."""
    blocks: int = 2
    """Residual blocks of each resolution on the way down; there is one more on the way up."""
    attention: tuple[bool, ...] = (False, True, False, False)
    """Which resolutions have self-attention, after each block; between the ways there always is one."""
    groups: int = 32
    """Groups of channels that are normed together."""
    dropout: float = 0.1
    """Share of features dropped inside the residual blocks."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 4:
            raise PhinError(
                f"channels = {self.channels}: each resolution needs at least 4, as in channels {(128, 256)}"
            )
        for name in ("blocks", "groups"):
            if (value := getattr(self, name)) < 1:
                raise PhinError(f"{name} = {value}: at least 1 is needed")
        if odd := [c for c in self.channels if c % self.groups or c % 2]:
            raise PhinError(
                f"channels {odd[0]} are not even, or not a multiple of groups {self.groups}; change either"
            )
        if len(self.attention) != len(self.channels):
            raise PhinError(
                f"attention has {len(self.attention)} entries for {len(self.channels)} resolutions; "
                "give as many"
            )
        if not 0 <= self.dropout < 1:
            raise PhinError(f"dropout is a share, from 0 to less than 1, not {self.dropout}")


class StepEmbedding(nn.Module):
    """An MLP of sinusoids of the step of a chain: log-SNR (B,) -> (B, width).

    The features are sin(f_k t) and cos(f_k t) with f_k = 10000^(-k / (n - 1)), k = 0 .. n - 1; t counts the
    chain's levels from 0, the least noise. Always computed in float32.

    Args:
        chain: The chain.
        features: 2 n.
        width: Size of the embedding.

    Raises:
        PhinError: A chain of one step, which has no time.
    """

    levels: Tensor
    frequencies: Tensor

    def __init__(self, chain: Discrete, features: int, width: int) -> None:
        super().__init__()
        if chain.T < 2:
            raise PhinError(f"a chain of {chain.T} step has no time to tell; take one of 2 or more")
        n = features // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(n) / (n - 1))
        self.register_buffer("levels", chain.table.float(), persistent=False)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def step(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The step t in [0, T - 1] of a log-SNR.

        It is a whole number, exactly, at the levels of the chain (rounded to float32, as they are given to a
        network), linear in the log-SNR between two of them, and that of the last level beyond the ends.
        """
        levels, log_snr = self.levels, log_snr.float().to(self.levels)
        before = torch.bucketize(-log_snr, -levels[1:-1])
        above, below = levels[before], levels[before + 1]
        return before + ((above - log_snr) / (above - below)).clamp(0, 1)

    def forward(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b width"]:
        with torch.autocast(log_snr.device.type, enabled=False):
            angle = self.step(log_snr)[:, None] * self.frequencies
            return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))


class Attention(nn.Module):
    """x + out(softmax(q k / sqrt(C)) v) over all pixels, with one head, of the normed x."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.query(h), self.key(h), self.value(h)
        read = (q * q.shape[-1] ** -0.5 @ k.transpose(1, 2)).softmax(-1) @ v
        return x + self.out(read).transpose(1, 2).view_as(x)


class Block(nn.Module):
    """shortcut(x) + second(silu(norm(first(silu(norm(x))) + time))), and attention where there is one."""

    def __init__(
        self, config: DDPMUNetConfig, inputs: int, outputs: int, width: int, attention: bool
    ) -> None:
        super().__init__()
        self.norm, self.first = _norm(inputs, config.groups), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(width, outputs)
        self.renorm, self.second = _norm(outputs, config.groups), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, config.groups) if attention else nn.Identity()
        self.dropout = config.dropout

    def forward(self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b k"]) -> Float[Tensor, "b d h w"]:
        h = self.first(F.silu(self.norm(x))) + self.time(time)[..., None, None]
        h = F.dropout(F.silu(self.renorm(h)), self.dropout, self.training)
        return self.attention(self.shortcut(x) + self.second(h))


class Falling(nn.ModuleList):
    """The blocks of a resolution on the way down: whatever one of them gives is kept."""

    def forward(self, x: Tensor, time: Tensor, kept: list[Tensor]) -> Tensor:
        for block in self:
            x = block(x, time)
            kept.append(x)
        return x


class Rising(nn.ModuleList):
    """The blocks of a resolution on the way up: each sees, beside x, the last of what is still kept."""

    def forward(self, x: Tensor, time: Tensor, kept: list[Tensor]) -> Tensor:
        for block in self:
            x = block(torch.cat([x, kept.pop()], dim=1), time)
        return x


class DDPMUNet(nn.Module):
    """DDPM's U-Net for pictures: F(z, log_snr), of the shape of z. It takes no condition.

    Args:
        config: Size and shape of the network.
        in_channels: Channels of z.
        out_channels: Channels of the output; those of z if not given.
        chain: The chain whose steps it is told; DDPM's by default.
    """

    def __init__(
        self,
        config: DDPMUNetConfig,
        in_channels: int,
        out_channels: int | None = None,
        chain: Discrete | None = None,
    ) -> None:
        super().__init__()
        channels = config.channels
        first, last, width = channels[0], channels[-1], 4 * channels[0]
        self.time = StepEmbedding(chain or Discrete(), first, width)
        self.stem = nn.Conv2d(in_channels, first, 3, padding=1)
        kept, before = [first], first
        self.falling, self.down = nn.ModuleList(), nn.ModuleList()
        for i, (outputs, attention) in enumerate(zip(channels, config.attention, strict=True)):
            if i:
                self.down.append(nn.Conv2d(before, before, 3, stride=2))
                kept.append(before)
            blocks = Falling()
            for _ in range(config.blocks):
                blocks.append(Block(config, before, outputs, width, attention))
                before = outputs
                kept.append(outputs)
            self.falling.append(blocks)
        self.middle = nn.ModuleList(
            Block(config, last, last, width, attention) for attention in (True, False)
        )
        self.rising, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (outputs, attention) in enumerate(zip(channels[::-1], config.attention[::-1], strict=True)):
            if i:
                self.up.append(nn.Conv2d(before, before, 3, padding=1))
            blocks = Rising()
            for _ in range(config.blocks + 1):
                blocks.append(Block(config, before + kept.pop(), outputs, width, attention))
                before = outputs
            self.rising.append(blocks)
        self.head = nn.Sequential(
            _norm(first, config.groups),
            nn.SiLU(),
            nn.Conv2d(first, out_channels or in_channels, 3, padding=1),
        )
        self.initialize()

    def initialize(self) -> None:
        """As the paper's code: Glorot's uniform weights, no biases, and the ends of all branches nothing."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for module in self.modules():
            if isinstance(module, Block):
                zero(module.second)
            elif isinstance(module, Attention):
                zero(module.out)
        zero(self.head[-1])

    def forward(self, z: Float[Tensor, "b c h w"], log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b d h w"]:
        """The network's raw output, in float32.

        Raises:
            PhinError: A side that the resolutions do not divide.
        """
        self.check(z.shape[2:])
        time = F.silu(self.time(log_snr))
        x = self.stem(z)
        kept = [x]
        for i, blocks in enumerate(self.falling):
            if i:
                x = self.down[i - 1](F.pad(x, (0, 1, 0, 1)))
                kept.append(x)
            x = blocks(x, time, kept)
        for block in self.middle:
            x = block(x, time)
        for i, blocks in enumerate(self.rising):
            if i:
                x = self.up[i - 1](F.interpolate(x, scale_factor=2.0))
            x = blocks(x, time, kept)
        with torch.autocast(z.device.type, enabled=False):
            return self.head(x.to(self.stem.weight.dtype))

    def check(self, sides: Sequence[int]) -> None:
        """Raises PhinError for what is no picture, or where the resolutions do not divide a side."""
        factor = 2 ** len(self.down)
        if len(sides) != 2:
            raise PhinError(f"DDPM's U-Net is for pictures, not for {len(sides)} dimensions: take Phin's")
        for side in sides:
            if side % factor:
                raise PhinError(
                    f"side {side} of {tuple(sides)} is not a multiple of {factor}, which is 2 for each of "
                    "net.channels but the first; pad or crop it, or change those"
                )


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)
