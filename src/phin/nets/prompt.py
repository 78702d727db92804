"""Prompts in words: a character transformer, and how the columns of a picture read what it makes of them.

Nothing here knows what a word is. Characters attend to each other, columns attend to characters, and what a
prompt says of a column is learned from pictures.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from phin.errors import PhinError
from phin.nets.embed import OptionalEmbedding, waves, zero


@dataclass(frozen=True)
class PromptConfig:
    """Size and shape of the network that reads prompts."""

    width: int = 96
    """Features of a character."""
    layers: int = 3
    """Layers of the transformer."""
    heads: int = 4
    """Heads of every attention."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if (value := getattr(self, name)) < 1:
                raise PhinError(f"{name} = {value}: at least 1 is needed")
        if self.width % (2 * self.heads):
            raise PhinError(
                f"width {self.width} is not a multiple of twice the heads, {2 * self.heads}; change either"
            )


def rotated(x: Float[Tensor, "*rows length d"]) -> Float[Tensor, "*rows length d"]:
    """Rotary positions: pairs of features are turned by their place, at rates from 1 to 1 / 10,000.

    The product of a query and a key then depends on how far they are from each other, not on where they are.

    References: RoFormer (Su et al., 2021), arXiv:2104.09864, eq. 16 and 34.
    """
    length, half = x.shape[-2], x.shape[-1] // 2
    rates = torch.logspace(0, -4 * (half - 1) / half, half, device=x.device)
    angle = torch.arange(length, device=x.device)[:, None] * rates
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attend(
    q: Float[Tensor, "*rows n d"],
    k: Float[Tensor, "b heads length d"],
    v: Float[Tensor, "b heads length d"],
    blank: Bool[Tensor, "b length"],
) -> Float[Tensor, "b heads n d"]:
    """softmax(q k / sqrt(d)) v over the characters that are there."""
    logits = q / math.sqrt(q.shape[-1]) @ k.transpose(-1, -2)
    return logits.masked_fill(blank[:, None, None], -1e4).softmax(-1).to(v.dtype) @ v


class Layer(nn.Module):
    """x + attention(norm(x)), and then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wider, self.narrower = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        zero(self.out)
        zero(self.narrower)

    def forward(
        self, x: Float[Tensor, "b length d"], blank: Bool[Tensor, "b length"]
    ) -> Float[Tensor, "b length d"]:
        h = self.query_key_value(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = h.permute(2, 0, 3, 1, 4)
        x = x + self.out(attend(rotated(q), rotated(k), v, blank).transpose(1, 2).flatten(2))
        return x + self.narrower(F.gelu(self.wider(self.norms[1](x))))


class PromptReading(nn.Module):
    """A prompt of at most L characters, read by the columns of a picture: (B, L) -> (B, W, width).

    A character is told how many are before it, by waves of 4 to 128: attention between characters sees
    distances alone. Column j of W stands at (j + 1/2) / W; waves of that are its query, the same for every
    picture, and its answer is added to what they say of the place itself.

    Args:
        config: Size and shape of the transformer.
        characters: How many there are, from 1 on; 0 is after the end, -1 is not given.
        width: Of the answers.
    """

    frequencies: Tensor
    slow: Tensor

    def __init__(self, config: PromptConfig, characters: int, width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.character = OptionalEmbedding(1 + characters, config.width)
        self.register_buffer("slow", torch.exp2(-torch.arange(2.0, 8.0)), persistent=False)
        self.count = nn.Linear(2 * len(self.slow), config.width)
        self.layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("frequencies", torch.exp2(torch.arange(-1.0, 5.0)), persistent=False)
        self.place = nn.Linear(2 * len(self.frequencies), config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, width)
        self.told = nn.Linear(config.width, width)

    def encode(self, prompt: Int64[Tensor, "b length"]) -> tuple[Tensor, Tensor]:
        """Keys and values of a prompt's characters, (2, B, heads, L, d), and which are blank (B, L).

        Raises:
            PhinError: A prompt without a character.
        """
        if not prompt.shape[1]:
            raise PhinError("a prompt has at least one character; give -1 for a prompt that is not given")
        blank = prompt == 0
        count = torch.arange(prompt.shape[1], device=prompt.device, dtype=self.slow.dtype)
        x = self.character(prompt) + self.count(waves(count, self.slow))
        for layer in self.layers:
            x = layer(x, blank)
        return self.key_value(self.norm(x)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4), blank

    def forward(self, encoded: tuple[Tensor, Tensor], columns: int) -> Float[Tensor, "b columns width"]:
        """What each of the columns reads in prompts that `encode` has seen."""
        (k, v), blank = encoded
        like = self.frequencies
        centres = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) / columns
        place = F.silu(self.place(waves(centres, like)))
        q = self.query(place).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        return self.out(attend(q, k, v, blank).transpose(1, 2).flatten(2)) + self.told(place)
