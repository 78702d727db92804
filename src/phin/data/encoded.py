"""A data set as an encoder sees it: whatever learns data learns latents, and need not know."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from phin.data.base import WHOLE, Batch, Data, Derived, Images, Which, from_integers
from phin.diffusion.noise import normal

log = logging.getLogger(__name__)

BATCH = 512  # examples that are encoded at once


class Encoder(Protocol):
    """What encodes examples."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of one example's latents, (C, *sides), for data of this shape."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of examples (B, C, *sides)."""
        ...


@dataclass(frozen=True, eq=False)
class Encoded(Derived):
    """A data set whose examples are latents: each time one is seen, they are drawn anew.

    The training images of a fixed set are encoded once, when the first is asked for, all of them in their own
    order, and are kept in memory; so a resumed run has the very same. What is made as needed is encoded as
    needed. All else is as of the data that are encoded.

    Args:
        pixels: The data.
        encoder: What encodes them.
    """

    encoder: Encoder

    @property
    def shape(self) -> tuple[int, ...]:
        """One example's latents (C, *sides); of `numbers`, those of one cell."""
        return self.encoder.shape(self.pixels.shape)

    @property
    def eight_bit(self) -> bool:
        """Latents are none."""
        return False

    def train(self, seed: int, step: int, size: int, rows: slice = WHOLE) -> Batch:
        """Latents of the examples that the data would give, each drawn by its place in the run."""
        if isinstance(self.pixels, Images):
            order = torch.from_numpy(self.pixels.order(seed, step, size, rows))
            mean, log_var = (part[order] for part in self._known)
            labels, total = self.pixels.splits["train"].labels, size
            cond = {} if labels is None else {"label": labels[order].long()}
        else:
            x, cond, total = self.pixels.train(seed, step, size, rows)
            mean, log_var = self.encoder.encode(x)
        places = [step * size + place for place in range(*rows.indices(total))]
        return Batch(_drawn(mean, log_var, normal(seed, "posterior", places, mean.shape[1:])), cond, total)

    def split(self, which: Which, n: int | None = None, seed: int = 0, rows: slice = WHOLE) -> Batch:
        """Latents of the examples that the data would give, always drawn in the same way."""
        x, cond, total = self.pixels.split(which, n, seed, rows)
        mean, log_var = self.encoder.encode(x)
        noise = normal(seed, f"posterior {which}", range(total)[rows], mean.shape[1:])
        return Batch(_drawn(mean, log_var, noise), cond, total)

    @cached_property
    def _known(self) -> tuple[Float[Tensor, "n c *sides"], Float[Tensor, "n c *sides"]]:
        """Mean and log-variance of the latents of all training images, in their own order."""
        assert isinstance(self.pixels, Images)
        train, levels = self.pixels.splits["train"], self.pixels.levels
        log.info("Encoding the %s training images of %s", f"{len(train):,}", self.name)
        parts: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for start in range(0, len(train), BATCH):  # those of a large folder are not in memory all at once
                part = train[start : start + BATCH].images
                parts.append(self.encoder.encode(from_integers(part, levels)))
        mean, log_var = (torch.cat([part.cpu() for part in column]) for column in zip(*parts, strict=True))
        return mean, log_var


def _drawn(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return mean.cpu() + torch.exp(0.5 * log_var.cpu()) * noise


def pixels(data: Data) -> Data:
    """What the examples of a data set show: the data that are encoded, if they are."""
    return data.pixels if isinstance(data, Encoded) else data
