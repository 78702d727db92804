"""Residual networks from pictures to features and back, of one, two or three dimensions.

They are made of the U-Net's parts and share its habits: the input is folded, channels lie last, norms are per
position, and all blocks are modulated by the label.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from phin.errors import PhinError
from phin.nets.embed import OptionalEmbedding, zero
from phin.nets.unet import Block, Convolution, fold, unfold


class LabelEmbedding(nn.Module):
    """A label's embedding (B, width); without classes, one that all share."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes, self.width = classes, width
        self.embedding = OptionalEmbedding(classes, width)

    def forward(self, label: Int64[Tensor, "b"] | None, count: int) -> Float[Tensor, "b width"]:
        """The embedding of each of `count` labels; -1, or None, is "not given"."""
        if label is None:
            label = torch.full((count,), -1, device=self.embedding.weight.device)
        return self.embedding(label)


class Stack(nn.Module):
    """Residual blocks at one resolution, modulated by a condition (B, width)."""

    def __init__(self, dims: int, channels: int, blocks: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.blocks = nn.ModuleList(Block(dims, channels, dropout) for _ in range(blocks))
        self.modulation = nn.Linear(width, 2 * channels * blocks)

    def forward(
        self, x: Float[Tensor, "b *sides c"], condition: Float[Tensor, "b width"]
    ) -> Float[Tensor, "b *sides c"]:
        m: Tensor = self.modulation(F.silu(condition))
        parts = m.view(len(m), *[1] * (x.ndim - 2), -1).split(2 * self.channels, dim=-1)
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part)
        return x


class Modulated(nn.Sequential):
    """Layers, of which the stacks are told the condition (B, width)."""

    def forward(self, x: Tensor, condition: Float[Tensor, "b width"]) -> Tensor:
        for layer in self:
            x = layer(x, condition) if isinstance(layer, Stack) else layer(x)
        return x


class Head(nn.Linear):
    """A linear layer of normed features, in the weights' own precision: what it says goes into exponentials.

    Args:
        inputs: Channels of the features.
        outputs: Channels of what is said.
        silent: Whether it begins as nothing.
    """

    def __init__(self, inputs: int, outputs: int, silent: bool = False) -> None:
        super().__init__(inputs, outputs)
        if silent:
            zero(self)

    def forward(self, input: Float[Tensor, "b *sides c"]) -> Float[Tensor, "b *sides d"]:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(F.layer_norm(input.to(self.weight.dtype), input.shape[-1:]))


class Down(nn.Linear):
    """Half the sides: 2 x 2 positions become one, with other channels."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__(inputs * 2**dims, outputs)

    def forward(self, input: Float[Tensor, "b *sides c"]) -> Float[Tensor, "b *fewer d"]:
        return super().forward(fold(input, 2))


class Up(nn.Linear):
    """Twice the sides: one position becomes 2 x 2, with other channels."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs * 2**dims)

    def forward(self, input: Float[Tensor, "b *sides c"]) -> Float[Tensor, "b *more d"]:
        return unfold(super().forward(input), 2)


class Stem(nn.Module):
    """Pictures (B, C, *sides) to features (B, *sides / patch, channels)."""

    def __init__(self, dims: int, patch: int, inputs: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.inner = Convolution(dims, inputs * patch**dims, channels)

    def forward(self, x: Float[Tensor, "b c *sides"]) -> Float[Tensor, "b *fewer d"]:
        return self.inner(fold(x.movedim(1, -1), self.patch))


class Crown(nn.Module):
    """Features (B, *sides / patch, channels) to pictures (B, C, *sides): the inverse of a `Stem`."""

    def __init__(self, dims: int, patch: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.patch = patch
        self.head = Head(channels, outputs * patch**dims)

    def forward(self, h: Float[Tensor, "b *fewer d"]) -> Float[Tensor, "b c *sides"]:
        return unfold(self.head(h), self.patch).movedim(-1, 1)


def pyramid(
    dims: int, patch: int, channels: tuple[int, ...], blocks: int, inputs: int, outputs: int
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Layers from pictures to the features of the lowest resolution, and others from there to pictures.

    Args:
        dims: Dimensions of a picture.
        patch: Side of the patches that are folded into channels before the first resolution.
        channels: Of each resolution.
        blocks: Residual blocks of each resolution, on either side.
        inputs: Channels of the pictures that are read.
        outputs: Of those that are made.
    """

    def stack(count: int) -> Stack:
        return Stack(dims, count, blocks, max(channels))

    falling: list[nn.Module] = [Stem(dims, patch, inputs, channels[0]), stack(channels[0])]
    rising: list[nn.Module] = [stack(channels[0]), Crown(dims, patch, channels[0], outputs)]
    for before, count in pairwise(channels):
        falling += [Down(dims, before, count), stack(count)]
        rising = [stack(count), Up(dims, count, before), *rising]
    return falling, rising


def resolutions(sides: Sequence[int], patch: int, count: int) -> list[tuple[int, ...]]:
    """Sides of the features at each of `count` resolutions: the first is folded, others are halves.

    Raises:
        PhinError: A side that they do not divide.
    """
    factor = patch * 2 ** (count - 1)
    for side in sides:
        if side % factor:
            raise PhinError(
                f"side {side} of {tuple(sides)} is not a multiple of {factor}, which is net.patch times "
                "2 for each of net.channels but the first; pad or crop it, or change those"
            )
    return [tuple(side // (patch * 2**i) for side in sides) for i in range(count)]
