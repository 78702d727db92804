"""Randomness by counters: every draw is a pure function of (seed, purpose, index).

An ordinary generator has a state that depends on all that was drawn before, so a resumed run, another batch
size or a second process changes every later draw. A counter-based generator (Philox) has none: image `k` of
a stream has its own numbers, whoever draws them, whenever.

References:
    Parallel random numbers: as easy as 1, 2, 3 (Salmon et al., 2011), SC11.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape, dtype and device of its argument, e.g. `torch.randn_like`."""


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The random generator of one item: the same arguments always give the same numbers.

    Args:
        seed: The run's seed.
        purpose: What is drawn, e.g. "noise" or "time"; different purposes are independent.
        index: The item's position in its stream (the image, or the step), from 0.
    """
    # A draw increments the lowest of the counter's four words, so streams 2^128 apart never meet.
    key = np.array(_key(seed, purpose), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, index, 0], dtype=np.uint64)))


def normal(seed: int, purpose: str, indices: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (B, *shape), float32.

    Row i is that of the item `indices[i]`, whatever else is in the batch.
    """
    rows = [stream(seed, purpose, i).standard_normal(shape, dtype=np.float32) for i in indices]
    return torch.as_tensor(np.stack(rows))


def uniform(seed: int, purpose: str, indices: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Noise uniform on [0, 1) (B, *shape), float32; rows as of `normal`."""
    rows = [stream(seed, purpose, i).random(shape, dtype=np.float32) for i in indices]
    return torch.as_tensor(np.stack(rows))


def seeded(seed: int, indices: Iterable[int], purpose: str = "sample") -> Noise:
    """Noise for sampling: each picture draws its own numbers, whatever the batch, its order and the device.

    The returned function goes on in each picture's stream from call to call: make a new one for every run
    of `sample`.

    Raises:
        ValueError: On a call with another number of pictures than `indices` has.
    """
    generators = [stream(seed, purpose, i) for i in indices]

    def noise(like: Tensor) -> Tensor:
        if len(like) != len(generators):
            raise ValueError(f"noise was seeded for {len(generators)} pictures and asked for {len(like)}")
        rows = [g.standard_normal(like.shape[1:], dtype=np.float32) for g in generators]
        return torch.as_tensor(np.stack(rows)).to(like)

    return noise
