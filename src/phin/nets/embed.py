"""Embeddings of what a network is told besides its input: the noise level, a class label, a text."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from phin.errors import PhinError


def waves(x: Float[Tensor, "*shape"], frequencies: Float[Tensor, "k"]) -> Float[Tensor, "*shape two_k"]:
    """sin(2 pi f x) and cos(2 pi f x) for every frequency f."""
    angle = 2 * math.pi * x[..., None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def modulate(
    x: Float[Tensor, "b *sides c"], modulation: Float[Tensor, "b *or_ones two_c"]
) -> Float[Tensor, "b *sides c"]:
    """(1 + scale) norm(x) + shift, the norm over channels: how a condition steers a block."""
    scale, shift = modulation.to(x.dtype).chunk(2, dim=-1)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def zero(layer: nn.Module) -> None:
    """Makes a layer start as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class LevelEmbedding(nn.Module):
    """An MLP of sinusoids of log-SNR: (B,) -> (B, width).

    The periods fall from 80 to 1.25, so that the slowest wave tells all of [-20, 20] apart and the fastest
    resolves the steps of a chain of a thousand. Always computed in float32.
    """

    frequencies: Tensor

    def __init__(self, width: int, features: int = 64) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies", torch.logspace(0, 6, features // 2, base=2) / 80, persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b width"]:
        with torch.autocast(log_snr.device.type, enabled=False):
            return self.mlp(waves(log_snr.to(self.frequencies.dtype), self.frequencies))


class OptionalEmbedding(nn.Embedding):
    """An embedding of 0 .. count - 1 whose first row stands for -1, "not given"."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count + 1, width)

    def forward(self, input: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        try:
            return super().forward(input + 1)
        except IndexError:
            raise PhinError(
                f"the network knows conditions of 0 to {self.num_embeddings - 2}, and -1 for not given; "
                f"here they are from {int(input.min())} to {int(input.max())}"
            ) from None


class Condition(nn.Module):
    """What modulates the blocks of a network: its noise level and, if it has classes, a label.

    Args:
        width: Size of the embedding.
        classes: Number of class labels; 0 for none.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.level = LevelEmbedding(width)
        self.label = OptionalEmbedding(classes, width) if classes else None

    def forward(
        self, log_snr: Float[Tensor, "b"], label: Int64[Tensor, "b"] | None
    ) -> Float[Tensor, "b width"]:
        """The sum of both embeddings; a label of -1, or none, is "not given".

        Raises:
            PhinError: A label is given to a network without classes.
        """
        level = self.level(log_snr)
        if self.label is not None:
            return level + self.label(
                torch.full_like(log_snr, -1, dtype=torch.long) if label is None else label
            )
        if label is not None:
            raise PhinError("this network takes no label: build it with classes, or leave label out")
        return level


class Reading(nn.Module):
    """Cross-attention of the columns of a picture to the L characters of its text: (B, L) -> (B, W, width).

    The text is written along the last axis, so queries and keys share a position measured in characters:
    column j of W lies at p = L (j + 1/2) / W, character i at i + 1/2. To the logit of head h is added
    -s_h (p - (i + 1/2))², with a learned slope s_h >= 0: a sharp head starts out reading the character
    beneath each column, a flat one the whole text. A column also knows its place within its cell (waves of p)
    and within the text (p / L), so that a run of equal characters can be told apart.

    The queries are functions of position alone: one row of W answers serves all rows of the picture.
    """

    harmonics: Tensor

    def __init__(self, vocabulary: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.character = OptionalEmbedding(vocabulary, width)
        self.register_buffer("harmonics", torch.arange(1.0, 4.0), persistent=False)
        places = 2 * len(self.harmonics) + 2
        self.place = nn.Linear(places, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        slopes = torch.logspace(4, 2, heads, base=2)
        slopes[-1] = 1e-2
        self.raw_slope = nn.Parameter(slopes.expm1().log())

    def bias(self, length: int, columns: int) -> Float[Tensor, "heads columns length"]:
        """-s_h (p_j - (i + 1/2))²."""
        like = self.raw_slope
        characters = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
        distance = self.position(length, columns)[:, None] - characters
        return -F.softplus(like)[:, None, None] * distance.square()

    def position(self, length: int, columns: int) -> Float[Tensor, "columns"]:
        """p_j = L (j + 1/2) / W: the middle of each column, in characters."""
        like = self.raw_slope
        return (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) * (length / columns)

    def forward(self, text: Int64[Tensor, "b length"], columns: int) -> Float[Tensor, "b columns width"]:
        batch, length = text.shape
        if not length:
            raise PhinError("a text has at least one character; give -1 for a text that is not given")
        p = self.position(length, columns)
        fraction = p / length
        place = self.place(
            torch.cat([waves(p, self.harmonics), fraction[:, None], (1 - fraction)[:, None]], -1)
        )
        q = self.query(F.silu(place)).view(columns, self.heads, -1)
        k, v = self.key_value(self.character(text)).view(batch, length, 2, self.heads, -1).unbind(2)
        logits = torch.einsum("whd,blhd->bhwl", q, k) / math.sqrt(q.shape[-1]) + self.bias(length, columns)
        read = torch.einsum("bhwl,blhd->bwhd", logits.softmax(-1).to(v.dtype), v)
        return self.out(read.flatten(2)) + place
