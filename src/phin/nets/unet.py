"""An N-dimensional U-Net, built for a CPU first.

The whole network is residual, the detour over the lower resolutions included: x + up(lower(down(x))). All
that is not a convolution is kept cheap: the input is folded, so that the first resolution is a fraction of
the picture's; norms are per position, over channels; a block has one norm; the modulations of all blocks of
a resolution are one matrix product; and channels lie last throughout, so that no tensor is ever laid out anew
for a convolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from phin.errors import PhinError
from phin.nets.embed import Condition, Reading, modulate, waves, zero
from phin.nets.prompt import PromptConfig, PromptReading

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class UNetConfig:
    """Size and shape of a U-Net."""

    channels: tuple[int, ...] = (96, 192)
    """Channels of each resolution; each is half of the one before."""
    blocks: int = 2
    """Residual blocks of each resolution, down and again up; the lowest has one more in all."""
    patch: int = 2
    """Side of the patches that are folded into channels before the first resolution."""
    attention: tuple[bool, ...] = (False, True)
    """Which resolutions have self-attention."""
    heads: int = 4
    """Heads of every attention."""
    dropout: float = 0.0
    """Share of features dropped inside the residual blocks."""
    fourier: tuple[int, ...] = ()
    """Powers n whose waves sin(2^n pi z) and cos(2^n pi z) are further channels of the input (VDM)."""
    fade: bool = False
    """Fade the waves where noise has made them meaningless: the output stays smooth, as an ODE needs it."""
    values: int = 0
    """Predict the probabilities of so many values of a pixel, and from them x (`Posterior`); 0 does not."""
    prompt: PromptConfig = PromptConfig()
    """What reads prompts, of data that have any."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise PhinError(
                f"channels = {self.channels}: each resolution needs at least 1, as in channels {(96, 192)}"
            )
        for name in ("blocks", "patch", "heads"):
            if (value := getattr(self, name)) < 1:
                raise PhinError(f"{name} = {value}: at least 1 is needed")
        if not 0 <= self.dropout < 1:
            raise PhinError(f"dropout is a share, from 0 to less than 1, not {self.dropout}")
        if self.values < 0 or self.values == 1:
            raise PhinError(f"values = {self.values}: give 2 or more, such as 256, or 0 for none")


def fold(x: Float[Tensor, "b *sides c"], patch: int) -> Float[Tensor, "b *fewer d"]:
    """Patches become channels: (B, p H, p W, C) -> (B, H, W, p p C)."""
    dims = x.ndim - 2
    x = x.unflatten(-1, (1, -1))
    for axis in range(dims, 0, -1):
        x = x.unflatten(axis, (-1, patch)).movedim(axis + 1, dims + 1)
    return x.flatten(dims + 1)


def unfold(x: Float[Tensor, "b *sides d"], patch: int) -> Float[Tensor, "b *more c"]:
    """The inverse of `fold`."""
    dims = x.ndim - 2
    x = x.unflatten(-1, (*[patch] * dims, -1))
    for axis in range(1, 2 * dims, 2):
        x = x.movedim(dims + (axis + 1) // 2, axis + 1)
    for axis in range(1, dims + 1):
        x = x.flatten(axis, axis + 1)
    return x


class Convolution(nn.Module):
    """A 3 x 3 convolution, zero-padded, of tensors whose channels lie last."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = CONVOLUTIONS[dims](inputs, outputs, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "b *sides c"]) -> Float[Tensor, "b *sides d"]:
        # In bfloat16 on a CPU with AMX, torch 2.13 leaves the weights' gradient unset, in part, where the
        # first of three sides is 2 (oneDNN's kernel). A plane of zeros at both ends, and it is not.
        if x.ndim == 5 and x.shape[1] == 2:
            return self.inner(F.pad(x, (*[0] * 6, 1, 1)).movedim(-1, 1)).movedim(1, -1)[:, 1:-1]
        return self.inner(x.movedim(-1, 1)).movedim(1, -1)


class Block(nn.Module):
    """x + second(silu(first((1 + scale) norm(x) + shift))), scale and shift per picture or per column."""

    def __init__(self, dims: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.first = Convolution(dims, channels, channels)
        self.second = Convolution(dims, channels, channels)
        self.dropout = dropout
        zero(self.second)

    def forward(self, x: Float[Tensor, "b *sides c"], modulation: Tensor) -> Float[Tensor, "b *sides c"]:
        h = F.silu(self.first(modulate(x, modulation)))
        return x + self.second(F.dropout(h, self.dropout, self.training))


class SelfAttention(nn.Module):
    """x + out(softmax(q k / sqrt(d)) v), over all positions.

    Spelled out: on a CPU, at the lengths of small pictures, the fused kernel's backward pass is much slower.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        zero(self.out)

    def forward(self, x: Float[Tensor, "b *sides c"]) -> Float[Tensor, "b *sides c"]:
        h = self.query_key_value(self.norm(x).flatten(1, -2)).unflatten(-1, (3, self.heads, -1))
        q, k, v = h.permute(2, 0, 3, 1, 4)
        read = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(read.transpose(1, 2).flatten(2)).view_as(x)


class Stage(nn.Module):
    """Residual blocks at one resolution, with self-attention after the first."""

    def __init__(self, config: UNetConfig, dims: int, level: int, blocks: int) -> None:
        super().__init__()
        channels = config.channels[level]
        self.blocks = nn.ModuleList(Block(dims, channels, config.dropout) for _ in range(blocks))
        self.attention = SelfAttention(channels, config.heads) if config.attention[level] else None

    def forward(
        self, x: Float[Tensor, "b *sides c"], modulations: list[Tensor]
    ) -> Float[Tensor, "b *sides c"]:
        for i, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            x = block(x, modulation)
            if i == 0 and self.attention is not None:
                x = self.attention(x)
        return x


class UNet(nn.Module):
    """A U-Net for arrays of 1, 2 or 3 dimensions: F(z, log_snr, label, text, prompt, image), shaped like z.

    Every block is modulated by the noise level, the label, and a text of L characters. The text is written
    along the last axis: at each resolution every column of the picture reads it by cross-attention
    (`Reading`), and so has modulations of its own. A prompt says in characters what the picture shows, and
    not where: a transformer goes over it first, and columns read what that makes of them (`PromptReading`).
    An image, of z's sides, is seen beside z, as further channels of the input.

    Args:
        config: Size and shape of the network.
        in_channels: Channels of z.
        out_channels: Channels of the output; those of z if not given.
        dims: Number of dimensions: 1, 2 or 3.
        classes: Number of class labels; 0 for none.
        vocabulary: Number of characters; 0 for no text.
        characters: Number of those of a prompt; 0 for no prompt.
        image_channels: Channels of an image to go by; 0 for no image.

    Raises:
        PhinError: A configuration that makes no network.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int | None = None,
        dims: int = 2,
        classes: int = 0,
        vocabulary: int = 0,
        characters: int = 0,
        image_channels: int = 0,
    ) -> None:
        super().__init__()
        channels, blocks, width = config.channels, config.blocks, max(config.channels)
        if dims not in CONVOLUTIONS:
            raise PhinError(f"a U-Net has 1, 2 or 3 dimensions, not {dims}")
        if len(config.attention) != len(channels):
            raise PhinError(
                f"attention has {len(config.attention)} entries for {len(channels)} resolutions; give as many"
            )
        if odd := [c for c in {width, *channels} if c % config.heads]:
            raise PhinError(f"channels {odd[0]} are not a multiple of heads {config.heads}; change either")
        self.config, self.dims, self.lowest = config, dims, len(channels) - 1
        self.image_channels = image_channels

        self.condition = Condition(width, classes)
        self.reading = Reading(vocabulary, width, config.heads) if vocabulary else None
        self.prompt = PromptReading(config.prompt, characters, width) if characters else None
        modulated = [2 * blocks] * self.lowest + [blocks + 1]
        modulated[0] += 1  # the head
        self.modulation = nn.ModuleList(
            nn.Linear(width, 2 * c * n) for c, n in zip(channels, modulated, strict=True)
        )

        seen = in_channels * (1 + 2 * len(config.fourier)) + image_channels
        self.stem = Convolution(dims, seen * config.patch**dims, channels[0])
        self.falling = nn.ModuleList(Stage(config, dims, i, blocks) for i in range(self.lowest))
        self.down = nn.ModuleList(
            nn.Linear(channels[i] * 2**dims, channels[i + 1]) for i in range(self.lowest)
        )
        self.bottom = Stage(config, dims, self.lowest, blocks + 1)
        self.up = nn.ModuleList(nn.Linear(channels[i + 1], channels[i] * 2**dims) for i in range(self.lowest))
        self.rising = nn.ModuleList(Stage(config, dims, i, blocks) for i in range(self.lowest))
        self.head = nn.Linear(channels[0], (out_channels or in_channels) * config.patch**dims)
        zero(self.head)

    def forward(
        self,
        z: Float[Tensor, "b c *sides"],
        log_snr: Float[Tensor, "b"],
        label: Int64[Tensor, "b"] | None = None,
        text: Int64[Tensor, "b length"] | None = None,
        prompt: Int64[Tensor, "b length"] | None = None,
        image: Float[Tensor, "b e *sides"] | None = None,
    ) -> Float[Tensor, "b d *sides"]:
        """The network's raw output, in float32.

        A label, or a character, of -1 is "not given". A label left out is -1; a text or a prompt left out is
        one of them; an image left out is -1 throughout.

        Raises:
            PhinError: A side that the resolutions do not divide; a condition the network was built without.
        """
        self.check(z.shape[2:])
        modulations = self.modulations(self.condition(log_snr, label), text, prompt, z.shape[-1])
        last = modulations[0].pop()
        seen = self.beside(self.detailed(z.movedim(1, -1), log_snr), image)
        x = self.resolution(0, self.stem(fold(seen, self.config.patch)), modulations)
        with torch.autocast(z.device.type, enabled=False):
            h = self.head(modulate(x, last).to(self.head.weight.dtype))
        return unfold(h, self.config.patch).movedim(-1, 1)

    def check(self, sides: Sequence[int]) -> None:
        """Raises PhinError where the resolutions do not divide a side."""
        factor = self.config.patch * 2**self.lowest
        for side in sides:
            if side % factor:
                raise PhinError(
                    f"side {side} of {tuple(sides)} is not a multiple of {factor}, which is net.patch times "
                    "2 for each of net.channels but the first; pad or crop it, or change those"
                )

    def detailed(
        self, z: Float[Tensor, "b *sides c"], log_snr: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *sides d"]:
        """The input and its Fourier features, in which differences of a grey level are large.

        If they fade, each is multiplied by what noise like that of z leaves of its mean,
        e^(-(2^n pi std)² / 2) with std² = sigmoid(-log_snr), as in an input of unit variance.

        References: Variational Diffusion Models (Kingma et al., 2021), arXiv:2107.00630, appendix C.
        """
        if not self.config.fourier:
            return z
        frequencies = torch.exp2(torch.tensor(self.config.fourier, device=z.device) - 1.0)
        features = waves(z, frequencies)
        if self.config.fade:
            variance = torch.sigmoid(-log_snr).view(-1, *[1] * z.ndim)
            left = torch.exp(-2 * (math.pi * frequencies).square() * variance)
            features = features * torch.cat([left, left], dim=-1)
        return torch.cat([z, features.flatten(-2)], dim=-1)

    def beside(
        self, z: Float[Tensor, "b *sides c"], image: Float[Tensor, "b e *sides"] | None
    ) -> Float[Tensor, "b *sides d"]:
        """The input, and in further channels the image to go by, if the network takes one."""
        if image is None:
            if not self.image_channels:
                return z
            image = z.new_full((len(z), self.image_channels, *z.shape[1:-1]), -1)
        if image.shape[1] != self.image_channels:
            raise PhinError(
                f"this network takes an image of {self.image_channels or 'no'} channels, not of "
                f"{image.shape[1]}: build it with as many, or leave image out"
            )
        return torch.cat([z, image.to(z).movedim(1, -1)], -1)

    def modulations(
        self, condition: Tensor, text: Tensor | None, prompt: Tensor | None, side: int
    ) -> list[list[Tensor]]:
        """Scale and shift (B, 1, .., 1 or W, 2 C) by resolution and block; the first end with the head's."""
        if text is None:
            text = condition.new_full((len(condition), 1), -1, dtype=torch.long)
        elif self.reading is None:
            raise PhinError("this network takes no text: build it with a vocabulary, or leave text out")
        if prompt is None:
            prompt = condition.new_full((len(condition), 1), -1, dtype=torch.long)
        elif self.prompt is None:
            raise PhinError("this network takes no prompt: build it with characters, or leave prompt out")
        said = self.prompt.encode(prompt) if self.prompt is not None else None
        modulations: list[list[Tensor]] = []
        for i, (linear, channels) in enumerate(zip(self.modulation, self.config.channels, strict=True)):
            told = condition[:, None]
            if self.reading is not None:
                told = told + self.reading(text, side // (self.config.patch * 2**i))
            if self.prompt is not None and said is not None:
                told = told + self.prompt(said, side // (self.config.patch * 2**i))
            m: Tensor = linear(F.silu(told))
            m = m.view(len(m), *[1] * (self.dims - 1), m.shape[1], m.shape[2])
            modulations.append(list(m.split(2 * channels, dim=-1)))
        return modulations

    def resolution(self, i: int, x: Tensor, modulations: list[list[Tensor]]) -> Tensor:
        """The stages of resolution i, with all lower ones between them."""
        if i == self.lowest:
            return self.bottom(x, modulations[i])
        blocks = self.config.blocks
        x = self.falling[i](x, modulations[i][:blocks])
        lower = self.resolution(i + 1, self.down[i](fold(x, 2)), modulations)
        return self.rising[i](x + unfold(self.up[i](lower), 2), modulations[i][blocks:])
